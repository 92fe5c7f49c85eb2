//! The OpenAPI documents, from the table: version 3 a document for each group and version,
//! version 2 one for all.
//!
//! The documents are large and asked for rarely, so nothing is kept here; who keeps one can tell by
//! [`etag`] whether it is still right.

#[cfg(feature = "descriptions")]
mod descriptions;
mod parameters;
mod paths;
pub mod protobuf;
mod schemas;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::OnceLock};

use serde_json::{Map, Value, json};

use crate::catalog::{Catalog, GroupVersion, Resource};
use paths::{Plain, PlainKind};
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

/// What documents are made of besides the catalog's rows, as one number.
fn base(kubernetes_version: &str) -> u64 {
    static TABLES: OnceLock<u64> = OnceLock::new();
    let tables = TABLES.get_or_init(|| hash([crate::types::TABLE, crate::catalog::TABLE, env!("CARGO_PKG_VERSION")]));
    hash([kubernetes_version]) ^ tables
}

/// FNV-1a.
fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    parts.into_iter().flat_map(|p| p.bytes().chain([0])).fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A tag that changes when what the catalog says of a document does: of `/openapi/v3/<path>`, or of
/// `/openapi/v2` without a path, with what other servers add to it. It is the same after a restart,
/// for clients keep documents by it.
pub fn etag(catalog: &Catalog, path: Option<&str>, kubernetes_version: &str, others: &str) -> String {
    let mut sum = base(kubernetes_version).wrapping_add(hash([others]));
    for row in catalog.resources() {
        if path.is_none_or(|p| api_path(&row.group_version()) == p) {
            // Rows in any order give the same.
            sum = sum.wrapping_add(hash([&row.group, &row.version, &row.plural, &row.revision].map(|t| t.as_ref())));
        }
    }
    format!("{sum:016X}")
}

/// `/openapi/v3`: the documents and their addresses, in which their tags stand so that clients may
/// keep them.
pub fn v3_index(catalog: &Catalog, kubernetes_version: &str) -> Value {
    let mut paths = Map::new();
    for path in documents(catalog) {
        let tag = etag(catalog, Some(&path), kubernetes_version, "");
        paths.insert(path.clone(), json!({ "serverRelativeURL": v3_url(&path, &tag) }));
    }
    json!({ "paths": paths })
}

/// The address of a document of version 3.
pub fn v3_url(path: &str, tag: &str) -> String {
    format!("/openapi/v3/{path}?hash={tag}")
}

/// Whether there is a document of that name at `/openapi/v3/<path>`.
pub fn has_v3(catalog: &Catalog, path: &str) -> bool {
    documents(catalog).contains(path)
}

/// `/openapi/v3/<path>`: one document, `None` if there is none of that name.
pub fn v3(catalog: &Catalog, path: &str, kubernetes_version: &str) -> Option<Value> {
    if !has_v3(catalog, path) {
        return None;
    }
    let rows = rows(catalog, |r| api_path(&r.group_version()) == path);
    let gv = rows.first().map(|r| r.group_version());
    let custom = rows.first().is_some_and(|r| r.is_custom());
    let mut writer = Writer::new(Dialect::V3, gv);
    let mut paths = paths::of(&rows, &mut writer);
    for plain in plain(catalog).iter().filter(|p| p.path.trim_matches('/') == path) {
        paths.insert(plain.path.clone(), paths::plain(plain, &mut writer));
    }
    let mut components = if custom { json!({}) } else { json!({ "securitySchemes": { "BearerToken": bearer() } }) };
    let schemas = writer.finish();
    if !schemas.is_empty() {
        components["schemas"] = Value::Object(schemas);
    }
    let info = if custom { json!({ "title": "Kubernetes CRD Swagger", "version": "v0.1.0" }) } else { info(kubernetes_version) };
    Some(json!({ "openapi": "3.0.0", "info": info, "paths": paths, "components": components }))
}

/// `/openapi/v2`: everything in one document.
pub fn v2(catalog: &Catalog, kubernetes_version: &str) -> Value {
    let rows = rows(catalog, |_| true);
    let mut writer = Writer::new(Dialect::V2, None);
    let mut paths = paths::of(&rows, &mut writer);
    for plain in plain(catalog) {
        paths.insert(plain.path.clone(), paths::plain(&plain, &mut writer));
    }
    let parameters = parameters::shared(|name| writer.meta(name));
    json!({
        "swagger": "2.0",
        "info": info(kubernetes_version),
        "paths": paths,
        "definitions": writer.finish(),
        "parameters": parameters,
        "securityDefinitions": { "BearerToken": bearer() },
        "security": [{ "BearerToken": [] }],
    })
}

/// The title, and the version without the patch.
fn info(kubernetes_version: &str) -> Value {
    let version = kubernetes_version.trim_start_matches('v');
    let end = version.match_indices('.').nth(1).map_or(version.len(), |(at, _)| at);
    json!({ "title": "Kubernetes", "version": &version[..end] })
}

fn bearer() -> Value {
    json!({
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
        "description": "Bearer Token authentication",
    })
}

/// Rows in the order of their paths.
fn rows(catalog: &Catalog, wanted: impl Fn(&Resource) -> bool) -> Vec<&Resource> {
    let mut rows: Vec<&Resource> =
        catalog.resources().iter().map(|r| &**r).filter(|r| wanted(r)).collect();
    rows.sort_by(|a, b| (&a.group, &a.version, &a.plural).cmp(&(&b.group, &b.version, &b.plural)));
    rows
}

/// The names of version 3's documents.
fn documents(catalog: &Catalog) -> BTreeSet<String> {
    let versions = catalog.resources().iter().map(|r| api_path(&r.group_version()));
    let plain = plain(catalog).into_iter().map(|p| p.path.trim_matches('/').to_owned());
    versions.chain(plain).collect()
}

/// The paths that only say what there is. Groups of custom resources have none.
fn plain(catalog: &Catalog) -> Vec<Plain> {
    let root = |path: &str, tag: &str, id: &str, answer, kind| Plain { path: path.into(), tag: tag.into(), id: id.into(), answer, kind };
    let mut out = vec![
        root("/.well-known/openid-configuration/", "WellKnown", "getServiceAccountIssuerOpenIDConfiguration", None, PlainKind::Only("application/json")),
        root("/openid/v1/jwks/", "openid", "getServiceAccountIssuerOpenIDKeyset", None, PlainKind::Only("application/jwk-set+json")),
        root("/version/", "version", "getCodeVersion", Some("io.k8s.apimachinery.pkg.version.Info"), PlainKind::Json),
        root("/api/", "core", "getCoreAPIVersions", Some(API_VERSIONS), PlainKind::Discovery),
        root("/apis/", "apis", "getAPIVersions", Some(API_GROUPS), PlainKind::Discovery),
    ];
    let mut seen = BTreeSet::new();
    for row in catalog.resources().iter().filter(|r| !r.is_custom()) {
        let (tag, words) = (paths::group_tag(&row.group), paths::group_words(&row.group));
        if !row.group.is_empty() && seen.insert((row.group.clone(), "".into())) {
            out.push(root(&format!("/apis/{}/", row.group), &tag, &format!("get{words}APIGroup"), Some(API_GROUP), PlainKind::Discovery));
        }
        if seen.insert((row.group.clone(), row.version.clone())) {
            let id = format!("get{words}{}APIResources", paths::title(&row.version));
            let path = format!("/{}/", api_path(&row.group_version()));
            out.push(root(&path, &format!("{tag}_{}", row.version), &id, Some(API_RESOURCES), PlainKind::Discovery));
        }
    }
    out
}

const API_VERSIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions";
const API_GROUP: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup";
const API_GROUPS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList";
const API_RESOURCES: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// `api/v1` or `apis/<group>/<version>`.
fn api_path(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{gv}") }
}
