//! What is wrong with the parts of a definition: its names, and its versions' schemas and columns.

use knarr_schema::structural;
use serde_json::Value;

use crate::{
    error::{FieldError, FieldErrorKind},
    names::NameRule,
    object::Object,
    strategy::{fields::not_supported, rules::Rules},
};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// The formats that strings are checked by, without their dashes.
const FORMATS: [&str; 31] = [
    "bsonobjectid", "uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac", "uuid", "uuid3", "uuid4", "uuid5", "isbn", "isbn10",
    "isbn13", "creditcard", "ssn", "hexcolor", "rgbcolor", "byte", "password", "date", "duration", "datetime", "k8sshortname",
    "k8slongname", "int32", "int64", "float", "double", "binary",
];
/// Deeper schemas are not looked at.
const DEEPEST: usize = 64;

/// What is wrong with a DNS label that begins with a letter.
pub(super) fn label(text: &str) -> Option<String> {
    let wrong = NameRule::Label1035.check(text, false);
    (!wrong.is_empty()).then(|| wrong.join(",").replace("63 bytes", "63 characters"))
}

/// Everything wrong with `spec.names`.
pub(super) fn names(names: &Value, out: &mut Vec<FieldError>) {
    const ALL: [&str; 4] = ["plural", "singular", "kind", "listKind"];
    for name in ALL {
        if names.str_at(&[name]).is_empty() {
            out.push(FieldError::required(format!("spec.names.{name}"), ""));
        }
    }
    for name in ALL {
        let text = names.str_at(&[name]);
        let kind = name.to_lowercase().ends_with("kind");
        let wrong = if kind { label(&text.to_lowercase()) } else { label(text) };
        if let Some(why) = wrong.filter(|_| !text.is_empty()) {
            let why = if kind { format!("may have mixed case, but should otherwise match: {why}") } else { why };
            out.push(FieldError::invalid(format!("spec.names.{name}"), text, why));
        }
    }
    let list = names.str_at(&["listKind"]);
    if !list.is_empty() && names.str_at(&["kind"]) == list {
        out.push(FieldError::invalid("spec.names.listKind", list, "kind and listKind may not be the same"));
    }
    for field in ["shortNames", "categories"] {
        for (i, text) in names.list_at(&[field]).iter().filter_map(Value::as_str).enumerate() {
            out.extend(label(text).map(|why| FieldError::invalid(format!("spec.names.{field}[{i}]"), text, why)));
        }
    }
}

/// A path of members only.
fn path(text: &str, at: String, under: &[&str], out: &mut Vec<FieldError>) {
    if text.is_empty() {
        out.push(FieldError::required(at, ""));
    } else if !text.starts_with('.') {
        out.push(FieldError::invalid(at, text, "must be a simple json path starting with ."));
    } else if !under.is_empty() && !under.iter().any(|u| text.starts_with(u)) {
        let below: Vec<&str> = under.iter().map(|u| u.trim_end_matches('.')).collect();
        let below = if below.len() > 1 { format!("either {}", below.join(" or ")) } else { below.concat() };
        out.push(FieldError::invalid(at, text, format!("should be a json path under {below}")));
    }
}

/// Everything wrong with one version.
pub(super) fn version(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if !set(v, "deprecated")
        && let Some(text) = v.at(&["deprecationWarning"])
    {
        out.push(FieldError::invalid(format!("{at}.deprecationWarning"), text.clone(), "can only be set for deprecated versions"));
    }
    let schema = v.at(&["schema", "openAPIV3Schema"]);
    if let Some(s) = schema {
        let at = format!("{at}.schema.openAPIV3Schema");
        let before = out.len();
        let kind = s.str_at(&["type"]);
        if !kind.is_empty() && kind != "object" {
            if v.at(&["subresources", "status"]).is_some() {
                out.push(FieldError::invalid(
                    format!("{at}.type"),
                    kind,
                    "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
                ));
            }
            out.push(FieldError::invalid(format!("{at}.type"), kind, "must be object at the root"));
        }
        structure(s, &at, "must not be empty at the root", out, 0);
        if out.len() == before {
            rules(s, &at, out);
        }
    }
    if let Some(scale) = v.at(&["subresources", "scale"]) {
        let at = format!("{at}.subresources.scale");
        path(scale.str_at(&["specReplicasPath"]), format!("{at}.specReplicasPath"), &[".spec."], out);
        path(scale.str_at(&["statusReplicasPath"]), format!("{at}.statusReplicasPath"), &[".status."], out);
        let labels = scale.str_at(&["labelSelectorPath"]);
        if !labels.is_empty() {
            path(labels, format!("{at}.labelSelectorPath"), &[".spec.", ".status."], out);
        }
    }
    for (i, c) in v.list_at(&["additionalPrinterColumns"]).iter().enumerate() {
        column(c, &format!("{at}.additionalPrinterColumns[{i}]"), out);
    }
    let fields = v.list_at(&["selectableFields"]);
    match schema {
        None if !fields.is_empty() => {
            out.push(FieldError::invalid(format!("{at}.selectableFields"), "", "may only be set when `version.schema.openAPIV3Schema` is not included"));
        }
        None => {}
        Some(s) => selectable(fields, s, &format!("{at}.selectableFields"), out),
    }
}

fn column(c: &Value, at: &str, out: &mut Vec<FieldError>) {
    if c.str_at(&["name"]).is_empty() {
        out.push(FieldError::required(format!("{at}.name"), ""));
    }
    let kind = c.str_at(&["type"]);
    let why = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        out.push(FieldError::required(format!("{at}.type"), why));
    } else if !COLUMN_TYPES.contains(&kind) {
        out.push(FieldError::invalid(format!("{at}.type"), kind, why));
    }
    let format = c.str_at(&["format"]);
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        out.push(FieldError::invalid(format!("{at}.format"), format, format!("must be one of {}", COLUMN_FORMATS.join(","))));
    }
    path(c.str_at(&["jsonPath"]), format!("{at}.JSONPath"), &[], out);
}

fn selectable(fields: &[Value], schema: &Value, at: &str, out: &mut Vec<FieldError>) {
    let mut seen = std::collections::HashSet::new();
    for (i, f) in fields.iter().enumerate() {
        let text = f.str_at(&["jsonPath"]);
        let at = format!("{at}[{i}].jsonPath");
        if text.is_empty() {
            out.push(FieldError::required(at, ""));
            continue;
        }
        if !text.starts_with(['.', '[']) {
            out.push(FieldError::invalid(at, text, format!("is an invalid path: expected [ or . but got: {text}")));
            continue;
        }
        // Names in brackets are left alone.
        if text.contains('[') {
            continue;
        }
        let found = text[1..].split('.').try_fold(schema, |s, name| s.get("properties")?.get(name));
        match found.map(|s| s.str_at(&["type"])) {
            None => out.push(FieldError::invalid(&at, text, "is an invalid path: does not refer to a valid field")),
            Some("string" | "boolean" | "integer") => {}
            Some(_) => out.push(FieldError::invalid(
                &at,
                text,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            )),
        }
        if !seen.insert(text) {
            out.push(FieldError::duplicate(at, text));
        }
    }
}

/// Whether a schema's member is true.
fn set(s: &Value, name: &str) -> bool {
    s.get(name) == Some(&Value::Bool(true))
}

fn structure(s: &Value, at: &str, untyped: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    let kind = s.str_at(&["type"]);
    let typed = |out: &mut Vec<FieldError>, wanted: &str, by: &str| {
        let why = format!("must be {wanted} if {by}");
        let field = format!("{at}.type");
        out.push(if kind.is_empty() { FieldError::required(field, why) } else { FieldError::invalid(field, kind, why) });
    };
    if let Some(list) = s.get("x-kubernetes-list-type").and_then(Value::as_str) {
        if kind != "array" {
            typed(out, "array", "x-kubernetes-list-type is specified");
        }
        const LISTS: [&str; 3] = ["atomic", "set", "map"];
        if !LISTS.contains(&list) {
            out.push(not_supported(&format!("{at}.x-kubernetes-list-type"), list, &LISTS));
        }
    } else if s.get("x-kubernetes-list-map-keys").is_some() {
        out.push(FieldError::required(format!("{at}.x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty"));
    }
    if let Some(map) = s.get("x-kubernetes-map-type").and_then(Value::as_str) {
        if kind != "object" {
            typed(out, "object", "x-kubernetes-map-type is specified");
        }
        const MAPS: [&str; 2] = ["atomic", "granular"];
        if !MAPS.contains(&map) {
            out.push(not_supported(&format!("{at}.x-kubernetes-map-type"), map, &MAPS));
        }
    }
    if set(s, "x-kubernetes-embedded-resource") && kind != "object" {
        typed(out, "object", "x-kubernetes-embedded-resource is true");
    } else if kind.is_empty() && !set(s, "x-kubernetes-int-or-string") && !set(s, "x-kubernetes-preserve-unknown-fields") {
        out.push(FieldError::required(format!("{at}.type"), untyped));
    }
    if !kind.is_empty() && !TYPES.contains(&kind) {
        out.push(FieldError::not_supported(format!("{at}.type"), kind, &TYPES));
    }
    if let Some(default) = s.get("default") {
        standard(default, s, kind, at, out);
    }
    if let Some(pattern) = s.get("pattern").and_then(Value::as_str)
        && structural::pattern(pattern).is_none()
    {
        out.push(FieldError::invalid(format!("{at}.pattern"), pattern, "must be a valid regular expression"));
    }
    for (key, inner) in s.get("properties").and_then(Value::as_object).into_iter().flatten() {
        structure(inner, &format!("{at}.properties[{key}]"), "must not be empty for specified object fields", out, depth + 1);
    }
    if let Some(inner) = s.get("additionalProperties").filter(|s| s.is_object()) {
        structure(inner, &format!("{at}.additionalProperties"), "must not be empty for specified object fields", out, depth + 1);
    }
    match s.get("items").filter(|s| s.is_object()) {
        Some(inner) => structure(inner, &format!("{at}.items"), "must not be empty for specified array items", out, depth + 1),
        None if kind == "array" && s.get("items").is_none() => out.push(FieldError::required(format!("{at}.items"), "must be specified")),
        None => {}
    }
}

/// A default has to be what it stands for may be.
fn standard(default: &Value, s: &Value, kind: &str, at: &str, out: &mut Vec<FieldError>) {
    let is = match default {
        Value::Null => return,
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|n| n.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let at = format!("{at}.default");
    if !(kind.is_empty() || kind == is || kind == "number" && is == "integer") {
        out.push(FieldError {
            kind: FieldErrorKind::TypeInvalid,
            field: at,
            value: Some(is.into()),
            detail: format!(" in body must be of type {kind}: \"{is}\""),
        });
        return;
    }
    // What is missing in it may have a default of its own.
    for v in structural::validate(default, s).into_iter().filter(|v| v.reason != structural::Reason::Required) {
        let mut e = super::error(v);
        if e.field == "<nil>" {
            e.field.clone_from(&at);
            e.detail = e.detail.strip_prefix("<nil>").unwrap_or(&e.detail).to_owned();
        } else {
            e.field = format!("{at}.{}", e.field);
        }
        out.push(e);
    }
}

/// Rules that are missing or cannot be compiled.
fn rules(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    missing(s, at, out, 0);
    let mut broken = Vec::new();
    if let Some(r) = Rules::of(s, true) {
        r.broken(at, &mut broken);
    }
    for (place, i, why) in broken {
        let rule = place.strip_prefix(at).and_then(|p| within(s, p)).and_then(|s| s.list_at(&["x-kubernetes-validations"]).get(i));
        if rule.is_some_and(|r| !r.str_at(&["rule"]).trim().is_empty()) {
            out.push(FieldError::invalid(format!("{place}.x-kubernetes-validations[{i}].rule"), rule.cloned().unwrap_or_default(), why));
        }
    }
}

fn missing(s: &Value, at: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    for (i, r) in s.list_at(&["x-kubernetes-validations"]).iter().enumerate() {
        if r.str_at(&["rule"]).trim().is_empty() {
            out.push(FieldError::required(format!("{at}.x-kubernetes-validations[{i}].rule"), "rule is not specified"));
        }
    }
    for (place, inner) in inside(s) {
        missing(inner, &format!("{at}{place}"), out, depth + 1);
    }
}

/// The schemas right inside a schema, and where.
fn inside(s: &Value) -> Vec<(String, &Value)> {
    let fields = s.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut all: Vec<_> = fields.map(|(k, v)| (format!(".properties[{k}]"), v)).collect();
    all.extend(["items", "additionalProperties"].iter().filter_map(|k| Some((format!(".{k}"), s.get(k).filter(|v| v.is_object())?))));
    all
}

/// The schema at a place inside another.
fn within<'v>(s: &'v Value, place: &str) -> Option<&'v Value> {
    if place.is_empty() {
        return Some(s);
    }
    inside(s).into_iter().find_map(|(p, inner)| within(inner, place.strip_prefix(p.as_str())?))
}

/// The formats of strings that nothing is checked by.
pub(super) fn formats(s: &Value, out: &mut Vec<String>, depth: usize) {
    let format = s.str_at(&["format"]);
    if depth > DEEPEST {
        return;
    }
    if !format.is_empty() && s.str_at(&["type"]) == "string" && !FORMATS.contains(&format.replace('-', "").as_str()) {
        let warning = format!("unrecognized format {format:?}");
        if !out.contains(&warning) {
            out.push(warning);
        }
    }
    for (_, inner) in inside(s) {
        formats(inner, out, depth + 1);
    }
}
