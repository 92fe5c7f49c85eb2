//! `knarr reset`: the machine as it was before.

use std::{
    fs,
    io::ErrorKind,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    CGROUP_ROOT, tree,
    control::{self, Request},
    layout::Layout,
    preflight,
};

/// The file that says a folder was made by knarr and may be removed by it.
pub const MARKER: &str = ".knarr";
/// How long processes have to go after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes `dir` and marks it as ours.
///
/// # Errors
/// If it cannot be made, or holds something that knarr did not make.
pub fn claim(dir: &Path) -> Result<()> {
    let marker = dir.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    // Another knarr may have claimed it meanwhile; its mark is the first thing that it leaves.
    if entries.next().is_some() && !marker.exists() {
        bail!("{} is not empty and was not made by knarr: choose another folder", dir.display());
    }
    fs::write(&marker, "").with_context(|| format!("cannot write in {}", dir.display()))
}

/// Ends everything of this node and removes what it made.
///
/// # Errors
/// If something stays; what it is and why.
pub fn run(layout: &Layout) -> Result<()> {
    preflight::privileges()?;
    for dir in [&layout.data_dir, &layout.run_dir] {
        if dir.exists() && !dir.join(MARKER).exists() && fs::read_dir(dir)?.next().is_some() {
            bail!("{} was not made by knarr; nothing was removed", dir.display());
        }
    }
    stop(layout)?;
    kill_all(layout)?;
    tree::remove(CGROUP_ROOT, PATIENCE)?;
    unmount(&[&layout.data_dir, &layout.run_dir])?;
    crate::node::remove_network(layout)?;
    for dir in [&layout.run_dir, &layout.data_dir] {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", dir.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends the running knarr, if there is one; containers go on. Says whether there was one.
///
/// # Errors
/// If it does not end.
pub fn stop(layout: &Layout) -> Result<bool> {
    let socket = layout.control_socket();
    let Some(status) = control::ask(&socket, &Request::Status)? else { return Ok(false) };
    let pid = status.get("pid").and_then(serde_json::Value::as_i64).unwrap_or(0);
    control::ask(&socket, &Request::Stop)?;
    let begin = Instant::now();
    while pid > 0 && Path::new(&format!("/proc/{pid}/exe")).exists() {
        if fs::read_link(format!("/proc/{pid}/exe")).is_err() || begin.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if begin.elapsed() > PATIENCE {
        bail!("knarr (pid {pid}) does not end; kill it and try again");
    }
    Ok(true)
}

/// Every process in our cgroups, and every helper program of ours.
fn processes(layout: &Layout) -> Vec<Pid> {
    let mut pids = tree::processes(CGROUP_ROOT);
    let bin = layout.bin();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if exe.starts_with(&bin) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids.dedup();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.into_iter().filter(|&pid| pid > 1 && pid != own).map(Pid::from_raw).collect()
}

fn kill_all(layout: &Layout) -> Result<()> {
    let begin = Instant::now();
    loop {
        let pids = processes(layout);
        if pids.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            bail!("processes do not end: {pids:?}");
        }
        tree::thaw(CGROUP_ROOT);
        for pid in pids {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Unmounts everything at and below `dirs`, the last mounted first.
fn unmount(dirs: &[&Path]) -> Result<()> {
    let text = fs::read("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = text
        .split(|&b| b == b'\n')
        .filter_map(|line| line.split(|&b| b == b' ').nth(4))
        .map(|point| PathBuf::from(std::ffi::OsString::from_vec(unescape(point))))
        .filter(|point| dirs.iter().any(|dir| point.starts_with(dir)))
        .collect();
    points.reverse();
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH) {
            // Gone with its parent.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot unmount {}", point.display())),
        }
    }
    Ok(())
}

/// Undoes mountinfo's octal escapes (`\040` is a space).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(octal) = tail.get(..3).and_then(|o| std::str::from_utf8(o).ok())
            && let Ok(byte) = u8::from_str_radix(octal, 8)
        {
            out.push(byte);
            rest = &tail[3..];
            continue;
        }
        out.push(*first);
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescape(br"/plain\"), br"/plain\");
    }

    #[test]
    fn a_foreign_folder_is_not_claimed() {
        let dir = std::env::temp_dir().join(format!("knarr-claim-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("precious"), "").unwrap();
        let error = claim(&dir).unwrap_err().to_string();
        assert!(error.contains("was not made by knarr"), "{error}");
        fs::remove_file(dir.join("precious")).unwrap();
        claim(&dir).unwrap();
        claim(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn two_may_claim_a_folder_at_once() {
        let dir = std::env::temp_dir().join(format!("knarr-claims-{}", std::process::id()));
        for _ in 0..200 {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| claim(&dir))).collect();
                all.into_iter().for_each(|one| one.join().unwrap().unwrap());
            });
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}
