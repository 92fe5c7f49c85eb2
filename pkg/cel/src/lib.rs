//! The Common Expression Language as Kubernetes v1.37 uses it.
//!
//! [`Program::compile`] parses an expression, expands its macros and checks it against an [`Env`];
//! [`Program::eval`] evaluates it over [`Value`]s, which may borrow JSON, and counts what that costs.
//! [`estimate`] says before anything is evaluated what it may cost at most by the sizes that a schema
//! allows. Sentences and units are those of cel-go and of Kubernetes' libraries.
//!
//! Nothing here can recurse without bound: expressions are at most 150 deep and 100,000 characters
//! long, and what an evaluation may cost is limited.

pub mod admission;
pub mod ast;
mod authorizer;
mod check;
pub mod cost;
mod decls;
mod error;
pub mod estimate;
mod eval;
mod functions;
mod lex;
mod macros;
mod parse;
pub mod schema;
mod types;
mod value;

pub use authorizer::{Authorizer, Check, Decision};
pub use check::Env;
pub use error::{EvalError, Issue, Issues};
pub use eval::{Bindings, Variables};
pub use parse::{is_identifier, parse};
pub use types::{Composed, Decl, Field, ListKind, ObjectType, Type};
pub use value::{Key, Opaque, Struct, Text, Value};

use std::collections::HashMap;

/// A checked expression, ready to be evaluated.
#[derive(Debug)]
pub struct Program {
    expr: ast::Expr,
    /// The type of its result.
    pub result: Type,
    types: HashMap<u32, Type>,
}

impl Program {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(source: &str, env: &Env) -> Result<Self, Issues> {
        let expr = parse(source)?;
        let c = check::check(source, expr, env)?;
        functions::validate_literals(&c.expr, source)?;
        Ok(Self { expr: c.expr, result: c.result, types: c.types })
    }

    /// Evaluates it; the result and what it has cost.
    ///
    /// # Errors
    /// The expression fails, or costs more than `limit`.
    pub fn eval<'a, 'p>(&'p self, variables: &'p dyn Variables<'a>, authorizer: Option<&'p dyn Authorizer>, limit: u64) -> (Result<Value<'a>, EvalError>, u64) {
        let mut e = eval::Eval { variables, authorizer, scopes: Vec::new(), cost: 0, limit };
        let r = e.expr(&self.expr);
        (r, e.cost)
    }

    /// Whether a field of a variable is taken anywhere, as `v.f` or `v.?f`.
    #[must_use]
    pub fn takes(&self, variable: &str, field: &str) -> bool {
        takes(&self.expr, variable, field)
    }

    /// Whether a variable is named anywhere.
    #[must_use]
    pub fn uses(&self, variable: &str) -> bool {
        uses(&self.expr, variable)
    }
}

fn takes(e: &ast::Expr, v: &str, f: &str) -> bool {
    use ast::Kind;
    let of = |e: &ast::Expr| matches!(&e.kind, Kind::Ident(n) if n == v);
    let named = |e: &ast::Expr| matches!(&e.kind, Kind::Literal(ast::Literal::String(s)) if s == f);
    match &e.kind {
        Kind::Literal(_) | Kind::Ident(_) => false,
        Kind::Select { operand, field, .. } => of(operand) && field == f || takes(operand, v, f),
        Kind::Call { target, args, .. } => {
            let optional = target.is_none() && matches!(args.as_slice(), [a, b] if of(a) && named(b));
            optional || target.as_ref().is_some_and(|t| takes(t, v, f)) || args.iter().any(|a| takes(a, v, f))
        }
        Kind::List(l) => l.iter().any(|(e, _)| takes(e, v, f)),
        Kind::Map(m) => m.iter().any(|(k, x, _)| takes(k, v, f) || takes(x, v, f)),
        Kind::Struct { fields, .. } => fields.iter().any(|(_, x, _)| takes(x, v, f)),
        Kind::Fold(x) => [&x.range, &x.init, &x.condition, &x.step, &x.result].iter().any(|e| takes(e, v, f)),
    }
}

fn uses(e: &ast::Expr, v: &str) -> bool {
    use ast::Kind;
    match &e.kind {
        Kind::Literal(_) => false,
        Kind::Ident(n) => n == v,
        Kind::Select { operand, .. } => uses(operand, v),
        Kind::Call { target, args, .. } => target.as_ref().is_some_and(|t| uses(t, v)) || args.iter().any(|a| uses(a, v)),
        Kind::List(l) => l.iter().any(|(e, _)| uses(e, v)),
        Kind::Map(m) => m.iter().any(|(a, b, _)| uses(a, v) || uses(b, v)),
        Kind::Struct { fields, .. } => fields.iter().any(|(_, e, _)| uses(e, v)),
        Kind::Fold(f) => [&f.range, &f.init, &f.condition, &f.step, &f.result].into_iter().any(|e| uses(e, v)),
    }
}

/// Words that a field's name may not be in an expression.
const KEYWORDS: [&str; 21] = [
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "return",
    "var", "void", "while",
];

/// Whether a field's name can be written in an expression at all.
#[must_use]
pub fn accessible(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '-' | '/');
    name.starts_with(ok) && name.chars().all(|c| ok(c) || c.is_ascii_digit())
}

/// A field's name as expressions write it.
#[must_use]
pub fn escape(name: &str) -> String {
    if KEYWORDS.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains("__") && !name.contains(['.', '-', '/']) {
        return name.to_owned();
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

/// The name of a field in JSON from the one in expressions.
#[must_use]
pub fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && KEYWORDS.contains(&word)
    {
        return word.to_owned();
    }
    if !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/").replace("__underscores__", "__")
}

#[cfg(test)]
mod tests;
