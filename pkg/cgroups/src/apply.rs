//! Writing limits.

use crate::cgroup::Dir;
use crate::{Cgroup, Cpu, Error, Memory, Resources};

pub(crate) fn apply(cgroup: &Cgroup, r: &Resources) -> Result<(), Error> {
    if let Some(cpu) = &r.cpu {
        cpuset(cgroup, cpu)?;
    }
    if let Some(memory) = &r.memory {
        match cgroup.v1("memory") {
            Some(dir) => memory_v1(dir, memory)?,
            None => memory_v2(need_v2(cgroup, "memory", "memory limits")?, memory)?,
        }
    }
    if let Some(cpu) = &r.cpu {
        match cgroup.v1("cpu") {
            Some(dir) => cpu_v1(dir, cpu)?,
            None => cpu_v2(cgroup, cpu)?,
        }
    }
    if let Some(limit) = r.pids.as_ref().and_then(|p| p.limit) {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".into()
        };
        match cgroup.v1("pids") {
            Some(dir) => dir.write("pids.max", &value)?,
            None if limit <= 0 && cgroup.v2().is_none_or(|d| !d.exists("pids.max")) => {}
            None => need_v2(cgroup, "pids", "pids.limit")?.write("pids.max", &value)?,
        }
    }
    for page in &r.hugepage_limits {
        let limit = page.limit.to_string();
        match cgroup.v1("hugetlb") {
            Some(dir) => {
                dir.write(
                    &format!("hugetlb.{}.limit_in_bytes", page.page_size),
                    &limit,
                )?;
                let rsvd = format!("hugetlb.{}.rsvd.limit_in_bytes", page.page_size);
                if dir.exists(&rsvd) {
                    dir.write(&rsvd, &limit)?;
                }
            }
            None => match need_v2(cgroup, "hugetlb", "hugepageLimits") {
                Ok(dir) => {
                    dir.write(&format!("hugetlb.{}.max", page.page_size), &limit)?;
                    let rsvd = format!("hugetlb.{}.rsvd.max", page.page_size);
                    if dir.exists(&rsvd) {
                        dir.write(&rsvd, &limit)?;
                    }
                }
                // A kubelet names every page size the node has, with limit 0.
                Err(_) if page.limit == 0 => {}
                Err(e) => return Err(e),
            },
        }
    }
    crate::io::apply(cgroup, r)?;
    for (device, limit) in &r.rdma {
        let mut line = device.clone();
        if let Some(n) = limit.hca_handles {
            line.push_str(&format!(" hca_handle={n}"));
        }
        if let Some(n) = limit.hca_objects {
            line.push_str(&format!(" hca_object={n}"));
        }
        match cgroup.v1("rdma") {
            Some(dir) => dir.write("rdma.max", &line)?,
            None => need_v2(cgroup, "rdma", "rdma")?.write("rdma.max", &line)?,
        }
    }
    network(cgroup, r)?;
    crate::devices::apply(cgroup, &r.devices)?;
    unified(cgroup, r)
}

/// The version 2 folder, when the controller is there.
pub(crate) fn need_v2<'a>(
    cgroup: &'a Cgroup,
    controller: &str,
    wanted: &str,
) -> Result<&'a Dir, Error> {
    cgroup
        .v2()
        .filter(|d| {
            d.read("cgroup.controllers")
                .is_some_and(|c| c.split_whitespace().any(|c| c == controller))
        })
        .ok_or_else(|| Error::NoController {
            controller: controller.into(),
            wanted: wanted.into(),
        })
}

fn cpuset(cgroup: &Cgroup, cpu: &Cpu) -> Result<(), Error> {
    let set = |file: &str, value: &Option<String>| match value.as_deref() {
        None | Some("") => Ok(()),
        Some(list) => match cgroup.v1("cpuset") {
            Some(dir) => dir.write(file, list),
            None => need_v2(cgroup, "cpuset", file)?.write(file, list),
        },
    };
    set("cpuset.cpus", &cpu.cpus)?;
    set("cpuset.mems", &cpu.mems)
}

fn memory_v1(dir: &Dir, m: &Memory) -> Result<(), Error> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let limit = m.limit.filter(|l| *l != 0);
    let mut swap = m.swap.filter(|s| *s != 0);
    if limit == Some(-1) && swap.is_none() {
        swap = Some(-1);
    }
    if let Some(s) = swap
        && !dir.exists(SWAP)
    {
        // Without swap accounting "no more than the memory limit" is what holds anyway when
        // there is no swap; anything else cannot be kept.
        if s != -1 && limit != Some(s) {
            return Err(Error::NoController {
                controller: "memory swap accounting".into(),
                wanted: "memory.swap".into(),
            });
        }
        swap = None;
    }
    if m.check_before_update == Some(true) {
        check_usage(dir, "memory.usage_in_bytes", limit)?;
    }
    let write = |file: &str, value: i64| dir.write(file, &value.to_string());
    match (limit, swap) {
        (Some(limit), Some(swap)) => {
            // memsw may never be below the memory limit, so the order depends on the direction.
            let now = dir
                .read(LIMIT)
                .and_then(|t| t.trim().parse::<i64>().ok())
                .unwrap_or(i64::MAX);
            if swap == -1 || now < swap {
                write(SWAP, swap)?;
                write(LIMIT, limit)?;
            } else {
                write(LIMIT, limit)?;
                write(SWAP, swap)?;
            }
        }
        (Some(limit), None) => write(LIMIT, limit)?,
        (None, Some(swap)) => write(SWAP, swap)?,
        (None, None) => {}
    }
    if let Some(r) = m.reservation.filter(|r| *r != 0) {
        write("memory.soft_limit_in_bytes", r)?;
    }
    if m.disable_oom_killer == Some(true) {
        dir.write("memory.oom_control", "1")?;
    }
    match m.swappiness {
        None => {}
        Some(s) if s <= 100 => dir.write("memory.swappiness", &s.to_string())?,
        Some(s) => {
            return Err(Error::Invalid {
                field: "memory.swappiness".into(),
                cause: format!("{s} is not between 0 and 100"),
            });
        }
    }
    Ok(())
}

fn check_usage(dir: &Dir, file: &str, limit: Option<i64>) -> Result<(), Error> {
    let usage = dir.read(file).and_then(|t| t.trim().parse::<i64>().ok());
    match (limit, usage) {
        (Some(limit), Some(usage)) if limit > 0 && limit < usage => Err(Error::Invalid {
            field: "memory.limit".into(),
            cause: format!("{limit} is below the present usage of {usage}"),
        }),
        _ => Ok(()),
    }
}

fn memory_v2(dir: &Dir, m: &Memory) -> Result<(), Error> {
    let text = |v: i64| {
        if v == -1 {
            "max".to_string()
        } else {
            v.to_string()
        }
    };
    let limit = m.limit.filter(|l| *l != 0);
    if m.check_before_update == Some(true) {
        check_usage(dir, "memory.current", limit)?;
    }
    let mut swap = m.swap.filter(|s| *s != 0);
    if limit == Some(-1) && swap.is_none() {
        swap = Some(-1);
    }
    if let Some(s) = swap {
        // OCI counts memory and swap together; version 2 counts swap alone.
        let alone = match (s, limit) {
            (-1, _) => -1,
            (s, Some(-1)) => s,
            (s, Some(l)) if s >= l => s - l,
            (_, _) => {
                return Err(Error::Invalid {
                    field: "memory.swap".into(),
                    cause: "must come with memory.limit and not be below it".into(),
                });
            }
        };
        if dir.exists("memory.swap.max") {
            dir.write("memory.swap.max", &text(alone))?;
        } else if alone > 0 {
            return Err(Error::NoController {
                controller: "memory swap accounting".into(),
                wanted: "memory.swap".into(),
            });
        }
    }
    if let Some(l) = limit {
        dir.write("memory.max", &text(l))?;
    }
    if let Some(r) = m.reservation.filter(|r| *r != 0) {
        dir.write("memory.low", &text(r))?;
    }
    Ok(())
}

fn cpu_v1(dir: &Dir, c: &Cpu) -> Result<(), Error> {
    if let Some(shares) = c.shares.filter(|s| *s != 0) {
        dir.write("cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = c.realtime_period.filter(|p| *p != 0) {
        dir.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = c.realtime_runtime.filter(|p| *p != 0) {
        dir.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    let period = c.period.filter(|p| *p != 0).map(|p| p.to_string());
    let quota = c.quota.filter(|q| *q != 0).map(|q| q.to_string());
    // Burst may not exceed the quota: lower it first, raise it last.
    let burst = c.burst.map(|b| b.to_string());
    let burst_early = match (&burst, c.quota) {
        (Some(b), _) => dir.write("cpu.cfs_burst_us", b).is_ok(),
        (None, _) => true,
    };
    match (&period, &quota) {
        (Some(p), Some(q)) => {
            // A period too short for the old quota is refused until the quota is set.
            let early = dir.write("cpu.cfs_period_us", p).is_ok();
            dir.write("cpu.cfs_quota_us", q)?;
            if !early {
                dir.write("cpu.cfs_period_us", p)?;
            }
        }
        (Some(p), None) => dir.write("cpu.cfs_period_us", p)?,
        (None, Some(q)) => dir.write("cpu.cfs_quota_us", q)?,
        (None, None) => {}
    }
    if let (Some(b), false) = (&burst, burst_early) {
        dir.write("cpu.cfs_burst_us", b)?;
    }
    if let Some(idle) = c.idle {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    Ok(())
}

fn cpu_v2(cgroup: &Cgroup, c: &Cpu) -> Result<(), Error> {
    let wants = c.shares.is_some_and(|s| s != 0)
        || c.quota.is_some_and(|q| q != 0)
        || c.period.is_some_and(|p| p != 0)
        || c.idle.is_some()
        || c.burst.is_some();
    if !wants {
        return Ok(());
    }
    let dir = need_v2(cgroup, "cpu", "cpu limits")?;
    if let Some(idle) = c.idle {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = c.shares.filter(|s| *s != 0)
        && c.idle != Some(1)
    {
        dir.write("cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    let quota = c.quota.filter(|q| *q != 0);
    let period = c.period.filter(|p| *p != 0);
    if quota.is_some() || period.is_some() {
        let now = dir.read("cpu.max").unwrap_or_default();
        let mut now = now.split_whitespace();
        let old_quota = now.next().unwrap_or("max").to_string();
        let quota = match quota {
            Some(q) if q > 0 => q.to_string(),
            Some(_) => "max".into(),
            None => old_quota,
        };
        let period = period.map_or_else(
            || now.next().unwrap_or("100000").to_string(),
            |p| p.to_string(),
        );
        dir.write("cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(burst) = c.burst {
        dir.write("cpu.max.burst", &burst.to_string())?;
    }
    Ok(())
}

/// Version 1 shares (2 to 262144) as a version 2 weight (1 to 10000): the curve that maps the
/// lowest, default (1024 → 100) and highest values onto each other, log-quadratic between.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn network(cgroup: &Cgroup, r: &Resources) -> Result<(), Error> {
    let Some(n) = &r.network else {
        return Ok(());
    };
    let need = |controller: &str| {
        cgroup.v1(controller).ok_or_else(|| Error::NoController {
            controller: controller.into(),
            wanted: "network".into(),
        })
    };
    if let Some(id) = n.class_id.filter(|i| *i != 0) {
        need("net_cls")?.write("net_cls.classid", &id.to_string())?;
    }
    for p in &n.priorities {
        need("net_prio")?.write("net_prio.ifpriomap", &format!("{} {}", p.name, p.priority))?;
    }
    Ok(())
}

fn unified(cgroup: &Cgroup, r: &Resources) -> Result<(), Error> {
    if r.unified.is_empty() {
        return Ok(());
    }
    let dir = cgroup.v2().ok_or_else(|| Error::NoController {
        controller: "unified".into(),
        wanted: "unified".into(),
    })?;
    for (file, value) in &r.unified {
        if file.contains('/') || file == ".." {
            return Err(Error::Invalid {
                field: format!("unified[{file:?}]"),
                cause: "must be a file name".into(),
            });
        }
        if !dir.exists(file) {
            return Err(Error::NoController {
                controller: file.split('.').next().unwrap_or(file).into(),
                wanted: format!("unified[{file:?}]"),
            });
        }
        // Files of several keys take one line a write.
        for line in value.split('\n').filter(|l| !l.is_empty()) {
            dir.write(file, line)?;
        }
    }
    Ok(())
}
