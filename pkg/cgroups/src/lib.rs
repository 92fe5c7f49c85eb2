//! Control groups, version 1, hybrid and 2.
//!
//! A [`Cgroup`] is one path, the same below every mounted hierarchy. The kubelet makes pod-level
//! groups with it, the runtime the containers', and anyone reads [`Stats`] from it.

mod apply;
mod cgroup;
mod devices;
mod freezer;
mod hierarchy;
mod io;
mod read;
mod resources;
mod stats;
pub mod systemd;

pub use apply::weight_of_shares;
pub use cgroup::{Cgroup, Dir, JoinFds};
pub use hierarchy::{Hierarchies, Hierarchy, Mode};

pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma,
    Resources, ThrottleDevice, WeightDevice,
};
pub use stats::{CpuStats, HugetlbStats, IoEntry, MemoryStats, PidsStats, Stats};

use std::path::PathBuf;

/// What can go wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path could not be used.
    #[error("cgroup path {path:?}: {cause}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A file or folder operation failed.
    #[error("cgroup {action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// A limit was refused by the kernel.
    #[error("failed to write {value:?} to {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The error.
        source: std::io::Error,
    },
    /// A limit that this machine's cgroups do not have.
    #[error("cgroup controller {controller} is not available ({wanted})")]
    NoController {
        /// The controller.
        controller: String,
        /// The setting that wants it.
        wanted: String,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    /// systemd did not do what it was asked.
    #[error("systemd: {cause}")]
    Systemd {
        /// What it says.
        cause: String,
    },
    /// A resource value is not valid.
    #[error("invalid resource {field}: {cause}")]
    Invalid {
        /// The field, as in `linux.resources`.
        field: String,
        /// What is wrong.
        cause: String,
    },
}

#[cfg(test)]
mod tests;
