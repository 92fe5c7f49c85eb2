//! Limits: CRI's words into the runtime specification's.

use knarr_cri_api::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

/// `linux.resources` of a container; only what is set.
pub(crate) fn json(r: &LinuxContainerResources) -> Value {
    let mut out = Map::new();
    let mut cpu = Map::new();
    for (key, value) in [
        ("shares", r.cpu_shares),
        ("quota", r.cpu_quota),
        ("period", r.cpu_period),
    ] {
        if value != 0 {
            cpu.insert(key.to_owned(), json!(value));
        }
    }
    for (key, value) in [("cpus", &r.cpuset_cpus), ("mems", &r.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(key.to_owned(), json!(value));
        }
    }
    if !cpu.is_empty() {
        out.insert("cpu".to_owned(), Value::Object(cpu));
    }
    let mut memory = Map::new();
    if r.memory_limit_in_bytes != 0 {
        memory.insert("limit".to_owned(), json!(r.memory_limit_in_bytes));
    }
    if r.memory_swap_limit_in_bytes != 0 && swap_accounting() {
        memory.insert("swap".to_owned(), json!(r.memory_swap_limit_in_bytes));
    }
    if !memory.is_empty() {
        out.insert("memory".to_owned(), Value::Object(memory));
    }
    let pages: Vec<Value> = r
        .hugepage_limits
        .iter()
        .filter(|h| hugepage_size_exists(&h.page_size))
        .map(|h| json!({ "pageSize": h.page_size, "limit": h.limit }))
        .collect();
    if !pages.is_empty() {
        out.insert("hugepageLimits".to_owned(), json!(pages));
    }
    if !r.unified.is_empty() && unified_cgroups() {
        out.insert("unified".to_owned(), json!(r.unified));
    }
    Value::Object(out)
}

/// Takes over the fields of an update that are set.
pub(crate) fn merge(to: &mut LinuxContainerResources, from: &LinuxContainerResources) {
    for (to, from) in [
        (&mut to.cpu_period, from.cpu_period),
        (&mut to.cpu_quota, from.cpu_quota),
        (&mut to.cpu_shares, from.cpu_shares),
        (&mut to.memory_limit_in_bytes, from.memory_limit_in_bytes),
        (&mut to.memory_swap_limit_in_bytes, from.memory_swap_limit_in_bytes),
        (&mut to.oom_score_adj, from.oom_score_adj),
    ] {
        if from != 0 {
            *to = from;
        }
    }
    for (to, from) in [
        (&mut to.cpuset_cpus, &from.cpuset_cpus),
        (&mut to.cpuset_mems, &from.cpuset_mems),
    ] {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
    to.unified.extend(from.unified.clone());
    if !from.hugepage_limits.is_empty() {
        to.hugepage_limits.clone_from(&from.hugepage_limits);
    }
}

/// Whether `/sys/fs/cgroup` is the one v2 hierarchy.
pub(crate) fn unified_cgroups() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn swap_accounting() -> bool {
    unified_cgroups()
        || std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

/// A limit for pages this kernel does not have would be refused.
fn hugepage_size_exists(size: &str) -> bool {
    let number: String = size.chars().take_while(char::is_ascii_digit).collect();
    let factor = match &size[number.len()..] {
        "KB" => 1u64,
        "MB" => 1 << 10,
        "GB" => 1 << 20,
        _ => return false,
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).is_some_and(|kib| {
        std::path::Path::new(&format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB")).exists()
    })
}

/// `oom_score_adj`, not below what this process may hand on.
pub(crate) fn oom_score_adj(wanted: i64) -> i64 {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0);
    let free = std::fs::read_to_string("/proc/self/status").is_ok_and(|text| {
        text.lines()
            .find_map(|l| l.strip_prefix("CapEff:"))
            .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
            .is_some_and(|caps| caps & (1 << 24) != 0)
    });
    let wanted = wanted.clamp(-1000, 1000);
    if free { wanted } else { wanted.max(own) }
}
