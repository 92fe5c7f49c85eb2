//! ValidatingAdmissionPolicy: rules in CEL, in force where a binding says so.
//!
//! Variables are evaluated once for each policy and parameter, in order, and may use those before
//! them. Expressions are dynamic: what a kind's schema says of them is not used here.

use std::{collections::BTreeMap, rc::Rc};

use knarr_cel::{Bindings, Env, EvalError, Key, Program, Text, Value as Cel, cost};
use std::sync::Arc;

use knarr_registry::{ApiError, Object, expressions};
use serde_json::{Value, json};

use super::{
    Attrs,
    conditions::{self, Asker},
    matching::{Scope, exempt, holds, labels, selector},
};
use crate::bridge;

/// What all expressions of a policy may cost for one request and parameter.
const BUDGET: u64 = 10_000_000;

/// What a validation that does not hold means.
struct Denial {
    message: String,
    reason: String,
    index: usize,
}

/// A policy's word on one request with one parameter.
pub(super) struct Evaluation<'a> {
    a: &'a Attrs<'a>,
    request: &'a Value,
    namespace: &'a Value,
    params: &'a Value,
    env: &'static Env,
    variables: BTreeMap<Key<'a>, Cel<'a>>,
    left: u64,
}

impl<'a> Evaluation<'a> {
    /// Of a request with a parameter, for expressions that may use the names of `env`.
    pub(super) fn new(a: &'a Attrs<'a>, request: &'a Value, namespace: &'a Value, params: &'a Value, env: &'static Env) -> Self {
        Self { a, request, namespace, params, env, variables: BTreeMap::new(), left: BUDGET }
    }

    /// Whether all conditions hold; a false one decides, whatever became of the others.
    pub(super) fn conditions(&mut self, all: &[Value]) -> Result<bool, String> {
        let mut failed = None;
        for c in all {
            match self.run(c.str_at(&["expression"])) {
                Ok(v) if v.as_bool() == Some(false) => return Ok(false),
                Ok(_) => {}
                Err(why) => {
                    failed.get_or_insert(why);
                }
            }
        }
        failed.map_or(Ok(true), Err)
    }

    /// Evaluates a policy's variables; one that cannot be evaluated fails what uses it.
    pub(super) fn define(&mut self, all: &[Value]) {
        for v in all {
            if let Ok(value) = self.run(v.str_at(&["expression"])) {
                self.variables.insert(Key::String(Text::Owned(v.str_at(&["name"]).into())), value);
            }
        }
    }

    /// The value of an expression as JSON.
    fn eval(&mut self, expression: &str) -> Result<Value, String> {
        self.run(expression)?.to_json().map_err(|e| e.to_string())
    }

    /// The value of an expression.
    pub(super) fn run(&mut self, expression: &str) -> Result<Cel<'a>, String> {
        let program = Program::compile(expression.trim(), self.env).map_err(|e| format!("compilation error: compilation failed: {e}"))?;
        let any = expressions::match_conditions().variables.get("request").unwrap_or(&knarr_cel::Decl::ANY);
        let bound = Bindings(vec![
            ("object", Cel::any(&self.request["object"])),
            ("oldObject", Cel::any(&self.request["oldObject"])),
            ("request", Cel::json(self.request, any)),
            ("namespaceObject", Cel::any(self.namespace)),
            ("params", Cel::any(self.params)),
            ("variables", Cel::Map(Rc::new(self.variables.clone()))),
            ("authorizer", Cel::authorizer()),
            ("authorizer.requestResource", Cel::resource_check(conditions::check(self.a))),
        ]);
        let asker = Asker(self.a);
        let (result, spent) = program.eval(&bound, Some(&asker), self.left.min(cost::PER_CALL_LIMIT));
        self.left = self.left.saturating_sub(spent);
        result.map_err(|e| match e {
            EvalError::CostExceeded if self.left == 0 => "validation failed due to running out of cost budget, no further validation rules will be run".to_owned(),
            e => format!("expression '{}' resulted in error: {e}", expression.trim()),
        })
    }

    /// Everything a policy denies.
    fn denials(&mut self, policy: &Value) -> Vec<Denial> {
        let ignore = policy.str_at(&["spec", "failurePolicy"]) == "Ignore";
        match self.conditions(policy.list_at(&["spec", "matchConditions"])) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(_) if ignore => return Vec::new(),
            Err(why) => return vec![Denial { message: why, reason: String::new(), index: 0 }],
        }
        self.define(policy.list_at(&["spec", "variables"]));
        let mut out = Vec::new();
        for (index, v) in policy.list_at(&["spec", "validations"]).iter().enumerate() {
            let expression = v.str_at(&["expression"]);
            let denial = match self.eval(expression) {
                Ok(Value::Bool(true)) => continue,
                Ok(_) => {
                    let told = v.str_at(&["messageExpression"]);
                    let told = if told.is_empty() { None } else { self.eval(told).ok().and_then(|m| m.as_str().map(|m| m.trim().to_owned())) };
                    let told = told.filter(|m| !m.is_empty() && !m.contains('\n'));
                    let fixed = v.str_at(&["message"]).trim();
                    let fallback = if fixed.is_empty() { format!("failed expression: {}", expression.trim()) } else { fixed.to_owned() };
                    Denial { message: told.unwrap_or(fallback), reason: v.str_at(&["reason"]).to_owned(), index }
                }
                Err(_) if ignore => continue,
                Err(why) => Denial { message: why, reason: String::new(), index },
            };
            out.push(denial);
        }
        for n in policy.list_at(&["spec", "auditAnnotations"]) {
            if let Ok(v) = self.eval(n.str_at(&["valueExpression"]))
                && let Some(text) = v.as_str().map(str::trim).filter(|t| !t.is_empty())
            {
                self.a.ctx.annotate(&format!("{}/{}", policy.name(), n.str_at(&["key"])), text);
            }
        }
        out
    }
}

/// The parameters that a binding gives its policy.
///
/// # Errors
/// Why there are none though there should be.
pub(super) fn params(a: &Attrs<'_>, policy: &Value, binding: &Value) -> Result<Vec<Value>, String> {
    let (Some(kind), Some(reference)) = (policy.at(&["spec", "paramKind"]), binding.at(&["spec", "paramRef"])) else {
        return Ok(vec![Value::Null]);
    };
    let table = a.core.table();
    let row = table.catalog.resources().iter().find(|r| r.api_version() == kind.str_at(&["apiVersion"]) && r.kind == kind.str_at(&["kind"]));
    let Some((row, objects)) = row.and_then(|r| Some((r, table.kind(r)?))) else {
        return Err(format!("failed to find resource referenced by paramKind: '{}, Kind={}'", kind.str_at(&["apiVersion"]), kind.str_at(&["kind"])));
    };
    let namespace = match reference.str_at(&["namespace"]) {
        _ if !row.namespaced => "",
        "" => a.namespace.as_str(),
        named => named,
    };
    if row.namespaced && namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
    }
    let name = reference.str_at(&["name"]);
    let found: Vec<Value> = if name.is_empty() {
        let wanted = selector(reference.get("selector").unwrap_or(&Value::Null));
        objects.cache.snapshot().prefixed(&objects.scope(namespace)).map(|e| e.value()).filter(|v| holds(&wanted, labels(v))).collect()
    } else {
        objects.cache.get(&objects.key(namespace, name)).map(|e| e.value()).into_iter().collect()
    };
    if found.is_empty() && reference.str_at(&["parameterNotFoundAction"]) != "Allow" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found.into_iter().map(|v| bridge::outward(v, row)).collect())
}

fn refusal(a: &Attrs<'_>, policy: &str, binding: &str, d: &Denial) -> ApiError {
    let message = format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {}", d.message);
    let (code, reason) = match d.reason.as_str() {
        "Unauthorized" => (401, "Unauthorized"),
        "Forbidden" => (403, "Forbidden"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    let shown = a.forbidden(&message);
    let mut e = ApiError::new(code, reason, shown.message.clone());
    e.details = shown.details;
    e.with_cause("", &message, "")
}

/// All policies that are bound to the request; the first denial is the answer, warnings are added.
///
/// # Errors
/// The denial.
pub(super) fn validate(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Ok(bindings) = a.core.kind("validatingadmissionpolicybindings") else { return Ok(()) };
    if exempt(a) || bindings.cache.is_empty() {
        return Ok(());
    }
    let namespace = if a.namespace.is_empty() { Arc::default() } else { a.core.peek("namespaces", "", &a.namespace).unwrap_or_default() };
    let mut denied = None;
    for e in bindings.cache.snapshot().range("") {
        let binding = e.value();
        let Some(policy) = a.core.peek("validatingadmissionpolicies", "", binding.str_at(&["spec", "policyName"])) else { continue };
        let none = json!({});
        let Some(row) = Scope::of(policy.at(&["spec", "matchConstraints"]).unwrap_or(&none), "resourceRules").covers(a, obj, old)? else { continue };
        if let Some(narrower) = binding.at(&["spec", "matchResources"]) {
            let scope = Scope::of(narrower, "resourceRules");
            let covered = if narrower.list_at(&["resourceRules"]).is_empty() { scope.selects(a, obj, old)? } else { scope.covers(a, obj, old)?.is_some() };
            if !covered {
                continue;
            }
        }
        let shown = if obj.is_null() { Value::Null } else { bridge::outward(obj.clone(), &row) };
        let old = old.map(|o| bridge::outward(o.clone(), &row));
        let review = super::webhooks::question(a, &row, &shown, old.as_ref());
        let ignore = policy.str_at(&["spec", "failurePolicy"]) == "Ignore";
        let denials = match params(a, &policy, &binding) {
            Err(_) if ignore => continue,
            Err(why) => vec![Denial { message: format!("failed to configure binding: {why}"), reason: String::new(), index: 0 }],
            Ok(all) => all
                .iter()
                .flat_map(|params| {
                    let mut one = Evaluation::new(a, &review["request"], &namespace, params, expressions::policies());
                    one.denials(&policy)
                })
                .collect(),
        };
        let (policy, bound) = (policy.name(), binding.name());
        for d in denials {
            for action in binding.list_at(&["spec", "validationActions"]) {
                match action.as_str() {
                    Some("Deny") => {
                        denied.get_or_insert_with(|| refusal(a, policy, bound, &d));
                    }
                    Some("Warn") => a.ctx.warn(format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{bound}': {}", d.message)),
                    Some("Audit") => {
                        let action = binding.list_at(&["spec", "validationActions"]);
                        let note = json!([{"message": d.message, "policy": policy, "binding": bound, "expressionIndex": d.index, "validationActions": action}]);
                        a.ctx.annotate("validation.policy.admission.k8s.io/validation_failure", &note.to_string());
                    }
                    _ => {}
                }
            }
        }
    }
    denied.map_or(Ok(()), Err)
}
