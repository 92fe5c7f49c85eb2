//! The decision: what to do next for one pod. Pure: no clock, no I/O.
//!
//! `plan(pod, runtime, local, now)` looks at what is wanted, what the runtime has, and what this
//! kubelet already has under way, and names the next actions. Calling it again before anything
//! has changed names nothing that is still under way, so the caller may plan after every event.
//!
//! Order of a pod's life: volumes and sandbox (together) → init containers one by one, sidecars
//! among them until `started` → containers → (exit, back-off, restart)* → stop: containers, then
//! sidecars last to first, then the sandbox → finish.
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::{
    model::{Ctr, CtrState, Runtime},
    quantity,
    spec::{self, Role},
};

/// First pause between two restarts, and between two failed pulls.
pub const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Longest such pause.
pub const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(300);

/// How long to wait before something is tried again; doubles, forgets after twice the longest.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Backoff {
    /// The present pause, in milliseconds when shown.
    #[serde(serialize_with = "as_millis")]
    pub delay: SignedDuration,
    /// When it last grew.
    pub updated: Timestamp,
}

fn as_millis<S: serde::Serializer>(d: &SignedDuration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_i128(d.as_millis())
}

impl Backoff {
    /// Whether the pause has been forgotten for something that happened at `when`.
    fn expired(&self, when: Timestamp) -> bool {
        when.duration_since(self.updated) > BACKOFF_MAX * 2
    }

    /// Until when to wait after something ended at `ended`; `None` when not at all.
    pub fn until(entry: Option<&Backoff>, ended: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = entry.filter(|b| !b.expired(ended))?;
        let until = ended.checked_add(entry.delay).ok()?;
        (now < until).then_some(until)
    }

    /// The pause after one more try at `now`, of something that ended at `ended`.
    pub fn next(entry: Option<&Backoff>, ended: Timestamp, now: Timestamp) -> Backoff {
        let delay = match entry.filter(|b| !b.expired(ended)) {
            Some(b) => (b.delay * 2).min(BACKOFF_MAX),
            None => BACKOFF_FIRST,
        };
        Backoff { delay, updated: now }
    }
}

/// What probes have found about one container instance.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Probed {
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
    /// A probe wants it killed: which (`liveness`, `startup`).
    pub failed: Option<&'static str>,
    /// The postStart hook has not ended yet.
    pub hook: bool,
}

/// Why the whole pod is being stopped.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Stop {
    /// When it has to be over.
    pub deadline: Timestamp,
    /// Whether the pod object goes when all is stopped (deletion), or stays (it failed).
    pub delete: bool,
}

/// State of the pod's volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Volumes {
    /// Not made.
    #[default]
    Absent,
    /// Being made.
    Preparing,
    /// Usable.
    Ready,
}

/// What this kubelet knows and does about the pod, apart from the runtime's facts.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Local {
    /// The volumes.
    pub volumes: Volumes,
    /// A sandbox is being made or stopped.
    pub sandbox_busy: bool,
    /// The container being started.
    pub starting: Option<String>,
    /// Container ids being killed.
    pub killing: BTreeSet<String>,
    /// Containers and sandboxes being removed.
    pub removing: BTreeSet<String>,
    /// Sandboxes that have been stopped.
    pub stopped: BTreeSet<String>,
    /// Restart back-off by container name.
    pub backoff: BTreeMap<String, Backoff>,
    /// Not to be tried again before; by container name, or [`SANDBOX`], [`VOLUMES`].
    pub retry: BTreeMap<String, Timestamp>,
    /// Why a container waits, from the last try: reason and message.
    pub waiting: BTreeMap<String, (String, String)>,
    /// Probe findings by container id.
    pub probed: BTreeMap<String, Probed>,
    /// The pod is being stopped.
    pub stop: Option<Stop>,
    /// The kubelet failed the pod: reason and message.
    pub verdict: Option<(String, String)>,
    /// The last step was done; nothing more to do.
    pub finished: bool,
    /// Restart counts that the runtime no longer knows, by container name.
    pub lost_restarts: BTreeMap<String, u32>,
    /// Resources that running instances have, by container id.
    pub applied: BTreeMap<String, ResourceRequirements>,
    /// Instances whose resources are being changed.
    pub resizing: BTreeSet<String>,
    /// The changed resources do not fit: reason and message.
    pub resize_refused: Option<(String, String)>,
}

/// Key of [`Local::retry`] for the sandbox.
pub const SANDBOX: &str = "/sandbox";
/// Key of [`Local::retry`] for the volumes.
pub const VOLUMES: &str = "/volumes";

/// Why one container is killed, which decides its event and its grace period.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub enum KillReason {
    /// The pod is stopped.
    Pod,
    /// The sandbox it lived in is gone.
    SandboxLost,
    /// Its definition changed.
    Changed,
    /// A probe failed: which.
    Probe(&'static str),
    /// Its resources changed in a way that it has to be restarted for.
    Resize,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub enum Action {
    /// Make the volumes' contents.
    PrepareVolumes,
    /// Make a sandbox.
    RunSandbox {
        /// How many came before.
        attempt: u32,
    },
    /// Stop a sandbox (its containers are dead).
    StopSandbox {
        /// Which.
        id: String,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// Which.
        id: String,
    },
    /// Pull, create and start a container.
    Start {
        /// Which.
        name: String,
        /// Its role.
        role: Role,
        /// How many instances came before.
        attempt: u32,
        /// When the former instance ended, for the back-off.
        after: Option<Timestamp>,
    },
    /// Run preStop, then stop a container.
    Kill {
        /// Which instance.
        id: String,
        /// Its name.
        name: String,
        /// Why.
        reason: KillReason,
    },
    /// Give a running container its new resources.
    Resize {
        /// Which instance.
        id: String,
        /// Its name.
        name: String,
    },
    /// Remove a dead container.
    Remove {
        /// Which instance.
        id: String,
    },
    /// All is stopped: clean up, last status, delete the object.
    Finish,
}

/// What to do now and when to look again.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Plan {
    /// Actions, in order.
    pub actions: Vec<Action>,
    /// When to plan again even if nothing happens.
    pub wake: Option<Timestamp>,
    /// Containers held back, with reason and message (`CrashLoopBackOff`).
    pub held: BTreeMap<String, (String, String)>,
    /// All containers have ended for good.
    pub complete: bool,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// The next actions for `pod`. See the module's text.
pub fn plan(pod: &Pod, rt: &Runtime, local: &Local, now: Timestamp) -> Plan {
    let mut p = Plan::default();
    if local.finished {
        return p;
    }
    if local.stop.is_some() {
        stop_pod(pod, rt, local, &mut p);
        return p;
    }
    p.complete = is_complete(pod, rt);
    if p.complete {
        stop_pod(pod, rt, local, &mut p);
        return p;
    }
    if local.volumes == Volumes::Absent {
        match not_yet(local, VOLUMES, now) {
            Some(at) => p.wake_at(at),
            None => p.actions.push(Action::PrepareVolumes),
        }
    }
    let sandbox = rt.sandbox();
    let Some(ready) = sandbox.filter(|s| s.ready) else {
        replace_sandbox(rt, local, now, &mut p);
        return p;
    };
    tidy(rt, local, &ready.id, &mut p);
    if local.volumes != Volumes::Ready {
        return p;
    }
    start_ephemerals(pod, rt, local, now, &mut p);
    if init_phase(pod, rt, local, &ready.id, now, &mut p) {
        for c in spec::mains(pod) {
            keep_running(pod, c, Role::Main, rt, local, &ready.id, now, &mut p);
        }
    }
    only_one_start(local, &mut p);
    p
}

/// When something failed and is to rest, until when.
fn not_yet(local: &Local, key: &str, now: Timestamp) -> Option<Timestamp> {
    local.retry.get(key).copied().filter(|at| *at > now)
}

/// Whether every container has ended and none is to be started again.
pub fn is_complete(pod: &Pod, rt: &Runtime) -> bool {
    let mains = spec::mains(pod);
    let ended = |c: &Container, role| {
        rt.latest(&c.name).is_some_and(|i| {
            i.state == CtrState::Exited && !spec::should_restart(pod, c, role, i.exit_code)
        })
    };
    if spec::inits(pod).iter().filter(|c| !spec::is_sidecar(c)).any(|c| {
        // an init container that failed for good
        ended(c, Role::Init) && rt.latest(&c.name).is_some_and(|i| i.exit_code != 0)
    }) {
        return true;
    }
    !mains.is_empty() && mains.iter().all(|c| ended(c, Role::Main))
}

/// Replaces a missing or lost sandbox.
fn replace_sandbox(rt: &Runtime, local: &Local, now: Timestamp, p: &mut Plan) {
    for c in rt.containers.values() {
        if c.state == CtrState::Running && !local.killing.contains(&c.id) {
            p.actions.push(Action::Kill {
                id: c.id.clone(),
                name: c.name.clone(),
                reason: KillReason::SandboxLost,
            });
        }
    }
    if rt.any_running() || local.sandbox_busy {
        return;
    }
    let old = rt.sandbox();
    if let Some(old) = old.filter(|s| !local.stopped.contains(&s.id)) {
        p.actions.push(Action::StopSandbox { id: old.id.clone() });
        return;
    }
    match not_yet(local, SANDBOX, now) {
        Some(at) => p.wake_at(at),
        None => p.actions.push(Action::RunSandbox {
            attempt: old.map_or(0, |s| s.attempt + 1),
        }),
    }
}

/// Removes what is no longer needed: old sandboxes, and all but the last dead instance.
fn tidy(rt: &Runtime, local: &Local, current: &str, p: &mut Plan) {
    for c in rt.containers.values() {
        if c.state == CtrState::Running || local.removing.contains(&c.id) {
            continue;
        }
        let newest = rt.latest(&c.name);
        let is_newest = newest.is_some_and(|n| n.id == c.id);
        let last_dead = newest.and_then(|n| rt.last_exited(&c.name, &n.id));
        if !is_newest && last_dead.is_none_or(|l| l.id != c.id) {
            p.actions.push(Action::Remove { id: c.id.clone() });
        }
    }
    for s in rt.sandboxes.values() {
        let used = rt.containers.values().any(|c| c.sandbox == s.id);
        if s.id != current && !s.ready && !used && !local.removing.contains(&s.id) {
            p.actions.push(Action::RemoveSandbox { id: s.id.clone() });
        }
    }
}

fn start_ephemerals(pod: &Pod, rt: &Runtime, local: &Local, now: Timestamp, p: &mut Plan) {
    for e in spec::ephemerals(pod) {
        if rt.latest(&e.name).is_none() {
            try_start(&e.name, Role::Ephemeral, None, rt, local, now, p);
        }
    }
}

/// Walks the init containers; true when the ordinary containers may run.
fn init_phase(
    pod: &Pod,
    rt: &Runtime,
    local: &Local,
    sandbox: &str,
    now: Timestamp,
    p: &mut Plan,
) -> bool {
    let initialized = spec::mains(pod).iter().any(|c| {
        rt.containers
            .values()
            .any(|i| i.name == c.name && i.sandbox == sandbox && i.state != CtrState::Created)
    });
    for c in spec::inits(pod) {
        let here = rt.latest(&c.name).filter(|i| i.sandbox == sandbox);
        if spec::is_sidecar(c) {
            keep_running(pod, c, Role::Sidecar, rt, local, sandbox, now, p);
            let started = here.is_some_and(|i| {
                i.state == CtrState::Running
                    && local.probed.get(&i.id).is_some_and(|s| s.started && !s.hook)
            });
            if !started && !initialized {
                return false;
            }
            continue;
        }
        if initialized {
            continue;
        }
        match here {
            Some(i) if i.state == CtrState::Exited && i.exit_code == 0 => continue,
            Some(i) if i.state == CtrState::Running => {
                check_running(c, i, local, p);
                return false;
            }
            Some(i) if i.state == CtrState::Exited => {
                restart(pod, c, Role::Init, i, rt, local, now, p);
                return false;
            }
            _ => {
                try_start(&c.name, Role::Init, None, rt, local, now, p);
                return false;
            }
        }
    }
    true
}

/// Starts, restarts or kills a container that is to run.
#[allow(clippy::too_many_arguments)]
fn keep_running(
    pod: &Pod,
    c: &Container,
    role: Role,
    rt: &Runtime,
    local: &Local,
    sandbox: &str,
    now: Timestamp,
    p: &mut Plan,
) {
    match rt.latest(&c.name) {
        Some(i) if i.state == CtrState::Running => check_running(c, i, local, p),
        Some(i) if i.state == CtrState::Exited => {
            let again = role == Role::Sidecar
                || spec::should_restart(pod, c, role, i.exit_code)
                || (i.sandbox != sandbox && i.reason == "ContainerStatusUnknown");
            if again {
                restart(pod, c, role, i, rt, local, now, p);
            }
        }
        _ => try_start(&c.name, role, None, rt, local, now, p),
    }
}

fn check_running(c: &Container, i: &Ctr, local: &Local, p: &mut Plan) {
    if local.killing.contains(&i.id) {
        return;
    }
    let reason = if !i.hash.is_empty() && i.hash != spec::container_hash(c) {
        KillReason::Changed
    } else if let Some(probe) = local.probed.get(&i.id).and_then(|s| s.failed) {
        KillReason::Probe(probe)
    } else {
        match resize(c, i, local) {
            Some(true) => KillReason::Resize,
            Some(false) => {
                p.actions.push(Action::Resize {
                    id: i.id.clone(),
                    name: c.name.clone(),
                });
                return;
            }
            None => return,
        }
    };
    p.actions.push(Action::Kill {
        id: i.id.clone(),
        name: c.name.clone(),
        reason,
    });
}

/// Whether an instance is to get other resources, and if so, by a restart.
fn resize(c: &Container, i: &Ctr, local: &Local) -> Option<bool> {
    let have = local.applied.get(&i.id)?;
    if local.resize_refused.is_some() || local.resizing.contains(&i.id) {
        return None;
    }
    let empty = ResourceRequirements::default();
    let want = c.resources.as_ref().unwrap_or(&empty);
    let changed = |name: &str| {
        let get = |r: &ResourceRequirements, limits: bool| {
            let list = if limits { &r.limits } else { &r.requests };
            list.as_ref().and_then(|l| l.get(name)).cloned()
        };
        [true, false].into_iter().any(|l| match (get(have, l), get(want, l)) {
            (Some(a), Some(b)) => !quantity::same(&a, &b),
            (a, b) => a.is_some() != b.is_some(),
        })
    };
    let names: Vec<&str> = ["cpu", "memory"].into_iter().filter(|n| changed(n)).collect();
    if names.is_empty() {
        return None;
    }
    Some(c.resize_policy.iter().flatten().any(|r| {
        r.restart_policy == "RestartContainer" && names.contains(&r.resource_name.as_str())
    }))
}

#[allow(clippy::too_many_arguments)]
fn restart(
    pod: &Pod,
    c: &Container,
    role: Role,
    dead: &Ctr,
    rt: &Runtime,
    local: &Local,
    now: Timestamp,
    p: &mut Plan,
) {
    if local.starting.as_deref() == Some(&c.name) {
        return; // its restart is under way, and has grown the pause already
    }
    let ended = dead.finished.unwrap_or(dead.created);
    let entry = local.backoff.get(&c.name);
    if let Some(until) = Backoff::until(entry, ended, now) {
        let delay = entry.map_or(0, |b| b.delay.as_secs());
        p.held.insert(
            c.name.clone(),
            (
                "CrashLoopBackOff".into(),
                format!(
                    "back-off {} restarting failed container={} pod={}",
                    go_duration(delay),
                    c.name,
                    spec::format_pod(pod)
                ),
            ),
        );
        p.wake_at(until);
        return;
    }
    try_start(&c.name, role, Some(ended), rt, local, now, p);
}

/// Whole seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(secs: i64) -> String {
    match (secs / 3600, secs % 3600 / 60, secs % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

fn try_start(
    name: &str,
    role: Role,
    after: Option<Timestamp>,
    rt: &Runtime,
    local: &Local,
    now: Timestamp,
    p: &mut Plan,
) {
    if let Some(at) = not_yet(local, name, now) {
        p.wake_at(at);
        return;
    }
    let attempt = match rt.latest(name) {
        Some(i) => i.attempt + 1,
        None => local.lost_restarts.get(name).copied().unwrap_or(0),
    };
    p.actions.push(Action::Start {
        name: name.to_owned(),
        role,
        attempt,
        after,
    });
}

/// Starts go one at a time, in the order of the specification.
fn only_one_start(local: &Local, p: &mut Plan) {
    let mut busy = local.starting.is_some();
    p.actions.retain(|a| {
        let start = matches!(a, Action::Start { .. });
        let keep = !start || !busy;
        busy |= start;
        keep
    });
}

/// Stops containers, then sidecars from last to first, then the sandbox.
fn stop_pod(pod: &Pod, rt: &Runtime, local: &Local, p: &mut Plan) {
    let sidecars: Vec<&str> = spec::inits(pod)
        .iter()
        .filter(|c| spec::is_sidecar(c))
        .map(|c| c.name.as_str())
        .collect();
    let mut running: Vec<&Ctr> = rt
        .containers
        .values()
        .filter(|c| c.state == CtrState::Running)
        .collect();
    running.sort_by(|a, b| a.name.cmp(&b.name));
    let first: Vec<&&Ctr> = running
        .iter()
        .filter(|c| !sidecars.contains(&c.name.as_str()))
        .collect();
    let next: Vec<&Ctr> = if first.is_empty() {
        sidecars
            .iter()
            .rev()
            .find_map(|n| running.iter().find(|c| c.name == *n))
            .map(|c| vec![*c])
            .unwrap_or_default()
    } else {
        first.into_iter().copied().collect()
    };
    for c in next {
        if !local.killing.contains(&c.id) {
            p.actions.push(Action::Kill {
                id: c.id.clone(),
                name: c.name.clone(),
                reason: KillReason::Pod,
            });
        }
    }
    if !running.is_empty()
        || local.starting.is_some()
        || local.sandbox_busy
        || local.volumes == Volumes::Preparing
    {
        return;
    }
    let mut open = rt
        .sandboxes
        .values()
        .filter(|s| !local.stopped.contains(&s.id))
        .peekable();
    if open.peek().is_some() {
        p.actions
            .extend(open.map(|s| Action::StopSandbox { id: s.id.clone() }));
        return;
    }
    p.actions.push(Action::Finish);
}

#[cfg(test)]
mod tests;
