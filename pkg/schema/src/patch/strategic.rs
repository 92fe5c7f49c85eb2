//! Strategic merge patch by the table.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::Error;
use crate::types::{Shape, Type};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the type.
///
/// # Errors
/// [`Error::Malformed`] for directives of a wrong form, [`Error::Unprocessable`] for lists
/// without the merge key.
pub fn strategic(target: &mut Value, patch: Value, ty: &'static Type) -> Result<(), Error> {
    let (Value::Object(original), Value::Object(patch)) = (std::mem::take(target), patch) else {
        return Err(Error::Malformed("invalid JSON document".into()));
    };
    *target = Value::Object(merge_map(original, patch, Some(Shape::Struct(ty.id())))?);
    Ok(())
}

/// What the table says about a member.
struct Meta {
    shape: Option<Shape>,
    merge: bool,
    replace: bool,
    key: &'static str,
}

fn lookup(shape: Option<Shape>, key: &str) -> Meta {
    match shape {
        Some(Shape::Struct(id)) => match id.get().field(key) {
            Some(field) => Meta { shape: Some(field.shape), merge: field.patch_merge, replace: field.patch_replace, key: field.patch_merge_key },
            None => Meta { shape: None, merge: false, replace: false, key: "" },
        },
        Some(Shape::Map(element)) => Meta { shape: Some(*element), merge: false, replace: false, key: "" },
        _ => Meta { shape: None, merge: false, replace: false, key: "" },
    }
}

fn element(shape: Option<Shape>) -> Option<Shape> {
    match shape {
        Some(Shape::List(element)) => Some(*element),
        _ => None,
    }
}

fn merge_map(mut original: Object, mut patch: Object, shape: Option<Shape>) -> Result<Object, Error> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => {
                patch.insert(PATCH.into(), directive.clone());
                Err(bad_type(&directive, &patch))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, shape)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE) {
            Some(rest) => (rest.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let Some(current) = original.remove(&key) else {
            if !deletes {
                put(&mut original, key, value);
            }
            continue;
        };
        let meta = lookup(shape, &key);
        match (current, value) {
            (Value::Object(_), Value::Object(value)) if meta.replace => {
                original.insert(key, Value::Object(value));
            }
            (Value::Object(current), Value::Object(value)) => {
                original.insert(key, Value::Object(merge_map(current, value, meta.shape)?));
            }
            (Value::Array(current), Value::Array(value)) => {
                let merged = if meta.merge || deletes { merge_list(current, value, &meta, deletes)? } else { value };
                original.insert(key, Value::Array(merged));
            }
            (current, _) if deletes => {
                original.insert(key, current);
            }
            (_, value) => put(&mut original, key, value),
        }
    }
    Ok(original)
}

/// A value that has nothing to merge with: its nulls and directives go.
fn put(original: &mut Object, key: String, mut value: Value) {
    drop_nulls(&mut value);
    if let Some(value) = drop_directives(value) {
        original.insert(key, value);
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn drop_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => Some(Value::Object(map.into_iter().filter_map(|(k, v)| Some((k, drop_directives(v)?))).collect())),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(drop_directives).collect())),
        other => Some(other),
    }
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(directive) = patch.remove(RETAIN) else { return Ok(()) };
    let bad = || Error::Malformed("invalid patch format of retainKeys".into());
    let keep: Vec<&str> = directive.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with(DELETE) && !key.starts_with(ORDER) && !keep.contains(&key.as_str()) {
            return Err(bad());
        }
    }
    original.retain(|key, _| keep.contains(&key.as_str()));
    Ok(())
}

/// Lists whose order the patch gives; they leave the patch.
fn ordered_lists(original: &mut Object, patch: &mut Object, shape: Option<Shape>) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        let Value::Array(order) = order else {
            return Err(Error::Unprocessable("setElementOrder must be a list".into()));
        };
        let key = &directive[ORDER.len()..];
        let meta = lookup(shape, key);
        let in_original = original.get(key).is_some_and(|v| !v.is_null());
        let patched = match patch.get(key) {
            Some(Value::Array(items)) => items.clone(),
            Some(_) => continue,
            None => Vec::new(),
        };
        let in_patch = patch.contains_key(key);
        if in_patch {
            check_order(&patched, &order, meta.key)?;
        }
        let current = match original.get(key) {
            Some(Value::Array(items)) => items.clone(),
            _ => Vec::new(),
        };
        if !in_original && !in_patch {
            continue;
        }
        // A deletion list of the same key takes part before the order is made.
        let mut merged = match (in_original, in_patch) {
            (true, false) => current.clone(),
            (false, _) => {
                let mut value = Value::Array(patched);
                drop_nulls(&mut value);
                match drop_directives(value) {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                }
            }
            (true, true) if meta.merge => merge_list(current.clone(), patched, &meta, false)?,
            (true, true) => patched,
        };
        let (mut listed, unlisted): (Vec<Value>, Vec<Value>) = {
            let all = std::mem::take(&mut merged);
            all.into_iter().partition(|item| position(&order, item, meta.key).is_some())
        };
        listed.sort_by_key(|item| position(&order, item, meta.key));
        original.insert(key.to_owned(), Value::Array(interleave(unlisted, listed, &current, meta.key)));
        patch.remove(key);
    }
    Ok(())
}

/// The patch's own list must be in the order that the directive gives.
fn check_order(patched: &[Value], order: &[Value], key: &str) -> Result<(), Error> {
    let mut at = 0;
    for item in patched {
        if item.get(PATCH).is_some() {
            continue;
        }
        if !key.is_empty() && item.get(key).is_none() {
            return Err(no_merge_key(item, key));
        }
        match order[at..].iter().position(|o| same(o, item, key)) {
            Some(i) => at += i + 1,
            None => {
                return Err(Error::Malformed(format!(
                    "The order in patch list:\n{}\n doesn't match {ORDER} list:\n{}\n",
                    shown(&Value::Array(patched.to_vec())),
                    shown(&Value::Array(order.to_vec()))
                )));
            }
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { a.get(key).is_some() && a.get(key) == b.get(key) }
}

fn position(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    list.iter().position(|other| same(other, item, key))
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, meta: &Meta, deletes: bool) -> Result<Vec<Value>, Error> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let maps = original.iter().chain(&patch).all(Value::is_object);
    if !maps {
        if original.iter().chain(&patch).any(|v| v.is_object() || v.is_array()) {
            return Err(Error::Unprocessable("lists of lists are not supported".into()));
        }
        if deletes {
            return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
        }
        let mut merged: Vec<Value> = Vec::new();
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(arrange(merged, &patch, &original, ""));
    }
    if meta.key.is_empty() {
        return Err(Error::Unprocessable(format!("cannot merge lists without merge key for {}", name(meta.shape))));
    }
    let (mut original, mut plain, mut replace) = (original, Vec::new(), false);
    for item in patch {
        match item.get(PATCH).map(|d| d.as_str().unwrap_or_default().to_owned()).as_deref() {
            None => plain.push(item),
            Some("delete") => {
                let Some(value) = item.get(meta.key) else { return Err(no_merge_key(&item, meta.key)) };
                original.retain(|o| o.get(meta.key) != Some(value));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(Error::Unprocessable("merging lists cannot yet be specified in the patch".into())),
            Some(other) => return Err(bad_type(&other.into(), item.as_object().unwrap_or(&Object::new()))),
        }
    }
    if replace {
        // The replacement is the server's list from here on, so its nulls stay as they are.
        return Ok(plain);
    }
    let server = original.clone();
    for item in &plain {
        let Some(value) = item.get(meta.key) else { return Err(no_merge_key(item, meta.key)) };
        match original.iter_mut().find(|o| o.get(meta.key) == Some(value)) {
            Some(found) => {
                if let (Value::Object(current), Value::Object(item)) = (std::mem::take(found), item.clone()) {
                    *found = Value::Object(merge_map(current, item, element(meta.shape))?);
                }
            }
            None => original.push(item.clone()),
        }
    }
    if let Some(item) = original.iter().find(|o| o.get(meta.key).is_none()) {
        return Err(no_merge_key(item, meta.key));
    }
    Ok(arrange(original, &plain, &server, meta.key))
}

/// Items of the patch in the patch's order, among the server's own in the server's.
fn arrange(merged: Vec<Value>, patch: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let (mut listed, unlisted): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|item| position(patch, item, key).is_some());
    listed.sort_by_key(|item| position(patch, item, key));
    interleave(unlisted, listed, server, key)
}

/// Inserts the items of `left` into `right`, each before the first that stood behind it in `server`.
fn interleave(left: Vec<Value>, right: Vec<Value>, server: &[Value], key: &str) -> Vec<Value> {
    let mut out = Vec::with_capacity(left.len() + right.len());
    let mut left = left.into_iter().peekable();
    for item in right {
        let place = position(server, &item, key);
        while let Some(next) = left.peek() {
            match (position(server, next, key), place) {
                (Some(l), Some(r)) if l < r => out.extend(left.next()),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(left);
    out
}

fn name(shape: Option<Shape>) -> &'static str {
    match element(shape).or(shape) {
        Some(Shape::Struct(id)) => id.get().short_name(),
        _ => "",
    }
}

fn bad_type(directive: &Value, patch: &Object) -> Error {
    Error::Unprocessable(format!("unknown patch type {} in map: {}", directive.as_str().unwrap_or_default(), shown(&Value::Object(patch.clone()))))
}

fn no_merge_key(item: &Value, key: &str) -> Error {
    Error::Unprocessable(format!("map: {} does not contain declared merge key: {key}", shown(item)))
}

/// A value as Go's `%v` shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut out = String::from("map[");
            for (i, (k, v)) in map.iter().enumerate() {
                let _ = write!(out, "{}{k}:{}", if i > 0 { " " } else { "" }, shown(v));
            }
            out + "]"
        }
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
