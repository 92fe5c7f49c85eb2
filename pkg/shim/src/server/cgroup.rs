//! The container's cgroup, read for facts: memory kills, usage, members.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use knarr_sys::supervise::kill_process;
use serde::{Deserialize, Serialize};

use crate::proto::Stats;

/// Where a container's processes are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cgroup {
    /// Folders of the version-1 hierarchies by controller.
    v1: BTreeMap<String, PathBuf>,
    /// The folder in the unified hierarchy.
    v2: Option<PathBuf>,
    /// The folders are the container's own, so that all members are its processes.
    own: bool,
}

impl Cgroup {
    /// Finds the cgroups that a process is in.
    pub(super) fn of(pid: i32) -> Cgroup {
        let mounts = Mounts::read();
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            return Cgroup::default();
        };
        let mut cgroup = Cgroup {
            own: true,
            ..Cgroup::default()
        };
        let mine = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut moved = false;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let shared = path == "/" || mine.lines().any(|l| l == line);
            moved |= !shared;
            if shared {
                continue;
            }
            if controllers.is_empty() {
                cgroup.v2 = mounts.v2.as_ref().and_then(|mount| mount.resolve(path));
            } else {
                for controller in controllers.split(',') {
                    if let Some(folder) = mounts.v1.get(controller).and_then(|m| m.resolve(path)) {
                        cgroup.v1.insert(controller.to_owned(), folder);
                    }
                }
            }
        }
        cgroup.own = moved;
        cgroup
    }

    /// How many processes the kernel has killed here for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        if let Some(folder) = self.v1.get("memory") {
            return keyed(&folder.join("memory.oom_control"), "oom_kill").unwrap_or(0);
        }
        self.v2
            .as_ref()
            .and_then(|folder| keyed(&folder.join("memory.events"), "oom_kill"))
            .unwrap_or(0)
    }

    /// Sends a signal to every process in the container's cgroup. Answers how many got it.
    pub(super) fn signal_all(&self, signal: i32) -> usize {
        if !self.own {
            return 0;
        }
        const SIGKILL: i32 = 9;
        if signal == SIGKILL
            && let Some(folder) = &self.v2
            && !self.members_in(folder).is_empty()
            && fs::write(folder.join("cgroup.kill"), "1").is_ok()
        {
            return 1;
        }
        self.members()
            .into_iter()
            .filter(|&pid| kill_process(pid, signal).is_ok())
            .count()
    }

    /// The container's processes.
    pub(super) fn members(&self) -> Vec<i32> {
        if !self.own {
            return Vec::new();
        }
        let order = ["pids", "memory", "cpu", "freezer", "devices"];
        let folder = order
            .iter()
            .find_map(|c| self.v1.get(*c))
            .or(self.v2.as_ref());
        folder
            .map(|folder| self.members_in(folder))
            .unwrap_or_default()
    }

    fn members_in(&self, folder: &Path) -> Vec<i32> {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let mut pids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                pids.extend(self.members_in(&entry.path()));
            }
        }
        pids
    }

    /// Reads usage now.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = Stats {
            timestamp: super::log::now(),
            ..Stats::default()
        };
        let v2_memory = self
            .v2
            .as_ref()
            .filter(|f| f.join("memory.current").exists());
        if let Some(folder) = self.v1.get("memory") {
            self.memory_v1(folder, &mut stats);
        } else if let Some(folder) = v2_memory {
            self.memory_v2(folder, &mut stats);
        }
        stats.oom_kills = self.oom_kills();
        if let Some(folder) = self.v1.get("cpuacct") {
            stats.cpu_usage = number(&folder.join("cpuacct.usage"));
            if let Some(folder) = self.v1.get("cpu") {
                let file = folder.join("cpu.stat");
                stats.cpu_throttled_periods = keyed(&file, "nr_throttled").unwrap_or(0);
                stats.cpu_throttled = keyed(&file, "throttled_time").unwrap_or(0);
            }
        } else if let Some(folder) = &self.v2 {
            let file = folder.join("cpu.stat");
            stats.cpu_usage = keyed(&file, "usage_usec").unwrap_or(0) * 1000;
            stats.cpu_throttled_periods = keyed(&file, "nr_throttled").unwrap_or(0);
            stats.cpu_throttled = keyed(&file, "throttled_usec").unwrap_or(0) * 1000;
        }
        if let Some(folder) = self.v1.get("pids").or(self.v2.as_ref()) {
            stats.pids = number(&folder.join("pids.current"));
        }
        stats
    }

    fn memory_v1(&self, folder: &Path, stats: &mut Stats) {
        let file = folder.join("memory.stat");
        stats.memory_usage = number(&folder.join("memory.usage_in_bytes"));
        let inactive = keyed(&file, "total_inactive_file").unwrap_or(0);
        stats.memory_working_set = stats.memory_usage.saturating_sub(inactive);
        stats.memory_rss = keyed(&file, "total_rss").unwrap_or(0);
        stats.page_faults = keyed(&file, "total_pgfault").unwrap_or(0);
        stats.major_page_faults = keyed(&file, "total_pgmajfault").unwrap_or(0);
        stats.swap_usage = keyed(&file, "total_swap").unwrap_or(0);
        let limit = number(&folder.join("memory.limit_in_bytes"));
        // "No limit" reads as the largest multiple of a page.
        stats.memory_limit = if limit > u64::MAX / 4 { 0 } else { limit };
    }

    fn memory_v2(&self, folder: &Path, stats: &mut Stats) {
        let file = folder.join("memory.stat");
        stats.memory_usage = number(&folder.join("memory.current"));
        let inactive = keyed(&file, "inactive_file").unwrap_or(0);
        stats.memory_working_set = stats.memory_usage.saturating_sub(inactive);
        stats.memory_rss = keyed(&file, "anon").unwrap_or(0);
        stats.page_faults = keyed(&file, "pgfault").unwrap_or(0);
        stats.major_page_faults = keyed(&file, "pgmajfault").unwrap_or(0);
        stats.swap_usage = number(&folder.join("memory.swap.current"));
        stats.memory_limit = number(&folder.join("memory.max"));
    }
}

/// Moves the shim out of the cgroups of whoever started it, so that it is not stopped, limited
/// or counted with it. Does what it can.
pub(super) fn leave_starters_cgroups(to: &str) {
    let mounts = Mounts::read();
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let first = controllers.split(',').next().unwrap_or_default();
        // A new cpuset is empty and would refuse us; its parents' limits are meant for us too.
        if path == "/" || path == to || first == "cpuset" {
            continue;
        }
        // A thread that moves itself takes no lock that the whole machine waits for, and a shim
        // has but one.
        let (mount, file) = if first.is_empty() {
            (mounts.v2.as_ref(), "cgroup.procs")
        } else {
            (mounts.v1.get(first), "tasks")
        };
        if let Some(folder) = mount.and_then(|m| m.resolve(to)) {
            let join = || {
                fs::create_dir_all(&folder)?;
                fs::write(folder.join(file), "0")
            };
            // Whoever tidies up may remove the empty folder in between.
            let moved = join().or_else(|_| join());
            if let Err(e) = moved {
                super::note(&format!("join {}: {e}", folder.display()));
            }
        }
    }
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text
        .lines()
        .find(|l| l.strip_prefix(key).is_some_and(|r| r.starts_with(' ')))?;
    line[key.len()..].trim().parse().ok()
}

#[derive(Debug)]
struct Mount {
    /// The cgroup that the mount point shows.
    root: String,
    point: PathBuf,
}

impl Mount {
    /// The folder of a cgroup path, when this mount shows it.
    fn resolve(&self, path: &str) -> Option<PathBuf> {
        let below = match self.root.as_str() {
            "/" => path,
            root => path
                .strip_prefix(root)
                .filter(|r| r.is_empty() || r.starts_with('/'))?,
        };
        Some(self.point.join(below.trim_start_matches('/')))
    }
}

#[derive(Debug, Default)]
struct Mounts {
    v1: BTreeMap<String, Mount>,
    v2: Option<Mount>,
}

impl Mounts {
    fn read() -> Mounts {
        Mounts::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Mounts {
        let mut mounts = Mounts::default();
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(point)) = (left.next(), left.next()) else {
                continue;
            };
            // It shows what lies above the cgroup namespace: paths of this one are not in it.
            if root.starts_with("/..") {
                continue;
            }
            let mut right = right.split(' ');
            let (Some(kind), options) = (right.next(), right.nth(1).unwrap_or_default()) else {
                continue;
            };
            let mount = || Mount {
                root: root.to_owned(),
                point: PathBuf::from(point),
            };
            match kind {
                "cgroup2" => {
                    mounts.v2.get_or_insert_with(mount);
                }
                "cgroup" => {
                    for option in options.split(',') {
                        mounts.v1.entry(option.to_owned()).or_insert_with(mount);
                    }
                }
                _ => {}
            }
        }
        mounts
    }
}
