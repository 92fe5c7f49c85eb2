//! Create, update, patch, delete, deletecollection.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use knarr_registry::{
    ApiError, Object,
    rest::{self, DeleteOptions, Deleted, Hooks, WriteOptions},
};
use serde_json::{Value, json};

use super::{convert, finish, read, show};
use crate::{
    admission::{self, Attrs, Operation},
    alloc, bridge,
    core::Ctx,
    respond::{self, Reply},
};

/// The server's steps of the pipeline around one write.
pub struct Hooked<'a> {
    /// The request.
    pub ctx: &'a Ctx,
    /// What happens to the object.
    pub operation: Operation,
    /// The subresource written through.
    pub subresource: &'a str,
    /// Whether nothing is stored.
    pub dry_run: bool,
    /// Who owns the fields that change, unless the write sets that itself.
    pub manager: Option<String>,
    /// Held from the choice of addresses until the service is stored.
    pub guard: Mutex<Option<tokio::sync::OwnedMutexGuard<()>>>,
}

impl<'a> Hooked<'a> {
    /// For a write of a request.
    pub fn new(ctx: &'a Ctx, operation: Operation, subresource: &'a str, dry_run: bool) -> Self {
        Self { ctx, operation, subresource, dry_run, manager: Some(ctx.manager()), guard: Mutex::new(None) }
    }
    fn attrs(&self, obj: Option<&Value>, old: Option<&Value>) -> Attrs<'_> {
        let name = if self.ctx.info.name.is_empty() { obj.or(old).map_or("", |o| o.name()) } else { &self.ctx.info.name };
        Attrs {
            ctx: self.ctx,
            core: &self.ctx.core,
            user: &self.ctx.user,
            operation: if old.is_none() && self.operation == Operation::Update { Operation::Create } else { self.operation },
            resource: &self.ctx.resource,
            subresource: self.subresource,
            namespace: self.ctx.info.namespace.clone(),
            name: name.to_owned(),
            dry_run: self.dry_run,
        }
    }
}

#[async_trait]
impl Hooks for Hooked<'_> {
    async fn mutate(&self, obj: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let attrs = self.attrs(Some(obj), old);
        admission::mutate(&attrs, obj, old).await
    }
    fn own(&self, obj: &mut Value, old: Option<&Value>) {
        let (Some(m), r) = (&self.manager, &self.ctx.resource) else { return };
        if bridge::same_version(r) || r.is_custom() {
            bridge::track(r, obj, old, m, self.subresource);
            return;
        }
        // Fields are those of the version that was written.
        let mut written = bridge::outward(obj.clone(), r);
        let before = old.map(|o| bridge::outward(o.clone(), r));
        bridge::track(r, &mut written, before.as_ref(), m, self.subresource);
        match written.take_at(&["metadata", "managedFields"]) {
            Some(all) => obj.meta_mut().insert("managedFields".into(), all),
            None => obj.meta_mut().remove("managedFields"),
        };
    }
    async fn allocate(&self, obj: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        if self.ctx.resource.group.is_empty() && self.ctx.resource.plural == "services" && self.subresource.is_empty() {
            let guard = alloc::services(&self.ctx.core, obj, old, self.dry_run).await?;
            if let Ok(mut g) = self.guard.lock() {
                *g = Some(guard);
            }
        }
        Ok(())
    }
    async fn validate(&self, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        // An update may have to start anew; what an earlier attempt held is let go.
        if let Ok(mut g) = self.guard.lock() {
            *g = None;
        }
        let attrs = self.attrs((!obj.is_null()).then_some(obj), old);
        admission::validate(&attrs, obj, old).await
    }
    fn warn(&self, text: String) {
        self.ctx.warn(text);
    }
}

/// The media type of a request's body, without parameters.
fn media_type(ctx: &Ctx) -> String {
    ctx.headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("application/json")
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_lowercase()
}

/// Decodes a body as an object of a row, with field validation; in the memory version, defaulted.
///
/// # Errors
/// 400 or 415.
pub async fn decode_body(ctx: &Ctx, body: &[u8]) -> Result<Value, ApiError> {
    let (v, warnings) = bridge::decode(&ctx.resource, &media_type(ctx), body, ctx.query.get("fieldValidation"))?;
    for w in warnings {
        ctx.warn(w);
    }
    check_version(ctx, &v)?;
    convert::inward(&ctx.core, v, &ctx.resource).await
}

fn check_version(ctx: &Ctx, v: &Value) -> Result<(), ApiError> {
    let want = ctx.resource.api_version();
    let got = v.str_at(&["apiVersion"]);
    let kind = v.str_at(&["kind"]);
    if !ctx.resource.is_custom() && (got != want || kind != ctx.resource.kind) {
        let (group, version) = got.split_once('/').unwrap_or(("", got));
        if knarr_schema::types::types().kind(group, version, kind).is_none() {
            return Err(ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {got:?} in scheme \"pkg/runtime/scheme.go:111\"", ctx.resource.kind
            )));
        }
    }
    if got != want {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({got}) does not match the expected API version ({want})"
        )));
    }
    if kind != ctx.resource.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: converting ({kind}) to ({}): unknown conversion",
            ctx.resource.version, ctx.resource.kind, ctx.resource.kind
        )));
    }
    Ok(())
}

fn options(ctx: &Ctx, sub: &str) -> Result<WriteOptions, ApiError> {
    let events = ctx.resource.plural == "events" && matches!(ctx.resource.group.as_ref(), "" | "events.k8s.io");
    Ok(WriteOptions {
        dry_run: ctx.dry_run()?,
        subresource: sub.to_owned(),
        ttl: events.then_some(ctx.core.settings.event_ttl),
        create: false,
    })
}

pub(super) async fn create(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let obj = decode_body(ctx, &body).await?;
    let o = options(ctx, "")?;
    let hooks = Hooked::new(ctx, Operation::Create, "", o.dry_run);
    let e = rest::create(&ctx.core.registry, kind, &ctx.info.namespace_of(kind.namespaced), obj, &o, &hooks).await?;
    drop(hooks);
    show(ctx, 201, &e).await
}

pub(super) async fn update(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let obj = decode_body(ctx, &body).await?;
    let mut o = options(ctx, &ctx.info.subresource)?;
    o.create = kind.strategy.create_on_update() && o.subresource.is_empty();
    let hooks = Hooked::new(ctx, Operation::Update, &ctx.info.subresource, o.dry_run);
    let u = rest::update(
        &ctx.core.registry, kind, &ctx.info.namespace_of(kind.namespaced), &ctx.info.name, &o, &hooks,
        |_| std::future::ready(Ok(obj.clone())),
    )
    .await?;
    show(ctx, if u.created { 201 } else { 200 }, &u.entry).await
}

/// Tells of keys that a configuration to apply has twice.
fn repeated_keys(ctx: &Ctx, body: &[u8], strict: bool) -> Result<(), ApiError> {
    let Ok(text) = std::str::from_utf8(body) else { return Ok(()) };
    let twice = knarr_schema::yaml::repeated_keys(text);
    if twice.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = twice.iter().map(|(line, key)| format!("line {line}: key {key:?} already set in map")).collect();
    let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", lines.join("\n  "));
    if strict {
        return Err(ApiError::bad_request(format!("error strict decoding YAML: {text}")));
    }
    ctx.warn(text);
    Ok(())
}

pub(super) async fn patch(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let media = media_type(ctx);
    let patch = bridge::Patch::parse(&ctx.resource, &media, &body)?;
    let mut o = options(ctx, &ctx.info.subresource)?;
    let apply = patch.is_apply();
    if apply {
        if ctx.query.get("fieldManager").is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &[
                knarr_registry::FieldError::required("fieldManager", "is required for apply patch"),
            ]));
        }
        o.create = o.subresource.is_empty();
    } else if ctx.query.has("force") {
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &[
            knarr_registry::FieldError::forbidden("force", "may not be specified for non-apply patch"),
        ]));
    }
    let validation = ctx.query.get("fieldValidation").to_owned();
    let mut hooks = Hooked::new(ctx, Operation::Update, &ctx.info.subresource, o.dry_run);
    if apply && validation != "Ignore" {
        repeated_keys(ctx, &body, validation == "Strict")?;
    }
    if apply {
        // Apply knows better than a comparison who owns what.
        hooks.manager = None;
    }
    let (manager, force) = (ctx.manager(), ctx.query.flag("force"));
    let u = rest::update(
        &ctx.core.registry, kind, &ctx.info.namespace_of(kind.namespaced), &ctx.info.name, &o, &hooks,
        |old| {
            let (patch, manager, validation) = (&patch, manager.as_str(), validation.as_str());
            async move {
                let old = match old {
                    Some(v) => Some(convert::outward_one(&ctx.core, v, &ctx.resource).await?),
                    None => None,
                };
                let asked = patch.resource_version();
                let of = |text: fn(&Value) -> &str| old.as_ref().map(|o| text(o).to_owned());
                let (uid, rv) = (of(Value::uid), of(Value::resource_version));
                let (mut v, warnings) = patch.apply(&ctx.resource, old, manager, force, &ctx.info.subresource, validation)?;
                for w in warnings {
                    ctx.warn(w);
                }
                check_version(ctx, &v)?;
                if let Some(uid) = uid
                    && v.uid().is_empty()
                {
                    v.meta_mut().insert("uid".into(), json!(uid));
                }
                // A patch that names no version applies to whatever is there.
                if asked.is_none() {
                    let rv = rv.unwrap_or_default();
                    if rv.is_empty() {
                        v.meta_mut().remove("resourceVersion");
                    } else {
                        v.meta_mut().insert("resourceVersion".into(), json!(rv));
                    }
                }
                convert::inward(&ctx.core, v, &ctx.resource).await
            }
        },
    )
    .await?;
    show(ctx, if u.created { 201 } else { 200 }, &u.entry).await
}

/// Reads the options of a deletion from body and query.
pub(super) fn delete_options(ctx: &Ctx, body: &[u8]) -> Result<DeleteOptions, ApiError> {
    let mut o = DeleteOptions::default();
    if !body.is_empty() {
        let v = bridge::decode_any(&media_type(ctx), body, "v1", "DeleteOptions")?;
        let s = |p: &[&str]| v.at(p).and_then(Value::as_str).map(str::to_owned);
        o.grace = v.at(&["gracePeriodSeconds"]).and_then(Value::as_i64);
        o.uid = s(&["preconditions", "uid"]);
        o.resource_version = s(&["preconditions", "resourceVersion"]);
        o.propagation = s(&["propagationPolicy"]);
        o.orphan = v.at(&["orphanDependents"]).and_then(Value::as_bool);
        o.dry_run = v.list_at(&["dryRun"]).iter().any(|d| d == "All");
    }
    let q = &ctx.query;
    if q.has("gracePeriodSeconds") {
        o.grace = q.get("gracePeriodSeconds").parse().ok();
    }
    if q.has("propagationPolicy") {
        o.propagation = Some(q.get("propagationPolicy").to_owned());
    }
    if q.has("orphanDependents") {
        o.orphan = Some(q.flag("orphanDependents"));
    }
    o.dry_run |= ctx.dry_run()?;
    let bad = |e| Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[e]));
    if let Some(p) = &o.propagation {
        let all = ["Foreground", "Background", "Orphan"];
        if !all.contains(&p.as_str()) {
            return bad(knarr_registry::FieldError::not_supported("propagationPolicy", p.as_str(), &["Background", "Foreground", "Orphan", "nil"]));
        }
        if o.orphan.is_some() {
            return bad(knarr_registry::FieldError::invalid("propagationPolicy", p.as_str(), "orphanDependents and deletionPropagation cannot be both set"));
        }
    }
    Ok(o)
}

pub(super) async fn delete(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let o = delete_options(ctx, &body)?;
    if kind.strategy.orphans_by_default() && ctx.resource.plural == "jobs" && o.propagation.is_none() && o.orphan.is_none() {
        ctx.warn("child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning");
    }
    let hooks = Hooked::new(ctx, Operation::Delete, "", o.dry_run);
    let d = rest::delete(&ctx.core.registry, kind, &ctx.info.namespace_of(kind.namespaced), &ctx.info.name, &o, &hooks).await?;
    match d {
        Deleted::Pending(e) => {
            let code = if o.orphan == Some(false) { 202 } else { 200 };
            show(ctx, code, &e).await
        }
        Deleted::Gone(e) if kind.strategy.returns_deleted() => show(ctx, 200, &e).await,
        Deleted::Gone(e) => {
            let v = e.value();
            let mut details = json!({"name": v.name(), "kind": ctx.resource.plural, "uid": v.uid()});
            if !ctx.resource.group.is_empty() {
                details["group"] = json!(ctx.resource.group);
            }
            let s = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(finish(ctx, respond::object(200, &s, ctx.format)))
        }
    }
}

pub(super) async fn delete_collection(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let o = delete_options(ctx, &body)?;
    let (p, selection) = read::page(ctx).await?;
    let hooks = Hooked::new(ctx, Operation::Delete, "", o.dry_run);
    let mut items = Vec::with_capacity(p.items.len());
    for e in &p.items {
        let shown = convert::outward_one(&ctx.core, e.value(), &ctx.resource).await?;
        if !selection.shows(&ctx.resource, &shown) {
            continue;
        }
        match rest::delete(&ctx.core.registry, kind, &e.namespace, &e.name, &o, &hooks).await {
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        let mut shown = shown;
        if !ctx.resource.is_custom()
            && let Some(m) = shown.as_object_mut()
        {
            m.remove("kind");
            m.remove("apiVersion");
        }
        items.push(shown);
    }
    let r = &ctx.resource;
    let v = json!({"kind": r.list_kind, "apiVersion": r.api_version(), "metadata": {"resourceVersion": p.revision.to_string()}, "items": items});
    Ok(finish(ctx, respond::object(200, &v, ctx.format)))
}
