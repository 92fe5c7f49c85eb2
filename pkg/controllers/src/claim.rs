//! Adoption and release: which objects belong to an owner with a selector.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use knarr_runner::meta::{self, Labels};
use knarr_runner::{Action, Cache, Kind};
use std::sync::Arc;

/// What a claim found.
pub struct Claimed<K> {
    /// Owned and matching.
    pub owned: Vec<Arc<K>>,
    /// Patches that adopt and release.
    pub actions: Vec<Action>,
}

/// Claims the objects of a namespace for `owner`. Orphans that match are adopted, owned ones that
/// match no more are released; neither when the owner is being deleted.
pub fn claim<K: Kind>(
    cache: &Cache<K>,
    ns: &str,
    owner: &OwnerReference,
    owner_deleting: bool,
    matches: impl Fn(Option<&Labels>) -> bool,
    filter: impl Fn(&K) -> bool,
) -> Claimed<K> {
    let mut c = Claimed { owned: Vec::new(), actions: Vec::new() };
    for o in cache.owned_by(&owner.uid) {
        let m = o.meta();
        if meta::ns(m) != ns || !filter(&o) {
            continue;
        }
        if matches(m.labels.as_ref()) {
            c.owned.push(o);
        } else if !owner_deleting {
            let rest: Vec<_> = m
                .owner_references
                .iter()
                .flatten()
                .filter(|r| r.uid != owner.uid)
                .collect();
            let patch = serde_json::json!({"metadata": {
                "uid": meta::uid(m), "ownerReferences": rest }});
            c.actions.push(Action::merge(o.as_ref(), "", patch));
        }
    }
    if owner_deleting {
        return c;
    }
    for o in cache.in_namespace(ns) {
        let m = o.meta();
        if meta::controller_of(m).is_some()
            || meta::deleting(m)
            || !filter(&o)
            || !matches(m.labels.as_ref())
        {
            continue;
        }
        let mut refs: Vec<OwnerReference> = m.owner_references.clone().unwrap_or_default();
        refs.retain(|r| r.uid != owner.uid);
        refs.push(owner.clone());
        let patch = serde_json::json!({"metadata": {
            "uid": meta::uid(m), "resourceVersion": m.resource_version, "ownerReferences": refs }});
        c.actions.push(Action::merge(o.as_ref(), "", patch));
    }
    c
}
