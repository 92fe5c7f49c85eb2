//! What of a pod may change.

use serde_json::{Value, json};

use super::{
    containers,
    spec::{self, Around, Whole},
    volumes,
};
use crate::{
    error::FieldError,
    object::Object,
    strategy::{at::{At, range}, diff},
};

const ELSEWHERE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn without(v: &Value, member: &str) -> Value {
    let mut map = v.as_object().cloned().unwrap_or_default();
    map.remove(member);
    Value::Object(map)
}

/// Puts a member of `old` in the place of the one of `new`.
fn keep(new: &mut Value, old: &Value, member: &str) {
    crate::strategy::generic::keep(new, old, member);
}

/// What an update may not change, after everything else that is wrong.
pub(super) fn check(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let root = At::top(obj, "");
    let spec = root.get("spec");
    let before = old.get("spec").unwrap_or(&Value::Null);
    for list in ["containers", "initContainers"] {
        let all = spec.get(list);
        if all.list().len() != before.list_at(&[list]).len() {
            return all.forbidden("pod updates may not add or remove containers", out);
        }
        for c in all.items() {
            let image = c.get("image");
            if image.text().is_empty() {
                image.required("", out);
            }
            if image.text().trim() != image.text() {
                image.wrong("must not have leading or trailing whitespace", out);
            }
        }
    }
    let (deadline, earlier) = (spec.get("activeDeadlineSeconds"), before.at(&["activeDeadlineSeconds"]).and_then(Value::as_i64));
    match (deadline.int(), earlier) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => return deadline.wrong(range(0, i32::MAX.into()), out),
        (Some(n), Some(o)) if o < n => return deadline.wrong("must be less than or equal to previous value", out),
        (None, Some(_)) => deadline.invalid(Value::Null, "must not update from a positive integer to nil value", out),
        _ => {}
    }
    let tolerations = spec.get("tolerations");
    let kept = before.list_at(&["tolerations"]).iter().all(|t| tolerations.list().iter().any(|x| without(x, "tolerationSeconds") == without(t, "tolerationSeconds")));
    if kept {
        spec::tolerations(&tolerations, out);
    } else {
        tolerations.forbidden("existing toleration can not be modified except its tolerationSeconds", out);
    }
    let gates = before.list_at(&["schedulingGates"]);
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        if !gates.iter().any(|g| g.get("name") == Some(name.value)) {
            name.forbidden(format!("only deletion is allowed, but found new scheduling gate '{}'", name.text()), out);
        }
    }
    if spec.value == before {
        return;
    }
    let mut new = spec.value.clone();
    for list in ["containers", "initContainers"] {
        let olds = before.list_at(&[list]);
        for (c, o) in new.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(olds) {
            keep(c, o, "image");
        }
    }
    for member in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut new, before, member);
    }
    let grace = |v: &Value| v.at(&["terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    if grace(before).is_some_and(|g| g < 0) && grace(&new) == Some(1) {
        keep(&mut new, before, "terminationGracePeriodSeconds");
    }
    if !gates.is_empty() {
        gated(&spec, &mut new, before, out);
    }
    if new != *before {
        spec.forbidden(format!("{ELSEWHERE}\n{}", diff::unified(before, &new)), out);
    }
}

/// While gates hold a pod back, it may still be told more closely where to go.
fn gated(spec: &At, new: &mut Value, before: &Value, out: &mut Vec<FieldError>) {
    let selector = spec.get("nodeSelector");
    let lost = before.at(&["nodeSelector"]).and_then(Value::as_object).into_iter().flatten().any(|(k, v)| selector.value.get(k) != Some(v));
    if lost {
        selector.wrong("only additions to spec.nodeSelector are allowed (no mutations or deletions)", out);
    }
    keep(new, before, "nodeSelector");
    const NODES: &[&str] = &["affinity", "nodeAffinity"];
    let (now, was) = (spec.value.at(NODES), before.at(NODES));
    if now == was {
        return;
    }
    const TERMS: &[&str] = &["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let list = |v: Option<&Value>| v.map(|v| v.list_at(TERMS).to_vec()).unwrap_or_default();
    let (new_terms, old_terms) = (list(now), list(was));
    let path = format!("{spec}.affinity.nodeAffinity.{}", TERMS.join("."));
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        out.push(FieldError::invalid(path, new_terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
    } else {
        for (i, (n, o)) in new_terms.iter().zip(&old_terms).enumerate() {
            let more = |f: &str| n.list_at(&[f]).starts_with(o.list_at(&[f]));
            let nothing = |v: &Value| v.list_at(&["matchExpressions"]).is_empty() && v.list_at(&["matchFields"]).is_empty();
            if (nothing(o) && !nothing(n)) || !more("matchExpressions") || !more("matchFields") {
                out.push(FieldError::invalid(format!("{path}[{i}]"), n.clone(), "only additions are allowed (no mutations or deletions)"));
            }
        }
    }
    let mut affinity = new.get("affinity").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    keep(&mut affinity, before.get("affinity").unwrap_or(&Value::Null), "nodeAffinity");
    if before.at(&["affinity"]).is_none() && affinity == json!({}) {
        new.take_at(&["affinity"]);
    } else {
        new.set_at(&["affinity"], affinity);
    }
}

/// What a change of the ephemeral containers may not do.
pub(super) fn ephemeral(obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let root = At::top(obj, "");
    let spec = root.get("spec");
    let around = Around { pod: true, meta: obj.get("metadata").unwrap_or(&Value::Null), old: old.get("spec") };
    let whole = Whole {
        around,
        volumes: volumes::check(&spec.get("volumes"), around, &mut Vec::new()),
        claims: Default::default(),
        grace: None,
        os: spec.value.get("os").unwrap_or(&Value::Null),
        host_users: !spec.get("hostUsers").no(),
        restart: spec.value.str_at(&["restartPolicy"]),
        sys_admin: false,
    };
    containers::ephemeral(&spec, &whole, &mut out);
    const LIST: &[&str] = &["spec", "ephemeralContainers"];
    let at = spec.get("ephemeralContainers");
    for o in old.list_at(LIST) {
        let name = o.str_at(&["name"]);
        match at.list().iter().find(|c| c.str_at(&["name"]) == name) {
            None => at.forbidden(format!("existing ephemeral containers {name:?} may not be removed\n"), &mut out),
            Some(c) if c != o => at.forbidden(format!("existing ephemeral containers {name:?} may not be changed\n{}", diff::unified(o, c)), &mut out),
            Some(_) => {}
        }
    }
    out
}
