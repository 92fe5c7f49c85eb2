//! The pod's status as the API shows it. Pure.
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod,
        PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    model::{Ctr, CtrState, Runtime},
    plan::{Local, Plan},
    spec::{self, Restart, Role},
};

/// Facts about the node that every status needs.
#[derive(Clone, Debug)]
pub struct Host {
    /// `status.hostIP`.
    pub ip: String,
    /// Scheme of container identifiers.
    pub runtime: String,
}

/// The status of `pod`, starting from `old` (what the API server has or had).
pub fn status(
    pod: &Pod,
    rt: &Runtime,
    local: &Local,
    plan: &Plan,
    old: &PodStatus,
    host: &Host,
    now: Timestamp,
) -> PodStatus {
    let view = View {
        pod,
        rt,
        local,
        plan,
        old,
        host,
    };
    let inits = view.list(spec::inits(pod), old.init_container_statuses.as_deref());
    let mains = view.list(spec::mains(pod), old.container_statuses.as_deref());
    let ephemerals: Vec<Container> = spec::ephemerals(pod)
        .iter()
        .map(spec::ephemeral_as_container)
        .collect();
    let ephemerals = view.list(&ephemerals, old.ephemeral_container_statuses.as_deref());
    let mut phase = view.phase(&inits, &mains);
    // a pod that ended stays ended
    if let Some(p @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        phase = p;
    }
    let mut s = PodStatus {
        phase: Some(phase.into()),
        observed_generation: pod.metadata.generation,
        qos_class: Some(spec::qos(pod).as_str().into()),
        start_time: Some(old.start_time.clone().unwrap_or_else(|| whole(now))),
        host_ip: Some(host.ip.clone()),
        host_ips: Some(vec![HostIP { ip: host.ip.clone() }]),
        resize: None,
        message: old.message.clone(),
        reason: old.reason.clone(),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    if let Some((reason, message)) = &local.verdict {
        s.reason = Some(reason.clone());
        s.message = Some(message.clone());
    }
    let ips: Vec<String> = if spec::host_network(pod) {
        vec![host.ip.clone()]
    } else {
        match rt.sandbox().filter(|s| !s.ips.is_empty()) {
            Some(s) => s.ips.clone(),
            None => Vec::new(),
        }
    };
    if ips.is_empty() {
        // ended pods keep showing the address they had
        if matches!(phase, "Succeeded" | "Failed") || local.stop.is_some() {
            s.pod_ip = old.pod_ip.clone();
            s.pod_ips = old.pod_ips.clone();
        }
    } else if rt.sandbox().is_some() {
        s.pod_ip = ips.first().cloned();
        s.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    s.conditions = Some(view.conditions(phase, &inits, &mains, now));
    if !inits.is_empty() {
        s.init_container_statuses = Some(inits);
    }
    if !mains.is_empty() {
        s.container_statuses = Some(mains);
    }
    if !ephemerals.is_empty() {
        s.ephemeral_container_statuses = Some(ephemerals);
    }
    s
}

/// A time without fractions, as the API stores it.
pub fn whole(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

struct View<'a> {
    pod: &'a Pod,
    rt: &'a Runtime,
    local: &'a Local,
    plan: &'a Plan,
    old: &'a PodStatus,
    host: &'a Host,
}

impl View<'_> {
    fn list(&self, specs: &[Container], old: Option<&[ContainerStatus]>) -> Vec<ContainerStatus> {
        specs
            .iter()
            .map(|c| {
                let old = old.unwrap_or_default().iter().find(|s| s.name == c.name);
                self.container(c, old)
            })
            .collect()
    }

    fn container(&self, c: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        let role = spec::find(self.pod, &c.name).map_or(Role::Main, |(r, _)| r);
        let latest = self.rt.latest(&c.name);
        let mut s = ContainerStatus {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            ..ContainerStatus::default()
        };
        let waiting = |reason: &str, message: Option<String>| ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.into()),
                message,
            }),
            ..ContainerState::default()
        };
        let default =
            if spec::inits(self.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let Some(i) = latest else {
            // nothing in the runtime: never made, or made before the run folder was lost
            if let Some(old) = old {
                s.restart_count = old.restart_count;
                s.last_state = old.last_state.clone();
                let ended = old.state.as_ref().and_then(|s| s.terminated.clone());
                let over = self.local.stop.is_some()
                    || matches!(self.old.phase.as_deref(), Some("Succeeded" | "Failed"));
                if let (Some(t), true) = (ended, over || self.local.finished) {
                    let mut keep = old.clone();
                    keep.ready = role == Role::Init && t.exit_code == 0;
                    keep.started = Some(false);
                    return keep;
                }
            }
            if let Some(n) = self.local.lost_restarts.get(&c.name) {
                s.restart_count = i32::try_from(*n).unwrap_or(i32::MAX);
            }
            s.started = Some(false);
            s.state = Some(match self.local.waiting.get(&c.name) {
                Some((reason, message)) => {
                    waiting(reason, (!message.is_empty()).then(|| message.clone()))
                }
                None => waiting(default, None),
            });
            self.fill_resources(c, None, &mut s);
            return s;
        };
        s.container_id = Some(format!("{}://{}", self.host.runtime, i.id));
        if !i.image.is_empty() && !i.image.starts_with("sha256:") {
            s.image = i.image.clone();
        }
        s.image_id = i.image_id.clone();
        s.restart_count = i32::try_from(i.attempt).unwrap_or(i32::MAX);
        s.user = i.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: Some(groups.clone()),
            }),
        });
        let probed = self.local.probed.get(&i.id);
        match i.state {
            CtrState::Created => s.state = Some(waiting(default, None)),
            CtrState::Running => {
                s.state = Some(ContainerState {
                    running: Some(ContainerStateRunning {
                        started_at: i.started.map(whole),
                    }),
                    ..ContainerState::default()
                });
                let started = probed.is_some_and(|p| p.started && !p.hook);
                s.started = Some(started);
                s.ready = started && probed.is_some_and(|p| p.ready) && role != Role::Init;
            }
            CtrState::Exited => {
                let terminated = self.terminated(i);
                s.ready = role == Role::Init && i.exit_code == 0;
                s.started = Some(false);
                let held = self
                    .plan
                    .held
                    .get(&c.name)
                    .or_else(|| self.local.waiting.get(&c.name));
                match held {
                    Some((reason, message)) if self.local.stop.is_none() && !self.plan.complete => {
                        s.state =
                            Some(waiting(reason, (!message.is_empty()).then(|| message.clone())));
                        s.last_state = Some(terminated);
                    }
                    _ => s.state = Some(terminated),
                }
            }
        }
        if s.last_state.is_none() {
            s.last_state = self
                .rt
                .last_exited(&c.name, &i.id)
                .map(|d| self.terminated(d))
                .or_else(|| {
                    let old = old.filter(|o| o.restart_count <= s.restart_count)?;
                    if old.container_id == s.container_id {
                        return old.last_state.clone();
                    }
                    old.state
                        .clone()
                        .filter(|s| s.terminated.is_some())
                        .or_else(|| old.last_state.clone())
                });
        }
        self.fill_resources(c, Some(i), &mut s);
        s
    }

    fn terminated(&self, i: &Ctr) -> ContainerState {
        let reason = if i.reason.is_empty() {
            if i.exit_code == 0 { "Completed" } else { "Error" }
        } else {
            &i.reason
        };
        let message = i
            .termination_message
            .clone()
            .filter(|m| !m.is_empty())
            .or_else(|| (!i.message.is_empty()).then(|| i.message.clone()));
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(format!("{}://{}", self.host.runtime, i.id)),
                exit_code: i.exit_code,
                finished_at: i.finished.map(whole),
                started_at: i.started.map(whole),
                message,
                reason: Some(reason.into()),
                signal: None,
            }),
            ..ContainerState::default()
        }
    }

    fn fill_resources(&self, c: &Container, i: Option<&Ctr>, s: &mut ContainerStatus) {
        let applied = i.and_then(|i| self.local.applied.get(&i.id));
        if i.is_some() {
            let r = applied.or(c.resources.as_ref()).cloned().unwrap_or_default();
            s.allocated_resources = r.requests.clone();
            s.resources = Some(r);
        }
        let mounts: Vec<_> = c
            .volume_mounts
            .iter()
            .flatten()
            .map(|m| k8s_openapi::api::core::v1::VolumeMountStatus {
                mount_path: m.mount_path.clone(),
                name: m.name.clone(),
                read_only: m.read_only.filter(|r| *r),
                recursive_read_only: m.read_only.filter(|r| *r).map(|_| {
                    m.recursive_read_only
                        .clone()
                        .unwrap_or_else(|| "Disabled".into())
                }),
                ..Default::default()
            })
            .collect();
        if i.is_some() && !mounts.is_empty() {
            s.volume_mounts = Some(mounts);
        }
    }

    fn phase(&self, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> &'static str {
        if self.local.verdict.is_some() {
            return "Failed";
        }
        let policy = spec::pod_restart(self.pod);
        let mut pending_init = 0;
        let mut failed_init = 0;
        let end = |s: &Option<ContainerState>| {
            s.as_ref()
                .and_then(|s| s.terminated.as_ref())
                .map(|t| t.exit_code)
        };
        let is_running =
            |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
        for (c, s) in spec::inits(self.pod).iter().zip(inits) {
            if spec::is_sidecar(c) {
                if is_running(s) {
                    if s.started != Some(true) {
                        pending_init += 1;
                    }
                } else if end(&s.state).is_none() {
                    pending_init += 1;
                }
                continue;
            }
            match (end(&s.state), end(&s.last_state)) {
                (Some(0), _) => {}
                (Some(_), _) => failed_init += 1,
                (None, Some(code)) if code != 0 && !is_running(s) => failed_init += 1,
                _ => pending_init += 1,
            }
        }
        let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
        for s in mains {
            if is_running(s) {
                running += 1;
            } else if let Some(code) = end(&s.state) {
                stopped += 1;
                succeeded += i32::from(code == 0);
            } else if end(&s.last_state).is_some() {
                stopped += 1;
            } else {
                waiting += 1;
            }
        }
        let started_any = running + stopped > 0;
        let over = self.local.stop.as_ref().is_some_and(|s| s.delete)
            && !self.rt.any_running()
            && self.local.starting.is_none();
        if failed_init > 0 && (policy == Restart::Never || self.plan.complete) {
            return "Failed";
        }
        if over && !started_any && !self.rt.containers.is_empty() {
            return "Failed";
        }
        if pending_init + failed_init > 0 && !started_any {
            return "Pending";
        }
        if waiting > 0 && !over {
            return "Pending";
        }
        if running > 0 {
            return "Running";
        }
        if stopped > 0 {
            if over || self.plan.complete {
                // sidecars are waited for
                if self.rt.any_running() {
                    return "Running";
                }
                return if stopped == succeeded { "Succeeded" } else { "Failed" };
            }
            return "Running";
        }
        "Pending"
    }

    fn conditions(
        &self,
        phase: &str,
        inits: &[ContainerStatus],
        mains: &[ContainerStatus],
        now: Timestamp,
    ) -> Vec<PodCondition> {
        let sandbox_ok = self.rt.sandbox().is_some_and(|s| s.ready)
            && self.local.stop.is_none()
            && !matches!(phase, "Succeeded" | "Failed");
        let mut out = vec![
            if sandbox_ok {
                condition("PodReadyToStartContainers", true, None, None)
            } else {
                let why = if self.rt.sandbox().is_none() {
                    "no pod sandbox exists"
                } else {
                    "pod sandbox is not ready"
                };
                condition(
                    "PodReadyToStartContainers",
                    false,
                    Some("PodSandboxNotReady"),
                    Some(why.into()),
                )
            },
            self.initialized(phase, inits, mains),
        ];
        let containers = self.containers_ready(phase, inits, mains);
        let mut ready = PodCondition {
            type_: "Ready".into(),
            ..containers.clone()
        };
        if containers.status == "True" {
            let unmet = self.unmet_gates();
            if !unmet.is_empty() {
                ready.status = "False".into();
                ready.reason = Some("ReadinessGatesNotReady".into());
                ready.message = Some(unmet.join(", "));
            }
        }
        out.push(ready);
        out.push(containers);
        out.push(condition("PodScheduled", true, None, None));
        if let Some((reason, message)) = &self.local.resize_refused {
            let t = if reason == "Error" { "PodResizeInProgress" } else { "PodResizePending" };
            out.push(condition(t, true, Some(reason), Some(message.clone())));
        } else if !self.local.resizing.is_empty() {
            out.push(condition("PodResizeInProgress", true, None, None));
        }
        for c in &mut out {
            c.observed_generation = self.pod.metadata.generation;
            let old = self
                .old
                .conditions
                .iter()
                .flatten()
                .find(|o| o.type_ == c.type_);
            c.last_transition_time = match old {
                Some(o) if o.status == c.status => o.last_transition_time.clone(),
                _ => None,
            }
            .or_else(|| Some(whole(now)));
            c.last_probe_time = old.and_then(|o| o.last_probe_time.clone());
        }
        // conditions that belong to others stay as they are
        let foreign: Vec<PodCondition> = self
            .old
            .conditions
            .iter()
            .flatten()
            .filter(|o| out.iter().all(|c| c.type_ != o.type_))
            .filter(|o| !o.type_.starts_with("PodResize"))
            .cloned()
            .collect();
        out.extend(foreign);
        out
    }

    fn unmet_gates(&self) -> Vec<String> {
        let mut unmet = Vec::new();
        for gate in spec::spec(self.pod).readiness_gates.iter().flatten() {
            let t = &gate.condition_type;
            let conditions = self.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
            match conditions.into_iter().flatten().find(|c| &c.type_ == t) {
                None => unmet.push(format!(
                    "corresponding condition of pod readiness gate \"{t}\" does not exist."
                )),
                Some(c) if c.status != "True" => unmet.push(format!(
                    "the status of pod readiness gate \"{t}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => {}
            }
        }
        unmet
    }

    fn initialized(
        &self,
        phase: &str,
        inits: &[ContainerStatus],
        mains: &[ContainerStatus],
    ) -> PodCondition {
        let t = "Initialized";
        if phase == "Succeeded" {
            return condition(t, true, Some("PodCompleted"), None);
        }
        let begun = mains.iter().any(|s| {
            s.state
                .iter()
                .chain(&s.last_state)
                .any(|s| s.running.is_some() || s.terminated.is_some())
        });
        if begun {
            return condition(t, true, None, None);
        }
        let incomplete: Vec<&str> = spec::inits(self.pod)
            .iter()
            .zip(inits)
            .filter(|(c, s)| {
                if spec::is_sidecar(c) {
                    s.started != Some(true)
                } else {
                    !s.ready
                }
            })
            .map(|(c, _)| c.name.as_str())
            .collect();
        if incomplete.is_empty() {
            return condition(t, true, None, None);
        }
        condition(
            t,
            false,
            Some("ContainersNotInitialized"),
            Some(format!(
                "containers with incomplete status: [{}]",
                incomplete.join(" ")
            )),
        )
    }

    fn containers_ready(
        &self,
        phase: &str,
        inits: &[ContainerStatus],
        mains: &[ContainerStatus],
    ) -> PodCondition {
        let t = "ContainersReady";
        match phase {
            "Succeeded" => return condition(t, false, Some("PodCompleted"), None),
            "Failed" => return condition(t, false, Some("PodFailed"), None),
            _ => {}
        }
        let sidecars = spec::inits(self.pod)
            .iter()
            .zip(inits)
            .filter(|(c, _)| spec::is_sidecar(c))
            .map(|(_, s)| s);
        let unready: Vec<&str> = sidecars
            .chain(mains)
            .filter(|s| !s.ready)
            .map(|s| s.name.as_str())
            .collect();
        if unready.is_empty() {
            return condition(t, true, None, None);
        }
        condition(
            t,
            false,
            Some("ContainersNotReady"),
            Some(format!(
                "containers with unready status: [{}]",
                unready.join(" ")
            )),
        )
    }
}

fn condition(t: &str, ok: bool, reason: Option<&str>, message: Option<String>) -> PodCondition {
    PodCondition {
        type_: t.into(),
        status: if ok { "True" } else { "False" }.into(),
        reason: reason.map(Into::into),
        message,
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests;
