//! What a cgroup has used, and what it may use.

use std::collections::BTreeMap;

use serde::Serialize;

/// Usage, limits and events of one cgroup. The same fields on v1 and v2.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time and throttling.
    pub cpu: CpuStats,
    /// Memory usage, limits and OOM counters.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block I/O by device.
    pub io: Vec<IoEntry>,
    /// Huge pages by page size.
    pub hugetlb: BTreeMap<String, HugetlbStats>,
}

/// CPU time and throttling.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuStats {
    /// Nanoseconds used by all tasks.
    pub usage_ns: u64,
    /// Nanoseconds in user mode.
    pub user_ns: u64,
    /// Nanoseconds in kernel mode.
    pub system_ns: u64,
    /// Nanoseconds by CPU (v1 only).
    pub per_cpu_ns: Vec<u64>,
    /// Periods with a quota that have passed.
    pub periods: u64,
    /// Periods in which the group was throttled.
    pub throttled_periods: u64,
    /// Nanoseconds of throttling.
    pub throttled_ns: u64,
    /// Microseconds of CPU per period; `None` means unlimited.
    pub quota_us: Option<u64>,
    /// The period in microseconds.
    pub period_us: Option<u64>,
    /// The weight as v1 shares (on v2 converted).
    pub shares: Option<u64>,
}

/// Memory usage, limits and OOM counters.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryStats {
    /// Bytes in use.
    pub usage: u64,
    /// The most bytes that were in use at once; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// The limit in bytes; `None` means unlimited.
    pub limit: Option<u64>,
    /// Swap (v1: memory plus swap) in use, in bytes.
    pub swap_usage: u64,
    /// The limit on the former; `None` means unlimited.
    pub swap_limit: Option<u64>,
    /// Usage less inactive file pages, in bytes.
    pub working_set: u64,
    /// Anonymous memory in bytes.
    pub rss: u64,
    /// Page cache in bytes.
    pub cache: u64,
    /// Kernel memory in bytes.
    pub kernel: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed I/O.
    pub major_page_faults: u64,
    /// Times usage hit the limit.
    pub failcnt: u64,
    /// Times the kernel ran out of memory in the group.
    pub oom: u64,
    /// Processes that the kernel killed for it.
    pub oom_kill: u64,
    /// Every line of `memory.stat`.
    pub stat: BTreeMap<String, u64>,
}

/// Tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PidsStats {
    /// Tasks now.
    pub current: u64,
    /// Most tasks; `None` means unlimited.
    pub limit: Option<u64>,
}

/// One counter of block I/O.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IoEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HugetlbStats {
    /// Bytes in use.
    pub usage: u64,
    /// The most bytes at once; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// Times usage hit the limit.
    pub failcnt: u64,
}
