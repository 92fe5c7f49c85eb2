//! The checker: what every name means, which overloads fit, and of which type each expression is.

use std::{collections::HashMap, sync::Arc};

use crate::{
    ast::{Expr, Fold, Kind, Literal},
    decls::{self, Overload},
    error::{Issue, Issues},
    types::{Decl, ObjectType, Type},
};

/// The names that an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Variables.
    pub variables: HashMap<String, Decl>,
    /// Structs that may be made, by name.
    pub structs: HashMap<String, Arc<ObjectType>>,
    /// Whether struct names that are not known may be made with any fields, below these names.
    pub open_structs: Vec<String>,
}

impl Env {
    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, decl: Decl) -> Self {
        self.variables.insert(name.to_owned(), decl);
        self
    }
}

/// What checking found.
pub struct Checked {
    /// The expression, with qualified names of functions joined.
    pub expr: Expr,
    /// The type of each expression by its id.
    pub types: HashMap<u32, Type>,
    /// The result's type.
    pub result: Type,
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(String, Type)>,
    issues: Vec<Issue>,
    types: HashMap<u32, Type>,
    bound: Vec<Option<Type>>,
}

/// Checks an expression against an environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(source: &str, mut expr: Expr, env: &Env) -> Result<Checked, Issues> {
    let mut c = Checker { env, scopes: Vec::new(), issues: Vec::new(), types: HashMap::new(), bound: Vec::new() };
    let t = c.expr(&mut expr);
    if !c.issues.is_empty() {
        return Err(Issues::new(source, c.issues));
    }
    let result = c.settled(&t);
    let ids: Vec<(u32, Type)> = c.types.iter().map(|(i, t)| (*i, t.clone())).collect();
    let types = ids.into_iter().map(|(i, t)| (i, c.settled(&t))).collect();
    Ok(Checked { expr, types, result })
}

impl Checker<'_> {
    fn fail(&mut self, at: u32, why: impl Into<String>) -> Type {
        if self.issues.len() < 100 {
            self.issues.push(Issue::new(at, why));
        }
        Type::Error
    }

    fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var((self.bound.len() - 1) as u32)
    }

    fn lookup(&self, n: u32) -> Option<&Type> {
        self.bound.get(n as usize).and_then(Option::as_ref)
    }

    /// The type as far as it is known, its outermost layer.
    fn shallow(&self, t: &Type) -> Type {
        let mut t = t.clone();
        while let Type::Var(n) = t {
            match self.lookup(n) {
                Some(next) => t = next.clone(),
                None => return t,
            }
        }
        t
    }

    /// The type with all that was found out; what is still open is `dyn`.
    fn settled(&self, t: &Type) -> Type {
        self.replace(t, &|v| match v {
            Type::Var(_) => Type::Dyn,
            other => other.clone(),
        })
    }

    /// The type as messages show it.
    fn shown(&self, t: &Type) -> String {
        self.settled(t).to_string()
    }

    fn replace(&self, t: &Type, open: &dyn Fn(&Type) -> Type) -> Type {
        match self.shallow(t) {
            Type::List(d) if has_vars(&d.ty) => Type::List(Arc::new(Decl { ty: self.replace(&d.ty, open), max: d.max, list: d.list.clone() })),
            Type::Map(k, v) if has_vars(&k) || has_vars(&v.ty) => {
                Type::Map(Arc::new(self.replace(&k, open)), Arc::new(Decl { ty: self.replace(&v.ty, open), max: v.max, list: v.list.clone() }))
            }
            Type::Optional(t) => Type::Optional(Arc::new(self.replace(&t, open))),
            Type::Type(t) => Type::Type(Arc::new(self.replace(&t, open))),
            other => open(&other),
        }
    }

    /// Whether `t` may stand where `want` is wanted; binds variables.
    fn fits(&mut self, want: &Type, t: &Type, depth: usize) -> bool {
        let (want, t) = (self.shallow(want), self.shallow(t));
        if depth > 64 {
            return false;
        }
        match (&want, &t) {
            (Type::Var(a), Type::Var(b)) if a == b => true,
            (Type::Var(n), _) => {
                if self.occurs(*n, &t, 0) {
                    return false;
                }
                self.bound[*n as usize] = Some(t);
                true
            }
            (_, Type::Var(n)) => {
                if self.occurs(*n, &want, 0) {
                    return false;
                }
                self.bound[*n as usize] = Some(want);
                true
            }
            (a, b) if a.is_dyn() || b.is_dyn() => true,
            (Type::List(a), Type::List(b)) => self.fits(&a.ty, &b.ty, depth + 1),
            (Type::Map(ak, av), Type::Map(bk, bv)) => self.fits(ak, bk, depth + 1) && self.fits(&av.ty, &bv.ty, depth + 1),
            (Type::Optional(a), Type::Optional(b)) => self.fits(a, b, depth + 1),
            (Type::Type(_), Type::Type(_)) => true,
            // Null stands for any struct, time or library value.
            (Type::Object(_) | Type::Duration | Type::Timestamp | Type::Opaque(_), Type::Null) | (Type::Null, Type::Object(_) | Type::Duration | Type::Timestamp | Type::Opaque(_)) => true,
            (a, b) => a == b,
        }
    }

    fn occurs(&self, n: u32, t: &Type, depth: usize) -> bool {
        if depth > 64 {
            return true;
        }
        match self.shallow(t) {
            Type::Var(m) => m == n,
            Type::List(d) => self.occurs(n, &d.ty, depth + 1),
            Type::Map(k, v) => self.occurs(n, &k, depth + 1) || self.occurs(n, &v.ty, depth + 1),
            Type::Optional(t) | Type::Type(t) => self.occurs(n, &t, depth + 1),
            _ => false,
        }
    }

    /// A variable's type, or the type that a name means.
    fn named(&self, name: &str) -> Option<Type> {
        if let Some((_, t)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return Some(t.clone());
        }
        if let Some(d) = self.env.variables.get(name) {
            return Some(d.ty.clone());
        }
        if self.env.structs.contains_key(name) {
            return Some(Type::Type(Arc::new(Type::Dyn)));
        }
        decls::type_name(name).map(|t| Type::Type(Arc::new(t)))
    }

    fn expr(&mut self, e: &mut Expr) -> Type {
        let t = self.kind(e);
        self.types.insert(e.id, t.clone());
        t
    }

    fn kind(&mut self, e: &mut Expr) -> Type {
        let at = e.at;
        match &mut e.kind {
            Kind::Literal(l) => match l {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Kind::Ident(name) => match self.named(name) {
                Some(t) => t,
                None => {
                    let why = format!("undeclared reference to '{name}' (in container '')");
                    self.fail(at, why)
                }
            },
            Kind::Select { operand, field, test } => {
                if !*test && let Some(q) = operand.qualified() {
                    let root = q.split('.').next().unwrap_or_default().to_owned();
                    let full = format!("{q}.{field}");
                    let known = self.env.variables.contains_key(&full) || !self.env.variables.contains_key(&root);
                    if known && self.scopes.iter().all(|(n, _)| *n != root)
                        && let Some(t) = self.named(&full)
                    {
                        e.kind = Kind::Ident(full);
                        return t;
                    }
                }
                let t = self.expr(operand);
                let (field, test) = (field.clone(), *test);
                let t = self.select(at, &t, &field, false);
                if test { Type::Bool } else { t }
            }
            Kind::Call { .. } => self.call(e),
            Kind::List(all) => {
                let mut element: Option<Type> = None;
                for (x, optional) in all {
                    let xat = x.at;
                    let mut t = self.expr(x);
                    if *optional {
                        t = match self.shallow(&t) {
                            Type::Optional(t) => t.as_ref().clone(),
                            Type::Dyn => Type::Dyn,
                            other => {
                                let why = format!("expected type 'optional_type({0})' but found '{0}'", self.shown(&other));
                                self.fail(xat, why)
                            }
                        };
                    }
                    element = Some(self.joined(xat, element, t));
                }
                let element = element.unwrap_or_else(|| self.fresh());
                Type::list(element)
            }
            Kind::Map(all) => {
                let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
                for (k, v, optional) in all {
                    let (kat, vat) = (k.at, v.at);
                    let kt = self.expr(k);
                    key = Some(self.joined(kat, key, kt));
                    let mut vt = self.expr(v);
                    if *optional && let Type::Optional(t) = self.shallow(&vt) {
                        vt = t.as_ref().clone();
                    }
                    value = Some(self.joined(vat, value, vt));
                }
                let key = key.unwrap_or_else(|| self.fresh());
                let value = value.unwrap_or_else(|| self.fresh());
                Type::map(key, value)
            }
            Kind::Struct { name, fields } => {
                let name = name.clone();
                let known = self.env.structs.get(&name).cloned();
                let open = self.env.open_structs.iter().any(|o| name == *o || name.starts_with(&format!("{o}.")));
                if known.is_none() && !open {
                    return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
                }
                for (field, value, optional) in fields {
                    let vat = value.at;
                    let mut t = self.expr(value);
                    if *optional && let Type::Optional(inner) = self.shallow(&t) {
                        t = inner.as_ref().clone();
                    }
                    let Some(o) = &known else { continue };
                    match o.fields.get(field.as_str()) {
                        None => {
                            self.fail(vat, format!("undefined field '{field}'"));
                        }
                        Some(f) => {
                            if !self.fits(&f.decl.ty, &t, 0) {
                                let why = format!("expected type of field '{field}' is '{}' but provided type is '{}'", f.decl.ty, self.shown(&t));
                                self.fail(vat, why);
                            }
                        }
                    }
                }
                match known {
                    Some(o) => Type::Object(o),
                    None => Type::Object(Arc::new(ObjectType { name, fields: std::collections::BTreeMap::new() })),
                }
            }
            Kind::Fold(f) => self.fold(f),
        }
    }

    /// The common type of the members of a literal; they have one type, or all are `dyn`.
    fn joined(&mut self, at: u32, before: Option<Type>, t: Type) -> Type {
        let Some(before) = before else { return t };
        let mark = self.bound.clone();
        if self.fits(&before, &t, 0) {
            return if self.shallow(&t).is_dyn() || self.shallow(&before) == Type::Null { t } else { before };
        }
        self.bound = mark;
        let why = format!("expected type '{}' but found '{}'", self.shown(&before), self.shown(&t));
        self.fail(at, why)
    }

    fn select(&mut self, at: u32, t: &Type, field: &str, optional: bool) -> Type {
        match self.shallow(t) {
            Type::Dyn | Type::Error => Type::Dyn,
            Type::Var(n) => {
                // Nothing is known of it: it may be a map.
                self.bound[n as usize] = Some(Type::Dyn);
                Type::Dyn
            }
            Type::Map(_, v) => v.ty.clone(),
            Type::Object(o) => {
                if let Some(f) = o.fields.get(field) {
                    return f.decl.ty.clone();
                }
                if o.fields.is_empty() && self.env.open_structs.iter().any(|s| o.name == *s || o.name.starts_with(&format!("{s}."))) {
                    return Type::Dyn;
                }
                self.fail(at, format!("undefined field '{field}'"))
            }
            Type::Optional(inner) if !optional => {
                let t = self.select(at, &inner, field, true);
                if t == Type::Error { t } else { Type::Optional(Arc::new(t)) }
            }
            other => {
                let why = format!("type '{}' does not support field selection", self.shown(&other));
                self.fail(at, why)
            }
        }
    }

    fn call(&mut self, e: &mut Expr) -> Type {
        let at = e.at;
        let Kind::Call { target, function, args } = &mut e.kind else { return Type::Error };
        // `strings.quote(x)` is a function of that name if there is no variable `strings`.
        if let Some(t) = target.as_ref()
            && let Some(q) = t.qualified()
        {
            let root = q.split('.').next().unwrap_or_default().to_owned();
            let full = format!("{q}.{function}");
            if self.scopes.iter().all(|(n, _)| *n != root) && !self.env.variables.contains_key(&root) && decls::function(&full).is_some() {
                *function = full;
                *target = None;
            }
        }
        if function == "_?._" {
            let Some(operand) = args.first_mut() else { return Type::Error };
            let t = self.expr(operand);
            let field = match args.get(1).map(|f| &f.kind) {
                Some(Kind::Literal(Literal::String(s))) => s.clone(),
                _ => String::new(),
            };
            let inner = match self.shallow(&t) {
                Type::Optional(t) => t.as_ref().clone(),
                other => other,
            };
            let t = self.select(at, &inner, &field, true);
            return if t == Type::Error { t } else { Type::Optional(Arc::new(t)) };
        }
        let member = target.is_some();
        let function = function.clone();
        let mut types = Vec::new();
        if let Some(t) = target {
            types.push(self.expr(t));
        }
        for a in args.iter_mut() {
            types.push(self.expr(a));
        }
        let Some(overloads) = decls::function(&function) else {
            if types.contains(&Type::Error) {
                return Type::Error;
            }
            return self.fail(at, format!("undeclared reference to '{function}' (in container '')"));
        };
        if types.contains(&Type::Error) {
            return Type::Error;
        }
        match self.resolve(overloads, member, &types) {
            Some(t) => t,
            None => {
                let shown: Vec<String> = types.iter().map(|t| self.shown(t)).collect();
                let applied = if member { format!("{}.({})", shown[0], shown[1..].join(", ")) } else { format!("({})", shown.join(", ")) };
                self.fail(at, format!("found no matching overload for '{function}' applied to '{applied}'"))
            }
        }
    }

    fn resolve(&mut self, overloads: &'static [Overload], member: bool, types: &[Type]) -> Option<Type> {
        let mut found: Option<Type> = None;
        let mut chosen: Option<Vec<Option<Type>>> = None;
        let start = self.bound.clone();
        for o in overloads {
            if o.member != member || o.args.len() != types.len() {
                continue;
            }
            self.bound = start.clone();
            let mut params: HashMap<&'static str, Type> = HashMap::new();
            let wanted: Vec<Type> = o.args.iter().map(|a| self.instance(a, &mut params)).collect();
            if !wanted.iter().zip(types).all(|(w, t)| self.fits(w, t, 0)) {
                continue;
            }
            let result = self.instance(&o.result, &mut params);
            match &found {
                None => {
                    found = Some(self.partly(&result));
                    chosen = Some(self.bound.clone());
                }
                Some(before) => {
                    if self.shallow(&result) != *before {
                        found = Some(Type::Dyn);
                        // Several fit: nothing is learnt about the arguments.
                        chosen = Some(start.clone());
                    }
                }
            }
        }
        self.bound = chosen.unwrap_or(start);
        found
    }

    /// The type with what is known now, open variables left open.
    fn partly(&self, t: &Type) -> Type {
        self.replace(t, &Type::clone)
    }

    fn instance(&mut self, t: &Type, params: &mut HashMap<&'static str, Type>) -> Type {
        match t {
            Type::Param(n) => {
                if let Some(t) = params.get(n) {
                    return t.clone();
                }
                let v = self.fresh();
                params.insert(n, v.clone());
                v
            }
            Type::List(d) => Type::list(self.instance(&d.ty, params)),
            Type::Map(k, v) => {
                let k = self.instance(k, params);
                Type::map(k, self.instance(&v.ty, params))
            }
            Type::Optional(t) => Type::Optional(Arc::new(self.instance(t, params))),
            Type::Type(t) => Type::Type(Arc::new(self.instance(t, params))),
            other => other.clone(),
        }
    }

    fn fold(&mut self, f: &mut Fold) -> Type {
        let at = f.range.at;
        let range = self.expr(&mut f.range);
        let accu = self.expr(&mut f.init);
        let (first, second) = match self.shallow(&range) {
            Type::List(d) => (Type::Int, d.ty.clone()),
            Type::Map(k, v) => (k.as_ref().clone(), v.ty.clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Var(_) => (Type::Dyn, Type::Dyn),
            other => {
                let why = format!("expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)", self.shown(&other));
                self.fail(at, why);
                (Type::Error, Type::Error)
            }
        };
        let is_list = matches!(self.shallow(&range), Type::List(_));
        let depth = self.scopes.len();
        self.scopes.push((f.accu.clone(), accu.clone()));
        match &f.var2 {
            Some(second_name) => {
                self.scopes.push((f.var.clone(), first));
                self.scopes.push((second_name.clone(), second));
            }
            None => self.scopes.push((f.var.clone(), if is_list { second } else { first })),
        }
        let condition_at = f.condition.at;
        let condition = self.expr(&mut f.condition);
        if !self.fits(&Type::Bool, &condition, 0) {
            let why = format!("expected type 'bool' but found '{}'", self.shown(&condition));
            self.fail(condition_at, why);
        }
        let step_at = f.step.at;
        let step = self.expr(&mut f.step);
        if !self.fits(&accu, &step, 0) {
            let why = format!("expected type '{}' but found '{}'", self.shown(&accu), self.shown(&step));
            self.fail(step_at, why);
        }
        self.scopes.truncate(depth);
        self.scopes.push((f.accu.clone(), accu));
        let result = self.expr(&mut f.result);
        self.scopes.truncate(depth);
        self.partly(&result)
    }
}

fn has_vars(t: &Type) -> bool {
    match t {
        Type::Var(_) => true,
        Type::List(d) => has_vars(&d.ty),
        Type::Map(k, v) => has_vars(k) || has_vars(&v.ty),
        Type::Optional(t) | Type::Type(t) => has_vars(t),
        _ => false,
    }
}
