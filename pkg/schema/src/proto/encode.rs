//! Values to wire bytes.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::{
    quantity::Quantity,
    time,
    types::{Field, Shape, Type, Walk, types},
};

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, 0);
    varint(out, value as u64);
}

pub(crate) fn bytes(out: &mut Vec<u8>, number: u32, data: &[u8]) {
    tag(out, number, 2);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

pub(super) fn text(out: &mut Vec<u8>, number: u32, text: &str) {
    bytes(out, number, text.as_bytes());
}

/// Writes a message whose length is not known beforehand.
pub(crate) fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, number, 2);
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
}

/// Writes a struct's fields in the order of their numbers.
pub(super) fn message(out: &mut Vec<u8>, object: &Map<String, Value>, ty: &'static Type) {
    // Few structs have more; a lookup of each field would cost more than all the rest.
    const MANY: usize = 64;
    let (mut few, mut many) = ([const { None }; MANY], Vec::new());
    let members: &mut [Option<&Value>] = match ty.fields.len() {
        count if count <= MANY => &mut few,
        count => {
            many.resize(count, None);
            &mut many
        }
    };
    let mut own = Walk::new(ty.own_by_name());
    for (name, value) in object {
        if let Some(at) = own.find(name, |i| ty.fields[usize::from(*i)].name) {
            members[usize::from(*at)] = Some(value);
        }
    }
    for at in ty.wire_order() {
        let field = &ty.fields[*at as usize];
        match (field.inline, field.shape) {
            (true, Shape::Struct(id)) => nested(out, field.number, |out| message(out, object, id.get())),
            _ => member(out, field, members[usize::from(*at)].unwrap_or(&Value::Null)),
        }
    }
}

fn member(out: &mut Vec<u8>, field: &Field, value: &Value) {
    match field.shape {
        Shape::List(element) => {
            for item in value.as_array().into_iter().flatten() {
                one(out, field.number, *element, item);
            }
        }
        Shape::Map(element) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                nested(out, field.number, |out| {
                    text(out, 1, key);
                    if !(item.is_null() && matches!(element, Shape::Bytes)) {
                        one(out, 2, *element, item);
                    }
                });
            }
        }
        Shape::Bytes | Shape::Strings if value.is_null() => {}
        _ if field.pointer && value.is_null() => {}
        shape => one(out, field.number, shape, value),
    }
}

fn one(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::String => text(out, number, value.as_str().unwrap_or_default()),
        Shape::Bool => integer(out, number, value.as_bool().unwrap_or_default().into()),
        Shape::Int32 | Shape::Int64 => integer(out, number, value.as_i64().unwrap_or_default()),
        Shape::Uint(_) => integer(out, number, value.as_u64().unwrap_or_default() as i64),
        Shape::Float64 => {
            tag(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Shape::Bytes => bytes(out, number, &STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()),
        Shape::Quantity => nested(out, number, |out| {
            let given = value.as_str().unwrap_or("0");
            match Quantity::parse(given) {
                Ok(quantity) => text(out, 1, &quantity.to_string()),
                Err(_) => text(out, 1, given),
            }
        }),
        Shape::Time | Shape::MicroTime => nested(out, number, |out| {
            if let Some(at) = value.as_str().and_then(time::parse) {
                integer(out, 1, at.seconds);
                let nanos = if shape == Shape::Time { 0 } else { at.nanos / 1000 * 1000 };
                integer(out, 2, nanos.into());
            }
        }),
        Shape::Duration => nested(out, number, |out| integer(out, 1, value.as_str().and_then(time::parse_duration).unwrap_or_default())),
        Shape::IntOrString => nested(out, number, |out| {
            let given = value.as_str();
            integer(out, 1, given.is_some().into());
            integer(out, 2, value.as_i64().unwrap_or_default());
            text(out, 3, given.unwrap_or_default());
        }),
        Shape::RawExtension | Shape::FieldsV1 | Shape::Json => nested(out, number, |out| {
            if !value.is_null() || shape == Shape::Json {
                bytes(out, 1, &serde_json::to_vec(value).unwrap_or_default());
            }
        }),
        Shape::SchemaOrBool => nested(out, number, |out| {
            integer(out, 1, (value.as_bool() != Some(false)).into());
            schema(out, 2, value);
        }),
        Shape::SchemaOrArray => nested(out, number, |out| {
            schema(out, 1, value);
            value.as_array().into_iter().flatten().for_each(|item| schema(out, 2, item));
        }),
        Shape::SchemaOrStrings => nested(out, number, |out| {
            schema(out, 1, value);
            value.as_array().into_iter().flatten().for_each(|item| text(out, 2, item.as_str().unwrap_or_default()));
        }),
        Shape::Strings => nested(out, number, |out| {
            value.as_array().into_iter().flatten().for_each(|item| text(out, 1, item.as_str().unwrap_or_default()));
        }),
        Shape::Struct(id) => nested(out, number, |out| match value.as_object() {
            Some(object) => message(out, object, id.get()),
            None => message(out, &Map::new(), id.get()),
        }),
        // No list of lists and no list of maps has a wire form.
        Shape::List(_) | Shape::Map(_) => {}
    }
}

fn schema(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let (Some(object), Some(ty)) = (value.as_object(), types().named(super::decode::SCHEMA)) {
        nested(out, number, |out| message(out, object, ty));
    }
}
