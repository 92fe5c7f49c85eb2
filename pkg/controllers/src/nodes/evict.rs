//! NoExecute taints: pods that do not tolerate them leave.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use knarr_runner::meta::{self, Key};
use knarr_runner::placement::tolerates;
use knarr_runner::{Action, Cache, Controller, Event, EventType, Informers, Plan, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The taint eviction controller; its keys are pods.
pub struct Evictions {
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    /// Since when a pod is known to stand on a tainted node: taints made by people do not say
    /// when they were added.
    since: Mutex<HashMap<String, Timestamp>>,
}

impl Evictions {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { nodes: i.get(), pods: i.get(), since: Mutex::default() }
    }

    /// When the pod was first seen so; forgotten when nothing makes it go any more.
    fn first_seen(&self, p: &Pod, evictable: bool, now: Timestamp) -> Timestamp {
        let mut all = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = meta::uid(&p.metadata);
        if evictable {
            return *all.entry(uid.to_owned()).or_insert(now);
        }
        all.remove(uid);
        now
    }
}

fn no_execute(n: &Node) -> Vec<&Taint> {
    n.spec
        .iter()
        .flat_map(|s| s.taints.iter().flatten())
        .filter(|t| t.effect == "NoExecute")
        .collect()
}

/// When the pod must go: `None` never, zero or less at once. `seen` stands for the time of
/// taints that have none.
fn due(p: &Pod, taints: &[&Taint], seen: Timestamp, now: Timestamp) -> Option<f64> {
    let tolerations = p.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[]);
    let mut first: Option<f64> = None;
    for taint in taints {
        let fits: Vec<&Toleration> =
            tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if fits.is_empty() {
            return Some(0.0);
        }
        let since = taint.time_added.as_ref().map_or(seen, |t| t.0);
        let seconds = fits.iter().filter_map(|t| t.toleration_seconds).min();
        if let Some(s) = seconds {
            let left = s.max(0) as f64 - meta::seconds_between(since, now);
            first = Some(first.map_or(left, |f| f.min(left)));
        }
    }
    first
}

impl Controller for Evictions {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let (q, pods) = (queue.clone(), self.pods.clone());
        self.nodes.on_event(move |e| {
            let look = match e {
                Event::Added(n) => !no_execute(n).is_empty(),
                Event::Updated { old, new } => no_execute(old) != no_execute(new),
                Event::Deleted(_) => false,
            };
            if look {
                for p in pods.on_node(meta::name(&e.object().metadata)) {
                    q.add(Key::of(&p.metadata));
                }
            }
        });
        let (q, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.on_event(move |e| {
            let p = e.object();
            let node = pods::node(p);
            if matches!(e, Event::Deleted(_)) {
                return q.add(Key::of(&p.metadata));
            }
            if !node.is_empty() && nodes.get("", node).is_some_and(|n| !no_execute(&n).is_empty()) {
                q.add(Key::of(&p.metadata));
            }
        });
    }
    fn synced(&self) -> bool {
        self.nodes.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(p) = self.pods.by_key(key) else {
            let mut all = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.is_empty() {
                let live: std::collections::HashSet<String> =
                    self.pods.list().iter().map(|p| meta::uid(&p.metadata).to_owned()).collect();
                all.retain(|uid, _| live.contains(uid));
            }
            return Plan::none();
        };
        if meta::deleting(&p.metadata) || pods::finished(&p) {
            return Plan::none();
        }
        let node = self.nodes.get("", pods::node(&p));
        let taints = node.as_deref().map(no_execute).unwrap_or_default();
        let evictable = due(&p, &taints, now, now).is_some();
        let seen = self.first_seen(&p, evictable, now);
        let Some(left) = due(&p, &taints, seen, now) else { return Plan::none() };
        if left > 0.0 {
            return Plan {
                requeue_after: Some(Duration::from_secs_f64(left + 0.01)),
                ..Plan::default()
            };
        }
        let text = format!("Marking for deletion Pod {key}");
        let mut plan = Plan::one(Action::event(
            "taint-eviction-controller",
            p.as_ref(),
            EventType::Normal,
            "TaintManagerEviction",
            text,
        ));
        plan.push(super::podgc::mark_disrupted(
            &p,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            None,
            now,
        ));
        plan.push(Action::delete(p.as_ref(), None, None));
        plan
    }
}

#[cfg(test)]
mod tests;
