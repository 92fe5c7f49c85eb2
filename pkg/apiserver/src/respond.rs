//! Answers: content negotiation, encodings, statuses.

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use knarr_registry::ApiError;
use serde_json::Value;

use crate::{bridge, serve::items::Items};

/// What went wrong while a body was read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub String);
/// The body of every answer (and of every request, once it is inside).
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// An answer.
pub type Reply = Response<Body>;

/// Bodies above this many bytes are compressed for clients that ask for it.
const GZIP_FROM: usize = 128 * 1024;

/// The outer form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// What of an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum View {
    /// All of it.
    #[default]
    Full,
    /// A table for people.
    Table,
    /// Only its metadata.
    Partial,
}

/// The form a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Format {
    /// Encoding.
    pub encoding: Encoding,
    /// View.
    pub view: View,
    /// Indented.
    pub pretty: bool,
    /// Whether the client takes gzip.
    pub gzip: bool,
}

/// One media type of an `Accept` header with its parameters.
pub fn accepted(headers: &HeaderMap) -> Vec<(String, Vec<(String, String)>)> {
    let mut out = Vec::new();
    for h in headers.get_all(header::ACCEPT) {
        for part in h.to_str().unwrap_or("").split(',') {
            let mut it = part.split(';').map(str::trim);
            let t = it.next().unwrap_or("").to_lowercase();
            if t.is_empty() {
                continue;
            }
            let params = it
                .filter_map(|p| {
                    p.split_once('=')
                        .map(|(k, v)| (k.trim().to_lowercase(), v.trim().to_owned()))
                })
                .collect();
            out.push((t, params));
        }
    }
    out
}

/// Chooses the form of the answer.
///
/// # Errors
/// 406 if nothing the client takes can be made.
pub fn negotiate(headers: &HeaderMap, pretty: &str, views: bool) -> Result<Format, ApiError> {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let mut f = Format {
        pretty: match pretty {
            "" => {
                agent.starts_with("curl")
                    || agent.starts_with("Wget")
                    || agent.starts_with("Mozilla/5.0")
            }
            p => !matches!(p, "0" | "false"),
        },
        gzip: headers
            .get(header::ACCEPT_ENCODING)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.contains("gzip")),
        ..Format::default()
    };
    let all = accepted(headers);
    if all.is_empty() {
        return Ok(f);
    }
    for (t, params) in &all {
        let get = |k: &str| params.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
        f.encoding = match t.as_str() {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
            _ => continue,
        };
        f.view = match get("as") {
            None => View::Full,
            Some("Table")
                if views
                    && get("g") == Some("meta.k8s.io")
                    && matches!(get("v"), Some("v1" | "v1beta1")) =>
            {
                View::Table
            }
            Some("PartialObjectMetadata" | "PartialObjectMetadataList")
                if views
                    && get("g") == Some("meta.k8s.io")
                    && matches!(get("v"), Some("v1" | "v1beta1")) =>
            {
                View::Partial
            }
            Some(_) => continue,
        };
        // Tables and messages that have no protobuf form of ours are answered in JSON.
        return Ok(f);
    }
    Err(ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    ))
}

/// A body of bytes that are there.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|e| match e {})
        .boxed_unsync()
}

/// The beginning of every answer that has a body.
fn headed(code: u16, content_type: &'static str) -> Reply {
    let mut r = Response::new(Body::default());
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let h = r.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    h.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    r
}

/// Says that the body is compressed.
fn compressed(h: &mut HeaderMap) {
    h.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    h.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// An answer of bytes.
#[must_use]
pub fn bytes(code: u16, content_type: &'static str, bytes: impl Into<Bytes>, gzip: bool) -> Reply {
    let bytes: Bytes = bytes.into();
    let mut r = headed(code, content_type);
    let h = r.headers_mut();
    let body = if gzip && bytes.len() > GZIP_FROM {
        let mut w = flate2::write::GzEncoder::new(
            Vec::with_capacity(bytes.len() / 8),
            flate2::Compression::fast(),
        );
        match w.write_all(&bytes).and_then(|()| w.finish()) {
            Ok(z) => {
                compressed(h);
                Bytes::from(z)
            }
            Err(_) => bytes,
        }
    } else {
        bytes
    };
    h.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *r.body_mut() = full(body);
    r
}

/// An answer of a list in JSON.
#[must_use]
pub(crate) fn items(list: Items, gzip: bool) -> Reply {
    let mut r = headed(200, "application/json");
    let size = list.size();
    if gzip && size > GZIP_FROM as u64 {
        let z = list.gzip().unwrap_or_default();
        compressed(r.headers_mut());
        r.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(z.len()));
        *r.body_mut() = full(z);
        return r;
    }
    r.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    *r.body_mut() = list.boxed_unsync();
    r
}

/// 304, without headers that would replace those the client has kept.
#[must_use]
pub fn unchanged() -> Reply {
    let mut r = Response::new(Body::default());
    *r.status_mut() = StatusCode::NOT_MODIFIED;
    r
}

/// An answer of plain text.
#[must_use]
pub fn text(code: u16, s: impl Into<String>) -> Reply {
    bytes(
        code,
        "text/plain; charset=utf-8",
        s.into().into_bytes(),
        false,
    )
}

/// An answer of an object in the wanted encoding.
#[must_use]
pub fn object(code: u16, v: &Value, f: Format) -> Reply {
    match f.encoding {
        Encoding::Protobuf => match bridge::protobuf(v) {
            Some(b) => bytes(code, "application/vnd.kubernetes.protobuf", b, f.gzip),
            None => json(code, v, f),
        },
        Encoding::Yaml => bytes(
            code,
            "application/yaml",
            knarr_schema::yaml::encode(v),
            f.gzip,
        ),
        Encoding::Json => json(code, v, f),
    }
}

fn json(code: u16, v: &Value, f: Format) -> Reply {
    let out = if f.pretty {
        serde_json::to_vec_pretty(v)
    } else {
        serde_json::to_vec(v)
    };
    let mut out = out.unwrap_or_default();
    out.push(b'\n');
    bytes(code, "application/json", out, f.gzip)
}

/// The answer to a failed request.
#[must_use]
pub fn error(e: &ApiError, f: Format) -> Reply {
    let f = Format {
        view: View::Full,
        ..f
    };
    let mut r = object(e.code, &e.status(), f);
    if let Some(d) = &e.details
        && d.retry_after > 0
    {
        r.headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(d.retry_after));
    }
    r
}

/// The answer to a request that there is no room for; its client may come again after as many
/// seconds.
#[must_use]
pub fn too_many(after: u64) -> Reply {
    let mut r = text(429, "Too many requests, please try again later.\n");
    let h = r.headers_mut();
    h.insert(header::RETRY_AFTER, HeaderValue::from(after));
    h.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    r
}

/// Adds `Warning` headers.
pub fn warn(r: &mut Reply, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    for w in warnings {
        if seen.contains(&w) {
            continue;
        }
        seen.push(w);
        let mut clean: String = w.chars().filter(|c| !c.is_control()).collect();
        clean = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(v) = HeaderValue::from_bytes(format!("299 - \"{clean}\"").as_bytes()) {
            r.headers_mut().append(header::WARNING, v);
        }
    }
}
