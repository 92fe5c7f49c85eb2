//! The evaluator: walks the checked expression, counts what it costs, stops at the limit.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    ast::{Expr, Fold, Kind, Literal},
    authorizer::Authorizer,
    cost,
    error::EvalError,
    functions,
    value::{Key, Struct, Text, Value, same_keys},
    types::ListKind,
};

/// Where variables come from. Values may be made when they are asked for.
pub trait Variables<'a> {
    /// The variable's value, and what it has cost to make it now.
    ///
    /// # Errors
    /// It has none.
    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;
    /// What making values has cost since the last call.
    fn spent(&self) -> u64 {
        0
    }
}

/// Variables that are there.
#[derive(Debug, Default)]
pub struct Bindings<'a>(pub Vec<(&'static str, Value<'a>)>);

impl<'a> Variables<'a> for Bindings<'a> {
    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| Ok(v.clone()))
    }
}

pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;

/// One evaluation.
pub(crate) struct Eval<'p, 'a> {
    pub variables: &'p dyn Variables<'a>,
    pub authorizer: Option<&'p dyn Authorizer>,
    pub scopes: Vec<(&'p str, Outcome<'a>)>,
    pub cost: u64,
    pub limit: u64,
}

impl<'p, 'a> Eval<'p, 'a> {
    pub(crate) fn spend(&mut self, n: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(n);
        if self.cost > self.limit { Err(EvalError::CostExceeded) } else { Ok(()) }
    }

    pub(crate) fn expr(&mut self, e: &'p Expr) -> Outcome<'a> {
        match &e.kind {
            Kind::Literal(l) => Ok(literal(l)),
            Kind::Ident(name) => {
                self.spend(cost::ACCESS)?;
                self.variable(name)
            }
            Kind::Select { operand, field, test } => {
                let v = self.expr(operand)?;
                if *test {
                    return Ok(Value::Bool(self.has(&v, field)?));
                }
                self.spend(cost::ACCESS)?;
                select(&v, field)
            }
            Kind::Call { target, function, args } => self.call(target.as_deref(), function, args),
            Kind::List(all) => {
                let mut out = Vec::with_capacity(all.len());
                for (x, optional) in all {
                    match self.expr(x)? {
                        Value::Optional(None) if *optional => {}
                        Value::Optional(Some(v)) if *optional => out.push(v.as_ref().clone()),
                        v => out.push(v),
                    }
                }
                self.spend(cost::LIST)?;
                Ok(Value::list(out))
            }
            Kind::Map(all) => {
                let mut out = BTreeMap::new();
                for (k, v, optional) in all {
                    let key = self.expr(k)?;
                    let v = match self.expr(v)? {
                        Value::Optional(None) if *optional => continue,
                        Value::Optional(Some(v)) if *optional => v.as_ref().clone(),
                        v => v,
                    };
                    let key = key.key().ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
                    if out.insert(key, v).is_some() {
                        return Err(EvalError::new("Failed with repeated key"));
                    }
                }
                self.spend(cost::MAP)?;
                Ok(Value::Map(Rc::new(out)))
            }
            Kind::Struct { name, fields } => {
                let mut out = BTreeMap::new();
                for (f, v, optional) in fields {
                    let v = match self.expr(v)? {
                        Value::Optional(None) if *optional => continue,
                        Value::Optional(Some(v)) if *optional => v.as_ref().clone(),
                        v => v,
                    };
                    out.insert(f.clone(), v);
                }
                self.spend(cost::STRUCT)?;
                Ok(Value::Struct(Rc::new(Struct { name: name.clone(), fields: out })))
            }
            Kind::Fold(f) => self.fold(f),
        }
    }

    fn variable(&mut self, name: &str) -> Outcome<'a> {
        if let Some((_, v)) = self.scopes.iter().rev().find(|(n, _)| *n == name) {
            return v.clone();
        }
        if let Some(v) = self.variables.get(name) {
            let spent = self.variables.spent();
            self.spend(spent)?;
            return v;
        }
        match crate::decls::type_name(name) {
            Some(t) => Ok(Value::Type(type_text(&t).into())),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn has(&mut self, v: &Value<'a>, field: &str) -> Result<bool, EvalError> {
        match v {
            Value::Optional(None) => Ok(false),
            Value::Optional(Some(v)) => self.has(v, field),
            Value::Map(_) | Value::JsonMap(..) | Value::Struct(_) => Ok(v.member(field).is_some()),
            other => Err(EvalError::new(if other.is_number() { "no such overload".to_owned() } else { format!("unexpected type for presence test: {}", other.type_name()) })),
        }
    }

    fn call(&mut self, target: Option<&'p Expr>, function: &'p str, args: &'p [Expr]) -> Outcome<'a> {
        match (function, args) {
            ("_&&_", [a, b]) => return self.logical(a, b, false),
            ("_||_", [a, b]) => return self.logical(a, b, true),
            ("_?_:_", [c, yes, no]) => {
                return match self.expr(c)? {
                    Value::Bool(true) => self.expr(yes),
                    Value::Bool(false) => self.expr(no),
                    _ => Err(EvalError::new("no such overload")),
                };
            }
            ("@not_strictly_false", [a]) => {
                let v = self.expr(a);
                self.spend(1)?;
                return match v {
                    Err(EvalError::CostExceeded) => Err(EvalError::CostExceeded),
                    Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                    _ => Ok(Value::Bool(true)),
                };
            }
            ("_+_", [a, b]) => return self.add(a, b),
            ("or" | "orValue", [alternative]) => {
                let v = match target {
                    Some(t) => self.expr(t)?,
                    None => return Err(EvalError::new("no such overload")),
                };
                return match v {
                    Value::Optional(Some(v)) => Ok(if function == "or" { Value::Optional(Some(v)) } else { v.as_ref().clone() }),
                    Value::Optional(None) => self.expr(alternative),
                    _ => Err(EvalError::new("no such overload")),
                };
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        if let Some(t) = target {
            values.push(self.expr(t)?);
        }
        for a in args {
            values.push(self.expr(a)?);
        }
        if function == "cel.@mapInsert" {
            // The accumulator is not copied.
            self.release(args.first());
            self.spend(1)?;
            return functions::map_insert(values);
        }
        let result = functions::call(self, function, &values)?;
        self.spend(cost::call(function, &values, Some(&result)))?;
        Ok(result)
    }

    /// Forgets the accumulator that an expression names, so that its value has one owner.
    fn release(&mut self, e: Option<&Expr>) {
        if let Some(Kind::Ident(name)) = e.map(|e| &e.kind)
            && name == crate::macros::ACCU
            && let Some((_, v)) = self.scopes.iter_mut().rev().find(|(n, _)| n == name)
        {
            *v = Ok(Value::Null);
        }
    }

    fn add(&mut self, a: &'p Expr, b: &'p Expr) -> Outcome<'a> {
        let left = self.expr(a)?;
        let right = self.expr(b)?;
        if let (Value::List(_), Some(more)) = (&left, right.elements()) {
            self.release(Some(a));
            self.spend(1)?;
            let Value::List(mut l) = left else { return Err(EvalError::new("no such overload")) };
            Rc::make_mut(&mut l).extend(more);
            return Ok(Value::List(l));
        }
        let values = [left, right];
        let result = functions::call(self, "_+_", &values)?;
        self.spend(cost::call("_+_", &values, Some(&result)))?;
        Ok(result)
    }

    fn logical(&mut self, a: &'p Expr, b: &'p Expr, decides: bool) -> Outcome<'a> {
        let left = self.expr(a);
        match left {
            Ok(Value::Bool(v)) if v == decides => return Ok(Value::Bool(decides)),
            Err(EvalError::CostExceeded) => return left,
            _ => {}
        }
        let right = self.expr(b);
        match right {
            Ok(Value::Bool(v)) if v == decides => return Ok(Value::Bool(decides)),
            Err(EvalError::CostExceeded) => return right,
            _ => {}
        }
        match (left, right) {
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            (Err(e), _) | (_, Err(e)) => Err(e),
            _ => Err(EvalError::new("no such overload")),
        }
    }

    fn fold(&mut self, f: &'p Fold) -> Outcome<'a> {
        let depth = self.scopes.len();
        let range = self.expr(&f.range)?;
        let init = self.expr(&f.init);
        if let Err(EvalError::CostExceeded) = init {
            return init;
        }
        self.scopes.push((&f.accu, init));
        let result = self.turns(f, &range, depth).and_then(|()| self.expr(&f.result));
        self.scopes.truncate(depth);
        result
    }

    fn turns(&mut self, f: &'p Fold, range: &Value<'a>, depth: usize) -> Result<(), EvalError> {
        let keys = match range {
            Value::List(_) | Value::JsonList(..) => None,
            _ => Some(range.keys().ok_or_else(|| EvalError::new("no such overload"))?),
        };
        let n = keys.as_ref().map_or_else(|| range.size() as usize, Vec::len);
        for i in 0..n {
            self.scopes.truncate(depth + 1);
            let (first, second) = match &keys {
                Some(all) => {
                    let Some(k) = all.get(i) else { break };
                    (key_value(k), f.var2.is_some().then(|| range.entry(k)).flatten())
                }
                None => {
                    let item = range.element(i);
                    match &f.var2 {
                        Some(_) => (Value::Int(i as i64), item),
                        None => (item.unwrap_or(Value::Null), None),
                    }
                }
            };
            self.scopes.push((&f.var, Ok(first)));
            if let Some(v2) = &f.var2 {
                self.scopes.push((v2, Ok(second.unwrap_or(Value::Null))));
            }
            match self.expr(&f.condition) {
                Ok(Value::Bool(true)) => {}
                Ok(_) => break,
                Err(e) => return Err(e),
            }
            let next = self.expr(&f.step);
            if let Err(EvalError::CostExceeded) = next {
                return next.map(|_| ());
            }
            self.scopes.truncate(depth + 1);
            if let Some(accu) = self.scopes.last_mut() {
                accu.1 = next;
            }
        }
        self.scopes.truncate(depth + 1);
        Ok(())
    }
}

fn type_text(t: &crate::types::Type) -> String {
    use crate::types::Type;
    match t {
        Type::List(_) => "list".into(),
        Type::Map(..) => "map".into(),
        Type::Type(_) => "type".into(),
        Type::Optional(_) => "optional_type".into(),
        Type::Null => "null_type".into(),
        other => other.to_string(),
    }
}

pub(crate) fn key_value<'a>(k: &Key<'a>) -> Value<'a> {
    match k {
        Key::Bool(b) => Value::Bool(*b),
        Key::Int(i) => Value::Int(*i),
        Key::Uint(u) => Value::Uint(*u),
        Key::String(t) => Value::String(t.clone()),
    }
}

fn literal<'a>(l: &Literal) -> Value<'a> {
    match l {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::String(Text::Owned(s.as_str().into())),
        Literal::Bytes(b) => Value::Bytes(b.as_slice().into()),
    }
}

/// `v.field`.
pub(crate) fn select<'a>(v: &Value<'a>, field: &str) -> Outcome<'a> {
    match v {
        Value::Map(_) | Value::JsonMap(..) | Value::Struct(_) => v.member(field).ok_or_else(|| EvalError::new(format!("no such key: {}", crate::unescape(field)))),
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => Ok(Value::Optional(inner.member(field).map(Rc::new))),
        _ => Err(EvalError::new("no such overload")),
    }
}

/// Two lists, added as their schema says.
pub(crate) fn concat<'a>(a: &Value<'a>, b: &Value<'a>) -> Option<Value<'a>> {
    let (mut all, more) = (a.elements()?, b.elements()?);
    match a.list_kind() {
        None | Some(ListKind::Atomic) => all.extend(more),
        Some(ListKind::Set) => {
            for v in more {
                if !all.iter().any(|x| x.equals(&v)) {
                    all.push(v);
                }
            }
        }
        Some(ListKind::Map(keys)) => {
            for v in more {
                match all.iter().position(|x| same_keys(x, &v, keys)) {
                    Some(i) => all[i] = v,
                    None => all.push(v),
                }
            }
        }
    }
    Some(Value::list(all))
}
