//! Pods.

use serde_json::{Map, Value, json};

mod affinity;
mod containers;
mod env;
mod handlers;
mod mounts;
mod projected;
mod resources;
mod security;
mod spec;
mod update;
mod volumes;
mod warnings;

use super::{Strategy, at::At, fields::Check::Ip, generic};
use crate::{error::FieldError, names, object::{self, Object}};

pub(super) use affinity::node_selector;
pub(super) use handlers::port;
pub(super) use resources::amount;
pub use security::allow_privileged;
pub(super) use spec::{EFFECTS, policy};
pub(super) use volumes::{descending, no_backsteps};

/// Pods.
pub struct Pods;

/// The quality of service class that a pod's requests and limits make.
#[must_use]
pub fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec.at(&["resources"]).filter(|r| r.get("requests").or(r.get("limits")).is_some());
    let all: Vec<&Value> = match pod_level {
        Some(r) => vec![r],
        None => ["containers", "initContainers"]
            .iter()
            .flat_map(|m| spec.list_at(&[m]))
            .map(|c| c.get("resources").unwrap_or(&Value::Null))
            .collect(),
    };
    for r in all {
        for res in ["cpu", "memory"] {
            let req = quantity(r.at(&["requests", res]));
            let lim = quantity(r.at(&["limits", res]));
            if req > 0.0 || lim > 0.0 {
                any = true;
            }
            if lim <= 0.0 || (req > 0.0 && (req - lim).abs() > f64::EPSILON * lim) {
                guaranteed = false;
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A quantity as a number; wrong ones count as 0.
fn quantity(v: Option<&Value>) -> f64 {
    let text = match v {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => return 0.0,
    };
    let split = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E').unwrap_or(text.len());
    let (num, unit) = text.split_at(split);
    let base: f64 = match num.trim_end_matches(['e', 'E']).parse() {
        Ok(n) => n,
        Err(_) => return 0.0,
    };
    base * match unit {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        _ if num.ends_with(['E', 'e']) => 1e18,
        _ => 1.0,
    }
}

/// Sets a condition of a pod's status.
pub fn set_pod_condition(obj: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let mut all = obj.list_at(&["status", "conditions"]).to_vec();
    let mut c = Map::new();
    c.insert("type".into(), json!(kind));
    c.insert("status".into(), json!(status));
    c.insert("lastProbeTime".into(), Value::Null);
    c.insert("lastTransitionTime".into(), json!(object::now()));
    if !reason.is_empty() {
        c.insert("reason".into(), json!(reason));
    }
    if !message.is_empty() {
        c.insert("message".into(), json!(message));
    }
    match all.iter_mut().find(|x| x.str_at(&["type"]) == kind) {
        Some(old) => {
            if old.str_at(&["status"]) == status
                && let Some(t) = old.get("lastTransitionTime")
            {
                c.insert("lastTransitionTime".into(), t.clone());
            }
            *old = Value::Object(c);
        }
        None => all.push(Value::Object(c)),
    }
    obj.set_at(&["status", "conditions"], Value::Array(all));
}

/// Everything wrong with a pod itself, metadata excepted.
fn whole(root: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let spec = root.get("spec");
    annotations(&root.get("metadata.annotations"), spec.value, old, out);
    let meta = root.value.get("metadata").unwrap_or(&Value::Null);
    spec::check(&spec, spec::Around { pod: true, meta, old: old.and_then(|o| o.get("spec")) }, out);
    if spec.get("serviceAccountName").text().is_empty() {
        for v in spec.get("volumes").items() {
            for s in v.get("projected.sources").items() {
                if s.get("serviceAccountToken").there() {
                    s.get("serviceAccountToken").forbidden("must not be specified when serviceAccountName is not set", out);
                }
            }
        }
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n < 0) {
        grace.wrong(handlers::NEGATIVE, out);
    }
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP: [&str; 2] = ["seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/"];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations that mean something to pods.
fn annotations(all: &At, spec: &Value, old: Option<&Value>, out: &mut Vec<FieldError>) {
    if all.value.get(MIRROR).is_some() && spec.str_at(&["nodeName"]).is_empty() {
        all.key(MIRROR).wrong("must set spec.nodeName if mirror pod annotation is set", out);
    }
    let number = |text: &str| text.is_empty() || (text.parse::<i32>().is_ok() && !text.starts_with('+') && (text == "0" || !text.trim_start_matches('-').starts_with('0')));
    let cost = |v: &Value| v.get(COST).and_then(Value::as_str).is_none_or(number);
    let before = old.and_then(|o| o.at(&["metadata", "annotations"])).is_some_and(|o| !cost(o));
    if !before && !cost(all.value) {
        all.key(COST).wrong("must be a 32bit integer", out);
    }
    for (key, at) in all.entries() {
        let profile = at.text();
        if key == SECCOMP[0] || key.starts_with(SECCOMP[1]) {
            let place = all.get(key);
            match profile.strip_prefix("localhost/") {
                Some(path) => descending(&place.with(&Value::from(path)), out),
                None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
                None => place.invalid(profile, "must be a valid seccomp profile", out),
            }
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !spec::LISTS.iter().flat_map(|l| spec.list_at(&[l])).any(|c| c.str_at(&["name"]) == container) {
                at.invalid(container, "container not found", out);
            }
            if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
                at.wrong(format!("invalid AppArmor profile name: {profile:?}"), out);
            }
        }
    }
    let Some(old) = old else { return };
    let before = old.at(&["metadata", "annotations"]).unwrap_or(&Value::Null);
    let changed = |k: &str| all.value.get(k) != before.get(k);
    let keys = before.as_object().into_iter().chain(all.value.as_object()).flatten().map(|(k, _)| k.as_str());
    let mut seen: Vec<&str> = Vec::new();
    for key in keys.filter(|k| k.starts_with(APP_ARMOR) || *k == MIRROR) {
        if seen.contains(&key) || !changed(key) {
            continue;
        }
        seen.push(key);
        let verb = if before.get(key).is_some() { "remove or update" } else { "add" };
        let what = if key == MIRROR { "mirror pod annotation" } else { "AppArmor annotations" };
        all.key(key).forbidden(format!("may not {verb} {what}"), out);
    }
}

/// A pod template at `at`: labels, annotations and spec; `warn` fills in what is odd about it.
pub(super) fn template(at: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let meta = at.get("metadata");
    out.extend(names::labels(meta.value.get("labels"), &at.get("labels").to_string()));
    let shown = at.get("annotations");
    names::annotations(meta.value.get("annotations"), &shown.to_string(), out);
    let spec = at.get("spec");
    annotations(&shown.with(meta.get("annotations").value), spec.value, None, out);
    spec::check(&spec, spec::Around { pod: false, meta: &Value::Null, old: old.and_then(|o| o.get("spec")) }, out);
    if !spec.get("ephemeralContainers").list().is_empty() {
        spec.get("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template", out);
    }
}

/// What is odd about a pod template.
pub(super) fn template_warnings(at: &At, out: &mut Vec<String>) {
    warnings::of(at, out);
}

/// An IP address, as fields of old have it.
pub(super) fn address(at: &At, out: &mut Vec<FieldError>) {
    at.check(&[Ip], out);
}

/// An IP address that is not written as it should be.
pub(super) fn odd_address(at: &At, out: &mut Vec<String>) {
    let text = at.text();
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(a)) if a.to_string() != text => {
            if let Some(v4) = a.to_ipv4_mapped() {
                out.push(format!("{at}: non-standard IP address {text:?} is invalid: use \"{v4}\""));
            } else {
                out.push(format!("{at}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{a}\")"));
            }
        }
        _ => {}
    }
}

/// A network that is not written as it should be.
pub(super) fn odd_network(at: &At, out: &mut Vec<String>) {
    let text = at.text();
    let Some((ip, bits)) = text.split_once('/') else { return };
    match ip.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(a)) if a.to_string() != ip => out.push(format!("{at}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{a}/{bits}\")")),
        _ => {}
    }
}

impl Strategy for Pods {
    fn prepare_create(&self, obj: &mut Value) {
        obj.set_at(&["metadata", "generation"], json!(1));
        let qos = qos_class(obj.get("spec").unwrap_or(&Value::Null));
        obj.set_at(&["status"], json!({"phase": "Pending", "qosClass": qos}));
        if !obj.list_at(&["spec", "schedulingGates"]).is_empty() {
            set_pod_condition(obj, "PodScheduled", "False", "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates");
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        generic::keep(obj, old, "status");
        generic::count(obj, old);
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        match sub {
            "status" => {
                generic::status_only(obj, old, &[]);
                if let Some(q) = old.at(&["status", "qosClass"]) {
                    obj.set_at(&["status", "qosClass"], q.clone());
                }
            }
            "ephemeralcontainers" => {
                let wanted = obj.at(&["spec", "ephemeralContainers"]).cloned();
                let meta = obj.get("metadata").cloned();
                *obj = old.clone();
                if let Some(m) = meta {
                    obj.set_at(&["metadata"], m);
                }
                if let Some(w) = wanted {
                    obj.set_at(&["spec", "ephemeralContainers"], w);
                }
                generic::count(obj, old);
            }
            "resize" => {
                let wanted = obj.get("spec").cloned().unwrap_or_default();
                let meta = obj.get("metadata").cloned();
                *obj = old.clone();
                if let Some(m) = meta {
                    obj.set_at(&["metadata"], m);
                }
                for list in ["containers", "initContainers"] {
                    for w in wanted.list_at(&[list]) {
                        let name = w.str_at(&["name"]);
                        if let Some(all) = obj.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut)
                            && let Some(c) = all.iter_mut().find(|c| c.str_at(&["name"]) == name)
                        {
                            for f in ["resources", "resizePolicy"] {
                                generic::keep(c, w, f);
                            }
                        }
                    }
                }
                generic::count(obj, old);
            }
            // Binding and eviction change what they change and nothing else; the generation
            // counts what users change.
            _ => {}
        }
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let root = At::top(obj, "");
        whole(&root, None, &mut out);
        let spec = root.get("spec");
        if !spec.get("ephemeralContainers").list().is_empty() {
            spec.get("ephemeralContainers").forbidden("cannot be set on create", &mut out);
        }
        if !spec.get("nodeName").text().is_empty() && !spec.get("schedulingGates").list().is_empty() {
            spec.get("nodeName").forbidden("cannot be set until all schedulingGates have been cleared", &mut out);
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        whole(&At::top(obj, ""), Some(old), &mut out);
        update::check(obj, old, &mut out);
        out
    }
    fn validate_subresource(&self, sub: &str, obj: &Value, old: &Value) -> Vec<FieldError> {
        match sub {
            "ephemeralcontainers" => update::ephemeral(obj, old),
            "resize" => {
                let mut out = Vec::new();
                whole(&At::top(obj, ""), Some(old), &mut out);
                let (n, o) = (qos_class(&obj["spec"]), old.str_at(&["status", "qosClass"]));
                if !o.is_empty() && n != o {
                    out.push(FieldError::invalid("spec", n, "Pod QOS Class may not change as a result of resizing"));
                }
                out
            }
            _ => Vec::new(),
        }
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if old.is_some() {
            return out;
        }
        let wrong = names::label(obj.name());
        if !wrong.is_empty() {
            out.push(format!("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" ")));
        }
        warnings::of(&At::top(obj, ""), &mut out);
        out
    }
    fn unconditional_update(&self) -> bool {
        true
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn grace(&self, obj: &Value, requested: Option<i64>) -> Option<i64> {
        let phase = obj.str_at(&["status", "phase"]);
        let own = obj.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
        let mut grace = requested.unwrap_or(own);
        if grace < 0 {
            grace = 1;
        }
        if obj.str_at(&["spec", "nodeName"]).is_empty() || matches!(phase, "Succeeded" | "Failed") {
            grace = 0;
        }
        Some(grace)
    }
}
