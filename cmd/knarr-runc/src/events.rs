//! events: statistics and OOM notices as JSON lines.

use std::time::{Duration, Instant};

use knarr_cgroups::{Cgroup, Mode};
use knarr_oci::{Stats, Status};
use serde_json::{Value, json};

use crate::args::Problem;
use crate::help::print;
use crate::{Call, Done};

/// `events`.
pub fn events(call: &Call) -> Done {
    let id = call.id()?;
    let state = call.runtime.state(id)?;
    if state.status == Status::Stopped {
        return Err(Problem::new(format!(
            "container with id {id} is not running"
        )));
    }
    let cgroup = call.runtime.cgroup(id)?;
    if call.parsed.has("stats") {
        let now = stats(&call.runtime.stats(id)?, &cgroup);
        print(&line("stats", id, Some(now)));
        return Ok(0);
    }
    let interval = interval(call.parsed.value("interval").unwrap_or("5s"))?;
    let pidfd = knarr_sys::process::pidfd_open(state.pid)?;
    let mut seen = call.runtime.stats(id)?.memory.oom_kill;
    let mut next = Instant::now();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let wait = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let ended = knarr_sys::fs::poll_readable(std::os::fd::AsFd::as_fd(&pidfd), wait)?;
        let Ok(now) = call.runtime.stats(id) else {
            return Ok(0);
        };
        while seen < now.memory.oom_kill {
            seen += 1;
            print(&line("oom", id, None));
        }
        if ended {
            return Ok(0);
        }
        print(&line("stats", id, Some(stats(&now, &cgroup))));
        next = Instant::now() + interval;
    }
}

fn line(kind: &str, id: &str, data: Option<Value>) -> String {
    let mut value = json!({"type": kind, "id": id});
    if let (Some(data), Some(map)) = (data, value.as_object_mut()) {
        map.insert("data".into(), data);
    }
    format!("{value}\n")
}

/// `5s`, `500ms`, `1m`.
fn interval(text: &str) -> Result<Duration, Problem> {
    let bad = || Problem::new(format!("invalid duration {text:?}"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| bad())?;
    let factor = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let seconds = number * factor;
    if !(seconds > 0.0 && seconds < 1e9) {
        return Err(Problem::new("duration interval must be greater than 0"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A file of one controller's folder.
fn file(cgroup: &Cgroup, controller: &str, name: &str) -> Option<String> {
    let folder = cgroup.path_of(controller)?;
    std::fs::read_to_string(folder.join(name)).ok()
}

/// `0-2,7` as a list of numbers.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().ok()?;
        Some(first..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

fn cpuset(cgroup: &Cgroup) -> Value {
    let mut out = serde_json::Map::new();
    if cgroup.mode() == Mode::V2 {
        return Value::Object(out);
    }
    for (key, name) in [("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")] {
        if let Some(list) = file(cgroup, "cpuset", name) {
            out.insert(key.into(), json!(numbers(&list)));
        }
    }
    for key in [
        "cpu_exclusive",
        "mem_exclusive",
        "mem_hardwall",
        "memory_migrate",
        "memory_pressure",
        "memory_spread_page",
        "memory_spread_slab",
        "sched_load_balance",
        "sched_relax_domain_level",
    ] {
        let value = file(cgroup, "cpuset", &format!("cpuset.{key}"));
        if let Some(n) = value.and_then(|t| t.trim().parse::<i64>().ok()) {
            out.insert(key.into(), json!(n));
        }
    }
    Value::Object(out)
}

/// User and kernel nanoseconds by CPU, where version 1 tells them.
fn per_cpu(cgroup: &Cgroup) -> (Vec<u64>, Vec<u64>) {
    let table = file(cgroup, "cpuacct", "cpuacct.usage_all").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1).map(str::parse::<u64>);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        })
        .unzip()
}

/// What processes waited for, on version 2: lines such as `some avg10=0.00 … total=5`.
fn pressure(cgroup: &Cgroup, controller: &str) -> Option<Value> {
    if cgroup.mode() != Mode::V2 {
        return None;
    }
    let text = file(cgroup, controller, &format!("{controller}.pressure"))?;
    let line = |line: &str| {
        let (kind, values) = line.split_once(' ')?;
        let values = values.split(' ').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = match key {
                "total" => json!(value.parse::<u64>().ok()?),
                _ => json!(value.parse::<f64>().ok()?),
            };
            Some((key.to_string(), value))
        });
        let values: serde_json::Map<_, _> = values.collect();
        Some((kind.to_string(), Value::Object(values)))
    };
    let all: serde_json::Map<_, _> = text.lines().filter_map(line).collect();
    (!all.is_empty()).then_some(Value::Object(all))
}

/// In runc's field names.
fn stats(s: &Stats, cgroup: &Cgroup) -> Value {
    let io = |read: fn(&knarr_cgroups::IoEntry) -> u64,
              write: fn(&knarr_cgroups::IoEntry) -> u64| {
        s.io.iter()
            .flat_map(|e| {
                [
                    json!({"major": e.major, "minor": e.minor, "op": "Read", "value": read(e)}),
                    json!({"major": e.major, "minor": e.minor, "op": "Write", "value": write(e)}),
                ]
            })
            .collect::<Vec<_>>()
    };
    // As each version writes it.
    let unlimited = match cgroup.mode() {
        Mode::V2 => u64::MAX,
        _ => 0x7fff_ffff_ffff_f000,
    };
    let (user, kernel) = per_cpu(cgroup);
    let more = |name: &str| {
        let text = file(cgroup, "memory", name);
        text.and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let mut value = json!({
        "cpu": {
            "usage": {
                "total": s.cpu.usage_ns,
                "percpu": s.cpu.per_cpu_ns,
                "percpu_kernel": kernel,
                "percpu_user": user,
                "kernel": s.cpu.system_ns,
                "user": s.cpu.user_ns,
            },
            "throttling": {
                "periods": s.cpu.periods,
                "throttledPeriods": s.cpu.throttled_periods,
                "throttledTime": s.cpu.throttled_ns,
            },
        },
        "cpuset": cpuset(cgroup),
        "memory": {
            "cache": s.memory.cache,
            "usage": {
                "limit": s.memory.limit.unwrap_or(unlimited),
                "usage": s.memory.usage,
                "max": s.memory.max_usage,
                "failcnt": s.memory.failcnt,
            },
            "swap": {
                "limit": s.memory.swap_limit.unwrap_or(unlimited),
                "usage": s.memory.swap_usage,
                "max": more("memory.memsw.max_usage_in_bytes"),
                "failcnt": more("memory.memsw.failcnt"),
            },
            "kernel": {
                "limit": unlimited,
                "usage": s.memory.kernel,
                "max": more("memory.kmem.max_usage_in_bytes"),
                "failcnt": more("memory.kmem.failcnt"),
            },
            "kernelTCP": {
                "limit": unlimited,
                "usage": more("memory.kmem.tcp.usage_in_bytes"),
                "max": more("memory.kmem.tcp.max_usage_in_bytes"),
                "failcnt": more("memory.kmem.tcp.failcnt"),
            },
            "raw": s.memory.stat,
        },
        "pids": {"current": s.pids.current, "limit": s.pids.limit.unwrap_or(0)},
        "blkio": if s.io.is_empty() {
            json!({})
        } else {
            json!({
                "ioServiceBytesRecursive": io(|e| e.read_bytes, |e| e.write_bytes),
                "ioServicedRecursive": io(|e| e.reads, |e| e.writes),
            })
        },
        "hugetlb": s.hugetlb.iter().map(|(size, h)| (size.clone(), json!({
            "usage": h.usage, "max": h.max_usage, "failcnt": h.failcnt,
        }))).collect::<serde_json::Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    });
    for (controller, at) in [("cpu", "cpu"), ("memory", "memory"), ("io", "blkio")] {
        if let Some(waits) = pressure(cgroup, controller) {
            value[at]["psi"] = waits;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(numbers("3"), [3]);
        assert!(numbers("\n").is_empty());
    }
}
