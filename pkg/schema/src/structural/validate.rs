//! Validation of custom resources by their OpenAPI schema, in upstream's words.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Mutex, OnceLock},
};

use regex::Regex;
use serde_json::{Map, Value, json};

use super::flag;

/// How deep a value is looked into.
const DEEP: usize = 200;
/// How many compiled patterns are kept.
const PATTERNS: usize = 1024;

/// Which kind of wrong a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It must be given.
    Required,
    /// It breaks a rule.
    Invalid,
    /// It has the wrong type.
    Type,
    /// It is none of the enumeration.
    NotSupported,
    /// The text is too long.
    TooLong,
    /// There are too many items.
    TooMany,
    /// The item occurs twice.
    Duplicate,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// What kind of wrong.
    pub reason: Reason,
    /// The field's path.
    pub field: String,
    /// The value that is shown, if any.
    pub value: Option<Value>,
    /// The sentence after the value.
    pub detail: String,
}

/// Everything wrong with an object by its schema (`openAPIV3Schema`); `apiVersion`, `kind` and
/// `metadata` are looked at elsewhere.
#[must_use]
pub fn validate(object: &Value, schema: &Value) -> Vec<Violation> {
    let mut out = Vec::new();
    check(object, schema, "", &mut out, 0);
    if out.is_empty() {
        lists(object, schema, "", &mut out, 0);
    }
    out
}

fn push(out: &mut Vec<Violation>, reason: Reason, field: &str, value: Option<Value>, detail: impl Into<String>) {
    if out.len() < 500 {
        out.push(Violation { reason, field: shown(field).to_owned(), value, detail: detail.into() });
    }
}

/// Without a path upstream writes what Go makes of an absent one.
fn shown(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn number(schema: &Value, key: &str) -> Option<f64> {
    schema.get(key).and_then(Value::as_f64)
}

fn count(schema: &Value, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_u64)
}

/// A number as Go's `%v` writes it.
fn plain(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e21 { format!("{n:.0}") } else { n.to_string() }
}

fn check(value: &Value, schema: &Value, path: &str, out: &mut Vec<Violation>, depth: usize) {
    if depth > DEEP || (value.is_null() && flag(schema, "nullable")) {
        return;
    }
    let declared = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let wanted = if flag(schema, "x-kubernetes-int-or-string") { "integer,string" } else { declared };
    let is = type_of(value);
    let whole = is == "number" && value.as_f64().is_some_and(|f| f.fract() == 0.0);
    let fits = wanted.is_empty() || wanted.split(',').any(|t| t == is || (t == "integer" && whole) || (t == "number" && is == "integer"));
    if !fits {
        push(out, Reason::Type, path, Some(json!(is)), format!("{path} in body must be of type {wanted}: {}", crate::json::quote(is)));
    }
    alternatives(value, schema, path, out, depth);
    match value {
        Value::String(text) => string(text, schema, path, out),
        Value::Number(_) => numeric(value, schema, path, out),
        Value::Array(items) => array(items, schema, path, out, depth),
        _ => {}
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.is_empty()
        && !allowed.iter().any(|a| equal(a, value))
    {
        let names: Vec<String> = allowed.iter().map(|a| crate::json::quote(&a.as_str().map_or_else(|| a.to_string(), str::to_owned))).collect();
        push(out, Reason::NotSupported, path, Some(value.clone()), format!("supported values: {}", names.join(", ")));
    }
    if let Value::Object(map) = value {
        members(map, schema, path, out, depth);
    }
}

/// `1` and `1.0` are the same.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}

fn alternatives(value: &Value, schema: &Value, path: &str, out: &mut Vec<Violation>, depth: usize) {
    let name = crate::json::quote(path);
    let results = |key: &str| -> Option<Vec<Vec<Violation>>> {
        let all = schema.get(key)?.as_array().filter(|a| !a.is_empty())?;
        Some(
            all.iter()
                .map(|s| {
                    let mut inner = Vec::new();
                    check(value, s, path, &mut inner, depth + 1);
                    inner
                })
                .collect(),
        )
    };
    if let Some(all) = results("anyOf")
        && all.iter().all(|r| !r.is_empty())
    {
        push(out, Reason::Invalid, "", Some(json!("")), format!("{name} must validate at least one schema (anyOf)"));
        out.extend(best(all));
    }
    if let Some(all) = results("oneOf") {
        let valid = all.iter().filter(|r| r.is_empty()).count();
        if valid != 1 {
            let found = if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
            push(out, Reason::Invalid, "", Some(json!("")), format!("{name} must validate one and only one schema (oneOf). {found}"));
            if valid == 0 {
                out.extend(best(all));
            }
        }
    }
    if let Some(all) = results("allOf") {
        let valid = all.iter().filter(|r| r.is_empty()).count();
        if valid != all.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            out.extend(all.into_iter().flatten());
            push(out, Reason::Invalid, "", Some(json!("")), format!("{name} must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(not) = schema.get("not").filter(|n| n.is_object()) {
        let mut inner = Vec::new();
        check(value, not, path, &mut inner, depth + 1);
        if inner.is_empty() {
            push(out, Reason::Invalid, "", Some(json!("")), format!("{name} must not validate the schema (not)"));
        }
    }
}

fn best(all: Vec<Vec<Violation>>) -> Vec<Violation> {
    all.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

fn string(text: &str, schema: &Value, path: &str, out: &mut Vec<Violation>) {
    let length = text.chars().count() as u64;
    if let Some(max) = count(schema, "maxLength")
        && length > max
    {
        push(out, Reason::TooLong, path, None, format!("may not be more than {max} {}", if max == 1 { "byte" } else { "bytes" }));
    }
    if let Some(min) = count(schema, "minLength")
        && length < min
    {
        push(out, Reason::Invalid, path, Some(json!(text)), format!("{path} in body should be at least {min} chars long"));
    }
    if let Some(p) = schema.get("pattern").and_then(Value::as_str)
        && !p.is_empty()
        && !pattern(p).is_some_and(|r| r.is_match(text))
    {
        push(out, Reason::Invalid, path, Some(json!(text)), format!("{path} in body should match '{p}'"));
    }
    if let Some(f) = schema.get("format").and_then(Value::as_str)
        && !format_fits(f, text)
    {
        push(out, Reason::Invalid, path, Some(json!(text)), format!("{path} in body must be of type {f}: {}", crate::json::quote(text)));
    }
}

/// The compiled pattern; `None` if it cannot be compiled.
pub fn pattern(text: &str) -> Option<Regex> {
    static KEPT: OnceLock<Mutex<HashMap<String, Option<Regex>>>> = OnceLock::new();
    let kept = KEPT.get_or_init(Mutex::default);
    let mut all = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = all.get(text) {
        return known.clone();
    }
    if all.len() >= PATTERNS {
        all.clear();
    }
    let made = regex::RegexBuilder::new(text).size_limit(1 << 20).build().ok();
    all.insert(text.to_owned(), made.clone());
    made
}

fn format_fits(format: &str, text: &str) -> bool {
    let hex = |n: &[usize]| {
        let parts: Vec<&str> = text.split('-').collect();
        parts.len() == n.len() && parts.iter().zip(n).all(|(p, n)| p.len() == *n && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    match format {
        "date-time" => crate::time::canonical(text).is_ok(),
        "date" => text.len() == 10 && crate::time::canonical(&format!("{text}T00:00:00Z")).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(a, n)| {
            n.parse::<u8>().is_ok_and(|n| (a.parse::<Ipv4Addr>().is_ok() && n <= 32) || (a.parse::<Ipv6Addr>().is_ok() && n <= 128))
        }),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => hex(&[8, 4, 4, 4, 12]) || (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        "email" => text.split_once('@').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty() && !text.contains(char::is_whitespace)),
        "hostname" => !text.is_empty() && text.len() < 255 && text.split('.').all(|l| !l.is_empty() && l.len() < 64 && !l.starts_with('-') && l.chars().all(|c| c.is_alphanumeric() || c == '-')),
        "uri" => text.starts_with('/') || text.split_once(':').is_some_and(|(s, _)| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "hexcolor" => pattern("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$").is_some_and(|r| r.is_match(text)),
        "isbn10" => text.chars().filter(char::is_ascii_digit).count() >= 9,
        "isbn" | "isbn13" => text.chars().filter(char::is_ascii_digit).count() >= 9,
        _ => true,
    }
}

fn numeric(value: &Value, schema: &Value, path: &str, out: &mut Vec<Violation>) {
    let Some(n) = value.as_f64() else { return };
    let mut bad = |text: String| push(out, Reason::Invalid, path, Some(value.clone()), format!("{path} in body should be {text}"));
    if let Some(of) = number(schema, "multipleOf").filter(|of| *of > 0.0) {
        let q = n / of;
        if (q - q.round()).abs() > 1e-9 {
            bad(format!("a multiple of {}", plain(of)));
        }
    }
    if let Some(max) = number(schema, "maximum") {
        let open = flag(schema, "exclusiveMaximum");
        if n > max || (open && n >= max) {
            bad(format!("less than {}{}", if open { "" } else { "or equal to " }, plain(max)));
        }
    }
    if let Some(min) = number(schema, "minimum") {
        let open = flag(schema, "exclusiveMinimum");
        if n < min || (open && n <= min) {
            bad(format!("greater than {}{}", if open { "" } else { "or equal to " }, plain(min)));
        }
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let fits = match format {
        "int32" => n >= f64::from(i32::MIN) && n <= f64::from(i32::MAX),
        "int64" => value.is_i64() || n.abs() < 9.3e18,
        _ => true,
    };
    if !fits {
        push(out, Reason::Invalid, path, Some(value.clone()), format!("{path} in body must be of type {format}: {}", crate::json::quote("integer")));
    }
}

fn many(out: &mut Vec<Violation>, path: &str, actual: usize, max: u64) {
    push(out, Reason::TooMany, path, Some(json!(actual)), format!("must have at most {max} {}", if max == 1 { "item" } else { "items" }));
}

fn array(items: &[Value], schema: &Value, path: &str, out: &mut Vec<Violation>, depth: usize) {
    if let Some(inner) = schema.get("items").filter(|i| i.is_object()) {
        for (i, item) in items.iter().enumerate() {
            check(item, inner, &format!("{path}[{i}]"), out, depth + 1);
        }
    }
    let length = items.len() as u64;
    if let Some(min) = count(schema, "minItems").filter(|m| length < *m) {
        push(out, Reason::Invalid, path, Some(json!(length)), format!("{path} in body should have at least {min} items"));
    }
    if let Some(max) = count(schema, "maxItems").filter(|m| length > *m) {
        many(out, path, items.len(), max);
    }
    if flag(schema, "uniqueItems") && items.iter().enumerate().any(|(i, v)| items[..i].contains(v)) {
        push(out, Reason::Invalid, path, Some(json!("")), format!("{path} in body shouldn't contain duplicates"));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn members(map: &Map<String, Value>, schema: &Value, path: &str, out: &mut Vec<Violation>, depth: usize) {
    let size = map.len() as u64;
    if let Some(min) = count(schema, "minProperties").filter(|m| size < *m) {
        push(out, Reason::Invalid, path, Some(json!(size)), format!("{path} in body should have at least {min} properties"));
    }
    if let Some(max) = count(schema, "maxProperties").filter(|m| size > *m) {
        many(out, path, map.len(), max);
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            push(out, Reason::Required, &join(path, name), None, "");
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|o| o.is_object());
    let root = path.is_empty();
    for (key, value) in map {
        if root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(inner) = properties.and_then(|p| p.get(key)).or(others) {
            check(value, inner, &join(path, key), out, depth + 1);
        }
    }
}

/// Duplicates in lists that are sets or maps.
fn lists(value: &Value, schema: &Value, path: &str, out: &mut Vec<Violation>, depth: usize) {
    if depth > DEEP {
        return;
    }
    match value {
        Value::Array(items) => {
            let inner = schema.get("items").unwrap_or(&Value::Null);
            let keyed = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let identity = |item: &Value| -> Option<Value> {
                match schema.get("x-kubernetes-list-type").and_then(Value::as_str)? {
                    "set" => Some(item.clone()),
                    "map" => {
                        let keys = keyed?;
                        let part: Map<String, Value> = keys.iter().filter_map(Value::as_str).filter_map(|k| Some((k.to_owned(), item.get(k)?.clone()))).collect();
                        Some(Value::Object(part))
                    }
                    _ => None,
                }
            };
            let ids: Vec<Option<Value>> = items.iter().map(identity).collect();
            for (i, item) in items.iter().enumerate() {
                if let Some(id) = &ids[i]
                    && ids[..i].iter().any(|o| o.as_ref() == Some(id))
                {
                    push(out, Reason::Duplicate, &format!("{path}[{i}]"), Some(id.clone()), "");
                }
                lists(item, inner, &format!("{path}[{i}]"), out, depth + 1);
            }
        }
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let others = schema.get("additionalProperties").filter(|o| o.is_object());
            for (key, member) in map {
                if let Some(inner) = properties.and_then(|p| p.get(key)).or(others) {
                    lists(member, inner, &join(path, key), out, depth + 1);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
