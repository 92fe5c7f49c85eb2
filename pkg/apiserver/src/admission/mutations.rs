//! MutatingAdmissionPolicy: changes in CEL, made where a binding says so.

use std::{collections::HashSet, sync::Arc};

use knarr_cel::Value as Cel;
use knarr_registry::{ApiError, Object, expressions};
use knarr_schema::{Resource, apply};
use serde_json::{Value, json};

use super::{
    Attrs, Operation,
    matching::{Scope, exempt},
    policies::{Evaluation, params},
};
use crate::bridge;

/// What one pass over the policies did.
#[derive(Default)]
pub(super) struct Rounds {
    before: Vec<String>,
    again: HashSet<String>,
    second: bool,
    output: Option<Value>,
    /// Whether the object was changed.
    pub changed: bool,
}

/// The row as which a binding's policy sees the request; `None` if it does not.
fn covered(a: &Attrs<'_>, policy: &Value, binding: &Value, obj: &Value, old: Option<&Value>) -> Result<Option<Arc<Resource>>, ApiError> {
    let none = json!({});
    let Some(row) = Scope::of(policy.at(&["spec", "matchConstraints"]).unwrap_or(&none), "resourceRules").covers(a, obj, old)? else { return Ok(None) };
    let Some(narrower) = binding.at(&["spec", "matchResources"]) else { return Ok(Some(row)) };
    let scope = Scope::of(narrower, "resourceRules");
    let covered = if narrower.list_at(&["resourceRules"]).is_empty() { scope.selects(a, obj, old)? } else { scope.covers(a, obj, old)?.is_some() };
    Ok(covered.then_some(row))
}

/// Types in what an expression has made must be named after their place.
fn named_by_place(v: &Cel<'_>, place: &str, wrong: &mut Vec<String>) {
    match v {
        Cel::Struct(s) => {
            if s.name != place {
                wrong.push(format!("unexpected type name {:?}, expected {place:?}, which matches field name path from root Object type", s.name));
            }
            for (k, v) in &s.fields {
                named_by_place(v, &format!("{place}.{k}"), wrong);
            }
        }
        Cel::List(l) => l.iter().for_each(|v| named_by_place(v, place, wrong)),
        Cel::Map(m) => m.values().for_each(|v| named_by_place(v, place, wrong)),
        Cel::Optional(Some(v)) => named_by_place(v, place, wrong),
        _ => {}
    }
}

fn checked(v: &Cel<'_>) -> Result<(), String> {
    let mut wrong = Vec::new();
    let root = match v {
        Cel::Struct(s) => s.name.clone(),
        _ => return Ok(()),
    };
    named_by_place(v, &root, &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(format!("type mismatch: {}", wrong.join("\n"))) }
}

/// The object as one mutation makes it, or `None` if it leaves it alone.
fn mutated(e: &mut Evaluation<'_>, mutation: &Value, row: &Resource, now: &Value) -> Result<Option<Value>, String> {
    if mutation["patchType"] == "ApplyConfiguration" {
        let v = e.run(mutation.str_at(&["applyConfiguration", "expression"]))?;
        let Cel::Struct(_) = &v else { return Err(format!("unsupported return type from ApplyConfiguration expression: {}", v.type_name())) };
        checked(&v)?;
        let mut config = v.to_json().map_err(|e| e.to_string())?;
        config["apiVersion"] = now["apiVersion"].clone();
        config["kind"] = now["kind"].clone();
        return match apply::merge(now, &config, row.ty, row.schema.as_deref()) {
            Ok(v) => Ok(Some(v)),
            Err(apply::Error::Invalid(why)) => Err(format!("error applying patch: {why}")),
            Err(apply::Error::Conflict(s)) => Err(format!("error applying patch: {}", s.message)),
        };
    }
    let v = e.run(mutation.str_at(&["jsonPatch", "expression"]))?;
    let list = match &v {
        Cel::List(l) => l.iter().cloned().collect::<Vec<_>>(),
        _ => return Err("type mismatch: JSONPatchType.expression should evaluate to array".into()),
    };
    let mut patch = Vec::new();
    for op in &list {
        let Cel::Struct(s) = op else { return Err(format!("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}", op.type_name())) };
        if let Some(v) = s.fields.get("value") {
            checked(v)?;
        }
        patch.push(op.to_json().map_err(|e| e.to_string())?);
    }
    let mut next = now.clone();
    match knarr_schema::patch::json(&mut next, &Value::Array(patch.clone())) {
        Ok(()) => Ok(Some(next)),
        // A test that fails leaves everything as it is.
        Err(e) if e.to_string().starts_with("testing value ") => Ok(None),
        Err(e) => Err(format!("JSON Patch: {e}")),
    }
}

/// One pass over the policies that are bound to the request; the second one asks only those that
/// want it.
///
/// # Errors
/// 403 if a policy whose failure is not ignored cannot be evaluated.
pub(super) fn mutate(a: &Attrs<'_>, obj: &mut Value, old: Option<&Value>, rounds: &mut Rounds) -> Result<(), ApiError> {
    let Ok(bindings) = a.core.kind("mutatingadmissionpolicybindings") else { return Ok(()) };
    if exempt(a) || bindings.cache.is_empty() || obj.is_null() || !matches!(a.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let of_namespace = !a.namespace.is_empty() && !a.is("", "namespaces");
    let namespace = if of_namespace { a.core.peek("namespaces", "", &a.namespace).unwrap_or_default() } else { Arc::default() };
    if rounds.output.as_ref().is_some_and(|o| o != obj) {
        rounds.again.extend(std::mem::take(&mut rounds.before));
    }
    let mut failures: Vec<String> = Vec::new();
    for e in bindings.cache.snapshot().range("") {
        let binding = e.value();
        let Some(policy) = a.core.peek("mutatingadmissionpolicies", "", binding.str_at(&["spec", "policyName"])) else { continue };
        let Some(row) = covered(a, &policy, &binding, obj, old)? else { continue };
        let ignore = policy.str_at(&["spec", "failurePolicy"]) == "Ignore";
        let mut fail = |why: String| {
            if !ignore {
                failures.push(format!("policy '{}' with binding '{}' denied request: {why}", policy.name(), binding.name()));
            }
        };
        let all = match params(a, &policy, &binding) {
            Ok(all) => all,
            Err(why) => {
                fail(format!("failed to configure binding: {why}"));
                continue;
            }
        };
        for parameter in &all {
            let key = format!("{}/{}/{}/{}", policy.name(), binding.name(), parameter.namespace(), parameter.name());
            if rounds.second && !rounds.again.contains(&key) {
                continue;
            }
            let mut shown = bridge::outward(obj.clone(), &row);
            let first = shown.clone();
            let old_shown = old.map(|o| bridge::outward(o.clone(), &row));
            let review = super::webhooks::question(a, &row, &shown, old_shown.as_ref());
            let mut holds = Evaluation::new(a, &review["request"], &namespace, parameter, expressions::policies());
            match holds.conditions(policy.list_at(&["spec", "matchConditions"])) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    fail(why);
                    continue;
                }
            }
            for mutation in policy.list_at(&["spec", "mutations"]) {
                let review = super::webhooks::question(a, &row, &shown, old_shown.as_ref());
                let mut e = Evaluation::new(a, &review["request"], &namespace, parameter, expressions::mutations());
                e.define(policy.list_at(&["spec", "variables"]));
                match mutated(&mut e, mutation, &row, &shown) {
                    Ok(None) => {}
                    Ok(Some(next)) => match bridge::normalize(&row, &next, "Strict") {
                        Ok((next, _)) => shown = next,
                        Err(e) => return Err(ApiError::internal(e.message)),
                    },
                    Err(why) => fail(why),
                }
            }
            if shown != first {
                *obj = bridge::inward(shown, &row);
                rounds.changed = true;
                rounds.again.extend(std::mem::take(&mut rounds.before));
            }
            if policy.str_at(&["spec", "reinvocationPolicy"]) == "IfNeeded" {
                rounds.before.push(key);
            }
        }
    }
    rounds.second = true;
    rounds.output = Some(obj.clone());
    let Some(first) = failures.first().cloned() else { return Ok(()) };
    let shown = a.forbidden(&first);
    let mut e = ApiError::new(403, "Invalid", first);
    e.details = shown.details;
    for f in &failures {
        e = e.with_cause("", f, "");
    }
    Err(e)
}
