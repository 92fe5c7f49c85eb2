//! A tree of cgroups, the same below every hierarchy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A frozen process does not die: lets the frozen go.
pub fn thaw(root: &str) {
    for dir in folders(root) {
        for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let path = dir.join(file);
            if path.exists() {
                let _ = fs::write(path, word);
            }
        }
    }
}

/// The processes in it.
#[must_use]
pub fn processes(root: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for dir in folders(root) {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    pids
}

/// Its folders in every hierarchy, children before parents.
fn folders(root: &str) -> Vec<PathBuf> {
    fn walk(dir: PathBuf, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                walk(entry.path(), out);
            }
        }
        out.push(dir);
    }
    let name = root.trim_start_matches('/');
    let base = Path::new("/sys/fs/cgroup");
    let mut roots = vec![base.join(name)];
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        // `cpu,cpuacct` is often reached by links as well.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            roots.push(entry.path().join(name));
        }
    }
    let mut out = Vec::new();
    for root in roots {
        if root.join("cgroup.procs").exists() {
            walk(root, &mut out);
        }
    }
    out
}

/// Removes it from every hierarchy, once its processes have ended.
///
/// # Errors
/// If it is still busy after `patience`.
pub fn remove(root: &str, patience: Duration) -> Result<()> {
    let begin = Instant::now();
    loop {
        let left = folders(root);
        if left.is_empty() {
            return Ok(());
        }
        let mut last = None;
        for dir in left {
            if let Err(error) = fs::remove_dir(&dir) {
                last = Some((dir, error));
            }
        }
        // A cgroup stays busy for a moment after its last process.
        match last {
            Some((dir, error)) if begin.elapsed() > patience => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
            None => {}
        }
    }
}
