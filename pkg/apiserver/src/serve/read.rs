//! Get and list.

use std::sync::Arc;

use knarr_registry::{
    ApiError,
    list::{self, ListOptions, Page},
    selector::{Filter, Selector},
};
use knarr_schema::Resource;
use serde_json::{Value, json};

use super::{finish, items::Items, partial, show};
use crate::{
    bridge,
    core::Ctx,
    respond::{self, Encoding, Reply, View},
};

/// What a request selects.
pub(super) struct Selection {
    /// What is decided on the object as it is stored.
    pub(super) filter: Filter,
    /// What is about fields of the version asked for, where another one is stored.
    pub(super) own: Selector,
}

impl Selection {
    /// Whether an object of the version asked for is meant.
    pub(super) fn shows(&self, r: &Resource, v: &Value) -> bool {
        self.own.all.iter().all(|q| {
            let value = knarr_schema::selector::field_value(r, v, q.key());
            q.holds(|_| Some(value.as_str()))
        })
    }
}

/// Reads the selectors of a request and refuses fields that cannot be selected.
///
/// # Errors
/// 400.
pub(super) fn selection(ctx: &Ctx) -> Result<Selection, ApiError> {
    let labels = Selector::labels(ctx.query.get("labelSelector")).map_err(ApiError::bad_request)?;
    let mut fields = Selector::fields(ctx.query.get("fieldSelector")).map_err(ApiError::bad_request)?;
    for r in &mut fields.all {
        let k = r.key();
        let known = matches!(k, "metadata.name" | "metadata.namespace")
            || ctx.resource.selectable_fields.iter().any(|f| f == k);
        if !known {
            return Err(ApiError::bad_request(if ctx.resource.is_custom() {
                format!("field label not supported: {k}")
            } else if ctx.resource.selectable_fields.is_empty() {
                format!("{k:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
            } else {
                match ctx.resource.plural.as_ref() {
                    "replicasets" => format!("{k:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
                    "jobs" => format!("field label {k:?} not supported for Job"),
                    "resourceslices" => format!("field label not supported for {}, Kind=ResourceSlice: {k}", ctx.resource.api_version()),
                    _ => format!("field label not supported: {k}"),
                }
            }));
        }
        if let Some(stored) = bridge::stored_field(&ctx.resource, k) {
            r.rename(&stored);
        }
    }
    let mut filter = Filter { labels, fields };
    let other = ctx.resource.is_custom() && !bridge::same_version(&ctx.resource);
    let own = if other { filter.take_own_fields() } else { Selector::default() };
    Ok(Selection { filter, own })
}

pub(super) async fn get(ctx: &Arc<Ctx>) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let key = kind.key(&ctx.info.namespace_of(kind.namespaced), &ctx.info.name);
    let missing = || ApiError::not_found(&ctx.resource.group, &ctx.resource.plural, &ctx.info.name);
    match ctx.query.get("resourceVersion") {
        "" => {
            ctx.core.registry.current().await?;
        }
        "0" => {}
        rv => {
            ctx.core.registry.at_least(list::parse_version(rv)?).await?;
        }
    }
    let entry = kind.cache.get(&key).ok_or_else(missing)?;
    show(ctx, 200, &entry).await
}

/// The objects that may be meant, and what is yet to be decided on their versions.
pub(super) async fn page(ctx: &Ctx) -> Result<(Page, Selection), ApiError> {
    let kind = ctx.kind()?;
    let q = &ctx.query;
    let limit: i64 = match q.get("limit") {
        "" => 0,
        l => l.parse().map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {l:?}: invalid syntax")))?,
    };
    let version_match = q.get("resourceVersionMatch");
    let bad = |field: &str, why: &str| {
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &[knarr_registry::FieldError::forbidden(field, why)]))
    };
    if !matches!(version_match, "" | "Exact" | "NotOlderThan") {
        let mut error = knarr_registry::FieldError::invalid("resourceVersionMatch", version_match, "supported values: \"Exact\", \"NotOlderThan\", \"\"");
        error.kind = knarr_registry::FieldErrorKind::NotSupported;
        return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &[error]));
    }
    if !version_match.is_empty() {
        if q.get("resourceVersion").is_empty() {
            return bad("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !q.get("continue").is_empty() {
            return bad("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        }
        if version_match == "Exact" && q.get("resourceVersion") == "0" {
            return bad("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    let selection = selection(ctx)?;
    let o = ListOptions {
        namespace: ctx.info.namespace_of(kind.namespaced),
        filter: selection.filter.clone(),
        // How many of a page are meant is not known before they are converted.
        limit: if selection.own.is_empty() { usize::try_from(limit).unwrap_or(0) } else { 0 },
        token: q.get("continue").into(),
        resource_version: q.get("resourceVersion").into(),
        version_match: version_match.into(),
    };
    Ok((list::list(&ctx.core.registry, kind, &o).await?, selection))
}

fn meta(p: &Page) -> Value {
    let mut m = json!({"resourceVersion": p.revision.to_string()});
    if !p.token.is_empty() {
        m["continue"] = json!(p.token);
    }
    if let Some(n) = p.remaining {
        m["remainingItemCount"] = json!(n);
    }
    m
}

pub(super) async fn list(ctx: &Arc<Ctx>) -> Result<Reply, ApiError> {
    let (p, selection) = page(ctx).await?;
    let f = ctx.format;
    let r = &ctx.resource;
    if f.view == View::Full && f.encoding == Encoding::Json && !f.pretty && bridge::same_version(r) {
        let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[", r.list_kind, r.api_version(), meta(&p));
        return Ok(finish(ctx, respond::items(Items::new(head, p.items, r.is_custom()), f.gzip)));
    }
    let mut items = super::convert::outward(&ctx.core, p.items.iter().map(|e| e.value()).collect(), r).await?;
    items.retain(|v| selection.shows(r, v));
    let body = match f.view {
        View::Table => {
            let refs: Vec<&Value> = items.iter().collect();
            bridge::table(r, &refs, ctx.query.get("includeObject"), meta(&p), true)?
        }
        View::Partial => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta(&p),
            "items": items.iter().map(partial).collect::<Vec<_>>()}),
        View::Full => {
            if !r.is_custom() {
                for i in &mut items {
                    if let Some(m) = i.as_object_mut() {
                        m.remove("kind");
                        m.remove("apiVersion");
                    }
                }
            }
            json!({"kind": r.list_kind, "apiVersion": r.api_version(), "metadata": meta(&p), "items": items})
        }
    };
    Ok(finish(ctx, respond::object(200, &body, f)))
}

impl crate::request::Info {
    /// The namespace as the storage key needs it: a cluster-scoped object has none.
    #[must_use]
    pub fn namespace_of(&self, namespaced: bool) -> String {
        if namespaced { self.namespace.clone() } else { String::new() }
    }
}
