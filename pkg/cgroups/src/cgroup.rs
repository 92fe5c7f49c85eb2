//! One cgroup: making, joining, freezing, killing, removing.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_sys::fs as sysfs;
use serde::{Deserialize, Serialize};

use crate::hierarchy::{Hierarchies, Hierarchy, Mode};
use crate::{Error, Resources, Stats};

/// One cgroup, the same path below every mounted hierarchy (relative paths: below the own cgroup
/// of the process that made it). It owns nothing: dropping it leaves the cgroup as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// One folder for each hierarchy.
    pub(crate) dirs: Vec<Dir>,
}

/// A cgroup's folder in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dir {
    /// The hierarchy's controllers; empty for version 2.
    pub controllers: String,
    /// The hierarchy's mount point.
    pub mount: PathBuf,
    /// The cgroup's folder.
    pub path: PathBuf,
}

impl Dir {
    pub(crate) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
    pub(crate) fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }
    pub(crate) fn exists(&self, file: &str) -> bool {
        self.path.join(file).exists()
    }
    pub(crate) fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        match self.open(file) {
            Ok(file) => file.write(value),
            Err(Error::Io { path, source, .. }) => Err(Error::Write {
                path,
                value: value.to_string(),
                source,
            }),
            Err(other) => Err(other),
        }
    }
    /// Makes the folder; whether it was there already.
    fn make(&self, mode: Mode) -> Result<bool, Error> {
        let io = |source| Error::Io {
            action: "create",
            path: self.path.clone(),
            source,
        };
        let existed = match fs::create_dir(&self.path) {
            Ok(()) => false,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.path).map_err(io)?;
                false
            }
            Err(e) => return Err(io(e)),
        };
        if self.controllers.split(',').any(|c| c == "cpuset") {
            fill_cpuset(&self.mount, &self.path)?;
        }
        // In a hybrid the controllers are version 1's; the version 2 tree stays bare.
        if self.is_v2() && mode == Mode::V2 {
            delegate(&self.mount, &self.path);
        }
        Ok(existed)
    }
    /// Opens a file that takes several values, one after the other.
    pub(crate) fn open(&self, file: &str) -> Result<Setting, Error> {
        let path = self.path.join(file);
        match sysfs::open(&path, sysfs::O_WRONLY) {
            Ok(fd) => Ok(Setting { path, fd }),
            Err(e) => Err(Error::Io {
                action: "open",
                path,
                source: e.into(),
            }),
        }
    }
}

/// A file of a cgroup, open for writing.
pub(crate) struct Setting {
    path: PathBuf,
    fd: OwnedFd,
}

impl Setting {
    pub(crate) fn write(&self, value: &str) -> Result<(), Error> {
        sysfs::write_once(self.fd.as_fd(), value.as_bytes()).map_err(|e| Error::Write {
            path: self.path.clone(),
            value: value.to_string(),
            source: e.into(),
        })
    }
}

/// The descriptors by which a process puts itself into a cgroup; made before it is cloned.
#[derive(Debug, Default)]
pub struct JoinFds {
    /// The `tasks` files of version 1: the process writes `0` to each.
    pub tasks: Vec<OwnedFd>,
    /// The version 2 folder, for a clone straight into it.
    pub unified: Option<OwnedFd>,
}

impl JoinFds {
    /// Moves the calling thread, which must be its process's only one, into the version 1
    /// hierarchies. A thread that moves itself needs no global lock, so this is quick.
    ///
    /// # Errors
    /// Those of `write(2)`.
    pub fn join_v1(&self) -> knarr_sys::Result<()> {
        for fd in &self.tasks {
            sysfs::write_once(fd.as_fd(), b"0")?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// The cgroup of this path on every hierarchy, without making it. An absolute path starts at
    /// each hierarchy's mount point; a relative one at the calling process's own cgroup.
    ///
    /// # Errors
    /// [`Error::NotMounted`]; [`Error::Path`] when the path climbs out with `..`.
    pub fn open(path: &str) -> Result<Self, Error> {
        Self::open_in(&Hierarchies::discover()?, path)
    }

    /// As [`Cgroup::open`], over hierarchies that are known already.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn open_in(on: &Hierarchies, path: &str) -> Result<Self, Error> {
        if path.is_empty() || Path::new(path).components().any(|c| c.as_os_str() == "..") {
            return Err(Error::Path {
                path: path.into(),
                cause: "must not be empty or contain \"..\"".into(),
            });
        }
        let dir = |h: &Hierarchy| Dir {
            controllers: h.controllers.clone(),
            mount: h.mount.clone(),
            path: match path.strip_prefix('/') {
                Some(absolute) => h.mount.join(absolute.trim_start_matches('/')),
                None => h.mount.join(h.own.trim_start_matches('/')).join(path),
            },
        };
        Ok(Self {
            dirs: on.all.iter().map(dir).collect(),
        })
    }

    /// The cgroup a process is in.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of_pid(pid: i32) -> Result<Self, Error> {
        Self::listed_in(PathBuf::from(format!("/proc/{pid}/cgroup")))
    }

    /// The cgroup this process is in, also where `/proc` counts processes otherwise than it does.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn own() -> Result<Self, Error> {
        Self::listed_in(PathBuf::from("/proc/self/cgroup"))
    }

    fn listed_in(file: PathBuf) -> Result<Self, Error> {
        let table = fs::read_to_string(&file).map_err(|source| Error::Io {
            action: "read",
            path: file,
            source,
        })?;
        let on = Hierarchies::discover()?;
        let own = |h: &Hierarchy| {
            table.lines().find_map(|l| {
                let mut parts = l.splitn(3, ':').skip(1);
                (parts.next()? == h.controllers).then(|| parts.next())?
            })
        };
        let dirs = on.all.iter().filter_map(|h| {
            Some(Dir {
                controllers: h.controllers.clone(),
                mount: h.mount.clone(),
                path: h.mount.join(own(h)?.trim_start_matches('/')),
            })
        });
        Ok(Self {
            dirs: dirs.collect(),
        })
    }

    /// Makes the cgroup with its parents and sets the limits. One that exists is taken over.
    /// What was newly made is removed again when a limit is refused.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Write`], [`Error::NoController`], [`Error::Invalid`].
    pub fn create(path: &str, resources: &Resources) -> Result<Self, Error> {
        let cgroup = Self::open(path)?;
        cgroup.make()?;
        if let Err(e) = cgroup.update(resources) {
            if cgroup.pids(true).is_empty() {
                let _ = cgroup.remove();
            }
            return Err(e);
        }
        Ok(cgroup)
    }

    /// Makes the folders only, and tells whether one was there already.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn make(&self) -> Result<bool, Error> {
        let mode = self.mode();
        let mut existed = false;
        for dir in &self.dirs {
            existed |= dir.make(mode)?;
        }
        Ok(existed)
    }

    /// As [`Cgroup::make`], but does without the hierarchies in which the caller may not make
    /// any. A limit that needs one of them fails later, by name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn make_where_allowed(&mut self) -> Result<bool, Error> {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let mode = self.mode();
        let mut existed = false;
        for dir in std::mem::take(&mut self.dirs) {
            match dir.make(mode) {
                Ok(one) => existed |= one,
                Err(Error::Io { source, .. })
                    if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) =>
                {
                    continue;
                }
                Err(e) => return Err(e),
            }
            self.dirs.push(dir);
        }
        Ok(existed)
    }

    /// Whether its folders exist.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|d| d.path.exists())
    }

    /// Whether it has members, alive or not yet reaped by the kernel, here or below.
    pub fn is_populated(&self) -> bool {
        match self.v2().and_then(|d| d.read("cgroup.events")) {
            Some(events) => events.lines().any(|l| l == "populated 1"),
            None => !self.pids(true).is_empty(),
        }
    }

    pub(crate) fn v2(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.is_v2())
    }

    pub(crate) fn v1(&self, controller: &str) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|d| d.controllers.split(',').any(|c| c == controller))
    }

    /// How this machine's cgroups are mounted.
    pub fn mode(&self) -> Mode {
        match (self.v2().is_some(), self.dirs.iter().any(|d| !d.is_v2())) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V2,
            _ => Mode::V1,
        }
    }

    /// The folder of a controller (`memory`, `cpu`, …); on version 2 the one folder.
    pub fn path_of(&self, controller: &str) -> Option<&Path> {
        self.v1(controller)
            .or_else(|| self.v2())
            .map(|d| d.path.as_path())
    }

    /// Every folder with its hierarchy's controllers (empty for version 2).
    pub fn dirs(&self) -> &[Dir] {
        &self.dirs
    }

    /// The cgroup of this name below.
    pub fn child(&self, name: &str) -> Self {
        let dirs = self.dirs.iter().map(|d| Dir {
            path: d.path.join(name),
            ..d.clone()
        });
        Self {
            dirs: dirs.collect(),
        }
    }

    /// The same cgroup, but in the hierarchies of these controllers (comma-separated; empty: all)
    /// the one of this name below.
    pub fn child_in(&self, controllers: &str, name: &str) -> Self {
        let mut below = self.child(name);
        let chosen = |d: &Dir| {
            controllers.is_empty()
                || controllers
                    .split(',')
                    .any(|c| d.controllers.split(',').any(|own| own == c))
        };
        for (to, from) in below.dirs.iter_mut().zip(&self.dirs) {
            if !chosen(from) {
                to.path.clone_from(&from.path);
            }
        }
        below
    }

    /// Opens what a process needs to put itself in.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn join_fds(&self) -> Result<JoinFds, Error> {
        let mut fds = JoinFds {
            tasks: Vec::new(),
            unified: None,
        };
        for dir in &self.dirs {
            let (path, flags) = if dir.is_v2() {
                (dir.path.clone(), sysfs::O_RDONLY | sysfs::O_DIRECTORY)
            } else {
                (dir.path.join("tasks"), sysfs::O_WRONLY)
            };
            let fd = sysfs::open(&path, flags).map_err(|e| Error::Io {
                action: "open",
                path,
                source: e.into(),
            })?;
            if dir.is_v2() {
                fds.unified = Some(fd);
            } else {
                fds.tasks.push(fd);
            }
        }
        Ok(fds)
    }

    /// Moves a process in.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        let pid = pid.to_string();
        self.dirs
            .iter()
            .try_for_each(|d| d.write("cgroup.procs", &pid))
    }

    /// The pids of its members (`deep`: and of those below), each once.
    pub fn pids(&self, deep: bool) -> Vec<i32> {
        let Some(dir) = self
            .v1("freezer")
            .or_else(|| self.v1("pids"))
            .or_else(|| self.v1("memory"))
            .or_else(|| self.dirs.first())
        else {
            return Vec::new();
        };
        let mut pids = Vec::new();
        collect_pids(&dir.path, deep, &mut pids);
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sets limits. What `resources` does not mention stays as it is.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::NoController`], [`Error::Invalid`].
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        crate::apply::apply(self, resources)
    }

    /// Usage, limits and events. What cannot be read is zero.
    pub fn stats(&self) -> Stats {
        crate::read::stats(self)
    }

    /// Freezes or thaws all members here and below, and waits until it is so.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::NoController`] without a freezer.
    pub fn freeze(&self, on: bool) -> Result<(), Error> {
        crate::freezer::set(self, on)
    }

    /// Whether the members are frozen.
    pub fn is_frozen(&self) -> bool {
        crate::freezer::is_frozen(self)
    }

    /// Sends a signal to every member here and below. `SIGKILL` misses none, however fast they
    /// fork.
    ///
    /// # Errors
    /// [`Error::Write`] from the freezer.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        const SIGKILL: i32 = 9;
        if signal == SIGKILL {
            if let Some(dir) = self.v2()
                && dir.exists("cgroup.kill")
                && dir.write("cgroup.kill", "1").is_ok()
            {
                // A frozen version 1 freezer would hold the dying.
                if self.mode() == Mode::Hybrid && self.is_frozen() {
                    self.freeze(false)?;
                }
                // Members that are in version 1 only.
                self.pids(true).iter().for_each(|p| {
                    let _ = knarr_sys::process::kill(*p, SIGKILL);
                });
                return Ok(());
            }
            let _ = self.freeze(true);
        }
        for pid in self.pids(true) {
            let _ = knarr_sys::process::kill(pid, signal);
        }
        if signal == SIGKILL {
            let _ = self.freeze(false);
        }
        Ok(())
    }

    /// Removes the cgroup and all below it. Waits a moment for members that are just dying.
    /// Missing folders are fine.
    ///
    /// # Errors
    /// [`Error::Io`] with `EBUSY` when it still has members.
    pub fn remove(&self) -> Result<(), Error> {
        self.dirs.iter().try_for_each(|d| remove_tree(&d.path))
    }
}

fn collect_pids(dir: &Path, deep: bool, into: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        into.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    if deep {
        for child in subfolders(dir) {
            collect_pids(&child, deep, into);
        }
    }
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn remove_tree(dir: &Path) -> Result<(), Error> {
    let mut pause = Duration::from_micros(500);
    // In all about two seconds.
    for attempt in 0..13 {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if attempt == 12 => {
                return Err(Error::Io {
                    action: "remove",
                    path: dir.into(),
                    source: e,
                });
            }
            Err(_) => {
                let below = subfolders(dir);
                if below.is_empty() {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                for child in below {
                    remove_tree(&child)?;
                }
            }
        }
    }
    Ok(())
}

/// A new version 1 cpuset is empty and takes no members: copy the parent's, from the top down.
fn fill_cpuset(mount: &Path, dir: &Path) -> Result<(), Error> {
    let full =
        |d: &Path, f: &str| fs::read_to_string(d.join(f)).is_ok_and(|t| !t.trim().is_empty());
    if dir == mount || (full(dir, "cpuset.cpus") && full(dir, "cpuset.mems")) {
        return Ok(());
    }
    let Some(parent) = dir.parent() else {
        return Ok(());
    };
    fill_cpuset(mount, parent)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !full(dir, file) {
            let io = |path: PathBuf| {
                |source| Error::Io {
                    action: "fill",
                    path,
                    source,
                }
            };
            let value = fs::read_to_string(parent.join(file)).map_err(io(parent.join(file)))?;
            fs::write(dir.join(file), value.trim()).map_err(io(dir.join(file)))?;
        }
    }
    Ok(())
}

/// Hands all controllers of version 2 down to the cgroup. A controller that cannot be handed
/// down is left out; a limit that needs it fails later, by name.
fn delegate(mount: &Path, dir: &Path) {
    let Ok(below) = dir.strip_prefix(mount) else {
        return;
    };
    let mut at = mount.to_path_buf();
    for part in below.components() {
        let have = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        let on = fs::read_to_string(at.join("cgroup.subtree_control")).unwrap_or_default();
        let missing: Vec<String> = have
            .split_whitespace()
            .filter(|c| !on.split_whitespace().any(|o| o == *c))
            .map(|c| format!("+{c}"))
            .collect();
        let file = at.join("cgroup.subtree_control");
        // A group with members of its own hands nothing down: some controllers could be, but what
        // is below would then take no processes. The root (which has no type) is exempt.
        let lives = |at: &Path| {
            at.join("cgroup.type").exists()
                && fs::read_to_string(at.join("cgroup.procs")).is_ok_and(|p| !p.is_empty())
        };
        if !missing.is_empty() && !lives(&at) && fs::write(&file, missing.join(" ")).is_err() {
            for one in missing {
                let _ = fs::write(&file, one);
            }
        }
        at.push(part);
    }
}
