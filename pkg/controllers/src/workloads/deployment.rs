//! Deployments: roll from one ReplicaSet to the next.

mod math;
mod status;

use crate::claim::claim;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{
    Action, Cache, Controller, Event, EventType, Informers, Plan, Queue, Step, message,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const COMPONENT: &str = "deployment-controller";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The Deployment controller.
pub struct Deployments {
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
}

/// A deployment and what it owns, at one moment.
pub(crate) struct View {
    pub d: Arc<Deployment>,
    /// The set of the present template, if there is one.
    pub new: Option<Arc<ReplicaSet>>,
    /// The others, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
    pub now: Timestamp,
}

pub(crate) fn spec_replicas(r: &ReplicaSet) -> i32 {
    r.spec.replicas.unwrap_or(1)
}
pub(crate) fn available(r: &ReplicaSet) -> i32 {
    r.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}
fn revision(m: &ObjectMeta) -> i64 {
    meta::annotation(m, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn without_hash(t: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut t = t.cloned().unwrap_or_default();
    if let Some(l) = t.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        l.remove(HASH);
    }
    if let Some(m) = &mut t.metadata {
        m.creation_timestamp = None;
        if m.labels.as_ref().is_some_and(BTreeMap::is_empty) {
            m.labels = None;
        }
    }
    t
}

impl View {
    pub fn wanted(&self) -> i32 {
        self.d.spec.replicas.unwrap_or(1)
    }
    pub fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.as_ref())
    }
    pub fn rolling(&self) -> bool {
        self.d.spec.strategy.as_ref()
            .and_then(|s| s.type_.as_deref())
            .unwrap_or("RollingUpdate")
            == "RollingUpdate"
    }
    /// (maxSurge, maxUnavailable) in pods; never both zero.
    pub fn bounds(&self) -> (i32, i32) {
        if !self.rolling() {
            return (0, 0);
        }
        let n = self.wanted();
        let r = self.d.spec.strategy.as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        let part = |v: Option<&_>, up| match v {
            Some(v) => meta::scaled(v, n, up).unwrap_or(0),
            None => {
                let q = n * 25;
                if up { (q + 99) / 100 } else { q / 100 }
            }
        };
        let surge = part(r.and_then(|r| r.max_surge.as_ref()), true);
        let unavailable = part(r.and_then(|r| r.max_unavailable.as_ref()), false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(n)) }
    }
    pub fn max_unavailable(&self) -> i32 {
        if self.rolling() && self.wanted() > 0 { self.bounds().1 } else { 0 }
    }
    pub fn paused(&self) -> bool {
        self.d.spec.paused.unwrap_or(false)
    }
    pub fn has_deadline(&self) -> Option<i32> {
        self.d.spec.progress_deadline_seconds
            .filter(|d| *d != i32::MAX)
    }

    /// The annotations a set must carry at this revision, given those it has.
    fn annotations(&self, have: Option<&Labels>, new_revision: Option<i64>) -> Labels {
        let mut a = have.cloned().unwrap_or_default();
        let skip = [LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED, MAX];
        for (k, v) in self.d.metadata.annotations.iter().flatten() {
            if !skip.contains(&k.as_str()) && k != "deprecated.deployment.rollback.to" {
                a.insert(k.clone(), v.clone());
            }
        }
        if let Some(new) = new_revision {
            let old = a.get(REVISION).cloned();
            let old_n: i64 = old.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0);
            if old_n < new {
                a.insert(REVISION.into(), new.to_string());
                if let Some(old) = old.filter(|o| !o.is_empty()) {
                    let mut h: Vec<String> = a
                        .get(REVISION_HISTORY)
                        .map(|h| h.split(',').map(str::to_owned).collect())
                        .unwrap_or_default();
                    h.push(old);
                    while h.join(",").len() > 2000 {
                        h.remove(0);
                    }
                    a.insert(REVISION_HISTORY.into(), h.join(","));
                }
            }
        }
        let n = self.wanted();
        a.insert(DESIRED.into(), n.to_string());
        a.insert(MAX.into(), (n + self.bounds().0).to_string());
        a
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|r| revision(&r.metadata)).max().unwrap_or(0) + 1
    }

    /// The ReplicaSet of the present template, to be created.
    fn make_set(&self) -> Option<ReplicaSet> {
        let spec = Some(&self.d.spec)?;
        let collisions = self.d.status.as_ref().and_then(|s| s.collision_count);
        let hash = meta::template_hash(&without_hash(Some(&spec.template)), collisions);
        let mut template = spec.template.clone();
        template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH.into(), hash.clone());
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
        Some(ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", meta::name(&self.d.metadata))),
                namespace: self.d.metadata.namespace.clone(),
                labels,
                annotations: Some(self.annotations(None, Some(self.next_revision()))),
                owner_references: Some(vec![meta::owner_ref(self.d.as_ref())]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(math::new_set_size(self, 0)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        })
    }

    fn scale(&self, set: &Arc<ReplicaSet>, to: i32) -> Action {
        let (from, set, d) = (spec_replicas(set), set.clone(), self.d.clone());
        let mut next = set.as_ref().clone();
        next.metadata.annotations = Some(self.annotations_for_scale(&set));
        next.spec.replicas = Some(to);
        let what = format!("scale {} {from} -> {to}", meta::name(&set.metadata));
        Action::call(what, move |i| async move {
            i.update(&next).await?;
            if from != to {
                let dir = if to > from { "up" } else { "down" };
                let name = meta::name(&set.metadata);
                let text = format!("Scaled {dir} replica set {name} from {from} to {to}");
                let r = i.recorder();
                r.event(COMPONENT, d.as_ref(), EventType::Normal, "ScalingReplicaSet", text);
            }
            Ok(())
        })
    }

    fn annotations_for_scale(&self, set: &ReplicaSet) -> Labels {
        let mut a = set.metadata.annotations.clone().unwrap_or_default();
        let n = self.wanted();
        a.insert(DESIRED.into(), n.to_string());
        a.insert(MAX.into(), (n + self.bounds().0).to_string());
        a
    }
}

/// Creates the new set; a name taken by a foreign set counts as a hash collision.
fn create_set(d: Arc<Deployment>, set: ReplicaSet) -> Action {
    let what = format!("create ReplicaSet {}", meta::name(&set.metadata));
    Action::call(what, move |i| async move {
        let name = meta::name(&set.metadata).to_owned();
        let n = spec_replicas(&set);
        match i.create(&set).await {
            Ok(_) => {
                if n > 0 {
                    let text = format!("Scaled up replica set {name} from 0 to {n}");
                    let r = i.recorder();
                    r.event(COMPONENT, d.as_ref(), EventType::Normal, "ScalingReplicaSet", text);
                }
                Ok(())
            }
            Err(e) if knarr_runner::is_already_exists(&e) => {
                let sets = kube::Api::<ReplicaSet>::namespaced(
                    i.client().clone(),
                    meta::ns(&d.metadata),
                );
                let live = sets.get(&name).await?;
                let ours = meta::controlled_by(&live.metadata, meta::uid(&d.metadata));
                let same = without_hash(live.spec.template.as_ref())
                    == without_hash(Some(&d.spec).map(|s| &s.template));
                if ours && same {
                    return Ok(());
                }
                let mut next = d.as_ref().clone();
                let st = next.status.get_or_insert_default();
                st.collision_count = Some(st.collision_count.unwrap_or(0) + 1);
                i.update_status(&next).await?;
                Err(e)
            }
            Err(e) => {
                let text = format!("Failed to create new replica set {name:?}: {}", message(&e));
                let r = i.recorder();
                r.event(
                    COMPONENT,
                    d.as_ref(),
                    EventType::Warning,
                    "ReplicaSetCreateError",
                    text.clone(),
                );
                let mut next = d.as_ref().clone();
                status::set_condition(
                    next.status.get_or_insert_default(),
                    "Progressing",
                    "False",
                    "ReplicaSetCreateError",
                    &text,
                    meta::now(),
                );
                let _ = i.update_status(&next).await;
                Err(e)
            }
        }
    })
}

impl Deployments {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { deployments: i.get(), sets: i.get(), pods: i.get() }
    }

    fn view(&self, d: Arc<Deployment>, mut sets: Vec<Arc<ReplicaSet>>, now: Timestamp) -> View {
        sets.sort_by_key(|s| {
            (
                s.metadata.creation_timestamp.as_ref().map(|t| t.0),
                meta::name(&s.metadata).to_owned(),
            )
        });
        let want = without_hash(Some(&d.spec).map(|s| &s.template));
        let at = sets
            .iter()
            .position(|s| without_hash(s.spec.template.as_ref()) == want);
        let new = at.map(|i| sets.remove(i));
        View { d, new, old: sets, now }
    }

    fn old_pods_running(&self, v: &View) -> bool {
        v.old.iter().any(|s| {
            self.pods.owned_by(meta::uid(&s.metadata)).iter().any(|p| !pods::finished(p))
        })
    }

    /// The one next step of the rollout, if any.
    fn step(&self, v: &View) -> Vec<Action> {
        // The new set's annotations and minReadySeconds follow the deployment's.
        if let Some(new) = &v.new {
            let spec = Some(&v.d.spec);
            let want = v.annotations(new.metadata.annotations.as_ref(), Some(v.next_revision()));
            let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
            let have_min =
                new.spec.min_ready_seconds.unwrap_or(0);
            // Desired and max are written when scaling, which looks at the old values.
            let mut compare = want.clone();
            for k in [DESIRED, MAX] {
                match meta::annotation(&new.metadata, k) {
                    Some(x) => compare.insert(k.into(), x.to_owned()),
                    None => None,
                };
            }
            if new.metadata.annotations.as_ref() != Some(&compare) || min_ready != have_min {
                let mut next = new.as_ref().clone();
                next.metadata.annotations = Some(compare);
                next.spec.min_ready_seconds = v.d.spec.min_ready_seconds;
                return vec![Action::update(next)];
            }
            let rev = meta::annotation(&new.metadata, REVISION).unwrap_or("");
            if !rev.is_empty() && meta::annotation(&v.d.metadata, REVISION) != Some(rev) {
                let mut next = v.d.as_ref().clone();
                next.metadata
                    .annotations
                    .get_or_insert_default()
                    .insert(REVISION.into(), rev.to_owned());
                return vec![Action::update(next)];
            }
        }
        if v.paused() || math::scaling_event(v) {
            return math::proportional(v).into_iter().map(|(s, n)| v.scale(&s, n)).collect();
        }
        if !v.rolling() {
            let down: Vec<_> =
                v.old.iter().filter(|s| spec_replicas(s) > 0).map(|s| v.scale(s, 0)).collect();
            if !down.is_empty() {
                return down;
            }
            if self.old_pods_running(v) {
                return Vec::new();
            }
        }
        let Some(new) = &v.new else {
            return v.make_set().map(|s| create_set(v.d.clone(), s)).into_iter().collect();
        };
        let want = if v.rolling() { math::new_set_size(v, spec_replicas(new)) } else { v.wanted() };
        if want != spec_replicas(new) {
            return vec![v.scale(new, want)];
        }
        if v.rolling() {
            return math::shrink_old(v).into_iter().map(|(s, n)| v.scale(&s, n)).collect();
        }
        Vec::new()
    }

    fn cleanup(&self, v: &View) -> Vec<Action> {
        let limit = v.d.spec.revision_history_limit.unwrap_or(10);
        if limit == i32::MAX || !status::complete(v) {
            return Vec::new();
        }
        let mut idle: Vec<_> =
            v.old.iter().filter(|s| !meta::deleting(&s.metadata)).collect();
        let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        idle.sort_by_key(|s| revision(&s.metadata));
        idle.into_iter()
            .take(excess)
            .filter(|s| {
                let st = s.status.clone().unwrap_or_default();
                spec_replicas(s) == 0
                    && st.replicas == 0
                    && st.observed_generation.unwrap_or(0) >= s.metadata.generation.unwrap_or(0)
            })
            .map(|s| Action::delete(s.as_ref(), None, None))
            .collect()
    }
}

fn matches(d: &Deployment, l: Option<&Labels>) -> bool {
    Some(&d.spec).is_some_and(|s| {
        !meta::selector_is_empty(&s.selector) && meta::selects(&s.selector, l)
    })
}

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        COMPONENT
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.deployments.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let (q, ds) = (queue.clone(), self.deployments.clone());
        self.sets.on_event(move |e| {
            let m = &e.object().metadata;
            if let Some(o) = meta::controller_of(m) {
                if o.kind == "Deployment" {
                    q.add(Key::new(meta::ns(m), &o.name));
                }
            } else {
                for d in ds.in_namespace(meta::ns(m)) {
                    if matches(&d, m.labels.as_ref()) {
                        q.add(Key::of(&d.metadata));
                    }
                }
            }
        });
        // A Recreate rollout waits for the old pods to be gone.
        let (q, sets) = (queue.clone(), self.sets.clone());
        self.pods.on_event(move |e| {
            let gone = match e {
                Event::Deleted(_) => true,
                Event::Updated { new, .. } => pods::finished(new),
                Event::Added(_) => false,
            };
            let m = &e.object().metadata;
            if let (true, Some(o)) = (gone, meta::controller_of(m)) {
                let set = sets.get(meta::ns(m), &o.name);
                if let Some(parent) = set.as_ref().and_then(|s| meta::controller_of(&s.metadata)) {
                    q.add(Key::new(meta::ns(m), &parent.name));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.deployments.has_synced() && self.sets.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(d) = self.deployments.by_key(key) else { return Plan::none() };
        if Some(&d.spec).is_none_or(|s| meta::selector_is_empty(&s.selector)) {
            return Plan::none();
        }
        let deleting = meta::deleting(&d.metadata);
        let c = claim(
            &self.sets,
            &key.namespace,
            &meta::owner_ref(d.as_ref()),
            deleting,
            |l| matches(&d, l),
            |_| true,
        );
        let mut plan = Plan::none();
        if !c.actions.is_empty() {
            plan.steps.push(Step::All(c.actions));
            plan.after(std::time::Duration::from_millis(1));
            return plan;
        }
        let v = self.view(d, c.owned, now);
        if !deleting {
            let step = self.step(&v);
            if step.is_empty() {
                plan.steps.push(Step::All(self.cleanup(&v)));
            } else {
                plan.steps.extend(step.into_iter().map(Step::One));
                // The written objects' own events cause the next plan; the status is theirs too.
                plan.after(std::time::Duration::from_millis(1));
                return plan;
            }
        }
        if let Some(next) = status::next(&v) {
            plan.push(Action::update_status(next));
        }
        if let Some(after) = status::deadline_in(&v) {
            plan.after(after);
        }
        plan
    }
}
