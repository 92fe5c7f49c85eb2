//! What is wrong with the parts of a definition: its names, and its versions' schemas and columns.

use knarr_schema::structural;
use serde_json::Value;

use crate::{
    error::{FieldError, FieldErrorKind},
    names::NameRule,
    object::Object,
};

use super::{
    expressions::{self, Total},
    openapi, structure,
};
use crate::strategy::rules::Rules;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// How many fields may be selected by.
const MOST_FIELDS: usize = 8;
/// The formats that strings are checked by, without their dashes.
const FORMATS: [&str; 31] = [
    "bsonobjectid", "uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac", "uuid", "uuid3", "uuid4", "uuid5", "isbn", "isbn10",
    "isbn13", "creditcard", "ssn", "hexcolor", "rgbcolor", "byte", "password", "date", "duration", "datetime", "k8sshortname",
    "k8slongname", "int32", "int64", "float", "double", "binary",
];

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

/// A part of a version: its schema, subresources, columns or fields to select by.
type Part = &'static str;
const SCHEMA: Part = "schema";
const SUBRESOURCES: Part = "subresources";
const COLUMNS: Part = "additionalPrinterColumns";
const FIELDS: Part = "selectableFields";

/// The parts that all versions share; what is wrong with them is told of the definition.
fn shared(all: &[Value]) -> Vec<Part> {
    let part = |v: &Value, p| v.get(p).filter(|v| !(v.is_null() || v.as_array().is_some_and(Vec::is_empty))).cloned();
    let same = |p: &Part| all.first().is_some_and(|first| all.iter().all(|v| part(v, *p) == part(first, *p)));
    [SCHEMA, SUBRESOURCES, COLUMNS, FIELDS].into_iter().filter(same).collect()
}

/// Everything wrong with versions of their own.
pub(super) fn versions(all: &[Value], out: &mut Vec<FieldError>) {
    let shared = shared(all);
    for (i, v) in all.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = v.str_at(&["name"]);
        out.extend(label(name).map(|why| FieldError::invalid(format!("{at}.name"), name, why)));
        if let Some(text) = v.get("deprecationWarning").and_then(Value::as_str) {
            let field = format!("{at}.deprecationWarning");
            out.extend(deprecation(text, set(v, "deprecated")).into_iter().map(|why| FieldError::invalid(&field, text, why)));
        }
        if v.at(&["schema", "openAPIV3Schema"]).is_none() {
            out.push(FieldError::required(format!("{at}.schema.openAPIV3Schema"), ""));
        }
        let own = |p: &Part| !shared.contains(p);
        parts(v, own, &at, "schema", status(v), out);
    }
}

/// Everything wrong with what all versions share.
pub(super) fn common(all: &[Value], out: &mut Vec<FieldError>) {
    let shared = shared(all);
    if let Some(first) = all.first() {
        parts(first, |p| shared.contains(p), "spec", "validation", all.iter().any(status), out);
    }
}

fn status(v: &Value) -> bool {
    v.at(&["subresources", "status"]).is_some()
}

/// What is wrong with a deprecated version's warning.
fn deprecation(text: &str, deprecated: bool) -> Vec<String> {
    if !deprecated {
        return vec!["can only be set for deprecated versions".into()];
    }
    let mut out = Vec::new();
    if text.len() > 256 {
        out.push("must be <= 256 characters long".to_owned());
    }
    if text.is_empty() {
        out.push("must not be an empty string".to_owned());
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        out.push(format!("must only contain printable UTF-8 characters; non-printable character found at index {i}"));
    }
    out
}

fn parts(v: &Value, has: impl Fn(&Part) -> bool, at: &str, schema_name: &str, status: bool, out: &mut Vec<FieldError>) {
    let schema = v.at(&["schema", "openAPIV3Schema"]).filter(|_| has(&SCHEMA));
    if let Some(s) = schema {
        whole(s, status, &format!("{at}.{schema_name}"), out);
    }
    if let Some(scale) = v.at(&["subresources", "scale"]).filter(|_| has(&SUBRESOURCES)) {
        let at = format!("{at}.subresources.scale");
        path(scale.str_at(&["specReplicasPath"]), format!("{at}.specReplicasPath"), &[".spec."], out);
        path(scale.str_at(&["statusReplicasPath"]), format!("{at}.statusReplicasPath"), &[".status."], out);
        let labels = scale.str_at(&["labelSelectorPath"]);
        if !labels.is_empty() {
            path(labels, format!("{at}.labelSelectorPath"), &[".spec.", ".status."], out);
        }
    }
    for (i, c) in v.list_at(&[COLUMNS]).iter().enumerate().filter(|_| has(&COLUMNS)) {
        column(c, &format!("{at}.additionalPrinterColumns[{i}]"), out);
    }
    let fields = v.list_at(&[FIELDS]);
    if fields.is_empty() || !has(&FIELDS) {
        return;
    }
    let field = format!("{at}.selectableFields");
    match schema {
        Some(s) => selectable(fields, s, &field, out),
        None if schema_name == "validation" => out.push(FieldError::invalid(field, "", "may only be set when validations.schema is included")),
        None => out.push(FieldError::invalid(field, "", "may only be set when `version.schema.openAPIV3Schema` is not included")),
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
        let (names, found) = match expressions::find(schema, text, false) {
            Ok(f) => f,
            Err(why) => {
                out.push(FieldError::invalid(at, text, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if names[0] == "metadata" {
            out.push(FieldError::invalid(&at, text, "must not point to fields in metadata"));
        }
        if !matches!(found.str_at(&["type"]), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            out.push(FieldError::invalid(&at, text, why));
        }
        if !seen.insert(names) {
            out.push(FieldError::duplicate(at, text));
        }
    }
    if seen.len() > MOST_FIELDS {
        out.push(FieldError { kind: FieldErrorKind::TooMany, field: at.into(), value: Some(seen.len().into()), detail: format!("must have at most {MOST_FIELDS} items") });
    }
}

/// Everything wrong with a version's schema, in the order that later checks need: nothing is said of
/// rules where the schema itself is wrong.
fn whole(s: &Value, status: bool, at: &str, out: &mut Vec<FieldError>) {
    let schema = format!("{at}.openAPIV3Schema");
    if status {
        root(s, &schema, out);
    }
    if set(s, "nullable") {
        out.push(FieldError::forbidden(format!("{schema}.nullable"), "nullable cannot be true at the root"));
    }
    let own = out.len();
    structure::check(s, &schema, out);
    if out.len() == own {
        defaults(s, &schema, out, 0);
    }
    // Definitions of items by their place have no structure.
    let sound = out.len() == own;
    let mut total = Total::default();
    openapi::check(s, &schema, sound.then_some(&mut total), out);
    if sound {
        total.judge(&schema, out);
    }
}

/// What the root may say where the status is a resource of its own.
fn root(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    const ALLOWED: [(&str, &str); 22] = [
        ("description", "Description"), ("type", "Type"), ("format", "Format"), ("title", "Title"), ("maximum", "Maximum"), ("exclusiveMaximum", "ExclusiveMaximum"),
        ("minimum", "Minimum"), ("exclusiveMinimum", "ExclusiveMinimum"), ("maxLength", "MaxLength"), ("minLength", "MinLength"), ("pattern", "Pattern"),
        ("maxItems", "MaxItems"), ("minItems", "MinItems"), ("uniqueItems", "UniqueItems"), ("multipleOf", "MultipleOf"), ("required", "Required"), ("items", "Items"),
        ("properties", "Properties"), ("externalDocs", "ExternalDocs"), ("example", "Example"), ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
        ("x-kubernetes-validations", "XValidations"),
    ];
    let kind = s.str_at(&["type"]);
    if !kind.is_empty() && kind != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        out.push(FieldError::invalid(format!("{at}.type"), kind, why));
    } else if s.as_object().is_some_and(|m| m.keys().any(|k| !ALLOWED.iter().any(|a| a.0 == k))) {
        let names: Vec<&str> = ALLOWED.iter().map(|a| a.1).collect();
        let why = format!("only [{}] fields are allowed at the root of the schema if the status subresource is enabled", names.join(" "));
        out.push(FieldError::invalid(at, s.clone(), why));
    }
}

/// Whether a schema's member is true.
pub(super) fn set(s: &Value, name: &str) -> bool {
    s.get(name) == Some(&Value::Bool(true))
}

/// Defaults, wherever the structure has them.
fn defaults(s: &Value, at: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > structure::DEEPEST {
        return;
    }
    if let Some(default) = s.get("default") {
        let mut pruned = default.clone();
        structural::prune(&mut pruned, s);
        if pruned != *default {
            out.push(FieldError::invalid(format!("{at}.default"), default.clone(), "must not have unknown fields"));
        }
        let before = out.len();
        standard(default, s, s.str_at(&["type"]), at, out);
        if out.len() == before
            && let Some(rules) = Rules::of(s, set(s, "x-kubernetes-embedded-resource"))
        {
            let under = |e: FieldError| FieldError { field: if e.field == "<nil>" { format!("{at}.default") } else { format!("{at}.default.{}", e.field) }, ..e };
            out.extend(rules.check(default, None).into_iter().map(under));
        }
    }
    // None are allowed below additionalProperties.
    for (place, inner) in inside(s).into_iter().filter(|(p, _)| p != ".additionalProperties") {
        defaults(inner, &format!("{at}{place}"), out, depth + 1);
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

/// The schemas right inside a schema, and where.
fn inside(s: &Value) -> Vec<(String, &Value)> {
    let fields = s.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut all: Vec<_> = fields.map(|(k, v)| (format!(".properties[{k}]"), v)).collect();
    all.extend(["items", "additionalProperties"].iter().filter_map(|k| Some((format!(".{k}"), s.get(k).filter(|v| v.is_object())?))));
    all
}

/// Formats of strings that nothing is checked by, and sets of things that cannot be compared.
pub(super) fn warnings(s: &Value, formats: &mut Vec<String>, sets: &mut std::collections::BTreeSet<String>, depth: usize) {
    if depth > structure::DEEPEST {
        return;
    }
    let (kind, format) = (s.str_at(&["type"]), s.str_at(&["format"]));
    if !format.is_empty() && !known(kind, format) {
        let warning = format!("unrecognized format {format:?}");
        if !formats.contains(&warning) {
            formats.push(warning);
        }
    }
    let of = s.at(&["items"]).map(|i| i.str_at(&["type"])).unwrap_or_default();
    if s.str_at(&["x-kubernetes-list-type"]) == "set" && matches!(of, "object" | "array") {
        sets.insert(format!("x-kubernetes-list-type: set for items of type {of:?} is not supported by server-side apply or CEL validation rules"));
    }
    let joined = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|w| s.list_at(&[w]));
    for inner in inside(s).into_iter().map(|(_, s)| s).chain(joined).chain(s.get("not")) {
        warnings(inner, formats, sets, depth + 1);
    }
}

/// Whether a format is one that values of a type are checked by.
fn known(kind: &str, format: &str) -> bool {
    match kind {
        "" | "string" => FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}
