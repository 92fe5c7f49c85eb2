//! Whether a schema is structural: every field has one type outside of `allOf`, `anyOf`, `oneOf` and
//! `not`, which only narrow what is there.

use serde_json::{Value, json};

use knarr_schema::structural;

use crate::{error::FieldError, object::Object};

/// Deeper schemas are not looked at.
pub(super) const DEEPEST: usize = 64;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that is not structural in the schema of a version.
pub(super) fn check(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    invariants(s, Level::Root, at, out, 0);
    complete(s, Some(s), at, at, out, 0);
}

/// A member that is a schema.
fn schema<'v>(s: &'v Value, key: &str) -> Option<&'v Value> {
    s.get(key).filter(|v| v.is_object())
}

/// Members of `properties`.
fn properties(s: &Value) -> impl Iterator<Item = (&String, &Value)> {
    s.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn flag(s: &Value, name: &str) -> bool {
    s.get(name) == Some(&Value::Bool(true))
}

/// Whether a member says anything.
fn given(s: &Value, key: &str) -> bool {
    match s.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(t)) => !t.is_empty(),
        Some(Value::Array(l)) => !l.is_empty(),
        Some(Value::Object(m)) => !m.is_empty() || matches!(key, "additionalProperties" | "default" | "items"),
        Some(_) => true,
    }
}

fn invariants(s: &Value, level: Level, at: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    let kind = s.str_at(&["type"]);
    if kind == "array" && !given(s, "items") {
        out.push(FieldError::required(format!("{at}.items"), "must be specified"));
    }
    if let Some(items) = schema(s, "items") {
        invariants(items, Level::Item, &format!("{at}.items"), out, depth + 1);
    }
    for (k, inner) in properties(s) {
        invariants(inner, Level::Field, &format!("{at}.properties[{k}]"), out, depth + 1);
    }
    let (embedded, preserves, either) = (flag(s, "x-kubernetes-embedded-resource"), flag(s, "x-kubernetes-preserve-unknown-fields"), flag(s, "x-kubernetes-int-or-string"));
    let more = s.get("additionalProperties").filter(|v| !v.is_null());
    if let Some(more) = more {
        if level == Level::Root {
            out.push(FieldError::forbidden(format!("{at}.additionalProperties"), "must not be used at the root"));
        }
        if more.is_object() {
            invariants(more, Level::Field, &format!("{at}.additionalProperties"), out, depth + 1);
        }
    }
    for (wrong, name) in [(preserves, "preserve-unknown-fields"), (embedded, "embedded-resource")] {
        if either && wrong {
            out.push(FieldError::invalid(format!("{at}.x-kubernetes-{name}"), true, "must be false if x-kubernetes-int-or-string is true"));
        }
    }
    let two = json!([{ "type": "integer" }, { "type": "string" }]);
    let first = s.list_at(&["allOf"]).first().and_then(|a| a.get("anyOf"));
    validations(s, s.get("anyOf") == Some(&two), first == Some(&two), at, out, depth);
    if embedded && kind != "object" {
        typed(kind, at, "must be object if x-kubernetes-embedded-resource is true", out);
    } else if kind.is_empty() && !either && !preserves {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        out.push(FieldError::required(format!("{at}.type"), why));
    }
    if embedded && more.is_some() {
        out.push(FieldError::forbidden(format!("{at}.additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set"));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        out.push(FieldError::invalid(format!("{at}.type"), kind, "must be object at the root"));
    }
    let whole = level == Level::Root || embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(p) = s.at(&["properties", name]).filter(|p| whole && p.str_at(&["type"]) != "string") {
            out.push(FieldError::invalid(format!("{at}.properties[{name}].type"), p.str_at(&["type"]), "must be string"));
        }
    }
    if let Some(meta) = s.at(&["properties", "metadata"]) {
        metadata(meta, whole, level, &format!("{at}.properties[metadata]"), out);
    }
    if embedded && !preserves && !given(s, "properties") {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        out.push(FieldError::required(format!("{at}.properties"), why));
    }
}

/// A type that has to be another one.
pub(super) fn typed(kind: &str, at: &str, why: &str, out: &mut Vec<FieldError>) {
    let field = format!("{at}.type");
    out.push(if kind.is_empty() { FieldError::required(field, why) } else { FieldError::invalid(field, kind, why) });
}

/// Of an object's metadata only names can be narrowed.
fn metadata(s: &Value, whole: bool, level: Level, at: &str, out: &mut Vec<FieldError>) {
    if whole && s.str_at(&["type"]) != "object" {
        out.push(FieldError::invalid(format!("{at}.type"), s.str_at(&["type"]), "must be object"));
    }
    let names = properties(s).all(|(k, _)| k == "name" || k == "generateName");
    let other = |k: &str| !(matches!(k, "type" | "default") || k == "properties" && names) && given(s, k);
    if level == Level::Root && s.as_object().is_some_and(|m| m.keys().any(|k| other(k))) {
        out.push(FieldError::forbidden(at, "must not specify anything other than name and generateName, but metadata is implicitly specified"));
    }
}

/// What narrows a value. `any`: the alternatives are those of a number or a text; `first`: those of
/// the first of `allOf` are.
fn validations(s: &Value, any: bool, first: bool, at: &str, out: &mut Vec<FieldError>, depth: usize) {
    for word in ["anyOf", "allOf", "oneOf"] {
        if word == "anyOf" && any {
            continue;
        }
        for (i, inner) in s.list_at(&[word]).iter().enumerate() {
            nested(inner, word == "allOf" && first && i == 0, &format!("{at}.{word}[{i}]"), out, depth + 1);
        }
    }
    if let Some(inner) = schema(s, "not") {
        nested(inner, false, &format!("{at}.not"), out, depth + 1);
    }
    if let Some(pattern) = s.get("pattern").and_then(Value::as_str)
        && structural::pattern(pattern).is_none()
    {
        out.push(FieldError::invalid(format!("{at}.pattern"), pattern, "must be a valid regular expression"));
    }
}

/// What may not be said in a schema that only narrows: member, reason.
const FORBIDDEN: [(&str, &str); 13] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(s: &Value, any: bool, at: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    validations(s, any, false, at, out, depth);
    if let Some(items) = schema(s, "items") {
        nested(items, false, &format!("{at}.items"), out, depth + 1);
    }
    for (k, inner) in properties(s) {
        nested(inner, false, &format!("{at}.properties[{k}]"), out, depth + 1);
    }
    for (key, why) in FORBIDDEN {
        if given(s, key) {
            out.push(FieldError::forbidden(format!("{at}.{key}"), why));
        }
    }
    if s.at(&["properties", "metadata"]).is_some() {
        out.push(FieldError::forbidden(format!("{at}.properties[metadata]"), "must not be specified in a nested context"));
    }
}

/// Everything that is narrowed in `v` has to be in the structure `s`.
fn complete(v: &Value, s: Option<&Value>, at: &str, from: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    if let Some(not) = schema(v, "not") {
        covered(not, s, at, &format!("{from}.not"), out, depth + 1);
    }
    for word in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in v.list_at(&[word]).iter().enumerate() {
            covered(inner, s, at, &format!("{from}.{word}[{i}]"), out, depth + 1);
        }
    }
}

fn covered(v: &Value, s: Option<&Value>, at: &str, from: &str, out: &mut Vec<FieldError>, depth: usize) {
    let because = |at: &str, from: &str| FieldError::required(at, format!("because it is defined in {from}"));
    if s.is_none() {
        return out.push(because(at, from));
    }
    complete(v, s, at, from, out, depth);
    if let Some(items) = schema(v, "items") {
        covered(items, s.and_then(|s| schema(s, "items")), &format!("{at}.items"), &format!("{from}.items"), out, depth + 1);
    }
    for (k, inner) in properties(v) {
        let (at, from) = (format!("{at}.properties[{k}]"), format!("{from}.properties[{k}]"));
        covered(inner, s.and_then(|s| s.get("properties")?.get(k)), &at, &from, out, depth + 1);
    }
}
