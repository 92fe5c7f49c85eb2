//! Whether a value comes back from its wire form as it is: what is normal need not be read back.

use serde_json::{Map, Value};

use crate::{
    json,
    quantity::Quantity,
    time,
    types::{Field, Shape, Type, Walk},
};

/// Whether decoding what [`super::encode::message`] writes gives the same members. `outer` are names
/// that are not the type's own business: `apiVersion` and `kind` of a whole object.
pub(super) fn message(object: &Map<String, Value>, ty: &'static Type, outer: &[&str]) -> bool {
    let mut fields = Walk::new(ty.by_name());
    let present = object.iter().all(|(name, value)| {
        if outer.contains(&name.as_str()) {
            return true;
        }
        fields.find(name, |f| f.name).is_some_and(|field| member(field, value))
    });
    present && ty.always_written().iter().all(|f| object.contains_key(f.name))
}

fn member(field: &'static Field, value: &Value) -> bool {
    if field.number == 0 {
        return false; // it is not on the wire
    }
    if value.is_null() {
        // On the wire it is not there, or is the zero value.
        let list = matches!(field.shape, Shape::List(_) | Shape::Map(_) | Shape::Bytes | Shape::Strings);
        let always = !field.omit_zero && !field.omit_empty;
        return always && (field.pointer || list || matches!(field.shape, Shape::Time | Shape::MicroTime));
    }
    if json::omitted(field, value) {
        return false;
    }
    match field.shape {
        Shape::List(element) => value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(|item| one(*element, item))),
        Shape::Map(element) => value.as_object().is_some_and(|items| !items.is_empty() && items.values().all(|item| one(*element, item))),
        shape => one(shape, value),
    }
}

/// For shapes that hardly any object has, `false` costs no more than reading it back.
fn one(shape: Shape, value: &Value) -> bool {
    match shape {
        Shape::String => value.is_string(),
        Shape::Bool => value.is_boolean(),
        Shape::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Shape::Int64 => value.as_i64().is_some(),
        Shape::Uint(_) => value.as_u64().is_some(),
        Shape::Quantity => value.as_str().is_some_and(|text| Quantity::parse(text).is_ok_and(|q| q.to_string() == text)),
        Shape::Time => value.as_str().is_some_and(|text| in_range(text) && time::canonical(text).is_ok_and(|same| same == text)),
        Shape::MicroTime => value.as_str().is_some_and(|text| in_range(text) && time::canonical_micro(text).is_ok_and(|same| same == text)),
        Shape::IntOrString => value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Shape::FieldsV1 => value.is_object(),
        Shape::Strings => value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string)),
        Shape::Struct(id) => value.as_object().is_some_and(|object| message(object, id.get(), &[])),
        _ => false,
    }
}

/// No year 0 can be read back.
fn in_range(time: &str) -> bool {
    !time.is_empty() && !time.starts_with("0000")
}
