//! Mounts: options to flags.

use std::path::{Component, Path, PathBuf};

use knarr_sys::mount as m;
use knarr_sys::mount::attr;
use knarr_sys::process::ns;

use crate::config::{IdMapping, Mount};
use crate::error::Error;
use crate::plan::Namespaces;

/// Propagation of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub kind: u64,
    /// Also of the mounts below.
    pub recursive: bool,
}

impl Propagation {
    /// From its name; an empty name is unset.
    pub fn parse(name: &str) -> Option<Self> {
        let (recursive, plain) = match name.strip_prefix('r') {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let kind = match plain {
            "" if !recursive => 0,
            "shared" => m::MS_SHARED,
            "slave" => m::MS_SLAVE,
            "private" => m::MS_PRIVATE,
            "unbindable" => m::MS_UNBINDABLE,
            _ => return None,
        };
        Some(Self { kind, recursive })
    }

    /// Whether anything was asked for.
    pub fn is_set(self) -> bool {
        self.kind != 0
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A folder or file of the host.
    Bind {
        /// Absolute, or below the bundle.
        path: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
    },
    /// A file system.
    Filesystem {
        /// Its type.
        fstype: String,
        /// Its source.
        source: String,
        /// Its own options.
        data: String,
    },
    /// The container's cgroups.
    Cgroup,
    /// Only change a mount that is there.
    Remount,
}

/// A checked mount.
#[derive(Debug, Clone, PartialEq)]
pub struct MountPlan {
    /// What.
    pub source: MountSource,
    /// The source as messages name it.
    pub source_text: String,
    /// Where, absolute and clean.
    pub target: PathBuf,
    /// `MS_*` flags.
    pub flags: u64,
    /// `MS_*` flags that options switched off by name.
    pub cleared: u64,
    /// Attributes of this mount and all below, set and cleared (`rro`, …).
    pub recursive_attrs: (u64, u64),
    /// Propagations, in order.
    pub propagations: Vec<Propagation>,
    /// Copy what the target holds into the new tmpfs.
    pub copy_up: bool,
    /// Id mappings of the mount: user, group, and whether recursive. Empty lists stand for the
    /// container's own.
    pub id_map: Option<(Vec<IdMapping>, Vec<IdMapping>, bool)>,
    /// Refuse symbolic links at the source.
    pub source_nofollow: bool,
}

impl MountPlan {
    /// Checks one mount. `index` is its place in the list.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn build(c: &Mount, index: usize, namespaces: &Namespaces) -> Result<Self, Error> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        if c.destination.is_empty() {
            return Err(Error::config(field("destination"), "must not be empty"));
        }
        let target = clean(&c.destination);
        let mut plan = MountPlan {
            source: MountSource::Remount,
            source_text: c.source.clone(),
            target,
            flags: 0,
            cleared: 0,
            recursive_attrs: (0, 0),
            propagations: Vec::new(),
            copy_up: false,
            id_map: None,
            source_nofollow: false,
        };
        let mut data = Vec::new();
        for option in &c.options {
            plan.option(option, &mut data);
        }
        if !c.uid_mappings.is_empty() || !c.gid_mappings.is_empty() {
            let recursive = plan.id_map.as_ref().is_some_and(|i| i.2);
            plan.id_map = Some((c.uid_mappings.clone(), c.gid_mappings.clone(), recursive));
        }
        let bind = c.kind == "bind" || plan.flags & m::MS_BIND != 0;
        plan.source = if plan.flags & m::MS_REMOUNT != 0 {
            MountSource::Remount
        } else if bind {
            if c.source.is_empty() {
                return Err(Error::config(
                    field("source"),
                    "a bind mount needs a source",
                ));
            }
            if !c.kind.is_empty() && c.kind != "bind" && c.kind != "none" {
                // Some writers leave a file system type beside the option; the option wins.
                plan.source_text = c.source.clone();
            }
            MountSource::Bind {
                path: PathBuf::from(&c.source),
                recursive: plan.flags & m::MS_REC != 0,
            }
        } else if c.kind == "cgroup" || c.kind == "cgroup2" {
            MountSource::Cgroup
        } else if c.kind.is_empty() {
            return Err(Error::config(field("type"), "must be set"));
        } else {
            if c.kind == "sysfs" && !namespaces.has(ns::NET) && namespaces.has(ns::USER) {
                return Err(Error::config(
                    field("type"),
                    "sysfs in a user namespace needs a network namespace",
                ));
            }
            MountSource::Filesystem {
                fstype: c.kind.clone(),
                source: if c.source.is_empty() {
                    c.kind.clone()
                } else {
                    c.source.clone()
                },
                data: data.join(","),
            }
        };
        check_proc_target(&plan, &field("destination"))?;
        plan.flags &= !(m::MS_BIND | m::MS_REC | m::MS_REMOUNT);
        Ok(plan)
    }

    /// Whether it binds a part of the host.
    pub fn is_bind(&self) -> bool {
        matches!(self.source, MountSource::Bind { .. })
    }

    /// Gives the files of a new file system an SELinux label, where its kind takes one.
    pub fn label(&mut self, label: &str) {
        if let MountSource::Filesystem { fstype, data, .. } = &mut self.source
            && !matches!(fstype.as_str(), "proc" | "sysfs" | "mqueue")
            && !data.split(',').any(|o| o.starts_with("context="))
        {
            if !data.is_empty() {
                data.push(',');
            }
            // In quotes, for a label holds commas.
            data.push_str(&format!("context=\"{label}\""));
        }
    }

    /// Takes the read-only flag off a mount that must be filled first, and tells whether it had
    /// it.
    pub fn readonly_later(&mut self) -> bool {
        let had = self.flags & m::MS_RDONLY != 0;
        self.flags &= !m::MS_RDONLY;
        had
    }

    fn option(&mut self, option: &str, data: &mut Vec<String>) {
        if let Some(p) = Propagation::parse(option).filter(|p| p.is_set()) {
            self.propagations.push(p);
            return;
        }
        if let Some((_, clear, bit)) = RECURSIVE.iter().find(|(n, _, _)| *n == option) {
            let (set_bits, clear_bits) = &mut self.recursive_attrs;
            if *clear {
                *clear_bits |= bit;
                *set_bits &= !bit;
            } else {
                *set_bits |= bit;
                *clear_bits &= !bit;
                if bit & attr::ATIME != 0 || *bit == attr::RELATIME {
                    *clear_bits |= attr::ATIME;
                }
            }
            return;
        }
        if let Some((_, clear, bit)) = FLAGS.iter().find(|(n, _, _)| *n == option) {
            if *clear {
                self.flags &= !bit;
                self.cleared |= bit;
            } else {
                self.flags |= bit;
                self.cleared &= !bit;
            }
            return;
        }
        match option {
            "defaults" => {}
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some((Vec::new(), Vec::new(), false)),
            "ridmap" => self.id_map = Some((Vec::new(), Vec::new(), true)),
            "src-nofollow" => self.source_nofollow = true,
            other => data.push(other.to_string()),
        }
    }

    /// The mount attributes (of the kind [`attr`]) that the flags mean.
    pub fn attrs(&self) -> u64 {
        PAIRS
            .iter()
            .filter(|(flag, _)| self.flags & flag != 0)
            .fold(0, |set, (_, bit)| set | bit)
    }

    /// The attributes that options switched off by name.
    pub fn cleared_attrs(&self) -> u64 {
        PAIRS
            .iter()
            .filter(|(flag, _)| self.cleared & flag != 0)
            .fold(0, |set, (_, bit)| set | bit)
    }
}

/// `MS_*` flags of one mount and the attributes they stand for.
const PAIRS: &[(u64, u64)] = &[
    (m::MS_RDONLY, attr::RDONLY),
    (m::MS_NOSUID, attr::NOSUID),
    (m::MS_NODEV, attr::NODEV),
    (m::MS_NOEXEC, attr::NOEXEC),
    (m::MS_NOATIME, attr::NOATIME),
    (m::MS_STRICTATIME, attr::STRICTATIME),
    (m::MS_NODIRATIME, attr::NODIRATIME),
    (m::MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
];

/// Option name, whether it clears, flag.
const FLAGS: &[(&str, bool, u64)] = &[
    ("acl", false, 1 << 16),
    ("async", true, m::MS_SYNCHRONOUS),
    ("atime", true, m::MS_NOATIME),
    ("bind", false, m::MS_BIND),
    ("dev", true, m::MS_NODEV),
    ("diratime", true, m::MS_NODIRATIME),
    ("dirsync", false, m::MS_DIRSYNC),
    ("exec", true, m::MS_NOEXEC),
    ("iversion", false, m::MS_I_VERSION),
    ("lazytime", false, m::MS_LAZYTIME),
    ("loud", true, m::MS_SILENT),
    ("mand", false, m::MS_MANDLOCK),
    ("noacl", true, 1 << 16),
    ("noatime", false, m::MS_NOATIME),
    ("nodev", false, m::MS_NODEV),
    ("nodiratime", false, m::MS_NODIRATIME),
    ("noexec", false, m::MS_NOEXEC),
    ("noiversion", true, m::MS_I_VERSION),
    ("nolazytime", true, m::MS_LAZYTIME),
    ("nomand", true, m::MS_MANDLOCK),
    ("norelatime", true, m::MS_RELATIME),
    ("nostrictatime", true, m::MS_STRICTATIME),
    ("nosuid", false, m::MS_NOSUID),
    ("nosymfollow", false, m::MS_NOSYMFOLLOW),
    ("rbind", false, m::MS_BIND | m::MS_REC),
    ("relatime", false, m::MS_RELATIME),
    ("remount", false, m::MS_REMOUNT),
    ("ro", false, m::MS_RDONLY),
    ("rw", true, m::MS_RDONLY),
    ("silent", false, m::MS_SILENT),
    ("strictatime", false, m::MS_STRICTATIME),
    ("suid", true, m::MS_NOSUID),
    ("symfollow", true, m::MS_NOSYMFOLLOW),
    ("sync", false, m::MS_SYNCHRONOUS),
];

/// The options that also act on the mounts below.
const RECURSIVE: &[(&str, bool, u64)] = &[
    ("rro", false, attr::RDONLY),
    ("rrw", true, attr::RDONLY),
    ("rnosuid", false, attr::NOSUID),
    ("rsuid", true, attr::NOSUID),
    ("rnodev", false, attr::NODEV),
    ("rdev", true, attr::NODEV),
    ("rnoexec", false, attr::NOEXEC),
    ("rexec", true, attr::NOEXEC),
    ("rnodiratime", false, attr::NODIRATIME),
    ("rdiratime", true, attr::NODIRATIME),
    ("rrelatime", false, attr::RELATIME),
    ("rnorelatime", true, attr::RELATIME),
    ("rnoatime", false, attr::NOATIME),
    ("ratime", true, attr::NOATIME),
    ("rstrictatime", false, attr::STRICTATIME),
    ("rnostrictatime", true, attr::STRICTATIME),
    ("rnosymfollow", false, attr::NOSYMFOLLOW),
    ("rsymfollow", true, attr::NOSYMFOLLOW),
];

/// The names of all mount options, sorted, as `features` lists them.
pub fn option_names() -> Vec<&'static str> {
    let mut all: Vec<&str> = FLAGS
        .iter()
        .chain(RECURSIVE)
        .map(|(n, _, _)| *n)
        .chain([
            "defaults",
            "idmap",
            "private",
            "ridmap",
            "rprivate",
            "rshared",
            "rslave",
            "runbindable",
            "shared",
            "slave",
            "tmpcopyup",
            "unbindable",
        ])
        .collect();
    all.sort_unstable();
    all
}

/// An absolute path with no `.`, no `..`, no doubled slashes.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(p) => out.push(p),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Nothing may be mounted inside procfs but what is known to be harmless there: the runtime and
/// the container's programs trust its files.
fn check_proc_target(plan: &MountPlan, field: &str) -> Result<(), Error> {
    const FINE: &[&str] = &[
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    let Ok(below) = plan.target.strip_prefix("/proc") else {
        return Ok(());
    };
    if below.as_os_str().is_empty() {
        let fine = match &plan.source {
            MountSource::Bind { .. } | MountSource::Remount => true,
            MountSource::Filesystem { fstype, .. } => fstype == "proc",
            MountSource::Cgroup => false,
        };
        if fine {
            return Ok(());
        }
    } else if FINE.iter().any(|f| below == Path::new(f)) {
        return Ok(());
    }
    Err(Error::config(
        field,
        format!(
            "{:?} is inside /proc, which cannot be mounted over",
            plan.target
        ),
    ))
}
