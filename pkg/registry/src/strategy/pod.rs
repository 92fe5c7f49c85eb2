//! Pods.

use serde_json::{Map, Value, json};

use super::{Strategy, generic, pod_validation};
use crate::{error::FieldError, object::{self, Object}};

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
        let mut out = pod_validation::spec(obj.get("spec").unwrap_or(&Value::Null), "spec", false);
        if !obj.list_at(&["spec", "ephemeralContainers"]).is_empty() {
            out.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
        }
        if !obj.str_at(&["spec", "nodeName"]).is_empty() && !obj.list_at(&["spec", "schedulingGates"]).is_empty() {
            out.push(FieldError::forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"));
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = pod_validation::update(obj, old);
        if obj.get("spec") != old.get("spec") {
            out.extend(pod_validation::spec(obj.get("spec").unwrap_or(&Value::Null), "spec", false));
        }
        out
    }
    fn validate_subresource(&self, sub: &str, obj: &Value, old: &Value) -> Vec<FieldError> {
        match sub {
            "ephemeralcontainers" => pod_validation::ephemeral(obj, old),
            "resize" => {
                let mut out = pod_validation::spec(obj.get("spec").unwrap_or(&Value::Null), "spec", false);
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
        if old.is_none() && obj.name().contains('.') {
            out.push("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]".into());
        }
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
