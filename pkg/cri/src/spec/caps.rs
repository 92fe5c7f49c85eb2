//! Capabilities: the usual set, what is added and dropped.

use knarr_cri_api::v1::Capability;
use serde_json::{Value, json};

use crate::Error;

/// Every capability, by number.
const ALL: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
];

const USUAL: [&str; 14] = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
    "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
];

/// The sets of a container's process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caps {
    pub bounding: Vec<String>,
    pub ambient: Vec<String>,
}

impl Caps {
    /// As the configuration wants it.
    pub(crate) fn json(&self) -> Value {
        json!({
            "bounding": self.bounding,
            "effective": self.bounding,
            "permitted": self.bounding,
            "inheritable": self.ambient,
            "ambient": self.ambient,
        })
    }
}

fn word(name: &str) -> Result<&'static str, Error> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter()
        .find(|known| *known == bare)
        .ok_or_else(|| Error::Invalid(format!("unknown capability \"{name}\"")))
}

/// What this process may hand on: its bounding set. A runtime with less than everything (in a
/// container itself) must not ask for more.
fn available(bounding: u64, name: &str) -> bool {
    ALL.iter()
        .position(|known| *known == name)
        .is_some_and(|bit| bounding & (1 << bit) != 0)
}

fn own_bounding() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(u64::MAX)
}

/// The capabilities of a container.
pub(crate) fn resolve(request: Option<&Capability>, privileged: bool) -> Result<Caps, Error> {
    let empty = Capability::default();
    let request = request.unwrap_or(&empty);
    let all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("ALL"));
    let mut set: Vec<&str> = if privileged || all(&request.add_capabilities) {
        ALL.to_vec()
    } else if all(&request.drop_capabilities) {
        Vec::new()
    } else {
        USUAL.to_vec()
    };
    if !privileged {
        let named = |list: &[String]| -> Result<Vec<&'static str>, Error> {
            list.iter()
                .filter(|c| !c.eq_ignore_ascii_case("ALL"))
                .map(|c| word(c))
                .collect()
        };
        for name in named(&request.add_capabilities)? {
            if !set.contains(&name) {
                set.push(name);
            }
        }
        let dropped = named(&request.drop_capabilities)?;
        set.retain(|name| !dropped.contains(name));
    }
    let bounding = own_bounding();
    set.retain(|name| available(bounding, name));
    let mut ambient = Vec::new();
    for name in &request.add_ambient_capabilities {
        let name = word(name)?;
        if set.contains(&name) {
            ambient.push(format!("CAP_{name}"));
        }
    }
    Ok(Caps {
        bounding: set.into_iter().map(|name| format!("CAP_{name}")).collect(),
        ambient,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn add_and_drop() {
        let request = Capability {
            add_capabilities: strings(&["net_bind_service"]),
            drop_capabilities: strings(&["ALL"]),
            add_ambient_capabilities: vec![],
        };
        assert_eq!(resolve(Some(&request), false).unwrap().bounding, ["CAP_NET_BIND_SERVICE"]);
        let request = Capability {
            drop_capabilities: strings(&["CAP_CHOWN"]),
            ..Default::default()
        };
        assert_eq!(resolve(Some(&request), false).unwrap().bounding.len(), 13);
        let request = Capability {
            add_capabilities: strings(&["nonsense"]),
            ..Default::default()
        };
        assert!(resolve(Some(&request), false).is_err());
    }
}
