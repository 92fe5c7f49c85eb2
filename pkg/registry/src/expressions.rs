//! What the expressions of admission may name, and the check of those that are written.

use std::sync::OnceLock;

use knarr_cel::{admission, Composed, Decl, Env, ObjectType, Program, Type};
use serde_json::Value;

use crate::{error::FieldError, names, object::Object};

/// The most conditions of one webhook.
const MOST: usize = 64;

/// The names that `matchConditions` of webhooks may use: `object`, `oldObject`, `request`,
/// `authorizer` and `authorizer.requestResource`.
pub fn match_conditions() -> &'static Env {
    static ENV: OnceLock<Env> = OnceLock::new();
    ENV.get_or_init(admission::base)
}

/// The names that the expressions of admission policies may use: those of match conditions, and
/// `namespaceObject`, `params` and `variables`.
pub fn policies() -> &'static Env {
    static ENV: OnceLock<Env> = OnceLock::new();
    ENV.get_or_init(|| {
        admission::base().with("namespaceObject", Decl::ANY).with("params", Decl::ANY).with("variables", Decl::ANY)
    })
}

/// The names that the mutations of admission policies may use: those of policies, and the types
/// `Object…` and `JSONPatch`.
pub fn mutations() -> &'static Env {
    static ENV: OnceLock<Env> = OnceLock::new();
    ENV.get_or_init(|| {
        let mut env = policies().clone();
        let patch = ObjectType::new("JSONPatch", [("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)]);
        env.structs.insert("JSONPatch".into(), patch);
        env.open_structs.push("Object".into());
        env
    })
}

/// The names that the expressions of one policy may use besides its variables: `params` only where
/// it has parameters.
fn of_policy(spec: &Value, patches: bool) -> Env {
    let mut env = admission::base().with("namespaceObject", Decl::of(admission::namespace()));
    if spec.at(&["paramKind"]).is_some() {
        env = env.with("params", Decl::ANY);
    }
    if patches {
        env.structs.clone_from(&mutations().structs);
        env.open_structs.clone_from(&mutations().open_structs);
    }
    env
}

/// Compiles an expression that has to be a truth.
///
/// # Errors
/// The sentence after the value in a field's error.
pub fn condition(expression: &str, env: &Env) -> Result<Program, String> {
    let p = Program::compile(expression, env).map_err(|e| format!("compilation failed: {e}"))?;
    if p.result == Type::Bool { Ok(p) } else { Err(format!("must evaluate to bool but got {}", p.result.runtime_name())) }
}

/// Whether devices can be chosen by an expression.
///
/// # Errors
/// The sentence after the value in a field's error.
pub(crate) fn validate_device(expression: &str) -> Result<(), String> {
    static ENV: OnceLock<Env> = OnceLock::new();
    let env = ENV.get_or_init(|| Env::default().with("device", Decl::ANY));
    match Program::compile(expression, env).map_err(|e| format!("compilation failed: {e}"))?.result {
        Type::Bool | Type::Dyn => Ok(()),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}

/// Everything wrong with a list of match conditions.
pub(crate) fn validate_match_conditions(all: &[Value], path: &str) -> Vec<FieldError> {
    conditions(all, path, match_conditions())
}

/// Compiles the variables of a policy, each with those before it, and adds them to what the other
/// expressions may use. `variables` is there if there is one, or where mutations are.
fn variables(spec: &Value, env: &mut Env, always: bool, out: &mut Vec<FieldError>) {
    let all = spec.list_at(&["variables"]);
    if all.is_empty() && !always {
        return;
    }
    let mut known = Composed::default();
    env.variables.insert("variables".into(), known.decl());
    for (i, v) in all.iter().enumerate() {
        let (at, expression) = (format!("spec.variables[{i}].expression"), v.str_at(&["expression"]));
        if expression.trim().is_empty() {
            out.push(FieldError::required(at, "expression is not specified"));
            continue;
        }
        let result = match Program::compile(expression, env) {
            Ok(p) => Some(p.result),
            Err(e) => {
                out.push(FieldError::invalid(at, expression, format!("compilation failed: {e}")));
                None
            }
        };
        known.add(v.str_at(&["name"]), result.as_ref());
        env.variables.insert("variables".into(), known.decl());
    }
}

/// Everything wrong with the expressions of a ValidatingAdmissionPolicy's `spec`.
pub(crate) fn validate_policy(spec: &Value) -> Vec<FieldError> {
    let mut env = of_policy(spec, false);
    let mut out = conditions(spec.list_at(&["matchConditions"]), "spec.matchConditions", &env);
    variables(spec, &mut env, false, &mut out);
    // Messages are for those who may read them.
    let mut messages = env.clone();
    messages.variables.retain(|name, _| !name.starts_with("authorizer"));
    let mut compiles = |at: String, expression: &str, env: &Env, wanted: &[Type]| {
        let expression = expression.trim();
        if expression.is_empty() {
            let what = if at.ends_with("valueExpression") { "valueExpression" } else { "expression" };
            out.push(FieldError::required(at, format!("{what} is not specified")));
            return;
        }
        let why = match Program::compile(expression, env) {
            Err(e) => format!("compilation failed: {e}"),
            Ok(p) if wanted.contains(&p.result) => return,
            Ok(p) => {
                let names: Vec<String> = wanted.iter().map(Type::runtime_name).collect();
                let names = if names.len() > 1 { format!("one of [{}]", names.join(" ")) } else { names.concat() };
                format!("must evaluate to {names} but got {}", p.result.runtime_name())
            }
        };
        out.push(FieldError::invalid(at, expression, why));
    };
    for (i, v) in spec.list_at(&["validations"]).iter().enumerate() {
        compiles(format!("spec.validations[{i}].expression"), v.str_at(&["expression"]), &env, &[Type::Bool]);
        if !v.str_at(&["messageExpression"]).trim().is_empty() {
            compiles(format!("spec.validations[{i}].messageExpression"), v.str_at(&["messageExpression"]), &messages, &[Type::String]);
        }
    }
    for (i, v) in spec.list_at(&["auditAnnotations"]).iter().enumerate() {
        compiles(format!("spec.auditAnnotations[{i}].valueExpression"), v.str_at(&["valueExpression"]), &env, &[Type::String, Type::Null]);
    }
    if spec.list_at(&["validations"]).is_empty() && spec.list_at(&["auditAnnotations"]).is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        out.push(FieldError::required("spec.validations", why));
        out.push(FieldError::required("spec.auditAnnotations", why));
    }
    out
}

/// The name of the type an expression must have, and whether it is that.
type Wanted<'a> = Option<(&'a str, fn(&Type) -> bool)>;

/// Everything wrong with a MutatingAdmissionPolicy's `spec`.
pub(crate) fn validate_mutating_policy(spec: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    crate::strategy::mutable(&spec["matchConstraints"], "spec.matchConstraints", &mut out);
    let mut env = of_policy(spec, true);
    out.extend(conditions(spec.list_at(&["matchConditions"]), "spec.matchConditions", &env));
    variables(spec, &mut env, true, &mut out);
    let env = &env;
    let compiled = |at: String, expression: &str, wanted: Wanted<'_>, out: &mut Vec<FieldError>| {
        let expression = expression.trim();
        if expression.is_empty() {
            out.push(FieldError::required(&at, ""));
            return;
        }
        match Program::compile(expression, env) {
            Err(e) => out.push(FieldError::invalid(at, expression, format!("compilation failed: {e}"))),
            Ok(p) => {
                if let Some((name, fits)) = wanted
                    && !fits(&p.result)
                {
                    let why = format!("must evaluate to {name} but got {}", p.result.runtime_name());
                    out.push(FieldError::invalid(at, expression, why));
                }
            }
        }
    };
    let all = spec.list_at(&["mutations"]);
    if all.is_empty() {
        out.push(FieldError::required("spec.mutations", "mutations must contain at least one item"));
    }
    for (i, m) in all.iter().enumerate() {
        let at = format!("spec.mutations[{i}]");
        let object: fn(&Type) -> bool = |t| t.to_string() == "Object";
        let list: fn(&Type) -> bool = |t| t.to_string() == "list(JSONPatch)";
        let (kind, own, other, wanted) = match m.str_at(&["patchType"]) {
            "ApplyConfiguration" => ("ApplyConfiguration", "applyConfiguration", "jsonPatch", ("Object", object)),
            "JSONPatch" => ("JSONPatch", "jsonPatch", "applyConfiguration", ("list(JSONPatch)", list)),
            "" => {
                out.push(FieldError::required(format!("{at}.patchType"), ""));
                continue;
            }
            other => {
                out.push(FieldError::not_supported(format!("{at}.patchType"), other, &["ApplyConfiguration", "JSONPatch"]));
                continue;
            }
        };
        match m.at(&[own]) {
            None => out.push(FieldError::required(format!("{at}.{own}"), format!("must be specified when patchType is {kind}"))),
            Some(e) => compiled(format!("{at}.{own}.expression"), e.str_at(&["expression"]), Some(wanted), &mut out),
        }
        if m.at(&[other]).is_some() {
            out.push(FieldError::invalid(format!("{at}.{other}"), format!("{{{other}}}"), format!("must not be specified when patchType is {kind}")));
        }
    }
    match spec.str_at(&["reinvocationPolicy"]) {
        "" => out.push(FieldError::required("spec.reinvocationPolicy", "")),
        "Never" | "IfNeeded" => {}
        other => out.push(FieldError::not_supported("spec.reinvocationPolicy", other, &["IfNeeded", "Never"])),
    }
    out
}

fn conditions(all: &[Value], path: &str, env: &Env) -> Vec<FieldError> {
    let mut out = Vec::new();
    if all.len() > MOST {
        out.push(FieldError {
            kind: crate::error::FieldErrorKind::TooMany,
            field: path.to_owned(),
            value: Some(all.len().into()),
            detail: format!("must have at most {MOST} items"),
        });
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, c) in all.iter().enumerate() {
        let (name, expression) = (c.str_at(&["name"]), c.str_at(&["expression"]).trim());
        let at = format!("{path}[{i}].expression");
        if expression.is_empty() {
            out.push(FieldError::required(at, ""));
        } else if let Err(why) = condition(expression, env) {
            out.push(FieldError::invalid(at, expression, why));
        }
        let at = format!("{path}[{i}].name");
        if name.is_empty() {
            out.push(FieldError::required(at, ""));
            continue;
        }
        out.extend(names::qualified(name).into_iter().map(|why| FieldError::invalid(at.clone(), name, why)));
        if seen.contains(&name) {
            out.push(FieldError::duplicate(at, name));
        }
        seen.push(name);
    }
    out
}
