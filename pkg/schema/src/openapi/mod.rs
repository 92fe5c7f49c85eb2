//! The OpenAPI documents, from the table: version 3 a document for each group and version,
//! version 2 one for all.
//!
//! The documents are large and asked for rarely, so nothing is kept here; a caller that keeps
//! the bytes can tell by [`etag`] whether they are still right.

#[cfg(feature = "descriptions")]
mod descriptions;
mod paths;
pub mod protobuf;
mod schemas;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::catalog::{Catalog, GroupVersion, Resource};
use schemas::Writer;

/// Which of the two specifications a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn root(self) -> &'static str {
        match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        }
    }
}

/// A tag that changes when the documents do: `generation` counts the changes of the catalog.
pub fn etag(kubernetes_version: &str, generation: u64) -> String {
    // FNV-1a over what the documents are made of.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let parts = [kubernetes_version.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes(), &generation.to_le_bytes()];
    for byte in parts.concat() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016X}")
}

/// `/openapi/v3`: the documents and their addresses; `tag` of a group and version goes into its
/// address so that clients may keep it.
pub fn v3_index(catalog: &Catalog, tag: impl Fn(&GroupVersion) -> String) -> Value {
    let mut paths = Map::new();
    for gv in group_versions(catalog) {
        let path = api_path(&gv);
        let url = format!("/openapi/v3/{path}?hash={}", tag(&gv));
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/<path>`: the document of a group and version, `None` if it is not served.
pub fn v3(catalog: &Catalog, path: &str, kubernetes_version: &str) -> Option<Value> {
    let gv = group_versions(catalog).into_iter().find(|gv| api_path(gv) == path)?;
    let rows = rows(catalog, |r| r.group == gv.group && r.version == gv.version);
    let mut writer = Writer::new(Dialect::V3);
    let paths = paths::of(&rows, &mut writer);
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": kubernetes_version },
        "paths": paths,
        "components": {
            "schemas": writer.finish(),
            "securitySchemes": { "BearerToken": bearer() },
        },
    }))
}

/// `/openapi/v2`: everything in one document.
pub fn v2(catalog: &Catalog, kubernetes_version: &str) -> Value {
    let rows = rows(catalog, |_| true);
    let mut writer = Writer::new(Dialect::V2);
    let paths = paths::of(&rows, &mut writer);
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": kubernetes_version },
        "paths": paths,
        "definitions": writer.finish(),
        "securityDefinitions": { "BearerToken": bearer() },
        "security": [{ "BearerToken": [] }],
    })
}

fn bearer() -> Value {
    json!({
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
        "description": "Bearer Token authentication",
    })
}

fn rows(catalog: &Catalog, wanted: impl Fn(&Resource) -> bool) -> Vec<&Resource> {
    let mut rows: Vec<&Resource> =
        catalog.resources().iter().map(|r| &**r).filter(|r| wanted(r)).collect();
    rows.sort_by(|a, b| (&a.group, &a.version, &a.plural).cmp(&(&b.group, &b.version, &b.plural)));
    rows
}

fn group_versions(catalog: &Catalog) -> BTreeSet<GroupVersion> {
    catalog.resources().iter().map(|r| r.group_version()).collect()
}

/// `api/v1` or `apis/<group>/<version>`.
fn api_path(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{gv}") }
}
