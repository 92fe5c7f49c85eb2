//! DaemonSets: one pod on every node that fits.

use crate::claim::claim;
use crate::pods;
use crate::revisions::{self, Current};
use crate::workloads::replicas::{delete_pod, watch_pods};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, Toleration,
};
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::placement::{node_accepted, untolerated};
use knarr_runner::{
    Action, Cache, Controller, Event, EventType, Informers, Plan, Queue, Step, message,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const COMPONENT: &str = "daemonset-controller";
const HASH: &str = "controller-revision-hash";

/// The DaemonSet controller.
pub struct DaemonSets {
    sets: Arc<Cache<DaemonSet>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    revisions: Arc<Cache<ControllerRevision>>,
}

fn matches(d: &DaemonSet, l: Option<&Labels>) -> bool {
    !meta::selector_is_empty(&d.spec.selector) && meta::selects(&d.spec.selector, l)
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut t = spec.tolerations.clone().unwrap_or_default();
    let mut add = |key: &str, effect: &str| {
        let key = format!("node.kubernetes.io/{key}");
        let have = t.iter().any(|x| {
            x.key.as_deref() == Some(key.as_str())
                && x.effect.as_deref() == Some(effect)
                && x.operator.as_deref() == Some("Exists")
        });
        if !have {
            t.push(Toleration {
                key: Some(key),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
    };
    add("not-ready", "NoExecute");
    add("unreachable", "NoExecute");
    add("disk-pressure", "NoSchedule");
    add("memory-pressure", "NoSchedule");
    add("pid-pressure", "NoSchedule");
    add("unschedulable", "NoSchedule");
    if spec.host_network == Some(true) {
        add("network-unavailable", "NoSchedule");
    }
    t
}

/// Whether a pod of the set should be made, and may stay, on the node.
fn wanted_on(d: &DaemonSet, n: &Node) -> (bool, bool) {
    let Some(spec) = &d.spec.template.spec else { return (false, false) };
    let named = spec.node_name.as_deref().filter(|x| !x.is_empty());
    if named.is_some_and(|x| x != meta::name(&n.metadata)) || !node_accepted(spec, n) {
        return (false, false);
    }
    let t = tolerations(spec);
    if untolerated(&t, n, &["NoExecute"]).is_some() {
        return (false, false);
    }
    (untolerated(&t, n, &["NoSchedule"]).is_none(), true)
}

fn node_terms(old: Option<Affinity>, node: &str) -> Affinity {
    let mut a = old.unwrap_or_default();
    let na: &mut NodeAffinity = a.node_affinity.get_or_insert_default();
    na.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    a
}

/// The node a pod of a DaemonSet is for, bound or not.
fn target(p: &Pod) -> Option<String> {
    let bound = pods::node(p);
    if !bound.is_empty() {
        return Some(bound.to_owned());
    }
    let s = p.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let sel = s.required_during_scheduling_ignored_during_execution.as_ref()?;
    sel.node_selector_terms
        .iter()
        .flat_map(|t| t.match_fields.iter().flatten())
        .find(|r| r.key == "metadata.name")
        .and_then(|r| r.values.as_ref()?.first().cloned())
}

fn create(d: &Arc<DaemonSet>, node: &str, hash: &str) -> Action {
    let mut pod = pods::from_template(
        &d.spec.template,
        meta::ns(&d.metadata),
        meta::name(&d.metadata),
        meta::owner_ref(d.as_ref()),
    );
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.to_owned());
    if let Some(g) = d.metadata.generation {
        labels.insert("pod-template-generation".into(), g.to_string());
    }
    if let Some(s) = &mut pod.spec {
        s.tolerations = Some(tolerations(s));
        s.affinity = Some(node_terms(s.affinity.take(), node));
    }
    let d = d.clone();
    Action::call(format!("create Pod on {node}"), move |i| async move {
        let r = i.recorder().clone();
        match i.create(&pod).await {
            Ok(p) => {
                let text = format!("Created pod: {}", meta::name(&p.metadata));
                r.event(COMPONENT, d.as_ref(), EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(e) => {
                let text = format!("Error creating: {}", message(&e));
                r.event(COMPONENT, d.as_ref(), EventType::Warning, "FailedCreate", text);
                Err(e)
            }
        }
    })
}

impl DaemonSets {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { sets: i.get(), pods: i.get(), nodes: i.get(), revisions: i.get() }
    }
}

#[derive(Default)]
struct Tally {
    desired: i32,
    current: i32,
    misscheduled: i32,
    ready: i32,
    available: i32,
    updated: i32,
}

fn bound(v: Option<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>, n: i32, default: i32) -> i32 {
    v.map_or(default, |v| meta::scaled(v, n, true).unwrap_or(default))
}

/// Which pods to make and to delete, node by node; pure.
fn decide(
    d: &Arc<DaemonSet>,
    nodes: &[Arc<Node>],
    by_node: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    now: Timestamp,
) -> (Vec<String>, Vec<Arc<Pod>>, Tally) {
    let min_ready = d.spec.min_ready_seconds.unwrap_or(0);
    let mut t = Tally::default();
    let (mut make, mut doomed) = (Vec::new(), Vec::new());
    let fresh = |p: &Pod| meta::label(&p.metadata, HASH) == Some(hash);
    // Nodes with one old pod that serves, and nodes where nothing serves.
    let (mut replaceable, mut broken, mut surging) = (Vec::new(), Vec::new(), 0);
    let mut unavailable = 0;
    let strategy = d.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete");
    let ru = strategy.and_then(|s| s.rolling_update.as_ref());
    let total = i32::try_from(nodes.iter().filter(|n| wanted_on(d, n).0).count()).unwrap_or(i32::MAX);
    let surge = bound(ru.and_then(|r| r.max_surge.as_ref()), total, 0);
    let max_unavailable = bound(ru.and_then(|r| r.max_unavailable.as_ref()), total, 1);
    for n in nodes {
        let name = meta::name(&n.metadata).to_owned();
        let (run, stay) = wanted_on(d, n);
        let mut here: Vec<Arc<Pod>> = by_node.get(&name).cloned().unwrap_or_default();
        here.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        let any = !here.is_empty();
        if run {
            t.desired += 1;
            t.current += i32::from(any);
            let best = here.iter().filter(|p| pods::ready(p)).max_by_key(|p| fresh(p));
            if let Some(p) = best {
                t.ready += 1;
                t.available += i32::from(pods::available(p, min_ready, now));
            }
            t.updated += i32::from(here.iter().any(|p| fresh(p)));
        } else {
            t.misscheduled += i32::from(any);
        }
        if !stay {
            doomed.extend(here.into_iter().filter(|p| !meta::deleting(&p.metadata)));
            continue;
        }
        let (dead, live): (Vec<_>, Vec<_>) = here
            .into_iter()
            .partition(|p| pods::finished(p) || meta::deleting(&p.metadata));
        let leaving = !dead.is_empty();
        doomed.extend(dead.into_iter().filter(|p| !meta::deleting(&p.metadata)));
        if live.is_empty() {
            if run && !leaving {
                make.push(name);
            }
            unavailable += i32::from(run);
            continue;
        }
        if !run {
            continue;
        }
        let (new, old): (Vec<_>, Vec<_>) = live.into_iter().partition(|p| fresh(p));
        let serves = |p: &Arc<Pod>| pods::available(p, min_ready, now);
        if !new.iter().chain(&old).any(serves) {
            unavailable += 1;
        }
        doomed.extend(new.iter().skip(1).cloned());
        if new.is_empty() {
            doomed.extend(old.iter().skip(1).cloned());
            if let Some(p) = old.into_iter().next() {
                if serves(&p) { replaceable.push((name, p)) } else { broken.push(p) }
            }
        } else if !old.is_empty() {
            // The new pod beside the old one: the old goes when the new one serves.
            surging += 1;
            if new.iter().any(serves) || !old.iter().any(serves) {
                doomed.extend(old);
            }
        }
    }
    if rolling {
        doomed.extend(broken);
        if surge > 0 {
            let room = usize::try_from(surge - surging).unwrap_or(0);
            make.extend(replaceable.into_iter().take(room).map(|(n, _)| n));
        } else {
            let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
            doomed.extend(replaceable.into_iter().take(room).map(|(_, p)| p));
        }
    }
    (make, doomed, t)
}

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        COMPONENT
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        watch_pods(&self.sets, &self.pods, queue, matches);
        let (q, sets) = (queue.clone(), self.sets.clone());
        self.nodes.on_event(move |e| {
            if let Event::Updated { old, new } = e {
                let taints = |n: &Node| n.spec.as_ref().map(|s| s.taints.clone());
                if old.metadata.labels == new.metadata.labels && taints(old) == taints(new) {
                    return;
                }
            }
            for s in sets.list() {
                q.add(Key::of(&s.metadata));
            }
        });
        let q = queue.clone();
        self.revisions.on_event(move |e| {
            let m = &e.object().metadata;
            if let Some(o) = meta::controller_of(m).filter(|o| o.kind == "DaemonSet") {
                q.add(Key::new(meta::ns(m), &o.name));
            }
        });
    }
    fn synced(&self) -> bool {
        self.sets.has_synced()
            && self.pods.has_synced()
            && self.nodes.has_synced()
            && self.revisions.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(d) = self.sets.by_key(key) else { return Plan::none() };
        if meta::deleting(&d.metadata) {
            return Plan::none();
        }
        let owner = meta::owner_ref(d.as_ref());
        let c = claim(&self.pods, &key.namespace, &owner, false, |l| matches(&d, l), |_| true);
        let mut plan = Plan::none();
        if !c.actions.is_empty() {
            plan.steps.push(Step::All(c.actions));
            plan.after(std::time::Duration::from_millis(1));
            return plan;
        }
        let history = revisions::of(&self.revisions, meta::uid(&d.metadata));
        let labels = d.spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        let collisions = d.status.as_ref().and_then(|s| s.collision_count);
        let rev = match revisions::current(&d, &d.spec.template, labels, collisions, &history) {
            Current::Write(a) => {
                plan.push(a);
                plan.after(std::time::Duration::from_millis(1));
                return plan;
            }
            Current::Is(r) => r,
        };
        let hash = revisions::hash(&rev).to_owned();
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for p in &c.owned {
            if let Some(n) = target(p) {
                by_node.entry(n).or_default().push(p.clone());
            }
        }
        let nodes = self.nodes.list();
        let (make, doomed, t) = decide(&d, &nodes, &by_node, &hash, now);
        for p in doomed.iter().filter(|p| pods::phase(p) == "Failed") {
            let text = format!(
                "Found failed daemon pod {}/{} on node {}, will try to kill it",
                key.namespace,
                meta::name(&p.metadata),
                pods::node(p)
            );
            plan.push(Action::event(COMPONENT, d.as_ref(), EventType::Warning, "FailedDaemonPod", text));
        }
        plan.steps.push(Step::All(doomed.iter().map(|p| delete_pod(COMPONENT, &d, p)).collect()));
        plan.steps.push(Step::SlowStart(make.iter().map(|n| create(&d, n, &hash)).collect()));
        let min_ready = d.spec.min_ready_seconds.unwrap_or(0);
        if let Some(x) = pods::next_available(c.owned.iter(), min_ready, now) {
            plan.after(x);
        }
        let limit = d.spec.revision_history_limit.unwrap_or(10);
        let used = |r: &ControllerRevision| {
            r.metadata.name == rev.metadata.name
                || c.owned.iter().any(|p| meta::label(&p.metadata, HASH) == Some(revisions::hash(r)))
        };
        plan.steps.push(Step::All(revisions::surplus(&history, limit, used)));
        let old = d.status.clone().unwrap_or_default();
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let st = DaemonSetStatus {
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
            current_number_scheduled: t.current,
            desired_number_scheduled: t.desired,
            number_available: some(t.available),
            number_misscheduled: t.misscheduled,
            number_ready: t.ready,
            number_unavailable: some(t.desired - t.available),
            observed_generation: d.metadata.generation,
            updated_number_scheduled: some(t.updated),
        };
        if d.status.as_ref() != Some(&st) {
            plan.finally = Some(Box::new(move |_| {
                let mut next = d.as_ref().clone();
                next.status = Some(st);
                vec![Action::update_status(next)]
            }));
        }
        plan
    }
}
