//! StatefulSets: pods with identities, one after the other.

use crate::claim::claim;
use crate::pods;
use crate::revisions::{self, Current};
use crate::workloads::replicas::watch_pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{
    Action, Cache, Controller, EventType, Informers, Plan, Queue, Step, message,
};
use std::sync::Arc;

const COMPONENT: &str = "statefulset-controller";
const HASH: &str = "controller-revision-hash";

/// The StatefulSet controller.
pub struct StatefulSets {
    sets: Arc<Cache<StatefulSet>>,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    revisions: Arc<Cache<ControllerRevision>>,
}

fn matches(s: &StatefulSet, l: Option<&Labels>) -> bool {
    !meta::selector_is_empty(&s.spec.selector) && meta::selects(&s.spec.selector, l)
}

fn ordinal(s: &StatefulSet, p: &Pod) -> Option<i32> {
    let rest = meta::name(&p.metadata).strip_prefix(meta::name(&s.metadata))?;
    rest.strip_prefix('-')?.parse().ok()
}

fn pod_at(s: &StatefulSet, template: &PodTemplateSpec, n: i32, revision: &str) -> Pod {
    let m = &s.metadata;
    let owner = meta::owner_ref(s);
    let mut p = pods::from_template(template, meta::ns(m), meta::name(m), owner);
    let name = format!("{}-{n}", meta::name(m));
    p.metadata.generate_name = None;
    p.metadata.name = Some(name.clone());
    let l = p.metadata.labels.get_or_insert_default();
    l.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    l.insert("apps.kubernetes.io/pod-index".into(), n.to_string());
    l.insert(HASH.into(), revision.to_owned());
    if let Some(spec) = &mut p.spec {
        spec.hostname = Some(name.clone());
        spec.subdomain = s.spec.service_name.clone().filter(|x| !x.is_empty());
        for c in s.spec.volume_claim_templates.iter().flatten() {
            let volume = meta::name(&c.metadata).to_owned();
            let v = spec.volumes.get_or_insert_default();
            v.retain(|x| x.name != volume);
            v.push(Volume {
                name: volume.clone(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: format!("{volume}-{name}"),
                    read_only: Some(false),
                }),
                ..Volume::default()
            });
        }
    }
    p
}

fn claims_for(s: &StatefulSet, n: i32) -> Vec<PersistentVolumeClaim> {
    let labels = s.spec.selector.match_labels.clone().unwrap_or_default();
    s.spec
        .volume_claim_templates
        .iter()
        .flatten()
        .map(|t| {
            let mut c = t.clone();
            let pod = format!("{}-{n}", meta::name(&s.metadata));
            c.metadata.name = Some(format!("{}-{pod}", meta::name(&t.metadata)));
            c.metadata.namespace = s.metadata.namespace.clone();
            c.metadata.labels.get_or_insert_default().extend(labels.clone());
            c.status = None;
            c
        })
        .collect()
}

fn say(
    i: &Informers,
    s: &Arc<StatefulSet>,
    verb: &str,
    pod: &str,
    result: &Result<(), kube::Error>,
) {
    let set = meta::name(&s.metadata);
    let (kind, reason, text) = match result {
        Ok(()) => (
            EventType::Normal,
            format!("Successful{verb}"),
            format!("{} Pod {pod} in StatefulSet {set} successful", verb.to_lowercase()),
        ),
        Err(e) => (
            EventType::Warning,
            format!("Failed{verb}"),
            format!(
                "{} Pod {pod} in StatefulSet {set} failed error: {}",
                verb.to_lowercase(),
                message(e)
            ),
        ),
    };
    i.recorder().event(COMPONENT, s.as_ref(), kind, &reason, text);
}

fn delete(s: &Arc<StatefulSet>, p: &Arc<Pod>) -> Action {
    let (s, p) = (s.clone(), p.clone());
    Action::call(format!("delete Pod {}", meta::name(&p.metadata)), move |i| async move {
        let r = match i.delete(p.as_ref(), None, None).await {
            Err(e) if knarr_runner::is_not_found(&e) => return Ok(()),
            other => other,
        };
        say(&i, &s, "Delete", meta::name(&p.metadata), &r);
        r
    })
}

impl StatefulSets {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { sets: i.get(), pods: i.get(), claims: i.get(), revisions: i.get() }
    }

    fn create(&self, s: &Arc<StatefulSet>, template: &PodTemplateSpec, n: i32, rev: &str) -> Action {
        let ns = meta::ns(&s.metadata);
        let claims: Vec<_> = claims_for(s, n)
            .into_iter()
            .filter(|c| self.claims.get(ns, meta::name(&c.metadata)).is_none())
            .collect();
        let (s, pod) = (s.clone(), pod_at(s, template, n, rev));
        Action::call(format!("create Pod {}", meta::name(&pod.metadata)), move |i| async move {
            let name = meta::name(&pod.metadata).to_owned();
            let set = meta::name(&s.metadata).to_owned();
            for c in claims {
                let claim = meta::name(&c.metadata).to_owned();
                match i.create(&c).await {
                    Ok(_) => {
                        let text =
                            format!("create Claim {claim} Pod {name} in StatefulSet {set} success");
                        let r = i.recorder();
                        r.event(COMPONENT, s.as_ref(), EventType::Normal, "SuccessfulCreate", text);
                    }
                    Err(e) if knarr_runner::is_already_exists(&e) => {}
                    Err(e) => return Err(e),
                }
            }
            let r = match i.create(&pod).await {
                Err(e) if knarr_runner::is_already_exists(&e) => Err(e),
                other => other.map(drop),
            };
            say(&i, &s, "Create", &name, &r);
            r
        })
    }

    /// Deletion of claims by retention policy: scaled-down pods' claims get their pod as owner,
    /// the set's claims the set, by owner references.
    fn retention(&self, s: &Arc<StatefulSet>, doomed: Option<&Arc<Pod>>) -> Vec<Action> {
        let Some(p) = &s.spec.persistent_volume_claim_retention_policy else { return Vec::new() };
        let ns = meta::ns(&s.metadata);
        let mut out = Vec::new();
        let mut own = |n: i32, r: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
            for c in claims_for(s, n) {
                let Some(have) = self.claims.get(ns, meta::name(&c.metadata)) else { continue };
                let mut refs = have.metadata.owner_references.clone().unwrap_or_default();
                if refs.iter().any(|x| x.uid == r.uid) {
                    continue;
                }
                refs.push(r.clone());
                let patch = serde_json::json!({"metadata": {"ownerReferences": refs}});
                out.push(Action::merge(have.as_ref(), "", patch));
            }
        };
        if p.when_deleted.as_deref() == Some("Delete") {
            for x in self.pods.owned_by(meta::uid(&s.metadata)) {
                if let Some(n) = ordinal(s, &x) {
                    own(n, meta::owner_ref(s.as_ref()));
                }
            }
        }
        if let (Some("Delete"), Some(d)) = (p.when_scaled.as_deref(), doomed) {
            if let Some(n) = ordinal(s, d) {
                let mut r = meta::owner_ref(d.as_ref());
                r.controller = None;
                r.block_owner_deletion = None;
                own(n, r);
            }
        }
        out
    }
}

struct View<'a> {
    s: &'a Arc<StatefulSet>,
    current: String,
    update: String,
    current_template: PodTemplateSpec,
    now: Timestamp,
}

impl View<'_> {
    fn min_ready(&self) -> i32 {
        self.s.spec.min_ready_seconds.unwrap_or(0)
    }
    fn healthy(&self, p: &Pod) -> bool {
        pods::phase(p) == "Running"
            && pods::available(p, self.min_ready(), self.now)
            && !meta::deleting(&p.metadata)
    }
    fn start(&self) -> i32 {
        self.s.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }
    fn partition(&self) -> i32 {
        self.s
            .spec
            .update_strategy
            .as_ref()
            .and_then(|u| u.rolling_update.as_ref())
            .and_then(|r| r.partition)
            .unwrap_or(0)
    }
    fn on_delete(&self) -> bool {
        self.s.spec.update_strategy.as_ref().and_then(|u| u.type_.as_deref()) == Some("OnDelete")
    }
    /// The template and revision for a new pod at this ordinal.
    fn revision_at(&self, n: i32, current_replicas: i32) -> (&PodTemplateSpec, &str) {
        let old = if self.on_delete() {
            false
        } else {
            n < self.start() + self.partition().max(0)
                && (self.partition() > 0 || n < self.start() + current_replicas)
        };
        if old && self.current != self.update {
            (&self.current_template, &self.current)
        } else {
            (&self.s.spec.template, &self.update)
        }
    }
}

fn rev_of(p: &Pod) -> &str {
    meta::label(&p.metadata, HASH).unwrap_or("")
}

impl StatefulSets {
    /// The next actions for the pods, in order; empty when nothing is to be done now.
    fn step(&self, v: &View<'_>, owned: &[Arc<Pod>]) -> Vec<Action> {
        let s = v.s;
        let replicas = s.spec.replicas.unwrap_or(1);
        let parallel = s.spec.pod_management_policy.as_deref() == Some("Parallel");
        let (first, end) = (v.start(), v.start() + replicas);
        let at = |n: i32| owned.iter().find(|p| ordinal(s, p) == Some(n));
        let mut out = Vec::new();
        let current_replicas = i32::try_from(
            owned.iter().filter(|p| rev_of(p) == v.current).count(),
        )
        .unwrap_or(i32::MAX);
        for n in first..end {
            match at(n) {
                None => {
                    let (t, rev) = v.revision_at(n, current_replicas);
                    out.push(self.create(s, t, n, rev));
                    if !parallel {
                        return out;
                    }
                }
                Some(p) if pods::finished(p) => {
                    if !meta::deleting(&p.metadata) {
                        out.push(delete(s, p));
                    }
                    if !parallel {
                        return out;
                    }
                }
                Some(p) => {
                    if !parallel && !v.healthy(p) {
                        return out;
                    }
                }
            }
        }
        let mut excess: Vec<&Arc<Pod>> = owned
            .iter()
            .filter(|p| ordinal(s, p).is_some_and(|n| n < first || n >= end))
            .collect();
        excess.sort_by_key(|p| std::cmp::Reverse(ordinal(s, p)));
        // In order, an unhealthy pod holds up the removal of those before it; only the first
        // unhealthy one of all may itself be removed.
        let first_sick = excess.iter().rev().find(|p| !v.healthy(p)).and_then(|p| ordinal(s, p));
        for p in &excess {
            let waits = !parallel && !v.healthy(p) && ordinal(s, p) != first_sick;
            if waits {
                return out;
            }
            if meta::deleting(&p.metadata) {
                if parallel {
                    continue;
                }
                return out;
            }
            out.extend(self.retention(s, Some(p)));
            out.push(delete(s, p));
            if !parallel {
                return out;
            }
        }
        if !out.is_empty() || v.on_delete() {
            return out;
        }
        let max_unavailable = s
            .spec
            .update_strategy
            .as_ref()
            .and_then(|u| u.rolling_update.as_ref())
            .and_then(|r| r.max_unavailable.as_ref())
            .and_then(|m| meta::scaled(m, replicas, false))
            .unwrap_or(1)
            .max(1);
        let mut unavailable = 0;
        for n in (first + v.partition().max(0)..end).rev() {
            let Some(p) = at(n) else { continue };
            if rev_of(p) != v.update && !meta::deleting(&p.metadata) {
                out.push(delete(s, p));
                unavailable += 1;
            } else if !v.healthy(p) {
                unavailable += 1;
            }
            if unavailable >= max_unavailable {
                break;
            }
        }
        out
    }

    fn status(&self, v: &View<'_>, owned: &[Arc<Pod>]) -> StatefulSetStatus {
        let count = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(owned.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
        };
        let old = v.s.status.clone().unwrap_or_default();
        let alive = |p: &Pod| !meta::deleting(&p.metadata);
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let updated = count(&|p| alive(p) && rev_of(p) == v.update);
        let mut st = StatefulSetStatus {
            available_replicas: Some(count(&|p| v.healthy(p))),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions,
            current_replicas: some(count(&|p| alive(p) && rev_of(p) == v.current)),
            current_revision: Some(v.current.clone()),
            observed_generation: v.s.metadata.generation,
            ready_replicas: some(count(&|p| pods::phase(p) == "Running" && pods::ready(p))),
            replicas: count(&|_| true),
            update_revision: Some(v.update.clone()),
            updated_replicas: some(updated),
        };
        let done = !v.on_delete()
            && updated == st.replicas
            && st.ready_replicas.unwrap_or(0) == st.replicas
            && st.replicas == v.s.spec.replicas.unwrap_or(1);
        if done {
            st.current_revision = st.update_revision.clone();
            st.current_replicas = st.updated_replicas;
        }
        st
    }
}

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        COMPONENT
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        watch_pods(&self.sets, &self.pods, queue, matches);
        let q = queue.clone();
        self.revisions.on_event(move |e| {
            let m = &e.object().metadata;
            if let Some(o) = meta::controller_of(m).filter(|o| o.kind == "StatefulSet") {
                q.add(Key::new(meta::ns(m), &o.name));
            }
        });
    }
    fn synced(&self) -> bool {
        self.sets.has_synced()
            && self.pods.has_synced()
            && self.claims.has_synced()
            && self.revisions.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(s) = self.sets.by_key(key) else { return Plan::none() };
        let gone = meta::deleting(&s.metadata);
        let owner = meta::owner_ref(s.as_ref());
        let is_member = |p: &Pod| ordinal(&s, p).is_some();
        let c = claim(&self.pods, &key.namespace, &owner, gone, |l| matches(&s, l), is_member);
        let mut plan = Plan::none();
        if !c.actions.is_empty() {
            plan.steps.push(Step::All(c.actions));
            plan.after(std::time::Duration::from_millis(1));
            return plan;
        }
        if gone {
            return plan;
        }
        let history = revisions::of(&self.revisions, meta::uid(&s.metadata));
        let labels = s.spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        let collisions = s.status.as_ref().and_then(|x| x.collision_count);
        let update = match revisions::current(&s, &s.spec.template, labels, collisions, &history) {
            Current::Write(a) => {
                plan.push(a);
                plan.after(std::time::Duration::from_millis(1));
                return plan;
            }
            Current::Is(r) => r,
        };
        let update_name = meta::name(&update.metadata).to_owned();
        let known = s.status.as_ref().and_then(|x| x.current_revision.clone());
        let current = history
            .iter()
            .find(|r| r.metadata.name == known)
            .cloned()
            .unwrap_or_else(|| update.clone());
        let v = View {
            s: &s,
            current: meta::name(&current.metadata).to_owned(),
            update: update_name,
            current_template: revisions::template_at(&current)
                .unwrap_or_else(|| s.spec.template.clone()),
            now,
        };
        let actions = self.step(&v, &c.owned);
        plan.steps.push(Step::All(self.retention(&s, None)));
        plan.steps.extend(actions.into_iter().map(Step::One));
        if let Some(d) = pods::next_available(c.owned.iter(), v.min_ready(), now) {
            plan.after(d);
        }
        let limit = s.spec.revision_history_limit.unwrap_or(10);
        let live = |r: &ControllerRevision| {
            let n = meta::name(&r.metadata);
            n == v.current || n == v.update || c.owned.iter().any(|p| rev_of(p) == n)
        };
        plan.steps.push(Step::All(revisions::surplus(&history, limit, live)));
        let st = self.status(&v, &c.owned);
        if s.status.as_ref() != Some(&st) {
            let s = s.clone();
            plan.finally = Some(Box::new(move |_| {
                let mut next = s.as_ref().clone();
                next.status = Some(st);
                vec![Action::update_status(next)]
            }));
        }
        plan
    }
}
