//! Quantities.

use super::{no_overload, text};
use crate::{
    error::EvalError,
    eval::Outcome,
    value::{Opaque, Value},
};

/// A quantity; its text is the canonical one.
#[derive(Clone, Debug)]
pub struct Quantity(pub(crate) knarr_schema::quantity::Quantity);

impl Quantity {
    /// The order of two quantities.
    #[must_use]
    pub fn compare(&self, o: &Quantity) -> std::cmp::Ordering {
        self.0.cmp(&o.0)
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn of<'v>(v: &'v Value<'_>) -> Result<&'v knarr_schema::quantity::Quantity, EvalError> {
    match v {
        Value::Opaque(o) => match o.as_ref() {
            Opaque::Quantity(q) => Ok(&q.0),
            _ => Err(EvalError::new("no such overload")),
        },
        _ => Err(EvalError::new("no such overload")),
    }
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let parse = |v: &Value<'a>| -> Result<Result<knarr_schema::quantity::Quantity, knarr_schema::quantity::Error>, EvalError> { Ok(knarr_schema::quantity::Quantity::parse(text(v)?)) };
    let made = |q| Ok(Value::opaque(Opaque::Quantity(Quantity(q))));
    match (name, args) {
        ("quantity", [v]) => parse(v)?.map_err(|e| EvalError::new(e.to_string())).and_then(made),
        ("isQuantity", [v]) => Ok(Value::Bool(parse(v)?.is_ok())),
        ("sign", [v]) => Ok(Value::Int(i64::from(of(v)?.sign()))),
        ("isInteger", [v]) => Ok(Value::Bool(of(v)?.is_whole())),
        ("asInteger", [v]) => {
            let q = of(v)?;
            if q.is_whole() { Ok(Value::Int(q.value())) } else { Err(EvalError::new("cannot convert value to integer")) }
        }
        ("asApproximateFloat", [v]) => Ok(Value::Double(of(v)?.as_f64())),
        ("isGreaterThan", [a, b]) => Ok(Value::Bool(of(a)? > of(b)?)),
        ("isLessThan", [a, b]) => Ok(Value::Bool(of(a)? < of(b)?)),
        ("compareTo", [a, b]) => Ok(Value::Int(of(a)?.cmp(of(b)?) as i64)),
        ("add", [a, Value::Int(i)]) => made(*of(a)? + knarr_schema::quantity::Quantity::from_int(*i)),
        ("add", [a, b]) => made(*of(a)? + *of(b)?),
        ("sub", [a, Value::Int(i)]) => made(*of(a)? - knarr_schema::quantity::Quantity::from_int(*i)),
        ("sub", [a, b]) => made(*of(a)? - *of(b)?),
        _ => no_overload(),
    }
}
