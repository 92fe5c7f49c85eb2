//! Reading statistics.

use std::collections::BTreeMap;

use crate::cgroup::Dir;
use crate::{Cgroup, CpuStats, HugetlbStats, IoEntry, MemoryStats, PidsStats, Stats};

/// Version 1 prints "unlimited" as the largest multiple of the page size.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

pub(crate) fn stats(cgroup: &Cgroup) -> Stats {
    let v2 = cgroup.v2();
    Stats {
        cpu: match cgroup.v1("cpu") {
            Some(dir) => cpu_v1(dir, cgroup.v1("cpuacct")),
            None => v2.map(cpu_v2).unwrap_or_default(),
        },
        memory: match cgroup.v1("memory") {
            Some(dir) => memory_v1(dir),
            None => v2.map(memory_v2).unwrap_or_default(),
        },
        pids: cgroup
            .v1("pids")
            .or(v2)
            .map(|d| PidsStats {
                current: number(d, "pids.current"),
                limit: limit(d, "pids.max"),
            })
            .unwrap_or_default(),
        io: match cgroup.v1("blkio") {
            Some(dir) => io_v1(dir),
            None => v2.map(io_v2).unwrap_or_default(),
        },
        hugetlb: cgroup.v1("hugetlb").or(v2).map(hugetlb).unwrap_or_default(),
    }
}

fn number(dir: &Dir, file: &str) -> u64 {
    dir.read(file)
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

/// A limit; `None` for `max`, a negative one or the number version 1 uses for "unlimited".
fn limit(dir: &Dir, file: &str) -> Option<u64> {
    dir.read(file)
        .and_then(|t| t.trim().parse().ok())
        .filter(|n| *n < UNLIMITED)
}

/// The lines `key value` of a file.
fn table(dir: &Dir, file: &str) -> BTreeMap<String, u64> {
    dir.read(file)
        .unwrap_or_default()
        .lines()
        .filter_map(|l| {
            let (key, value) = l.split_once(' ')?;
            Some((key.to_string(), value.trim().parse().ok()?))
        })
        .collect()
}

fn cpu_v1(dir: &Dir, acct: Option<&Dir>) -> CpuStats {
    let stat = table(dir, "cpu.stat");
    let get = |k: &str| stat.get(k).copied().unwrap_or(0);
    let mut cpu = CpuStats {
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_ns: get("throttled_time"),
        quota_us: limit(dir, "cpu.cfs_quota_us"),
        period_us: limit(dir, "cpu.cfs_period_us"),
        shares: limit(dir, "cpu.shares"),
        ..CpuStats::default()
    };
    if let Some(acct) = acct {
        cpu.usage_ns = number(acct, "cpuacct.usage");
        cpu.user_ns = number(acct, "cpuacct.usage_user");
        cpu.system_ns = number(acct, "cpuacct.usage_sys");
        cpu.per_cpu_ns = acct
            .read("cpuacct.usage_percpu")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
    }
    cpu
}

fn cpu_v2(dir: &Dir) -> CpuStats {
    let stat = table(dir, "cpu.stat");
    let us = |k: &str| stat.get(k).copied().unwrap_or(0);
    let max = dir.read("cpu.max").unwrap_or_default();
    let mut max = max.split_whitespace();
    CpuStats {
        usage_ns: us("usage_usec") * 1000,
        user_ns: us("user_usec") * 1000,
        system_ns: us("system_usec") * 1000,
        per_cpu_ns: Vec::new(),
        periods: us("nr_periods"),
        throttled_periods: us("nr_throttled"),
        throttled_ns: us("throttled_usec") * 1000,
        quota_us: max.next().and_then(|q| q.parse().ok()),
        period_us: max.next().and_then(|p| p.parse().ok()),
        shares: limit(dir, "cpu.weight").map(|w| 2 + (w.saturating_sub(1) * 262_142) / 9999),
    }
}

fn memory_v1(dir: &Dir) -> MemoryStats {
    let stat = table(dir, "memory.stat");
    let get = |k: &str| stat.get(k).copied().unwrap_or(0);
    let oom = table(dir, "memory.oom_control");
    let usage = number(dir, "memory.usage_in_bytes");
    let failcnt = number(dir, "memory.failcnt");
    let oom_kill = oom.get("oom_kill").copied().unwrap_or(0);
    MemoryStats {
        usage,
        max_usage: number(dir, "memory.max_usage_in_bytes"),
        limit: limit(dir, "memory.limit_in_bytes"),
        swap_usage: number(dir, "memory.memsw.usage_in_bytes"),
        swap_limit: limit(dir, "memory.memsw.limit_in_bytes"),
        working_set: usage.saturating_sub(get("total_inactive_file")),
        rss: get("total_rss"),
        cache: get("total_cache"),
        kernel: number(dir, "memory.kmem.usage_in_bytes"),
        page_faults: get("total_pgfault"),
        major_page_faults: get("total_pgmajfault"),
        failcnt,
        // Version 1 counts kills, not occasions.
        oom: oom_kill,
        oom_kill,
        stat,
    }
}

fn memory_v2(dir: &Dir) -> MemoryStats {
    let stat = table(dir, "memory.stat");
    let get = |k: &str| stat.get(k).copied().unwrap_or(0);
    let events = table(dir, "memory.events");
    let event = |k: &str| events.get(k).copied().unwrap_or(0);
    let usage = number(dir, "memory.current");
    MemoryStats {
        usage,
        max_usage: number(dir, "memory.peak"),
        limit: limit(dir, "memory.max"),
        swap_usage: number(dir, "memory.swap.current"),
        swap_limit: limit(dir, "memory.swap.max"),
        working_set: usage.saturating_sub(get("inactive_file")),
        rss: get("anon"),
        cache: get("file"),
        kernel: get("kernel"),
        page_faults: get("pgfault"),
        major_page_faults: get("pgmajfault"),
        failcnt: event("max"),
        oom: event("oom"),
        oom_kill: event("oom_kill"),
        stat,
    }
}

fn entry<'a>(into: &'a mut Vec<IoEntry>, device: &str) -> Option<&'a mut IoEntry> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let at = into
        .iter()
        .position(|e| e.major == major && e.minor == minor)
        .unwrap_or_else(|| {
            into.push(IoEntry {
                major,
                minor,
                ..IoEntry::default()
            });
            into.len() - 1
        });
    into.get_mut(at)
}

fn io_v1(dir: &Dir) -> Vec<IoEntry> {
    let mut all = Vec::new();
    let files = [
        ("blkio.throttle.io_service_bytes_recursive", true),
        ("blkio.throttle.io_serviced_recursive", false),
    ];
    for (file, bytes) in files {
        for line in dir.read(file).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let (Some(device), Some(op), Some(Ok(n))) =
                (words.next(), words.next(), words.next().map(str::parse))
            else {
                continue;
            };
            if let Some(e) = entry(&mut all, device) {
                match (op, bytes) {
                    ("Read", true) => e.read_bytes = n,
                    ("Write", true) => e.write_bytes = n,
                    ("Read", false) => e.reads = n,
                    ("Write", false) => e.writes = n,
                    _ => {}
                }
            }
        }
    }
    all
}

fn io_v2(dir: &Dir) -> Vec<IoEntry> {
    let mut all = Vec::new();
    for line in dir.read("io.stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let Some(e) = words.next().and_then(|d| entry(&mut all, d)) else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let n = value.parse().unwrap_or(0);
            match key {
                "rbytes" => e.read_bytes = n,
                "wbytes" => e.write_bytes = n,
                "rios" => e.reads = n,
                "wios" => e.writes = n,
                _ => {}
            }
        }
    }
    all
}

fn hugetlb(dir: &Dir) -> BTreeMap<String, HugetlbStats> {
    let Ok(entries) = std::fs::read_dir(&dir.path) else {
        return BTreeMap::new();
    };
    let usage_file = if dir.is_v2() {
        ".current"
    } else {
        ".usage_in_bytes"
    };
    entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let size = name
                .strip_prefix("hugetlb.")?
                .strip_suffix(usage_file)?
                .to_string();
            if size.contains('.') {
                return None;
            }
            let v1 = |f: &str| number(dir, &format!("hugetlb.{size}.{f}"));
            let stats = HugetlbStats {
                usage: number(dir, &name),
                max_usage: v1("max_usage_in_bytes"),
                failcnt: if dir.is_v2() {
                    table(dir, &format!("hugetlb.{size}.events"))
                        .get("max")
                        .copied()
                        .unwrap_or(0)
                } else {
                    v1("failcnt")
                },
            };
            Some((size, stats))
        })
        .collect()
}
