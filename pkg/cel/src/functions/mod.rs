//! What functions do. A receiver is the first argument.

mod arithmetic;
mod authz;
mod convert;
pub(crate) mod format;
pub(crate) mod ip;
mod lists;
pub(crate) mod quantity;
pub(crate) mod semver;
mod strings;
pub(crate) mod time;
pub(crate) mod url;

use std::rc::Rc;

use crate::{
    ast::{Expr, Kind, Literal},
    error::{EvalError, Issue, Issues},
    eval::{Eval, Outcome},
    value::{Text, Value},
};

pub(crate) fn no_overload<'a>() -> Outcome<'a> {
    Err(EvalError::new("no such overload"))
}

/// Calls a function.
pub(crate) fn call<'a>(eval: &mut Eval<'_, 'a>, name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    match name {
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "_+_" | "_-_" | "_*_" | "_/_" | "_%_" | "-_" | "!_" => arithmetic::call(name, args),
        "@in" | "_[_]" | "_[?_]" | "_?._" | "size" => access(name, args),
        "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint" => convert::call(name, args),
        "hasValue" | "value" | "optional.of" | "optional.ofNonZeroValue" | "optional.none" => optional(name, args),
        "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" | "getFullYear" | "getHours" | "getMilliseconds" | "getMinutes" | "getMonth" | "getSeconds" => time::call(name, args),
        "url" | "isURL" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" | "getQuery" => url::call(name, args),
        "ip" | "isIP" | "ip.isCanonical" | "family" | "isUnspecified" | "isLoopback" | "isLinkLocalMulticast" | "isLinkLocalUnicast" | "isGlobalUnicast" | "cidr" | "isCIDR" | "containsIP"
        | "containsCIDR" | "masked" | "prefixLength" => ip::call(name, args),
        "quantity" | "isQuantity" | "sign" | "asApproximateFloat" | "asInteger" | "isInteger" | "add" | "sub" => quantity::call(name, args),
        "isGreaterThan" | "isLessThan" | "compareTo" => quantity::call(name, args).or_else(|_| semver::call(name, args)),
        "semver" | "isSemver" | "major" | "minor" | "patch" => semver::call(name, args),
        "format.named" | "validate" => format::call(name, args),
        "path" | "group" | "serviceAccount" | "resource" | "subresource" | "namespace" | "name" | "fieldSelector" | "labelSelector" | "check" | "allowed" | "reason" | "errored" | "error" => {
            authz::call(eval.authorizer, name, args)
        }
        "contains" | "endsWith" | "startsWith" | "matches" | "charAt" | "format" | "join" | "lowerAscii" | "upperAscii" | "replace" | "split" | "strings.quote" | "substring" | "trim" | "find" | "findAll"
        | "jsonpatch.escapeKey" => strings::call(name, args),
        "indexOf" | "lastIndexOf" if matches!(args.first(), Some(Value::String(_))) => strings::call(name, args),
        other => match other.strip_prefix("format.") {
            Some(f) => format::named(f).map_or_else(no_overload, |f| Ok(Value::opaque(crate::value::Opaque::Format(f)))),
            None => lists::call(other, args),
        },
    }
}

/// `cel.@mapInsert`: the map is changed in place, nobody else has it.
pub(crate) fn map_insert<'a>(mut args: Vec<Value<'a>>) -> Outcome<'a> {
    let rest = args.split_off(1);
    let Some(Value::Map(mut map)) = args.pop() else { return no_overload() };
    let mut put = |k: crate::value::Key<'a>, v: Value<'a>| {
        let shown = crate::eval::key_value(&k);
        match Rc::make_mut(&mut map).insert(k, v) {
            None => Ok(()),
            Some(_) => Err(EvalError::new(format!("insert failed: key '{}' already exists", strings::shown(&shown)))),
        }
    };
    match rest.as_slice() {
        [k, v] => {
            let Some(k) = k.key() else { return no_overload() };
            put(k, v.clone())?;
        }
        [m] => {
            for k in m.keys().unwrap_or_default() {
                if let Some(v) = m.entry(&k) {
                    put(k, v)?;
                }
            }
        }
        _ => return no_overload(),
    }
    Ok(Value::Map(map))
}

fn index<'a>(of: &Value<'a>, at: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
    match of {
        Value::List(_) | Value::JsonList(..) => {
            let i = match at {
                Value::Int(i) => *i,
                Value::Uint(u) => i64::try_from(*u).unwrap_or(i64::MAX),
                Value::Double(d) if d.fract() == 0.0 => *d as i64,
                other => return Err(EvalError::new(format!("unsupported index type '{}' in list", other.type_name()))),
            };
            Ok(usize::try_from(i).ok().and_then(|i| of.element(i)))
        }
        Value::Map(_) | Value::JsonMap(..) | Value::Struct(_) => {
            let Some(k) = at.key() else { return Err(EvalError::new(format!("unsupported key type: {}", at.type_name()))) };
            Ok(match (of, &k) {
                (Value::Struct(_), crate::value::Key::String(s)) => of.member(s.as_str()),
                _ => of.entry(&k),
            })
        }
        _ => Err(EvalError::new("no such overload")),
    }
}

fn access<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("size", [v]) => match v {
            Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::JsonList(..) | Value::Map(_) | Value::JsonMap(..) => Ok(Value::Int(v.size() as i64)),
            _ => no_overload(),
        },
        ("@in", [v, all]) => match all {
            Value::List(l) => Ok(Value::Bool(l.iter().any(|e| e.equals(v)))),
            Value::JsonList(l, _) => Ok(Value::Bool((0..l.len()).any(|i| all.element(i).is_some_and(|e| e.equals(v))))),
            Value::Map(_) | Value::JsonMap(..) => Ok(Value::Bool(v.key().is_some_and(|k| all.entry(&k).is_some()))),
            _ => no_overload(),
        },
        ("_[_]", [Value::Optional(o), at]) => match o {
            None => Ok(Value::Optional(None)),
            Some(v) => Ok(Value::Optional(index(v, at)?.map(Rc::new))),
        },
        ("_[_]", [of, at]) => index(of, at)?.ok_or_else(|| {
            EvalError::new(match of {
                Value::List(_) | Value::JsonList(..) => format!("index out of bounds: {}", strings::shown(at)),
                _ => format!("no such key: {}", strings::shown(at)),
            })
        }),
        ("_[?_]" | "_?._", [Value::Optional(None), _]) => Ok(Value::Optional(None)),
        ("_[?_]" | "_?._", [Value::Optional(Some(of)), at]) => Ok(Value::Optional(index(of, at)?.map(Rc::new))),
        ("_[?_]" | "_?._", [of, at]) => Ok(Value::Optional(index(of, at)?.map(Rc::new))),
        _ => no_overload(),
    }
}

fn optional<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("optional.of", [v]) => Ok(Value::some(v.clone())),
        ("optional.ofNonZeroValue", [v]) => {
            let zero = match v {
                Value::Null => true,
                Value::Bool(b) => !b,
                Value::Int(i) => *i == 0,
                Value::Uint(u) => *u == 0,
                Value::Double(d) => *d == 0.0,
                Value::Duration(d) => d.is_zero(),
                Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::JsonList(..) | Value::Map(_) | Value::JsonMap(..) => v.size() == 0,
                _ => false,
            };
            Ok(if zero { Value::Optional(None) } else { Value::some(v.clone()) })
        }
        ("hasValue", [Value::Optional(o)]) => Ok(Value::Bool(o.is_some())),
        ("value", [Value::Optional(o)]) => o.as_ref().map(|v| v.as_ref().clone()).ok_or_else(|| EvalError::new("optional.none() dereference")),
        _ => no_overload(),
    }
}

/// The text of an argument.
pub(crate) fn text<'v>(v: &'v Value<'_>) -> Result<&'v str, EvalError> {
    v.as_str().ok_or_else(|| EvalError::new("no such overload"))
}

/// A compiled pattern.
pub(crate) fn pattern(p: &str) -> Result<regex::Regex, EvalError> {
    knarr_schema::structural::pattern(p).ok_or_else(|| EvalError::new(format!("error parsing regexp: {p}")))
}

pub(crate) fn owned<'a>(s: &str) -> Value<'a> {
    Value::String(Text::Owned(s.into()))
}

/// Finds constants that can never be read: durations, times and patterns.
pub(crate) fn validate_literals(e: &Expr, source: &str) -> Result<(), Issues> {
    let mut all = Vec::new();
    literals(e, &mut all);
    if all.is_empty() { Ok(()) } else { Err(Issues::new(source, all)) }
}

fn literals(e: &Expr, out: &mut Vec<Issue>) {
    match &e.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => literals(operand, out),
        Kind::List(l) => l.iter().for_each(|(e, _)| literals(e, out)),
        Kind::Map(m) => m.iter().for_each(|(k, v, _)| {
            literals(k, out);
            literals(v, out);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|(_, e, _)| literals(e, out)),
        Kind::Fold(f) => [&f.range, &f.init, &f.condition, &f.step, &f.result].into_iter().for_each(|e| literals(e, out)),
        Kind::Call { target, function, args } => {
            if let Some(t) = target {
                literals(t, out);
            }
            args.iter().for_each(|a| literals(a, out));
            let constant = args.last().and_then(|a| match &a.kind {
                Kind::Literal(Literal::String(s)) => Some((a.at, s)),
                _ => None,
            });
            let Some((at, s)) = constant else { return };
            let bad = match function.as_str() {
                "duration" if args.len() == 1 => time::parse_duration(s).is_none(),
                "timestamp" if args.len() == 1 => time::parse_timestamp(s).is_none(),
                "matches" => knarr_schema::structural::pattern(s).is_none(),
                _ => false,
            };
            if bad {
                out.push(Issue::new(at, format!("invalid {function} argument")));
            }
        }
    }
}
