//! `x-kubernetes-validations` of custom resources.

use std::sync::Arc;

use knarr_cel::{Bindings, Decl, Env, EvalError, Program, Type, Value as Cel, cost, schema};
use serde_json::Value;

use crate::{
    error::{FieldError, FieldErrorKind},
    object::Object,
};

/// The deepest schema that is followed.
const DEEPEST: usize = 200;
/// The longest message that an expression may give.
const LONGEST: usize = 5 * 1024;

/// One rule, compiled.
struct Rule {
    program: Result<Program, String>,
    message: String,
    message_expression: Option<Program>,
    kind: FieldErrorKind,
    path: String,
    /// Whether it is about a change.
    transition: bool,
    /// Whether `oldSelf` is an optional.
    optional: bool,
}

/// The rules of a schema and of what is below it.
pub(super) struct Rules {
    decl: Decl,
    ty: String,
    rules: Vec<Rule>,
    fields: Vec<(String, Rules)>,
    items: Option<Box<Rules>>,
    values: Option<Box<Rules>>,
    keys: Option<Vec<String>>,
}

fn env(decl: &Decl, optional: bool) -> Env {
    let old = if optional { Decl::of(Type::Optional(Arc::new(decl.ty.clone()))) } else { decl.clone() };
    Env::default().with("self", decl.clone()).with("oldSelf", old)
}

fn is_optional(r: &Value) -> bool {
    r.at(&["optionalOldSelf"]) == Some(&Value::Bool(true))
}

fn program(r: &Value, env: &Env) -> Result<Program, String> {
    match Program::compile(r.str_at(&["rule"]), env) {
        Err(e) => Err(format!("compilation failed: {e}")),
        Ok(p) if p.result != Type::Bool => Err("cel expression must evaluate to a bool".to_owned()),
        Ok(p) => Ok(p),
    }
}

/// The rules of one schema as they are judged when their definition is written.
pub(super) struct Judgement {
    /// How often a value of the schema fits into one request.
    pub(super) often: u64,
    pub(super) rules: Vec<Judged>,
}

/// One rule.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) wrong: Option<String>,
    /// What it may cost once.
    pub(super) cost: u64,
    /// What its message may cost, or what is wrong with it.
    pub(super) message: Option<Result<u64, String>>,
    pub(super) uses_old: bool,
}

/// Judges a schema's own rules; `None` if expressions may not see its values.
pub(super) fn judge(s: &Value, root: bool) -> Option<Judgement> {
    let decl = schema::structural(s, "object", root)?;
    let each = |r: &Value| {
        if r.str_at(&["rule"]).trim().is_empty() {
            return Judged::default();
        }
        let env = env(&decl, is_optional(r));
        let p = match program(r, &env) {
            Ok(p) => p,
            Err(why) => return Judged { wrong: Some(why), ..Judged::default() },
        };
        let text = r.str_at(&["messageExpression"]);
        let message = (!text.is_empty()).then(|| match Program::compile(text, &env) {
            Err(e) => Err(format!("messageExpression compilation failed: {e}")),
            Ok(p) if p.result != Type::String => Err("messageExpression must evaluate to a string".to_owned()),
            Ok(p) => Ok(p.estimate(&env).max),
        });
        Judged { wrong: None, cost: p.estimate(&env).max, message, uses_old: p.uses("oldSelf") }
    };
    Some(Judgement { often: schema::cardinality(s, root), rules: s.list_at(&["x-kubernetes-validations"]).iter().map(each).collect() })
}

fn rule(r: &Value, decl: &Decl) -> Option<Rule> {
    let text = r.str_at(&["rule"]);
    if text.trim().is_empty() {
        return None;
    }
    let optional = is_optional(r);
    let env = env(decl, optional);
    let program = program(r, &env);
    let message = match r.str_at(&["message"]).trim() {
        "" => format!("failed rule: {}", text.trim().replace('\n', "\\n")),
        m => m.to_owned(),
    };
    Some(Rule {
        transition: program.as_ref().is_ok_and(|p| p.uses("oldSelf")),
        program,
        message,
        message_expression: Program::compile(r.str_at(&["messageExpression"]), &env).ok().filter(|p| p.result == Type::String),
        kind: match r.str_at(&["reason"]) {
            "FieldValueForbidden" => FieldErrorKind::Forbidden,
            "FieldValueRequired" => FieldErrorKind::Required,
            "FieldValueDuplicate" => FieldErrorKind::Duplicate,
            _ => FieldErrorKind::Invalid,
        },
        path: r.str_at(&["fieldPath"]).to_owned(),
        optional,
    })
}

impl Rules {
    /// The rules of a schema; `None` if it has none.
    pub(super) fn of(s: &Value, root: bool) -> Option<Self> {
        Self::build(s, root, 0)
    }

    fn build(s: &Value, root: bool, depth: usize) -> Option<Self> {
        if depth > DEEPEST {
            return None;
        }
        let embedded = |s: &Value| s.at(&["x-kubernetes-embedded-resource"]) == Some(&Value::Bool(true));
        let below = |key: &str| s.get(key).filter(|i| i.is_object()).and_then(|i| Self::build(i, embedded(i), depth + 1)).map(Box::new);
        let fields: Vec<(String, Rules)> =
            s.get("properties").and_then(Value::as_object).into_iter().flatten().filter_map(|(k, p)| Some((k.clone(), Self::build(p, embedded(p), depth + 1)?))).collect();
        let (items, values) = (below("items"), below("additionalProperties"));
        let own = s.list_at(&["x-kubernetes-validations"]);
        if own.is_empty() && fields.is_empty() && items.is_none() && values.is_none() {
            return None;
        }
        let decl = if own.is_empty() { Decl::ANY } else { schema::structural(s, "object", root)? };
        let rules = own.iter().filter_map(|r| rule(r, &decl)).collect();
        let keys = (s.str_at(&["x-kubernetes-list-type"]) == "map")
            .then(|| s.list_at(&["x-kubernetes-list-map-keys"]).iter().filter_map(|k| k.as_str().map(str::to_owned)).collect());
        Some(Self { decl, ty: s.str_at(&["type"]).to_owned(), rules, fields, items, values, keys })
    }

    /// Everything that the rules find wrong with an object. What an update leaves as it was is not
    /// looked at.
    pub(super) fn check(&self, obj: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut out = Vec::new();
        self.walk(obj, old, "", &mut cost::RUNTIME_BUDGET.clone(), &mut out);
        out
    }

    fn walk(&self, v: &Value, old: Option<&Value>, path: &str, left: &mut u64, out: &mut Vec<FieldError>) {
        if old == Some(v) || v.is_null() {
            return;
        }
        for r in &self.rules {
            if *left == 0 || out.len() > 100 {
                return;
            }
            self.apply(r, v, old, path, left, out);
        }
        let join = |k: &str| if path.is_empty() { k.to_owned() } else { format!("{path}.{k}") };
        for (k, f) in &self.fields {
            if let Some(inner) = v.get(k) {
                f.walk(inner, old.and_then(|o| o.get(k)), &join(k), left, out);
            }
        }
        if let (Some(items), Some(all)) = (&self.items, v.as_array()) {
            for (i, inner) in all.iter().enumerate() {
                // Only items of lists with keys have an earlier self.
                let before = self.keys.as_ref().and_then(|keys| old?.as_array()?.iter().find(|o| keys.iter().all(|k| o.get(k) == inner.get(k))));
                items.walk(inner, before, &format!("{path}[{i}]"), left, out);
            }
        }
        if let (Some(values), Some(map)) = (&self.values, v.as_object()) {
            for (k, inner) in map {
                values.walk(inner, old.and_then(|o| o.get(k)), &format!("{path}[{k}]"), left, out);
            }
        }
    }

    fn apply(&self, r: &Rule, v: &Value, old: Option<&Value>, path: &str, left: &mut u64, out: &mut Vec<FieldError>) {
        if r.transition && old.is_none() && !r.optional {
            return;
        }
        let shown = format!("{}{}", if path.is_empty() && r.path.is_empty() { "<nil>" } else { path }, r.path);
        let field = shown.trim_start_matches('.').to_owned();
        let fail = |kind, detail: String| {
            let value = matches!(kind, FieldErrorKind::Invalid | FieldErrorKind::Duplicate).then(|| Value::String(self.ty.clone()));
            FieldError { kind, field: field.clone(), value, detail }
        };
        let program = match &r.program {
            Ok(p) => p,
            Err(why) => return out.push(fail(FieldErrorKind::Invalid, format!("rule compile error: {why}"))),
        };
        let before = match (old.map(|o| Cel::json(o, &self.decl)), r.optional) {
            (o, true) => Cel::Optional(o.map(Into::into)),
            (Some(o), false) => o,
            (None, false) => Cel::Null,
        };
        let names = Bindings(vec![("self", Cel::json(v, &self.decl)), ("oldSelf", before)]);
        let (result, spent) = program.eval(&names, None, cost::PER_CALL_LIMIT.min(*left));
        *left = left.saturating_sub(spent);
        match result {
            Ok(b) if b.as_bool() == Some(true) => {}
            Ok(_) => {
                let made = r.message_expression.as_ref().and_then(|p| {
                    let (m, spent) = p.eval(&names, None, cost::PER_CALL_LIMIT.min(*left));
                    *left = left.saturating_sub(spent);
                    m.ok()?.as_str().map(|m| m.trim().to_owned()).filter(|m| !m.is_empty() && !m.contains('\n') && m.len() <= LONGEST)
                });
                out.push(fail(r.kind, made.unwrap_or_else(|| r.message.clone())));
            }
            Err(EvalError::CostExceeded) if *left == 0 => {
                out.push(fail(FieldErrorKind::Invalid, "validation failed due to running out of cost budget, no further validation rules will be run".into()));
            }
            Err(e @ EvalError::CostExceeded) => {
                out.push(fail(FieldErrorKind::Invalid, format!("'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {}", r.message)));
            }
            Err(e) if e.to_string().starts_with("no such overload") => {
                out.push(fail(FieldErrorKind::Invalid, format!("'{e}': call arguments did not match a supported operator, function or macro signature for rule: {}", r.message)));
            }
            Err(e) => out.push(fail(FieldErrorKind::Invalid, format!("{e} evaluating rule: {}", r.message))),
        }
    }
}
