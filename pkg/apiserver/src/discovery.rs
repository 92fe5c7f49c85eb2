//! What is served, as clients ask for it: plain lists and the aggregated form.

use http::HeaderMap;
use knarr_registry::ApiError;
use knarr_schema::{Catalog, discovery};

use crate::{
    aggregator::{self, Remotes},
    respond::{self, Format, Reply, accepted},
};

/// Serves a discovery path; `None` if it is another one.
pub fn serve(c: &Catalog, remotes: &Remotes, path: &str, headers: &HeaderMap, f: Format, host: &str) -> Option<Result<Reply, ApiError>> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let wants = accepted(headers).into_iter().find_map(|(t, params)| {
        let get = |k: &str| params.iter().find(|(n, _)| n == k).map(|(_, v)| v.clone());
        if get("as").as_deref() == Some("APIGroupDiscoveryList") && get("v").as_deref() == Some("v2") && t == "application/json" {
            return Some(true);
        }
        get("as").is_none().then_some(false)
    });
    let aggregate = wants == Some(true) && matches!(parts.as_slice(), ["api"] | ["apis"]);
    if aggregate {
        let mut v = discovery::aggregated(c, parts == ["api"]);
        if parts == ["apis"] && !remotes.is_empty() {
            aggregator::aggregated(&mut v, remotes);
        }
        let bytes = serde_json::to_vec(&v).unwrap_or_default();
        use sha2::Digest;
        let tag: String = sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02X}")).collect();
        let etag = format!("\"{tag}\"");
        let known = headers.get(http::header::IF_NONE_MATCH).and_then(|h| h.to_str().ok()) == Some(&etag);
        let mut r = if known {
            respond::unchanged()
        } else {
            respond::bytes(200, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", bytes, f.gzip)
        };
        if let Ok(h) = http::HeaderValue::from_str(&etag) {
            r.headers_mut().insert(http::header::ETAG, h);
        }
        r.headers_mut().insert(http::header::VARY, http::HeaderValue::from_static("Accept"));
        return Some(Ok(r));
    }
    let v = match parts.as_slice() {
        ["api"] => Some(discovery::api_versions(host)),
        ["apis"] => {
            let mut v = discovery::group_list(c);
            aggregator::group_list(&mut v, remotes);
            Some(v)
        }
        ["api", v] => discovery::resource_list(c, "", v),
        ["apis", g] => Some(aggregator::group(discovery::group(c, g), g, remotes)?),
        ["apis", g, v] => discovery::resource_list(c, g, v),
        _ => return None,
    };
    Some(v.map(|v| respond::object(200, &v, f)).ok_or_else(ApiError::no_resource))
}
