//! Starting one container: image, configuration, create, start, postStart.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    core::v1::{Container, Pod},
    node::v1::RuntimeClass,
};
use knarr_cri_api::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Msg, Shared, Worker, ops::Done};
use crate::{
    credentials,
    cri_config::{self, ContainerInput},
    downward::Addresses,
    events::Kind,
    hook,
    plan::{BACKOFF_FIRST, BACKOFF_MAX},
    spec,
    volumes::Prepared,
};

/// Why a container did not start.
#[derive(Clone, Debug)]
pub struct StartError {
    /// The waiting reason: `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    /// The waiting message.
    pub message: String,
    /// When to try again.
    pub pause: SignedDuration,
    /// Exit code that the instance gets, when one was made.
    pub exit_code: Option<i32>,
    /// Reason of that instance's end.
    pub end_reason: Option<String>,
    /// The pod is being stopped; nothing went wrong.
    pub cancelled: bool,
}

/// Pause after a configuration or creation error.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);

impl StartError {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        StartError {
            reason: reason.into(),
            message: message.into(),
            pause: PAUSE,
            exit_code: None,
            end_reason: None,
            cancelled: false,
        }
    }

    fn cancelled() -> Self {
        StartError {
            cancelled: true,
            ..StartError::new("", "")
        }
    }
}

/// The pod's sandbox cannot be described.
fn unusable(why: String) -> StartError {
    StartError::new("CreateContainerConfigError", why)
}

/// What is remembered about pulling an image for a pod.
#[derive(Clone, Debug)]
pub struct PullState {
    delay: SignedDuration,
    until: Timestamp,
    error: String,
}

/// A runtime's refusal in the form that upstream shows.
pub fn rpc_text(s: &Status) -> String {
    let code = match s.code() {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
        Code::Unknown => "Unknown",
    };
    format!("rpc error: code = {code} desc = {}", s.message())
}

/// The handler of the pod's runtime class; empty for the default.
pub async fn runtime_handler(sh: &Shared, pod: &Pod) -> Result<String, String> {
    let Some(name) = spec::spec(pod)
        .runtime_class_name
        .as_deref()
        .filter(|n| !n.is_empty())
    else {
        return Ok(String::new());
    };
    let Some(client) = sh.client.clone() else {
        return Err(format!("RuntimeClass \"{name}\" needs an API server"));
    };
    kube::Api::<RuntimeClass>::all(client)
        .get(name)
        .await
        .map(|c| c.handler)
        .map_err(|e| format!("failed to get sandbox runtime: {e}"))
}

struct Start {
    sh: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    attempt: u32,
    sandbox: String,
    sandbox_attempt: u32,
    prepared: Arc<Prepared>,
    addresses: Addresses,
    pulls: Arc<Mutex<HashMap<String, PullState>>>,
    target: Option<String>,
    cancel: CancellationToken,
    tx: mpsc::UnboundedSender<Msg>,
}

impl Worker {
    pub(super) fn spawn_start(&mut self, name: &str, attempt: u32) {
        let (Some((_, container)), Some(sandbox)) =
            (spec::find(&self.pod, name), self.rt.sandbox())
        else {
            self.local.starting = None;
            return;
        };
        self.starting_with = container.resources.clone().unwrap_or_default();
        let target = spec::ephemerals(&self.pod)
            .iter()
            .find(|e| e.name == name)
            .and_then(|e| e.target_container_name.as_deref())
            .and_then(|t| self.rt.latest(t))
            .map(|c| c.id.clone());
        let s = Start {
            sh: Arc::clone(&self.sh),
            pod: Arc::clone(&self.pod),
            container,
            attempt,
            sandbox: sandbox.id.clone(),
            sandbox_attempt: sandbox.attempt,
            prepared: Arc::clone(&self.prepared),
            addresses: self.addresses(),
            pulls: Arc::clone(&self.pulls),
            target,
            cancel: self.cancel.clone(),
            tx: self.tx.clone(),
        };
        tokio::spawn(async move {
            let mut id = None;
            let error = s.run(&mut id).await.err();
            let _ = s.tx.send(Msg::Done(Done::Started {
                name: s.container.name.clone(),
                id,
                error,
            }));
        });
    }
}

impl Start {
    async fn run(&self, made: &mut Option<String>) -> Result<(), StartError> {
        let (sh, pod, c) = (&self.sh, &self.pod, &self.container);
        let image = tokio::select! {
            i = self.image() => i?,
            () = self.cancel.cancelled() => return Err(StartError::cancelled()),
        };
        for m in c.volume_mounts.iter().flatten() {
            if let Some((reference, policy)) = self
                .prepared
                .volumes
                .get(&m.name)
                .and_then(|v| v.image.as_ref())
            {
                let volume = Container {
                    name: c.name.clone(),
                    image: Some(reference.clone()),
                    image_pull_policy: policy.clone(),
                    ..Container::default()
                };
                tokio::select! {
                    i = self.ensure(&volume) => { i?; }
                    () = self.cancel.cancelled() => return Err(StartError::cancelled()),
                }
            }
        }
        let input = ContainerInput {
            pod,
            container: c,
            attempt: self.attempt,
            image: &image,
            volumes: &self.prepared.volumes,
            addresses: &self.addresses,
            target: self.target.clone(),
        };
        let config = tokio::select! {
            r = cri_config::container(sh, input) => r.map_err(|e| {
                let message = e.to_string();
                self.event(Kind::Warning, "Failed", format!("Error: {message}"));
                StartError::new("CreateContainerConfigError", message)
            })?,
            () = self.cancel.cancelled() => return Err(StartError::cancelled()),
        };
        if self.cancel.is_cancelled() {
            return Err(StartError::cancelled());
        }
        let created = sh
            .cri
            .create_container(v1::CreateContainerRequest {
                pod_sandbox_id: self.sandbox.clone(),
                config: Some(config),
                sandbox_config: Some(
                    cri_config::sandbox(sh, pod, self.sandbox_attempt).map_err(unusable)?,
                ),
            })
            .await
            .map_err(|e| {
                let message = rpc_text(&e);
                self.event(Kind::Warning, "Failed", format!("Error: {message}"));
                StartError::new("CreateContainerError", message)
            })?;
        let id = created.container_id;
        *made = Some(id.clone());
        self.event(Kind::Normal, "Created", "Container created");
        let started = sh
            .cri
            .start_container(v1::StartContainerRequest {
                container_id: id.clone(),
            })
            .await;
        let status = sh.cri.container(&id).await.ok().flatten();
        if let Err(e) = started {
            let message = rpc_text(&e);
            self.event(Kind::Warning, "Failed", format!("Error: {message}"));
            if let Some(status) = status {
                self.running(status, false);
            }
            return Err(StartError {
                pause: SignedDuration::ZERO,
                ..StartError::new("RunContainerError", message)
            });
        }
        let hook = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        if let Some(status) = status {
            self.running(status, hook.is_some());
        }
        self.event(Kind::Normal, "Started", "Container started");
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.addresses.pod.first().cloned().unwrap_or_default();
        let ended = tokio::select! {
            r = hook::run(sh, pod, c, &id, &ip, hook) => r,
            () = self.cancel.cancelled() => return Err(StartError::cancelled()),
        };
        if let Err(error) = ended {
            tracing::debug!(error, "postStart hook");
            self.event(Kind::Warning, "FailedPostStartHook", "PostStartHook failed");
            self.event(
                Kind::Normal,
                "Killing",
                format!("FailedPostStartHook: Stopping container {}", c.name),
            );
            let req = v1::StopContainerRequest {
                container_id: id.clone(),
                timeout: spec::grace_period(pod),
            };
            let _ = sh.cri.stop_container(req).await;
            if let Ok(Some(status)) = sh.cri.container(&id).await {
                self.running(status, false);
            }
            return Err(StartError {
                pause: SignedDuration::ZERO,
                ..StartError::new("PostStartHookError", error)
            });
        }
        Ok(())
    }

    fn running(&self, status: v1::ContainerStatus, hook: bool) {
        let _ = self.tx.send(Msg::Done(Done::Running {
            sandbox: self.sandbox.clone(),
            status: Box::new(status),
            hook,
            resources: Box::new(self.container.resources.clone().unwrap_or_default()),
        }));
    }

    fn event(&self, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.sh
            .recorder
            .pod(&self.pod, Some(&self.container.name), kind, reason, message);
    }

    async fn image(&self) -> Result<v1::Image, StartError> {
        self.ensure(&self.container).await
    }

    /// The image of `c`, pulled if its policy says so.
    async fn ensure(&self, c: &Container) -> Result<v1::Image, StartError> {
        let wanted = c.image.clone().unwrap_or_default();
        let policy = c
            .image_pull_policy
            .as_deref()
            .unwrap_or_else(|| default_policy(&wanted));
        let there = self.look(&wanted).await?;
        if let (Some(image), true) = (&there, policy != "Always") {
            self.event(
                Kind::Normal,
                "Pulled",
                format!("Container image \"{wanted}\" already present on machine and can be accessed by the pod"),
            );
            return Ok(image.clone());
        }
        if policy == "Never" {
            let message =
                format!("Container image \"{wanted}\" is not present with pull policy of Never");
            self.event(Kind::Warning, "ErrImageNeverPull", &message);
            self.event(Kind::Warning, "Failed", "Error: ErrImageNeverPull");
            return Err(StartError::new("ErrImageNeverPull", message));
        }
        self.pull(&wanted).await?;
        self.look(&wanted).await?.ok_or_else(|| {
            StartError::new("ImageInspectError", format!("image \"{wanted}\" vanished"))
        })
    }

    async fn look(&self, image: &str) -> Result<Option<v1::Image>, StartError> {
        let req = v1::ImageStatusRequest {
            image: Some(v1::ImageSpec {
                image: image.to_owned(),
                user_specified_image: image.to_owned(),
                ..Default::default()
            }),
            verbose: false,
        };
        match self.sh.cri.image_status(req).await {
            Ok(r) => Ok(r.image),
            Err(e) if e.code() == Code::NotFound => Ok(None),
            Err(e) if e.code() == Code::InvalidArgument => {
                let message = format!(
                    "Failed to apply default image tag \"{image}\": {}",
                    e.message()
                );
                self.event(Kind::Warning, "InspectFailed", &message);
                self.event(Kind::Warning, "Failed", "Error: InvalidImageName");
                Err(StartError::new("InvalidImageName", message))
            }
            Err(e) => {
                let message = format!("Failed to inspect image \"{image}\": {}", rpc_text(&e));
                self.event(Kind::Warning, "InspectFailed", &message);
                Err(StartError::new("ImageInspectError", message))
            }
        }
    }

    async fn pull(&self, image: &str) -> Result<(), StartError> {
        let now = Timestamp::now();
        let state = self
            .pulls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(image)
            .cloned();
        if let Some(s) = state.as_ref().filter(|s| now < s.until) {
            let text = format!("Back-off pulling image \"{image}\"");
            self.event(Kind::Normal, "BackOff", &text);
            self.event(Kind::Warning, "Failed", "Error: ImagePullBackOff");
            return Err(StartError {
                pause: s.until.duration_since(now),
                ..StartError::new("ImagePullBackOff", format!("{text}: {}", s.error))
            });
        }
        self.event(
            Kind::Normal,
            "Pulling",
            format!("Pulling image \"{image}\""),
        );
        let begun = Instant::now();
        let pulled = self.pull_with_credentials(image).await;
        self.sh.images_changed.notify_one();
        match pulled {
            Ok(()) => {
                self.pulls
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(image);
                let size = self.look(image).await?.map_or(0, |i| i.size);
                let took = go_time(begun.elapsed());
                self.event(
                    Kind::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size} bytes."
                    ),
                );
                Ok(())
            }
            Err(error) => {
                let text = rpc_text(&error);
                let delay = state
                    .filter(|s| now.duration_since(s.until) < BACKOFF_MAX * 2)
                    .map_or(BACKOFF_FIRST, |s| (s.delay * 2).min(BACKOFF_MAX));
                let at = Timestamp::now();
                let message = format!("Failed to pull image \"{image}\": {text}");
                self.event(Kind::Warning, "Failed", &message);
                self.event(Kind::Warning, "Failed", "Error: ErrImagePull");
                self.pulls
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(
                        image.to_owned(),
                        PullState {
                            delay,
                            until: at.checked_add(delay).unwrap_or(at),
                            error: format!("ErrImagePull: {text}"),
                        },
                    );
                // seen soon as ImagePullBackOff, tried again when that is over
                Err(StartError {
                    pause: SignedDuration::from_secs(1),
                    ..StartError::new("ErrImagePull", text)
                })
            }
        }
    }

    /// Pulls with each credential that fits, then without.
    async fn pull_with_credentials(&self, image: &str) -> Result<(), Status> {
        let mut tries: Vec<Option<v1::AuthConfig>> =
            credentials::of_pod(&self.sh, &self.pod, image)
                .await
                .into_iter()
                .map(Some)
                .collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = Status::unknown("nothing tried");
        for auth in tries {
            let req = v1::PullImageRequest {
                image: Some(v1::ImageSpec {
                    image: image.to_owned(),
                    user_specified_image: image.to_owned(),
                    ..Default::default()
                }),
                auth,
                sandbox_config: Some(
                    cri_config::sandbox(&self.sh, &self.pod, 0)
                        .map_err(Status::failed_precondition)?,
                ),
            };
            match self.sh.cri.pull_image(req).await {
                Ok(_) => return Ok(()),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// The policy of an image without one: Always for `latest`.
fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// A duration as Go prints it, to the millisecond.
fn go_time(d: std::time::Duration) -> String {
    let ms = d.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    if ms < 60_000 {
        return format!("{:.3}s", d.as_secs_f64())
            .replace("000s", "s")
            .replace(".s", "s");
    }
    format!("{}m{}s", ms / 60_000, ms / 1000 % 60)
}
