//! Kinds that are served in several versions: one of them is in memory.

use knarr_registry::Object;
use knarr_schema::Resource;
use serde_json::{Value, json};

/// Whether a row's version is the one in memory.
#[must_use]
pub fn same_version(r: &Resource) -> bool {
    if r.is_custom() {
        return r.plain;
    }
    !matches!((r.group.as_ref(), r.version.as_ref()), ("events.k8s.io", _) | ("autoscaling", "v1"))
}

fn rename(v: &mut Value, pairs: &[(&str, &str)]) {
    if let Some(m) = v.as_object_mut() {
        for (from, to) in pairs {
            if let Some(x) = m.remove(*from) {
                m.insert((*to).to_owned(), x);
            }
        }
    }
}

const EVENT: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
];

/// The name in the version that is kept in memory of a field that selectors of this row may name,
/// if it is another one.
#[must_use]
pub fn stored_field(r: &knarr_schema::Resource, field: &str) -> Option<String> {
    if r.group != "events.k8s.io" {
        return None;
    }
    let (head, tail) = field.split_once('.').map_or((field, None), |(h, t)| (h, Some(t)));
    let (stored, _) = EVENT.iter().find(|(_, shown)| *shown == head)?;
    Some(tail.map_or_else(|| (*stored).to_owned(), |t| format!("{stored}.{t}")))
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn is_cpu(m: &Value) -> bool {
    m.str_at(&["type"]) == "Resource" && m.str_at(&["resource", "name"]) == "cpu"
        && (m.str_at(&["resource", "target", "type"]) == "Utilization" || m.at(&["resource", "current"]).is_some())
}

/// From memory to the row's version.
#[must_use]
pub fn outward(mut v: Value, r: &Resource) -> Value {
    if same_version(r) {
        return v;
    }
    if r.is_custom() {
        v["apiVersion"] = json!(r.api_version());
        super::custom::fit(r, &mut v);
        return v;
    }
    v["apiVersion"] = json!(r.api_version());
    if r.group == "events.k8s.io" {
        rename(&mut v, &EVENT);
        rename(&mut v, &[("count", "deprecatedCount")]);
        return v;
    }
    // HorizontalPodAutoscaler v2 → v1: what v1 has no field for is kept in annotations.
    if let Some(Value::Array(all)) = v.take_at(&["spec", "metrics"]) {
        let (cpu, rest): (Vec<Value>, Vec<Value>) = all.into_iter().partition(is_cpu);
        if let Some(n) = cpu.first().and_then(|m| m.at(&["resource", "target", "averageUtilization"])) {
            v.set_at(&["spec", "targetCPUUtilizationPercentage"], n.clone());
        }
        if !rest.is_empty() {
            v.set_at(&["metadata", "annotations", METRICS], json!(Value::Array(rest).to_string()));
        }
    }
    if let Some(b) = v.take_at(&["spec", "behavior"]) {
        v.set_at(&["metadata", "annotations", BEHAVIOR], json!(b.to_string()));
    }
    if let Some(c) = v.take_at(&["status", "conditions"]) {
        v.set_at(&["metadata", "annotations", CONDITIONS], json!(c.to_string()));
    }
    if let Some(Value::Array(all)) = v.take_at(&["status", "currentMetrics"]) {
        if let Some(n) = all.iter().find(|m| is_cpu(m)).and_then(|m| m.at(&["resource", "current", "averageUtilization"])) {
            v.set_at(&["status", "currentCPUUtilizationPercentage"], n.clone());
        }
        if !all.is_empty() {
            v.set_at(&["metadata", "annotations", CURRENT], json!(Value::Array(all).to_string()));
        }
    }
    if v.get("status").is_some_and(Value::is_object) && v.at(&["status", "currentReplicas"]).is_none() {
        v.set_at(&["status", "currentReplicas"], json!(0));
    }
    v
}

/// From the row's version to memory.
#[must_use]
pub fn inward(mut v: Value, r: &Resource) -> Value {
    if same_version(r) {
        return v;
    }
    if r.is_custom() {
        if let Some(stored) = &r.stored_as {
            v["apiVersion"] = json!(stored.to_string());
        }
        return v;
    }
    if r.group == "events.k8s.io" {
        v["apiVersion"] = json!("v1");
        let back: Vec<(&str, &str)> = EVENT.iter().map(|(a, b)| (*b, *a)).collect();
        rename(&mut v, &back);
        rename(&mut v, &[("deprecatedCount", "count")]);
        return v;
    }
    v["apiVersion"] = json!("autoscaling/v2");
    let mut metrics = Vec::new();
    let note = |v: &mut Value, key: &str| -> Option<Value> {
        let t = v.take_at(&["metadata", "annotations", key])?;
        serde_json::from_str(t.as_str()?).ok()
    };
    if let Some(Value::Array(rest)) = note(&mut v, METRICS) {
        metrics.extend(rest);
    }
    if let Some(n) = v.take_at(&["spec", "targetCPUUtilizationPercentage"]) {
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": n}}}));
    }
    if !metrics.is_empty() {
        v.set_at(&["spec", "metrics"], Value::Array(metrics));
    }
    if let Some(b) = note(&mut v, BEHAVIOR) {
        v.set_at(&["spec", "behavior"], b);
    }
    if let Some(c) = note(&mut v, CONDITIONS) {
        v.set_at(&["status", "conditions"], c);
    }
    if let Some(c) = note(&mut v, CURRENT) {
        v.set_at(&["status", "currentMetrics"], c);
    }
    v.take_at(&["status", "currentCPUUtilizationPercentage"]);
    if v.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        v.take_at(&["metadata", "annotations"]);
    }
    v
}

/// What upstream's versions have in every object because its own memory version has it.
pub fn fill(v: &mut Value, r: &Resource) {
    match (r.group.as_ref(), r.kind.as_ref()) {
        ("apps", "DaemonSet") => {
            let path = ["metadata", "annotations", "deprecated.daemonset.template.generation"];
            if v.at(&path).is_none() {
                v.set_at(&path, json!("0"));
            }
        }
        ("apps", "StatefulSet") => {
            let claims = v.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
            for claim in claims.into_iter().flatten().filter_map(Value::as_object_mut) {
                claim.entry("apiVersion").or_insert_with(|| json!("v1"));
                claim.entry("kind").or_insert_with(|| json!("PersistentVolumeClaim"));
            }
        }
        _ => {}
    }
}
