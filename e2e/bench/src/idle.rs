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
pub(crate) fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |i: usize| fields.get(i).and_then(|f: &&str| f.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

/// Proportional set size in kilobytes.
pub(crate) fn pss(pid: u32) -> u64 {
    rollup(pid, &["Pss:"])
}

/// What a process has for itself, in kilobytes.
pub(crate) fn private(pid: u32) -> u64 {
    rollup(pid, &["Private_Clean:", "Private_Dirty:"])
}

fn rollup(pid: u32, names: &[&str]) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup.lines().filter_map(|l| names.iter().find_map(|n| kilobytes(l.strip_prefix(n)?))).sum()
}

fn kilobytes(value: &str) -> Option<u64> {
    value.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// The most memory a process has had, in kilobytes, since [`forget_peak`].
pub(crate) fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|l| kilobytes(l.strip_prefix("VmHWM:")?)).unwrap_or(0)
}

/// Begins [`peak`] anew.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Clock ticks that all processors were busy for.
pub(crate) fn machine_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // Without what was idle or waited for a disk.
    fields.iter().take(8).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, f)| f).sum()
}
