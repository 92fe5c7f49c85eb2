//! Operations: each runs as its own task and answers by message.
use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceRequirements;
use knarr_cri_api::v1;
use tonic::Code;

use super::{Msg, Worker, start, write};
use crate::{
    cgroup, cri_config,
    events::Kind,
    hook,
    model::CtrState,
    plan::{Action, KillReason, SANDBOX, VOLUMES, Volumes},
    spec, userns,
    volumes::{self, Failed, Prepared, Tokens},
};

/// How an operation ended, or how far it has got.
pub enum Done {
    /// Volumes made, or which failed.
    Volumes(Result<Box<Prepared>, Box<(Failed, Tokens)>>),
    /// A sandbox made, or why not.
    Sandbox(Result<Box<v1::PodSandboxStatus>, String>),
    /// A sandbox stopped, or not.
    Stopped(String, bool),
    /// A sandbox removed, or not.
    SandboxRemoved(String, bool),
    /// A container runs (its postStart hook may still).
    Running {
        /// Its sandbox.
        sandbox: String,
        /// Its status.
        status: Box<v1::ContainerStatus>,
        /// A hook is running.
        hook: bool,
        /// The resources it was made with.
        resources: Box<ResourceRequirements>,
    },
    /// A start ended.
    Started {
        /// The container's name.
        name: String,
        /// Its id, when one was made.
        id: Option<String>,
        /// Why it failed.
        error: Option<start::StartError>,
    },
    /// A container got new resources, or not.
    Resized {
        /// Which instance.
        id: String,
        /// What it has now.
        resources: Option<Box<ResourceRequirements>>,
        /// Why not.
        error: Option<String>,
    },
    /// A container was stopped.
    Killed(String, Option<Box<v1::ContainerStatus>>),
    /// A container was removed, or not.
    Removed(String, bool),
    /// The last step is done.
    Finished,
    /// The last step has to be done again.
    FinishFailed,
}

/// Least time a container gets between SIGTERM and SIGKILL after a long preStop hook.
const LEAST_GRACE: i64 = 2;
/// Pause after a failed sandbox or volume.
const RETRY: SignedDuration = SignedDuration::from_secs(2);

impl Worker {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::PrepareVolumes => self.spawn_volumes(false),
            Action::RunSandbox { attempt } => self.run_sandbox(attempt),
            Action::StopSandbox { id } => self.stop_sandbox(id),
            Action::RemoveSandbox { id } => {
                self.local.removing.insert(id.clone());
                let (sh, tx) = (Arc::clone(&self.sh), self.tx.clone());
                tokio::spawn(async move {
                    let req = v1::RemovePodSandboxRequest {
                        pod_sandbox_id: id.clone(),
                    };
                    let ok = sh.cri.remove_pod_sandbox(req).await.is_ok();
                    let _ = tx.send(Msg::Done(Done::SandboxRemoved(id, ok)));
                });
            }
            Action::Start {
                name,
                attempt,
                after,
                ..
            } => {
                if let Some(ended) = after {
                    self.grow_backoff(&name, ended);
                }
                self.local.starting = Some(name.clone());
                self.spawn_start(&name, attempt);
            }
            Action::Kill { id, name, reason } => self.kill(id, name, reason),
            Action::Resize { id, name } => self.resize(id, &name),
            Action::Remove { id } => {
                self.local.removing.insert(id.clone());
                let (sh, tx) = (Arc::clone(&self.sh), self.tx.clone());
                tokio::spawn(async move {
                    let req = v1::RemoveContainerRequest {
                        container_id: id.clone(),
                    };
                    let ok = match sh.cri.remove_container(req).await {
                        Ok(_) => true,
                        Err(e) => e.code() == Code::NotFound,
                    };
                    let _ = tx.send(Msg::Done(Done::Removed(id, ok)));
                });
            }
            Action::Finish => self.finish(),
        }
    }

    /// Makes the volumes; `again` when they are there and only to be made current.
    pub(super) fn spawn_volumes(&mut self, again: bool) {
        if !again {
            self.local.volumes = Volumes::Preparing;
        }
        if self.volumes_busy {
            self.volumes_again = true;
            return;
        }
        self.volumes_busy = true;
        let (sh, pod, tx) = (Arc::clone(&self.sh), Arc::clone(&self.pod), self.tx.clone());
        let addresses = self.addresses();
        let tokens = self.prepared.tokens.clone();
        tokio::spawn(async move {
            let done = volumes::prepare(&sh, &pod, &addresses, tokens).await;
            let done = done.map(Box::new).map_err(Box::new);
            let _ = tx.send(Msg::Done(Done::Volumes(done)));
        });
    }

    fn run_sandbox(&mut self, attempt: u32) {
        self.local.sandbox_busy = true;
        if attempt > 0 {
            self.sh.recorder.pod(
                &self.pod,
                None,
                Kind::Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
        }
        let (sh, pod, tx) = (Arc::clone(&self.sh), Arc::clone(&self.pod), self.tx.clone());
        tokio::spawn(async move {
            let made = make_sandbox(&sh, &pod, attempt).await;
            let _ = tx.send(Msg::Done(Done::Sandbox(made.map(Box::new))));
        });
    }

    fn stop_sandbox(&mut self, id: String) {
        self.local.sandbox_busy = true;
        let (sh, tx) = (Arc::clone(&self.sh), self.tx.clone());
        tokio::spawn(async move {
            let req = v1::StopPodSandboxRequest {
                pod_sandbox_id: id.clone(),
            };
            let ok = match sh.cri.stop_pod_sandbox(req).await {
                Ok(_) => true,
                Err(e) if e.code() == Code::NotFound => true,
                Err(error) => {
                    tracing::warn!(%error, sandbox = id, "stopping a sandbox");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    false
                }
            };
            let _ = tx.send(Msg::Done(Done::Stopped(id, ok)));
        });
    }

    fn kill(&mut self, id: String, name: String, reason: KillReason) {
        self.local.killing.insert(id.clone());
        let Some((_, c)) = spec::find(&self.pod, &name) else {
            return self.spawn_kill(id, None, 30, None);
        };
        let (message, grace) = match &reason {
            KillReason::Pod | KillReason::SandboxLost => {
                (format!("Stopping container {name}"), self.remaining_grace())
            }
            KillReason::Changed => (
                format!("Container {name} definition changed, will be restarted"),
                spec::grace_period(&self.pod),
            ),
            KillReason::Resize => (
                format!("Container {name} resize requires restart"),
                spec::grace_period(&self.pod),
            ),
            KillReason::Probe(which) => {
                let probe = if *which == "startup" {
                    c.startup_probe.as_ref()
                } else {
                    c.liveness_probe.as_ref()
                };
                (
                    format!("Container {name} failed {which} probe, will be restarted"),
                    probe
                        .and_then(|p| p.termination_grace_period_seconds)
                        .unwrap_or_else(|| spec::grace_period(&self.pod)),
                )
            }
        };
        self.sh
            .recorder
            .pod(&self.pod, Some(&name), Kind::Normal, "Killing", message);
        let pre_stop = c
            .lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.clone())
            .filter(|_| grace > 0 && reason != KillReason::SandboxLost);
        self.spawn_kill(id, pre_stop.map(|h| (c, h)), grace, Some(name));
    }

    /// Changes a running container's limits, and the pod's around it.
    fn resize(&mut self, id: String, name: &str) {
        let Some((_, c)) = spec::find(&self.pod, name) else {
            return;
        };
        self.local.resizing.insert(id.clone());
        let (sh, pod, tx) = (Arc::clone(&self.sh), Arc::clone(&self.pod), self.tx.clone());
        tokio::spawn(async move {
            // wide enough for old and new while both hold
            cgroup::widen(&sh.cfg.cgroup_root, &pod);
            let req = v1::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(crate::resources::container(&pod, &c, sh.node_memory)),
                ..Default::default()
            };
            let done = sh.cri.update_container_resources(req).await;
            cgroup::settle(&sh.cfg.cgroup_root, &pod);
            let (resources, error) = match done {
                Ok(_) => (
                    Some(Box::new(c.resources.clone().unwrap_or_default())),
                    None,
                ),
                Err(e) => (None, Some(start::rpc_text(&e))),
            };
            let _ = tx.send(Msg::Done(Done::Resized {
                id,
                resources,
                error,
            }));
        });
    }

    /// Seconds until the pod has to be gone.
    fn remaining_grace(&self) -> i64 {
        match &self.local.stop {
            Some(s) => {
                let ms = s.deadline.duration_since(Timestamp::now()).as_millis();
                i64::try_from(ms.max(0).saturating_add(500) / 1000).unwrap_or(i64::MAX)
            }
            None => spec::grace_period(&self.pod),
        }
    }

    fn spawn_kill(
        &self,
        id: String,
        pre_stop: Option<(
            k8s_openapi::api::core::v1::Container,
            k8s_openapi::api::core::v1::LifecycleHandler,
        )>,
        grace: i64,
        name: Option<String>,
    ) {
        let (sh, pod, tx) = (Arc::clone(&self.sh), Arc::clone(&self.pod), self.tx.clone());
        let ip = self.addresses().pod.first().cloned().unwrap_or_default();
        tokio::spawn(async move {
            let mut timeout = grace;
            if let Some((c, handler)) = pre_stop {
                let begun = std::time::Instant::now();
                let run = hook::run(&sh, &pod, &c, &id, &ip, &handler);
                let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
                let failed = match tokio::time::timeout(limit, run).await {
                    Ok(Ok(())) => None,
                    Ok(Err(e)) => Some(e),
                    Err(_) => Some("timed out".to_owned()),
                };
                if let Some(error) = failed {
                    tracing::debug!(error, "preStop hook");
                    sh.recorder.pod(
                        &pod,
                        name.as_deref(),
                        Kind::Warning,
                        "FailedPreStopHook",
                        "PreStopHook failed",
                    );
                }
                let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
                timeout = (grace - used).max(LEAST_GRACE);
            }
            let req = v1::StopContainerRequest {
                container_id: id.clone(),
                timeout,
            };
            let stopped = sh.cri.stop_container(req).await;
            let status = match stopped {
                Ok(_) => sh.cri.container(&id).await.ok().flatten(),
                Err(e) if e.code() == Code::NotFound => Some(gone(&id)),
                Err(error) => {
                    tracing::warn!(%error, container = id, "stopping a container");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    None
                }
            };
            let _ = tx.send(Msg::Done(Done::Killed(id, status.map(Box::new))));
        });
    }

    /// The grace period got shorter while containers are being stopped.
    pub(super) fn hurry(&mut self) {
        let grace = spec::grace_period(&self.pod);
        let deadline = Timestamp::now()
            .checked_add(SignedDuration::from_secs(grace))
            .unwrap_or(Timestamp::MAX);
        if let Some(s) = &mut self.local.stop {
            s.deadline = s.deadline.min(deadline);
        }
        let ids: Vec<String> = self.local.killing.iter().cloned().collect();
        for id in ids {
            self.spawn_kill(id, None, grace, None);
        }
    }

    /// The end: last status, volumes and cgroup away, object deleted, sandbox removed.
    fn finish(&mut self) {
        if self.writing || self.volumes_busy {
            return; // its answer plans again
        }
        let delete = self.local.stop.as_ref().is_some_and(|s| s.delete);
        self.local.finished = true;
        self.probes.clear();
        let now = Timestamp::now();
        if delete {
            // the phase that goes with the end
            self.plan.complete = true;
        }
        self.update_status_only(now);
        let (sh, pod, tx) = (Arc::clone(&self.sh), Arc::clone(&self.pod), self.tx.clone());
        let object = self.api_object().map(|(o, uid)| {
            (
                spec::namespace(o).to_owned(),
                spec::name(o).to_owned(),
                uid.to_owned(),
            )
        });
        let status = self.status.clone();
        let old = self.written.clone().or_else(|| self.pod.status.clone());
        let sandboxes: Vec<String> = self.rt.sandboxes.keys().cloned().collect();
        let containers: Vec<String> = self.rt.containers.keys().cloned().collect();
        self.written.clone_from(&self.status);
        self.note("finishing");
        tokio::spawn(async move {
            let uid = spec::uid(&pod).to_owned();
            let mut gone = false;
            if let (Some(client), Some((ns, name, uid)), Some(status)) =
                (sh.client.clone(), &object, status)
                && old.as_ref() != Some(&status)
            {
                match write::store(client, ns, name, uid, old.as_ref(), status).await {
                    write::Outcome::Stored(_) => {}
                    write::Outcome::NoPod => gone = true,
                    write::Outcome::Failed(_) => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        let _ = tx.send(Msg::Done(Done::FinishFailed));
                        return;
                    }
                }
            }
            volumes::remove_volumes(&sh.cfg.pod_dir(&uid)).await;
            cgroup::remove(&sh.cfg.cgroup_root, &pod);
            if !delete {
                let _ = tx.send(Msg::Done(Done::Finished));
                return;
            }
            if let (Some(client), Some((ns, name, uid)), false) = (sh.client.clone(), object, gone)
                && !spec::is_static(&pod)
                && let Err(error) = write::delete(client, &ns, &name, &uid).await
            {
                tracing::warn!(%error, "deleting a pod");
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _ = tx.send(Msg::Done(Done::FinishFailed));
                return;
            }
            for container_id in containers {
                let req = v1::RemoveContainerRequest { container_id };
                let _ = sh.cri.remove_container(req).await;
            }
            for pod_sandbox_id in sandboxes {
                let req = v1::RemovePodSandboxRequest { pod_sandbox_id };
                let _ = sh.cri.remove_pod_sandbox(req).await;
            }
            let logs = sh
                .cfg
                .log_dir(spec::namespace(&pod), spec::name(&pod), &uid);
            let _ = tokio::fs::remove_dir_all(logs).await;
            volumes::remove(sh.cfg.pod_dir(&uid)).await;
            let _ = tx.send(Msg::Done(Done::Finished));
        });
    }

    fn update_status_only(&mut self, now: Timestamp) {
        let writing = std::mem::replace(&mut self.writing, true);
        self.update_status(now);
        self.writing = writing;
    }

    pub(super) fn done(&mut self, done: Done) {
        if let Done::Volumes(_) = &done {
            self.volumes_busy = false;
        }
        match done {
            Done::Volumes(Ok(p)) => {
                self.local.volumes = Volumes::Ready;
                self.prepared = Arc::new(*p);
                self.note("volumes ready");
                if std::mem::take(&mut self.volumes_again) && self.local.stop.is_none() {
                    self.spawn_volumes(true);
                }
            }
            Done::Volumes(Err(e)) => {
                let (failed, tokens) = *e;
                let again = std::mem::take(&mut self.volumes_again);
                self.note(failed.to_string());
                self.sh.recorder.pod(
                    &self.pod,
                    None,
                    Kind::Warning,
                    "FailedMount",
                    failed.to_string(),
                );
                let mut p = (*self.prepared).clone();
                p.tokens = tokens;
                if self.local.volumes == Volumes::Preparing {
                    self.local.volumes = Volumes::Absent;
                } else {
                    // keep what is there and look again later
                    p.refresh = Timestamp::now().checked_add(RETRY * 5).ok();
                }
                self.prepared = Arc::new(p);
                if !again {
                    self.rest(VOLUMES, RETRY);
                }
            }
            Done::Sandbox(Ok(s)) => {
                self.local.sandbox_busy = false;
                self.note(format!("sandbox {} ready", s.id));
                self.rt.merge_sandbox(&s);
            }
            Done::Sandbox(Err(error)) => {
                self.local.sandbox_busy = false;
                self.note(format!("sandbox failed: {error}"));
                self.sh.recorder.pod(
                    &self.pod,
                    None,
                    Kind::Warning,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {error}"),
                );
                self.rest(SANDBOX, RETRY);
            }
            Done::Stopped(id, ok) => {
                self.local.sandbox_busy = false;
                if ok {
                    if let Some(s) = self.rt.sandboxes.get_mut(&id) {
                        s.ready = false;
                    }
                    self.local.stopped.insert(id);
                }
            }
            Done::SandboxRemoved(id, ok) => {
                self.local.removing.remove(&id);
                if ok {
                    self.rt.sandboxes.remove(&id);
                    self.local.stopped.remove(&id);
                }
            }
            Done::Running {
                sandbox,
                status,
                hook,
                resources,
            } => {
                let id = status.id.clone();
                self.rt.merge_container(&sandbox, &status);
                self.note(format!("container {id} runs"));
                let name = status.metadata.map(|m| m.name).unwrap_or_default();
                self.local.waiting.remove(&name);
                self.local.lost_restarts.remove(&name);
                self.local.applied.entry(id.clone()).or_insert(*resources);
                self.keep_probes();
                if let Some(p) = self.local.probed.get_mut(&id) {
                    p.hook = hook;
                }
                self.ended_containers();
            }
            Done::Started { name, id, error } => {
                if self.local.starting.as_deref() == Some(&name) {
                    self.local.starting = None;
                }
                if let Some(p) = id.as_ref().and_then(|id| self.local.probed.get_mut(id)) {
                    p.hook = false;
                }
                match error {
                    None => {
                        self.local.waiting.remove(&name);
                        self.local.retry.remove(&name);
                    }
                    Some(e) => self.start_failed(&name, id, e),
                }
            }
            Done::Resized {
                id,
                resources,
                error,
            } => {
                self.local.resizing.remove(&id);
                match (resources, error) {
                    (Some(r), _) => {
                        self.note(format!("container {id} resized"));
                        self.local.applied.insert(id, *r);
                        if self.local.resizing.is_empty() {
                            self.sh.recorder.pod(
                                &self.pod,
                                None,
                                Kind::Normal,
                                "ResizeCompleted",
                                "Pod resize completed",
                            );
                        }
                    }
                    (None, error) => {
                        let error = error.unwrap_or_default();
                        self.note(format!("resize of {id} failed: {error}"));
                        self.sh.recorder.pod(
                            &self.pod,
                            None,
                            Kind::Warning,
                            "ResizeError",
                            format!("Error resizing pod: {error}"),
                        );
                        self.local.resize_refused = Some(("Error".into(), error));
                    }
                }
            }
            Done::Killed(id, status) => {
                self.local.killing.remove(&id);
                let sandbox = self
                    .rt
                    .containers
                    .get(&id)
                    .map(|c| c.sandbox.clone())
                    .unwrap_or_default();
                if let Some(s) = status {
                    self.rt.merge_container(&sandbox, &s);
                }
                self.note(format!("container {id} stopped"));
                self.ended_containers();
            }
            Done::Removed(id, ok) => {
                self.local.removing.remove(&id);
                if ok {
                    self.rt.containers.remove(&id);
                }
            }
            Done::Finished => {
                self.note("finished");
                self.ended = self.object_gone || self.local.stop.as_ref().is_some_and(|s| s.delete);
            }
            Done::FinishFailed => {
                self.local.finished = false;
                self.written = None;
            }
        }
    }

    /// Nothing is tried again for a while.
    fn rest(&mut self, key: &str, pause: SignedDuration) {
        if let Ok(at) = Timestamp::now().checked_add(pause) {
            self.local.retry.insert(key.to_owned(), at);
        }
    }

    fn start_failed(&mut self, name: &str, id: Option<String>, e: start::StartError) {
        self.note(format!(
            "start of {name} failed: {}: {}",
            e.reason, e.message
        ));
        if let Some(id) = &id
            && let Some(c) = self.rt.containers.get_mut(id)
            && c.state == CtrState::Created
        {
            // never ran: counts as ended, so that the next try is a restart
            c.state = CtrState::Exited;
            c.finished = Some(Timestamp::now());
            c.exit_code = e.exit_code.unwrap_or(128);
            c.reason = e.end_reason.clone().unwrap_or_else(|| "StartError".into());
            c.message = e.message.clone();
        }
        if e.cancelled {
            return;
        }
        self.local
            .waiting
            .insert(name.to_owned(), (e.reason.clone(), e.message.clone()));
        self.rest(name, e.pause);
    }
}

async fn make_sandbox(
    sh: &super::Shared,
    pod: &k8s_openapi::api::core::v1::Pod,
    attempt: u32,
) -> Result<v1::PodSandboxStatus, String> {
    cgroup::make(&sh.cfg.cgroup_root, pod)
        .map_err(|e| format!("unable to ensure pod container exists: {e}"))?;
    let handler = start::runtime_handler(sh, pod).await?;
    userns::check_support(&sh.cri, pod, &handler).await?;
    let config = cri_config::sandbox(sh, pod, attempt)?;
    tokio::fs::create_dir_all(&config.log_directory)
        .await
        .map_err(|e| format!("{}: {e}", config.log_directory))?;
    let id = sh
        .cri
        .run_pod_sandbox(v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler,
        })
        .await
        .map_err(|e| start::rpc_text(&e))?
        .pod_sandbox_id;
    let status = sh
        .cri
        .pod_sandbox_status(v1::PodSandboxStatusRequest {
            pod_sandbox_id: id,
            verbose: false,
        })
        .await
        .map_err(|e| start::rpc_text(&e))?;
    status
        .status
        .ok_or_else(|| "the runtime gave no status".to_owned())
}

/// What is said of a container that the runtime no longer knows.
fn gone(id: &str) -> v1::ContainerStatus {
    v1::ContainerStatus {
        id: id.to_owned(),
        state: v1::ContainerState::ContainerUnknown as i32,
        exit_code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
        ..Default::default()
    }
}
