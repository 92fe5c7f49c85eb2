//! Binds claims to volumes. One claim is looked at at a time, so two never choose one volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
    Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use knarr_runner::meta::{self, Key};
use knarr_runner::volumes::{
    NO_PROVISIONER, SELECTED_NODE, choose, claim_class, promised_to, serves,
};
use knarr_runner::{Action, Cache, Controller, Event, EventType, Informers, Plan, Queue};
use std::sync::Arc;

const COMPONENT: &str = "persistentvolume-controller";
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

/// The side of the claims.
pub struct Claims {
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<PersistentVolume>>,
    classes: Arc<Cache<StorageClass>>,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
}

/// The side of the volumes: their phase.
pub struct Volumes {
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<PersistentVolume>>,
}

fn claim_phase(c: &PersistentVolumeClaim) -> &str {
    c.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or("")
}

fn named_volume(c: &PersistentVolumeClaim) -> Option<&str> {
    c.spec
        .as_ref()
        .and_then(|s| s.volume_name.as_deref())
        .filter(|v| !v.is_empty())
}

fn say(c: &PersistentVolumeClaim, kind: EventType, reason: &str, text: String) -> Action {
    Action::event(COMPONENT, c, kind, reason, text)
}

/// The steps that join a claim and a volume; none where they are joined.
fn bind(c: &PersistentVolumeClaim, v: &PersistentVolume) -> Plan {
    let mut plan = Plan::none();
    let mut volume = v.clone();
    let mut claim = c.clone();
    let reference = v.spec.as_ref().and_then(|s| s.claim_ref.clone());
    let whole = reference.as_ref().is_some_and(|r| r.uid == c.metadata.uid);
    if !whole {
        // A promise made by a person is kept when the claim goes; one made here is not.
        if reference.is_none() {
            let a = volume.metadata.annotations.get_or_insert_default();
            a.insert(BY_CONTROLLER.into(), "yes".into());
        }
        if let Some(s) = &mut volume.spec {
            s.claim_ref = Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                namespace: c.metadata.namespace.clone(),
                name: c.metadata.name.clone(),
                uid: c.metadata.uid.clone(),
                resource_version: c.metadata.resource_version.clone(),
                ..ObjectReference::default()
            });
        }
        plan.push(Action::update(volume));
    }
    let completed = meta::annotation(&c.metadata, COMPLETED).is_some();
    if named_volume(c).is_none() || !completed {
        let a = claim.metadata.annotations.get_or_insert_default();
        a.insert(COMPLETED.into(), "yes".into());
        if named_volume(c).is_none() {
            a.insert(BY_CONTROLLER.into(), "yes".into());
        }
        claim
            .spec
            .get_or_insert_default()
            .volume_name
            .clone_from(&v.metadata.name);
    }
    let capacity = v.spec.as_ref().and_then(|s| s.capacity.clone());
    let modes = v.spec.as_ref().and_then(|s| s.access_modes.clone());
    let have = c.status.as_ref();
    // A bound claim that grew keeps the size that its own resize wrote.
    let told = claim_phase(c) == "Bound" && have.is_some_and(|s| s.access_modes == modes);
    let changed = claim.spec != c.spec || claim.metadata != c.metadata;
    if changed || !told {
        let what = format!(
            "bind {} to {}",
            Key::of(&c.metadata),
            meta::name(&v.metadata)
        );
        plan.push(Action::call(what, move |i| async move {
            let mut now = if changed {
                i.update(&claim).await?.as_ref().clone()
            } else {
                claim
            };
            now.status = Some(PersistentVolumeClaimStatus {
                phase: Some("Bound".into()),
                access_modes: modes,
                capacity,
                ..now.status.take().unwrap_or_default()
            });
            i.update_status(&now).await.map(drop)
        }));
    }
    plan
}

fn phase(c: &PersistentVolumeClaim, to: &str) -> Option<Action> {
    if claim_phase(c) == to {
        return None;
    }
    let mut next = c.clone();
    next.status.get_or_insert_default().phase = Some(to.into());
    Some(Action::update_status(next))
}

impl Claims {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self {
            claims: i.get(),
            volumes: i.get(),
            classes: i.get(),
            nodes: i.get(),
            pods: i.get(),
        }
    }

    fn lost(c: &PersistentVolumeClaim, reason: &str, text: &str) -> Plan {
        let mut plan = Plan::none();
        if let Some(a) = phase(c, "Lost") {
            plan.push(a);
            plan.push(say(c, EventType::Warning, reason, text.to_owned()));
        }
        plan
    }

    fn bound(&self, c: &PersistentVolumeClaim) -> Plan {
        let Some(name) = named_volume(c) else {
            let text =
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return Self::lost(c, "ClaimLost", text);
        };
        let Some(v) = self.volumes.get("", name) else {
            let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return Self::lost(c, "ClaimLost", text);
        };
        let free = v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none());
        if free || promised_to(&v, c) {
            return bind(c, &v);
        }
        let text =
            "Two claims are bound to the same volume, this one is bound incorrectly".to_owned();
        Self::lost(c, "ClaimMisbound", &text)
    }

    fn pending(&self, c: &PersistentVolumeClaim, said: Option<(EventType, &str, String)>) -> Plan {
        let mut plan = Plan::none();
        if let Some(a) = phase(c, "Pending") {
            plan.push(a);
        }
        if let Some((kind, reason, text)) = said {
            plan.push(say(c, kind, reason, text));
        }
        plan
    }

    fn unbound(&self, c: &PersistentVolumeClaim) -> Plan {
        if let Some(name) = named_volume(c) {
            let Some(v) = self.volumes.get("", name) else {
                let text = format!("volume {name:?} not found");
                return self.pending(c, Some((EventType::Warning, "FailedBinding", text)));
            };
            let reference = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            if reference.is_none() && !serves(&v, c) {
                let text = format!(
                    "Cannot bind to requested volume {name:?}: the volume does not satisfy the claim"
                );
                return self.pending(c, Some((EventType::Warning, "VolumeMismatch", text)));
            }
            if reference.is_none() || promised_to(&v, c) {
                return bind(c, &v);
            }
            let text = format!("volume {name:?} already bound to a different claim.");
            return self.pending(c, Some((EventType::Warning, "FailedBinding", text)));
        }
        let class = claim_class(c);
        let class_object = self.classes.get("", class);
        let waits = class_object
            .as_ref()
            .is_some_and(|k| k.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        let selected = meta::annotation(&c.metadata, SELECTED_NODE);
        let node = selected.and_then(|n| self.nodes.get("", n));
        let all = self.volumes.list();
        if let Some(v) = choose(&all, c, node.as_deref(), waits && node.is_none()) {
            return bind(c, v);
        }
        if waits && selected.is_none() {
            let uses = |p: &Pod| {
                p.spec
                    .iter()
                    .flat_map(|s| s.volumes.iter().flatten())
                    .any(|v| {
                        v.persistent_volume_claim
                            .as_ref()
                            .is_some_and(|x| Some(&x.claim_name) == c.metadata.name.as_ref())
                    })
            };
            let waiting = self
                .pods
                .in_namespace(meta::ns(&c.metadata))
                .into_iter()
                .find(|p| crate::pods::active(p) && uses(p));
            let (reason, text) = match waiting {
                Some(p) => (
                    "WaitForPodScheduled",
                    format!(
                        "waiting for pod {} to be scheduled",
                        meta::name(&p.metadata)
                    ),
                ),
                None => (
                    "WaitForFirstConsumer",
                    "waiting for first consumer to be created before binding".to_owned(),
                ),
            };
            return self.pending(c, Some((EventType::Normal, reason, text)));
        }
        match class_object {
            Some(k) if k.provisioner != NO_PROVISIONER => self.provision(c, &k.provisioner),
            Some(_) => {
                let text = format!(
                    "storageclass.storage.k8s.io {class:?} has no provisioner and no volume fits"
                );
                self.pending(c, Some((EventType::Warning, "ProvisioningFailed", text)))
            }
            None if class.is_empty() => {
                let text =
                    "no persistent volumes available for this claim and no storage class is set";
                self.pending(
                    c,
                    Some((EventType::Normal, "FailedBinding", text.to_owned())),
                )
            }
            None => {
                let text = format!("storageclass.storage.k8s.io {class:?} not found");
                self.pending(c, Some((EventType::Warning, "ProvisioningFailed", text)))
            }
        }
    }

    /// Asks the driver named by the class, which watches for the annotation.
    fn provision(&self, c: &PersistentVolumeClaim, provisioner: &str) -> Plan {
        let mut plan = Plan::none();
        if meta::annotation(&c.metadata, PROVISIONER) != Some(provisioner) {
            let patch = serde_json::json!({"metadata": {"annotations": {
                PROVISIONER: provisioner, OLD_PROVISIONER: provisioner}}});
            plan.push(Action::merge(c, "", patch));
            return plan;
        }
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.pending(c, Some((EventType::Normal, "ExternalProvisioning", text)))
    }
}

impl Controller for Claims {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.claims
            .on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let (q, claims) = (queue.clone(), self.claims.clone());
        self.volumes.on_event(move |e| {
            let v = e.object();
            if let Some(r) = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
                let (ns, name) = (r.namespace.clone(), r.name.clone());
                q.add(Key::new(ns.unwrap_or_default(), name.unwrap_or_default()));
            } else if !matches!(e, Event::Deleted(_)) {
                for c in claims.list().iter().filter(|c| claim_phase(c) != "Bound") {
                    q.add(Key::of(&c.metadata));
                }
            }
        });
        let (q, claims) = (queue.clone(), self.claims.clone());
        self.classes.on_event(move |_| {
            for c in claims.list().iter().filter(|c| claim_phase(c) == "Pending") {
                q.add(Key::of(&c.metadata));
            }
        });
    }
    fn synced(&self) -> bool {
        self.claims.has_synced()
            && self.volumes.has_synced()
            && self.classes.has_synced()
            && self.nodes.has_synced()
            && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(c) = self.claims.by_key(key) else {
            return Plan::none();
        };
        if meta::annotation(&c.metadata, COMPLETED).is_some() {
            self.bound(&c)
        } else if meta::deleting(&c.metadata) {
            Plan::none()
        } else {
            self.unbound(&c)
        }
    }
}

impl Volumes {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self {
            claims: i.get(),
            volumes: i.get(),
        }
    }

    /// The phase a volume should be in.
    fn phase(&self, v: &PersistentVolume) -> &'static str {
        let Some(r) = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else {
            return "Available";
        };
        let Some(uid) = r.uid.as_deref().filter(|u| !u.is_empty()) else {
            return "Available";
        };
        let (ns, name) = (r.namespace.as_deref(), r.name.as_deref());
        let claim = self.claims.get(ns.unwrap_or(""), name.unwrap_or(""));
        if claim.is_some_and(|c| meta::uid(&c.metadata) == uid) {
            "Bound"
        } else {
            "Released"
        }
    }
}

impl Controller for Volumes {
    fn name(&self) -> &'static str {
        "persistentvolume-phase-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.volumes
            .on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let (q, volumes) = (queue.clone(), self.volumes.clone());
        self.claims.on_event(move |e| {
            let c = e.object();
            if let Some(name) = named_volume(c) {
                q.add(Key::new("", name));
            }
            if matches!(e, Event::Deleted(_)) {
                for v in volumes.list().iter().filter(|v| promised_to(v, c)) {
                    q.add(Key::of(&v.metadata));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.claims.has_synced() && self.volumes.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(v) = self.volumes.by_key(key) else {
            return Plan::none();
        };
        let want = self.phase(&v);
        let mut plan = Plan::none();
        let have = v.status.as_ref().and_then(|s| s.phase.as_deref());
        if have != Some(want) && !(have == Some("Failed") && want == "Released") {
            let mut next = v.as_ref().clone();
            let s = next.status.get_or_insert_default();
            s.phase = Some(want.into());
            s.last_phase_transition_time = Some(meta::time(now));
            s.message = None;
            s.reason = None;
            plan.push(Action::update_status(next));
        }
        plan
    }
}

#[cfg(test)]
mod tests;
