//! Defaults: what the server fills in before it validates. The unconditional ones are in the
//! table; the few that depend on other fields are rules here, one per struct or kind.

mod rules;

pub(crate) use rules::RULED;

use serde_json::{Map, Value};

use crate::{
    json,
    types::{Field, Shape, Type},
};

/// Fills in the defaults of an object in normal form (see [`json::decode`]).
pub fn apply(object: &mut Value, ty: &'static Type) {
    if let Value::Object(object) = object {
        rules::of_root(ty, object);
        structure(object, ty);
        rules::of_root_late(ty, object);
    }
}

fn structure(object: &mut Map<String, Value>, ty: &'static Type) {
    rules::of_struct(ty, object);
    if !ty.has_defaults {
        return;
    }
    fields(object, ty);
}

fn fields(object: &mut Map<String, Value>, ty: &'static Type) {
    for field in &ty.fields {
        if let (true, Shape::Struct(id)) = (field.inline, field.shape) {
            let inner = id.get();
            if let Some(text) = field.default {
                let mut any = false;
                inner.each_field(&mut |f| any |= object.contains_key(f.name));
                if let (false, Ok(Value::Object(members))) = (any, serde_json::from_str(text)) {
                    object.extend(members);
                }
            }
            structure(object, inner);
            continue;
        }
        if let Some(text) = field.default
            && object.get(field.name).is_none_or(|v| unset(field, v))
            && let Ok(value) = serde_json::from_str(text)
            && !json::omitted(field, &value)
        {
            object.insert(field.name.into(), value);
        }
        if let Some(value) = object.get_mut(field.name) {
            below(value, field.shape);
        }
    }
}

fn unset(field: &Field, value: &Value) -> bool {
    if field.pointer {
        return value.is_null();
    }
    match field.shape {
        Shape::Struct(id) => value.as_object().is_some_and(|o| json::is_zero(id.get(), o)),
        Shape::List(_) | Shape::Map(_) => value.is_null() || value.as_array().is_some_and(Vec::is_empty),
        shape => *value == json::zero(shape),
    }
}

fn below(value: &mut Value, shape: Shape) {
    match (shape, value) {
        (Shape::Struct(id), Value::Object(object)) => structure(object, id.get()),
        (Shape::List(element), Value::Array(items)) => items.iter_mut().for_each(|item| below(item, *element)),
        (Shape::Map(element), Value::Object(map)) => map.values_mut().for_each(|item| below(item, *element)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
