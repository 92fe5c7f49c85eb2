//! From schemas to declarations, and from JSON to values of them.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_schema::types::{Shape, Type as Builtin};
use serde_json::Value as Json;

use crate::{
    functions::time,
    types::{Decl, Field, ListKind, ObjectType, Type},
    value::{Text, Value},
};

/// The largest request in bytes; what a schema does not bound is bounded by it.
const REQUEST: u64 = 3 * 1024 * 1024;
/// The deepest schema.
const DEEPEST: usize = 200;

/// A value over JSON.
pub(crate) fn wrap<'a>(v: &'a Json, decl: &'a Decl) -> Value<'a> {
    match v {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => {
            let double = || Value::Double(n.as_f64().unwrap_or(f64::NAN));
            match decl.ty {
                Type::Double => double(),
                Type::Uint => n.as_u64().map_or_else(double, Value::Uint),
                Type::Int => n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.2e18).map(|f| f as i64)).map_or_else(double, Value::Int),
                _ => n.as_i64().map_or_else(double, Value::Int),
            }
        }
        Json::String(s) => {
            let text = || Value::String(Text::Borrowed(s));
            match decl.ty {
                Type::Timestamp => time::parse_timestamp(s).map_or_else(text, Value::Timestamp),
                Type::Duration => time::parse_duration(s).map_or_else(text, Value::Duration),
                Type::Bytes => STANDARD.decode(s).map_or_else(|_| text(), |b| Value::Bytes(b.into())),
                _ => text(),
            }
        }
        Json::Array(l) => Value::JsonList(l, decl),
        Json::Object(m) => Value::JsonMap(m, decl),
    }
}

/// The declaration of a structural schema (`openAPIV3Schema`), with the least bytes that a value of
/// it takes; `None` if expressions may not see it. `root` is true for whole objects.
#[must_use]
pub fn structural(schema: &Json, name: &str, root: bool) -> Option<Decl> {
    declare(schema, name, root, 0).map(|(d, _)| d)
}

/// How often a value of a schema can be in one request.
#[must_use]
pub fn cardinality(schema: &Json, root: bool) -> u64 {
    declare(schema, "", root, 0).map_or(0, |(_, least)| REQUEST / (least + 1))
}

fn flag(s: &Json, key: &str) -> bool {
    s.get(key).and_then(Json::as_bool).unwrap_or(false)
}

fn declare(s: &Json, name: &str, root: bool, depth: usize) -> Option<(Decl, u64)> {
    if depth > DEEPEST {
        return None;
    }
    let count = |key: &str| s.get(key).and_then(Json::as_i64).map(|n| n.max(0) as u64);
    let sized = |ty: Type, max: u64| Decl { ty, max: Some(max), list: ListKind::Atomic };
    let length = count("maxLength").map(|n| n * 4);
    if flag(s, "x-kubernetes-int-or-string") {
        return Some((sized(Type::Dyn, length.unwrap_or(REQUEST - 2)), 1));
    }
    let embedded = |s: &Json| flag(s, "x-kubernetes-embedded-resource");
    match s.get("type").and_then(Json::as_str).unwrap_or(if root { "object" } else { "" }) {
        "array" => {
            let items = s.get("items").filter(|i| i.is_object())?;
            let (inner, least) = declare(items, &format!("{name}.@idx"), embedded(items), depth + 1)?;
            let list = match s.get("x-kubernetes-list-type").and_then(Json::as_str) {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(
                    s.get("x-kubernetes-list-map-keys").and_then(Json::as_array).into_iter().flatten().filter_map(|k| k.as_str().map(str::to_owned)).collect(),
                ),
                _ => ListKind::Atomic,
            };
            let max = count("maxItems").unwrap_or((REQUEST - 2) / (least + 1));
            Some((Decl { ty: Type::List(Arc::new(inner)), max: Some(max), list }, 2))
        }
        "object" => {
            if let Some(inner) = s.get("additionalProperties").filter(|a| a.is_object()) {
                let (value, least) = declare(inner, &format!("{name}.@elem"), embedded(inner), depth + 1)?;
                let max = count("maxProperties").unwrap_or((REQUEST - 2) / (least + 6));
                return Some((sized(Type::Map(Arc::new(Type::String), Arc::new(value)), max), 2));
            }
            let required: Vec<&str> = s.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
            let mut fields = BTreeMap::new();
            let mut least = 2;
            for (key, p) in s.get("properties").and_then(Json::as_object).into_iter().flatten() {
                let Some((decl, size)) = declare(p, &format!("{name}.{key}"), embedded(p), depth + 1) else { continue };
                if required.contains(&key.as_str()) && p.get("default").is_none_or(Json::is_null) {
                    least += key.len() as u64 + size + 4;
                }
                if crate::accessible(key) {
                    fields.insert(crate::escape(key), Field { name: key.clone(), decl });
                }
            }
            if root {
                let text = || sized(Type::String, REQUEST - 2);
                let field = |n: &str, decl: Decl| (n.to_owned(), Field { name: n.to_owned(), decl });
                fields.extend([field("apiVersion", text()), field("kind", text())]);
                let meta = BTreeMap::from([field("name", text()), field("generateName", text())]);
                let meta = ObjectType { name: format!("{name}.metadata"), fields: meta };
                fields.extend([field("metadata", sized(Type::Object(Arc::new(meta)), 0))]);
            }
            Some((sized(Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields })), 0), least))
        }
        "string" => Some(match s.get("format").and_then(Json::as_str).unwrap_or_default() {
            "byte" => (sized(Type::Bytes, count("maxLength").unwrap_or(REQUEST - 2)), 2),
            "duration" => (sized(Type::Duration, 32), 3),
            "date" => (sized(Type::Timestamp, 12), 12),
            "date-time" => (sized(Type::Timestamp, 32), 21),
            _ => {
                let named = s.get("enum").and_then(Json::as_array).filter(|e| !e.is_empty()).map(|e| e.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64);
                (sized(Type::String, length.or(named).unwrap_or(REQUEST - 2)), 2)
            }
        }),
        "boolean" => Some((sized(Type::Bool, 0), 4)),
        "number" => Some((sized(Type::Double, 0), 1)),
        "integer" => Some((sized(Type::Int, 0), 1)),
        _ => None,
    }
}

/// The declaration of a built-in kind, as policies are checked against it: fields whose values have no
/// one type in its schema are not there.
#[must_use]
pub fn builtin(ty: &'static Builtin) -> Decl {
    Decl::of(object(ty, 0))
}

/// The declaration of a custom resource, as policies are checked against it: with all metadata.
#[must_use]
pub fn custom(schema: &Json, name: &str) -> Option<Decl> {
    let decl = structural(schema, name, true)?;
    let Type::Object(o) = &decl.ty else { return Some(decl) };
    let mut fields = o.fields.clone();
    if let Some(meta) = knarr_schema::types::types().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        fields.insert("metadata".into(), Field { name: "metadata".into(), decl: Decl::of(object(meta, 1)) });
    }
    Some(Decl::of(Type::Object(Arc::new(ObjectType { name: o.name.clone(), fields }))))
}

fn object(ty: &'static Builtin, depth: usize) -> Type {
    // Types that contain themselves (JSON schemas) are not followed for ever.
    if depth > 12 {
        return Type::Dyn;
    }
    let mut fields = BTreeMap::new();
    ty.each_field(&mut |f| {
        if let Some(decl) = shape(&f.shape, depth + 1).filter(|_| crate::accessible(f.name)) {
            fields.insert(crate::escape(f.name), Field { name: f.name.to_owned(), decl });
        }
    });
    if depth == 0 {
        for n in ["apiVersion", "kind"] {
            fields.entry(n.to_owned()).or_insert_with(|| Field { name: n.to_owned(), decl: Decl::of(Type::String) });
        }
    }
    Type::Object(Arc::new(ObjectType { name: ty.name.to_owned(), fields }))
}

fn shape(s: &Shape, depth: usize) -> Option<Decl> {
    Some(Decl::of(match s {
        Shape::String | Shape::Duration => Type::String,
        Shape::Bool => Type::Bool,
        Shape::Int32 | Shape::Int64 | Shape::Uint(_) => Type::Int,
        Shape::Float64 => Type::Double,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::IntOrString => Type::Dyn,
        Shape::RawExtension | Shape::FieldsV1 => Type::Object(ObjectType::new("object", [])),
        Shape::Struct(id) => object(id.get(), depth),
        Shape::List(e) => Type::List(Arc::new(shape(e, depth)?)),
        Shape::Strings => Type::list(Type::String),
        Shape::Map(e) => Type::Map(Arc::new(Type::String), Arc::new(shape(e, depth)?)),
        Shape::Quantity | Shape::Json | Shape::SchemaOrBool | Shape::SchemaOrArray | Shape::SchemaOrStrings => return None,
    }))
}
