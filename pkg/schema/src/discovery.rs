//! Discovery documents, all from the catalog.

use serde_json::{Value, json};

use crate::catalog::{Catalog, GroupVersion, Resource, Subresource, Text};

/// `/api`. `address` is what in-cluster clients dial, e.g. `10.0.0.1:6443`.
pub fn api_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`.
pub fn group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> = catalog.groups().iter().filter(|g| !g.name.is_empty()).map(|g| group_body(&g.name, &g.versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn group(catalog: &Catalog, name: &str) -> Option<Value> {
    let group = catalog.groups().iter().find(|g| g.name == name && !name.is_empty())?;
    let mut body = group_body(&group.name, &group.versions);
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    Some(body)
}

fn group_body(name: &str, versions: &[Text]) -> Value {
    let version = |v: &Text| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    json!({"name": name, "versions": versions.iter().map(version).collect::<Vec<_>>(), "preferredVersion": versions.first().map(version)})
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let rows = sorted(catalog, group, version);
    if rows.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for row in rows {
        if !row.kind.is_empty() {
            let mut entry = json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind, "verbs": row.verbs});
            for (key, list) in [("shortNames", &row.short_names), ("categories", &row.categories)] {
                if !list.is_empty() {
                    entry[key] = json!(list);
                }
            }
            if !row.storage_hash.is_empty() {
                entry["storageVersionHash"] = json!(row.storage_hash);
            }
            resources.push(entry);
        }
        for sub in &row.subresources {
            let mut entry = json!({"name": format!("{}/{}", row.plural, sub.name), "singularName": "", "namespaced": row.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if let Some(other) = &sub.group_version {
                if !other.group.is_empty() {
                    entry["group"] = json!(other.group);
                }
                entry["version"] = json!(other.version);
            }
            resources.push(entry);
        }
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": GroupVersion::new(group.to_owned(), version.to_owned()).to_string(), "resources": resources});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

fn sorted<'c>(catalog: &'c Catalog, group: &str, version: &str) -> Vec<&'c Resource> {
    let mut rows: Vec<&Resource> = catalog.resources().iter().filter(|r| r.group == group && r.version == version).map(|r| &**r).collect();
    rows.sort_by(|a, b| a.plural.cmp(&b.plural));
    rows
}

/// Aggregated discovery (`apidiscovery.k8s.io/v2`): of the legacy group for `/api`, of all
/// others for `/apis`.
pub fn aggregated(catalog: &Catalog, legacy: bool) -> Value {
    let items: Vec<Value> = catalog
        .groups()
        .iter()
        .filter(|g| g.name.is_empty() == legacy)
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = sorted(catalog, &group.name, version).into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if legacy { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(row: &Resource) -> Value {
    // Only a kind of another group or version says which.
    let kind = |gv: Option<&GroupVersion>, kind: &Text| json!({"group": gv.map_or("", |g| &g.group), "version": gv.map_or("", |g| &g.version), "kind": kind});
    let mut entry = json!({"resource": row.plural, "responseKind": kind(None, &row.kind), "scope": if row.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": row.singular, "verbs": row.verbs});
    for (key, list) in [("shortNames", &row.short_names), ("categories", &row.categories)] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    if !row.subresources.is_empty() {
        let sub = |s: &Subresource| json!({"subresource": s.name, "responseKind": kind(s.group_version.as_ref(), &s.kind), "verbs": s.verbs});
        entry["subresources"] = row.subresources.iter().map(sub).collect();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        let catalog = Catalog::builtin();
        assert_eq!(group_list(catalog)["groups"][0]["name"], "apiregistration.k8s.io");
        assert_eq!(group(catalog, "autoscaling").unwrap()["preferredVersion"]["groupVersion"], "autoscaling/v2");
        let core = resource_list(catalog, "", "v1").unwrap();
        assert!(core.get("apiVersion").is_none() && core["groupVersion"] == "v1");
        assert!(core["resources"].as_array().unwrap().iter().any(|r| r["name"] == "pods/eviction" && r["group"] == "policy"));
        assert!(resource_list(catalog, "apps", "v1beta1").is_none());
        let all = aggregated(catalog, false);
        assert!(all["items"].as_array().unwrap().iter().any(|g| g["metadata"]["name"] == "apps"));
        assert_eq!(aggregated(catalog, true)["items"].as_array().unwrap().len(), 1);
        // Protobuf forms come from the same table.
        for document in [group_list(catalog), core, api_versions("a:1")] {
            let bytes = crate::proto::encode_object(&document).unwrap();
            assert!(crate::proto::decode_object(&bytes).is_ok());
        }
    }
}
