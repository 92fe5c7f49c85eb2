//! Discovery documents with the group versions that other servers serve.

use knarr_registry::Object;
use serde_json::{Value, json};

use super::{Remote, Remotes, register};

/// A group's place, the higher the earlier.
fn place(name: &str, remotes: &Remotes) -> i64 {
    let own = register::group_priority(name);
    let others = remotes.values().filter(|r| r.group == name).map(|r| r.group_priority).max();
    own.max(others).unwrap_or(1000)
}

/// Puts group versions into a list of groups: `entry` is the version's own form, `name` reads a
/// group's name, `make` writes a group that was not there.
fn merge(groups: &mut Vec<Value>, remotes: &Remotes, name: fn(&Value) -> &str, entry: impl Fn(&Remote) -> Value, make: impl Fn(&str) -> Value) {
    let mut all: Vec<_> = remotes.values().filter(|r| !r.group.is_empty()).collect();
    all.sort_by(|a, b| (&a.group, -a.version_priority, &a.version).cmp(&(&b.group, -b.version_priority, &b.version)));
    for r in all {
        let at = groups.iter().position(|g| name(g) == r.group).unwrap_or_else(|| {
            let mine = place(&r.group, remotes);
            let before = |g: &Value| {
                let p = place(name(g), remotes);
                p > mine || p == mine && name(g) < r.group.as_str()
            };
            let at = groups.iter().rposition(before).map_or(0, |i| i + 1);
            groups.insert(at, make(&r.group));
            at
        });
        let mut versions = groups[at].list_at(&["versions"]).to_vec();
        versions.retain(|v| v["version"] != r.version.as_str());
        let rank = |v: &Value| {
            let version = v.str_at(&["version"]);
            let own = || register::version_priority(&r.group, version);
            remotes.get(&format!("{}/{version}", r.group)).map_or_else(own, |r| r.version_priority)
        };
        let i = versions.iter().position(|v| rank(v) < r.version_priority).unwrap_or(versions.len());
        versions.insert(i, entry(r));
        groups[at]["versions"] = json!(versions);
    }
}

fn plain(r: &Remote) -> Value {
    json!({"groupVersion": format!("{}/{}", r.group, r.version), "version": r.version})
}

fn prefer_first(group: &mut Value) {
    if let Some(first) = group.list_at(&["versions"]).first().cloned() {
        group["preferredVersion"] = first;
    }
}

/// `/apis`, from the list of this server's groups.
pub fn group_list(document: &mut Value, remotes: &Remotes) {
    let mut groups = document.list_at(&["groups"]).to_vec();
    merge(&mut groups, remotes, |g| g.str_at(&["name"]), plain, |name| json!({"name": name}));
    groups.iter_mut().for_each(prefer_first);
    document["groups"] = json!(groups);
}

/// `/apis/<group>`, from this server's own part of it.
pub fn group(document: Option<Value>, name: &str, remotes: &Remotes) -> Option<Value> {
    if !remotes.values().any(|r| r.group == name) {
        return document;
    }
    let mut groups: Vec<Value> = document.into_iter().collect();
    let own: Remotes = remotes.iter().filter(|(_, r)| r.group == name).map(|(k, r)| (k.clone(), std::sync::Arc::clone(r))).collect();
    merge(&mut groups, &own, |g| g.str_at(&["name"]), plain, |name| json!({"name": name}));
    let mut g = groups.pop()?;
    prefer_first(&mut g);
    g["kind"] = json!("APIGroup");
    g["apiVersion"] = json!("v1");
    Some(g)
}

fn full(r: &Remote) -> Value {
    let documents = r.documents();
    let mut v = documents.discovery.clone().unwrap_or_else(|| json!({"version": r.version}));
    v["freshness"] = json!(if documents.fresh { "Current" } else { "Stale" });
    v
}

/// The aggregated form of `/apis`, from this server's own.
pub fn aggregated(document: &mut Value, remotes: &Remotes) {
    let mut items = document.list_at(&["items"]).to_vec();
    merge(&mut items, remotes, |g| g.str_at(&["metadata", "name"]), full, |name| json!({"metadata": {"name": name}}));
    document["items"] = json!(items);
}
