//! What a node costs when nothing happens.

use std::{fs, time::Duration};

use anyhow::Result;

use crate::cluster::Cluster;

pub(crate) struct Idle {
    /// Proportional set size of all processes.
    pub(crate) megabytes: f64,
    /// Of one core.
    pub(crate) cpu_percent: f64,
}

pub(crate) fn measure(cluster: &impl Cluster, period: Duration) -> Result<Idle> {
    let pids = cluster.pids();
    let before: u64 = pids.iter().map(|&pid| ticks(pid)).sum();
    std::thread::sleep(period);
    let after: u64 = pids.iter().map(|&pid| ticks(pid)).sum();
    let kilobytes: u64 = pids.iter().map(|&pid| pss(pid)).sum();
    // Linux counts 100 ticks a second whatever its own clock.
    let busy = (after.saturating_sub(before)) as f64 / 100.0;
    Ok(Idle {
        megabytes: kilobytes as f64 / 1024.0,
        cpu_percent: 100.0 * busy / period.as_secs_f64(),
    })
}

/// User and system time of a process in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |i: usize| fields.get(i).and_then(|f: &&str| f.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

/// Proportional set size in kilobytes.
fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup
        .lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .and_then(|v| v.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap_or(0)
}
