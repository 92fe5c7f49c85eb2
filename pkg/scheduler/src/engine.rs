//! The loop: take events into the model, decide one pod, bind beside it.

use crate::affinity::Affinity;
use crate::decisions::{Decision, Decisions, NodeVerdict};
use crate::filters::{Candidate, Rejection, filter, unfit_message};
use crate::model::{Cluster, NodeInfo, PodInfo};
use crate::preempt;
use crate::queue::{Hint, Queue, Waiting};
use crate::scores::score;
use crate::spread::Spread;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use knarr_runner::{Cache, Event, EventSpec, EventType, Informers, message, meta, reference};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// How the scheduler is run.
#[derive(Clone)]
pub struct Config {
    /// Pods that name another scheduler are left alone.
    pub scheduler_name: String,
    /// Shared with other parts of the process; else made.
    pub informers: Option<Informers>,
    /// Where decisions are remembered.
    pub decisions: Decisions,
    /// Bindings under way at the same time.
    pub parallel_binds: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".into(),
            informers: None,
            decisions: Decisions::default(),
            parallel_binds: 64,
        }
    }
}

enum Msg {
    Pod(Event<Pod>),
    Node(Event<Node>),
    Hint(Hint),
    Bound { uid: String, error: Option<String> },
}

struct Scheduler {
    cfg: Config,
    informers: Informers,
    cluster: Cluster,
    queue: Queue,
    namespaces: Arc<Cache<Namespace>>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    volumes: Volumes,
    tx: mpsc::UnboundedSender<Msg>,
    binds: Arc<Semaphore>,
    /// Breaks ties between equal nodes, round and round.
    turn: usize,
}

/// Runs the scheduler until `shutdown` ends.
pub async fn run(client: kube::Client, cfg: Config, shutdown: CancellationToken) {
    let informers = cfg
        .informers
        .clone()
        .unwrap_or_else(|| Informers::with_cancel(client, shutdown.clone()));
    let (tx, mut rx) = mpsc::unbounded_channel();
    let (pods, nodes) = (informers.get::<Pod>(), informers.get::<Node>());
    let volumes =
        Volumes { claims: informers.get(), volumes: informers.get(), classes: informers.get() };
    let namespaces = informers.get::<Namespace>();
    let budgets = informers.get::<PodDisruptionBudget>();
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = async {
            nodes.synced().await;
            pods.synced().await;
            namespaces.synced().await;
            volumes.claims.synced().await;
            volumes.volumes.synced().await;
            volumes.classes.synced().await;
        } => {}
    }
    let t = tx.clone();
    nodes.on_event(move |e| drop(t.send(Msg::Node(e.clone()))));
    let t = tx.clone();
    pods.on_event(move |e| drop(t.send(Msg::Pod(e.clone()))));
    let t = tx.clone();
    volumes.claims.on_event(move |_| drop(t.send(Msg::Hint(Hint::Volume))));
    let t = tx.clone();
    volumes.volumes.on_event(move |_| drop(t.send(Msg::Hint(Hint::Volume))));
    let t = tx.clone();
    volumes.classes.on_event(move |_| drop(t.send(Msg::Hint(Hint::Volume))));
    let binds = Arc::new(Semaphore::new(cfg.parallel_binds.max(1)));
    let mut s = Scheduler {
        cfg,
        informers,
        cluster: Cluster::default(),
        queue: Queue::default(),
        namespaces,
        budgets,
        volumes,
        tx,
        binds,
        turn: 0,
    };
    loop {
        while let Ok(m) = rx.try_recv() {
            s.take(m);
        }
        let now = Instant::now();
        s.queue.flush_old(now);
        if let Some(w) = s.queue.pop(now) {
            s.schedule(w);
            // Let bindings and watches run between decisions.
            tokio::task::yield_now().await;
            continue;
        }
        let timer = async {
            match s.queue.next_timer() {
                Some(t) => tokio::time::sleep_until(t.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            m = rx.recv() => match m { Some(m) => s.take(m), None => return },
            () = timer => {}
        }
    }
}

fn ended(p: &Pod) -> bool {
    matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn node_of(p: &Pod) -> Option<&str> {
    p.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
}

/// Whether a node's change can matter to scheduling.
fn matters(old: &Node, new: &Node) -> bool {
    let alloc = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let spec = |n: &Node| {
        n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable.unwrap_or(false)))
    };
    old.metadata.labels != new.metadata.labels || spec(old) != spec(new) || alloc(old) != alloc(new)
}

impl Scheduler {
    fn take(&mut self, m: Msg) {
        let now = Instant::now();
        match m {
            Msg::Hint(h) => self.queue.hint(h, now),
            Msg::Node(Event::Deleted(n)) => self.cluster.remove_node(meta::name(&n.metadata)),
            Msg::Node(Event::Added(n)) => {
                self.cluster.set_node(n);
                self.queue.hint(Hint::Node, now);
            }
            Msg::Node(Event::Updated { old, new }) => {
                let m = matters(&old, &new);
                self.cluster.set_node(new);
                if m {
                    self.queue.hint(Hint::Node, now);
                }
            }
            Msg::Pod(e) => self.take_pod(e, now),
            Msg::Bound { uid, error: None } => self.queue.remove(&uid),
            Msg::Bound { uid, error: Some(e) } => {
                tracing::debug!(%uid, error = %e, "binding failed");
                self.cluster.remove_pod(&uid);
                self.queue.retry(&uid, now);
                self.queue.hint(Hint::PodGone, now);
            }
        }
    }

    fn take_pod(&mut self, e: Event<Pod>, now: Instant) {
        let uid = meta::uid(&e.object().metadata).to_owned();
        match e {
            Event::Deleted(_) => {
                self.queue.remove(&uid);
                self.cluster.nominated.remove(&uid);
                if self.cluster.remove_pod(&uid) {
                    self.queue.hint(Hint::PodGone, now);
                }
            }
            Event::Added(p) => self.put_pod(p, None, now),
            Event::Updated { old, new } => self.put_pod(new, Some(old), now),
        }
    }

    fn put_pod(&mut self, p: Arc<Pod>, old: Option<Arc<Pod>>, now: Instant) {
        let uid = meta::uid(&p.metadata).to_owned();
        if ended(&p) {
            self.queue.remove(&uid);
            self.cluster.nominated.remove(&uid);
            if self.cluster.remove_pod(&uid) {
                self.queue.hint(Hint::PodGone, now);
            }
            return;
        }
        if let Some(node) = node_of(&p).map(str::to_owned) {
            self.queue.remove(&uid);
            let before = self.cluster.placed.contains_key(&uid);
            let labels = old.as_ref().is_none_or(|o| o.metadata.labels != p.metadata.labels);
            let resized = old.as_ref().is_some_and(|o| o.spec != p.spec);
            self.cluster.place(Arc::new(PodInfo::new(p)), &node);
            if !before || labels {
                self.queue.hint(Hint::PodPlaced, now);
            }
            if resized && before {
                self.queue.hint(Hint::PodGone, now);
            }
            return;
        }
        let named = p.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        if named.unwrap_or("default-scheduler") != self.cfg.scheduler_name {
            return;
        }
        if meta::deleting(&p.metadata) {
            self.queue.remove(&uid);
            return;
        }
        let changed = old.is_some_and(|o| {
            o.spec != p.spec || o.metadata.labels != p.metadata.labels
        });
        let nominated = p.status.as_ref().and_then(|s| s.nominated_node_name.clone());
        let info = Arc::new(PodInfo::new(p));
        if let Some(n) = nominated.filter(|n| !n.is_empty()) {
            if !self.cluster.placed.contains_key(&uid) {
                self.cluster.nominated.insert(uid.clone(), (n, info.clone()));
            }
        }
        self.queue.put(info, now, changed);
    }

    fn schedule(&mut self, w: Waiting) {
        let began = Instant::now();
        let cycle = self.queue.cycle;
        let p = w.info.clone();
        let total = self.cluster.known().count();
        if total == 0 {
            return self.unfit(&w, "no nodes available to schedule pods".into(), &[], None, cycle, began);
        }
        let claims = match self.volumes.claims(&p) {
            Ok(c) => c,
            Err(e) => {
                let post = "preemption: 0/{n} nodes are available: {n} Preemption is not helpful for scheduling."
                    .replace("{n}", &total.to_string());
                let text = unfit_message(total, &[], Some(&e), &post);
                return self.unfit(&w, text, &[], Some("VolumeBinding"), cycle, began);
            }
        };
        let c = Candidate {
            info: &p,
            affinity: Affinity::new(&p, &self.cluster, &self.namespaces),
            spread: Spread::new(&p, &self.cluster),
            claims,
        };
        let mut fit: Vec<&NodeInfo> = Vec::new();
        let mut rejected: Vec<(String, Rejection)> = Vec::new();
        for n in self.cluster.known() {
            let extra: Vec<&PodInfo> = self
                .cluster
                .nominated
                .values()
                .filter(|(at, o)| {
                    at == n.name() && o.uid() != p.uid() && o.priority >= p.priority
                })
                .map(|(_, o)| o.as_ref())
                .collect();
            match filter(&c, n, &extra) {
                Ok(()) => fit.push(n),
                Err(r) => rejected.push((n.name().to_owned(), r)),
            }
        }
        if fit.is_empty() {
            let (post, victims) = self.try_preempt(&c, &rejected, total);
            let text = unfit_message(total, &rejected, None, &post);
            let nominated = victims.as_ref().map(|v| v.node.clone());
            if let Some(v) = victims {
                self.evict(&p, v);
            }
            return self.unfit_nominated(&w, text, &rejected, None, cycle, began, nominated);
        }
        let scored = score(&c, &fit);
        let best = scored.iter().map(|(_, t)| *t).max().unwrap_or(0);
        let ties: Vec<usize> =
            (0..fit.len()).filter(|i| scored[*i].1 == best).collect();
        let pick = ties[self.turn % ties.len()];
        self.turn = self.turn.wrapping_add(1);
        let node = fit[pick].name().to_owned();
        let mut verdicts: Vec<NodeVerdict> = fit
            .iter()
            .zip(&scored)
            .map(|(n, (s, t))| NodeVerdict {
                node: n.name().to_owned(),
                scores: s.clone(),
                total: *t,
                ..NodeVerdict::default()
            })
            .collect();
        verdicts.sort_by_key(|v| std::cmp::Reverse(v.total));
        verdicts.extend(refused(&rejected));
        self.remember(&w, &node, "", verdicts, began);
        let delayed = c.claims.delayed.clone();
        self.cluster.place(p.clone(), &node);
        self.queue.hint(Hint::PodPlaced, Instant::now());
        self.bind(p, node, delayed);
    }

    fn remember(
        &self,
        w: &Waiting,
        node: &str,
        text: &str,
        mut nodes: Vec<NodeVerdict>,
        began: Instant,
    ) {
        nodes.truncate(Decisions::NODES);
        let m = &w.info.pod.metadata;
        self.cfg.decisions.put(Decision {
            namespace: meta::ns(m).to_owned(),
            name: meta::name(m).to_owned(),
            uid: meta::uid(m).to_owned(),
            node: node.to_owned(),
            message: text.to_owned(),
            attempts: w.attempts,
            micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            nodes,
        });
    }

    fn bind(
        &self,
        p: Arc<PodInfo>,
        node: String,
        delayed: Vec<Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim>>,
    ) {
        let (tx, informers, binds) = (self.tx.clone(), self.informers.clone(), self.binds.clone());
        let claims = self.volumes.claims.clone();
        let component = self.cfg.scheduler_name.clone();
        tokio::spawn(async move {
            let _permit = binds.acquire_owned().await;
            let m = &p.pod.metadata;
            let mut result = Ok(());
            for c in &delayed {
                result = select_node(&informers, &claims, c, &node).await;
                if result.is_err() {
                    break;
                }
            }
            if result.is_ok() {
                result = post_binding(&informers, m, &node).await;
            }
            let error = match result {
                Ok(()) => {
                    let text = format!(
                        "Successfully assigned {}/{} to {node}",
                        meta::ns(m),
                        meta::name(m)
                    );
                    record(&informers, &component, &p.pod, EventType::Normal, "Scheduled", "Binding", text);
                    None
                }
                Err(e) => {
                    let text = format!(
                        "running Bind plugin \"DefaultBinder\": {e}"
                    );
                    record(
                        &informers,
                        &component,
                        &p.pod,
                        EventType::Warning,
                        "FailedScheduling",
                        "Scheduling",
                        text,
                    );
                    Some(e)
                }
            };
            let _ = tx.send(Msg::Bound { uid: p.uid().to_owned(), error });
        });
    }

    fn try_preempt(
        &self,
        c: &Candidate<'_>,
        rejected: &[(String, Rejection)],
        total: usize,
    ) -> (String, Option<preempt::Victims>) {
        if let Err(why) = preempt::eligible(c.info, &self.cluster) {
            return (format!("preemption: {why}"), None);
        }
        let found =
            preempt::find(c, &self.cluster, rejected, &self.budgets, &self.namespaces);
        if found.is_some() {
            return (String::new(), found);
        }
        let helpless = rejected.iter().filter(|(_, r)| !r.preemptible).count();
        let mut parts = Vec::new();
        if helpless > 0 {
            parts.push(format!("{helpless} Preemption is not helpful for scheduling"));
        }
        if rejected.len() > helpless {
            let n = rejected.len() - helpless;
            parts.push(format!("{n} No preemption victims found for incoming pod"));
        }
        parts.sort();
        let text =
            format!("preemption: 0/{total} nodes are available: {}.", parts.join(", "));
        (text, None)
    }

    fn evict(&mut self, p: &Arc<PodInfo>, v: preempt::Victims) {
        self.cluster.nominated.insert(p.uid().to_owned(), (v.node.clone(), p.clone()));
        // Less important promises on that node are void.
        let node = v.node.clone();
        let prio = p.priority;
        self.cluster.nominated.retain(|_, (n, o)| *n != node || o.priority >= prio);
        for victim in v.pods {
            if meta::deleting(&victim.pod.metadata) {
                continue;
            }
            let (i, who, node) = (self.informers.clone(), p.clone(), v.node.clone());
            let component = self.cfg.scheduler_name.clone();
            tokio::spawn(async move {
                let m = &victim.pod.metadata;
                let patch = serde_json::json!({"status": {"conditions": [{
                    "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                    "message": format!("{component}: preempting to accommodate a higher priority pod"),
                    "lastTransitionTime": meta::time(meta::now()),
                }]}});
                let _ = i
                    .patch::<Pod, _>(
                        meta::ns(m),
                        meta::name(m),
                        "status",
                        &kube::api::Patch::Strategic(patch),
                    )
                    .await;
                if let Err(e) = i.delete(victim.pod.as_ref(), None, None).await {
                    tracing::debug!(error = %e, "a victim was not deleted");
                    return;
                }
                let text = format!("Preempted by pod {} on node {node}", who.uid());
                record(&i, &component, &victim.pod, EventType::Normal, "Preempted", "Preempting", text);
            });
        }
    }

    fn unfit(
        &mut self,
        w: &Waiting,
        text: String,
        rejected: &[(String, Rejection)],
        plugin: Option<&'static str>,
        cycle: u64,
        began: Instant,
    ) {
        self.unfit_nominated(w, text, rejected, plugin, cycle, began, None);
    }

    #[expect(clippy::too_many_arguments, reason = "private, called twice")]
    fn unfit_nominated(
        &mut self,
        w: &Waiting,
        text: String,
        rejected: &[(String, Rejection)],
        plugin: Option<&'static str>,
        cycle: u64,
        began: Instant,
        nominated: Option<String>,
    ) {
        self.remember(w, "", &text, refused(rejected).collect(), began);
        let by: HashSet<&'static str> =
            rejected.iter().map(|(_, r)| r.plugin).chain(plugin).collect();
        self.queue.reject(w.info.uid(), by, cycle, Instant::now());
        let pod = &w.info.pod;
        record(
            &self.informers,
            &self.cfg.scheduler_name,
            pod,
            EventType::Warning,
            "FailedScheduling",
            "Scheduling",
            text.clone(),
        );
        let status = pod.status.as_ref();
        let told = status.and_then(|s| s.conditions.as_ref()).is_some_and(|c| {
            c.iter().any(|c| {
                c.type_ == "PodScheduled"
                    && c.status == "False"
                    && c.reason.as_deref() == Some("Unschedulable")
                    && c.message.as_deref() == Some(&text)
            })
        });
        let same_node = nominated.is_none()
            || status.and_then(|s| s.nominated_node_name.as_ref()) == nominated.as_ref();
        if told && same_node {
            return;
        }
        let was_false = status
            .and_then(|s| s.conditions.as_ref())
            .and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"))
            .and_then(|c| c.last_transition_time.clone());
        let mut st = serde_json::json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": text, "lastProbeTime": null,
            "observedGeneration": pod.metadata.generation,
            "lastTransitionTime": was_false.unwrap_or_else(|| meta::time(meta::now())),
        }]});
        if let Some(n) = nominated {
            st["nominatedNodeName"] = n.into();
        }
        let patch = serde_json::json!({"metadata": {"uid": meta::uid(&pod.metadata)}, "status": st});
        let (i, pod) = (self.informers.clone(), pod.clone());
        tokio::spawn(async move {
            let m = &pod.metadata;
            let patch = kube::api::Patch::Strategic(patch);
            let r = i.patch::<Pod, _>(meta::ns(m), meta::name(m), "status", &patch).await;
            if let Err(e) = r {
                tracing::debug!(error = %e, "a pod's scheduling condition was not written");
            }
        });
    }
}

fn refused(r: &[(String, Rejection)]) -> impl Iterator<Item = NodeVerdict> + '_ {
    r.iter().map(|(n, r)| NodeVerdict {
        node: n.clone(),
        rejected_by: r.plugin.to_owned(),
        reasons: r.reasons.clone(),
        ..NodeVerdict::default()
    })
}

fn record(
    i: &Informers,
    component: &str,
    pod: &Arc<Pod>,
    kind: EventType,
    reason: &str,
    action: &str,
    message: String,
) {
    i.recorder().record(EventSpec {
        component: component.to_owned(),
        host: String::new(),
        regarding: reference(pod.as_ref()),
        kind,
        reason: reason.to_owned(),
        message,
        action: action.to_owned(),
    });
}

async fn post_binding(
    i: &Informers,
    m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    node: &str,
) -> Result<(), String> {
    let body = serde_json::json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
        "target": {"kind": "Node", "name": node},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", meta::ns(m), meta::name(m));
    let data = serde_json::to_vec(&body).map_err(|e| e.to_string())?;
    let req = http_post(&path, data)?;
    i.client().request_text(req).await.map(drop).map_err(|e| message(&e))
}

fn http_post(path: &str, data: Vec<u8>) -> Result<http::Request<Vec<u8>>, String> {
    http::Request::post(path)
        .header("content-type", "application/json")
        .body(data)
        .map_err(|e| e.to_string())
}

/// Tells the volume controller which node a claim's consumer goes to, and waits until it is bound.
async fn select_node(
    i: &Informers,
    claims: &Cache<k8s_openapi::api::core::v1::PersistentVolumeClaim>,
    c: &Arc<k8s_openapi::api::core::v1::PersistentVolumeClaim>,
    node: &str,
) -> Result<(), String> {
    type Claim = k8s_openapi::api::core::v1::PersistentVolumeClaim;
    let m = &c.metadata;
    let mut events = claims.subscribe();
    let patch = serde_json::json!({"metadata": {"annotations":
        {"volume.kubernetes.io/selected-node": node}}});
    i.merge::<Claim>(meta::ns(m), meta::name(m), "", patch).await.map_err(|e| message(&e))?;
    let bound = async {
        while let Some(e) = events.next().await {
            let o = e.object();
            if meta::uid(&o.metadata) != meta::uid(m) {
                continue;
            }
            if matches!(e, Event::Deleted(_)) {
                return Err(format!("persistentvolumeclaim {:?} not found", meta::name(m)));
            }
            if o.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound") {
                return Ok(());
            }
        }
        Err("stopped".to_owned())
    };
    tokio::time::timeout(std::time::Duration::from_secs(600), bound)
        .await
        .unwrap_or_else(|_| Err("binding volumes: context deadline exceeded".to_owned()))
}
