//! Which requests a webhook or a policy is for: rules, and selectors of namespaces and objects.

use std::sync::Arc;

use knarr_registry::{
    ApiError, Object,
    selector::{Requirement, Selector},
};
use knarr_schema::Resource;
use serde_json::Value;

use super::{Attrs, Operation};

/// Whether configurations of admission themselves are written: no webhook and no policy sees them.
pub(super) fn exempt(a: &Attrs<'_>) -> bool {
    a.resource.group == "admissionregistration.k8s.io"
        && (a.resource.plural.ends_with("webhookconfigurations") || a.resource.plural.contains("admissionpolic"))
}

/// A label selector as objects hold it.
pub(super) fn selector(v: &Value) -> Selector {
    let mut all = Vec::new();
    for (k, x) in v.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        all.push(Requirement::In(k.clone(), vec![x.as_str().unwrap_or_default().to_owned()]));
    }
    for e in v.list_at(&["matchExpressions"]) {
        let k = e.str_at(&["key"]).to_owned();
        let values = e.list_at(&["values"]).iter().filter_map(|x| x.as_str().map(str::to_owned)).collect();
        all.push(match e.str_at(&["operator"]) {
            "In" => Requirement::In(k, values),
            "NotIn" => Requirement::NotIn(k, values),
            "Exists" => Requirement::Exists(k),
            _ => Requirement::Absent(k),
        });
    }
    Selector { all }
}

pub(super) fn holds(s: &Selector, labels: Option<&Value>) -> bool {
    s.holds(|k| labels.and_then(|l| l.get(k)).and_then(Value::as_str))
}

pub(super) fn labels(v: &Value) -> Option<&Value> {
    v.at(&["metadata", "labels"])
}

/// Whether a rule fits the request as one of a row's.
fn fits(rule: &Value, a: &Attrs<'_>, r: &Resource) -> bool {
    let any = |key: &str, want: &str| rule.list_at(&[key]).iter().any(|v| v == "*" || v == want);
    let namespace = r.group.is_empty() && r.plural == "namespaces";
    let scope = match rule.str_at(&["scope"]) {
        "Namespaced" => r.namespaced,
        "Cluster" => namespace || !r.namespaced,
        _ => true,
    };
    scope
        && any("operations", operation(a.operation))
        && any("apiGroups", &r.group)
        && any("apiVersions", &r.version)
        && (rule.list_at(&["resourceNames"]).is_empty() || rule.list_at(&["resourceNames"]).iter().any(|n| *n == *a.name))
        && rule.list_at(&["resources"]).iter().filter_map(Value::as_str).any(|x| {
            let (res, sub) = x.split_once('/').unwrap_or((x, ""));
            (res == "*" || res == r.plural) && (sub == "*" || sub == a.subresource)
        })
}

/// The operation's name in reviews.
pub(super) fn operation(o: Operation) -> &'static str {
    match o {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// What a webhook, a policy or a binding of one says of the requests it is for.
pub(super) struct Scope<'a> {
    spec: &'a Value,
    rules: &'a [Value],
}

impl<'a> Scope<'a> {
    /// From an object that has its rules under `rules`.
    pub(super) fn of(spec: &'a Value, rules: &str) -> Self {
        Self { spec, rules: spec.list_at(&[rules]) }
    }

    /// The row as which the request is covered; `None` if it is not.
    ///
    /// # Errors
    /// The request's namespace is not there.
    pub(super) fn covers(&self, a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<Option<Arc<Resource>>, ApiError> {
        let Some(row) = self.row(a) else { return Ok(None) };
        Ok(self.selects(a, obj, old)?.then_some(row))
    }

    fn row(&self, a: &Attrs<'_>) -> Option<Arc<Resource>> {
        let table = a.core.table();
        if self.spec.list_at(&["excludeResourceRules"]).iter().any(|r| fits(r, a, a.resource)) {
            return None;
        }
        if self.rules.iter().any(|r| fits(r, a, a.resource)) {
            return table.catalog.lookup(&a.resource.group, &a.resource.version, &a.resource.plural).cloned();
        }
        if self.spec.str_at(&["matchPolicy"]) == "Exact" {
            return None;
        }
        // The same objects in other versions.
        table
            .catalog
            .resources()
            .iter()
            .find(|r| r.key_prefix == a.resource.key_prefix && !r.key_prefix.is_empty() && (r.group != a.resource.group || r.version != a.resource.version) && self.rules.iter().any(|x| fits(x, a, r)))
            .cloned()
    }

    /// Whether the selectors hold.
    ///
    /// # Errors
    /// The request's namespace is not there.
    pub(super) fn selects(&self, a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<bool, ApiError> {
        let s = selector(self.spec.get("namespaceSelector").unwrap_or(&Value::Null));
        let is_namespace = a.is("", "namespaces");
        if !s.is_empty() && (!a.namespace.is_empty() || is_namespace) {
            let fresh = is_namespace && a.subresource.is_empty() && matches!(a.operation, Operation::Create | Operation::Update);
            let name = if is_namespace { &a.name } else { &a.namespace };
            let found = if fresh { Some(Arc::new(obj.clone())) } else { a.core.peek("namespaces", "", name) };
            let ns = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
            if !holds(&s, labels(&ns)) {
                return Ok(false);
            }
        }
        let s = selector(self.spec.get("objectSelector").unwrap_or(&Value::Null));
        Ok(s.is_empty() || holds(&s, labels(obj)) || old.is_some_and(|o| holds(&s, labels(o))))
    }
}
