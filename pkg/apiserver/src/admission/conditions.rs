//! `matchConditions`: whether a webhook wants a request at all.

use knarr_cel::{Bindings, Check, Decision, Decl, EvalError, Value as Cel, cost};
use knarr_registry::{Object, expressions};
use serde_json::Value;

use super::Attrs;
use crate::{auth::UserInfo, authz::Attributes};

/// The server's authorizer, as expressions ask it.
pub(super) struct Asker<'a>(pub(super) &'a Attrs<'a>);

impl knarr_cel::Authorizer for Asker<'_> {
    fn check(&self, c: &Check) -> Decision {
        let account = c.service_account.as_ref().map(|(ns, name)| UserInfo {
            name: format!("system:serviceaccount:{ns}:{name}"),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{ns}"), "system:authenticated".into()],
            ..UserInfo::default()
        });
        let attributes = Attributes {
            verb: c.verb.clone(),
            resource_request: c.path.is_empty(),
            group: c.group.clone(),
            version: String::new(),
            resource: c.resource.clone(),
            subresource: c.subresource.clone(),
            namespace: c.namespace.clone(),
            name: c.name.clone(),
            path: c.path.clone(),
        };
        let (allowed, reason) = self.0.core.authorizer.allows(account.as_ref().unwrap_or(self.0.user), &attributes);
        Decision { allowed, reason, error: None }
    }
}

/// The check of the request's own resource, to which expressions add a verb.
pub(super) fn check(a: &Attrs<'_>) -> Check {
    Check {
        group: a.resource.group.to_string(),
        resource: a.resource.plural.to_string(),
        subresource: a.subresource.to_owned(),
        namespace: a.namespace.clone(),
        name: a.name.clone(),
        ..Check::default()
    }
}

/// Whether all conditions hold for a request (the `request` of its review).
///
/// # Errors
/// None is false, and these could not be evaluated.
pub(super) fn hold(a: &Attrs<'_>, conditions: &[Value], request: &Value) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let env = expressions::match_conditions();
    let any = Decl::ANY;
    let shown = env.variables.get("request").unwrap_or(&any);
    let variables = Bindings(vec![
        ("object", Cel::any(&request["object"])),
        ("oldObject", Cel::any(&request["oldObject"])),
        ("request", Cel::json(request, shown)),
        ("authorizer", Cel::authorizer()),
        ("authorizer.requestResource", Cel::resource_check(check(a))),
    ]);
    let asker = Asker(a);
    let mut left = cost::MATCH_CONDITIONS_BUDGET;
    let mut errors = Vec::new();
    for c in conditions {
        let expression = c.str_at(&["expression"]);
        let program = match expressions::condition(expression.trim(), env) {
            Ok(p) => p,
            Err(why) => {
                errors.push(format!("compilation error: {why}"));
                continue;
            }
        };
        let (result, spent) = program.eval(&variables, Some(&asker), left.min(cost::PER_CALL_LIMIT));
        left = left.saturating_sub(spent);
        match result {
            Ok(v) if v.as_bool() == Some(false) => return Ok(false),
            Ok(_) => {}
            Err(EvalError::CostExceeded) if left == 0 => {
                errors.push("validation failed due to running out of cost budget, no further validation rules will be run".into());
                break;
            }
            Err(e) => errors.push(format!("expression '{expression}' resulted in error: {e}")),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}
