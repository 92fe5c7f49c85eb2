//! Everything but making: start, state, kill, delete, limits.

use std::fs;
use std::os::fd::AsFd;

use knarr_cgroups::{Mode, Resources, Stats, systemd};
use knarr_sys::process;

use crate::api::{Runtime, State, Status};
use crate::error::Error;
use crate::hooks;
use crate::protocol::{self, Message};
use crate::state::{self, Record};

const SIGKILL: i32 = 9;

impl Runtime {
    /// A runtime whose containers' states live in `root/<id>/`.
    pub fn new(root: impl Into<std::path::PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Lets the user's program run. Returns once `execve` has succeeded or failed, so an error
    /// names what is wrong with the program.
    ///
    /// # Errors
    /// [`Error::State`] unless created; [`Error::Init`] when the program cannot be run;
    /// [`Error::Hook`].
    pub fn start(&self, id: &str) -> Result<(), Error> {
        let record = self.load(id)?;
        let refused = |status| Error::State {
            action: "start",
            status,
        };
        let socket = self.folder(id).join("start.sock");
        let Ok(connection) = state::connect(&socket) else {
            return Err(refused(self.status(&record)));
        };
        protocol::send(connection.as_fd(), &Message::Start, None)
            .map_err(|_| refused(self.status(&record)))?;
        match protocol::receive(connection.as_fd()).map_err(|e| Error::os("start", e))? {
            Some((Message::Failed { step, cause, errno }, _)) => {
                return Err(Error::Init { step, cause, errno });
            }
            Some((other, _)) => return Err(crate::create::unexpected(&other)),
            None => {}
        }
        let _ = fs::remove_file(&socket);
        let after = &record.config.hooks.poststart;
        if let Err(e) = hooks::run_all("poststart", after, &record.hook_state(Status::Running)) {
            let _ = self.kill(id, SIGKILL, true);
            return Err(e);
        }
        Ok(())
    }

    /// The container's state.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadState`].
    pub fn state(&self, id: &str) -> Result<State, Error> {
        Ok(self.describe(&self.load(id)?))
    }

    /// All containers under the root, by name. One whose file is unreadable is left out.
    ///
    /// # Errors
    /// [`Error::Os`] when the root cannot be read.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Ok(e) => e,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::os(format!("read {:?}", self.root), e)),
        };
        let mut all: Vec<State> = entries
            .flatten()
            .filter_map(|e| self.state(&e.file_name().into_string().ok()?).ok())
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Sends a signal to the init, or with `all` to every process of the container.
    ///
    /// # Errors
    /// [`Error::State`] when it is stopped (but `all` reaches what is left then, too).
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        let record = self.load(id)?;
        // A container that shares its pid namespace has no init whose end takes all along.
        let everyone = all || (signal == SIGKILL && !record.own_pids);
        if everyone && !record.cgroup.dirs().is_empty() {
            if !record.alive() && !record.cgroup.is_populated() {
                return Err(Error::State {
                    action: "kill",
                    status: Status::Stopped,
                });
            }
            record.cgroup.signal_all(signal)?;
            return Ok(());
        }
        if !record.alive() {
            return Err(Error::State {
                action: "kill",
                status: Status::Stopped,
            });
        }
        let sent = process::pidfd_open(record.pid)
            .and_then(|fd| process::pidfd_send_signal(fd.as_fd(), signal));
        match sent {
            Ok(()) => {}
            Err(knarr_sys::Errno::SRCH) => {
                return Err(Error::State {
                    action: "kill",
                    status: Status::Stopped,
                });
            }
            Err(e) => return Err(Error::os("signal init", e)),
        }
        // The frozen could not die.
        if signal == SIGKILL && record.cgroup.is_frozen() {
            record.cgroup.freeze(false)?;
        }
        Ok(())
    }

    /// Removes a container that is stopped, or was never started; with `force` also a running
    /// one, and a missing one is then fine. Kills whatever is left in its cgroup.
    ///
    /// # Errors
    /// [`Error::State`] when it runs; [`Error::NotFound`].
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let record = match self.load(id) {
            Ok(r) => r,
            Err(Error::NotFound { .. } | Error::BadState { .. }) if force => {
                state::check_id(id)?;
                let _ = state::remove_folder(&self.folder(id));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let status = self.status(&record);
        match status {
            Status::Stopped | Status::Created => {}
            _ if force => {}
            status => {
                return Err(Error::State {
                    action: "delete",
                    status,
                });
            }
        }
        end(&record)?;
        record.cgroup.remove()?;
        if let Some(unit) = &record.unit {
            systemd::stop(unit);
        }
        crate::rdt::remove(&record.rdt);
        state::remove_folder(&self.folder(id))?;
        hooks::run_all(
            "poststop",
            &record.config.hooks.poststop,
            &record.hook_state(Status::Stopped),
        )
    }

    /// Changes resource limits of a live container. What is not given stays.
    ///
    /// # Errors
    /// [`Error::State`] when it is stopped; [`Error::Cgroup`].
    pub fn update(&self, id: &str, resources: &Resources) -> Result<(), Error> {
        let record = self.live(id, "update")?;
        if let Some(unit) = &record.unit {
            systemd::update(unit, resources, record.cgroup.mode() == Mode::V2)?;
        }
        record.cgroup.update(resources)?;
        Ok(())
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// [`Error::State`] unless it is created or running.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        let record = self.load(id)?;
        match self.status(&record) {
            Status::Running | Status::Created => Ok(record.cgroup.freeze(true)?),
            status => Err(Error::State {
                action: "pause",
                status,
            }),
        }
    }

    /// Undoes [`Runtime::pause`].
    ///
    /// # Errors
    /// [`Error::State`] unless it is paused.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        let record = self.load(id)?;
        match self.status(&record) {
            Status::Paused => Ok(record.cgroup.freeze(false)?),
            status => Err(Error::State {
                action: "resume",
                status,
            }),
        }
    }

    /// Usage, limits, throttling and OOM counters of the container's cgroup; also of a stopped
    /// container, until it is deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        Ok(self.load(id)?.cgroup.stats())
    }

    /// The pids in the container, as the caller sees them.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Error> {
        Ok(self.load(id)?.cgroup.pids(true))
    }

    /// The container's cgroup.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn cgroup(&self, id: &str) -> Result<knarr_cgroups::Cgroup, Error> {
        Ok(self.load(id)?.cgroup)
    }

    /// The configuration the container was made from.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn config(&self, id: &str) -> Result<crate::config::Spec, Error> {
        Ok(self.load(id)?.config)
    }

    fn live(&self, id: &str, action: &'static str) -> Result<Record, Error> {
        let record = self.load(id)?;
        match self.status(&record) {
            status @ (Status::Stopped | Status::Creating) => Err(Error::State { action, status }),
            _ => Ok(record),
        }
    }
}

/// Kills all that lives and waits until the init has ended.
fn end(record: &Record) -> Result<(), Error> {
    if record.cgroup.is_frozen() {
        record.cgroup.freeze(false)?;
    }
    if record.alive() {
        if let Ok(fd) = process::pidfd_open(record.pid) {
            let _ = process::pidfd_send_signal(fd.as_fd(), SIGKILL);
            if record.cgroup.is_populated() && !record.own_pids {
                record.cgroup.signal_all(SIGKILL)?;
            }
            let gone = knarr_sys::fs::poll_readable(fd.as_fd(), 10_000)
                .map_err(|e| Error::os("wait for init", e))?;
            if !gone {
                return Err(Error::Unsupported(format!(
                    "ending the init with pid {}: it does not die",
                    record.pid
                )));
            }
        }
    } else if record.cgroup.is_populated() {
        record.cgroup.signal_all(SIGKILL)?;
    }
    Ok(())
}
