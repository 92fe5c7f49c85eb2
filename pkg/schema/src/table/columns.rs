//! Columns of custom resources: `additionalPrinterColumns` with their JSON paths.

use serde_json::{Value, json};

use super::{cells::View, definition};
use crate::{Resource, time};

fn field<'v>(column: &'v Value, key: &str) -> &'v str {
    column.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn custom_definitions(resource: &Resource) -> Vec<Value> {
    let mut all = vec![definition("Name", "string", "name", 0, "")];
    if resource.printer_columns.is_empty() {
        all.push(definition("Age", "date", "", 0, ""));
    }
    for column in &resource.printer_columns {
        let description = match field(column, "description") {
            "" => format!("Custom resource definition column (in JSONPath format): {}", field(column, "jsonPath")),
            text => text.to_owned(),
        };
        all.push(definition(field(column, "name"), field(column, "type"), field(column, "format"), column.get("priority").and_then(Value::as_i64).unwrap_or(0), &description));
    }
    all
}

pub(super) fn custom(resource: &Resource, view: &View<'_>) -> Vec<Value> {
    let mut cells = vec![view.name()];
    if resource.printer_columns.is_empty() {
        cells.push(view.age());
    }
    for column in &resource.printer_columns {
        let found = find(view.object, field(column, "jsonPath"));
        cells.push(cell(&found, field(column, "type"), view));
    }
    cells
}

fn cell(found: &[&Value], kind: &str, view: &View<'_>) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match kind {
        "integer" => first.as_i64().or_else(|| first.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from),
        "number" => first.as_f64().map_or(Value::Null, |f| json!(f)),
        "boolean" => first.as_bool().map_or(Value::Null, Value::from),
        "date" => match first.as_str().and_then(time::parse) {
            Some(at) => time::human(view.now.seconds - at.seconds).into(),
            None => "<unknown>".into(),
        },
        _ => match first {
            Value::String(text) => text.clone().into(),
            Value::Null => Value::Null,
            Value::Object(map) => super::compact(map).into(),
            other => other.to_string().into(),
        },
    }
}

/// Evaluates the JSONPath subset of printer columns: names, `[n]`, `[*]`, `['name']`, and
/// filters of the form `[?(@.a.b=="text")]`.
fn find<'v>(object: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut found = vec![object];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let Some(end) = closing(tail) else { return Vec::new() };
            let inner = tail[..end].trim();
            rest = &tail[end + 1..];
            found = found.into_iter().flat_map(|v| bracket(v, inner)).collect();
            continue;
        }
        let tail = rest.strip_prefix('.').unwrap_or(rest);
        let (mut name, mut used, mut escaped) = (String::new(), 0, false);
        for c in tail.chars() {
            match c {
                '\\' if !escaped => escaped = true,
                '.' | '[' if !escaped => break,
                c => {
                    name.push(c);
                    escaped = false;
                }
            }
            used += c.len_utf8();
        }
        rest = &tail[used..];
        if name.is_empty() && rest.len() == tail.len() && !rest.starts_with('[') {
            return Vec::new();
        }
        if name == "*" {
            found = found.into_iter().flat_map(all).collect();
        } else if !name.is_empty() {
            found = found.into_iter().filter_map(|v| v.get(&name)).collect();
        }
    }
    found
}

fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ']') => return Some(i),
            _ => {}
        }
    }
    None
}

fn all(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn bracket<'v>(value: &'v Value, inner: &str) -> Vec<&'v Value> {
    if inner == "*" {
        return all(value);
    }
    if let Some(name) = inner.strip_prefix(['\'', '"']) {
        return value.get(&name[..name.len().saturating_sub(1)]).into_iter().collect();
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (path, want, equal) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((path, want)), _) => (path.trim(), want.trim(), true),
            (_, Some((path, want))) => (path.trim(), want.trim(), false),
            _ => {
                let path = filter.trim().trim_start_matches('@');
                return all(value).into_iter().filter(|v| !find(v, path).is_empty()).collect();
            }
        };
        let path = path.trim_start_matches('@');
        let want = want.trim_matches(['"', '\'']);
        let is = |v: &Value| match v {
            Value::String(text) => text == want,
            other => other.to_string() == want,
        };
        return all(value).into_iter().filter(|v| find(v, path).first().is_some_and(|f| is(f)) == equal).collect();
    }
    let Value::Array(items) = value else { return Vec::new() };
    match inner.parse::<i64>() {
        Ok(n) => usize::try_from(if n < 0 { n + items.len() as i64 } else { n }).ok().and_then(|i| items.get(i)).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}
