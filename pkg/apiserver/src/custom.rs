//! CustomResourceDefinitions: rows that are made at run time. Follows the definitions in the cache
//! and extends the table.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use knarr_registry::{
    ApiError, Object, ROOT, Registry,
    rest::{self, Hooks, WriteOptions},
};
use knarr_schema::{Catalog, Resource, Subresource, catalog::Group};
use serde_json::{Value, json};

use crate::{bridge, core::{self, Core}};

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

/// The rows of a definition.
fn rows(crd: &Value) -> Vec<Arc<Resource>> {
    let names = &crd["spec"]["names"];
    let texts = |m: &str| names.list_at(&[m]).iter().filter_map(|s| s.as_str().map(|s| Cow::Owned(s.to_owned()))).collect::<Vec<_>>();
    let group = text(crd, &["spec", "group"]);
    let plural = text(names, &["plural"]);
    let storage = crd.list_at(&["spec", "versions"]).iter().find(|v| v["storage"] == true).map(|v| v.str_at(&["name"]).to_owned()).unwrap_or_default();
    crd.list_at(&["spec", "versions"])
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

fn catalog(all: &[Value]) -> Catalog {
    let mut groups: Vec<Group> = Vec::new();
    let mut out = Vec::new();
    for crd in all {
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
    Catalog::builtin().extended(&groups, out)
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
    let catalog = Arc::new(catalog(&all));
    let mut wanted: HashSet<String> = HashSet::new();
    for (prefix, codec, r) in core::codecs(&catalog) {
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
    *core.table.write().unwrap_or_else(std::sync::PoisonError::into_inner) = table;
    Ok(())
}

/// Follows the definitions until the server stops.
pub async fn follow(core: Arc<Core>) {
    let prefix = format!("{ROOT}apiextensions.k8s.io/customresourcedefinitions/");
    let Some(cache) = core.registry.cache(&prefix) else { return };
    loop {
        let (_, mut watcher) = cache.snapshot_and_watch();
        if let Err(error) = refresh(&core).await {
            tracing::warn!(%error, "custom resources cannot be served");
        }
        for crd in definitions(&core.registry) {
            if let Err(error) = settle(&core, &crd).await {
                tracing::debug!(%error, name = crd.name(), "the definition's status is not written");
            }
        }
        tokio::select! {
            r = watcher.next() => if r.is_err() { continue },
            () = core.stop.cancelled() => return,
        }
    }
}

struct Quiet;
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

/// Writes a definition's conditions, and ends one that is being deleted.
async fn settle(core: &Core, crd: &Value) -> Result<(), ApiError> {
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
    let done = crd.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True")
        && crd.at(&["status", "acceptedNames"]) == crd.at(&["spec", "names"])
        && crd.finalizers().iter().any(|f| f == "customresourcecleanup.apiextensions.k8s.io");
    if done || crd.deleting() {
        return Ok(());
    }
    for (sub, finalizer) in [("", true), ("status", false)] {
        let o = WriteOptions { subresource: sub.into(), ..WriteOptions::default() };
        rest::update(&core.registry, &kind, "", name, &o, &Quiet, |old| {
            let mut v = old.unwrap_or_default();
            if finalizer {
                let mut all = v.finalizers();
                if !all.iter().any(|f| f == "customresourcecleanup.apiextensions.k8s.io") {
                    all.push("customresourcecleanup.apiextensions.k8s.io".into());
                }
                v.meta_mut().insert("finalizers".into(), json!(all));
            } else {
                let now = knarr_registry::object::now();
                let stored: Vec<Value> = v.list_at(&["spec", "versions"]).iter().filter(|x| x["storage"] == true).map(|x| x["name"].clone()).collect();
                v.set_at(&["status", "acceptedNames"], v["spec"]["names"].clone());
                v.set_at(&["status", "storedVersions"], json!(stored));
                v.set_at(&["status", "conditions"], json!([
                    {"type": "NamesAccepted", "status": "True", "lastTransitionTime": now, "reason": "NoConflicts", "message": "no conflicts found"},
                    {"type": "Established", "status": "True", "lastTransitionTime": now, "reason": "InitialNamesAccepted", "message": "the initial names have been accepted"},
                ]));
            }
            std::future::ready(Ok(v))
        })
        .await?;
    }
    let _ = bridge::can_protobuf;
    Ok(())
}
