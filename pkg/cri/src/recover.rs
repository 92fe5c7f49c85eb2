//! Finding everything again after the daemon's death, and cleaning what it was interrupted at.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use knarr_shim::{Shim, Status, read_exit};

use crate::container::{Container, Exit, Phase, start_error};
use crate::flight::blocking;
use crate::process::Process;
use crate::record::{ContainerRecord, Record, SandboxRecord};
use crate::sandbox::Sandbox;
use crate::{Cri, Error};

impl Cri {
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let mut lost = Vec::new();
        for id in names(&self.config.run_dir.join("cri/sandboxes"))? {
            let dir = self.sandbox_dir(&id);
            match SandboxRecord::load(&dir)? {
                Some((record, config)) => {
                    let sandbox = Arc::new(Sandbox::new(dir, record, config));
                    self.watch_pause(&sandbox);
                    self.sandboxes
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(id, sandbox);
                }
                None => lost.push(id),
            }
        }
        let mut found = Vec::new();
        for id in names(&self.config.run_dir.join("cri/containers"))? {
            match ContainerRecord::load(&self.container_dir(&id))? {
                Some((record, config)) if self.sandbox(&record.sandbox).is_ok() => {
                    found.push((id, record, config));
                }
                _ => {
                    tracing::info!(container = id, "removing what is left of a container");
                    self.clean_container(&id).await;
                }
            }
        }
        // Adopting may start shims again: all at once.
        let adopting = found.into_iter().map(|(id, record, config)| async move {
            let dir = self.container_dir(&id);
            let (phase, shim) = self.phase_of(&dir, &record).await;
            let container = Arc::new(Container::new(dir, record, config, phase));
            if let Some(shim) = shim {
                self.watch_container(&container, shim);
            }
            self.containers
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, container);
        });
        futures::future::join_all(adopting).await;
        for id in lost {
            tracing::info!(sandbox = id, "removing what is left of a sandbox");
            self.kill_recorded(&id);
            self.clean_sandbox(&id, true).await;
        }
        self.release_orphans().await
    }

    /// Where a container is in its life, and its shim if there is something to wait for.
    async fn phase_of(&self, dir: &Path, record: &ContainerRecord) -> (Phase, Option<Shim>) {
        if let Some(message) = &record.failed {
            return (
                Phase::Exited(start_error(message.clone(), record.created_at)),
                None,
            );
        }
        if let Ok(Some(exit)) = read_exit(dir) {
            // Its shim may be there still, with the cgroup to delete: the watcher does that.
            return (
                Phase::Exited(Exit::from(&exit)),
                Shim::connect(dir).await.ok(),
            );
        }
        let unknown = |e: &dyn std::fmt::Display| {
            Phase::Exited(Exit {
                code: 255,
                reason: "Unknown",
                message: e.to_string(),
                started_at: 0,
                finished_at: crate::record::now(),
            })
        };
        let shim = match Shim::connect(dir).await {
            Ok(shim) => shim,
            Err(knarr_shim::Error::Gone { .. }) => return (Phase::Created, None),
            Err(e) => return (unknown(&e), None),
        };
        match shim.state().await {
            Ok(state) => match (state.status, &state.exit) {
                (Status::Running, _) => {
                    let phase = Phase::Running {
                        pid: state.pid,
                        shim_pid: state.shim_pid,
                        started_at: state.started_at,
                    };
                    (phase, Some(shim))
                }
                (_, Some(exit)) => (Phase::Exited(Exit::from(exit)), Some(shim)),
                // A start that was interrupted: it can be asked for again.
                (Status::Created, None) => {
                    if let Err(e) = shim.delete().await {
                        tracing::warn!(dir = %dir.display(), error = %e, "could not delete a shim");
                    }
                    for file in ["shim.json", "exit.json", "state.json"] {
                        let _ = std::fs::remove_file(dir.join(file)); // may not be there
                    }
                    (Phase::Created, None)
                }
                (Status::Exited, None) => (unknown(&"the exit record is missing"), Some(shim)),
            },
            Err(e) => (unknown(&e), Some(shim)),
        }
    }

    /// Kills the pause process of a sandbox without a record, should the runtime not know it.
    fn kill_recorded(&self, id: &str) {
        let dir = self.sandbox_dir(id);
        let pid = std::fs::read_to_string(dir.join("pid"))
            .ok()
            .and_then(|t| t.trim().parse().ok());
        let Some(pid) = pid else { return };
        // Only if it is certainly ours: its root is the prepared folder's program.
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        if exe.is_ok_and(|e| e.ends_with("pause"))
            && let Some(start) = crate::process::start_time(pid)
            && let Some(process) = Process::find(pid, start)
        {
            process.kill();
        }
    }

    /// Runtime state, network leases and snapshots that nobody owns.
    async fn release_orphans(self: &Arc<Self>) -> Result<(), Error> {
        let sandboxes: Vec<String> = self.all_sandboxes().iter().map(|s| s.id.clone()).collect();
        let containers: BTreeSet<String> =
            self.all_containers().iter().map(|c| c.id.clone()).collect();
        for id in names(&self.runtime.root)? {
            if containers.contains(&id) || sandboxes.contains(&id) {
                continue;
            }
            if let Err(e) = self.runtime.delete(&id).await {
                tracing::warn!(id, error = %e, "could not delete an orphan of the runtime");
            }
        }
        let alive: Vec<String> = self
            .all_sandboxes()
            .iter()
            .filter(|s| !s.record().stopped)
            .map(|s| s.id.clone())
            .collect();
        if let Err(e) = self.config.network.gc(&alive).await {
            tracing::warn!(error = %e, "could not release orphans of the pod network");
        }
        // What happened to a connection meanwhile is told; its pod is not ended for it.
        let sandboxes = self.all_sandboxes();
        let checks = sandboxes.iter().map(|s| async move {
            if let Err(e) = self.check_network(s).await {
                tracing::warn!(sandbox = s.id, error = %e, "a pod's network is not as it was");
            }
        });
        futures::future::join_all(checks).await;
        let images = self.images.clone();
        blocking(move || Ok(images.retain_snapshots(|id| containers.contains(id))?)).await
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    Ok(entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect())
}
