//! spec: a configuration to start from.

use std::path::Path;

use knarr_sys::process;
use serde_json::{Value, json};

use crate::args::Problem;
use crate::{Call, Done};

/// `spec`.
pub fn spec(call: &Call) -> Done {
    let folder = call.parsed.value("bundle").unwrap_or(".");
    let path = Path::new(folder).join("config.json");
    if path.exists() {
        return Err(Problem::new(format!(
            "File {} exists. Remove it first",
            path.display()
        )));
    }
    let text = serde_json::to_string_pretty(&template(call.parsed.has("rootless")))
        .map_err(|e| Problem::new(e.to_string()))?;
    std::fs::write(&path, text + "\n")
        .map_err(|e| Problem::new(format!("write {}: {e}", path.display())))?;
    Ok(0)
}

fn template(rootless: bool) -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |target: &str, kind: &str, options: &[&str]| {
        json!({
            "destination": target, "type": kind, "source": kind, "options": options,
        })
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    let pts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let mut value = json!({
        "ociVersion": knarr_oci::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", if rootless { &pts[..5] } else { &pts }),
            {
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            mount("/dev/mqueue", "mqueue", &quiet),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi", "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    if rootless {
        make_rootless(&mut value);
    }
    value
}

/// For a user without privilege: one id, no cgroup, the host's network.
fn make_rootless(value: &mut Value) {
    let Some(linux) = value.get_mut("linux") else {
        return;
    };
    let id = |n: u32| json!([{"containerID": 0, "hostID": n, "size": 1}]);
    linux["uidMappings"] = id(process::geteuid());
    linux["gidMappings"] = id(process::getegid());
    linux["resources"] = json!({});
    linux["namespaces"] = json!([
        {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "user"},
        {"type": "cgroup"},
    ]);
    if let Some(mounts) = value.get_mut("mounts").and_then(Value::as_array_mut) {
        for m in mounts {
            match m["destination"].as_str() {
                Some("/sys") => {
                    *m = json!({
                        "destination": "/sys", "type": "none", "source": "/sys",
                        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
                    });
                }
                Some("/sys/fs/cgroup") => {
                    m["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "ro"]);
                }
                _ => {}
            }
        }
    }
}
