//! Which hierarchies are mounted, and where this process stands in them.

use std::path::{Path, PathBuf};

use knarr_sys::fs::{fs_magic_at, magic};

use crate::Error;

/// How cgroups are mounted on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 1 only.
    V1,
    /// Version 1 with an additional version 2 hierarchy.
    Hybrid,
    /// Version 2 only.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers as `/proc/self/cgroup` lists them (`cpu,cpuacct`, `name=systemd`); empty
    /// for version 2.
    pub controllers: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The calling process's cgroup in it, beginning with a slash.
    pub own: String,
}

impl Hierarchy {
    /// Whether it is the version 2 hierarchy.
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Whether a version 1 controller is bound to it.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }

    /// The name of its folder under `/sys/fs/cgroup`.
    pub fn folder(&self) -> &str {
        if self.is_v2() {
            return "unified";
        }
        self.controllers
            .strip_prefix("name=")
            .unwrap_or(&self.controllers)
    }
}

/// All mounted hierarchies.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    /// How they are mounted.
    pub mode: Mode,
    /// Each of them.
    pub all: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Looks at `/proc/self/cgroup` and where the hierarchies usually are; only when one is not
    /// there, at the mount table.
    ///
    /// # Errors
    /// [`Error::NotMounted`] when there is none.
    pub fn discover() -> Result<Self, Error> {
        let table = std::fs::read_to_string("/proc/self/cgroup").map_err(|source| Error::Io {
            action: "read",
            path: "/proc/self/cgroup".into(),
            source,
        })?;
        let base = Path::new("/sys/fs/cgroup");
        let base_is_v2 = fs_magic_at(base) == Ok(magic::CGROUP2);
        let mut mounts: Option<Vec<(PathBuf, String)>> = None;
        let mut all = Vec::new();
        for line in table.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(own)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let hierarchy = Hierarchy {
                controllers: controllers.to_string(),
                mount: PathBuf::new(),
                own: own.to_string(),
            };
            let (usual, want) = if hierarchy.is_v2() && base_is_v2 {
                (base.to_path_buf(), magic::CGROUP2)
            } else if hierarchy.is_v2() {
                (base.join("unified"), magic::CGROUP2)
            } else {
                (base.join(hierarchy.folder()), magic::CGROUP)
            };
            let mount = if fs_magic_at(&usual) == Ok(want) {
                Some(usual)
            } else {
                let table = mounts.get_or_insert_with(read_mounts);
                // One that is hidden below another mount is listed, but not there.
                find_mount(table, &hierarchy).filter(|m| fs_magic_at(m) == Ok(want))
            };
            if let Some(mount) = mount {
                all.push(Hierarchy { mount, ..hierarchy });
            }
        }
        let (v2, v1) = (
            all.iter().any(Hierarchy::is_v2),
            all.iter().any(|h| !h.is_v2()),
        );
        let mode = match (v1, v2) {
            (false, false) => return Err(Error::NotMounted),
            (true, false) => Mode::V1,
            (true, true) => Mode::Hybrid,
            (false, true) => Mode::V2,
        };
        Ok(Self { mode, all })
    }
}

/// Mount point and "fstype super-options" of every cgroup mount.
fn read_mounts() -> Vec<(PathBuf, String)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            let kind = right.next()?;
            let options = right.nth(1)?;
            kind.starts_with("cgroup")
                .then(|| (PathBuf::from(point), format!("{kind} {options}")))
        })
        .collect()
}

fn find_mount(table: &[(PathBuf, String)], hierarchy: &Hierarchy) -> Option<PathBuf> {
    table
        .iter()
        .find(|(_, what)| {
            if hierarchy.is_v2() {
                return what.starts_with("cgroup2 ");
            }
            let Some(options) = what.strip_prefix("cgroup ") else {
                return false;
            };
            hierarchy
                .controllers
                .split(',')
                .all(|c| options.split(',').any(|o| o == c))
        })
        .map(|(point, _)| point.clone())
}
