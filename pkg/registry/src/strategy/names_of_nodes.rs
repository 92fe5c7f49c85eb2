//! Labels of nodes that have been renamed or given up.

use super::at::At;

const DEPRECATED: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What is said of a label that is not to be used any more.
pub(super) fn deprecated(label: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(l, _)| *l == label).map(|(_, why)| *why)
}

/// What is said of a term of a node selector.
pub(super) fn in_term(term: &At, values: bool, out: &mut Vec<String>) {
    for e in term.get("matchExpressions").items() {
        let key = e.get("key");
        if let Some(why) = deprecated(key.text()) {
            out.push(format!("{key}: {} is {why}", key.text()));
        }
        for v in e.get("values").items().filter(|_| values) {
            for why in knarr_schema::names::label_value(v.text()) {
                out.push(format!("{v}: {} is invalid, {why}", v.text()));
            }
        }
    }
}
