//! Nobody gives away what they do not have.

use knarr_registry::{ApiError, Object};
use serde_json::Value;

use super::{Attrs, Operation};
use crate::authz::{Attributes, rbac::Rule};

pub(super) fn escalation(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if a.resource.group != "rbac.authorization.k8s.io" || !matches!(a.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if a.user.is_in("system:masters") {
        return Ok(());
    }
    let authorizer = &a.core.authorizer;
    let may = |verb: &str, resource: &str, name: &str| {
        authorizer
            .allows(a.user, &Attributes {
                verb: verb.into(), resource_request: true, group: a.resource.group.to_string(),
                resource: resource.into(), namespace: a.namespace.clone(), name: name.into(), ..Attributes::default()
            })
            .0
    };
    let rules: Vec<Rule> = if a.resource.plural.ends_with("bindings") {
        if old.is_some_and(|o| o.get("subjects") == obj.get("subjects") && o.get("roleRef") == obj.get("roleRef")) {
            return Ok(());
        }
        let (kind, name) = (obj.str_at(&["roleRef", "kind"]), obj.str_at(&["roleRef", "name"]));
        let resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if may("bind", resource, name) {
            return Ok(());
        }
        match authorizer.rbac.rules_of(kind, name, &a.namespace) {
            Some(r) => r.as_ref().clone(),
            None => return Err(ApiError::not_found("rbac.authorization.k8s.io", resource, name)),
        }
    } else {
        if old.is_some_and(|o| o.get("rules") == obj.get("rules") && o.get("aggregationRule") == obj.get("aggregationRule")) || may("escalate", &a.resource.plural, obj.name()) {
            return Ok(());
        }
        obj.list_at(&["rules"]).iter().map(Rule::read).collect()
    };
    let missing = authorizer.rbac.uncovered(a.user, &a.namespace, &rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing
        .iter()
        .map(|r| {
            let q = |l: &[String]| format!("[{}]", l.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" "));
            if r.urls.is_empty() {
                let names = if r.names.is_empty() { String::new() } else { format!(", ResourceNames:{}", q(&r.names)) };
                format!("{{APIGroups:{}, Resources:{}{names}, Verbs:{}}}", q(&r.groups), q(&r.resources), q(&r.verbs))
            } else {
                format!("{{NonResourceURLs:{}, Verbs:{}}}", q(&r.urls), q(&r.verbs))
            }
        })
        .collect();
    lines.sort();
    Err(a.forbidden(&format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        a.user.name, a.user.groups, lines.join("\n")
    ).replace("\", \"", "\" \"")))
}
