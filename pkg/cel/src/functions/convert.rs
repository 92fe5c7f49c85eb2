//! Conversions between types.

use chrono::{DateTime, TimeDelta};

use super::{no_overload, owned, strings, time};
use crate::{error::EvalError, eval::Outcome, value::Value};

fn range<'a>(what: &str) -> Outcome<'a> {
    Err(EvalError::new(format!("{what} overflow")))
}

fn bad<'a>(v: &Value<'_>, to: &str) -> Outcome<'a> {
    Err(EvalError::new(format!("type conversion error from '{}' to '{to}'", v.type_name())))
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let [v] = args else { return no_overload() };
    match (name, v) {
        ("dyn", v) => Ok(v.clone()),
        ("type", v) => Ok(Value::Type(v.type_name().into())),
        ("bool", Value::Bool(_)) | ("bytes", Value::Bytes(_)) | ("double", Value::Double(_)) | ("duration", Value::Duration(_)) | ("int", Value::Int(_)) | ("string", Value::String(_)) | ("timestamp", Value::Timestamp(_)) | ("uint", Value::Uint(_)) => Ok(v.clone()),
        ("bool", Value::String(s)) => match s.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => bad(v, "bool"),
        },
        ("bytes", Value::String(s)) => Ok(Value::Bytes(s.as_str().as_bytes().into())),
        ("double", Value::Int(i)) => Ok(Value::Double(*i as f64)),
        ("double", Value::Uint(u)) => Ok(Value::Double(*u as f64)),
        ("double", Value::String(s)) => s.as_str().parse().map(Value::Double).or_else(|_| bad(v, "double")),
        ("duration", Value::Int(n)) => Ok(Value::Duration(TimeDelta::nanoseconds(*n))),
        ("duration", Value::String(s)) => time::parse_duration(s.as_str()).map(Value::Duration).ok_or_else(|| EvalError::new(format!("time: invalid duration {:?}", s.as_str()))),
        ("int", Value::Uint(u)) => i64::try_from(*u).map(Value::Int).or_else(|_| range("integer")),
        ("int", Value::Double(d)) if d.is_finite() && d.abs() < 9.223_372_036_854_775e18 => Ok(Value::Int(*d as i64)),
        ("int", Value::Double(_)) => range("integer"),
        ("int", Value::String(s)) => s.as_str().parse().map(Value::Int).or_else(|_| bad(v, "int")),
        ("int", Value::Timestamp(t)) => Ok(Value::Int(t.timestamp())),
        ("int", Value::Duration(d)) => d.num_nanoseconds().map(Value::Int).ok_or_else(|| EvalError::new("integer overflow")),
        ("uint", Value::Int(i)) => u64::try_from(*i).map(Value::Uint).or_else(|_| range("unsigned integer")),
        ("uint", Value::Double(d)) if *d >= 0.0 && *d < 1.844_674_407_370_955e19 => Ok(Value::Uint(*d as u64)),
        ("uint", Value::Double(_)) => range("unsigned integer"),
        ("uint", Value::String(s)) => s.as_str().parse().map(Value::Uint).or_else(|_| bad(v, "uint")),
        ("string", Value::Bytes(b)) => std::str::from_utf8(b).map(owned).map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        ("string", Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_) | Value::Timestamp(_)) => Ok(owned(&strings::shown(v))),
        ("string", Value::Opaque(o)) => match o.as_ref() {
            crate::value::Opaque::Ip(_) | crate::value::Opaque::Cidr(_) | crate::value::Opaque::Url(_) | crate::value::Opaque::Quantity(_) | crate::value::Opaque::Semver(_) => Ok(owned(&strings::shown(v))),
            _ => no_overload(),
        },
        ("timestamp", Value::Int(i)) => DateTime::from_timestamp(*i, 0).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow")),
        ("timestamp", Value::String(s)) => time::parse_timestamp(s.as_str()).map(Value::Timestamp).ok_or_else(|| EvalError::new(format!("parsing time {:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse", s.as_str()))),
        _ => no_overload(),
    }
}
