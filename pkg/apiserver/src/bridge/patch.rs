//! The four kinds of patches, and who owns which fields.

use knarr_registry::{ApiError, Object};
use knarr_schema::{Resource, json::value, patch, yaml};
use serde_json::Value;

use super::normalize;

/// A patch that was read but not applied.
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Strategic merge.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// Turns what the schema says of a patch into an answer.
pub(super) fn error(e: &patch::Error) -> ApiError {
    match e {
        patch::Error::Malformed(m) => ApiError::bad_request(m.clone()),
        patch::Error::Unprocessable(m) => {
            tracing::debug!(why = m, "a patch does not fit");
            let mut e = ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
            e.details = Some(Box::default());
            e
        }
    }
}

impl Patch {
    /// Reads a patch of a row's object.
    ///
    /// # Errors
    /// 400 or 415.
    pub fn parse(r: &Resource, media: &str, body: &[u8]) -> Result<Self, ApiError> {
        let bad = |e: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {e}"));
        Ok(match media {
            "application/json-patch+json" => Self::Json(value(body).map_err(bad)?),
            "application/merge-patch+json" => Self::Merge(object(value(body).map_err(|_| ApiError::bad_request("invalid JSON patch"))?)?),
            "application/strategic-merge-patch+json" if !r.is_custom() => Self::Strategic(object(value(body).map_err(bad)?)?),
            "application/apply-patch+yaml" => Self::Apply(object(yaml::parse(body).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?)?),
            _ => {
                let mut e = ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
                e.details = Some(Box::default());
                return Err(e);
            }
        })
    }

    /// Reads a patch of a body without a row (scale).
    ///
    /// # Errors
    /// 400 or 415.
    pub fn parse_untyped(media: &str, body: &[u8]) -> Result<Self, ApiError> {
        let media = if media == "application/strategic-merge-patch+json" { "application/merge-patch+json" } else { media };
        Self::parse(&Resource::default(), media, body)
    }

    /// Whether it is server-side apply.
    #[must_use]
    pub fn is_apply(&self) -> bool {
        matches!(self, Self::Apply(_))
    }

    /// The version the patch insists on.
    #[must_use]
    pub fn resource_version(&self) -> Option<String> {
        match self {
            Self::Json(ops) => ops.as_array()?.iter().find(|o| o.str_at(&["path"]) == "/metadata/resourceVersion" && o.str_at(&["op"]) != "test").map(|o| o.str_at(&["value"]).to_owned()),
            Self::Merge(v) | Self::Strategic(v) | Self::Apply(v) => Some(v.resource_version().to_owned()).filter(|s| !s.is_empty()),
        }
    }

    /// Applies the patch to an object of the row's version.
    ///
    /// # Errors
    /// The answer for the client.
    pub fn apply(&self, r: &Resource, old: Option<Value>, manager: &str, force: bool, sub: &str, validation: &str) -> Result<(Value, Vec<String>), ApiError> {
        if let Self::Apply(v) = self {
            return super::apply::apply(r, old.as_ref(), v, manager, force, sub, validation);
        }
        let Some(mut v) = old else { return Err(ApiError::no_resource()) };
        match self {
            Self::Json(ops) => patch::json(&mut v, ops).map_err(|e| error(&e))?,
            Self::Merge(p) => patch::merge(&mut v, p),
            Self::Strategic(p) => super::apply::strategic(r, &mut v, p)?,
            Self::Apply(_) => {}
        }
        if super::is_normal(r, &v) {
            super::default(r, &mut v);
            return Ok((v, Vec::new()));
        }
        let (v, mut warnings) = normalize(r, &v, validation).map_err(|e| {
            if validation == "Strict" || r.is_custom() {
                return e;
            }
            ApiError::invalid("", "", "", &[knarr_registry::FieldError::invalid("patch", v.to_string(), e.message)])
        })?;
        // What the object already had is not the patch's fault.
        warnings.dedup();
        Ok((v, warnings))
    }

    /// Applies the patch to a body without a row.
    ///
    /// # Errors
    /// The answer for the client.
    pub fn apply_untyped(&self, old: &Value) -> Result<Value, ApiError> {
        let mut v = old.clone();
        match self {
            Self::Json(ops) => patch::json(&mut v, ops).map_err(|e| error(&e))?,
            Self::Merge(p) | Self::Strategic(p) | Self::Apply(p) => {
                v.meta_mut().remove("resourceVersion");
                patch::merge(&mut v, p);
            }
        }
        Ok(v)
    }
}

fn object(v: Value) -> Result<Value, ApiError> {
    if v.is_object() { Ok(v) } else { Err(ApiError::bad_request("error decoding patch: it is no object")) }
}

/// Records who wrote which fields in `metadata.managedFields`.
pub fn track(r: &Resource, obj: &mut Value, old: Option<&Value>, manager: &str, sub: &str) {
    super::apply::track(r, obj, old, manager, sub);
}
