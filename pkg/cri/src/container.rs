//! Containers: created on a snapshot, started by a shim, watched until they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knarr_cri_api::v1::{
    ContainerConfig, ContainerEventType, LinuxContainerResources, NamespaceMode, Signal,
};
use knarr_images::{Image, Remap};
use knarr_shim::{ExitRecord, Launch, Shim};
use prost::Message;
use tokio::sync::watch;

use crate::flight::{blocking, detached};
use crate::record::{ContainerRecord, Record, new_id, now, version};
use crate::sandbox::Sandbox;
use crate::spec::{self, user};
use crate::{Cri, Error, cdi};

/// Where a container is in its life.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Made, not started.
    Created,
    /// Its program runs.
    Running {
        pid: i32,
        shim_pid: i32,
        started_at: i64,
    },
    /// It has ended, or could not be started.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
    pub started_at: i64,
    pub finished_at: i64,
}

impl From<&ExitRecord> for Exit {
    fn from(e: &ExitRecord) -> Self {
        let reason = match (e.oom_killed, e.exit_code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            _ => "Error",
        };
        Self {
            code: e.exit_code,
            reason,
            message: String::new(),
            started_at: e.started_at,
            finished_at: e.finished_at,
        }
    }
}

/// A container that is complete.
#[derive(Debug)]
pub(crate) struct Container {
    pub id: String,
    pub dir: PathBuf,
    record: Mutex<ContainerRecord>,
    config: Mutex<Arc<ContainerConfig>>,
    pub phase: watch::Sender<Phase>,
    /// One change at a time.
    pub op: tokio::sync::Mutex<()>,
}

impl Container {
    pub(crate) fn new(
        dir: PathBuf,
        record: ContainerRecord,
        config: ContainerConfig,
        phase: Phase,
    ) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            record: Mutex::new(record),
            config: Mutex::new(Arc::new(config)),
            phase: watch::Sender::new(phase),
            op: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn config(&self) -> Arc<ContainerConfig> {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The shim, if the container runs.
    pub(crate) async fn running(&self) -> Result<Shim, Error> {
        match self.phase() {
            Phase::Running { .. } => Ok(Shim::connect(&self.dir).await?),
            phase => Err(Error::State(format!(
                "container is in {} state",
                crate::status::state_of(&phase).as_str_name()
            ))),
        }
    }

    fn change(
        &self,
        change: impl FnOnce(&mut ContainerRecord, &mut ContainerConfig),
    ) -> Result<(), Error> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slot = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = (**slot).clone();
        let mut next = record.clone();
        change(&mut next, &mut config);
        next.config = config.encode_to_vec();
        next.save(&self.dir)?;
        (*record, *slot) = (next, Arc::new(config));
        Ok(())
    }
}

impl Cri {
    /// Makes a container; gives its id. The same request joins the one in flight, and finds the
    /// one that was made and not yet started.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<String, Error> {
        let sandbox = self.sandbox(sandbox)?;
        let meta = config
            .metadata
            .clone()
            .ok_or_else(|| Error::Invalid("container config must include metadata".to_owned()))?;
        for known in self.containers_of(&sandbox.id) {
            if known.config().metadata.as_ref() != Some(&meta) {
                continue;
            }
            return match known.phase() {
                Phase::Created => Ok(known.id.clone()),
                _ => Err(Error::State(format!(
                    "container {} with name {:?} and attempt {} exists",
                    known.id, meta.name, meta.attempt
                ))),
            };
        }
        let key = format!("create {}/{}/{}", sandbox.id, meta.name, meta.attempt);
        let cri = self.clone();
        let work = async move {
            let id = new_id();
            match cri.build_container(&id, &sandbox, config).await {
                Ok(()) => Ok(id),
                Err(e) => {
                    cri.clean_container(&id).await;
                    Err(e)
                }
            }
        };
        self.flights.join(key, work).await
    }

    async fn build_container(
        self: &Arc<Self>,
        id: &str,
        sandbox: &Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Result<(), Error> {
        if !sandbox.ready() {
            return Err(Error::State(format!(
                "sandbox {:?} is not ready",
                sandbox.id
            )));
        }
        let image = self.image_of(config.image.as_ref())?;
        let target_pid = self.target_pid(&config);
        let (cri, sandbox, id) = (self.clone(), sandbox.clone(), id.to_owned());
        let container = blocking(move || {
            let dir = cri.container_dir(&id);
            fs::create_dir(&dir).map_err(Error::io("create", &dir))?;
            let record = cri.lay_out(&id, &dir, &sandbox, &config, &image, target_pid)?;
            record.save(&dir)?;
            Ok(Arc::new(Container::new(
                dir,
                record,
                config,
                Phase::Created,
            )))
        })
        .await?;
        let id = container.id.clone();
        let pod = container.record().sandbox;
        self.containers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), container);
        self.emit(ContainerEventType::ContainerCreatedEvent, &pod, &id);
        Ok(())
    }

    /// Mounts the root and writes the runtime's configuration.
    fn lay_out(
        &self,
        id: &str,
        dir: &Path,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &Image,
        target_pid: Option<i32>,
    ) -> Result<ContainerRecord, Error> {
        let rootfs = dir.join("rootfs");
        let image_config = self.images.config(image)?.config;
        let record = sandbox.record();
        let userns = spec::userns::wanted(spec::sandbox_options(&sandbox.config))?;
        let namespace = match userns {
            Some(_) => {
                let path = format!("/proc/{}/ns/user", record.pause_pid);
                Some(fs::File::open(&path).map_err(Error::io("open", &path))?)
            }
            None => None,
        };
        let remap = match (userns, &namespace) {
            (Some(userns), Some(namespace)) => Some(userns.remap(namespace)?),
            _ => None,
        };
        self.images.mount(id, image, &rootfs, remap)?;
        let context = config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref());
        let identity = user::resolve(&rootfs, &image_config.user, context)?;
        let image_mounts = self.mount_images(dir, config, remap)?;
        let mut spec = spec::container(
            &spec::Pod {
                config: &sandbox.config,
                id: &sandbox.id,
                pause_pid: record.pause_pid,
                dir: &sandbox.dir,
                hostname: &record.hostname,
                cgroup_parent: &record.cgroup_parent,
            },
            &spec::Container {
                id,
                config,
                image: &image_config,
                rootfs: &rootfs,
                identity: &identity,
                target_pid,
                image_mounts: &image_mounts,
            },
        )?;
        cdi::inject(&self.config.cdi_dirs, config, &mut spec)?;
        let path = dir.join("config.json");
        fs::write(&path, spec.to_string()).map_err(Error::io("write", &path))?;
        let log_path = match (
            sandbox.config.log_directory.as_str(),
            config.log_path.as_str(),
        ) {
            ("", _) | (_, "") => None,
            (dir, name) => Some(format!("{}/{name}", dir.trim_end_matches('/'))),
        };
        if let Some(parent) = log_path.as_deref().map(Path::new).and_then(Path::parent) {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let first = |set: &std::collections::BTreeSet<String>| set.iter().next().cloned();
        let digest = first(&image.digests).unwrap_or_else(|| image.id.clone());
        let asked = config
            .image
            .as_ref()
            .map(|i| i.user_specified_image.clone());
        let asked = asked
            .and_then(|n| knarr_images::Reference::parse(&n).ok())
            .map(|r| r.to_string())
            .filter(|n| image.tags.contains(n));
        let name = asked
            .or_else(|| first(&image.tags))
            .unwrap_or_else(|| digest.clone());
        Ok(ContainerRecord {
            version: version(),
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            created_at: now(),
            image_id: image.id.clone(),
            image_ref: digest,
            image_name: name,
            identity,
            stop_signal: stop_signal(config.stop_signal, &image_config.stop_signal)?,
            log_path,
            failed: None,
            config: config.encode_to_vec(),
        })
    }

    /// Mounts image volumes; by index of the request's mounts.
    fn mount_images(
        &self,
        dir: &Path,
        config: &ContainerConfig,
        remap: Option<Remap<'_>>,
    ) -> Result<Vec<Option<PathBuf>>, Error> {
        let mut out = vec![None; config.mounts.len()];
        for (i, mount) in config.mounts.iter().enumerate() {
            let Some(spec) = mount.image.as_ref().filter(|s| !s.image.is_empty()) else {
                continue;
            };
            let image = self.image_of(Some(spec))?;
            let target = dir.join(format!("image{i}"));
            self.images.mount_read_only(&image, &target, remap)?;
            let path = match mount.image_sub_path.trim_matches('/') {
                "" => target,
                sub => {
                    let path = fs::canonicalize(target.join(sub))
                        .map_err(Error::io("image volume's sub-path", target.join(sub)))?;
                    if !path.starts_with(&target) {
                        return Err(Error::Invalid(format!(
                            "the sub-path {sub:?} leads out of the image"
                        )));
                    }
                    path
                }
            };
            out[i] = Some(path);
        }
        Ok(out)
    }

    fn image_of(&self, spec: Option<&knarr_cri_api::v1::ImageSpec>) -> Result<Image, Error> {
        let name = spec.map(|s| s.image.as_str()).unwrap_or_default();
        self.images.find(name)?.ok_or_else(|| Error::NotFound {
            kind: "image",
            id: name.to_owned(),
        })
    }

    /// The init of the container whose PID namespace the new one joins.
    fn target_pid(&self, config: &ContainerConfig) -> Option<i32> {
        let options = config
            .linux
            .as_ref()?
            .security_context
            .as_ref()?
            .namespace_options
            .as_ref()?;
        if options.pid != NamespaceMode::Target as i32 {
            return None;
        }
        match self.container(&options.target_id).ok()?.phase() {
            Phase::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Starts a container. No error if it runs already.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let cri = self.clone();
        detached(async move {
            let _op = container.op.lock().await;
            match container.phase() {
                Phase::Running { .. } => return Ok(()),
                Phase::Exited(_) => {
                    return Err(Error::State(
                        "container is in CONTAINER_EXITED state".to_owned(),
                    ));
                }
                Phase::Created => {}
            }
            let pod = container.record().sandbox;
            match cri.launch(&container).await {
                Ok(()) => {
                    cri.emit(
                        ContainerEventType::ContainerStartedEvent,
                        &pod,
                        &container.id,
                    );
                    Ok(())
                }
                Err(e) => {
                    let message = e.to_string();
                    let time = now();
                    container.change(|r, _| r.failed = Some(message.clone()))?;
                    container
                        .phase
                        .send_replace(Phase::Exited(start_error(message, time)));
                    if let Ok(shim) = Shim::connect(&container.dir).await {
                        let _ = shim.delete().await; // the start's error is the one that matters
                    }
                    cri.emit(
                        ContainerEventType::ContainerStoppedEvent,
                        &pod,
                        &container.id,
                    );
                    Err(e)
                }
            }
        })
        .await
    }

    async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let record = container.record();
        let config = container.config();
        let sandbox = self.sandbox(&record.sandbox)?;
        if !sandbox.ready() {
            return Err(Error::State(format!(
                "sandbox {:?} is not running",
                sandbox.id
            )));
        }
        let launch = Launch {
            shim: self.config.shim.clone(),
            id: container.id.clone(),
            bundle: container.dir.clone(),
            dir: container.dir.clone(),
            runtime_root: self.runtime.root.clone(),
            runtime: self.handler(&sandbox.record().handler)?,
            log_path: record.log_path.map(PathBuf::from),
            terminal: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
        };
        let (shim, created) = Shim::launch(launch).await?;
        shim.start().await?;
        container.phase.send_replace(Phase::Running {
            pid: created.pid,
            shim_pid: created.shim_pid,
            started_at: now(),
        });
        self.watch_container(container, shim);
        let (images, image) = (self.images.clone(), record.image_id);
        tokio::task::spawn_blocking(move || {
            if let Err(e) = images.touch(&image) {
                tracing::debug!(error = %e, "could not note an image's use");
            }
        });
        Ok(())
    }

    /// Notes a container's end when it comes.
    pub(crate) fn watch_container(self: &Arc<Self>, container: &Arc<Container>, shim: Shim) {
        let (cri, container) = (Arc::downgrade(self), Arc::downgrade(container));
        tokio::spawn(async move {
            let ended = shim.wait().await;
            let (Some(cri), Some(container)) = (cri.upgrade(), container.upgrade()) else {
                return;
            };
            let exit = match ended {
                Ok(record) => Exit::from(&record),
                Err(e) => {
                    tracing::warn!(container = container.id, error = %e, "the shim is lost");
                    Exit {
                        code: 255,
                        reason: "Unknown",
                        message: e.to_string(),
                        started_at: 0,
                        finished_at: now(),
                    }
                }
            };
            container.phase.send_replace(Phase::Exited(exit));
            let pod = container.record().sandbox;
            cri.emit(
                ContainerEventType::ContainerStoppedEvent,
                &pod,
                &container.id,
            );
            // Its cgroup and its shim are of no more use.
            if let Err(e) = shim.delete().await {
                tracing::warn!(container = container.id, error = %e, "could not delete the shim");
            }
        });
    }

    /// Asks a container to leave, and kills it when the time is over. No error if it is gone.
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        id: &str,
        timeout: i64,
    ) -> Result<(), Error> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        let cri = self.clone();
        detached(async move {
            let Phase::Running { .. } = container.phase() else {
                return Ok(());
            };
            if let Ok(seconds) = u64::try_from(timeout)
                && seconds > 0
            {
                let signal = container.record().stop_signal;
                if send(&container, signal, false).await? {
                    let mut phase = container.phase.subscribe();
                    let ended = phase.wait_for(|p| matches!(p, Phase::Exited(_)));
                    if tokio::time::timeout(Duration::from_secs(seconds), ended)
                        .await
                        .is_ok()
                    {
                        return Ok(());
                    }
                }
            }
            cri.kill_and_wait(&container).await
        })
        .await
    }

    /// Kills all of a container and waits for its end.
    pub(crate) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<(), Error> {
        let mut phase = container.phase.subscribe();
        loop {
            if !matches!(*phase.borrow_and_update(), Phase::Running { .. }) {
                return Ok(());
            }
            send(container, 9, true).await?;
            // A process that is being born may miss a signal to all; ask again.
            let ended = phase.wait_for(|p| !matches!(p, Phase::Running { .. }));
            if tokio::time::timeout(Duration::from_secs(10), ended)
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
    }

    /// Removes a container, killing it first if it runs. No error if it is gone.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        let cri = self.clone();
        detached(async move {
            let _op = container.op.lock().await;
            cri.kill_and_wait(&container).await?;
            ContainerRecord::forget(&container.dir)?;
            let known = cri
                .containers
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&container.id);
            if known.is_some() {
                let pod = container.record().sandbox;
                cri.emit(
                    ContainerEventType::ContainerDeletedEvent,
                    &pod,
                    &container.id,
                );
                let id = container.id.clone();
                tokio::spawn(async move { cri.clean_container(&id).await });
            }
            Ok(())
        })
        .await
    }

    /// Takes away whatever there is of a container without a record.
    pub(crate) async fn clean_container(&self, id: &str) {
        let dir = self.container_dir(id);
        let warn = |what: &str, e: &dyn std::fmt::Display| {
            tracing::warn!(container = id, error = %e, "cleaning up: {what}");
        };
        match Shim::connect(&dir).await {
            Ok(shim) => {
                if let Err(e) = shim.delete().await {
                    warn("shim", &e);
                }
            }
            Err(knarr_shim::Error::Gone { .. }) => {}
            Err(e) => warn("shim", &e),
        }
        let (images, name) = (self.images.clone(), id.to_owned());
        let done = blocking(move || {
            images.unmount(&name, &dir.join("rootfs"))?;
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with("image") {
                    knarr_images::unmount(&entry.path())?;
                }
            }
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("remove", &dir)(e))
                }
                _ => Ok(()),
            }
        })
        .await;
        if let Err(e) = done {
            warn("folder", &e);
        }
    }

    /// Changes a container's limits.
    pub(crate) async fn update_resources(
        self: &Arc<Self>,
        id: &str,
        limits: LinuxContainerResources,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        detached(async move {
            let _op = container.op.lock().await;
            let phase = container.phase();
            if matches!(phase, Phase::Exited(_)) {
                return Err(Error::State(
                    "container is in CONTAINER_EXITED state".to_owned(),
                ));
            }
            if matches!(phase, Phase::Running { .. }) {
                let shim = container.running().await?;
                shim.update(spec::resources::json(&limits)).await?;
            } else {
                rewrite_limits(&container.dir, &container.config(), &limits)?;
            }
            container.change(|_, config| {
                let linux = config.linux.get_or_insert_default();
                spec::resources::merge(linux.resources.get_or_insert_default(), &limits);
            })
        })
        .await
    }
}

/// Puts changed limits into the configuration of a container that was not started.
fn rewrite_limits(
    dir: &Path,
    config: &ContainerConfig,
    limits: &LinuxContainerResources,
) -> Result<(), Error> {
    let mut all = config
        .linux
        .clone()
        .unwrap_or_default()
        .resources
        .unwrap_or_default();
    spec::resources::merge(&mut all, limits);
    let path = dir.join("config.json");
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let bad = |e: serde_json::Error| Error::Record {
        path: path.clone(),
        reason: e.to_string(),
    };
    let mut spec: serde_json::Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let mut resources = spec::resources::json(&all);
    resources["devices"] = spec["linux"]["resources"]["devices"].clone();
    spec["linux"]["resources"] = resources;
    fs::write(&path, spec.to_string()).map_err(Error::io("write", &path))
}

/// Sends a signal; false if there is nobody any more.
async fn send(container: &Container, signal: i32, all: bool) -> Result<bool, Error> {
    let shim = match Shim::connect(&container.dir).await {
        Ok(shim) => shim,
        Err(knarr_shim::Error::Gone { .. }) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    match shim.kill(signal, all).await {
        Ok(()) => Ok(true),
        Err(e) if e.refusal() == knarr_shim::Refusal::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// How a container ends that never ran.
pub(crate) fn start_error(message: String, time: i64) -> Exit {
    Exit {
        code: 128,
        reason: "StartError",
        message,
        started_at: 0,
        finished_at: time,
    }
}

/// The number of the signal that asks a container to leave.
fn stop_signal(asked: i32, image: &str) -> Result<i32, Error> {
    let name = match Signal::try_from(asked) {
        Ok(Signal::RuntimeDefault) => image,
        Ok(signal) => signal.as_str_name().trim_start_matches("SIGNAL_"),
        Err(_) => return Err(Error::Invalid(format!("unknown stop signal {asked}"))),
    };
    if name.is_empty() {
        return Ok(15);
    }
    if let Ok(number) = name.parse::<i32>() {
        return Ok(number);
    }
    signal_number(name).ok_or_else(|| Error::Invalid(format!("unknown stop signal {name:?}")))
}

fn signal_number(name: &str) -> Option<i32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper
        .strip_prefix("SIG")
        .unwrap_or(&upper)
        .replace("PLUS", "+")
        .replace("MINUS", "-");
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Some(at) = NAMES.iter().position(|n| *n == bare) {
        return i32::try_from(at + 1).ok();
    }
    match bare.as_str() {
        "IOT" => return Some(6),
        "CLD" => return Some(17),
        "POLL" => return Some(29),
        _ => {}
    }
    let (base, rest) = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(rest), _) => (34, rest),
        (_, Some(rest)) => (64, rest),
        _ => return None,
    };
    let offset: i32 = if rest.is_empty() {
        0
    } else {
        rest.parse().ok()?
    };
    Some(base + offset).filter(|n| (34..=64).contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        assert_eq!(stop_signal(0, "").unwrap(), 15);
        assert_eq!(stop_signal(0, "SIGQUIT").unwrap(), 3);
        assert_eq!(stop_signal(0, "3").unwrap(), 3);
        assert_eq!(stop_signal(Signal::Sigint as i32, "SIGQUIT").unwrap(), 2);
        assert_eq!(signal_number("SIGRTMIN+3"), Some(37));
        assert_eq!(signal_number("SIGRTMAXMINUS1"), Some(63));
        assert!(stop_signal(0, "SIGNONSENSE").is_err());
    }
}
