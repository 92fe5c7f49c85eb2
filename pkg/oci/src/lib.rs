//! The OCI runtime: a `config.json` becomes an ordered plan of typed steps, then a container.
//!
//! The whole configuration is checked and turned into a [`plan`] before anything is touched; one
//! process then executes it. See [`protocol`] for what parent and child say to each other.
//!
//! # Who is the parent
//! The container's init (from [`Runtime::create`]) and every process of [`Runtime::exec`] is
//! always a **direct child of the calling process**, which reaps it with `waitpid` (or waits on
//! the returned pidfd). No subreaper is needed. The caller must have one thread only when it
//! calls `create` or `exec`, because the child goes on in the same program image;
//! [`Error::Threads`] tells when it has more.

mod api;
pub mod capability;
mod checkpoint;
pub mod config;
mod create;
pub mod error;
mod exec;
mod hooks;
mod init;
mod netdev;
pub mod plan;
mod protect;
pub mod protocol;
mod rdt;
mod runtime;
pub mod seccomp;
mod seccomp_agent;
mod state;

pub use state::now;

/// The version of the OCI runtime specification that this follows.
pub const OCI_VERSION: &str = "1.3.0";

pub use api::{CreateRequest, Created, Runtime, Started, State, Status, Stdio};
pub use checkpoint::{CgroupMode, CheckpointOptions, CriuOptions, RestoreRequest};
pub use error::Error;
pub use exec::ExecOptions;
pub use knarr_cgroups::{Resources, Stats};
pub use protect::protect_binary;
