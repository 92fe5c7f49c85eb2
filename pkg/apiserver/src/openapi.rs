//! `/openapi/v2` and `/openapi/v3`. Documents are written when they are asked for: clients keep
//! them by their tag and rarely ask twice.

use http::{HeaderMap, HeaderValue, header};
use knarr_registry::ApiError;
use knarr_schema::openapi;

use crate::{
    aggregator::{self, Aggregator},
    core::Table,
    respond::{self, Format, Reply, accepted},
};

const VERSION: &str = "v1.37.2";

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same, as older clients write it.
const PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Whether the client takes protobuf rather than JSON; `None` if it takes neither.
fn wants_protobuf(headers: &HeaderMap, document: &str) -> Option<bool> {
    let all = accepted(headers);
    if all.is_empty() {
        return Some(false);
    }
    all.iter().find_map(|(t, _)| match t.as_str() {
        "application/json" | "*/*" | "application/*" => Some(false),
        PROTOBUF | PROTOBUF_OLD if document == "v2" => Some(true),
        _ => None,
    })
}

/// Serves an OpenAPI path; `None` if it is another one.
pub fn serve(table: &Table, others: &Aggregator, path: &str, headers: &HeaderMap, f: Format) -> Option<Result<Reply, ApiError>> {
    let rest = path.strip_prefix("/openapi/")?.trim_end_matches('/');
    let tag = openapi::etag(VERSION, (others.generation() << 32) + table.generation);
    let etag = format!("\"{tag}\"");
    let Some(protobuf) = wants_protobuf(headers, rest) else {
        return Some(Err(ApiError::new(406, "NotAcceptable", "only the following media types are accepted: application/json, application/com.github.proto-openapi.spec.v2.v1.0+protobuf")));
    };
    if headers.get(header::IF_NONE_MATCH).and_then(|h| h.to_str().ok()) == Some(&etag) {
        return Some(Ok(tagged(respond::unchanged(), &etag)));
    }
    let catalog = &table.catalog;
    let v = match rest {
        "v2" => {
            let mut v = openapi::v2(catalog, VERSION);
            aggregator::merge_v2(&mut v, &others.remotes());
            v
        }
        "v3" => {
            let mut v = openapi::v3_index(catalog, |_| tag.clone());
            aggregator::merge_v3_index(&mut v, &others.remotes());
            v
        }
        other => match other.strip_prefix("v3/").and_then(|p| openapi::v3(catalog, p, VERSION)) {
            Some(v) => v,
            None => return Some(Err(ApiError::no_resource())),
        },
    };
    if protobuf {
        return Some(Ok(tagged(respond::bytes(200, PROTOBUF, openapi::protobuf::encode(&v), f.gzip), &etag)));
    }
    let bytes = serde_json::to_vec(&v).unwrap_or_default();
    Some(Ok(tagged(respond::bytes(200, "application/json", bytes, f.gzip), &etag)))
}

fn tagged(mut r: Reply, etag: &str) -> Reply {
    if let Ok(v) = HeaderValue::from_str(etag) {
        r.headers_mut().insert(header::ETAG, v);
    }
    r.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    r
}
