//! Standard streams that lead to FIFOs of the host: CRIU takes them for files of a mount that the
//! container does not have, unless it is told that others will stand for them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::state::Record;

/// What CRIU calls a file from outside: its mount's number and its inode, in hexadecimal digits.
const PREFIX: &str = "file[";

/// Whether a stream's name is CRIU's for a file from outside.
pub fn is_outside(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// What the standard streams led to when the container was made, as CRIU knows them.
pub fn name_outside(record: &Record) -> Vec<String> {
    let mut names = record.descriptors.clone();
    if !names.iter().any(|n| n.starts_with('/')) {
        return names;
    }
    // The init may have closed what its children still hold.
    for pid in record.cgroup.pids(true) {
        let own = format!("/proc/{pid}/fd");
        for entry in fs::read_dir(own).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            // A pipe is known by its own name.
            if !target.is_absolute() {
                continue;
            }
            for name in names.iter_mut().filter(|n| Path::new(n) == target) {
                let number = entry.file_name();
                if let Some(key) = key(pid, &number.to_string_lossy()) {
                    *name = key;
                }
            }
        }
    }
    names
}

/// CRIU's name of a process's descriptor, if that is a FIFO in a mount that the process does not
/// have.
fn key(pid: i32, fd: &str) -> Option<String> {
    let meta = fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok()?;
    if !meta.file_type().is_fifo() {
        return None;
    }
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    let mount: u32 = info
        .lines()
        .find_map(|l| l.strip_prefix("mnt_id:")?.trim().parse().ok())?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let has = |line: &str| line.split(' ').next().and_then(|n| n.parse().ok()) == Some(mount);
    if mounts.lines().any(has) {
        return None;
    }
    Some(format!("{PREFIX}{mount:x}:{:x}]", meta.ino()))
}
