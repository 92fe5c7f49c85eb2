//! Operators.

use std::cmp::Ordering;

use crate::{
    error::EvalError,
    eval::{Outcome, concat},
    functions::{no_overload, owned},
    value::Value,
};

const INT: &str = "integer overflow";
const UINT: &str = "unsigned integer overflow";

fn int<'a>(v: Option<i64>) -> Outcome<'a> {
    v.map(Value::Int).ok_or_else(|| EvalError::new(INT))
}

fn uint<'a>(v: Option<u64>) -> Outcome<'a> {
    v.map(Value::Uint).ok_or_else(|| EvalError::new(UINT))
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("!_", [Value::Bool(b)]) => Ok(Value::Bool(!b)),
        ("-_", [Value::Int(i)]) => int(i.checked_neg()),
        ("-_", [Value::Double(d)]) => Ok(Value::Double(-d)),
        ("_==_", [a, b]) => Ok(Value::Bool(a.equals(b))),
        ("_!=_", [a, b]) => Ok(Value::Bool(!a.equals(b))),
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => compare(name, a, b),
        ("_+_", [a, b]) => add(a, b),
        ("_-_", [a, b]) => subtract(a, b),
        ("_*_", [Value::Int(a), Value::Int(b)]) => int(a.checked_mul(*b)),
        ("_*_", [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_mul(*b)),
        ("_*_", [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a * b)),
        ("_/_", [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)]) => Err(EvalError::new("division by zero")),
        ("_/_", [Value::Int(a), Value::Int(b)]) => int(a.checked_div(*b)),
        ("_/_", [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_div(*b)),
        ("_/_", [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a / b)),
        ("_%_", [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)]) => Err(EvalError::new("modulus by zero")),
        ("_%_", [Value::Int(a), Value::Int(b)]) => int(a.checked_rem(*b)),
        ("_%_", [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_rem(*b)),
        _ => no_overload(),
    }
}

fn compare<'a>(name: &str, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let Some(o) = a.compare(b) else {
        // Not a number is neither less nor more.
        return if a.is_number() && b.is_number() { Ok(Value::Bool(false)) } else { no_overload() };
    };
    Ok(Value::Bool(match name {
        "_<_" => o == Ordering::Less,
        "_<=_" => o != Ordering::Greater,
        "_>_" => o == Ordering::Greater,
        _ => o != Ordering::Less,
    }))
}

fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let late = || EvalError::new("timestamp overflow");
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(owned(&format!("{}{}", a.as_str(), b.as_str()))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(b).map(Value::Duration).ok_or_else(|| EvalError::new("duration overflow")),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => t.checked_add_signed(*d).map(Value::Timestamp).ok_or_else(late),
        _ => concat(a, b).map_or_else(no_overload, Ok),
    }
}

fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_sub(b).map(Value::Duration).ok_or_else(|| EvalError::new("duration overflow")),
        (Value::Timestamp(t), Value::Duration(d)) => t.checked_sub_signed(*d).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow")),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(Value::Duration(*a - *b)),
        _ => no_overload(),
    }
}
