//! What aggregated servers say about themselves: discovery and OpenAPI, read when their
//! availability is checked.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use http::{HeaderMap, header};
use knarr_registry::Object;
use serde_json::{Map, Value, json};

use super::{Remote, Remotes};
use crate::{auth::UserInfo, core::Core};

/// The documents of one group version.
#[derive(Clone, Default, PartialEq)]
pub struct Documents {
    /// Its `APIVersionDiscovery`.
    pub discovery: Option<Value>,
    /// Whether that was read at the last attempt.
    pub fresh: bool,
    /// Its part of `/openapi/v2`.
    v2: Option<Arc<Value>>,
    v2_tag: String,
    /// Where its OpenAPI v3 document is.
    v3: Option<String>,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn etag(headers: &HeaderMap) -> String {
    headers.get(header::ETAG).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
}

/// Reads everything again.
pub async fn refresh(core: &Core, r: &Remote, available: bool) {
    let old = r.documents();
    let mut next = (*old).clone();
    if available {
        match discovery(core, r).await {
            Ok(d) => {
                next.discovery = Some(d);
                next.fresh = true;
            }
            Err(why) => {
                tracing::debug!(why, name = r.name, "no discovery of an aggregated server");
                next.fresh = false;
            }
        }
        openapi(core, r, &mut next).await;
    } else {
        next.fresh = false;
    }
    if next != *old {
        *r.documents.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

async fn discovery(core: &Core, r: &Remote) -> Result<Value, String> {
    let user = UserInfo { name: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..UserInfo::default() };
    let (code, headers, body) = r.backend.get(core, "/apis", AGGREGATED, None, &user).await?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if code == 200 && kind.contains("as=APIGroupDiscoveryList") && kind.contains("v=v2") && !kind.contains("v=v2beta1") {
        let v: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        let group = v.list_at(&["items"]).iter().find(|g| g.name() == r.group);
        let version = group.and_then(|g| g.list_at(&["versions"]).iter().find(|v| v.str_at(&["version"]) == r.version));
        // A server that does not speak of its own group version has nothing in it.
        return Ok(version.cloned().unwrap_or_else(|| json!({"version": r.version})));
    }
    if code == 503 {
        return Err(format!("/apis is answered with {code}"));
    }
    let path = if r.group.is_empty() { format!("/api/{}", r.version) } else { format!("/apis/{}/{}", r.group, r.version) };
    let (code, _, body) = r.backend.get(core, &path, "application/json", None, &user).await?;
    if code != 200 {
        return Err(format!("{path} is answered with {code}"));
    }
    let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    Ok(converted(&list, &r.group, &r.version))
}

/// An `APIResourceList` as an `APIVersionDiscovery`.
fn converted(list: &Value, group: &str, version: &str) -> Value {
    let kind = |e: &Value| {
        let (g, v) = (e.str_at(&["group"]), e.str_at(&["version"]));
        let (g, v) = if v.is_empty() { (group, version) } else { (g, v) };
        json!({"group": g, "version": v, "kind": e.str_at(&["kind"])})
    };
    let mut out: Vec<Value> = Vec::new();
    for e in list.list_at(&["resources"]) {
        let name = e.str_at(&["name"]);
        let Some((parent, sub)) = name.split_once('/') else {
            let mut r = json!({"resource": name, "responseKind": kind(e), "scope": if e["namespaced"] == true { "Namespaced" } else { "Cluster" },
                "singularResource": e.str_at(&["singularName"]), "verbs": e["verbs"]});
            for key in ["shortNames", "categories"] {
                if !e.list_at(&[key]).is_empty() {
                    r[key] = e[key].clone();
                }
            }
            out.push(r);
            continue;
        };
        let entry = json!({"subresource": sub, "responseKind": kind(e), "verbs": e["verbs"]});
        let at = out.iter().position(|r| r["resource"] == parent).unwrap_or_else(|| {
            let scope = if e["namespaced"] == true { "Namespaced" } else { "Cluster" };
            out.push(json!({"resource": parent, "scope": scope, "singularResource": "", "verbs": []}));
            out.len() - 1
        });
        let mut all = out[at].list_at(&["subresources"]).to_vec();
        all.push(entry);
        out[at]["subresources"] = json!(all);
    }
    json!({"version": version, "resources": out})
}

async fn openapi(core: &Core, r: &Remote, next: &mut Documents) {
    let user = UserInfo { name: "system:aggregator".into(), groups: vec!["system:masters".into()], ..UserInfo::default() };
    let known = next.v2.as_ref().map(|_| next.v2_tag.clone()).filter(|t| !t.is_empty());
    match r.backend.get(core, "/openapi/v2", "application/json", known.as_deref(), &user).await {
        Ok((304, ..)) => {}
        Ok((200, headers, body)) => match serde_json::from_slice::<Value>(&body) {
            Ok(v) => {
                next.v2_tag = etag(&headers);
                next.v2 = Some(Arc::new(own_part(v, &r.group, &r.version)));
            }
            Err(error) => tracing::debug!(%error, name = r.name, "an OpenAPI document cannot be read"),
        },
        Ok((404, ..)) => next.v2 = None,
        Ok((code, ..)) => tracing::debug!(code, name = r.name, "no OpenAPI document"),
        Err(why) => tracing::debug!(why, name = r.name, "no OpenAPI document"),
    }
    match r.backend.get(core, "/openapi/v3", "application/json", None, &user).await {
        Ok((200, _, body)) => {
            let key = key(&r.group, &r.version);
            let v: Value = serde_json::from_slice(&body).unwrap_or_default();
            let url = v.at(&["paths"]).and_then(|p| p.get(&key)).map(|p| p.str_at(&["serverRelativeURL"]).to_owned());
            next.v3 = url.filter(|u| u.starts_with("/openapi/v3/"));
        }
        Ok((404, ..)) => next.v3 = None,
        _ => {}
    }
}

fn key(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Every name below `root` that a value points to.
fn references(v: &Value, root: &str, out: &mut BTreeSet<String>) {
    match v {
        Value::Object(m) => {
            for (k, v) in m {
                if k == "$ref"
                    && let Some(n) = v.as_str().and_then(|s| s.strip_prefix(root))
                {
                    out.insert(n.to_owned());
                } else {
                    references(v, root, out);
                }
            }
        }
        Value::Array(l) => l.iter().for_each(|v| references(v, root, out)),
        _ => {}
    }
}

/// The paths of a group version with the definitions they need.
fn own_part(mut v: Value, group: &str, version: &str) -> Value {
    let root = format!("/{}/", key(group, version));
    let mut paths = v.take_at(&["paths"]).and_then(|p| if let Value::Object(m) = p { Some(m) } else { None }).unwrap_or_default();
    paths.retain(|p, _| format!("{}/", p.trim_end_matches('/')).starts_with(&root));
    let paths = Value::Object(paths);
    let definitions = v.take_at(&["definitions"]).unwrap_or_default();
    let mut kept = Map::new();
    let (mut open, mut shared) = (BTreeSet::new(), BTreeSet::new());
    references(&paths, "#/parameters/", &mut shared);
    let mut parameters = v.take_at(&["parameters"]).unwrap_or_default();
    if let Some(all) = parameters.as_object_mut() {
        all.retain(|name, _| shared.contains(name));
    }
    references(&paths, DEFINITIONS, &mut open);
    references(&parameters, DEFINITIONS, &mut open);
    // Kinds that no path names are found by what they say they are.
    for (name, d) in definitions.as_object().into_iter().flatten() {
        let own = d.list_at(&["x-kubernetes-group-version-kind"]).iter().any(|k| k.str_at(&["group"]) == group && k.str_at(&["version"]) == version);
        if own && !name.starts_with("io.k8s.apimachinery.") {
            open.insert(name.clone());
        }
    }
    while let Some(name) = open.pop_first() {
        if kept.contains_key(&name) {
            continue;
        }
        if let Some(d) = definitions.get(&name) {
            references(d, DEFINITIONS, &mut open);
            kept.insert(name.clone(), d.clone());
            open.retain(|n| !kept.contains_key(n));
        }
    }
    json!({"paths": paths, "definitions": kept, "parameters": parameters})
}

const DEFINITIONS: &str = "#/definitions/";

fn rename(v: &mut Value, from: &str, to: &str) {
    match v {
        Value::Object(m) => {
            for (k, v) in m.iter_mut() {
                if k == "$ref" && v.as_str().and_then(|s| s.strip_prefix("#/definitions/")) == Some(from) {
                    *v = json!(format!("#/definitions/{to}"));
                } else {
                    rename(v, from, to);
                }
            }
        }
        Value::Array(l) => l.iter_mut().for_each(|v| rename(v, from, to)),
        _ => {}
    }
}

/// What tells whether the parts of `/openapi/v2` that others serve are the same.
pub fn tag(remotes: &Remotes) -> String {
    let mut all: Vec<String> = remotes
        .values()
        .filter_map(|r| {
            let d = r.documents();
            let part = d.v2.as_ref()?;
            // A server that gives no tag of its own is known by what it says.
            let tag = if d.v2_tag.is_empty() { part.to_string() } else { d.v2_tag.clone() };
            Some(format!("{} {} {tag}", r.name, r.group_priority))
        })
        .collect();
    all.sort();
    all.join("\n")
}

/// Adds what aggregated servers serve to `/openapi/v2`.
pub fn merge_v2(document: &mut Value, remotes: &Remotes) {
    let mut all: Vec<_> = remotes.values().collect();
    all.sort_by(|a, b| (-a.group_priority, &a.name).cmp(&(-b.group_priority, &b.name)));
    for r in all {
        let documents = r.documents();
        let Some(part) = &documents.v2 else { continue };
        let mut part = (**part).clone();
        let names: Vec<String> = part["definitions"].as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
        for name in names {
            // What both know stays ours, except kinds of the server's own.
            let Some(have) = document["definitions"].get(&name) else { continue };
            if name.starts_with("io.k8s.") || *have == part["definitions"][&name] {
                if let Some(m) = part["definitions"].as_object_mut() {
                    m.remove(&name);
                }
                continue;
            }
            let other = (2..).map(|n| format!("{name}_v{n}")).find(|n| document["definitions"].get(n).is_none()).unwrap_or_default();
            rename(&mut part, &name, &other);
            if let Some(m) = part["definitions"].as_object_mut()
                && let Some(d) = m.remove(&name)
            {
                m.insert(other, d);
            }
        }
        // What is shared has a name that tells what it is.
        if let (Some(to), Some(Value::Object(from))) = (document["parameters"].as_object_mut(), part.take_at(&["parameters"])) {
            for (name, p) in from {
                to.entry(name).or_insert(p);
            }
        }
        for member in ["paths", "definitions"] {
            if let (Some(to), Some(Value::Object(from))) = (document[member].as_object_mut(), part.take_at(&[member])) {
                to.extend(from);
            }
        }
    }
}

/// Adds the documents of aggregated servers to `/openapi/v3`.
pub fn merge_v3_index(index: &mut Value, remotes: &Remotes) {
    for r in remotes.values() {
        if let Some(url) = &r.documents().v3 {
            index["paths"][key(&r.group, &r.version)] = json!({"serverRelativeURL": url});
        }
    }
}
