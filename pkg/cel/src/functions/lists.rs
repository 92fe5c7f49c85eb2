//! Lists and sets.

use std::cmp::Ordering;

use chrono::TimeDelta;

use super::no_overload;
use crate::{
    error::EvalError,
    eval::Outcome,
    value::Value,
};

/// The longest list that `lists.range` makes.
const LONGEST: i64 = 1_000_000;

fn elements<'a>(v: &Value<'a>) -> Result<Vec<Value<'a>>, EvalError> {
    v.elements().ok_or_else(|| EvalError::new("no such overload"))
}

/// Sorted by keys of one comparable type.
fn sorted<'a>(all: Vec<Value<'a>>, keys: &[Value<'a>]) -> Outcome<'a> {
    if all.len() != keys.len() {
        return Err(EvalError::new("list and keys have different sizes"));
    }
    if keys.windows(2).any(|w| w[0].compare(&w[1]).is_none() || w[0].type_name() != w[1].type_name()) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::list(order.into_iter().map(|i| all[i].clone()).collect()))
}

fn flatten<'a>(all: Vec<Value<'a>>, depth: i64, out: &mut Vec<Value<'a>>) {
    for v in all {
        match v.elements() {
            Some(inner) if depth > 0 => flatten(inner, depth - 1, out),
            _ => out.push(v),
        }
    }
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    if name == "lists.range" {
        let [Value::Int(n)] = args else { return no_overload() };
        if *n > LONGEST {
            return Err(EvalError::new("the list is too long"));
        }
        return Ok(Value::list((0..(*n).max(0)).map(Value::Int).collect()));
    }
    let Some(first) = args.first() else { return no_overload() };
    let all = elements(first)?;
    let has = |l: &[Value<'a>], v: &Value<'a>| l.iter().any(|x| x.equals(v));
    match (name, &args[1..]) {
        ("includes", [v]) => Ok(Value::Bool(has(&all, v))),
        ("indexOf", [v]) => Ok(Value::Int(all.iter().position(|x| x.equals(v)).map_or(-1, |i| i as i64))),
        ("lastIndexOf", [v]) => Ok(Value::Int(all.iter().rposition(|x| x.equals(v)).map_or(-1, |i| i as i64))),
        ("isSorted", []) => {
            for w in all.windows(2) {
                match w[0].compare(&w[1]) {
                    Some(Ordering::Greater) => return Ok(Value::Bool(false)),
                    Some(_) => {}
                    None => return no_overload(),
                }
            }
            Ok(Value::Bool(true))
        }
        ("sum", []) => sum(&all),
        ("min" | "max", []) => {
            let mut it = all.into_iter();
            let Some(mut best) = it.next() else { return Err(EvalError::new(format!("{name} called on empty list"))) };
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            for v in it {
                match v.compare(&best) {
                    Some(o) if o == wanted => best = v,
                    Some(_) => {}
                    None => return no_overload(),
                }
            }
            Ok(best)
        }
        ("distinct", []) => {
            let mut out: Vec<Value<'a>> = Vec::new();
            for v in all {
                if !has(&out, &v) {
                    out.push(v);
                }
            }
            Ok(Value::list(out))
        }
        ("flatten", []) => {
            let mut out = Vec::new();
            flatten(all, 1, &mut out);
            Ok(Value::list(out))
        }
        ("flatten", [Value::Int(n)]) => {
            if *n < 0 {
                return Err(EvalError::new("level must be non-negative"));
            }
            let mut out = Vec::new();
            flatten(all, (*n).min(64), &mut out);
            Ok(Value::list(out))
        }
        ("reverse", []) => Ok(Value::list(all.into_iter().rev().collect())),
        ("first", []) => Ok(all.first().map_or(Value::Optional(None), |v| Value::some(v.clone()))),
        ("last", []) => Ok(all.last().map_or(Value::Optional(None), |v| Value::some(v.clone()))),
        ("slice", [Value::Int(a), Value::Int(b)]) => {
            if *a < 0 || *b < 0 {
                return Err(EvalError::new(format!("cannot slice({a}, {b}), negative indexes not supported")));
            }
            if a > b {
                return Err(EvalError::new(format!("cannot slice({a}, {b}), start index must be less than or equal to end index")));
            }
            let (a, b) = (*a as usize, *b as usize);
            all.get(a..b).map(|s| Value::list(s.to_vec())).ok_or_else(|| EvalError::new(format!("cannot slice({a}, {b}), list is length {}", all.len())))
        }
        ("sort", []) => {
            let keys = all.clone();
            sorted(all, &keys)
        }
        ("@sortByAssociatedKeys", [keys]) => sorted(all, &elements(keys)?),
        ("sets.contains", [b]) => Ok(Value::Bool(elements(b)?.iter().all(|v| has(&all, v)))),
        ("sets.intersects", [b]) => Ok(Value::Bool(elements(b)?.iter().any(|v| has(&all, v)))),
        ("sets.equivalent", [b]) => {
            let b = elements(b)?;
            Ok(Value::Bool(b.iter().all(|v| has(&all, v)) && all.iter().all(|v| has(&b, v))))
        }
        ("optional.unwrap" | "unwrapOpt", []) => {
            let mut out = Vec::new();
            for v in all {
                match v {
                    Value::Optional(Some(v)) => out.push(v.as_ref().clone()),
                    Value::Optional(None) => {}
                    _ => return no_overload(),
                }
            }
            Ok(Value::list(out))
        }
        _ => no_overload(),
    }
}

fn sum<'a>(all: &[Value<'a>]) -> Outcome<'a> {
    let over = |what: &str| EvalError::new(format!("{what} overflow"));
    let mut total = match all.first() {
        None | Some(Value::Int(_)) => Value::Int(0),
        Some(Value::Uint(_)) => Value::Uint(0),
        Some(Value::Double(_)) => Value::Double(0.0),
        Some(Value::Duration(_)) => Value::Duration(TimeDelta::zero()),
        _ => return no_overload(),
    };
    for v in all {
        total = match (total, v) {
            (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(|| over("integer"))?),
            (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(|| over("unsigned integer"))?),
            (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
            (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(b).ok_or_else(|| over("duration"))?),
            _ => return no_overload(),
        };
    }
    Ok(total)
}
