//! Pods that nothing else would remove: on nodes that are gone, terminating before they were
//! scheduled, or ended and too many.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Event, Informers, Plan, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const QUARANTINE: Duration = Duration::from_secs(40);

/// The pod garbage collector; its keys are pods.
pub struct PodGc {
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    threshold: usize,
    /// Since when a node that pods name is missing.
    missing: Mutex<HashMap<String, Instant>>,
}

impl PodGc {
    /// A controller over these informers, keeping at most `threshold` ended pods.
    pub fn new(i: &Informers, threshold: usize) -> Self {
        Self { pods: i.get(), nodes: i.get(), threshold, missing: Mutex::default() }
    }
}

/// Adds the DisruptionTarget condition, and the phase where given.
pub(super) fn mark_disrupted(
    p: &Arc<Pod>,
    reason: &str,
    text: &str,
    phase: Option<&str>,
    now: Timestamp,
) -> Action {
    let mut status = serde_json::json!({"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": text,
        "lastTransitionTime": meta::time(now),
    }]});
    if let Some(ph) = phase {
        status["phase"] = ph.into();
    }
    let p = p.clone();
    Action::call("mark pod disrupted", move |i| async move {
        let m = &p.metadata;
        let patch = kube::api::Patch::Strategic(serde_json::json!({"status": status}));
        match i.patch::<Pod, _>(meta::ns(m), meta::name(m), "status", &patch).await {
            Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
            other => other.map(drop),
        }
    })
}

fn out_of_service(n: &Node) -> bool {
    let not_ready = n
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status != "True");
    not_ready
        && n.spec
            .iter()
            .flat_map(|s| s.taints.iter().flatten())
            .any(|t| t.key == "node.kubernetes.io/out-of-service")
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let (q, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.on_event(move |e| {
            let p = e.object();
            if matches!(e, Event::Deleted(_)) {
                return;
            }
            let node = pods::node(p);
            let lost = !node.is_empty() && nodes.get("", node).is_none();
            if lost || pods::finished(p) || meta::deleting(&p.metadata) {
                q.add(Key::of(&p.metadata));
            }
        });
        let (q, pods) = (queue.clone(), self.pods.clone());
        self.nodes.on_event(move |e| {
            let n = e.object();
            if matches!(e, Event::Deleted(_)) || out_of_service(n) {
                for p in pods.on_node(meta::name(&n.metadata)) {
                    q.add(Key::of(&p.metadata));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.pods.has_synced() && self.nodes.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(p) = self.pods.by_key(key) else { return Plan::none() };
        let node = pods::node(&p).to_owned();
        let gone = |p: &Arc<Pod>| Action::delete(p.as_ref(), None, Some(0));
        if node.is_empty() {
            if meta::deleting(&p.metadata) {
                return Plan::one(gone(&p));
            }
        } else {
            match self.nodes.get("", &node) {
                None => {
                    let mut missing =
                        self.missing.lock().unwrap_or_else(PoisonError::into_inner);
                    let since = *missing.entry(node).or_insert_with(Instant::now);
                    if since.elapsed() < QUARANTINE {
                        return Plan {
                            requeue_after: Some(QUARANTINE - since.elapsed()),
                            ..Plan::default()
                        };
                    }
                    let mut plan = Plan::none();
                    if !pods::finished(&p) {
                        plan.push(mark_disrupted(
                            &p,
                            "DeletionByPodGC",
                            "PodGC: node no longer exists",
                            Some("Failed"),
                            now,
                        ));
                    }
                    plan.push(gone(&p));
                    return plan;
                }
                Some(n) => {
                    self.missing
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .remove(&node);
                    if meta::deleting(&p.metadata) && out_of_service(&n) {
                        return Plan::one(gone(&p));
                    }
                }
            }
        }
        if pods::finished(&p) && self.threshold > 0 {
            let mut ended: Vec<Arc<Pod>> =
                self.pods.list().into_iter().filter(|p| pods::finished(p)).collect();
            if ended.len() > self.threshold {
                ended.sort_by_key(|p| {
                    (
                        pods::phase(p) != "Evicted",
                        p.metadata.creation_timestamp.as_ref().map(|t| t.0),
                    )
                });
                let mut plan = Plan::none();
                for p in ended.iter().take(ended.len() - self.threshold) {
                    plan.push(gone(p));
                }
                return plan;
            }
        }
        Plan::none()
    }
}
