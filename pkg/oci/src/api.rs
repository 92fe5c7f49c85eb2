//! The types that callers see.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An OCI runtime over one state folder. Holds no other state: any process may open the same
/// folder and act on the containers in it.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) root: PathBuf,
}

/// Where the standard streams of a container's process lead.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's own three streams.
    #[default]
    Inherit,
    /// The given descriptors; `/dev/null` where there is none.
    Fds {
        /// Descriptor 0 of the process.
        stdin: Option<OwnedFd>,
        /// Descriptor 1 of the process.
        stdout: Option<OwnedFd>,
        /// Descriptor 2 of the process.
        stderr: Option<OwnedFd>,
    },
    /// A pseudo-terminal of the container's own devpts; its master comes back as `console`.
    /// Must agree with `process.terminal` of the configuration.
    Terminal,
}

/// What [`Runtime::create`] needs.
#[derive(Debug, Default)]
pub struct CreateRequest {
    /// The container's name, unique under the runtime's root.
    pub id: String,
    /// The folder with `config.json`.
    pub bundle: PathBuf,
    /// What `config.json` says, when the caller has read it already.
    pub spec: Option<Box<crate::config::Spec>>,
    /// The standard streams of the container's process.
    pub stdio: Stdio,
    /// A file to write the init's pid to (decimal, no newline).
    pub pid_file: Option<PathBuf>,
    /// Extra descriptors the process inherits, numbered from 3 on in this order.
    pub preserve_fds: Vec<OwnedFd>,
    /// Switch the root by moving it over `/` and `chroot`, for a root in an initramfs where
    /// `pivot_root` cannot work.
    pub no_pivot: bool,
    /// Keep the caller's session keyring instead of a new one.
    pub no_new_keyring: bool,
    /// Do without the cgroups that the caller may not make; unset: when the caller is not root of
    /// the machine.
    pub rootless: Option<bool>,
    /// Give the container a folder for a notification socket, `<root>/<id>/notify`, in which
    /// whoever starts it may listen.
    pub notify: bool,
    /// Place the container's cgroup with systemd's naming (`slice:prefix:name`).
    pub systemd_cgroup: bool,
}

/// A container that was made and waits for [`Runtime::start`].
#[derive(Debug)]
pub struct Created {
    /// The init's pid as the caller sees it.
    pub pid: i32,
    /// Becomes readable when the init ends.
    pub pidfd: OwnedFd,
    /// The terminal's master, with [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct Started {
    /// The pid as the caller sees it.
    pub pid: i32,
    /// Becomes readable when the process ends.
    pub pidfd: OwnedFd,
    /// The terminal's master, with [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being set up.
    Creating,
    /// Set up; its process waits for start.
    Created,
    /// The user's program runs.
    Running,
    /// All of its processes are frozen.
    Paused,
    /// The init has ended.
    Stopped,
}

impl Status {
    /// The word the specification uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's state as `knarr-runc state` prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The specification's version.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// The init's pid; 0 once it has ended.
    pub pid: i32,
    /// Where the container is in its life.
    pub status: Status,
    /// The bundle folder, absolute.
    pub bundle: PathBuf,
    /// The root folder, absolute.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// The annotations of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The user name of the owner of the state folder.
    pub owner: String,
}
