//! What is kept about a container under the runtime's root.
//!
//! `root/<id>/state.json` is the [`Record`]; `root/<id>/start.sock` exists from create until the
//! program runs, and is where the init waits. Whether the container lives is never stored: it is
//! read from the kernel, by pid and start time.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use knarr_cgroups::Cgroup;
use serde::{Deserialize, Serialize};

use crate::api::{Runtime, State, Status};
use crate::config::Spec;
use crate::error::Error;
use crate::hooks::HookState;

/// The file of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The container's name.
    pub id: String,
    /// The init's pid; 0 while there is none yet.
    pub pid: i32,
    /// When the init started, in the kernel's ticks; tells a reused pid.
    pub start_ticks: u64,
    /// The bundle folder.
    pub bundle: PathBuf,
    /// The root folder.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub created: String,
    /// User id of the creator.
    pub uid: u32,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its namespaces, made or joined (`CLONE_NEW*` bits).
    pub namespaces: u64,
    /// Its scope, when systemd made its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Folders of resctrl that were made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rdt: Vec<PathBuf>,
    /// Whether the init's end ends all its processes: a new pid namespace.
    pub own_pids: bool,
    /// What its standard streams led to when it was made, as `/proc` names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<String>,
    /// The configuration it was made from.
    pub config: Spec,
}

/// What `/proc/<pid>/stat` tells.
pub struct ProcStat {
    /// Whether it has ended and waits to be reaped.
    pub zombie: bool,
    /// Start time in ticks.
    pub start_ticks: u64,
}

/// Looks at a process; `None` when there is none.
pub fn proc_stat(pid: i32) -> Option<ProcStat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    let rest = text.get(text.rfind(')')? + 2..)?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(ProcStat {
        zombie: state == "Z" || state == "X",
        start_ticks,
    })
}

impl Record {
    /// Whether the init lives.
    pub fn alive(&self) -> bool {
        self.pid > 0
            && proc_stat(self.pid).is_some_and(|s| !s.zombie && s.start_ticks == self.start_ticks)
    }

    /// The state hooks get.
    pub fn hook_state(&self, status: Status) -> HookState {
        HookState {
            version: crate::OCI_VERSION.into(),
            id: self.id.clone(),
            status: status.as_str(),
            pid: if status == Status::Stopped {
                0
            } else {
                self.pid
            },
            bundle: self.bundle.clone(),
            annotations: self.config.annotations.clone(),
        }
    }
}

impl Runtime {
    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Makes the container's folder.
    pub(crate) fn claim(&self, id: &str) -> Result<PathBuf, Error> {
        check_id(id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o711).recursive(true);
        builder
            .create(&self.root)
            .map_err(|e| Error::os(format!("make {:?}", self.root), e))?;
        let folder = self.folder(id);
        builder.recursive(false);
        match builder.create(&folder) {
            Ok(()) => Ok(folder),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { id: id.into() })
            }
            Err(e) => Err(Error::os(format!("make {folder:?}"), e)),
        }
    }

    pub(crate) fn load(&self, id: &str) -> Result<Record, Error> {
        check_id(id)?;
        let path = self.folder(id).join("state.json");
        let text = match fs::read(&path) {
            Ok(t) => t,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound { id: id.into() });
            }
            Err(e) => return Err(Error::os(format!("read {path:?}"), e)),
        };
        serde_json::from_slice(&text).map_err(|e| Error::BadState {
            path,
            cause: e.to_string(),
        })
    }

    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        let folder = self.folder(&record.id);
        let text = serde_json::to_vec(record)
            .map_err(|e| Error::os("write state", std::io::Error::other(e)))?;
        write_whole(&folder.join("state.json"), &text)
    }

    /// Where a recorded container is in its life.
    pub(crate) fn status(&self, record: &Record) -> Status {
        if record.pid == 0 {
            return Status::Creating;
        }
        if !record.alive() {
            return Status::Stopped;
        }
        let socket = self.folder(&record.id).join("start.sock");
        if socket.exists() {
            match connect(&socket) {
                Ok(_) => return Status::Created,
                // The init closed it by execve, but whoever started it could not clean up.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                    let _ = fs::remove_file(&socket);
                }
                Err(_) => {}
            }
        }
        if record.cgroup.is_frozen() {
            return Status::Paused;
        }
        Status::Running
    }

    pub(crate) fn describe(&self, record: &Record) -> State {
        let status = self.status(record);
        State {
            oci_version: crate::OCI_VERSION.into(),
            id: record.id.clone(),
            pid: if status == Status::Stopped {
                0
            } else {
                record.pid
            },
            status,
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: record.config.annotations.clone(),
            owner: owner_name(record.uid),
        }
    }
}

fn owner_name(uid: u32) -> String {
    if uid == 0 {
        return "root".into();
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|l| {
            let mut parts = l.split(':');
            let name = parts.next()?;
            (parts.nth(1)?.parse::<u32>() == Ok(uid)).then(|| name.to_string())
        })
        .unwrap_or_else(|| format!("#{uid}"))
}

/// Connects to a socket whose path may be longer than a socket address holds.
pub(crate) fn connect(path: &Path) -> std::io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let folder = knarr_sys::fs::open(parent, knarr_sys::fs::O_PATH)?;
    knarr_sys::socket::connect_seqpacket(
        Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name),
    )
    .map_err(Into::into)
}

/// Removes a container's folder with all that is in it; what a killed restore has mounted there is
/// unmounted first.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), Error> {
    crate::checkpoint::unbind_left(folder)?;
    match fs::remove_dir_all(folder) {
        // Somebody else has deleted it at the same time.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| Error::os(format!("remove {folder:?}"), e)),
    }
}

/// Writes a file so that a reader sees the old or the new one, never a part.
pub(crate) fn write_whole(path: &Path, text: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let done = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut f| f.write_all(text))
        .and_then(|()| fs::rename(&temporary, path));
    done.map_err(|e| Error::os(format!("write {path:?}"), e))
}

/// Writes a pid file.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    fs::write(&temporary, pid.to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Error::os(format!("write pid file {path:?}"), e))
}

/// A name may hold letters, digits and `_+-.`; it is a folder's name.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    let fine = !id.is_empty()
        && id.len() <= 1024
        && id != "."
        && id != ".."
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_+-.".contains(c));
    if fine {
        return Ok(());
    }
    Err(Error::InvalidId { id: id.into() })
}

/// The present time in RFC 3339, UTC, with nanoseconds.
pub fn now() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    rfc3339(since.as_secs(), since.subsec_nanos())
}

/// Seconds since 1970 as a calendar date and time.
pub(crate) fn rfc3339(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Counted from 0000-03-01, so that leap days end each year; 400 years have 146,097 days.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests;
