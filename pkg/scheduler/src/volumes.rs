//! Claims: missing, unbound, or bound to a volume that some nodes cannot reach.

use crate::model::{NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use knarr_runner::volumes::{NO_PROVISIONER, choose, claim_class, reachable};
use knarr_runner::{Cache, meta};
use std::sync::Arc;

/// The caches that volumes are looked up in.
pub struct Volumes {
    pub claims: Arc<Cache<PersistentVolumeClaim>>,
    pub volumes: Arc<Cache<PersistentVolume>>,
    pub classes: Arc<Cache<StorageClass>>,
}

/// What a pod's claims demand.
#[derive(Default, Clone)]
pub struct Claims {
    bound: Vec<Arc<PersistentVolume>>,
    /// Claims that are bound when a node has been chosen.
    pub delayed: Vec<Arc<PersistentVolumeClaim>>,
    /// Those of them that nobody makes a volume for, and the volumes there are.
    found: Vec<Arc<PersistentVolumeClaim>>,
    all: Vec<Arc<PersistentVolume>>,
}

/// The names of the claims a pod uses, ephemeral ones included.
fn names(p: &PodInfo) -> Vec<(String, bool)> {
    let pod = meta::name(&p.pod.metadata);
    p.pod
        .spec
        .iter()
        .flat_map(|s| s.volumes.iter().flatten())
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(c), _) => Some((c.claim_name.clone(), false)),
            (_, Some(_)) => Some((format!("{pod}-{}", v.name), true)),
            _ => None,
        })
        .collect()
}

impl Volumes {
    /// Looks a pod's claims up; an error refuses every node.
    pub fn claims(&self, p: &PodInfo) -> Result<Claims, String> {
        let mut out = Claims::default();
        for (name, ephemeral) in names(p) {
            let Some(c) = self.claims.get(p.ns(), &name) else {
                return Err(if ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if meta::deleting(&c.metadata) {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let spec = c.spec.clone().unwrap_or_default();
            let phase = c.status.as_ref().and_then(|s| s.phase.as_deref());
            if phase == Some("Lost") {
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
                    spec.volume_name.unwrap_or_default()
                ));
            }
            let bound = meta::annotation(&c.metadata, "pv.kubernetes.io/bind-completed").is_some();
            if let Some(v) = spec.volume_name.filter(|v| !v.is_empty() && (bound || phase == Some("Bound"))) {
                match self.volumes.get("", &v) {
                    Some(pv) => out.bound.push(pv),
                    None => {
                        return Err(
                            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
                                .into(),
                        );
                    }
                }
                continue;
            }
            let class = self.classes.get("", claim_class(&c));
            let mode = class.as_ref().and_then(|c| c.volume_binding_mode.as_deref());
            if mode != Some("WaitForFirstConsumer") {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
            if class.is_some_and(|c| c.provisioner == NO_PROVISIONER) {
                out.found.push(c.clone());
            }
            out.delayed.push(c);
        }
        if !out.found.is_empty() {
            out.all = self.volumes.list();
        }
        Ok(out)
    }
}

impl Claims {
    /// The reason a node is refused.
    pub fn check(&self, n: &NodeInfo) -> Option<&'static str> {
        if !self.bound.iter().all(|v| reachable(v, &n.node)) {
            return Some("node(s) didn't match PersistentVolume's node affinity");
        }
        let findable = self.found.iter().all(|c| choose(&self.all, c, Some(&n.node), false).is_some());
        (!findable).then_some("node(s) didn't find available persistent volumes to bind")
    }
}
