//! APIServices of what this server serves itself: one for each group version, made at start; for
//! those of custom resources as definitions come and go.

use std::{collections::HashMap, sync::Arc};

use knarr_registry::{
    ApiError, Object,
    rest::{self, DeleteOptions, WriteOptions},
};
use knarr_schema::Catalog;
use serde_json::{Value, json};

use super::KIND;
use crate::{core::Core, custom::Quiet};

/// The label of the ones this server looks after.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// A group, its place among all, and its versions with theirs.
type Priorities = (&'static str, i64, &'static [(&'static str, i64)]);

/// Groups of the API with their place among all, and versions with theirs in the group.
const PRIORITIES: [Priorities; 22] = [
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15)]),
    ("authentication.k8s.io", 17700, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v2", 30), ("v1", 15)]),
    ("batch", 17400, &[("v1", 15)]),
    ("certificates.k8s.io", 17300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15), ("v1beta1", 9), ("v1alpha3", 3)]),
    ("coordination.k8s.io", 16500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16300, &[("v1", 15)]),
    ("discovery.k8s.io", 16200, &[("v1", 15)]),
    ("resource.k8s.io", 16200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21)]),
    ("internal.apiserver.k8s.io", 16000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15800, &[("v1", 15), ("v1beta1", 9)]),
];

/// A group's place among all, the higher the earlier; `None` for one of custom resources.
pub fn group_priority(group: &str) -> Option<i64> {
    if group == "apiregistration.k8s.io" {
        return Some(20000);
    }
    PRIORITIES.iter().find(|(g, ..)| *g == group).map(|(_, p, _)| *p)
}

/// A version's place in its group.
pub fn version_priority(group: &str, version: &str) -> i64 {
    let known = PRIORITIES.iter().find(|(g, ..)| *g == group);
    known.map_or(100, |(.., all)| all.iter().find(|(v, _)| *v == version).map_or(1, |(_, p)| *p))
}

fn object(group: &str, version: &str, priorities: (i64, i64), managed: &str) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: managed}},
        "spec": {"group": group, "version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1}})
}

/// What should be there: of the built-in groups (`onstart`), or of custom resources.
fn wanted(catalog: &Catalog, custom: bool) -> HashMap<String, Value> {
    let mut out = HashMap::new();
    for r in catalog.resources().iter().filter(|r| r.is_custom() == custom) {
        let name = format!("{}.{}", r.version, r.group);
        if out.contains_key(&name) || r.group == "apiregistration.k8s.io" {
            continue;
        }
        let (priorities, managed) = match PRIORITIES.iter().find(|(g, ..)| *g == r.group) {
            Some((_, p, versions)) => match versions.iter().find(|(v, _)| *v == r.version) {
                Some((_, v)) => ((*p, *v), "onstart"),
                None => continue,
            },
            None if custom => ((1000, 100), "true"),
            None => continue,
        };
        out.insert(name, object(&r.group, &r.version, priorities, managed));
    }
    out
}

async fn put(core: &Core, name: &str, want: Value) -> Result<(), ApiError> {
    let kind = core.kind(KIND)?;
    match kind.cache.get(&kind.key("", name)) {
        None => match rest::create(&core.registry, &kind, "", want, &WriteOptions::default(), &Quiet).await {
            Ok(_) => Ok(()),
            Err(e) if e.reason == "AlreadyExists" => Ok(()),
            Err(e) => Err(e),
        },
        Some(e) => {
            // One that somebody else looks after stays as it is.
            if e.label(MANAGED).is_none() || e.value()["spec"] == want["spec"] {
                return Ok(());
            }
            rest::update(&core.registry, &kind, "", name, &WriteOptions::default(), &Quiet, |old| {
                let mut v = old.unwrap_or_default();
                v["spec"] = want["spec"].clone();
                std::future::ready(Ok(v))
            })
            .await
            .map(|_| ())
        }
    }
}

/// Makes those of the built-in groups.
///
/// # Errors
/// If the store refuses.
pub async fn builtin(core: &Core) -> Result<(), ApiError> {
    let catalog = Arc::clone(&core.table().catalog);
    let all = wanted(&catalog, false).into_iter().map(|(name, want)| async move { put(core, &name, want).await });
    futures::future::try_join_all(all).await.map(|_| ())
}

/// Makes those of custom resources, and removes the ones of definitions that are gone.
///
/// # Errors
/// If the store refuses.
pub async fn custom(core: &Core) -> Result<(), ApiError> {
    let catalog = Arc::clone(&core.table().catalog);
    let want = wanted(&catalog, true);
    let kind = core.kind(KIND)?;
    for e in kind.cache.snapshot().range("") {
        if e.label(MANAGED) == Some("true") && !want.contains_key(&*e.name) && e.value().at(&["spec", "service"]).is_none() {
            match rest::delete(&core.registry, &kind, "", &e.name, &DeleteOptions::default(), &Quiet).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
    }
    for (name, want) in want {
        put(core, &name, want).await?;
    }
    Ok(())
}
