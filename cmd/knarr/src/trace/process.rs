//! Layers 5 to 1: root file system, cgroups, namespaces and the process itself, from the kernel.

use std::{collections::BTreeMap, fs, path::Path};

use knarr_cgroups::Cgroup;
use serde_json::{Value, json};

/// The namespaces of Linux, as `/proc/<pid>/ns` names them.
const NAMESPACES: [&str; 8] = ["net", "ipc", "uts", "pid", "mnt", "user", "cgroup", "time"];

/// What the kernel says of one process.
pub(super) fn describe(pid: i32) -> Value {
    let proc = format!("/proc/{pid}");
    let argv = fs::read(format!("{proc}/cmdline")).unwrap_or_default();
    let argv: Vec<_> = argv
        .split(|&b| b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned())
    };
    json!({
        "pid": pid,
        "argv": argv,
        "exe": fs::read_link(format!("{proc}/exe")).ok(),
        "state": field("State:"),
        "pidInNamespace": field("NSpid:").and_then(|v| v.split_whitespace().last().map(str::to_owned)),
        "parent": field("PPid:"),
        "uid": field("Uid:").and_then(|v| v.split_whitespace().next().map(str::to_owned)),
        "noNewPrivs": field("NoNewPrivs:"),
        "seccomp": field("Seccomp:"),
        "capabilities": field("CapEff:"),
        "residentKiB": field("VmRSS:"),
        "rootfs": rootfs(&proc),
        "cgroup": cgroup(pid),
    })
}

/// The mount at `/` in the process's mount namespace.
fn rootfs(proc: &str) -> Value {
    let mounts = fs::read_to_string(format!("{proc}/mountinfo")).unwrap_or_default();
    let Some(line) = mounts.lines().find(|l| l.split(' ').nth(4) == Some("/")) else {
        return Value::Null;
    };
    let Some((left, right)) = line.split_once(" - ") else { return Value::Null };
    let mut right = right.split(' ');
    let kind = right.next().unwrap_or_default();
    let options = right.nth(1).unwrap_or_default();
    let option = |name: &str| {
        options.split(',').find_map(|o| o.strip_prefix(name)).map(str::to_owned)
    };
    let mut lower: Vec<_> =
        option("lowerdir=").unwrap_or_default().split(':').map(str::to_owned).collect();
    // The new mount interface prints one option a layer.
    lower.extend(options.split(',').filter_map(|o| o.strip_prefix("lowerdir+=")).map(str::to_owned));
    lower.retain(|l| !l.is_empty());
    json!({
        "type": kind,
        "flags": left.split(' ').nth(5),
        "readOnlyLayers": lower,
        "writableLayer": option("upperdir="),
        "oldRootGone": !mounts.lines().any(|l| l.split(' ').nth(4).is_some_and(|p| p.contains(".pivot"))),
        "mounts": mounts.lines().count(),
    })
}

fn cgroup(pid: i32) -> Value {
    let cgroup = match Cgroup::of_pid(pid) {
        Ok(cgroup) => cgroup,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let stats = cgroup.stats();
    let paths: BTreeMap<_, _> = ["memory", "cpu", "pids", "cpuset", "freezer"]
        .into_iter()
        .filter_map(|c| Some((c, cgroup.path_of(c)?.to_owned())))
        .collect();
    json!({
        "paths": paths,
        "memory": {
            "limit": stats.memory.limit,
            "usage": stats.memory.usage,
            "workingSet": stats.memory.working_set,
            "oomKills": stats.memory.oom_kill,
        },
        "cpu": {
            "usageNanoseconds": stats.cpu.usage_ns,
            "shares": stats.cpu.shares,
            "quotaMicroseconds": stats.cpu.quota_us,
            "periodMicroseconds": stats.cpu.period_us,
            "periods": stats.cpu.periods,
            "throttledPeriods": stats.cpu.throttled_periods,
            "throttledNanoseconds": stats.cpu.throttled_ns,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit },
    })
}

/// Each namespace of the pod's processes with its inode and who is in it.
pub(super) fn namespaces(processes: &[(String, i32)]) -> Value {
    let mut found = BTreeMap::new();
    for kind in NAMESPACES {
        let mut inodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, pid) in processes {
            if let Some(inode) = inode(&format!("/proc/{pid}/ns/{kind}")) {
                inodes.entry(inode).or_default().push(name.clone());
            }
        }
        let host = inode(&format!("/proc/self/ns/{kind}"));
        let list: Vec<_> = inodes
            .into_iter()
            .map(|(inode, who)| {
                json!({ "host": Some(&inode) == host.as_ref(), "inode": inode, "sharedBy": who })
            })
            .collect();
        found.insert(kind, list);
    }
    json!(found)
}

/// The number in `net:[4026531840]`.
fn inode(path: &str) -> Option<String> {
    let link = fs::read_link(Path::new(path)).ok()?;
    let text = link.to_str()?;
    Some(text.split_once('[')?.1.trim_end_matches(']').to_owned())
}
