//! Claims, volumes and classes of volumes in use are not deleted: a finalizer holds them.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Event, Informers, Kind, Plan, Queue};
use std::sync::Arc;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

/// Holds claims that pods use.
pub struct ClaimProtection {
    claims: Arc<Cache<PersistentVolumeClaim>>,
    pods: Arc<Cache<Pod>>,
}

/// Holds volumes that claims are bound to.
pub struct VolumeProtection {
    volumes: Arc<Cache<PersistentVolume>>,
}

/// Holds classes of volume attributes that claims or volumes have or are to have.
pub struct ClassProtection {
    classes: Arc<Cache<VolumeAttributesClass>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<PersistentVolume>>,
}

fn has(m: &ObjectMeta, f: &str) -> bool {
    m.finalizers.iter().flatten().any(|x| x == f)
}

/// Adds the finalizer to what lives, takes it from what is being deleted and free.
fn protect<K: Kind>(o: &Arc<K>, finalizer: &str, used: impl FnOnce() -> bool) -> Plan {
    let m = o.meta();
    let mut list = m.finalizers.clone().unwrap_or_default();
    match (meta::deleting(m), has(m, finalizer)) {
        (false, false) => list.push(finalizer.to_owned()),
        (true, true) if !used() => list.retain(|x| x != finalizer),
        _ => return Plan::none(),
    }
    let mut next = o.as_ref().clone();
    next.meta_mut().finalizers = Some(list);
    let what = format!("protect {}", meta::name(m));
    Plan::one(Action::call(what, move |i| async move {
        let o = match i.update(&next).await {
            Err(e) if knarr_runner::is_not_found(&e) => return Ok(()),
            other => other?,
        };
        let m = o.meta();
        if meta::deleting(m) && m.finalizers.as_ref().is_none_or(Vec::is_empty) {
            i.get::<K>()
                .observe_deleted(meta::ns(m), meta::name(m), meta::uid(m));
        }
        Ok(())
    }))
}

/// The names of the claims a pod uses.
fn claims_of(p: &Pod) -> Vec<String> {
    let pod = meta::name(&p.metadata);
    p.spec
        .iter()
        .flat_map(|s| s.volumes.iter().flatten())
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(c), _) => Some(c.claim_name.clone()),
            (_, Some(_)) => Some(format!("{pod}-{}", v.name)),
            _ => None,
        })
        .collect()
}

impl ClaimProtection {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self {
            claims: i.get(),
            pods: i.get(),
        }
    }
}

impl Controller for ClaimProtection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.claims.on_event(move |e| {
            let m = &e.object().metadata;
            if meta::deleting(m) || !has(m, CLAIM) {
                q.add(Key::of(m));
            }
        });
        let q = queue.clone();
        self.pods.on_event(move |e| {
            let p = e.object();
            if matches!(e, Event::Deleted(_)) || pods::finished(p) {
                for c in claims_of(p) {
                    q.add(Key::new(meta::ns(&p.metadata), c));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.claims.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(c) = self.claims.by_key(key) else {
            return Plan::none();
        };
        // A pod that nobody placed yet uses nothing.
        let uses = |p: &Pod| {
            !pods::finished(p) && !pods::node(p).is_empty() && claims_of(p).contains(&key.name)
        };
        protect(&c, CLAIM, || {
            self.pods
                .in_namespace(&key.namespace)
                .iter()
                .any(|p| uses(p))
        })
    }
}

impl VolumeProtection {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { volumes: i.get() }
    }
}

impl Controller for VolumeProtection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.volumes
            .on_event(move |e| q.add(Key::of(&e.object().metadata)));
    }
    fn synced(&self) -> bool {
        self.volumes.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(v) = self.volumes.by_key(key) else {
            return Plan::none();
        };
        protect(&v, VOLUME, || {
            v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
        })
    }
}

/// The classes a claim has or is to have.
fn classes_of_claim(c: &PersistentVolumeClaim) -> Vec<&String> {
    let wanted = c.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref());
    let status = c.status.as_ref();
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_ref());
    let coming = status.and_then(|s| s.modify_volume_status.as_ref());
    let coming = coming.and_then(|m| m.target_volume_attributes_class_name.as_ref());
    [wanted, current, coming].into_iter().flatten().collect()
}

fn class_of_volume(v: &PersistentVolume) -> Option<&String> {
    v.spec.as_ref()?.volume_attributes_class_name.as_ref()
}

impl ClassProtection {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { classes: i.get(), claims: i.get(), volumes: i.get() }
    }
}

impl Controller for ClassProtection {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.classes.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        // What a claim or a volume no longer has may go.
        let q = queue.clone();
        self.claims.on_event(move |e| {
            let old = match e {
                Event::Updated { old, .. } => old,
                other => other.object(),
            };
            for name in classes_of_claim(old) {
                q.add(Key::new("", name));
            }
        });
        let q = queue.clone();
        self.volumes.on_event(move |e| {
            let old = match e {
                Event::Updated { old, .. } => old,
                other => other.object(),
            };
            if let Some(name) = class_of_volume(old) {
                q.add(Key::new("", name));
            }
        });
    }
    fn synced(&self) -> bool {
        self.classes.has_synced() && self.claims.has_synced() && self.volumes.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(class) = self.classes.by_key(key) else {
            return Plan::none();
        };
        protect(&class, CLASS, || {
            self.claims.list().iter().any(|c| classes_of_claim(c).contains(&&key.name))
                || self.volumes.list().iter().any(|v| class_of_volume(v) == Some(&key.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_the_class_it_wants_and_the_one_it_has() {
        let claim: PersistentVolumeClaim = serde_json::from_value(serde_json::json!({
            "spec": {"volumeAttributesClassName": "fast"},
            "status": {
                "currentVolumeAttributesClassName": "slow",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "middle"},
            },
        }))
        .expect("a claim");
        assert_eq!(classes_of_claim(&claim), ["fast", "slow", "middle"]);
    }
}
