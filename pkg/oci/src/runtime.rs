//! The operations.

use std::path::PathBuf;

use crate::api::{CreateRequest, Created, ExecRequest, Runtime, Started, State};
use crate::error::Error;
use knarr_cgroups::{Resources, Stats};

fn soon<T>(what: &str) -> Result<T, Error> {
    Err(Error::Unsupported(what.to_string()))
}

impl Runtime {
    /// A runtime whose containers' states live in `root/<id>/`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// Makes a container from its bundle; its init waits for [`Runtime::start`].
    pub fn create(&self, _req: CreateRequest) -> Result<Created, Error> {
        soon("create")
    }
    /// Lets the user's program run. Returns once `execve` has succeeded or failed.
    pub fn start(&self, _id: &str) -> Result<(), Error> {
        soon("start")
    }
    /// The container's state.
    pub fn state(&self, _id: &str) -> Result<State, Error> {
        soon("state")
    }
    /// All containers under the root, by name.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        soon("list")
    }
    /// Sends a signal to the init, or with `all` to every process of the container.
    pub fn kill(&self, _id: &str, _signal: i32, _all: bool) -> Result<(), Error> {
        soon("kill")
    }
    /// Removes a stopped container (with `force`, kills it first; a missing one is then fine).
    pub fn delete(&self, _id: &str, _force: bool) -> Result<(), Error> {
        soon("delete")
    }
    /// Runs one more process in a container. The process is a child of the caller.
    pub fn exec(&self, _id: &str, _req: ExecRequest) -> Result<Started, Error> {
        soon("exec")
    }
    /// Changes resource limits of a live container.
    pub fn update(
        &self,
        _id: &str,
        _resources: &oci_spec::runtime::LinuxResources,
    ) -> Result<(), Error> {
        soon("update")
    }
    /// As [`Runtime::update`], with the cgroup crate's own type.
    pub fn update_with(&self, _id: &str, _resources: &Resources) -> Result<(), Error> {
        soon("update")
    }
    /// Freezes every process of the container.
    pub fn pause(&self, _id: &str) -> Result<(), Error> {
        soon("pause")
    }
    /// Undoes [`Runtime::pause`].
    pub fn resume(&self, _id: &str) -> Result<(), Error> {
        soon("resume")
    }
    /// Usage, limits, throttling and OOM counters of the container's cgroup.
    pub fn stats(&self, _id: &str) -> Result<Stats, Error> {
        soon("stats")
    }
    /// The pids in the container, as the caller sees them.
    pub fn pids(&self, _id: &str) -> Result<Vec<i32>, Error> {
        soon("pids")
    }
}
