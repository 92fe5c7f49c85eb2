//! What the machine looks like, to see that nothing is left behind.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Everything that a node may make on its host, one line each.
#[must_use]
pub fn snapshot() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, text: &str| {
        for line in text.lines() {
            found.insert(format!("{kind}: {line}"));
        }
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        add("mount", line.split(' ').nth(4).unwrap_or(""));
    }
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        add("interface", &entry.file_name().to_string_lossy());
    }
    if let Ok(output) = Command::new("nft").args(["list", "tables"]).output() {
        add("nftables", &String::from_utf8_lossy(&output.stdout));
    }
    for (kind, command) in [
        ("route", &["ip", "route", "show", "table", "all"][..]),
        ("rule", &["ip", "rule"][..]),
        ("netns", &["ip", "netns"][..]),
    ] {
        if let Ok(output) = Command::new(command[0]).args(&command[1..]).output() {
            add(kind, &String::from_utf8_lossy(&output.stdout));
        }
    }
    for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for dir in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            if dir.file_type().is_ok_and(|t| t.is_dir()) {
                add("cgroup", &dir.path().to_string_lossy());
            }
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name();
        if pid.to_string_lossy().bytes().all(|b| b.is_ascii_digit())
            && let Ok(exe) = fs::read_link(entry.path().join("exe"))
            && exe.file_name().is_some_and(|n| n.to_string_lossy().starts_with("knarr"))
            && !exe.to_string_lossy().contains("knarr_e2e")
        {
            add("process", &exe.to_string_lossy());
        }
    }
    for path in [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/conf/all/route_localnet",
        "/proc/sys/net/ipv4/conf/all/rp_filter",
        "/proc/sys/net/bridge/bridge-nf-call-iptables",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/panic_on_oops",
    ] {
        if let Ok(value) = fs::read_to_string(path) {
            add("sysctl", &format!("{path} = {}", value.trim()));
        }
    }
    for dir in ["/run", "/var/lib", "/etc", "/var/run/netns", "/var/log", "/opt"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            add("file", &Path::new(dir).join(entry.file_name()).to_string_lossy());
        }
    }
    found
}

/// What is in `after` but not in `before`, and the reverse.
#[must_use]
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let added = after.difference(before).map(|l| format!("+ {l}"));
    let removed = before.difference(after).map(|l| format!("- {l}"));
    added.chain(removed).collect()
}
