//! `/openapi/v2` and `/openapi/v3`.

use http::HeaderMap;
use knarr_registry::ApiError;
use knarr_schema::Catalog;

use crate::{request::Query, respond::{Format, Reply}};

/// Serves an OpenAPI path; `None` if it is another one.
pub fn serve(c: &Catalog, path: &str, query: &Query, headers: &HeaderMap, f: Format) -> Option<Result<Reply, ApiError>> {
    if !path.starts_with("/openapi/") {
        return None;
    }
    let _ = (c, query, headers, f);
    Some(Err(ApiError::no_resource()))
}
