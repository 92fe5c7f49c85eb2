//! JSON in and out: typed decoding with field validation, and the normal form that an object
//! has after it went through a Go struct (unknown fields gone, empty optional members gone,
//! mandatory members present, quantities and times canonical).

mod deep;

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

pub use deep::{MAX_DEPTH, STACK_BYTES, value};

use crate::{
    quantity::Quantity,
    time,
    types::{Field, Shape, Type, Walk},
};

/// What to do with unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; empty is [`FieldValidation::Warn`].
    ///
    /// # Errors
    /// The message for any other text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(format!("fieldValidation: Unsupported value: {}: supported values: \"Ignore\", \"Strict\", \"Warn\"", quote(other))),
        }
    }
}

/// Why a body could not be decoded; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON (or YAML, or protobuf).
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields, in the order they were met.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// A decoded object and what was odd about it.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The object in normal form.
    pub object: Value,
    /// `unknown field "…"`, `duplicate field "…"`; empty with [`FieldValidation::Ignore`].
    pub warnings: Vec<String>,
}

/// Decodes a body into the normal form of `ty`; without a type everything is kept as it is.
///
/// # Errors
/// [`Error::Syntax`], [`Error::Type`], and [`Error::Strict`] when asked for.
pub fn decode(bytes: &[u8], ty: Option<&'static Type>, validation: FieldValidation) -> Result<Decoded, Error> {
    if let Some(why) = deep::too_deep(bytes) {
        return Err(Error::Syntax(why));
    }
    let mut state = State { collect: validation != FieldValidation::Ignore, ..State::default() };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let object = match (Node { state: &mut state, target: Target::root(ty) }).deserialize(&mut reader) {
        Err(e) if deep::is_depth(&e) => return normalize(&deep::value(bytes).map_err(syntax)?, ty, validation),
        object => object.map_err(syntax)?,
    };
    reader.end().map_err(syntax)?;
    state.finish(object, validation)
}

/// Brings a value that is already parsed into the normal form of `ty`.
///
/// # Errors
/// As [`decode`].
pub fn normalize(value: &Value, ty: Option<&'static Type>, validation: FieldValidation) -> Result<Decoded, Error> {
    let mut state = State { collect: validation != FieldValidation::Ignore, ..State::default() };
    let object = Node { state: &mut state, target: Target::root(ty) }.deserialize(value).map_err(syntax)?;
    state.finish(object, validation)
}

/// Runs another format's reader over the typed visitor.
pub(crate) fn with_node(ty: Option<&'static Type>, validation: FieldValidation, read: impl FnOnce(Node<'_>) -> Result<Value, Error>) -> Result<Decoded, Error> {
    let mut state = State { collect: validation != FieldValidation::Ignore, ..State::default() };
    let object = read(Node { state: &mut state, target: Target::root(ty) })?;
    state.finish(object, validation)
}

/// Parses any JSON document, telling of duplicate keys.
///
/// # Errors
/// As [`decode`].
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    deep::value(bytes).map_err(syntax)
}

fn syntax(error: serde_json::Error) -> Error {
    Error::Syntax(match error.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input".to_owned(),
        _ => format!("json: {error}"),
    })
}

/// The zero value of a struct: what an empty body becomes.
pub fn empty(ty: &'static Type) -> Map<String, Value> {
    let mut object = Map::new();
    fill(ty, &mut object);
    object
}

#[derive(Default)]
struct State {
    path: String,
    go_path: Vec<&'static str>,
    owner: &'static str,
    collect: bool,
    strict: Vec<String>,
    mismatch: Option<String>,
}

impl State {
    fn finish(self, object: Value, validation: FieldValidation) -> Result<Decoded, Error> {
        if let Some(message) = self.mismatch {
            return Err(Error::Type(message));
        }
        if validation == FieldValidation::Strict && !self.strict.is_empty() {
            return Err(Error::Strict(self.strict));
        }
        Ok(Decoded { object, warnings: self.strict })
    }

    fn odd(&mut self, what: &str, key: &str) {
        if self.collect && self.strict.len() < 100 {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.strict.push(format!("{what} field \"{}{dot}{key}\"", self.path));
        }
    }

    fn wrong(&mut self, what: &str, target: Target) {
        if self.mismatch.is_some() {
            return;
        }
        let name = target.go_name();
        self.mismatch = Some(if self.owner.is_empty() {
            format!("json: cannot unmarshal {what} into Go value of type {name}")
        } else {
            format!("json: cannot unmarshal {what} into Go struct field {}.{} of type {name}", self.owner, self.go_path.join("."))
        });
    }

    fn fault(&mut self, message: String) {
        self.mismatch.get_or_insert(message);
    }
}

#[derive(Clone, Copy)]
struct Target {
    shape: Option<Shape>,
    go_type: &'static str,
}

impl Target {
    fn root(ty: Option<&'static Type>) -> Self {
        Self { shape: ty.map(|t| Shape::Struct(t.id())), go_type: "" }
    }

    fn element(self) -> Self {
        let go_type = self.go_type.strip_prefix("[]").unwrap_or_default();
        match self.shape {
            Some(Shape::List(e) | Shape::Map(e)) => Self { shape: Some(*e), go_type },
            _ => Self { shape: None, go_type: "" },
        }
    }

    fn go_name(self) -> String {
        if !self.go_type.is_empty() {
            return self.go_type.to_owned();
        }
        self.shape.map_or_else(|| "interface {}".to_owned(), go_name)
    }
}

fn go_name(shape: Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Bool => "bool".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Uint(bits) => format!("uint{bits}"),
        Shape::Float64 => "float64".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Duration => "v1.Duration".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::RawExtension => "runtime.RawExtension".into(),
        Shape::FieldsV1 => "v1.FieldsV1".into(),
        Shape::Json => "v1.JSON".into(),
        Shape::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
        Shape::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
        Shape::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".into(),
        Shape::Strings => "[]string".into(),
        Shape::Struct(id) => id.get().go_name(),
        Shape::List(e) => format!("[]{}", go_name(*e)),
        Shape::Map(e) => format!("map[string]{}", go_name(*e)),
    }
}

pub(crate) struct Node<'s> {
    state: &'s mut State,
    target: Target,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        match self.target.shape {
            None | Some(Shape::Bool | Shape::Json | Shape::SchemaOrBool | Shape::RawExtension | Shape::FieldsV1) => Ok(v.into()),
            Some(Shape::IntOrString) => {
                self.state.wrong("bool", Target { shape: Some(Shape::Int32), go_type: "" });
                Ok(Value::Null)
            }
            _ => {
                self.state.wrong("bool", self.target);
                Ok(Value::Null)
            }
        }
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        self.integer(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        self.integer(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        let number = number(v);
        match self.target.shape {
            None | Some(Shape::Float64 | Shape::Json | Shape::RawExtension | Shape::FieldsV1) => Ok(number),
            Some(Shape::Quantity) => Ok(self.state.quantity(&number.to_string())),
            Some(Shape::Int32 | Shape::Int64 | Shape::Uint(_)) => {
                self.state.wrong(&format!("number {number}"), self.target);
                Ok(Value::Null)
            }
            Some(Shape::IntOrString) => {
                self.state.wrong(&format!("number {number}"), Target { shape: Some(Shape::Int32), go_type: "" });
                Ok(Value::Null)
            }
            _ => {
                self.state.wrong("number", self.target);
                Ok(Value::Null)
            }
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.visit_string(v.to_owned())
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        let state = self.state;
        match self.target.shape {
            None | Some(Shape::String | Shape::IntOrString | Shape::Json | Shape::RawExtension | Shape::FieldsV1) => Ok(v.into()),
            Some(Shape::Quantity) => Ok(state.quantity(&v)),
            Some(Shape::Time) => Ok(state.time(&v, time::canonical)),
            Some(Shape::MicroTime) => Ok(state.time(&v, time::canonical_micro)),
            Some(Shape::Duration) => match time::canonical_duration(&v) {
                Ok(text) => Ok(text.into()),
                Err(message) => {
                    state.fault(message);
                    Ok(Value::Null)
                }
            },
            Some(Shape::Bytes) => {
                let clean: String = v.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                match STANDARD.decode(&clean) {
                    Ok(_) => Ok(clean.into()),
                    Err(_) => {
                        state.fault(format!("illegal base64 data at input byte {}", illegal_base64(&clean)));
                        Ok(Value::Null)
                    }
                }
            }
            _ => {
                state.wrong("string", self.target);
                Ok(Value::Null)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let element = match self.target.shape {
            Some(Shape::List(_)) | None => self.target.element(),
            Some(Shape::Json | Shape::RawExtension | Shape::FieldsV1) => Target { shape: None, go_type: "" },
            Some(Shape::Strings | Shape::SchemaOrStrings) => Target { shape: Some(Shape::String), go_type: "" },
            Some(Shape::SchemaOrArray) => Target { shape: schema_props(), go_type: "" },
            _ => {
                self.state.wrong("array", self.target);
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Null);
            }
        };
        let mut items = Vec::new();
        let length = self.state.path.len();
        loop {
            use fmt::Write;
            let _ = write!(self.state.path, "[{}]", items.len());
            let next = seq.next_element_seed(Node { state: &mut *self.state, target: element })?;
            self.state.path.truncate(length);
            match next {
                Some(Value::Null) => items.push(element.shape.map_or(Value::Null, zero)),
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        match self.target.shape {
            Some(Shape::Struct(id)) => self.visit_struct(id.get(), map),
            Some(Shape::SchemaOrBool | Shape::SchemaOrArray | Shape::SchemaOrStrings) => match schema_props() {
                Some(Shape::Struct(id)) => self.visit_struct(id.get(), map),
                _ => self.visit_open(map, Target { shape: None, go_type: "" }),
            },
            Some(Shape::Map(_)) => {
                let element = self.target.element();
                self.visit_open(map, element)
            }
            None | Some(Shape::Json | Shape::RawExtension | Shape::FieldsV1) => self.visit_open(map, Target { shape: None, go_type: "" }),
            _ => {
                self.state.wrong("object", self.target);
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Null)
            }
        }
    }
}

fn schema_props() -> Option<Shape> {
    crate::types::types().named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").map(|t| Shape::Struct(t.id()))
}

impl Node<'_> {
    fn integer<E: de::Error>(self, v: i128) -> Result<Value, E> {
        let number = || u64::try_from(v).map_or_else(|_| Value::from(v as i64), Value::from);
        let fits = match self.target.shape {
            None | Some(Shape::Json | Shape::Float64 | Shape::RawExtension | Shape::FieldsV1) => return Ok(number()),
            Some(Shape::Int32) => i32::try_from(v).is_ok(),
            Some(Shape::Int64) => i64::try_from(v).is_ok(),
            Some(Shape::Uint(bits)) => v >= 0 && v < (1i128 << bits),
            Some(Shape::IntOrString) => {
                if i32::try_from(v).is_err() {
                    self.state.wrong(&format!("number {v}"), Target { shape: Some(Shape::Int32), go_type: "" });
                }
                return Ok(number());
            }
            Some(Shape::Quantity) => return Ok(self.state.quantity(&v.to_string())),
            _ => {
                self.state.wrong("number", self.target);
                return Ok(Value::Null);
            }
        };
        if !fits {
            self.state.wrong(&format!("number {v}"), self.target);
            return Ok(Value::Null);
        }
        Ok(number())
    }

    fn visit_open<'de, A: MapAccess<'de>>(self, mut map: A, element: Target) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let length = self.state.path.len();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                self.state.odd("duplicate", &key);
            }
            enter(&mut self.state.path, &key);
            let value = map.next_value_seed(Node { state: &mut *self.state, target: element })?;
            self.state.path.truncate(length);
            let value = if value.is_null() { element.shape.map_or(Value::Null, zero) } else { value };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }

    fn visit_struct<'de, A: MapAccess<'de>>(self, ty: &'static Type, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut nulls: Vec<String> = Vec::new();
        let length = self.state.path.len();
        let outer = self.state.owner;
        while let Some(key) = map.next_key::<String>()? {
            let Some((field, owner)) = ty.field_and_owner(&key) else {
                self.state.odd("unknown", &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if object.contains_key(&key) || nulls.contains(&key) {
                self.state.odd("duplicate", &key);
            }
            enter(&mut self.state.path, &key);
            self.state.go_path.push(field.name);
            self.state.owner = ty.short_name();
            // A field of a struct within is named with that struct.
            let embedded = owner.name != ty.name;
            if embedded {
                let at = self.state.go_path.len() - 1;
                self.state.go_path.insert(at, owner.short_name());
            }
            let target = Target { shape: Some(field.shape), go_type: field.go_type };
            let value = map.next_value_seed(Node { state: &mut *self.state, target })?;
            self.state.go_path.pop();
            if embedded {
                self.state.go_path.pop();
            }
            self.state.path.truncate(length);
            if value.is_null() {
                nulls.push(key);
            } else if !(omitted(field, &value)) {
                object.insert(key, value);
            } else {
                object.remove(&key);
                nulls.push(key);
            }
        }
        self.state.owner = outer;
        fill(ty, &mut object);
        Ok(Value::Object(object))
    }
}

impl State {
    fn quantity(&mut self, text: &str) -> Value {
        match Quantity::parse(text) {
            Ok(quantity) => quantity.to_string().into(),
            Err(error) => {
                self.fault(error.to_string());
                Value::Null
            }
        }
    }

    fn time(&mut self, text: &str, canonical: fn(&str) -> Result<String, String>) -> Value {
        match canonical(text) {
            Ok(text) => text.into(),
            Err(message) => {
                self.fault(message);
                Value::Null
            }
        }
    }
}

fn enter(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

fn illegal_base64(text: &str) -> usize {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.bytes().position(|b| !ok(b)).unwrap_or(text.len() - text.len() % 4)
}

/// Whether Go leaves the member out of JSON.
pub(crate) fn omitted(field: &Field, value: &Value) -> bool {
    if field.pointer {
        return false;
    }
    let empty = match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    match field.shape {
        Shape::Struct(id) => field.omit_zero && value.as_object().is_some_and(|o| is_zero(id.get(), o)),
        Shape::Time | Shape::MicroTime | Shape::RawExtension => field.omit_zero && empty,
        Shape::Quantity => field.omit_zero && value == "0",
        Shape::IntOrString => field.omit_zero && empty,
        Shape::Duration => field.omit_zero && value == "0s",
        _ => empty && (field.omit_empty || field.omit_zero),
    }
}

/// Whether the struct is its zero value.
pub fn is_zero(ty: &'static Type, object: &Map<String, Value>) -> bool {
    object.is_empty() || *object == empty(ty)
}

/// Brings a struct whose members are in normal form into normal form itself.
pub(crate) fn settle(ty: &'static Type, object: &mut Map<String, Value>) {
    let mut fields = Walk::new(ty.by_name());
    object.retain(|name, value| match fields.find(name, |f| f.name) {
        Some(field) => !value.is_null() && !omitted(field, value),
        None => true,
    });
    fill(ty, object);
}

/// Adds the members that Go always writes.
fn fill(ty: &'static Type, object: &mut Map<String, Value>) {
    for field in ty.always_written() {
        if !object.contains_key(field.name) {
            object.insert(field.name.to_owned(), unset(field));
        }
    }
}

/// What Go writes of a field that nobody has set.
pub(crate) fn unset(field: &Field) -> Value {
    match field.shape {
        _ if field.pointer => Value::Null,
        Shape::List(_) | Shape::Map(_) | Shape::Bytes | Shape::Strings => Value::Null,
        shape => zero(shape),
    }
}

/// The zero value as Go writes it.
pub fn zero(shape: Shape) -> Value {
    match shape {
        Shape::String => "".into(),
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Uint(_) | Shape::IntOrString | Shape::Float64 => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Duration => "0s".into(),
        Shape::Struct(id) => Value::Object(empty(id.get())),
        _ => Value::Null,
    }
}

/// A float as Go writes it: whole numbers have no fraction.
pub(crate) fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 9e15 { Value::from(v as i64) } else { Value::from(v) }
}

/// A string as Go's `%q` quotes it.
pub fn quote(text: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
