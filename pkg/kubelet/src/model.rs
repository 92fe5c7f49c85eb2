//! What the runtime says exists: sandboxes and containers of one pod.
//!
//! Facts about a container only ever move forward (created → running → exited), so that late or
//! repeated reports do no harm.
use std::collections::BTreeMap;

use jiff::Timestamp;
use knarr_cri_api::v1;

/// Labels and annotations put on sandboxes and containers, by upstream's names.
pub mod label {
    /// Pod name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Pod namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Pod uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Container name.
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    /// Hash of the container's definition.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Restart count.
    pub const RESTARTS: &str = "io.kubernetes.container.restartCount";
    /// Termination message path.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Termination message policy.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Grace period of the pod.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// A container's life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum CtrState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is gone.
    Exited,
}

/// One container instance.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Ctr {
    /// Runtime's identifier.
    pub id: String,
    /// Sandbox it is in.
    pub sandbox: String,
    /// Name in the pod.
    pub name: String,
    /// How many instances of this name came before.
    pub attempt: u32,
    /// Where in its life it is.
    pub state: CtrState,
    /// When made.
    pub created: Timestamp,
    /// When started.
    pub started: Option<Timestamp>,
    /// When it left.
    pub finished: Option<Timestamp>,
    /// Exit code.
    pub exit_code: i32,
    /// Runtime's word for its end: `OOMKilled`, `Error`, `Completed`.
    pub reason: String,
    /// Runtime's message.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Image as resolved.
    pub image_id: String,
    /// Hash of the definition it was made from.
    pub hash: String,
    /// uid, gid, supplemental groups of its first process.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Termination message, once read.
    pub termination_message: Option<String>,
    /// Log file on the node.
    pub log_path: String,
    /// Host path of its termination message file.
    pub message_file: Option<String>,
    /// Termination message policy.
    pub message_policy: String,
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Sandbox {
    /// Runtime's identifier.
    pub id: String,
    /// How many came before.
    pub attempt: u32,
    /// Whether its pause process and network are there.
    pub ready: bool,
    /// When made.
    pub created: Timestamp,
    /// Addresses, primary first.
    pub ips: Vec<String>,
}

/// Everything the runtime has for one pod.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Runtime {
    /// Sandboxes by id.
    pub sandboxes: BTreeMap<String, Sandbox>,
    /// Containers by id.
    pub containers: BTreeMap<String, Ctr>,
}

/// Nanoseconds since the epoch; 0 is never.
pub fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0)
        .then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok())
        .flatten()
}

impl Runtime {
    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes
            .values()
            .max_by_key(|s| (s.attempt, s.created))
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&Ctr> {
        self.containers
            .values()
            .filter(|c| c.name == name)
            .max_by_key(|c| (c.attempt, c.created))
    }

    /// The newest exited instance that is not `except`.
    pub fn last_exited(&self, name: &str, except: &str) -> Option<&Ctr> {
        self.containers
            .values()
            .filter(|c| c.name == name && c.id != except && c.state == CtrState::Exited)
            .max_by_key(|c| (c.attempt, c.created))
    }

    /// Whether any container's process is there.
    pub fn any_running(&self) -> bool {
        self.containers
            .values()
            .any(|c| c.state == CtrState::Running)
    }

    /// Takes in a sandbox report.
    pub fn merge_sandbox(&mut self, s: &v1::PodSandboxStatus) {
        let ready = s.state == v1::PodSandboxState::SandboxReady as i32;
        let mut ips = Vec::new();
        if let Some(net) = &s.network {
            if !net.ip.is_empty() {
                ips.push(net.ip.clone());
            }
            ips.extend(net.additional_ips.iter().map(|i| i.ip.clone()));
        }
        let new = Sandbox {
            id: s.id.clone(),
            attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
            ready,
            created: timestamp(s.created_at).unwrap_or_default(),
            ips,
        };
        match self.sandboxes.get_mut(&s.id) {
            Some(old) => {
                old.ready &= new.ready;
                if !new.ips.is_empty() {
                    old.ips = new.ips;
                }
            }
            None => {
                self.sandboxes.insert(s.id.clone(), new);
            }
        }
    }

    /// Takes in a container report for a sandbox; returns whether anything moved.
    pub fn merge_container(&mut self, sandbox: &str, s: &v1::ContainerStatus) -> bool {
        let state = match v1::ContainerState::try_from(s.state) {
            Ok(v1::ContainerState::ContainerCreated) => CtrState::Created,
            Ok(v1::ContainerState::ContainerRunning) => CtrState::Running,
            _ => CtrState::Exited,
        };
        let image = s.image.as_ref();
        let new = Ctr {
            id: s.id.clone(),
            sandbox: sandbox.to_owned(),
            name: s
                .metadata
                .as_ref()
                .map(|m| m.name.clone())
                .or_else(|| s.labels.get(label::CONTAINER).cloned())
                .unwrap_or_default(),
            attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
            state,
            created: timestamp(s.created_at).unwrap_or_default(),
            started: timestamp(s.started_at),
            finished: timestamp(s.finished_at),
            exit_code: s.exit_code,
            reason: s.reason.clone(),
            message: s.message.clone(),
            image: image
                .map(|i| {
                    if i.user_specified_image.is_empty() {
                        i.image.clone()
                    } else {
                        i.user_specified_image.clone()
                    }
                })
                .unwrap_or_default(),
            image_id: if s.image_ref.is_empty() {
                s.image_id.clone()
            } else {
                s.image_ref.clone()
            },
            hash: s.annotations.get(label::HASH).cloned().unwrap_or_default(),
            user: s.user.as_ref().and_then(|u| {
                u.linux
                    .as_ref()
                    .map(|l| (l.uid, l.gid, l.supplemental_groups.clone()))
            }),
            termination_message: None,
            log_path: s.log_path.clone(),
            message_file: s
                .annotations
                .get(label::MESSAGE_PATH)
                .and_then(|p| s.mounts.iter().find(|m| &m.container_path == p))
                .map(|m| m.host_path.clone()),
            message_policy: s
                .annotations
                .get(label::MESSAGE_POLICY)
                .cloned()
                .unwrap_or_default(),
        };
        match self.containers.get_mut(&s.id) {
            Some(old) => {
                if new.state <= old.state {
                    return false;
                }
                let sandbox = std::mem::take(&mut old.sandbox);
                let (log, message_file) = (old.log_path.clone(), old.message_file.clone());
                *old = new;
                if !sandbox.is_empty() {
                    old.sandbox = sandbox;
                }
                if old.log_path.is_empty() {
                    old.log_path = log;
                }
                if old.message_file.is_none() {
                    old.message_file = message_file;
                }
                true
            }
            None => {
                self.containers.insert(s.id.clone(), new);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
