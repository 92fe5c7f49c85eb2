//! What is wrong with a version's schema besides its structure: words that are not supported, lists and
//! maps, and rules.

use serde_json::Value;

use super::{
    expressions::{self, Place, Total},
    schemas::set,
    structure::{DEEPEST, typed},
};
use crate::{error::FieldError, object::Object, strategy::fields::not_supported};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What is known on the way down.
#[derive(Clone)]
struct Way {
    root: bool,
    /// Why there may be no defaults.
    no_defaults: Option<String>,
    inside_meta: bool,
    /// The nearest schema above whose values cannot be told from those before.
    unlike: Option<String>,
    /// How often a value may be there, if bounded.
    often: Option<u64>,
    /// Whether rules are looked at.
    rules: bool,
}

/// Errors of schemas and of rules; those of rules come last.
#[derive(Default)]
struct Found {
    schema: Vec<FieldError>,
    rules: Vec<FieldError>,
}

/// Everything wrong with a schema; rules are judged where there is a sum of their costs.
pub(super) fn check(s: &Value, at: &str, total: Option<&mut Total>, out: &mut Vec<FieldError>) {
    let mut unused = Total::default();
    let way = Way { root: true, no_defaults: None, inside_meta: false, unlike: None, often: Some(1), rules: total.is_some() };
    let found = walk(s, at, &way, total.unwrap_or(&mut unused), 0);
    out.extend(found.schema.into_iter().chain(found.rules));
}

/// How much more often what is inside a schema may be there.
fn factor(s: &Value) -> Option<u64> {
    let count = |key: &str| s.get(key).and_then(Value::as_i64).map(|n| n.max(0).cast_unsigned());
    match s.str_at(&["type"]) {
        "object" if s.get("additionalProperties").is_some_and(|a| !a.is_null()) => count("maxProperties"),
        "array" => count("maxItems"),
        _ => Some(1),
    }
}

fn walk(s: &Value, at: &str, way: &Way, total: &mut Total, depth: usize) -> Found {
    let mut found = Found::default();
    if depth > DEEPEST || !s.is_object() {
        return found;
    }
    standard(s, at, way, &mut found.schema);
    let inner = Way { root: false, often: way.often.zip(factor(s)).map(|(a, b)| a.saturating_mul(b)), ..way.clone() };
    let mut below = |s: &Value, place: String, way: &Way, found: &mut Found| {
        let more = walk(s, &format!("{at}{place}"), way, total, depth + 1);
        found.schema.extend(more.schema);
        found.rules.extend(more.rules);
    };
    let fields = s.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty());
    if let Some(more) = s.get("additionalProperties").filter(|v| !v.is_null()) {
        if fields.is_some() && more != &Value::Bool(true) {
            found.schema.push(FieldError::forbidden(format!("{at}.additionalProperties"), "additionalProperties and properties are mutual exclusive"));
        }
        let mut way = inner.clone();
        if way.inside_meta {
            way.no_defaults = Some("inside additionalProperties applying to object metadata".into());
        }
        below(more, ".additionalProperties".into(), &way, &mut found);
    }
    for (name, p) in fields.into_iter().flatten() {
        let mut way = inner.clone();
        if whole(s, depth) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            way.inside_meta = true;
            if depth == 0 {
                way.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        below(p, format!(".properties[{name}]"), &way, &mut found);
    }
    let narrow = Way { rules: false, ..inner.clone() };
    if let Some(not) = s.get("not") {
        below(not, ".not".into(), &narrow, &mut found);
    }
    for word in ["allOf", "oneOf", "anyOf"] {
        for (i, v) in s.list_at(&[word]).iter().enumerate() {
            below(v, format!(".{word}[{i}]"), &narrow, &mut found);
        }
    }
    if let Some(items) = s.get("items").filter(|v| !v.is_null()) {
        let mut way = inner;
        if s.str_at(&["x-kubernetes-list-type"]) != "map" {
            way.unlike.get_or_insert_with(|| at.to_owned());
        }
        below(items, ".items".into(), &way, &mut found);
    }
    lists(s, at, &mut found.schema);
    expressions::texts(s, at, &mut found.schema);
    if way.rules && found.schema.is_empty() && !s.list_at(&["x-kubernetes-validations"]).is_empty() {
        let place = Place { at, root: way.root || set(s, "x-kubernetes-embedded-resource"), often: way.often, unlike: way.unlike.as_deref() };
        expressions::check(s, &place, total, &mut found.rules);
    }
    found
}

/// Whether a schema is that of whole objects.
fn whole(s: &Value, depth: usize) -> bool {
    depth == 0 || set(s, "x-kubernetes-embedded-resource")
}

/// Words of JSON schema that are not supported.
fn standard(s: &Value, at: &str, way: &Way, out: &mut Vec<FieldError>) {
    let kind = s.str_at(&["type"]);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        out.push(FieldError::not_supported(format!("{at}.type"), kind, &TYPES));
    }
    if let Some(why) = way.no_defaults.as_ref().filter(|_| s.get("default").is_some()) {
        out.push(FieldError::forbidden(format!("{at}.default"), format!("must not be set {why}")));
    }
    let full = |key: &str| match s.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::String(t)) => !t.is_empty(),
        Some(Value::Object(m)) => !m.is_empty() || key == "dependencies",
        Some(_) => true,
    };
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if full(key) {
            out.push(FieldError::forbidden(format!("{at}.{key}"), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        out.push(FieldError::forbidden(format!("{at}.type"), "type cannot be set to null, use nullable as an alternative"));
    }
    if s.get("items").is_some_and(Value::is_array) {
        out.push(FieldError::forbidden(format!("{at}.items"), "items must be a schema object and not an array"));
    }
    if way.inside_meta && set(s, "x-kubernetes-embedded-resource") {
        out.push(FieldError::forbidden(format!("{at}.x-kubernetes-embedded-resource"), "must not be used inside of resource meta"));
    }
    if set(s, "uniqueItems") {
        out.push(FieldError::forbidden(format!("{at}.uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"));
    }
    if s.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        out.push(FieldError::invalid(format!("{at}.x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"));
    }
}

/// How lists and maps merge.
fn lists(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    let kind = s.str_at(&["type"]);
    let word = |key: &str| s.get(key).and_then(Value::as_str);
    if let Some(map) = word("x-kubernetes-map-type") {
        const MAPS: [&str; 2] = ["atomic", "granular"];
        if kind != "object" {
            typed(kind, at, "must be object if x-kubernetes-map-type is specified", out);
        }
        if !MAPS.contains(&map) {
            out.push(not_supported(&format!("{at}.x-kubernetes-map-type"), map, &MAPS));
        }
    }
    let list = word("x-kubernetes-list-type");
    let items = s.get("items").filter(|i| i.is_object());
    if let Some(list) = list {
        const LISTS: [&str; 3] = ["atomic", "set", "map"];
        if kind != "array" {
            typed(kind, at, "must be array if x-kubernetes-list-type is specified", out);
        } else if let Some(items) = items.filter(|_| list == "set") {
            let inner = |key: &str| items.get(key).and_then(Value::as_str);
            const WHY: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let of = inner("x-kubernetes-list-type");
            match items.str_at(&["type"]) {
                "array" if of.is_some_and(|t| t != "atomic") => {
                    out.push(FieldError::invalid(format!("{at}.items.x-kubernetes-list-type"), of.unwrap_or_default(), WHY));
                }
                "object" if inner("x-kubernetes-map-type") != Some("atomic") => {
                    let shown = of.map_or(Value::Null, Value::from);
                    out.push(FieldError::invalid(format!("{at}.items.x-kubernetes-map-type"), shown, WHY));
                }
                _ => {}
            }
        }
        if !LISTS.contains(&list) {
            out.push(not_supported(&format!("{at}.x-kubernetes-list-type"), list, &LISTS));
        }
    }
    let keys = s.list_at(&["x-kubernetes-list-map-keys"]);
    if !keys.is_empty() {
        const WHY: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list {
            None => out.push(FieldError::required(format!("{at}.x-kubernetes-list-type"), WHY)),
            Some("map") => {}
            Some(other) => out.push(FieldError::invalid(format!("{at}.x-kubernetes-list-type"), other, WHY)),
        }
    }
    if list == Some("map") {
        maps(s, keys, items, at, out);
    }
    let Some((list, items)) = list.filter(|l| matches!(*l, "set" | "map")).zip(items) else { return };
    if set(items, "nullable") {
        out.push(FieldError::forbidden(format!("{at}.items.nullable"), format!("cannot be nullable when x-kubernetes-list-type is {list}")));
    }
    for key in keys.iter().filter_map(Value::as_str).filter(|_| list == "map") {
        let Some(p) = items.at(&["properties", key]) else { continue };
        let field = |member: &str| format!("{at}.items.properties[{key}].{member}");
        if p.get("default").is_none() && !items.list_at(&["required"]).iter().any(|r| r == key) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            out.push(FieldError::required(field("default"), why));
        }
        if set(p, "nullable") {
            out.push(FieldError::forbidden(field("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"));
        }
    }
}

/// A list whose items are told apart by keys.
fn maps(s: &Value, keys: &[Value], items: Option<&Value>, at: &str, out: &mut Vec<FieldError>) {
    let all = s.get("x-kubernetes-list-map-keys").cloned().unwrap_or_default();
    if keys.is_empty() {
        out.push(FieldError::required(format!("{at}.x-kubernetes-list-map-keys"), "must not be empty if x-kubernetes-list-type is map"));
    }
    let Some(items) = items else {
        out.push(match s.get("items").filter(|i| !i.is_null()) {
            None => FieldError::required(format!("{at}.items"), "must have a schema if x-kubernetes-list-type is map"),
            Some(i) => FieldError::invalid(format!("{at}.items"), i.clone(), "must only have a single schema if x-kubernetes-list-type is map"),
        });
        return;
    };
    let kind = items.str_at(&["type"]);
    if kind != "object" {
        out.push(FieldError::invalid(format!("{at}.items.type"), kind, "must be object if parent array's x-kubernetes-list-type is map"));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        match key.as_str().and_then(|k| items.at(&["properties", k])) {
            Some(p) if matches!(p.str_at(&["type"]), "array" | "object") => {
                let field = format!("{at}.items.properties[{}].type", key.as_str().unwrap_or_default());
                out.push(FieldError::invalid(field, kind, "must be a scalar type if parent array's x-kubernetes-list-type is map"));
            }
            Some(_) => {}
            None => out.push(FieldError::invalid(format!("{at}.x-kubernetes-list-map-keys"), all.clone(), "entries must all be names of item properties")),
        }
        if keys[..i].contains(key) {
            out.push(FieldError::invalid(format!("{at}.x-kubernetes-list-map-keys"), all.clone(), "must not contain duplicate entries"));
        }
    }
}
