//! Whether a volume can serve a claim.

use crate::{meta, placement, quantity};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};

/// The provisioner name that means: volumes are made by people.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Where the scheduler writes the node a claim's first consumer goes to.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The storage class a claim asks for; empty for none.
pub fn claim_class(c: &PersistentVolumeClaim) -> &str {
    meta::annotation(&c.metadata, OLD_CLASS)
        .or_else(|| {
            c.spec
                .as_ref()
                .and_then(|s| s.storage_class_name.as_deref())
        })
        .unwrap_or("")
}

/// The storage class of a volume; empty for none.
pub fn volume_class(v: &PersistentVolume) -> &str {
    meta::annotation(&v.metadata, OLD_CLASS)
        .or_else(|| {
            v.spec
                .as_ref()
                .and_then(|s| s.storage_class_name.as_deref())
        })
        .unwrap_or("")
}

/// The size of a volume in bytes.
pub fn capacity(v: &PersistentVolume) -> i64 {
    v.spec
        .as_ref()
        .and_then(|s| s.capacity.as_ref())
        .and_then(|c| c.get("storage"))
        .map_or(0, |q| quantity::value(&q.0))
}

/// The size a claim asks for in bytes.
pub fn requested(c: &PersistentVolumeClaim) -> i64 {
    c.spec
        .as_ref()
        .and_then(|s| s.resources.as_ref())
        .and_then(|r| r.requests.as_ref())
        .and_then(|r| r.get("storage"))
        .map_or(0, |q| quantity::value(&q.0))
}

/// Whether a volume is promised to this very claim.
pub fn promised_to(v: &PersistentVolume, c: &PersistentVolumeClaim) -> bool {
    v.spec
        .as_ref()
        .and_then(|s| s.claim_ref.as_ref())
        .is_some_and(|r| {
            r.namespace == c.metadata.namespace
                && r.name == c.metadata.name
                && r.uid
                    .as_deref()
                    .is_none_or(|u| u.is_empty() || u == meta::uid(&c.metadata))
        })
}

/// Whether a node can reach a volume.
pub fn reachable(v: &PersistentVolume, n: &Node) -> bool {
    v.spec
        .as_ref()
        .and_then(|s| s.node_affinity.as_ref())
        .and_then(|a| a.required.as_ref())
        .is_none_or(|s| placement::selector_matches(s, n))
}

/// Whether size, mode, access modes, class and attributes class of a volume serve a claim.
pub fn serves(v: &PersistentVolume, c: &PersistentVolumeClaim) -> bool {
    let (Some(vs), Some(cs)) = (&v.spec, &c.spec) else {
        return false;
    };
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    let attributes = |a: &Option<String>| a.clone().unwrap_or_default();
    let offered = vs.access_modes.as_deref().unwrap_or(&[]);
    capacity(v) >= requested(c)
        && mode(&vs.volume_mode) == mode(&cs.volume_mode)
        && volume_class(v) == claim_class(c)
        && attributes(&vs.volume_attributes_class_name)
            == attributes(&cs.volume_attributes_class_name)
        && cs
            .access_modes
            .iter()
            .flatten()
            .all(|m| offered.contains(m))
}

/// The volume a claim gets: one promised to it, else the smallest free one that serves it, that
/// its selector accepts and that `node`, where given, can reach.
pub fn choose<'v>(
    volumes: &'v [std::sync::Arc<PersistentVolume>],
    c: &PersistentVolumeClaim,
    node: Option<&Node>,
    promised_only: bool,
) -> Option<&'v std::sync::Arc<PersistentVolume>> {
    let usable =
        |v: &PersistentVolume| !meta::deleting(&v.metadata) && node.is_none_or(|n| reachable(v, n));
    let promised = volumes
        .iter()
        .find(|v| promised_to(v, c) && usable(v) && serves(v, c));
    if promised.is_some() || promised_only {
        return promised;
    }
    let selector = c.spec.as_ref().and_then(|s| s.selector.as_ref());
    volumes
        .iter()
        .filter(|v| {
            v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none())
                && usable(v)
                && selector.is_none_or(|s| meta::selects(s, v.metadata.labels.as_ref()))
                && serves(v, c)
        })
        .min_by_key(|v| (capacity(v), meta::name(&v.metadata).to_owned()))
}

#[cfg(test)]
mod tests;
