//! Between the server and the schema: decoding, versions, defaults, patches, field ownership,
//! tables. The only module that knows how `knarr_schema` spells these things.

mod apply;
mod custom;
mod patch;
mod version;

use std::sync::Arc;

use bytes::Bytes;
use knarr_registry::{ApiError, Codec, Encoded, Object};
use knarr_schema::{Resource, defaults, json as schema_json, proto, selector, table};
use serde_json::{Value, json};

pub use patch::{Patch, track};
pub use version::{inward, outward, same_version, stored_field};

/// Turns what the schema says went wrong into an answer.
fn status(s: knarr_schema::Status) -> ApiError {
    let reason: &'static str = match s.reason.as_str() {
        "BadRequest" => "BadRequest",
        "Conflict" => "Conflict",
        "Invalid" => "Invalid",
        _ => "InternalError",
    };
    let mut e = ApiError::new(s.code, reason, s.message);
    e.details = Some(Box::new(knarr_registry::error::Details {
        name: s.name,
        group: s.group,
        kind: s.kind,
        uid: s.uid,
        causes: s
            .causes
            .into_iter()
            .map(|c| knarr_registry::error::Cause { reason: c.reason, message: c.message, field: c.field })
            .collect(),
        retry_after: s.retry_after,
    }));
    e
}

/// Stored bytes of one resource.
pub struct ObjectCodec {
    row: Arc<Resource>,
}

impl ObjectCodec {
    /// For a row; objects in memory have its version.
    #[must_use]
    pub fn new(row: Arc<Resource>) -> Self {
        Self { row }
    }

    fn stored(&self, obj: &mut Value) -> Result<Encoded, String> {
        if self.row.is_custom() {
            let bytes = serde_json::to_vec(obj).map_err(|e| e.to_string())?;
            return Ok(Encoded { bytes: Bytes::from(bytes.into_boxed_slice()), exact: true });
        }
        // As who reads it does.
        default(&self.row, obj);
        // It is kept for long: without the room that it grew into.
        let bytes = Bytes::from(proto::encode_object(obj).map_err(|e| e.to_string())?.into_boxed_slice());
        let own = obj.str_at(&["apiVersion"]) == self.row.api_version() && obj.str_at(&["kind"]) == self.row.kind;
        let exact = own && is_normal(&self.row, obj);
        debug_assert!(!exact || self.decode(&bytes).as_ref() == Ok(obj), "{obj} is not read back as it is");
        Ok(Encoded { bytes, exact })
    }
}

impl Codec for ObjectCodec {
    fn decode(&self, stored: &[u8]) -> Result<Value, String> {
        let mut v = if stored.starts_with(&proto::MAGIC) {
            let e = proto::envelope(stored).map_err(|e| e.to_string())?;
            // The stored version may be one that is not served; its fields are those of the row.
            let ty = self.row.ty.ok_or("protobuf of a custom resource")?;
            let map = proto::decode(e.raw, ty).map_err(|e| e.to_string())?;
            Value::Object(map)
        } else {
            schema_json::value(stored).map_err(|e| e.to_string())?
        };
        if !self.row.is_custom() {
            v["apiVersion"] = json!(self.row.api_version());
            v["kind"] = json!(self.row.kind);
            // Who wrote it may have known fewer fields.
            default(&self.row, &mut v);
        }
        Ok(v)
    }
    fn encode(&self, obj: &mut Value) -> Result<Encoded, String> {
        let version = obj.meta_mut().remove("resourceVersion");
        let encoded = self.stored(obj);
        if let Some(version) = version {
            obj.meta_mut().insert("resourceVersion".into(), version);
        }
        encoded
    }
    fn fields(&self, obj: &Value) -> Vec<(String, String)> {
        self.row
            .selectable_fields
            .iter()
            .map(|f| (f.to_string(), selector::field_value(&self.row, obj, f)))
            .collect()
    }
}

/// The protobuf form of an object, if its kind has one.
#[must_use]
pub fn protobuf(v: &Value) -> Option<Bytes> {
    proto::encode_object(v).ok().map(Bytes::from)
}

/// Whether objects of a row have a protobuf form.
#[must_use]
pub fn can_protobuf(r: &Resource) -> bool {
    r.ty.is_some()
}

/// A frame of a protobuf watch.
#[must_use]
pub fn protobuf_frame(kind: &str, v: &Value) -> Option<Bytes> {
    let o = proto::encode_object(v).ok()?;
    Some(proto::watch_frame(kind, &o).freeze())
}

const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

fn unsupported() -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!("the body of the request was in an unknown format - accepted media types include: {}", MEDIA.join(", ")),
    )
}

/// YAML to JSON text, with YAML's own complaint about duplicate keys.
fn yaml(body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let v = knarr_schema::yaml::parse(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    serde_json::to_vec(&v).map_err(|e| ApiError::bad_request(e.to_string()))
}

/// Decodes a body as an object of a row, with field validation, and fills in the defaults.
/// Returns the object in the row's version and warnings.
///
/// # Errors
/// 400 or 415.
pub fn decode(r: &Resource, media: &str, body: &[u8], validation: &str) -> Result<(Value, Vec<String>), ApiError> {
    let mode = schema_json::FieldValidation::parse(validation).map_err(|e| {
        let _ = e;
        ApiError::invalid("meta.k8s.io", "CreateOptions", "", &[knarr_registry::FieldError::not_supported(
            "fieldValidation", validation, &["Ignore", "Strict", "Warn"])])
    })?;
    let decoded = match media {
        "application/json" | "" => typed(r, body, mode)?,
        "application/yaml" | "text/yaml" => typed(r, &yaml(body)?, mode)?,
        "application/vnd.kubernetes.protobuf" if !r.is_custom() => {
            let v = proto::decode_object(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            (v, Vec::new())
        }
        _ => return Err(unsupported()),
    };
    let (mut v, warnings) = decoded;
    default(r, &mut v);
    Ok((v, warnings))
}

/// The beginning of a body, as an error shows it.
fn shown(body: &[u8]) -> String {
    let more = if body.len() > 30 { " ..." } else { "" };
    let begin = body.get(..30).unwrap_or(body);
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(begin)),
        Some(_) => format!("{}{more}", begin.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Why a body cannot be read.
fn unread(r: &Resource, body: &[u8], prefix: &str, e: schema_json::Error) -> ApiError {
    ApiError::bad_request(match e {
        schema_json::Error::Syntax(why) => {
            format!("the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} ({})", r.kind, shown(body))
        }
        other => format!("{prefix}{other}"),
    })
}

fn typed(r: &Resource, body: &[u8], mode: schema_json::FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
    let prefix = format!("{} in version {:?} cannot be handled as a {}: ", r.kind, r.version, r.kind);
    if r.is_custom() {
        let d = schema_json::decode(body, None, if mode == schema_json::FieldValidation::Strict { schema_json::FieldValidation::Warn } else { mode })
            .map_err(|e| unread(r, body, &prefix, e))?;
        let mut v = d.object;
        let warnings = custom::coerce(r, &mut v, d.warnings, mode).map_err(|m| ApiError::bad_request(format!("{prefix}{m}")))?;
        return Ok((v, warnings));
    }
    let d = schema_json::decode(body, r.ty, mode).map_err(|e| unread(r, body, &prefix, e))?;
    let mut v = d.object;
    if !v.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized (must be of type ".to_owned() + &r.kind + "): it is no JSON object"));
    }
    if v.str_at(&["apiVersion"]).is_empty() {
        v["apiVersion"] = json!(r.api_version());
    }
    if v.str_at(&["kind"]).is_empty() {
        v["kind"] = json!(r.kind);
    }
    Ok((v, d.warnings))
}

/// Whether a value is in normal form, so that [`normalize`] would only fill in defaults. `false` says
/// nothing.
fn is_normal(r: &Resource, v: &Value) -> bool {
    r.ty.is_some_and(|ty| v.as_object().is_some_and(|o| proto::is_steady(o, ty)))
}

/// Brings a value that was built here (by a patch) into normal form, with field validation.
///
/// # Errors
/// 400.
pub fn normalize(r: &Resource, v: &Value, validation: &str) -> Result<(Value, Vec<String>), ApiError> {
    let mode = schema_json::FieldValidation::parse(validation).unwrap_or_default();
    if r.is_custom() {
        let mut v = v.clone();
        let warnings = custom::coerce(r, &mut v, Vec::new(), mode).map_err(ApiError::bad_request)?;
        default(r, &mut v);
        return Ok((v, warnings));
    }
    let d = schema_json::normalize(v, r.ty, mode).map_err(|e| match e {
        schema_json::Error::Strict(_) => ApiError::new(400, "BadRequest", format!("error decoding patch: {e}").replace("error decoding patch: ", "")),
        other => ApiError::bad_request(other.to_string()),
    })?;
    let mut v = d.object;
    default(r, &mut v);
    Ok((v, d.warnings))
}

/// Checks the fields of a configuration without filling anything in.
///
/// # Errors
/// 400.
pub fn checked(r: &Resource, v: &Value, validation: &str) -> Result<(Value, Vec<String>), ApiError> {
    let mode = schema_json::FieldValidation::parse(validation).unwrap_or_default();
    let d = schema_json::normalize(v, r.ty, mode).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok((d.object, d.warnings))
}

/// Decodes a body of a kind that is no row (options, subresource bodies).
///
/// # Errors
/// 400 or 415.
pub fn decode_any(media: &str, body: &[u8], api_version: &str, kind: &str) -> Result<Value, ApiError> {
    let bad = |e: &dyn std::fmt::Display| ApiError::bad_request(format!("{kind} cannot be read: {e}"));
    let mut v: Value = match media {
        "application/json" | "" => schema_json::value(body).map_err(|e| bad(&e))?,
        "application/yaml" | "text/yaml" => schema_json::value(&yaml(body)?).map_err(|e| bad(&e))?,
        "application/vnd.kubernetes.protobuf" => {
            let e = proto::envelope(body).map_err(|e| bad(&e))?;
            let ty = proto::type_of(api_version, kind).ok_or_else(|| bad(&"unknown kind"))?;
            Value::Object(proto::decode(e.raw, ty).map_err(|e| bad(&e))?)
        }
        _ => return Err(unsupported()),
    };
    if !v.is_object() {
        return Err(bad(&"no object"));
    }
    if v.str_at(&["apiVersion"]).is_empty() {
        v["apiVersion"] = json!(api_version);
    }
    if v.str_at(&["kind"]).is_empty() {
        v["kind"] = json!(kind);
    }
    Ok(v)
}

/// Fills in the defaults of a row's version.
pub fn default(r: &Resource, v: &mut Value) {
    if let Some(ty) = r.ty {
        defaults::apply(v, ty);
        version::fill(v, r);
    } else if let Some(schema) = &r.schema {
        knarr_schema::structural::default(v, schema);
    }
}

/// A table for people; `meta` is the list's metadata, `headers` is false after a watch's first event.
///
/// # Errors
/// 400 for an unknown `includeObject`.
pub fn table(r: &Resource, items: &[&Value], include: &str, meta: Value, headers: bool) -> Result<Value, ApiError> {
    let include = table::IncludeObject::parse(include)
        .ok_or_else(|| ApiError::bad_request(format!("unrecognized includeObject value: {include:?}")))?;
    Ok(table::table(r, items, meta, include, headers, knarr_schema::time::now()))
}
