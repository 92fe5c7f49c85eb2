//! ReplicaSet and ReplicationController: keep so many pods of a template.

use crate::claim::claim;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{
    Action, Cache, Controller, Event, EventType, Informers, Kind, Plan, Queue, Step, message,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const BURST: usize = 500;

/// A status in terms common to both kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Active pods.
    pub replicas: i32,
    /// Those with all labels of the template.
    pub fully_labeled: i32,
    /// Ready ones.
    pub ready: i32,
    /// Ready for long enough.
    pub available: i32,
    /// Being deleted.
    pub terminating: i32,
}

/// What ReplicaSet and ReplicationController have in common.
pub trait Replicated: Kind {
    /// The controller's name in events.
    const COMPONENT: &'static str;
    /// Wanted pods.
    fn replicas(&self) -> i32;
    /// Whether labels match the selector.
    fn matches(&self, l: Option<&Labels>) -> bool;
    /// The template.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// `minReadySeconds`.
    fn min_ready(&self) -> i32;
    /// Whether the status has `terminatingReplicas`.
    const TERMINATING: bool;
    /// With a new status, if it differs. `failure` is the ReplicaFailure condition's reason and
    /// message; `None` removes the condition.
    fn with_status(
        &self,
        c: &Counts,
        failure: Option<(&'static str, String)>,
        now: Timestamp,
    ) -> Option<Self> {
        let mut whole = serde_json::to_value(self).ok()?;
        let old = whole.get("status").cloned().unwrap_or_default();
        let mut st = old.as_object().cloned().unwrap_or_default();
        let mut conds: Vec<serde_json::Value> =
            st.get("conditions").and_then(|c| c.as_array().cloned()).unwrap_or_default();
        let is_failure = |x: &serde_json::Value| x["type"] == "ReplicaFailure";
        match failure {
            None => conds.retain(|x| !is_failure(x)),
            Some((reason, _)) if conds.iter().any(|x| is_failure(x) && x["reason"] == reason) => {}
            Some((reason, text)) => {
                conds.retain(|x| !is_failure(x));
                conds.push(serde_json::json!({
                    "type": "ReplicaFailure", "status": "True", "reason": reason, "message": text,
                    "lastTransitionTime": meta::time(now),
                }));
            }
        }
        st.insert("replicas".into(), c.replicas.into());
        let optional = [
            ("fullyLabeledReplicas", c.fully_labeled),
            ("readyReplicas", c.ready),
            ("availableReplicas", c.available),
        ];
        if Self::TERMINATING {
            st.insert("terminatingReplicas".into(), c.terminating.into());
        }
        for (k, v) in optional {
            if v == 0 {
                st.remove(k);
            } else {
                st.insert(k.into(), v.into());
            }
        }
        st.insert("observedGeneration".into(), self.meta().generation.into());
        if conds.is_empty() {
            st.remove("conditions");
        } else {
            st.insert("conditions".into(), conds.into());
        }
        let st = serde_json::Value::Object(st);
        if st == old {
            return None;
        }
        whole["status"] = st;
        serde_json::from_value(whole).ok()
    }
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const TERMINATING: bool = true;
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
    fn matches(&self, l: Option<&Labels>) -> bool {
        !meta::selector_is_empty(&self.spec.selector) && meta::selects(&self.spec.selector, l)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }
    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const TERMINATING: bool = false;
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn matches(&self, l: Option<&Labels>) -> bool {
        let sel = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        sel.is_some_and(|s| !s.is_empty() && meta::map_matches(s, l))
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().and_then(|s| s.template.as_ref())
    }
    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
}

/// The controller of one of the two kinds.
pub struct Replicas<K> {
    sets: Arc<Cache<K>>,
    pods: Arc<Cache<Pod>>,
}

impl<K: Replicated> Replicas<K> {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { sets: i.get(), pods: i.get() }
    }

    /// Pods of sets with the same owner: those that crowd the same nodes.
    fn related(&self, set: &K, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(parent) = meta::controller_of(set.meta()) else { return own.to_vec() };
        self.sets
            .owned_by(&parent.uid)
            .iter()
            .flat_map(|s| self.pods.owned_by(meta::uid(s.meta())))
            .collect()
    }
}

fn create<K: Replicated>(set: &Arc<K>) -> Action {
    let set = set.clone();
    Action::call(format!("create Pod for {}", meta::name(set.meta())), move |i| async move {
        let Some(t) = set.template() else { return Ok(()) };
        let m = set.meta();
        let pod =
            pods::from_template(t, meta::ns(m), meta::name(m), meta::owner_ref(set.as_ref()));
        match i.create(&pod).await {
            Ok(p) => {
                let text = format!("Created pod: {}", meta::name(&p.metadata));
                i.recorder().event(
                    K::COMPONENT,
                    set.as_ref(),
                    EventType::Normal,
                    "SuccessfulCreate",
                    text,
                );
                Ok(())
            }
            Err(e) => {
                let terminating = matches!(&e, kube::Error::Api(s) if s.code == 403
                    && s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")));
                if terminating {
                    return Ok(());
                }
                let text = format!("Error creating: {}", message(&e));
                i.recorder().event(
                    K::COMPONENT,
                    set.as_ref(),
                    EventType::Warning,
                    "FailedCreate",
                    text,
                );
                Err(e)
            }
        }
    })
}

/// Deletes a pod for its owner, with the event.
pub fn delete_pod<K: Kind>(component: &'static str, owner: &Arc<K>, pod: &Arc<Pod>) -> Action {
    let (set, pod) = (owner.clone(), pod.clone());
    let what = format!("delete Pod {}", meta::name(&pod.metadata));
    Action::call(what, move |i| async move {
        match i.delete(pod.as_ref(), None, None).await {
            Ok(()) => {
                let text = format!("Deleted pod: {}", meta::name(&pod.metadata));
                i.recorder().event(
                    component,
                    set.as_ref(),
                    EventType::Normal,
                    "SuccessfulDelete",
                    text,
                );
                Ok(())
            }
            Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
            Err(e) => {
                let text = format!("Error deleting: {}", message(&e));
                i.recorder().event(component, set.as_ref(), EventType::Warning, "FailedDelete", text);
                Err(e)
            }
        }
    })
}

/// Puts into the queue the owners of a kind that a pod concerns.
pub fn queue_owner<K: Kind>(
    pod: &Pod,
    sets: &Cache<K>,
    queue: &Queue<Key>,
    matches: impl Fn(&K, Option<&Labels>) -> bool,
) {
    let ns = meta::ns(&pod.metadata);
    match meta::controller_of(&pod.metadata) {
        Some(o) => {
            if o.kind == K::kind(&()) && o.api_version == K::api_version(&()) {
                queue.add(Key::new(ns, &o.name));
            }
        }
        None => {
            for s in sets.in_namespace(ns) {
                if matches(&s, pod.metadata.labels.as_ref()) {
                    queue.add(Key::of(s.meta()));
                }
            }
        }
    }
}

/// Wires a kind and its pods to a queue, as all pod-making controllers need it.
pub fn watch_pods<K: Kind>(
    sets: &Arc<Cache<K>>,
    pods: &Arc<Cache<Pod>>,
    queue: &Queue<Key>,
    matches: fn(&K, Option<&Labels>) -> bool,
) {
    let q = queue.clone();
    sets.on_event(move |e| q.add(Key::of(e.object().meta())));
    let (q, s) = (queue.clone(), sets.clone());
    pods.on_event(move |e| {
        if let Event::Updated { old, new } = e {
            let (a, b) = (meta::controller_of(&old.metadata), meta::controller_of(&new.metadata));
            if a.map(|o| &o.uid) != b.map(|o| &o.uid) && a.is_some() {
                queue_owner(old, &s, &q, matches);
            }
        }
        queue_owner(e.object(), &s, &q, matches);
    });
}

impl<K: Replicated> Controller for Replicas<K> {
    fn name(&self) -> &'static str {
        K::COMPONENT
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        watch_pods(&self.sets, &self.pods, queue, |s: &K, l| s.matches(l));
    }
    fn synced(&self) -> bool {
        self.sets.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(set) = self.sets.by_key(key) else { return Plan::none() };
        let deleting = meta::deleting(set.meta());
        let owner = meta::owner_ref(set.as_ref());
        let claimed = claim(
            &self.pods,
            &key.namespace,
            &owner,
            deleting,
            |l| set.matches(l),
            |p: &Pod| !pods::finished(p),
        );
        let mut plan = Plan::none();
        if !claimed.actions.is_empty() {
            // Adoption changes the count: plan again from what it leaves.
            plan.steps.push(Step::All(claimed.actions));
            plan.after(std::time::Duration::from_millis(1));
            return plan;
        }
        let (own, terminating): (Vec<_>, Vec<_>) =
            claimed.owned.into_iter().partition(|p| pods::active(p));
        let want = usize::try_from(set.replicas()).unwrap_or(0);
        let mut failing = "FailedCreate";
        let have = own.len();
        if !deleting {
            if have < want {
                let n = (want - have).min(BURST);
                plan.steps.push(Step::SlowStart((0..n).map(|_| create(&set)).collect()));
            } else if have > want {
                failing = "FailedDelete";
                let mut ranked = own.clone();
                pods::rank_for_deletion(&mut ranked, &self.related(&set, &own), now);
                let doomed = ranked
                    .iter()
                    .take((have - want).min(BURST))
                    .map(|p| delete_pod(K::COMPONENT, &set, p))
                    .collect();
                plan.steps.push(Step::All(doomed));
            }
        }
        let full: BTreeMap<String, String> = set
            .template()
            .and_then(|t| t.metadata.as_ref())
            .and_then(|m| m.labels.clone())
            .unwrap_or_default();
        let count = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(own.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
        };
        let counts = Counts {
            replicas: count(&|_| true),
            fully_labeled: count(&|p| meta::map_matches(&full, p.metadata.labels.as_ref())),
            ready: count(&pods::ready),
            available: count(&|p| pods::available(p, set.min_ready(), now)),
            terminating: i32::try_from(terminating.len()).unwrap_or(i32::MAX),
        };
        if let Some(d) = pods::next_available(own.iter(), set.min_ready(), now) {
            plan.after(d);
        }
        // While the count is being changed, what the steps leave is told by the next plan, which
        // their own events cause.
        let changing = have != want && !deleting;
        plan.finally = Some(Box::new(move |out| {
            let failure = out.error.as_ref().map(|e| (failing, message(e)));
            if changing && failure.is_none() {
                return Vec::new();
            }
            set.with_status(&counts, failure, now).map(Action::update_status).into_iter().collect()
        }));
        plan
    }
}
