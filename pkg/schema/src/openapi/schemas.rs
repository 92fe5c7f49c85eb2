//! Schemas of types, with the `x-kubernetes` extensions.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::{
    catalog::{GroupVersion, Resource},
    types::{Field, Merge, Shape, Type, types},
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Collects the schemas that a document refers to.
pub(super) struct Writer {
    pub(super) dialect: Dialect,
    schemas: BTreeMap<String, Value>,
    kinds: HashMap<&'static str, Vec<(&'static str, &'static str, &'static str)>>,
    #[cfg(feature = "descriptions")]
    descriptions: super::descriptions::Descriptions,
}

impl Writer {
    /// For a document of version 2, or one of version 3 that is of a group and version.
    pub(super) fn new(dialect: Dialect, scope: Option<GroupVersion>) -> Self {
        let mut kinds: HashMap<_, Vec<_>> = HashMap::new();
        for (group, version, kind, ty) in types().kinds() {
            kinds.entry(ty.name).or_default().push((group, version, kind));
        }
        // Kinds that every group and version has.
        let custom = scope.as_ref().is_some_and(|s| !types().group_versions().contains(&(&*s.group, &*s.version)));
        for name in ["DeleteOptions", "WatchEvent"] {
            let Some(ty) = types().named(&format!("{META}{name}")) else { continue };
            let known = types().group_versions().iter().filter(|(group, version)| match (&scope, dialect) {
                (_, Dialect::V2) | (None, _) => true,
                (Some(_), _) if custom => !SERVERS.contains(group),
                (Some(scope), _) => group.is_empty() || (scope.group == *group && scope.version == *version),
            });
            kinds.insert(ty.name, known.map(|(group, version)| (*group, *version, name)).collect());
        }
        kinds.values_mut().for_each(|all| all.sort_unstable());
        Writer {
            dialect,
            schemas: BTreeMap::new(),
            kinds,
            #[cfg(feature = "descriptions")]
            descriptions: super::descriptions::Descriptions::load(),
        }
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.schemas.into_iter().collect()
    }

    /// A reference to the schema of that name; its schema is added if it is a type of the table.
    pub(super) fn reference(&mut self, name: &str) -> Value {
        if !self.schemas.contains_key(name) {
            if let Some(ty) = types().named(name) {
                self.add(ty);
            } else if let Some(schema) = self.special(name) {
                self.schemas.insert(name.to_owned(), schema);
            }
        }
        json!({ "$ref": format!("{}{name}", self.dialect.root()) })
    }

    /// A reference to a type of apimachinery's `meta/v1`.
    pub(super) fn meta(&mut self, name: &str) -> Value {
        self.reference(&format!("{META}{name}"))
    }

    /// A reference to the schema of a resource's objects.
    pub(super) fn object(&mut self, row: &Resource) -> Value {
        let Some(ty) = row.ty else {
            let name = custom_name(row);
            if !self.schemas.contains_key(&name) {
                let schema = custom(row, self);
                self.schemas.insert(name.clone(), schema);
            }
            return json!({ "$ref": format!("{}{name}", self.dialect.root()) });
        };
        self.reference(ty.name)
    }

    /// A reference to the schema of a list of a resource's objects.
    pub(super) fn list(&mut self, row: &Resource) -> Value {
        if let Some(ty) = types().kind(&row.group, &row.version, &row.list_kind) {
            return self.reference(ty.name);
        }
        let name = format!("{}List", custom_name(row));
        if !self.schemas.contains_key(&name) {
            let item = self.object(row);
            let meta = self.meta("ListMeta");
            let meta = if self.dialect == Dialect::V3 { json!({ "allOf": [meta] }) } else { meta };
            let schema = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": self.envelope("apiVersion"),
                    "kind": self.envelope("kind"),
                    "metadata": meta,
                    "items": { "type": "array", "items": item },
                },
                "x-kubernetes-group-version-kind": [
                    { "group": row.group, "version": row.version, "kind": row.list_kind },
                ],
            });
            self.schemas.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("{}{name}", self.dialect.root()) })
    }

    fn add(&mut self, ty: &'static Type) {
        // The name stands first: types refer to themselves.
        self.schemas.insert(ty.name.to_owned(), Value::Null);
        let mut properties = Map::new();
        let mut required = Vec::new();
        ty.each_field(&mut |field| {
            if field.required {
                required.push(Value::from(field.name));
            }
            properties.insert(field.name.to_owned(), Value::Null);
        });
        let names: Vec<String> = properties.keys().cloned().collect();
        for name in names {
            if let Some(field) = ty.field(&name) {
                let schema = self.property(ty, field);
                properties.insert(name, schema);
            }
        }
        let mut schema = Map::from_iter([("type".to_owned(), json!("object"))]);
        self.describe(&mut schema, ty.name, None);
        if !properties.is_empty() {
            schema.insert("properties".into(), Value::Object(properties));
        }
        if !required.is_empty() {
            schema.insert("required".into(), Value::Array(required));
        }
        if ty.atomic {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(unions) = ty.unions.and_then(|u| serde_json::from_str::<Value>(u).ok()) {
            schema.insert("x-kubernetes-unions".into(), unions);
        }
        if let Some(kinds) = self.kinds.get(ty.name) {
            let list = kinds.iter().map(|(g, v, k)| json!({ "group": g, "version": v, "kind": k }));
            schema.insert("x-kubernetes-group-version-kind".into(), list.collect());
        }
        self.schemas.insert(ty.name.to_owned(), Value::Object(schema));
    }

    /// `apiVersion` or `kind` of an object that has no type of its own, with the words that every
    /// built-in kind has for it.
    fn envelope(&self, field: &str) -> Value {
        let mut schema = Map::from_iter([("type".to_owned(), json!("string"))]);
        self.describe(&mut schema, "io.k8s.api.core.v1.Pod", Some(field));
        Value::Object(schema)
    }

    #[cfg_attr(not(feature = "descriptions"), allow(unused_variables, clippy::unused_self))]
    fn describe(&self, schema: &mut Map<String, Value>, ty: &str, field: Option<&str>) -> bool {
        #[cfg(feature = "descriptions")]
        if let Some(text) = self.descriptions.find(ty, field) {
            schema.insert("description".into(), text.into());
            return true;
        }
        false
    }

    fn property(&mut self, ty: &Type, field: &Field) -> Value {
        let mut schema = self.shape(&field.shape);
        let Some(map) = schema.as_object_mut() else { return schema };
        // Beside a `$ref` version 3 allows nothing, so the reference moves one down.
        let described = self.describe(map, ty.name, Some(field.name));
        let default = (self.dialect == Dialect::V3).then(|| stated_default(field)).flatten();
        if self.dialect == Dialect::V3
            && (described || default.is_some() || !ty.name.ends_with(".JSONSchemaProps"))
            && let Some(reference) = map.remove("$ref")
        {
            map.insert("allOf".into(), json!([{ "$ref": reference }]));
        }
        if let Some(default) = default {
            map.insert("default".into(), default);
        }
        if !field.enumeration.is_empty() {
            map.insert("enum".into(), json!(field.enumeration));
        }
        let values: Vec<String> = field.element_values().collect();
        if !values.is_empty() {
            for word in ["items", "additionalProperties"] {
                if let Some(Value::Object(element)) = map.get_mut(word) {
                    element.insert("enum".into(), json!(values));
                }
            }
        }
        let merge = |m: Merge, map_word: &str| match m {
            Merge::Unset => None,
            Merge::Atomic => Some("atomic".to_owned()),
            Merge::Set => Some("set".to_owned()),
            Merge::Map => Some(map_word.to_owned()),
        };
        if let Some(word) = merge(field.list_type, "map") {
            map.insert("x-kubernetes-list-type".into(), word.into());
        }
        if !field.list_keys.is_empty() {
            map.insert("x-kubernetes-list-map-keys".into(), json!(field.list_keys));
        }
        if let Some(word) = merge(field.map_type, "granular") {
            map.insert("x-kubernetes-map-type".into(), word.into());
        }
        let strategies: Vec<_> = [
            (field.patch_merge, "merge"),
            (field.patch_replace, "replace"),
            (field.patch_retain_keys, "retainKeys"),
        ]
        .into_iter()
        .filter_map(|(on, word)| on.then_some(word))
        .collect();
        if !strategies.is_empty() {
            map.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
        }
        if !field.patch_merge_key.is_empty() {
            map.insert("x-kubernetes-patch-merge-key".into(), field.patch_merge_key.into());
        }
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String | Shape::Duration => json!({ "type": "string" }),
            Shape::Bool => json!({ "type": "boolean" }),
            Shape::Int32 => json!({ "type": "integer", "format": "int32" }),
            Shape::Int64 => json!({ "type": "integer", "format": "int64" }),
            Shape::Uint(8) => json!({ "type": "integer", "format": "byte" }),
            Shape::Uint(64) => json!({ "type": "integer", "format": "int64" }),
            Shape::Uint(_) => json!({ "type": "integer", "format": "int32" }),
            Shape::Float64 => json!({ "type": "number", "format": "double" }),
            Shape::Bytes => json!({ "type": "string", "format": "byte" }),
            Shape::Quantity => self.reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Shape::Time => self.meta("Time"),
            Shape::MicroTime => self.meta("MicroTime"),
            Shape::FieldsV1 => self.meta("FieldsV1"),
            Shape::IntOrString => self.reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Shape::RawExtension => self.reference("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            Shape::Json => self.reference(&format!("{EXTENSIONS}JSON")),
            Shape::SchemaOrBool => self.reference(&format!("{EXTENSIONS}JSONSchemaPropsOrBool")),
            Shape::SchemaOrArray => self.reference(&format!("{EXTENSIONS}JSONSchemaPropsOrArray")),
            Shape::SchemaOrStrings => {
                self.reference(&format!("{EXTENSIONS}JSONSchemaPropsOrStringArray"))
            }
            Shape::Strings => json!({ "type": "array", "items": { "type": "string" } }),
            Shape::Struct(id) => self.reference(id.get().name),
            Shape::List(element) => {
                let items = self.shape(element);
                json!({ "type": "array", "items": items })
            }
            Shape::Map(element) => {
                let items = self.shape(element);
                json!({ "type": "object", "additionalProperties": items })
            }
        }
    }

    /// Types whose JSON form is not a struct's.
    fn special(&self, name: &str) -> Option<Value> {
        let v3 = self.dialect == Dialect::V3;
        let mut schema = match name.rsplit('.').next()? {
            "Quantity" if v3 => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
            "Quantity" => json!({ "type": "string" }),
            "Time" | "MicroTime" => json!({ "type": "string", "format": "date-time" }),
            "IntOrString" if v3 => json!({
                "format": "int-or-string",
                "oneOf": [{ "type": "integer" }, { "type": "string" }],
            }),
            "IntOrString" => json!({ "type": "string", "format": "int-or-string" }),
            "RawExtension" | "FieldsV1" | "Patch" => json!({ "type": "object" }),
            "JSON" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray"
            | "JSONSchemaPropsOrStringArray" => json!({}),
            _ => return None,
        };
        if let Some(map) = schema.as_object_mut() {
            self.describe(map, name, None);
        }
        Some(schema)
    }
}

/// Groups that the documents of custom resources know nothing of.
const SERVERS: &[&str] = &["admission.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "imagepolicy.k8s.io"];

/// The default that version 3 states: what is written where nothing is given.
fn stated_default(field: &Field) -> Option<Value> {
    if let Some(text) = field.stated_default() {
        return serde_json::from_str(text).ok();
    }
    match field.shape {
        _ if field.blank_default => Some(json!("")),
        _ if field.pointer => None,
        Shape::Struct(_) => Some(json!({})),
        _ if field.omit_empty => None,
        Shape::Bool => Some(json!(false)),
        Shape::Int32 | Shape::Int64 | Shape::Uint(_) => Some(json!(0)),
        _ => None,
    }
}

/// The name of a custom resource's schema: its group's labels in reverse, version and kind.
fn custom_name(row: &Resource) -> String {
    let mut labels: Vec<&str> = row.group.split('.').collect();
    labels.reverse();
    format!("{}.{}.{}", labels.join("."), row.version, row.kind)
}

/// The schema of a custom resource, as its definition gives it, with the parts that every
/// object has.
fn custom(row: &Resource, writer: &mut Writer) -> Value {
    let whole = || json!({ "type": "object", PRESERVE: true });
    let mut schema = row.schema.as_deref().cloned().unwrap_or_else(whole);
    let v2 = writer.dialect == Dialect::V2;
    // kubectl takes a type with properties for one that has no others.
    let open = v2 && schema.get(PRESERVE) == Some(&Value::Bool(true));
    if open {
        schema = json!({ "type": "object" });
        writer.meta("ObjectMeta");
    } else if v2 {
        simplify(&mut schema);
    }
    embed(&mut schema, writer);
    if let Some(map) = schema.as_object_mut() {
        if !open {
            envelope(map, writer);
        }
        let kind = json!([{ "group": row.group, "version": row.version, "kind": row.kind }]);
        map.insert("x-kubernetes-group-version-kind".into(), kind);
    }
    schema
}

/// Adds the parts that every object has to an object's properties.
fn envelope(schema: &mut Map<String, Value>, writer: &mut Writer) {
    let meta = writer.meta("ObjectMeta");
    let mut meta = if writer.dialect == Dialect::V3 { json!({ "allOf": [meta] }) } else { meta };
    if let Some(meta) = meta.as_object_mut() {
        writer.describe(meta, "io.k8s.api.core.v1.Pod", Some("metadata"));
    }
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".into(), writer.envelope("apiVersion"));
        properties.insert("kind".into(), writer.envelope("kind"));
        properties.insert("metadata".into(), meta);
    }
}

/// Writes out what short words in a custom resource's schema stand for: whole objects, and numbers
/// that may be text.
fn embed(schema: &mut Value, writer: &mut Writer) {
    let Some(map) = schema.as_object_mut() else { return };
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(word) {
            embed(inner, writer);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|p| embed(p, writer));
    }
    let (says, v2) = (|word: &str| map.get(word) == Some(&Value::Bool(true)), writer.dialect == Dialect::V2);
    if says("x-kubernetes-int-or-string") && !v2 && !map.contains_key("anyOf") && !map.contains_key("allOf") {
        map.insert("anyOf".into(), json!([{ "type": "integer" }, { "type": "string" }]));
        return;
    }
    if !says("x-kubernetes-embedded-resource") || (v2 && says(PRESERVE)) {
        return;
    }
    envelope(map, writer);
    let required = map.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        for word in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r == word) {
                required.push(word.into());
            }
        }
    }
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// Leaves what version 2 can say of a custom resource's schema, and no more than its readers bear:
/// no alternatives, and nothing about what may be null or anything.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for word in ["allOf", "oneOf", "anyOf", "not", "default"] {
        map.remove(word);
    }
    let nullable = |s: &Value| s.get("nullable") == Some(&Value::Bool(true));
    if map.remove("nullable") == Some(Value::Bool(true)) {
        for word in ["type", "items", "properties"] {
            map.remove(word);
        }
    }
    if map.get(PRESERVE) == Some(&Value::Bool(true)) {
        map.remove("items");
        map.remove("properties");
        if map.get("type") == Some(&json!("object")) {
            map.remove("type");
        }
    }
    if map.get("type") == Some(&json!("array")) && !map.contains_key("items") {
        map.remove("type");
    }
    if map.get("additionalProperties").is_some_and(nullable) {
        map.remove("required");
    }
    if let Some(Value::Array(mut required)) = map.remove("required") {
        let properties = map.get("properties");
        required.retain(|r| !r.as_str().and_then(|r| properties?.get(r)).is_some_and(nullable));
        if !required.is_empty() {
            map.insert("required".into(), Value::Array(required));
        }
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(word) {
            simplify(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
}

#[cfg(test)]
mod tests {
    use super::{json, simplify};

    #[test]
    fn version_2_says_less() {
        let mut schema = json!({"type": "object", "anyOf": [{}], "properties": {
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
            "none": {"type": "string", "nullable": true, "description": "d"},
            "list": {"type": "array", "items": {"type": "object", "not": {}, "additionalProperties": {"nullable": false, "type": "string"}}},
        }});
        simplify(&mut schema);
        assert_eq!(schema, json!({"type": "object", "properties": {
            "free": {"x-kubernetes-preserve-unknown-fields": true},
            "none": {"description": "d"},
            "list": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}},
        }}));
    }
}
