//! What is told of sandboxes and containers.

use std::collections::HashMap;

use knarr_cri_api::v1;
use v1::{ContainerState, PodSandboxState};

use crate::container::{Container, Phase};
use crate::sandbox::Sandbox;
use crate::{Cri, spec};

/// CRI's word for a phase.
pub(crate) fn state_of(phase: &Phase) -> ContainerState {
    match phase {
        Phase::Created => ContainerState::ContainerCreated,
        Phase::Running { .. } => ContainerState::ContainerRunning,
        Phase::Exited(_) => ContainerState::ContainerExited,
    }
}

fn sandbox_state(sandbox: &Sandbox) -> PodSandboxState {
    match sandbox.ready() {
        true => PodSandboxState::SandboxReady,
        false => PodSandboxState::SandboxNotready,
    }
}

impl Sandbox {
    pub(crate) fn summary(&self) -> v1::PodSandbox {
        let record = self.record();
        v1::PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: sandbox_state(self).into(),
            created_at: record.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.handler,
        }
    }

    pub(crate) fn status(&self) -> v1::PodSandboxStatus {
        let record = self.record();
        let mut ips = record.ips.into_iter().filter(|_| !record.stopped);
        let options = spec::sandbox_options(&self.config)
            .cloned()
            .unwrap_or_default();
        v1::PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: sandbox_state(self).into(),
            created_at: record.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace {
                    options: Some(options),
                }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.handler,
        }
    }

    /// Facts beyond the API, as JSON, with what the network says of the connection.
    pub(crate) fn info(&self, network: Result<(), String>) -> HashMap<String, String> {
        let record = self.record();
        let spec: serde_json::Value = std::fs::read(self.dir.join("config.json"))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        let info = serde_json::json!({
            "pid": if self.ready() { record.pause_pid } else { 0 },
            "processStatus": if self.ready() { "running" } else { "stopped" },
            "runtimeHandler": record.handler,
            "hostname": record.hostname,
            "cgroupParent": record.cgroup_parent,
            "networkCheck": network.map_or_else(|e| e, |()| "ok".to_owned()),
            "bundle": self.dir,
            "runtimeSpec": spec,
        });
        HashMap::from([("info".to_owned(), info.to_string())])
    }
}

impl Container {
    pub(crate) fn summary(&self) -> v1::Container {
        let (record, config) = (self.record(), self.config());
        v1::Container {
            id: self.id.clone(),
            pod_sandbox_id: record.sandbox,
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: record.image_ref,
            state: state_of(&self.phase.borrow()).into(),
            created_at: record.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: record.image_id,
        }
    }

    pub(crate) fn status(&self) -> v1::ContainerStatus {
        let (record, config, phase) = (self.record(), self.config(), self.phase());
        let mut image = config.image.clone().unwrap_or_default();
        image.image = record.image_name;
        let resources = config.linux.as_ref().and_then(|l| l.resources.clone());
        let mut status = v1::ContainerStatus {
            id: self.id.clone(),
            metadata: config.metadata.clone(),
            state: state_of(&phase).into(),
            created_at: record.created_at,
            image: Some(image),
            image_ref: record.image_ref,
            image_id: record.image_id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: record.log_path.unwrap_or_default(),
            resources: Some(v1::ContainerResources {
                linux: resources,
                windows: None,
            }),
            user: Some(v1::ContainerUser {
                linux: Some(v1::LinuxContainerUser {
                    uid: record.identity.uid.into(),
                    gid: record.identity.gid.into(),
                    supplemental_groups: record
                        .identity
                        .groups
                        .iter()
                        .map(|g| (*g).into())
                        .collect(),
                }),
            }),
            stop_signal: named_signal(record.stop_signal).into(),
            ..v1::ContainerStatus::default()
        };
        match phase {
            Phase::Created => {}
            Phase::Running { started_at, .. } => status.started_at = started_at,
            Phase::Exited(exit) => {
                status.started_at = exit.started_at;
                status.finished_at = exit.finished_at;
                status.exit_code = exit.code;
                status.reason = exit.reason.to_owned();
                status.message = exit.message;
            }
        }
        status
    }

    /// Facts beyond the API, as JSON.
    pub(crate) fn info(&self, cri: &Cri) -> HashMap<String, String> {
        let record = self.record();
        let (pid, shim_pid) = match self.phase() {
            Phase::Running { pid, shim_pid, .. } => (pid, shim_pid),
            _ => (0, 0),
        };
        let spec: serde_json::Value = std::fs::read(self.dir.join("config.json"))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        let layers = cri
            .images
            .find(&record.image_id)
            .ok()
            .flatten()
            .and_then(|image| cri.images.layer_dirs(&image).ok())
            .unwrap_or_default();
        let info = serde_json::json!({
            "sandboxID": record.sandbox,
            "pid": pid,
            "shimPid": shim_pid,
            "removing": false,
            "snapshotKey": self.id,
            "snapshotter": "overlayfs",
            "snapshot": {
                "upper": cri.images.snapshot_dir(&self.id).join("u"),
                "lower": layers,
                "root": self.rootfs(),
            },
            "bundle": self.dir,
            "runtimeSpec": spec,
        });
        HashMap::from([("info".to_owned(), info.to_string())])
    }
}

fn named_signal(number: i32) -> v1::Signal {
    const NAMES: [(i32, &str); 31] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (11, "SIGSEGV"),
        (12, "SIGUSR2"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (16, "SIGSTKFLT"),
        (17, "SIGCHLD"),
        (18, "SIGCONT"),
        (19, "SIGSTOP"),
        (20, "SIGTSTP"),
        (21, "SIGTTIN"),
        (22, "SIGTTOU"),
        (23, "SIGURG"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
        (26, "SIGVTALRM"),
        (27, "SIGPROF"),
        (28, "SIGWINCH"),
        (29, "SIGIO"),
        (30, "SIGPWR"),
        (31, "SIGSYS"),
    ];
    let name = match number {
        34 => "SIGRTMIN".to_owned(),
        35..=49 => format!("SIGRTMINPLUS{}", number - 34),
        50..=63 => format!("SIGRTMAXMINUS{}", 64 - number),
        64 => "SIGRTMAX".to_owned(),
        n => NAMES
            .iter()
            .find(|(known, _)| *known == n)
            .map_or_else(String::new, |(_, name)| (*name).to_owned()),
    };
    v1::Signal::from_str_name(&format!("SIGNAL_{name}")).unwrap_or(v1::Signal::RuntimeDefault)
}
