//! Strategic merge, server-side apply and field ownership, by the schema.

use knarr_registry::ApiError;
use knarr_schema::{Resource, apply as ssa};
use serde_json::Value;

use super::normalize;

/// Strategic merge.
pub(super) fn strategic(r: &Resource, v: &mut Value, p: &Value) -> Result<(), ApiError> {
    let Some(ty) = r.ty else {
        return Err(ApiError::new(415, "UnsupportedMediaType", "strategic merge patch is not supported for custom resources"));
    };
    knarr_schema::patch::strategic(v, p.clone(), ty).map_err(|e| super::patch::error(&e))
}

/// Fields that a write through this endpoint does not own.
fn reset(r: &Resource, sub: &str) -> &'static [&'static str] {
    let keeps = |group: &str, plural: &str| knarr_registry::strategy::status_keeps(group, plural);
    match sub {
        "status" => match keeps(&r.group, &r.plural) {
            [] => &["spec"],
            [_] => &["spec", "metadata.labels"],
            _ => &["spec", "metadata"],
        },
        "" if r.group == "certificates.k8s.io" && r.plural == "certificatesigningrequests" => &["spec", "status"],
        "" if r.subresource("status").is_some() => &["status"],
        _ => &[],
    }
}

/// Server-side apply.
pub(super) fn apply(r: &Resource, old: Option<&Value>, v: &Value, manager: &str, force: bool, sub: &str, validation: &str) -> Result<(Value, Vec<String>), ApiError> {
    let api_version = r.api_version();
    // What the client writes is checked before it is merged.
    let (_, warnings) = super::checked(r, v, validation)?;
    let writer = ssa::Writer { manager, api_version: &api_version, subresource: sub, reset: reset(r, sub), now: knarr_schema::time::now(), schema: r.schema.as_deref() };
    let merged = ssa::apply(old, v, r.ty, &writer, force).map_err(|e| match e {
        ssa::Error::Conflict(s) => super::status(*s),
        ssa::Error::Invalid(m) => ApiError::bad_request(m),
    })?;
    if super::is_normal(r, &merged) {
        let mut out = merged;
        super::default(r, &mut out);
        return Ok((out, warnings));
    }
    let (out, _) = normalize(r, &merged, "Ignore")?;
    Ok((out, warnings))
}

/// Field ownership.
pub(super) fn track(r: &Resource, obj: &mut Value, old: Option<&Value>, manager: &str, sub: &str) {
    let api_version = r.api_version();
    let writer = ssa::Writer { manager, api_version: &api_version, subresource: sub, reset: reset(r, sub), now: knarr_schema::time::now(), schema: r.schema.as_deref() };
    // What is made is compared with an object of which nothing is set but what is always there.
    let empty = Value::Object(r.ty.map(knarr_schema::json::empty).unwrap_or_default());
    ssa::track(Some(old.unwrap_or(&empty)), obj, r.ty, &writer);
}
