//! Capabilities by name.

use knarr_sys::caps::CapSet;

use crate::config::Capabilities;

/// Every capability, at the place of its number.
pub const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The number of a capability; the `CAP_` may be missing and case does not matter.
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    NAMES
        .iter()
        .position(|n| *n == upper || n.strip_prefix("CAP_") == Some(&upper))
        .map(|n| n as u32)
}

/// Capabilities as bit sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// Bounding.
    pub bounding: CapSet,
    /// Effective.
    pub effective: CapSet,
    /// Permitted.
    pub permitted: CapSet,
    /// Inheritable.
    pub inheritable: CapSet,
    /// Ambient.
    pub ambient: CapSet,
}

impl Sets {
    /// The sets of a configuration. A name that is not known is left out, as runc does, so that
    /// a configuration made for a newer kernel still works.
    pub fn from_config(c: &Capabilities) -> Self {
        let set = |names: &[String]| {
            names
                .iter()
                .filter_map(|n| number(n))
                .fold(0, |s: CapSet, n| s | 1 << n)
        };
        Self {
            bounding: set(&c.bounding),
            effective: set(&c.effective),
            permitted: set(&c.permitted),
            inheritable: set(&c.inheritable),
            ambient: set(&c.ambient),
        }
    }
}
