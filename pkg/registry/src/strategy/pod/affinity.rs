//! Where pods want to be.

use serde_json::Value;

use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{
        at::At,
        fields::Check::{Label, Qualified, Required, Selector, Subdomain},
    },
};

const SELECTOR: &str = "not a valid selector operator";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity`.
pub(super) fn check(at: &At, out: &mut Vec<FieldError>) {
    let node = at.get("nodeAffinity");
    if node.get(REQUIRED).there() {
        node_selector(&node.get(REQUIRED), out);
    }
    for term in node.get(PREFERRED).items() {
        weight(&term, out);
        // Values that no node can have do no harm where they are only wished for.
        node_term(&term.get("preference"), true, out);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at.get(kind);
        for term in pods.get(REQUIRED).items() {
            pod_term(&term, out);
        }
        for term in pods.get(PREFERRED).items() {
            weight(&term, out);
            pod_term(&term.get("podAffinityTerm"), out);
        }
    }
}

fn weight(term: &At, out: &mut Vec<FieldError>) {
    let weight = term.get("weight");
    let n = weight.int().unwrap_or(0);
    if !(1..=100).contains(&n) {
        weight.invalid(n, "must be in the range 1-100", out);
    }
}

/// A selector of nodes.
pub(in crate::strategy) fn node_selector(at: &At, out: &mut Vec<FieldError>) {
    let terms = at.get("nodeSelectorTerms");
    if terms.list().is_empty() {
        return terms.required("must have at least one node selector term", out);
    }
    for term in terms.items() {
        node_term(&term, false, out);
    }
}

/// Requirements on a node's labels and fields.
fn node_term(term: &At, lax: bool, out: &mut Vec<FieldError>) {
    for e in term.get("matchExpressions").items() {
        let (values, operator, key) = (e.get("values"), e.get("operator"), e.get("key"));
        match operator.text() {
            "In" | "NotIn" if values.list().is_empty() => values.required("must be specified when `operator` is 'In' or 'NotIn'", out),
            "Exists" | "DoesNotExist" if !values.list().is_empty() => values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", out),
            "Gt" | "Lt" if values.list().len() != 1 => values.required("must be specified single value when `operator` is 'Lt' or 'Gt'", out),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => operator.invalid(other, SELECTOR, out),
        }
        names::qualified(key.text()).into_iter().for_each(|m| key.invalid(key.text(), m, out));
        if !lax {
            values.items().for_each(|v| v.wrongs_of(knarr_schema::names::label_value, out));
        }
    }
    for e in term.get("matchFields").items() {
        let (values, operator, key) = (e.get("values"), e.get("operator"), e.get("key"));
        match operator.text() {
            "In" | "NotIn" if values.list().len() != 1 => values.required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector", out),
            "In" | "NotIn" => {}
            other => operator.invalid(other, SELECTOR, out),
        }
        if key.text() == "metadata.name" {
            values.items().for_each(|v| v.check(&[Subdomain], out));
        } else {
            key.invalid(key.text(), "not a valid field selector key", out);
        }
    }
}

fn pod_term(term: &At, out: &mut Vec<FieldError>) {
    term.get("labelSelector").check(&[Selector], out);
    term.get("namespaceSelector").check(&[Selector], out);
    for name in term.get("namespaces").items() {
        term.get("namespace").with(name.value).check(&[Label], out);
    }
    label_keys(term, out);
    let key = term.get("topologyKey");
    if key.text().is_empty() {
        key.required("can not be empty", out);
    }
    names::qualified(key.text()).into_iter().for_each(|m| key.invalid(key.text(), m, out));
}

/// Keys whose values the pod's own labels give.
fn label_keys(at: &At, out: &mut Vec<FieldError>) {
    let selector = at.get("labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = at.get(field);
        if keys.list().is_empty() {
            continue;
        }
        if selector.there() {
            keys.items().for_each(|k| k.check(&[Qualified], out));
        } else {
            keys.forbidden("must not be specified when labelSelector is not set", out);
        }
    }
    let (own, others) = (at.get("matchLabelKeys"), at.get("mismatchLabelKeys"));
    if selector.there() {
        let mut seen: Vec<&str> = selector.value.at(&["matchLabels"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.as_str()).collect();
        for e in selector.value.list_at(&["matchExpressions"]) {
            let key = e.str_at(&["key"]);
            if let Some(i) = own.list().iter().rposition(|k| k == key).filter(|_| seen.contains(&key)) {
                out.push(FieldError::invalid(format!("{at}[{i}]"), key, "exists in both matchLabelKeys and labelSelector"));
            }
            seen.push(key);
        }
    }
    for k in own.items().filter(|k| others.list().contains(k.value)) {
        k.wrong("exists in both matchLabelKeys and mismatchLabelKeys", out);
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(all: &At, out: &mut Vec<FieldError>) {
    for (i, c) in all.items().enumerate() {
        let (skew, key, action) = (c.get("maxSkew"), c.get("topologyKey"), c.get("whenUnsatisfiable"));
        let n = skew.int().unwrap_or(0);
        if n <= 0 {
            skew.invalid(n, "must be greater than zero", out);
        }
        key.check(&[Required("can not be empty")], out);
        action.one_of(&["DoNotSchedule", "ScheduleAnyway"], out);
        let pair = |v: &Value| (v.str_at(&["topologyKey"]).to_owned(), v.str_at(&["whenUnsatisfiable"]).to_owned());
        if all.list().iter().skip(i + 1).any(|other| pair(other) == pair(c.value)) {
            c.get("{topologyKey, whenUnsatisfiable}").duplicate(format!("{{{}, {}}}", key.text(), action.text()), out);
        }
        let domains = c.get("minDomains");
        if let Some(n) = domains.int() {
            if n <= 0 {
                domains.wrong("must be greater than zero", out);
            }
            if action.text() != "DoNotSchedule" {
                domains.wrong(format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text()), out);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if c.get(policy).there() {
                c.get(policy).one_of(&["Honor", "Ignore"], out);
            }
        }
        label_keys(&c, out);
        c.get("labelSelector").check(&[Selector], out);
    }
}
