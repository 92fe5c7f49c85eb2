//! The one generic path: from a row and a verb to an answer.

pub mod connect;
mod convert;
pub(crate) mod items;
mod links;
mod read;
mod review;
mod sub;
mod watch;
mod write;

use std::sync::Arc;

use knarr_registry::{ApiError, Entry};
use knarr_streaming::OutputSocket;
use serde_json::{Value, json};

use crate::{
    bridge,
    core::Ctx,
    respond::{self, Body, Encoding, Reply, View},
};

pub use write::{Hooked, decode_body};

/// The most a request's body may be.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Reads a request's body.
///
/// # Errors
/// 413 if it is too large, 400 if it breaks off.
pub async fn read_body(body: Body) -> Result<bytes::Bytes, ApiError> {
    use http_body_util::BodyExt;
    http_body_util::Limited::new(body, BODY_LIMIT)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|e| {
            if e.downcast_ref::<http_body_util::LengthLimitError>().is_some() {
                ApiError::new(413, "RequestEntityTooLarge", format!("Request entity is too large: limit is {BODY_LIMIT}"))
            } else {
                ApiError::bad_request(format!("the body cannot be read: {e}"))
            }
        })
}

/// Serves a request for a resource.
///
/// # Errors
/// The answer for the client.
pub fn resource(ctx: Arc<Ctx>, request: http::Request<Body>) -> futures::future::BoxFuture<'static, Result<Reply, ApiError>> {
    Box::pin(async move {
        let read = ctx.info.verb == "watch" || ctx.info.subresource == "log";
        let mut request = request;
        match read.then(|| OutputSocket::take(&mut request)).flatten() {
            None => dispatch(&ctx, request).await,
            Some(socket) => {
                let socket = socket.map_err(|e| ApiError::bad_request(e.to_string()))?;
                let answer = dispatch(&ctx, request).await?;
                if answer.status() != http::StatusCode::OK {
                    return Ok(answer);
                }
                let json = answer.headers().get(http::header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
                Ok(socket.answer(answer.into_body(), json, respond::full("")))
            }
        }
    })
}

/// Built-in resources that are going, with since when and for what.
const DEPRECATED: &[(&str, &str)] = &[
    ("endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ("componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
];

async fn dispatch(ctx: &Arc<Ctx>, request: http::Request<Body>) -> Result<Reply, ApiError> {
    if ctx.resource.group.is_empty()
        && let Some((_, text)) = DEPRECATED.iter().find(|(r, _)| *r == ctx.resource.plural)
    {
        ctx.warn(*text);
    }
    let verb = ctx.info.verb.as_str();
    let sub = ctx.info.subresource.as_str();
    if sub.is_empty() {
        let named = !ctx.info.name.is_empty();
        if !ctx.resource.allows(verb) || (named && verb == "create") || (!named && matches!(verb, "update" | "patch")) {
            return Err(ApiError::method_not_allowed());
        }
        if ctx.resource.key_prefix.is_empty() {
            return review::serve(ctx, read_body(request.into_body()).await?).await;
        }
    } else {
        let Some(s) = ctx.resource.subresource(sub) else { return Err(ApiError::no_resource()) };
        let open = matches!(sub, "proxy" | "exec" | "attach" | "portforward");
        if !open && !s.verbs.iter().any(|v| v == verb) {
            return Err(ApiError::method_not_allowed());
        }
        if open || sub == "log" {
            return connect::serve(ctx, request).await;
        }
        if sub != "status" {
            return sub::serve(ctx, read_body(request.into_body()).await?).await;
        }
    }
    match verb {
        "get" => read::get(ctx).await,
        "list" => read::list(ctx).await,
        "watch" => watch::watch(ctx).await,
        "create" => write::create(ctx, read_body(request.into_body()).await?).await,
        "update" => write::update(ctx, read_body(request.into_body()).await?).await,
        "patch" => write::patch(ctx, read_body(request.into_body()).await?).await,
        "delete" => write::delete(ctx, read_body(request.into_body()).await?).await,
        "deletecollection" => write::delete_collection(ctx, read_body(request.into_body()).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The answer that shows one stored object.
pub async fn show(ctx: &Ctx, code: u16, entry: &Entry) -> Result<Reply, ApiError> {
    let f = ctx.format;
    if f.view == View::Full && f.encoding == Encoding::Json && !f.pretty && bridge::same_version(&ctx.resource) {
        return Ok(finish(ctx, respond::bytes(code, "application/json", entry.json().clone(), f.gzip)));
    }
    show_value(ctx, code, &convert::outward_one(&ctx.core, entry.value(), &ctx.resource).await?)
}

/// The answer that shows one object of the row's version.
pub fn show_value(ctx: &Ctx, code: u16, v: &Value) -> Result<Reply, ApiError> {
    show_value_of(ctx, &ctx.resource, code, v)
}

/// The answer that shows an object of another row.
fn show_value_of(ctx: &Ctx, row: &knarr_schema::Resource, code: u16, v: &Value) -> Result<Reply, ApiError> {
    let r = match ctx.format.view {
        View::Full => respond::object(code, v, ctx.format),
        View::Table => {
            let meta = json!({"resourceVersion": v["metadata"]["resourceVersion"]});
            respond::object(code, &bridge::table(row, &[v], ctx.query.get("includeObject"), meta, true)?, ctx.format)
        }
        View::Partial => respond::object(code, &partial(v), ctx.format),
    };
    Ok(finish(ctx, r))
}

/// Only what says which object it is.
#[must_use]
pub fn partial(v: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": v["metadata"]})
}

/// Adds what every answer carries.
fn finish(ctx: &Ctx, mut r: Reply) -> Reply {
    if let Ok(w) = ctx.warnings.lock() {
        respond::warn(&mut r, &w);
    }
    r
}
