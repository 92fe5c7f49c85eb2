//! CustomResourceDefinitions: rows that are made at run time. Follows the definitions in the cache
//! and extends the table.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use knarr_registry::{
    ApiError, Object, ROOT, Registry,
    rest::{self, Hooks, WriteOptions},
};
use knarr_schema::{Catalog, Resource, Subresource, catalog::Group};
use serde_json::{Value, json};

use crate::{
    bridge,
    core::{self, Core},
};

fn text(v: &Value, path: &[&str]) -> Cow<'static, str> {
    Cow::Owned(v.str_at(path).to_owned())
}

fn sub(name: &str, kind: &str, group_version: Option<knarr_schema::GroupVersion>) -> Subresource {
    Subresource {
        name: name.to_owned().into(),
        group_version,
        kind: kind.to_owned().into(),
        verbs: ["get", "patch", "update"].iter().map(|v| Cow::Borrowed(*v)).collect(),
    }
}

/// Whether a default stands anywhere in a schema.
fn has_defaults(schema: &Value) -> bool {
    match schema {
        Value::Object(m) => m.get("default").is_some_and(|d| !d.is_null()) || m.values().any(has_defaults),
        Value::Array(l) => l.iter().any(has_defaults),
        _ => false,
    }
}

/// The rows of a definition.
fn rows(crd: &Value) -> Vec<Arc<Resource>> {
    let names = &crd["spec"]["names"];
    let texts = |m: &str| names.list_at(&[m]).iter().filter_map(|s| s.as_str().map(|s| Cow::Owned(s.to_owned()))).collect::<Vec<_>>();
    let group = text(crd, &["spec", "group"]);
    let plural = text(names, &["plural"]);
    let storage = crd.list_at(&["spec", "versions"]).iter().find(|v| v["storage"] == true).map(|v| v.str_at(&["name"]).to_owned()).unwrap_or_default();
    let versions = crd.list_at(&["spec", "versions"]);
    let alone = versions.len() == 1 && crd.list_at(&["status", "storedVersions"]).len() < 2;
    let conversion = (crd.str_at(&["spec", "conversion", "strategy"]) == "Webhook").then(|| crd.at(&["spec", "conversion", "webhook"]).cloned().map(Arc::new)).flatten();
    versions
        .iter()
        .filter(|v| v["served"] == true)
        .map(|v| {
            let mut subresources = Vec::new();
            if v.at(&["subresources", "status"]).is_some() {
                subresources.push(sub("status", names.str_at(&["kind"]), None));
            }
            if v.at(&["subresources", "scale"]).is_some() {
                subresources.push(sub("scale", "Scale", Some(knarr_schema::GroupVersion::new("autoscaling", "v1"))));
            }
            let kind = names.str_at(&["kind"]);
            let or = |a: &str, b: String| if a.is_empty() { b } else { a.to_owned() };
            Arc::new(Resource {
                group: group.clone(),
                version: text(v, &["name"]),
                plural: plural.clone(),
                singular: or(names.str_at(&["singular"]), kind.to_lowercase()).into(),
                kind: kind.to_owned().into(),
                list_kind: or(names.str_at(&["listKind"]), format!("{kind}List")).into(),
                namespaced: crd.str_at(&["spec", "scope"]) == "Namespaced",
                verbs: ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"].iter().map(|v| Cow::Borrowed(*v)).collect(),
                short_names: texts("shortNames"),
                categories: texts("categories"),
                storage_hash: Cow::Borrowed(""),
                key_prefix: format!("{group}/{plural}").into(),
                stored_as: Some(knarr_schema::GroupVersion::new(group.clone(), storage.clone())),
                selectable_fields: v.list_at(&["selectableFields"]).iter().map(|f| Cow::Owned(f.str_at(&["jsonPath"]).trim_start_matches('.').to_owned())).collect(),
                subresources,
                ty: None,
                schema: v.at(&["schema", "openAPIV3Schema"]).cloned().map(Arc::new),
                printer_columns: v.list_at(&["additionalPrinterColumns"]).to_vec(),
                scale: v.at(&["subresources", "scale"]).cloned().map(Arc::new),
                preserve_unknown: crd.at(&["spec", "preserveUnknownFields"]) == Some(&json!(true)),
                plain: alone && !v.at(&["schema", "openAPIV3Schema"]).is_some_and(has_defaults),
                conversion: conversion.clone(),
                revision: format!("{}/{}", crd.str_at(&["metadata", "uid"]), crd.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)).into(),
            })
        })
        .collect()
}

/// Versions in the order of preference: GA before beta before alpha, newer before older.
fn rank(v: &str) -> (u8, i64, i64, String) {
    let rest = v.strip_prefix('v').unwrap_or("");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let tail = &rest[digits.len()..];
    let major: i64 = digits.parse().unwrap_or(-1);
    let (class, minor) = if digits.is_empty() {
        (3, 0)
    } else if tail.is_empty() {
        (0, 0)
    } else if let Some(n) = tail.strip_prefix("beta") {
        (1, n.parse().unwrap_or(0))
    } else if let Some(n) = tail.strip_prefix("alpha") {
        (2, n.parse().unwrap_or(0))
    } else {
        (3, 0)
    };
    (class, -major, -minor, v.to_owned())
}

fn catalog(builtin: &Catalog, all: &[Value]) -> Catalog {
    let mut groups: Vec<Group> = Vec::new();
    let mut out = Vec::new();
    for crd in all {
        // Served is what has its names.
        if !is_established(crd) || conflict(all, crd).is_some() {
            continue;
        }
        for r in rows(crd) {
            match groups.iter_mut().find(|g| g.name == r.group) {
                Some(g) if !g.versions.contains(&r.version) => g.versions.push(r.version.clone()),
                Some(_) => {}
                None => groups.push(Group { name: r.group.clone(), versions: vec![r.version.clone()] }),
            }
            out.push(r);
        }
    }
    for g in &mut groups {
        g.versions.sort_by_key(|v| rank(v));
    }
    builtin.extended(&groups, out)
}

fn is_established(crd: &Value) -> bool {
    crd.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// The names of a definition that another one of its group had before: reason and message.
fn conflict(all: &[Value], crd: &Value) -> Option<(&'static str, String)> {
    let mine = &crd["spec"]["names"];
    let order = |c: &Value| (!is_established(c), c.str_at(&["metadata", "creationTimestamp"]).to_owned(), c.name().to_owned());
    let rank = order(crd);
    let others: Vec<&Value> = all
        .iter()
        .filter(|o| o.name() != crd.name() && o.str_at(&["spec", "group"]) == crd.str_at(&["spec", "group"]) && order(o) < rank)
        .map(|o| &o["spec"]["names"])
        .collect();
    let resources = |n: &Value| -> Vec<String> {
        let mut v = vec![n.str_at(&["plural"]).to_owned(), n.str_at(&["singular"]).to_owned()];
        v.extend(n.list_at(&["shortNames"]).iter().filter_map(|s| s.as_str().map(str::to_owned)));
        v
    };
    let kinds = |n: &Value| vec![n.str_at(&["kind"]).to_owned(), n.str_at(&["listKind"]).to_owned()];
    let taken = |name: &str, of: &dyn Fn(&Value) -> Vec<String>| !name.is_empty() && others.iter().any(|o| of(o).iter().any(|t| t == name));
    let say = |reason, name: &str| Some((reason, format!("{name:?} is already in use")));
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        let name = mine.str_at(&[key]);
        if taken(name, &resources) {
            return say(reason, name);
        }
    }
    for name in mine.list_at(&["shortNames"]).iter().filter_map(Value::as_str) {
        if taken(name, &resources) {
            return say("ShortNamesConflict", name);
        }
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let name = mine.str_at(&[key]);
        if taken(name, &kinds) {
            return say(reason, name);
        }
    }
    None
}

/// Definitions as they are in the cache.
fn definitions(registry: &Registry) -> Vec<Value> {
    let prefix = format!("{ROOT}apiextensions.k8s.io/customresourcedefinitions/");
    registry
        .cache(&prefix)
        .map(|c| c.snapshot().range("").map(|e| e.value()).collect())
        .unwrap_or_default()
}

/// Makes the table fit the definitions.
pub async fn refresh(core: &Core) -> Result<(), ApiError> {
    let all = definitions(&core.registry);
    let catalog = Arc::new(catalog(&core.builtin, &all));
    let mut wanted: HashSet<String> = HashSet::new();
    for (prefix, codec, r) in core::codecs(catalog.resources()) {
        if r.is_custom() {
            wanted.insert(prefix.clone());
            if core.registry.cache(&prefix).is_none() {
                core.registry.register(&prefix, codec).await?;
            }
        }
    }
    let old = core.table();
    for r in old.catalog.resources().iter().filter(|r| r.is_custom()) {
        let prefix = format!("{ROOT}{}/", r.key_prefix);
        if !wanted.contains(&prefix) {
            core.registry.unregister(&prefix);
        }
    }
    let table = Arc::new(core::table(catalog, &core.registry));
    let generation = table.generation;
    *core.table.write().unwrap_or_else(std::sync::PoisonError::into_inner) = table;
    core.table_changes.send_replace(generation);
    Ok(())
}

/// Follows the definitions until the server stops.
pub async fn follow(core: Arc<Core>) {
    let prefix = format!("{ROOT}apiextensions.k8s.io/customresourcedefinitions/");
    let Some(cache) = core.registry.cache(&prefix) else { return };
    loop {
        let (_, mut watcher) = cache.snapshot_and_watch(None);
        if let Err(error) = refresh(&core).await {
            tracing::warn!(%error, "custom resources cannot be served");
        }
        let all = definitions(&core.registry);
        for crd in &all {
            if let Err(error) = settle(&core, &all, crd).await {
                tracing::debug!(%error, name = crd.name(), "the definition's status is not written");
            }
        }
        tokio::select! {
            r = watcher.next() => if r.is_err() { continue },
            () = core.stop.cancelled() => return,
        }
    }
}

/// Writes without admission and warnings.
pub struct Quiet;
#[async_trait::async_trait]
impl Hooks for Quiet {
    async fn mutate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn allocate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn validate(&self, _: &Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    fn warn(&self, _: String) {}
}

/// Writes a status that is the server's own: it owns what it writes.
pub struct Status(pub Option<Arc<Resource>>);
#[async_trait::async_trait]
impl Hooks for Status {
    async fn mutate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    fn own(&self, obj: &mut Value, old: Option<&Value>) {
        if let Some(r) = &self.0 {
            bridge::track(r, obj, old, "kube-apiserver", "status");
        }
    }
    async fn allocate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn validate(&self, _: &Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    fn warn(&self, _: String) {}
}

/// Writes a definition's conditions, and ends one that is being deleted.
async fn settle(core: &Core, all: &[Value], crd: &Value) -> Result<(), ApiError> {
    let kind = core.kind("apiextensions.k8s.io/customresourcedefinitions")?;
    let name = crd.name();
    if crd.deleting() && crd.finalizers().iter().any(|f| f == "customresourcecleanup.apiextensions.k8s.io") {
        let t = core.table();
        let prefix = format!("{}/{}", crd.str_at(&["spec", "group"]), crd.str_at(&["spec", "names", "plural"]));
        if let Some(k) = t.kinds.get(&prefix) {
            for e in k.cache.snapshot().range("") {
                match rest::delete(&core.registry, k, &e.namespace, &e.name, &rest::DeleteOptions::default(), &Quiet).await {
                    Ok(_) => {}
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                }
            }
        }
        rest::update(&core.registry, &kind, "", name, &WriteOptions::default(), &Quiet, |old| {
            let mut v = old.unwrap_or_default();
            let left: Vec<String> = v.finalizers().into_iter().filter(|f| f != "customresourcecleanup.apiextensions.k8s.io").collect();
            v.meta_mut().insert("finalizers".into(), json!(left));
            std::future::ready(Ok(v))
        })
        .await?;
        return Ok(());
    }
    let clash = conflict(all, crd);
    let stored: Vec<&Value> = crd.list_at(&["spec", "versions"]).iter().filter(|x| x["storage"] == true).map(|x| &x["name"]).collect();
    let accepted = crd.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "NamesAccepted");
    let done = match &clash {
        Some((_, message)) => accepted.is_some_and(|c| c["status"] == "False" && c["message"] == **message),
        None => is_established(crd) && crd.at(&["status", "acceptedNames"]) == crd.at(&["spec", "names"]),
    } && stored.iter().all(|s| crd.list_at(&["status", "storedVersions"]).contains(s))
        && crd.finalizers().iter().any(|f| f == "customresourcecleanup.apiextensions.k8s.io");
    if done || crd.deleting() {
        return Ok(());
    }
    for (sub, finalizer) in [("", true), ("status", false)] {
        let o = WriteOptions { subresource: sub.into(), ..WriteOptions::default() };
        let row = core.table().catalog.lookup("apiextensions.k8s.io", "v1", "customresourcedefinitions").cloned();
        let hooks = Status(row.filter(|_| !finalizer));
        rest::update(&core.registry, &kind, "", name, &o, &hooks, |old| {
            let mut v = old.unwrap_or_default();
            if finalizer {
                let mut all = v.finalizers();
                if !all.iter().any(|f| f == "customresourcecleanup.apiextensions.k8s.io") {
                    all.push("customresourcecleanup.apiextensions.k8s.io".into());
                }
                v.meta_mut().insert("finalizers".into(), json!(all));
            } else {
                let now = knarr_registry::object::now();
                let mut stored = v.list_at(&["status", "storedVersions"]).to_vec();
                for x in v.list_at(&["spec", "versions"]).iter().filter(|x| x["storage"] == true) {
                    if !stored.contains(&x["name"]) {
                        stored.push(x["name"].clone());
                    }
                }
                v.set_at(&["status", "storedVersions"], json!(stored));
                let (names, established) = match &clash {
                    None => {
                        v.set_at(&["status", "acceptedNames"], v["spec"]["names"].clone());
                        (("True", "NoConflicts", "no conflicts found"), ("True", "InitialNamesAccepted", "the initial names have been accepted"))
                    }
                    Some((reason, message)) => {
                        if v.at(&["status", "acceptedNames"]).is_none() {
                            v.set_at(&["status", "acceptedNames"], json!({"plural": "", "kind": ""}));
                        }
                        (("False", *reason, message.as_str()), ("False", "NotAccepted", "not all names are accepted"))
                    }
                };
                let mut conditions = v.list_at(&["status", "conditions"]).to_vec();
                for (kind, (status, reason, message)) in [("NamesAccepted", names), ("Established", established)] {
                    let old = conditions.iter().position(|c| c["type"] == kind);
                    let since = old.filter(|i| conditions[*i]["status"] == status).map_or_else(|| json!(now), |i| conditions[i]["lastTransitionTime"].clone());
                    let c = json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message});
                    match old {
                        Some(i) => conditions[i] = c,
                        None => conditions.push(c),
                    }
                }
                v.set_at(&["status", "conditions"], json!(conditions));
            }
            std::future::ready(Ok(v))
        })
        .await?;
    }
    Ok(())
}
