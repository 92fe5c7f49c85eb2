//! The documents in the protobuf forms that clients may ask for: gnostic's `openapi.v2.Document` and
//! `openapi.v3.Document`, by tables of their messages.

mod v2;
mod v3;

use serde_json::{Map, Value};

use crate::{
    proto::encode::{bytes, nested, tag, varint},
    yaml,
};

pub use v2::encode as encode_v2;
pub use v3::encode as encode_v3;

/// What a member of a JSON object becomes.
enum Form {
    Text,
    Texts,
    Flag,
    Whole,
    Number,
    /// Any value, as YAML.
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// A map: pairs of a name and a message.
    Named(&'static Message),
    /// A message or a reference to one.
    Either(&'static Message),
    /// A list of them.
    Eithers(&'static Message),
    /// A map of them.
    NamedEither(&'static Message),
    /// Something of its own.
    Own(fn(&Value, &mut Vec<u8>)),
    /// A list of them.
    Owns(fn(&Value, &mut Vec<u8>)),
    /// A map of them.
    NamedOwn(fn(&Value, &mut Vec<u8>)),
}

use Form::{Any, Anys, Either, Eithers, Flag, Many, Named, NamedEither, NamedOwn, Number, One, Own, Owns, Text, Texts, Whole};

/// A message: members with their numbers, and the number of the list of extensions (0: none).
struct Message {
    members: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

/// A reference in version 3.
static REFERENCE: Message = Message { members: &[("$ref", 1, Text), ("summary", 2, Text), ("description", 3, Text)], extensions: 0 };

/// YAML in the style of upstream's library: four spaces, empty texts in double quotes.
fn any(v: &Value, out: &mut Vec<u8>) {
    let text = String::from_utf8(yaml::encode(v)).unwrap_or_default();
    let mut styled = String::with_capacity(text.len() + 8);
    let lists = text.lines().any(|l| l.trim_start().starts_with("- "));
    for line in text.lines() {
        if !lists {
            styled.extend(line.chars().take_while(|c| *c == ' '));
        }
        match line.strip_suffix("''") {
            Some(key) if key.is_empty() || key.ends_with(": ") => styled.extend([key, "\"\""]),
            _ => styled.push_str(line),
        }
        styled.push('\n');
    }
    bytes(out, 2, styled.as_bytes());
}

fn pair(out: &mut Vec<u8>, number: u32, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    nested(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        nested(out, 2, value);
    });
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

fn entries(v: &Value) -> impl Iterator<Item = (&String, &Value)> {
    v.as_object().into_iter().flat_map(Map::iter)
}

fn extensions(v: &Value, number: u32, out: &mut Vec<u8>) {
    for (k, v) in entries(v).filter(|(k, _)| k.starts_with("x-")) {
        pair(out, number, k, |out| any(v, out));
    }
}

fn member(v: &Value, number: u32, form: &Form, out: &mut Vec<u8>) {
    match form {
        Text => {
            if let Some(s) = v.as_str().filter(|s| !s.is_empty()) {
                bytes(out, number, s.as_bytes());
            }
        }
        Texts => list(v).iter().filter_map(Value::as_str).for_each(|s| bytes(out, number, s.as_bytes())),
        Flag => {
            if v == &Value::Bool(true) {
                tag(out, number, 0);
                out.push(1);
            }
        }
        Whole => {
            if let Some(n) = v.as_i64().filter(|n| *n != 0) {
                tag(out, number, 0);
                varint(out, n.cast_unsigned());
            }
        }
        Number => {
            if let Some(n) = v.as_f64().filter(|n| *n != 0.0) {
                tag(out, number, 1);
                out.extend_from_slice(&n.to_le_bytes());
            }
        }
        Any => nested(out, number, |out| any(v, out)),
        Anys => list(v).iter().for_each(|v| nested(out, number, |out| any(v, out))),
        One(m) => nested(out, number, |out| message(v, m, out)),
        Many(m) => list(v).iter().for_each(|v| nested(out, number, |out| message(v, m, out))),
        Named(m) => nested(out, number, |out| entries(v).for_each(|(k, v)| pair(out, 1, k, |out| message(v, m, out)))),
        Either(m) => nested(out, number, |out| either(v, m, out)),
        Eithers(m) => list(v).iter().for_each(|v| nested(out, number, |out| either(v, m, out))),
        NamedEither(m) => nested(out, number, |out| entries(v).for_each(|(k, v)| pair(out, 1, k, |out| either(v, m, out)))),
        Own(f) => nested(out, number, |out| f(v, out)),
        Owns(f) => list(v).iter().for_each(|v| nested(out, number, |out| f(v, out))),
        NamedOwn(f) => nested(out, number, |out| entries(v).for_each(|(k, v)| pair(out, 1, k, |out| f(v, out)))),
    }
}

fn message(v: &Value, m: &Message, out: &mut Vec<u8>) {
    for (name, number, form) in m.members {
        if let Some(v) = v.get(*name) {
            member(v, *number, form, out);
        }
    }
    if m.extensions > 0 {
        extensions(v, m.extensions, out);
    }
}

/// A message, or a reference to one.
fn either(v: &Value, m: &Message, out: &mut Vec<u8>) {
    let (number, form) = if v.get("$ref").is_some() { (2, &REFERENCE) } else { (1, m) };
    nested(out, number, |out| message(v, form, out));
}
