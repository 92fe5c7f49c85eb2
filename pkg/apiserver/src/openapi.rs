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

/// Serves an OpenAPI path; `None` if it is another one.
pub fn serve(table: &Table, others: &Aggregator, path: &str, headers: &HeaderMap, f: Format) -> Option<Result<Reply, ApiError>> {
    let rest = path.strip_prefix("/openapi/")?.trim_end_matches('/');
    let tag = openapi::etag(VERSION, (others.generation() << 32) + table.generation);
    let etag = format!("\"{tag}\"");
    let all = accepted(headers);
    let wants_json = all.is_empty() || all.iter().any(|(t, _)| matches!(t.as_str(), "application/json" | "*/*" | "application/*"));
    if !wants_json {
        return Some(Err(ApiError::new(406, "NotAcceptable", "only the following media types are accepted: application/json")));
    }
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
