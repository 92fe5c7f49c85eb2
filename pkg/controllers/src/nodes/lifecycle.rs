//! Heartbeats, conditions and the taints that follow from them.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Event, EventType, Informers, Plan, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const COMPONENT: &str = "node-controller";

/// The node lifecycle controller.
pub struct Lifecycle {
    nodes: Arc<Cache<Node>>,
    leases: Arc<Cache<Lease>>,
    pods: Arc<Cache<Pod>>,
    grace: Duration,
    /// The last heartbeat of each node by our own clock, which needs no agreement with theirs.
    beats: Mutex<HashMap<String, (String, Instant)>>,
}

impl Lifecycle {
    /// A controller over these informers; a node silent for `grace` is unreachable.
    pub fn new(i: &Informers, grace: Duration) -> Self {
        Self {
            nodes: i.get(),
            leases: i.get(),
            pods: i.get(),
            grace,
            beats: Mutex::default(),
        }
    }

    /// How long the node has been silent.
    fn silence(&self, n: &Node) -> Duration {
        let name = meta::name(&n.metadata);
        let lease = self
            .leases
            .get("kube-node-lease", name)
            .and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0.to_string()));
        let status = condition(n, "Ready")
            .and_then(|c| c.last_heartbeat_time.as_ref())
            .map(|t| t.0.to_string());
        let seen = format!("{lease:?} {status:?}");
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let e = beats.entry(name.to_owned()).or_insert_with(|| (seen.clone(), Instant::now()));
        if e.0 != seen {
            *e = (seen, Instant::now());
        }
        e.1.elapsed()
    }
}

fn condition<'a>(n: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    n.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The conditions of a node whose kubelet is silent.
fn unknown(n: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut all = n.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for kind in WATCHED {
        match all.iter_mut().find(|c| c.type_ == kind) {
            None => {
                changed = true;
                all.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: n.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(meta::time(now)),
                });
            }
            Some(c) if c.status != "Unknown" => {
                changed = true;
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(meta::time(now));
            }
            Some(_) => {}
        }
    }
    changed.then_some(all)
}

/// The taints that this controller owns and the node should have: (key, effect).
fn wanted_taints(n: &Node) -> Vec<(&'static str, &'static str)> {
    let mut t = Vec::new();
    let status = |k| condition(n, k).map(|c| c.status.as_str());
    match status("Ready") {
        Some("True") => {}
        Some("False") => {
            t.push(("node.kubernetes.io/not-ready", "NoSchedule"));
            t.push(("node.kubernetes.io/not-ready", "NoExecute"));
        }
        Some(_) => {
            t.push(("node.kubernetes.io/unreachable", "NoSchedule"));
            t.push(("node.kubernetes.io/unreachable", "NoExecute"));
        }
        // Not told yet: what admission put there stays.
        None => t.push(("node.kubernetes.io/not-ready", "NoSchedule")),
    }
    for (cond, key) in [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ] {
        if status(cond) == Some("True") {
            t.push((key, "NoSchedule"));
        }
    }
    if n.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        t.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    t
}

const OWNED: [&str; 7] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
    "node.kubernetes.io/unschedulable",
];

/// The node's new taints, if they differ.
fn taints(n: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let have = n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let want = wanted_taints(n);
    let is_wanted =
        |t: &Taint| want.iter().any(|(k, e)| t.key == *k && t.effect == *e);
    let mut next: Vec<Taint> = have
        .iter()
        .filter(|t| !OWNED.contains(&t.key.as_str()) || is_wanted(t))
        .cloned()
        .collect();
    for (k, e) in want {
        if !next.iter().any(|t| t.key == k && t.effect == e) {
            next.push(Taint {
                key: k.into(),
                effect: e.into(),
                value: None,
                time_added: Some(meta::time(now)),
            });
        }
    }
    (next != have).then_some(next)
}

/// Tells that a pod's node is not ready.
fn unready(p: &Arc<Pod>, now: Timestamp) -> Option<Action> {
    let c = crate::pods::condition(p, "Ready").filter(|c| c.status == "True")?;
    let patch = serde_json::json!({"status": {"conditions": [{
        "type": c.type_, "status": "False", "lastTransitionTime": meta::time(now),
    }]}});
    let p = p.clone();
    Some(Action::call("mark pod not ready", move |i| async move {
        let m = &p.metadata;
        let patch = kube::api::Patch::Strategic(patch);
        match i.patch::<Pod, _>(meta::ns(m), meta::name(m), "status", &patch).await {
            Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => {
                i.recorder().event(
                    COMPONENT,
                    p.as_ref(),
                    EventType::Warning,
                    "NodeNotReady",
                    "Node is not ready",
                );
                Ok(())
            }
        }
    }))
}

impl Controller for Lifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }
    fn watch(&self, i: &Informers, queue: &Queue<Key>) {
        let (q, i) = (queue.clone(), i.clone());
        self.nodes.on_event(move |e| {
            let n = e.object();
            let (reason, verb) = match e {
                Event::Added(_) => ("RegisteredNode", "Registered Node {} in Controller"),
                Event::Deleted(_) => ("RemovingNode", "Removing Node {} from Controller"),
                Event::Updated { .. } => ("", ""),
            };
            if !reason.is_empty() {
                let name = meta::name(&n.metadata);
                let text = format!("Node {name} event: {}", verb.replace("{}", name));
                i.recorder().event(COMPONENT, n.as_ref(), EventType::Normal, reason, text);
            }
            q.add(Key::of(&n.metadata));
        });
        let q = queue.clone();
        self.leases.on_event(move |e| {
            let m = &e.object().metadata;
            if meta::ns(m) == "kube-node-lease" {
                q.add(Key::new("", meta::name(m)));
            }
        });
    }
    fn synced(&self) -> bool {
        self.nodes.has_synced() && self.leases.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(n) = self.nodes.by_key(key) else {
            self.beats.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Plan::none();
        };
        let mut plan = Plan::none();
        let silent = self.silence(&n);
        if silent >= self.grace {
            if let Some(conds) = unknown(&n, now) {
                let mut next = n.as_ref().clone();
                next.status.get_or_insert_default().conditions = Some(conds);
                plan.push(Action::update_status(next));
                let text = format!("Node {} status is now: NodeNotReady", key.name);
                plan.push(Action::event(COMPONENT, n.as_ref(), EventType::Normal, "NodeNotReady", text));
                return plan;
            }
        } else {
            plan.after(self.grace - silent + Duration::from_millis(50));
        }
        let ready = condition(&n, "Ready").map(|c| c.status.as_str());
        if matches!(ready, Some("False" | "Unknown")) {
            for p in self.pods.on_node(&key.name) {
                if let Some(a) = unready(&p, now) {
                    plan.push(a);
                }
            }
        }
        if let Some(t) = taints(&n, now) {
            let patch = serde_json::json!({
                "metadata": {"resourceVersion": n.metadata.resource_version},
                "spec": {"taints": t},
            });
            plan.push(Action::merge(n.as_ref(), "", patch));
        }
        // The old names of the labels that describe the machine.
        let l = |k: &str| meta::label(&n.metadata, k);
        let mut labels = serde_json::Map::new();
        for (new, old) in [
            ("kubernetes.io/os", "beta.kubernetes.io/os"),
            ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
        ] {
            if let Some(v) = l(new).filter(|v| l(old) != Some(*v)) {
                labels.insert(old.into(), v.into());
            }
        }
        if !labels.is_empty() {
            let patch = serde_json::json!({"metadata": {"labels": labels}});
            plan.push(Action::merge(n.as_ref(), "", patch));
        }
        plan
    }
}
