//! PodDisruptionBudgets: how many pods may be evicted now.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, EventType, Informers, Plan, Queue};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const COMPONENT: &str = "controllermanager";

/// The disruption controller.
pub struct Disruption {
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
    rcs: Arc<Cache<ReplicationController>>,
    statefulsets: Arc<Cache<StatefulSet>>,
}

impl Disruption {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self {
            budgets: i.get(),
            pods: i.get(),
            sets: i.get(),
            deployments: i.get(),
            rcs: i.get(),
            statefulsets: i.get(),
        }
    }

    /// The pods that the owners of these pods want in all; an error names a pod that nobody owns.
    fn expected(&self, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut sizes: HashMap<String, i32> = HashMap::new();
        for p in pods {
            let ns = meta::ns(&p.metadata);
            let Some(o) = meta::controller_of(&p.metadata) else {
                return Err(format!("found no controller ref for pod {:?}", meta::name(&p.metadata)));
            };
            let (uid, n) = match o.kind.as_str() {
                "ReplicaSet" => {
                    let s = self.sets.get(ns, &o.name);
                    let d = s
                        .as_ref()
                        .and_then(|s| meta::controller_of(&s.metadata))
                        .and_then(|d| self.deployments.get(ns, &d.name));
                    match (d, s) {
                        (Some(d), _) => {
                            (meta::uid(&d.metadata).to_owned(), d.spec.replicas.unwrap_or(1))
                        }
                        (None, Some(s)) => (o.uid.clone(), s.spec.replicas.unwrap_or(1)),
                        (None, None) => continue,
                    }
                }
                "StatefulSet" => match self.statefulsets.get(ns, &o.name) {
                    Some(s) => (o.uid.clone(), s.spec.replicas.unwrap_or(1)),
                    None => continue,
                },
                "ReplicationController" => match self.rcs.get(ns, &o.name) {
                    Some(s) => {
                        (o.uid.clone(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                    }
                    None => continue,
                },
                other => {
                    return Err(format!(
                        "{}.{} does not implement the scale subresource",
                        other.to_lowercase(),
                        o.api_version
                    ));
                }
            };
            sizes.insert(uid, n);
        }
        Ok(sizes.values().sum())
    }
}

fn selected(b: &PodDisruptionBudget, p: &Pod) -> bool {
    b.spec
        .as_ref()
        .and_then(|s| s.selector.as_ref())
        .is_some_and(|s| meta::selects(s, p.metadata.labels.as_ref()))
}

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.budgets.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let (q, budgets) = (queue.clone(), self.budgets.clone());
        self.pods.on_event(move |e| {
            let p = e.object();
            for b in budgets.in_namespace(meta::ns(&p.metadata)) {
                let before = match e {
                    knarr_runner::Event::Updated { old, .. } => selected(&b, old),
                    _ => false,
                };
                if before || selected(&b, p) {
                    q.add(Key::of(&b.metadata));
                }
            }
        });
        let all = |budgets: Arc<Cache<PodDisruptionBudget>>, q: Queue<Key>| {
            move |ns: &str| {
                for b in budgets.in_namespace(ns) {
                    q.add(Key::of(&b.metadata));
                }
            }
        };
        let f = all(self.budgets.clone(), queue.clone());
        self.deployments.on_event(move |e| f(meta::ns(&e.object().metadata)));
        let f = all(self.budgets.clone(), queue.clone());
        self.statefulsets.on_event(move |e| f(meta::ns(&e.object().metadata)));
        let f = all(self.budgets.clone(), queue.clone());
        self.sets.on_event(move |e| f(meta::ns(&e.object().metadata)));
        let f = all(self.budgets.clone(), queue.clone());
        self.rcs.on_event(move |e| f(meta::ns(&e.object().metadata)));
    }
    fn synced(&self) -> bool {
        self.budgets.has_synced()
            && self.pods.has_synced()
            && self.sets.has_synced()
            && self.deployments.has_synced()
            && self.rcs.has_synced()
            && self.statefulsets.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(b) = self.budgets.by_key(key) else { return Plan::none() };
        let Some(spec) = &b.spec else { return Plan::none() };
        let mut plan = Plan::none();
        let pods: Vec<Arc<Pod>> = self
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|p| selected(&b, p) && !pods::finished(p))
            .collect();
        let mut st = b.status.clone().unwrap_or_default();
        let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        let (mut expected, mut desired, mut failure) = (count, 0, None);
        if let Some(max) = &spec.max_unavailable {
            match self.expected(&pods) {
                Ok(n) => {
                    expected = n;
                    desired = (n - meta::scaled(max, n, true).unwrap_or(0)).max(0);
                }
                Err(e) => failure = Some(e),
            }
        } else if let Some(min) = &spec.min_available {
            match min {
                IntOrString::Int(n) => desired = *n,
                percent @ IntOrString::String(_) => match self.expected(&pods) {
                    Ok(n) => {
                        expected = n;
                        desired = meta::scaled(percent, n, true).unwrap_or(0);
                    }
                    Err(e) => failure = Some(e),
                },
            }
        }
        // Evictions that were allowed and not yet seen count for two minutes.
        let mut disrupted = st.disrupted_pods.take().unwrap_or_default();
        disrupted.retain(|name, t| {
            let live = pods.iter().any(|p| {
                meta::name(&p.metadata) == name && !meta::deleting(&p.metadata)
            });
            live && meta::seconds_between(t.0, now) < 120.0
        });
        if !disrupted.is_empty() {
            plan.after(Duration::from_secs(121));
        }
        let healthy = pods
            .iter()
            .filter(|p| {
                pods::ready(p)
                    && !meta::deleting(&p.metadata)
                    && !disrupted.contains_key(meta::name(&p.metadata))
            })
            .count();
        let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
        st.disrupted_pods = Some(disrupted).filter(|d| !d.is_empty());
        st.observed_generation = b.metadata.generation;
        let (status, reason, text) = match &failure {
            Some(e) => {
                st.disruptions_allowed = Some(0);
                let t = format!("Failed to calculate the number of expected pods: {e}");
                plan.push(Action::event(
                    COMPONENT,
                    b.as_ref(),
                    EventType::Warning,
                    "CalculateExpectedPodCountFailed",
                    t,
                ));
                ("False", "SyncFailed", e.clone())
            }
            None => {
                let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
                st.current_healthy = Some(healthy);
                st.desired_healthy = Some(desired);
                st.expected_pods = Some(expected);
                st.disruptions_allowed = Some(allowed);
                if allowed > 0 {
                    ("True", "SufficientPods", String::new())
                } else {
                    ("False", "InsufficientPods", String::new())
                }
            }
        };
        if pods.is_empty() && b.status.is_none() {
            let text = "No matching pods found";
            plan.push(Action::event(COMPONENT, b.as_ref(), EventType::Normal, "NoPods", text));
        }
        let conds = st.conditions.get_or_insert_default();
        let old = conds.iter().position(|c| c.type_ == "DisruptionAllowed").map(|i| conds.remove(i));
        let since = old
            .filter(|o| o.status == status)
            .map(|o| o.last_transition_time)
            .unwrap_or_else(|| meta::time(now));
        conds.push(Condition {
            type_: "DisruptionAllowed".into(),
            status: status.into(),
            reason: reason.into(),
            message: text,
            observed_generation: b.metadata.generation,
            last_transition_time: since,
        });
        if b.status.as_ref() != Some(&st) {
            let mut next = b.as_ref().clone();
            next.status = Some(st);
            plan.push(Action::update_status(next));
        }
        plan
    }
}
