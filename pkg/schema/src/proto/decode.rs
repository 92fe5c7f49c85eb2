//! Wire bytes to values.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{MAX_DEPTH, fault};
use crate::{
    json::{self, Error},
    time::{self, Instant},
    types::{Field, Shape, Type, types},
};

pub(super) const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

#[derive(Clone, Copy)]
pub(super) enum Wire<'b> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'b [u8]),
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i as u32).min(63);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Ok(value);
        }
    }
    Err(fault(if bytes.len() >= 10 { "integer overflow" } else { "unexpected EOF" }))
}

fn take<'b>(bytes: &mut &'b [u8], length: u64) -> Result<&'b [u8], Error> {
    let length = usize::try_from(length).ok().filter(|l| *l <= bytes.len()).ok_or_else(|| fault("unexpected EOF"))?;
    let (head, tail) = bytes.split_at(length);
    *bytes = tail;
    Ok(head)
}

/// Calls `visit` for each field of a message.
pub(super) fn each<'b>(mut bytes: &'b [u8], mut visit: impl FnMut(u32, Wire<'b>) -> Result<(), Error>) -> Result<(), Error> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).map_err(|_| fault("illegal tag"))?;
        if number == 0 {
            return Err(fault("illegal tag 0"));
        }
        let value = match key & 7 {
            0 => Wire::Varint(varint(&mut bytes)?),
            1 => {
                let mut raw = [0; 8];
                raw.copy_from_slice(take(&mut bytes, 8)?);
                Wire::Fixed(u64::from_le_bytes(raw))
            }
            2 => {
                let length = varint(&mut bytes)?;
                Wire::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                let mut raw = [0; 4];
                raw.copy_from_slice(take(&mut bytes, 4)?);
                Wire::Fixed(u32::from_le_bytes(raw).into())
            }
            other => return Err(fault(format!("illegal wireType {other}"))),
        };
        visit(number, value)?;
    }
    Ok(())
}

pub(super) fn utf8(bytes: &[u8]) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

pub(super) fn message(bytes: &[u8], ty: &'static Type, depth: u32) -> Result<Map<String, Value>, Error> {
    let mut object = Map::new();
    fields(bytes, ty, &mut object, depth)?;
    json::settle(ty, &mut object);
    Ok(object)
}

fn fields(bytes: &[u8], ty: &'static Type, object: &mut Map<String, Value>, depth: u32) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(fault("nested too deeply"));
    }
    each(bytes, |number, wire| {
        let Some(field) = ty.fields.iter().find(|f| f.number == number) else { return Ok(()) };
        match (field.inline, field.shape, wire) {
            (true, Shape::Struct(id), Wire::Bytes(inner)) => fields(inner, id.get(), object, depth + 1),
            _ => member(field, wire, object, depth),
        }
    })
}

fn wrong(field: &Field) -> Error {
    fault(format!("wrong wireType for field {}", field.name))
}

fn member(field: &Field, wire: Wire<'_>, object: &mut Map<String, Value>, depth: u32) -> Result<(), Error> {
    match field.shape {
        Shape::List(element) => {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Ok(()) };
            match (wire, element) {
                // Packed scalars.
                (Wire::Bytes(mut packed), Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Uint(_)) => {
                    while !packed.is_empty() {
                        items.push(one(field, *element, Wire::Varint(varint(&mut packed)?), depth)?);
                    }
                }
                _ => items.push(one(field, *element, wire, depth)?),
            }
        }
        Shape::Map(element) => {
            let Wire::Bytes(entry) = wire else { return Err(wrong(field)) };
            let (mut key, mut value) = (String::new(), None);
            each(entry, |number, wire| {
                match (number, wire) {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, wire) => value = Some(one(field, *element, wire, depth)?),
                    _ => {}
                }
                Ok(())
            })?;
            let value = value.unwrap_or_else(|| if *element == Shape::Bytes { "".into() } else { json::zero(*element) });
            if let Value::Object(map) = object.entry(field.name).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, value);
            }
        }
        shape => {
            let value = one(field, shape, wire, depth)?;
            object.insert(field.name.into(), value);
        }
    }
    Ok(())
}

fn one(field: &Field, shape: Shape, wire: Wire<'_>, depth: u32) -> Result<Value, Error> {
    let data = || match wire {
        Wire::Bytes(data) => Ok(data),
        _ => Err(wrong(field)),
    };
    let number = || match wire {
        Wire::Varint(value) => Ok(value),
        _ => Err(wrong(field)),
    };
    Ok(match shape {
        Shape::String => utf8(data()?)?.into(),
        Shape::Bool => (number()? != 0).into(),
        Shape::Int32 => (number()? as i32).into(),
        Shape::Int64 => (number()? as i64).into(),
        Shape::Uint(_) => number()?.into(),
        Shape::Float64 => match wire {
            Wire::Fixed(bits) => json::number(f64::from_bits(bits)),
            _ => return Err(wrong(field)),
        },
        Shape::Bytes => STANDARD.encode(data()?).into(),
        Shape::Quantity => {
            let mut text = String::from("0");
            each(data()?, |number, wire| {
                if let (1, Wire::Bytes(given)) = (number, wire) {
                    let given = utf8(given)?;
                    let parsed = crate::quantity::Quantity::parse(&given).map_err(|e| Error::Type(e.to_string()))?;
                    text = parsed.to_string();
                }
                Ok(())
            })?;
            text.into()
        }
        Shape::Time | Shape::MicroTime => {
            let data = data()?;
            if data.is_empty() {
                return Ok(Value::Null);
            }
            let mut at = Instant { seconds: 0, nanos: 0 };
            each(data, |number, wire| {
                match (number, wire) {
                    (1, Wire::Varint(seconds)) => at.seconds = seconds as i64,
                    (2, Wire::Varint(nanos)) => at.nanos = (nanos as u32).min(999_999_999),
                    _ => {}
                }
                Ok(())
            })?;
            if !(-62_135_596_800..=253_402_300_799).contains(&at.seconds) {
                return Err(fault("time out of range"));
            }
            if shape == Shape::Time { time::format(at).into() } else { time::format_micro(at).into() }
        }
        Shape::Duration => {
            let mut nanos = 0;
            each(data()?, |number, wire| {
                if let (1, Wire::Varint(value)) = (number, wire) {
                    nanos = value as i64;
                }
                Ok(())
            })?;
            time::format_duration(nanos).into()
        }
        Shape::IntOrString => {
            let (mut kind, mut int, mut text) = (0, 0, String::new());
            each(data()?, |number, wire| {
                match (number, wire) {
                    (1, Wire::Varint(value)) => kind = value,
                    (2, Wire::Varint(value)) => int = value as i32,
                    (3, Wire::Bytes(value)) => text = utf8(value)?,
                    _ => {}
                }
                Ok(())
            })?;
            if kind == 1 { text.into() } else { int.into() }
        }
        Shape::RawExtension | Shape::FieldsV1 | Shape::Json => {
            let mut value = Value::Null;
            each(data()?, |number, wire| {
                if let (1, Wire::Bytes(raw)) = (number, wire) {
                    // A raw extension of a protobuf body may be enveloped protobuf itself.
                    value = if raw.is_empty() {
                        Value::Null
                    } else if raw.starts_with(&super::MAGIC) {
                        super::decode_object(raw)?
                    } else {
                        json::parse(raw)?
                    };
                }
                Ok(())
            })?;
            value
        }
        Shape::SchemaOrBool => {
            let mut value = Value::Bool(false);
            each(data()?, |number, wire| {
                match (number, wire) {
                    (1, Wire::Varint(allows)) if !value.is_object() => value = (allows != 0).into(),
                    (2, Wire::Bytes(raw)) => value = schema(raw, depth)?,
                    _ => {}
                }
                Ok(())
            })?;
            value
        }
        Shape::SchemaOrArray | Shape::SchemaOrStrings => {
            let mut value = Value::Null;
            each(data()?, |number, wire| {
                match (number, wire) {
                    (1, Wire::Bytes(raw)) => value = schema(raw, depth)?,
                    (2, Wire::Bytes(raw)) => {
                        if !value.is_array() {
                            value = Value::Array(Vec::new());
                        }
                        let item = if shape == Shape::SchemaOrArray { schema(raw, depth)? } else { utf8(raw)?.into() };
                        if let Value::Array(items) = &mut value {
                            items.push(item);
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?;
            value
        }
        Shape::Strings => {
            let mut items = Vec::new();
            each(data()?, |number, wire| {
                if let (1, Wire::Bytes(text)) = (number, wire) {
                    items.push(Value::from(utf8(text)?));
                }
                Ok(())
            })?;
            if items.is_empty() { Value::Null } else { Value::Array(items) }
        }
        Shape::Struct(id) => Value::Object(message(data()?, id.get(), depth + 1)?),
        Shape::List(_) | Shape::Map(_) => Value::Null,
    })
}

fn schema(raw: &[u8], depth: u32) -> Result<Value, Error> {
    match types().named(SCHEMA) {
        Some(ty) => Ok(Value::Object(message(raw, ty, depth + 1)?)),
        None => Ok(Value::Null),
    }
}
