//! The systemd driver: systemd makes the cgroup, as a transient scope, and hands it to us.
//!
//! On a host that systemd runs, the tree of cgroups is its own; a group it does not know may lose
//! its limits at any reload. So the container's first process is put into a scope with
//! `Delegate=yes`, the limits are told to systemd as the unit's properties, and what it has no
//! property for is written to the files as everywhere else.

mod bus;

use std::path::{Path, PathBuf};

use crate::{Error, Resources, weight_of_shares};
use bus::{Bus, Value};

/// A container's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Such as `cri-abc.scope`.
    pub name: String,
    /// The slice it is in, such as `system.slice`.
    pub slice: String,
}

/// Whether systemd runs this machine.
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn socket() -> PathBuf {
    if knarr_sys::process::geteuid() == 0 {
        return "/run/systemd/private".into();
    }
    let own = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    Path::new(&own).join("systemd/private")
}

/// Below which cgroup systemd makes its slices: none for the machine's own, the user manager's
/// for an ordinary user.
///
/// # Errors
/// [`Error::Systemd`].
pub fn base() -> Result<String, Error> {
    if knarr_sys::process::geteuid() == 0 {
        return Ok(String::new());
    }
    Bus::connect(&socket())?.manager_property("ControlGroup")
}

impl Unit {
    /// Starts the scope with a process in it, and waits until it is there.
    ///
    /// # Errors
    /// [`Error::Systemd`].
    pub fn start(&self, pid: i32, limits: &Resources, v2: bool) -> Result<(), Error> {
        let text = |t: &str| Value::Text(t.to_string());
        let mut properties = vec![
            ("Description", text(&format!("container {}", self.name))),
            ("Slice", text(&self.slice)),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
            ("PIDs", Value::Numbers(vec![pid.cast_unsigned()])),
            ("MemoryAccounting", Value::Bool(true)),
            ("CPUAccounting", Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
            ("IOAccounting", Value::Bool(true)),
        ];
        properties.extend(limit_properties(limits, v2));
        Bus::connect(&socket())?.start_transient(&self.name, &properties)
    }
}

/// Tells systemd of changed limits.
///
/// # Errors
/// [`Error::Systemd`].
pub fn update(unit: &str, limits: &Resources, v2: bool) -> Result<(), Error> {
    let properties = limit_properties(limits, v2);
    if properties.is_empty() {
        return Ok(());
    }
    Bus::connect(&socket())?.set_properties(unit, &properties)
}

/// Ends a scope, if it has not ended with its last process.
pub fn stop(unit: &str) {
    if let Ok(mut bus) = Bus::connect(&socket()) {
        bus.stop(unit);
    }
}

/// The limits that systemd has properties for.
fn limit_properties(r: &Resources, v2: bool) -> Vec<(&'static str, Value)> {
    let unlimited = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    if let Some(limit) = r.memory.as_ref().and_then(|m| m.limit).filter(|l| *l != 0) {
        let name = if v2 { "MemoryMax" } else { "MemoryLimit" };
        out.push((name, Value::Number(unlimited(limit))));
    }
    if let Some(cpu) = &r.cpu {
        if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
            out.push(if v2 {
                ("CPUWeight", Value::Number(weight_of_shares(shares)))
            } else {
                ("CPUShares", Value::Number(shares))
            });
        }
        if let Some(quota) = cpu.quota.filter(|q| *q != 0) {
            let period = cpu.period.filter(|p| *p != 0).unwrap_or(100_000);
            let second = match u64::try_from(quota) {
                Ok(quota) => quota.saturating_mul(1_000_000) / period,
                Err(_) => u64::MAX,
            };
            out.push(("CPUQuotaPerSecUSec", Value::Number(second)));
        }
    }
    if let Some(limit) = r.pids.as_ref().and_then(|p| p.limit) {
        let most = if limit > 0 {
            unlimited(limit)
        } else {
            u64::MAX
        };
        out.push(("TasksMax", Value::Number(most)));
    }
    out
}
