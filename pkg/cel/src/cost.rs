//! What evaluation costs: upstream's units, so that the same budgets mean the same.

use crate::value::{Opaque, Value};

/// What one evaluation may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules of one object, or all expressions of one policy, may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// What all match conditions of one webhook or policy may cost together.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// A name, a field.
pub(crate) const ACCESS: u64 = 1;
/// A list that is made.
pub(crate) const LIST: u64 = 10;
/// A map that is made.
pub(crate) const MAP: u64 = 30;
/// A struct that is made.
pub(crate) const STRUCT: u64 = 40;
/// A character that is looked at.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// A character of a regular expression.
pub(crate) const REGEX: f64 = 0.25;

fn factor(size: u64, by: f64) -> u64 {
    (size as f64 * by).ceil() as u64
}

/// Everything that a value consists of.
fn traversal(v: &Value<'_>, depth: usize) -> u64 {
    if depth > 100 {
        return 1;
    }
    match v {
        Value::String(t) => (t.as_str().len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(b) => (b.len() as f64 * TRAVERSAL) as u64,
        Value::List(_) | Value::JsonList(..) => v.elements().unwrap_or_default().iter().map(|e| traversal(e, depth + 1)).sum(),
        Value::Map(_) | Value::JsonMap(..) => v.keys().unwrap_or_default().iter().map(|k| 1 + v.entry(k).map_or(0, |e| traversal(&e, depth + 1))).sum(),
        _ => 1,
    }
}

/// A selector that is parsed.
pub(crate) fn selector(length: u64) -> u64 {
    LIST + factor(length, TRAVERSAL) + factor(factor(length, 0.5), (LIST + STRUCT) as f64)
}

/// What a call has cost; the receiver is the first argument.
pub(crate) fn call(function: &str, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let size = |i: usize| args.get(i).map_or(0, Value::size);
    let is_text = |i: usize| matches!(args.get(i), Some(Value::String(_) | Value::Bytes(_)));
    match function {
        "check" => 350_000,
        "fieldSelector" | "labelSelector" => selector(size(1)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => args.first().map_or(0, |v| traversal(v, 0)),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" | "isIP" | "cidr" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => factor(size(0), TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => factor(size(0), 2.0 * TRAVERSAL),
        "join" => result.map_or(0, |r| factor(r.size(), 2.0 * TRAVERSAL)),
        "find" | "findAll" => factor(size(0) + 1, TRAVERSAL) * factor(size(1), REGEX),
        "ip" if is_text(0) => factor(size(0), TRAVERSAL),
        "containsIP" | "containsCIDR" => {
            let bytes = match args.first() {
                Some(Value::Opaque(o)) => match o.as_ref() {
                    Opaque::Cidr(c) if c.ip.is_ipv4() => 4,
                    _ => 16,
                },
                _ => 16,
            };
            let parsed = if is_text(1) { factor(size(1), TRAVERSAL) } else { 0 };
            let masked = if function == "containsCIDR" { factor(bytes, TRAVERSAL) + 1 } else { 0 };
            factor(2 * bytes, TRAVERSAL) + masked + parsed
        }
        "validate" => factor(1 + size(1), TRAVERSAL) * factor(128, REGEX),
        "startsWith" | "endsWith" => factor(size(1), TRAVERSAL),
        "bytes" | "string" if is_text(0) => factor(size(0), TRAVERSAL),
        "strings.quote" | "format" => factor(size(0), TRAVERSAL),
        "@in" if matches!(args.get(1), Some(Value::List(_) | Value::JsonList(..))) => size(1),
        "_==_" if matches!(args.first(), Some(Value::Opaque(_))) => 1,
        "_==_" | "_!=_" => factor(size(0).min(size(1)), TRAVERSAL),
        "_<_" | "_<=_" | "_>_" | "_>=_" if is_text(0) => factor(size(0).min(size(1)), TRAVERSAL),
        "_+_" if is_text(0) => factor(size(0) + size(1), TRAVERSAL),
        "matches" => factor(1 + size(0), TRAVERSAL) * factor(size(1), REGEX),
        "contains" => factor(size(0), TRAVERSAL) * factor(size(1), TRAVERSAL),
        // What has a cost by its size in the language's own list library.
        "distinct" | "sort" | "@sortByAssociatedKeys" => LIST + size(0) * size(0).max(1),
        "flatten" | "reverse" | "slice" => LIST + result.map_or(0, Value::size),
        "lists.range" => LIST + result.map_or(0, Value::size),
        "sets.contains" | "sets.intersects" => 1 + size(0) * size(1),
        "sets.equivalent" => 1 + 2 * size(0) * size(1),
        _ => 1,
    }
}
