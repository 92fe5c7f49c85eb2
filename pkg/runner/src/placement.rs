//! Whether a pod may stand on a node: selectors, affinity, taints.

use crate::meta;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| r.values.as_ref().is_some_and(|vs| vs.iter().any(|x| x == v));
    let number = |s: Option<&str>| s.and_then(|s| s.parse::<i64>().ok());
    let bound = || number(r.values.as_ref().and_then(|v| v.first()).map(String::as_str));
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((number(value), bound()), (Some(a), Some(b)) if a > b),
        "Lt" => matches!((number(value), bound()), (Some(a), Some(b)) if a < b),
        _ => false,
    }
}

/// Whether one term matches the node; an empty term matches nothing.
pub fn term_matches(t: &NodeSelectorTerm, n: &Node) -> bool {
    let exprs = t.match_expressions.as_deref().unwrap_or(&[]);
    let fields = t.match_fields.as_deref().unwrap_or(&[]);
    if exprs.is_empty() && fields.is_empty() {
        return false;
    }
    exprs.iter().all(|r| requirement(r, meta::label(&n.metadata, &r.key)))
        && fields.iter().all(|r| {
            let value = (r.key == "metadata.name").then(|| meta::name(&n.metadata));
            requirement(r, value)
        })
}

/// Whether any term matches.
pub fn selector_matches(s: &NodeSelector, n: &Node) -> bool {
    s.node_selector_terms.iter().any(|t| term_matches(t, n))
}

/// Whether a pod's nodeSelector and required node affinity accept the node.
pub fn node_accepted(spec: &PodSpec, n: &Node) -> bool {
    if let Some(sel) = &spec.node_selector {
        if !meta::map_matches(sel, n.metadata.labels.as_ref()) {
            return false;
        }
    }
    spec.affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .is_none_or(|s| selector_matches(s, n))
}

/// Whether a toleration covers a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let effect = t.effect.as_deref().unwrap_or("");
    let key = t.key.as_deref().unwrap_or("");
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    let (have, want) = (taint.value.as_deref().unwrap_or(""), t.value.as_deref().unwrap_or(""));
    let numbers = || Some((have.parse::<i64>().ok()?, want.parse::<i64>().ok()?));
    match t.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => have == want,
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// The first taint with one of these effects that no toleration covers.
pub fn untolerated<'n>(tolerations: &[Toleration], n: &'n Node, effects: &[&str]) -> Option<&'n Taint> {
    let taints = n.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    taints.iter().find(|t| {
        effects.contains(&t.effect.as_str()) && !tolerations.iter().any(|x| tolerates(x, t))
    })
}
