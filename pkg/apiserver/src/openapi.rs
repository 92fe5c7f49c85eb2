//! `/openapi/v2` and `/openapi/v3`. Documents are written when they are asked for: clients keep
//! them by their tag and rarely ask twice.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use knarr_registry::ApiError;
use knarr_schema::openapi;
use serde_json::Value;

use crate::{
    aggregator::{self, Aggregator},
    core::Table,
    request::Query,
    respond::{self, Format, Reply, accepted},
};

const VERSION: &str = "v1.37.2";

/// The media types of protobuf documents, and the same as older clients write them.
const PROTOBUF: [[&str; 2]; 2] = [
    ["application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"],
    ["application/com.github.proto-openapi.spec.v3.v1.0+protobuf", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"],
];

/// Whether the client takes protobuf rather than JSON; `None` if it takes neither.
fn wants_protobuf(headers: &HeaderMap, forms: &[&str; 2]) -> Option<bool> {
    let mut all = accepted(headers);
    if all.is_empty() {
        return Some(false);
    }
    let quality = |parameters: &[(String, String)]| parameters.iter().find(|p| p.0 == "q").map_or(1.0, |p| p.1.parse().unwrap_or(1.0));
    all.sort_by(|a, b| f64::total_cmp(&quality(&b.1), &quality(&a.1)));
    all.iter().find_map(|(t, _)| match t.as_str() {
        "application/json" | "*/*" | "application/*" | "*/json" => Some(false),
        t if forms.contains(&t) => Some(true),
        _ => None,
    })
}

/// An answer without a body.
fn empty(code: StatusCode) -> Reply {
    let mut r = respond::unchanged();
    *r.status_mut() = code;
    r.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// Serves an OpenAPI path; `None` if it is another one.
pub fn serve(table: &Table, others: &Aggregator, path: &str, query: &Query, headers: &HeaderMap, f: Format) -> Option<Result<Reply, ApiError>> {
    let catalog = &table.catalog;
    let reply = match path {
        "/openapi/v2" => {
            let tag = openapi::etag(catalog, None, VERSION, &aggregator::tag(&others.remotes()));
            document(&tag, 0, headers, f, || {
                let mut v = openapi::v2(catalog, VERSION);
                aggregator::merge_v2(&mut v, &others.remotes());
                Some(v)
            })
        }
        "/openapi/v3" => {
            let mut v = openapi::v3_index(catalog, VERSION);
            aggregator::merge_v3_index(&mut v, &others.remotes());
            // The type that kube-apiserver's aggregator gives it.
            respond::bytes(200, "text/plain; charset=utf-8", serde_json::to_vec(&v).unwrap_or_default(), f.gzip)
        }
        other => {
            let name = other.strip_prefix("/openapi/v3/")?;
            if !openapi::has_v3(catalog, name) {
                return Some(Ok(empty(StatusCode::NOT_FOUND)));
            }
            let tag = openapi::etag(catalog, Some(name), VERSION, "");
            let hash = query.get("hash");
            let moved = !hash.is_empty() && hash != tag;
            let mut r = document(&tag, 1, headers, f, || (!moved).then(|| openapi::v3(catalog, name, VERSION)).flatten());
            if moved && r.status() == StatusCode::MOVED_PERMANENTLY {
                if let Ok(url) = HeaderValue::from_str(&openapi::v3_url(name, &tag)) {
                    r.headers_mut().insert(header::LOCATION, url);
                }
            } else if !hash.is_empty() && !moved && r.status() != StatusCode::NOT_ACCEPTABLE {
                kept(&mut r);
            }
            r
        }
    };
    Some(Ok(reply))
}

/// A document in the form that the client takes, or only the news that it is unchanged; it is
/// elsewhere if it is not made.
fn document(tag: &str, version: usize, headers: &HeaderMap, f: Format, make: impl FnOnce() -> Option<Value>) -> Reply {
    let etag = format!("\"{tag}\"");
    let mut reply = match wants_protobuf(headers, &PROTOBUF[version]) {
        None => empty(StatusCode::NOT_ACCEPTABLE),
        Some(_) if headers.get(header::IF_NONE_MATCH).and_then(|h| h.to_str().ok()) == Some(&etag) => empty(StatusCode::NOT_MODIFIED),
        Some(protobuf) => match make() {
            None => empty(StatusCode::MOVED_PERMANENTLY),
            Some(v) if !protobuf => respond::bytes(200, "application/json", serde_json::to_vec(&v).unwrap_or_default(), f.gzip),
            Some(v) => {
                let encode = if version == 0 { openapi::protobuf::encode_v2 } else { openapi::protobuf::encode_v3 };
                respond::bytes(200, PROTOBUF[version][0], encode(&v), f.gzip)
            }
        },
    };
    if let (Ok(v), true) = (HeaderValue::from_str(&etag), reply.status() != StatusCode::NOT_ACCEPTABLE) {
        reply.headers_mut().insert(header::ETAG, v);
    }
    reply.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    reply
}

/// Lets the client keep what it got under an address that changes with it.
fn kept(r: &mut Reply) {
    r.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    let until = chrono::Utc::now() + chrono::Duration::days(365);
    if let Ok(v) = HeaderValue::from_str(&until.format("%a, %d %b %Y %H:%M:%S UTC").to_string()) {
        r.headers_mut().insert(header::EXPIRES, v);
    }
}
