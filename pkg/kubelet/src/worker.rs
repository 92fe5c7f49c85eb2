//! One pod's task: it alone knows and changes the pod's state.
//!
//! Messages come in (the object, runtime events, ends of operations, probe findings); after each
//! batch it plans ([`crate::plan`]), starts the operations named, and writes the status if that
//! has changed. Operations run beside it and answer by message, so the pod always reacts.
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use knarr_cri_api::v1;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    cri::Cri,
    downward::Addresses,
    events::Recorder,
    model::{CtrState, Runtime},
    plan::{self, Action, Backoff, Local, Plan, Probed, Stop, Volumes},
    probe,
    sources::Sources,
    spec,
    status::{self, Host},
    userns::UserNamespaces,
    volumes::Prepared,
};

mod ops;
mod start;
mod write;

pub use write::delete;

/// What all pods share.
pub struct Shared {
    /// Configuration.
    pub cfg: Config,
    /// The API server, when there is one.
    pub client: Option<kube::Client>,
    /// The runtime.
    pub cri: Cri,
    /// Config maps, secrets, services.
    pub sources: Sources,
    /// Events.
    pub recorder: Recorder,
    /// Facts for statuses.
    pub host: Host,
    /// The node's hostname.
    pub hostname: String,
    /// The node's memory in bytes.
    pub node_memory: i64,
    /// The node's resolver configuration.
    pub node_dns: v1::DnsConfig,
    /// What the node has to give.
    pub allocatable: Mutex<BTreeMap<String, Quantity>>,
    /// The user namespaces of pods.
    pub userns: UserNamespaces,
    /// Told when the set of images may have changed.
    pub images_changed: tokio::sync::Notify,
}

impl Shared {
    /// What the node has to give.
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        self.allocatable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// News for a pod.
pub enum Msg {
    /// The object changed.
    Pod(Arc<Pod>),
    /// The mirror of a static pod changed or went.
    Mirror(Option<Arc<Pod>>),
    /// The object is gone, or the manifest is: stop, and leave the API alone.
    Gone(Option<i64>),
    /// Whether changed resources fit: reason and message if not.
    Resize(Option<(&'static str, String)>),
    /// The pod may not run here: reason and message.
    Reject(String, String),
    /// Facts from the runtime.
    Runtime(Box<v1::ContainerEventResponse>),
    /// The runtime has been away: all there is.
    Observed(Box<Runtime>),
    /// A config map or secret changed.
    Sources,
    /// A probe found something.
    Probe(String, probe::Finding),
    /// An operation ended, or has got somewhere.
    Done(ops::Done),
    /// The status was written, or not.
    Written(write::Outcome),
    /// Show the state.
    Inspect(oneshot::Sender<serde_json::Value>),
    /// Give pod and status as the API would show them.
    Show(oneshot::Sender<Pod>),
    /// Find a container: newest id and sandbox id by container name.
    Find(String, oneshot::Sender<Found>),
    /// Say when an instance has ended (or is not known).
    WhenEnded(String, oneshot::Sender<()>),
}

/// What is known of a container asked for by name.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Newest instance.
    pub current: Option<crate::model::Ctr>,
    /// The one before.
    pub previous: Option<crate::model::Ctr>,
    /// The sandbox, when ready.
    pub sandbox: Option<String>,
    /// Why there is no instance.
    pub waiting: Option<String>,
}

/// A way to send news to a pod.
#[derive(Clone, Debug)]
pub struct Handle {
    tx: mpsc::UnboundedSender<Msg>,
}

impl Handle {
    /// Sends; false when the pod's task has ended.
    pub fn send(&self, msg: Msg) -> bool {
        self.tx.send(msg).is_ok()
    }
}

/// One line of a pod's history.
#[derive(serde::Serialize)]
struct Trace {
    at: Timestamp,
    what: String,
}

const TRACE: usize = 200;

/// The state of one pod.
pub struct Worker {
    sh: Arc<Shared>,
    pod: Arc<Pod>,
    mirror: Option<Arc<Pod>>,
    tx: mpsc::UnboundedSender<Msg>,
    rx: mpsc::UnboundedReceiver<Msg>,
    rt: Runtime,
    local: Local,
    plan: Plan,
    prepared: Arc<Prepared>,
    status: Option<PodStatus>,
    written: Option<PodStatus>,
    writing: bool,
    write_again: Option<Timestamp>,
    object_gone: bool,
    probes: HashMap<String, probe::Set>,
    cancel: CancellationToken,
    pulls: Arc<Mutex<HashMap<String, start::PullState>>>,
    trace: VecDeque<Trace>,
    waiters: Vec<(String, oneshot::Sender<()>)>,
    /// The volumes are being written; and something changed meanwhile.
    volumes_busy: bool,
    volumes_again: bool,
    /// Resources of the container that is being started.
    starting_with: k8s_openapi::api::core::v1::ResourceRequirements,
    ended: bool,
}

/// Starts the task of a pod; `done` hears its uid when it has ended.
pub fn spawn(
    sh: Arc<Shared>,
    pod: Arc<Pod>,
    rt: Runtime,
    done: mpsc::UnboundedSender<String>,
) -> Handle {
    let (tx, rx) = mpsc::unbounded_channel();
    let handle = Handle { tx: tx.clone() };
    let uid = spec::uid(&pod).to_owned();
    let mut w = Worker {
        sh,
        pod,
        mirror: None,
        tx,
        rx,
        rt,
        local: Local::default(),
        plan: Plan::default(),
        prepared: Arc::default(),
        status: None,
        written: None,
        writing: false,
        write_again: None,
        object_gone: false,
        probes: HashMap::new(),
        cancel: CancellationToken::new(),
        pulls: Arc::default(),
        trace: VecDeque::new(),
        waiters: Vec::new(),
        volumes_busy: false,
        volumes_again: false,
        starting_with: Default::default(),
        ended: false,
    };
    tokio::spawn(async move {
        w.adopt();
        w.run().await;
        w.sh.sources.release(&uid);
        let _ = done.send(uid);
    });
    handle
}

impl Worker {
    fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        tracing::debug!(pod = spec::name(&self.pod), "{what}");
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(Trace {
            at: Timestamp::now(),
            what,
        });
    }

    /// Takes up what an earlier kubelet left: containers, probe results, restart counts.
    fn adopt(&mut self) {
        let old = self.pod.status.clone().unwrap_or_default();
        let lists = [
            &old.container_statuses,
            &old.init_container_statuses,
            &old.ephemeral_container_statuses,
        ];
        for s in lists.into_iter().flatten().flatten() {
            let id = s
                .container_id
                .as_deref()
                .and_then(|i| i.split_once("://"))
                .map(|(_, id)| id);
            match id.and_then(|id| self.rt.containers.get(id)) {
                Some(c) if c.state == CtrState::Running => {
                    if let Some(r) = &s.resources {
                        self.local.applied.insert(c.id.clone(), r.clone());
                    }
                    self.local.probed.insert(
                        c.id.clone(),
                        Probed {
                            started: s.started == Some(true),
                            ready: s.ready,
                            ..Probed::default()
                        },
                    );
                }
                None if s.container_id.is_some() && self.rt.latest(&s.name).is_none() => {
                    let n = u32::try_from(s.restart_count).unwrap_or(0) + 1;
                    self.local.lost_restarts.insert(s.name.clone(), n);
                }
                _ => {}
            }
        }
        if !self.rt.containers.is_empty() {
            self.note(format!(
                "adopted {} containers, {} sandboxes",
                self.rt.containers.len(),
                self.rt.sandboxes.len()
            ));
        }
        if matches!(old.phase.as_deref(), Some("Succeeded" | "Failed")) {
            self.stop_now(
                SignedDuration::from_secs(spec::grace_period(&self.pod)),
                false,
            );
        }
        self.status = self.pod.status.clone();
        self.ended_containers();
        self.check_deletion();
    }

    async fn run(&mut self) {
        loop {
            self.step();
            if self.ended {
                return;
            }
            let wake = self.wake();
            let sleep = async {
                match wake {
                    Some(at) => {
                        let left = at.duration_since(Timestamp::now());
                        let left = Duration::try_from(left).unwrap_or_default();
                        // a little late, so that the moment is surely past
                        tokio::time::sleep(left + Duration::from_millis(1)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                msg = self.rx.recv() => match msg {
                    Some(m) => self.take(m),
                    None => return,
                },
                () = sleep => {}
            }
            while let Ok(m) = self.rx.try_recv() {
                self.take(m);
            }
        }
    }

    /// When to look again without news.
    fn wake(&self) -> Option<Timestamp> {
        let refresh = (self.local.stop.is_none() && !self.plan.complete)
            .then_some(self.prepared.refresh)
            .flatten();
        [self.plan.wake, refresh, self.deadline(), self.write_again]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the pod has been active long enough.
    fn deadline(&self) -> Option<Timestamp> {
        if self.local.stop.is_some() || self.local.finished {
            return None;
        }
        let secs = spec::spec(&self.pod).active_deadline_seconds?;
        let start = self.status.as_ref()?.start_time.as_ref()?.0;
        start.checked_add(SignedDuration::from_secs(secs)).ok()
    }

    fn take(&mut self, msg: Msg) {
        match msg {
            Msg::Pod(pod) => {
                let changed = self.pod.spec != pod.spec
                    || self.pod.metadata.annotations != pod.metadata.annotations
                    || self.pod.metadata.labels != pod.metadata.labels;
                let grace = spec::grace_period(&self.pod);
                let was_deleted = self.pod.metadata.deletion_timestamp.is_some();
                self.pod = pod;
                if changed {
                    self.note("object changed");
                    self.local.retry.clear();
                    self.refresh_volumes();
                }
                self.check_deletion();
                if was_deleted && spec::grace_period(&self.pod) < grace {
                    self.hurry();
                }
            }
            Msg::Mirror(m) => {
                let uid = |m: &Option<Arc<Pod>>| m.as_ref().and_then(|m| m.metadata.uid.clone());
                if uid(&m) != uid(&self.mirror) {
                    self.written = None;
                }
                self.mirror = m;
            }
            Msg::Resize(refused) => {
                self.local.resize_refused =
                    refused.map(|(reason, message)| (reason.to_owned(), message));
            }
            Msg::Gone(grace) => {
                self.note("object gone");
                self.object_gone = true;
                let grace = grace
                    .unwrap_or_else(|| spec::grace_period(&self.pod))
                    .max(1);
                self.stop_now(SignedDuration::from_secs(grace), true);
            }
            Msg::Reject(reason, message) => {
                self.note(format!("rejected: {reason}"));
                self.local.verdict = Some((reason, message));
                self.stop_now(SignedDuration::ZERO, false);
            }
            Msg::Runtime(e) => self.runtime_event(&e),
            Msg::Observed(seen) => self.observed(*seen),
            Msg::Sources => self.refresh_volumes(),
            Msg::Probe(id, finding) => self.finding(&id, finding),
            Msg::Done(d) => self.done(d),
            Msg::Written(o) => self.was_written(o),
            Msg::Inspect(tx) => {
                let _ = tx.send(self.inspect());
            }
            Msg::Show(tx) => {
                let mut pod = (*self.pod).clone();
                pod.status = self.status.clone().or(pod.status);
                let _ = tx.send(pod);
            }
            Msg::WhenEnded(id, tx) => {
                self.waiters.push((id, tx));
                self.ended_containers();
            }
            Msg::Find(name, tx) => {
                let current = self.rt.latest(&name).cloned();
                let _ = tx.send(Found {
                    previous: current
                        .as_ref()
                        .and_then(|c| self.rt.last_exited(&name, &c.id))
                        .cloned(),
                    current,
                    sandbox: self.rt.sandbox().filter(|s| s.ready).map(|s| s.id.clone()),
                    waiting: self
                        .local
                        .waiting
                        .get(&name)
                        .map(|(r, m)| if m.is_empty() { r.clone() } else { m.clone() }),
                });
            }
        }
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({
            "uid": spec::uid(&self.pod),
            "name": spec::name(&self.pod),
            "namespace": spec::namespace(&self.pod),
            "phase": self.status.as_ref().and_then(|s| s.phase.clone()),
            "runtime": self.rt,
            "local": self.local,
            "plan": self.plan,
            "statusWritten": self.written == self.status,
            "cgroup": crate::resources::cgroup_path(&self.sh.cfg.cgroup_root, &self.pod),
            "volumes": self.prepared.volumes.iter()
                .map(|(k, v)| (k.clone(), v.path.to_string_lossy().into_owned()))
                .collect::<BTreeMap<_, _>>(),
            "history": self.trace,
        })
    }

    /// Starts the stop when the object is marked as deleted.
    fn check_deletion(&mut self) {
        if self.pod.metadata.deletion_timestamp.is_none() || self.object_gone {
            return;
        }
        if self.local.stop.as_ref().is_some_and(|s| s.delete) {
            return;
        }
        self.note("deletion asked for");
        let grace = spec::grace_period(&self.pod);
        self.stop_now(SignedDuration::from_secs(grace), true);
    }

    fn stop_now(&mut self, grace: SignedDuration, delete: bool) {
        let deadline = Timestamp::now()
            .checked_add(grace)
            .unwrap_or(Timestamp::MAX);
        if let Some(stop) = &mut self.local.stop {
            stop.delete |= delete;
            stop.deadline = stop.deadline.min(deadline);
        } else {
            self.local.stop = Some(Stop { deadline, delete });
        }
        // an ended pod that is now deleted has one more step to do
        if delete {
            self.local.finished = false;
        }
        self.cancel.cancel();
    }

    /// The probes' verdict on a container.
    fn finding(&mut self, id: &str, finding: probe::Finding) {
        let Some(p) = self.local.probed.get_mut(id) else {
            return;
        };
        match finding {
            probe::Finding::Started => p.started = true,
            probe::Finding::Ready(r) => p.ready = r,
            probe::Finding::Failed(which) => {
                if self.local.stop.is_none() {
                    p.failed = Some(which);
                }
            }
        }
        self.note(format!("probe: {id} {finding:?}"));
    }

    fn runtime_event(&mut self, e: &v1::ContainerEventResponse) {
        let kind = v1::ContainerEventType::try_from(e.container_event_type);
        let sandbox = e
            .pod_sandbox_status
            .as_ref()
            .map(|s| s.id.clone())
            .unwrap_or_default();
        if kind == Ok(v1::ContainerEventType::ContainerDeletedEvent) {
            self.rt.containers.remove(&e.container_id);
            if self.rt.sandboxes.remove(&e.container_id).is_some() {
                self.note(format!("sandbox {} deleted", e.container_id));
            }
            return;
        }
        if let Some(s) = &e.pod_sandbox_status
            && !self.local.removing.contains(&s.id)
        {
            self.rt.merge_sandbox(s);
        }
        let mut moved = false;
        for s in &e.containers_statuses {
            if !self.local.removing.contains(&s.id) {
                moved |= self.rt.merge_container(&sandbox, s);
            }
        }
        if moved {
            self.note(format!("runtime event {kind:?} {}", e.container_id));
        }
        self.ended_containers();
    }

    /// The runtime's whole truth, after it or its event stream was away.
    fn observed(&mut self, seen: Runtime) {
        let ids: Vec<String> = self.rt.containers.keys().cloned().collect();
        for id in ids {
            match seen.containers.get(&id) {
                Some(c) if c.state > self.rt.containers[&id].state => {
                    self.rt.containers.insert(id, c.clone());
                }
                Some(_) => {}
                None if self.local.starting.is_some() => {}
                None => {
                    if let Some(c) = self.rt.containers.remove(&id) {
                        let n = self.local.lost_restarts.entry(c.name).or_default();
                        *n = (*n).max(c.attempt + 1);
                    }
                }
            }
        }
        for (id, c) in seen.containers {
            self.rt.containers.entry(id).or_insert(c);
        }
        if !self.local.sandbox_busy {
            for (id, s) in &mut self.rt.sandboxes {
                s.ready &= seen.sandboxes.get(id).is_some_and(|s| s.ready);
            }
            self.rt
                .sandboxes
                .retain(|id, _| seen.sandboxes.contains_key(id));
            for (id, s) in seen.sandboxes {
                self.rt.sandboxes.entry(id).or_insert(s);
            }
        }
        self.note("observed the runtime");
        self.ended_containers();
    }

    /// Reads last words of containers that have just ended; drops their probes.
    fn ended_containers(&mut self) {
        let dir = self.sh.cfg.pod_dir(spec::uid(&self.pod));
        let logs = self.sh.cfg.log_dir(
            spec::namespace(&self.pod),
            spec::name(&self.pod),
            spec::uid(&self.pod),
        );
        let live = |id: &str| {
            self.rt
                .containers
                .get(id)
                .is_some_and(|c| c.state != CtrState::Exited)
        };
        let (waiting, over) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|(id, _)| live(id));
        self.waiters = waiting;
        for (_, tx) in over as Vec<(String, oneshot::Sender<()>)> {
            let _ = tx.send(());
        }
        for c in self.rt.containers.values_mut() {
            if c.state != CtrState::Exited {
                continue;
            }
            self.probes.remove(&c.id);
            self.local.probed.remove(&c.id);
            self.local.applied.remove(&c.id);
            if c.termination_message.is_none() {
                c.termination_message = Some(crate::last_words::read(&dir, &logs, c));
            }
        }
    }

    /// Makes the volumes' content anew while the pod lives.
    fn refresh_volumes(&mut self) {
        if self.local.stop.is_some() || self.local.finished || self.plan.complete {
            return;
        }
        self.local.retry.remove(plan::VOLUMES);
        if self.local.volumes == Volumes::Ready {
            self.spawn_volumes(true);
        }
        // what failed for want of a source may work now
        let waiting: Vec<String> = self
            .local
            .waiting
            .iter()
            .filter(|(_, (r, _))| r == "CreateContainerConfigError")
            .map(|(n, _)| n.clone())
            .collect();
        for n in waiting {
            self.local.retry.remove(&n);
        }
    }

    fn addresses(&self) -> Addresses {
        let host = vec![self.sh.host.ip.clone()];
        let pod = if spec::host_network(&self.pod) {
            host.clone()
        } else {
            self.rt.sandbox().map(|s| s.ips.clone()).unwrap_or_default()
        };
        Addresses { pod, host }
    }

    /// Decide, act, tell.
    fn step(&mut self) {
        let now = Timestamp::now();
        if self.deadline().is_some_and(|d| d <= now) {
            self.note("active deadline passed");
            self.local.verdict = Some((
                "DeadlineExceeded".into(),
                "Pod was active on the node longer than the specified deadline".into(),
            ));
            let grace = spec::grace_period(&self.pod);
            self.stop_now(SignedDuration::from_secs(grace), false);
        }
        if self
            .prepared
            .refresh
            .is_some_and(|r| r <= now && self.local.volumes == Volumes::Ready)
        {
            self.refresh_volumes();
        }
        self.plan = plan::plan(&self.pod, &self.rt, &self.local, now);
        let actions = self.plan.actions.clone();
        for a in actions {
            self.note(format!("do {}", describe(&a)));
            self.act(a);
        }
        self.keep_probes();
        for (name, (reason, message)) in self.plan.held.clone() {
            let known = self.local.waiting.get(&name).map(|w| &w.0) == Some(&reason);
            if !known {
                self.sh.recorder.pod(
                    &self.pod,
                    Some(&name),
                    crate::events::Kind::Warning,
                    "BackOff",
                    format!(
                        "Back-off restarting failed container {name} in pod {}",
                        spec::format_pod(&self.pod)
                    ),
                );
            }
            self.local.waiting.insert(name, (reason, message));
        }
        self.update_status(now);
    }

    fn update_status(&mut self, now: Timestamp) {
        let mut old = self.status.clone().unwrap_or_default();
        // conditions of others come from the object
        let ours = write::OWN_CONDITIONS;
        let mut conditions: Vec<_> = old
            .conditions
            .take()
            .unwrap_or_default()
            .into_iter()
            .filter(|c| ours.contains(&c.type_.as_str()))
            .collect();
        let object = self.mirror.as_ref().unwrap_or(&self.pod);
        conditions.extend(
            object
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .filter(|c| !ours.contains(&c.type_.as_str()) || c.type_ == "PodScheduled")
                .cloned(),
        );
        conditions.dedup_by(|a, b| a.type_ == b.type_);
        old.conditions = Some(conditions);
        let s = status::status(
            &self.pod,
            &self.rt,
            &self.local,
            &self.plan,
            &old,
            &self.sh.host,
            now,
        );
        if self.status.as_ref() != Some(&s) {
            let phase = s.phase.clone().unwrap_or_default();
            if self.status.as_ref().and_then(|s| s.phase.as_ref()) != Some(&phase) {
                self.note(format!("phase {phase}"));
            }
            self.status = Some(s);
        }
        self.write_status(now);
    }

    /// Probes run for what runs.
    fn keep_probes(&mut self) {
        let ids: Vec<(String, String)> = self
            .rt
            .containers
            .values()
            .filter(|c| c.state == CtrState::Running)
            .map(|c| (c.id.clone(), c.name.clone()))
            .collect();
        self.probes.retain(|id, _| ids.iter().any(|(i, _)| i == id));
        for (id, name) in ids {
            let Some((_, c)) = spec::find(&self.pod, &name) else {
                continue;
            };
            if !self.local.applied.contains_key(&id) {
                let now = if self.local.starting.as_ref() == Some(&name) {
                    self.starting_with.clone()
                } else {
                    c.resources.clone().unwrap_or_default()
                };
                self.local.applied.insert(id.clone(), now);
            }
            let (startup, readiness, liveness) = spec::probes(&c);
            // a postStart hook belongs to the start that is still under way
            let hook = self.local.starting.as_ref() == Some(&name)
                && c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
            let p = self.local.probed.entry(id.clone()).or_insert(Probed {
                started: startup.is_none(),
                ready: readiness.is_none(),
                failed: None,
                hook,
            });
            p.started |= startup.is_none();
            p.ready |= readiness.is_none();
            if startup.is_none() && readiness.is_none() && liveness.is_none() {
                continue;
            }
            let (started, hook, failed) = (p.started, p.hook, p.failed.is_some());
            if hook {
                continue;
            }
            let set = self.probes.entry(id.clone()).or_default();
            if self.local.stop.is_some() || failed || self.local.killing.contains(&id) {
                set.stop_killers();
                continue;
            }
            let ips = if spec::host_network(&self.pod) {
                vec![self.sh.host.ip.clone()]
            } else {
                self.rt.sandbox().map(|s| s.ips.clone()).unwrap_or_default()
            };
            let target = probe::Target {
                sh: Arc::clone(&self.sh),
                pod: Arc::clone(&self.pod),
                container: c,
                id: id.clone(),
                ip: ips.first().cloned().unwrap_or_default(),
                started: self
                    .rt
                    .containers
                    .get(&id)
                    .and_then(|c| c.started)
                    .unwrap_or_else(Timestamp::now),
                tx: self.tx.clone(),
            };
            set.keep(target, started);
        }
    }

    /// Grows the back-off of a container that is being restarted.
    fn grow_backoff(&mut self, name: &str, ended: Timestamp) {
        let next = Backoff::next(self.local.backoff.get(name), ended, Timestamp::now());
        self.local.backoff.insert(name.to_owned(), next);
    }
}

fn describe(a: &Action) -> String {
    serde_json::to_string(a).unwrap_or_else(|_| format!("{a:?}"))
}
