//! The form of custom resources: known metadata, and of the rest what the schema knows.

use knarr_schema::{Resource, json as schema_json, structural, types::types};
use schema_json::FieldValidation;
use serde_json::{Value, json};

/// Brings an object into form: metadata is what every object has, unknown fields go. Returns the
/// warnings, `before` included.
///
/// # Errors
/// The sentence for the client.
pub(super) fn coerce(r: &Resource, v: &mut Value, before: Vec<String>, mode: FieldValidation) -> Result<Vec<String>, String> {
    let Some(map) = v.as_object_mut() else {
        return Err("the object provided is unrecognized: it is no JSON object".into());
    };
    for (key, value) in [("apiVersion", r.api_version()), ("kind", r.kind.to_string())] {
        match map.get(key) {
            None | Some(Value::Null) => {
                map.insert(key.into(), json!(value));
            }
            Some(Value::String(s)) if s.is_empty() => {
                map.insert(key.into(), json!(value));
            }
            Some(Value::String(_)) => {}
            Some(_) => return Err(format!("{key} is no string")),
        }
    }
    let mut odd = before;
    metadata(v, "metadata", mode, &mut odd)?;
    if let Some(schema) = &r.schema {
        embedded(v, schema, "", mode, &mut odd, 0)?;
        if !r.preserve_unknown {
            odd.extend(structural::prune(v, schema));
        }
    }
    match mode {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !odd.is_empty() => Err(format!("strict decoding error: {}", odd.join(", "))),
        _ => Ok(odd),
    }
}

/// What comes from the store, as this version shows it.
pub(super) fn fit(r: &Resource, v: &mut Value) {
    if let Some(schema) = &r.schema {
        if !r.preserve_unknown {
            structural::prune(v, schema);
        }
        structural::default(v, schema);
    }
}

fn metadata(object: &mut Value, path: &str, mode: FieldValidation, odd: &mut Vec<String>) -> Result<(), String> {
    let Some(meta) = object.get_mut("metadata") else { return Ok(()) };
    if meta.is_null() {
        return Ok(());
    }
    let lax = if mode == FieldValidation::Strict { FieldValidation::Warn } else { mode };
    let d = schema_json::normalize(meta, types().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"), lax).map_err(|e| e.to_string())?;
    if !d.object.is_object() {
        return Err(format!("{path} is no object"));
    }
    odd.extend(d.warnings.iter().map(|w| w.replacen("field \"", &format!("field \"{path}."), 1)));
    *meta = d.object;
    if let Some(m) = meta.as_object_mut() {
        m.retain(|_, v| !v.is_null());
    }
    Ok(())
}

/// Metadata of whole objects inside the object.
fn embedded(v: &mut Value, schema: &Value, path: &str, mode: FieldValidation, odd: &mut Vec<String>, depth: usize) -> Result<(), String> {
    if depth > 200 {
        return Err("the object is nested too deeply".into());
    }
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match v {
        Value::Object(_) => {
            if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
                metadata(v, &join("metadata"), mode, odd)?;
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let others = schema.get("additionalProperties").filter(|o| o.is_object());
            for (key, member) in v.as_object_mut().into_iter().flatten() {
                if let Some(inner) = properties.and_then(|p| p.get(key)).or(others) {
                    embedded(member, inner, &join(key), mode, odd, depth + 1)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (i, item) in items.iter_mut().enumerate() {
                    embedded(item, inner, &format!("{path}[{i}]"), mode, odd, depth + 1)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
