//! Services; addresses and ports are given out by the server right before the write.

mod check;

use serde_json::Value;

use super::{Strategy, at::At, generic};
use crate::{error::FieldError, names::NameRule, object::Object};

/// Services.
pub struct Services;

impl Strategy for Services {
    fn warnings(&self, obj: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        check::warnings(&At::top(obj, ""), &mut out);
        out
    }
    fn names(&self) -> NameRule {
        NameRule::Label
    }
    fn prepare_create(&self, obj: &mut Value) {
        obj.set_at(&["status"], serde_json::json!({"loadBalancer": {}}));
        in_step(obj, None);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        generic::keep(obj, old, "status");
        in_step(obj, Some(old));
        let (new, before) = (obj.str_at(&["spec", "type"]).to_owned(), old.str_at(&["spec", "type"]).to_owned());
        // What the user does not mention is kept, so that a service does not lose its address.
        if before != "ExternalName" && new != "ExternalName" {
            for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if obj.at(&["spec", f]).is_none_or(|v| (v == "" && f != "ipFamilyPolicy") || v.as_array().is_some_and(Vec::is_empty))
                    && let Some(v) = old.at(&["spec", f])
                {
                    obj.set_at(&["spec", f], v.clone());
                }
            }
        }
        ports(obj, old);
        forget(obj, old);
    }
    fn create_on_update(&self) -> bool {
        true
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        check::service(&At::top(obj, ""), None, &mut out);
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        check::update(obj, old, &mut out);
        check::service(&At::top(obj, ""), Some(old), &mut out);
        out
    }
}

/// Who knows only `clusterIP` says by it what `clusterIPs` are.
fn in_step(obj: &mut Value, old: Option<&Value>) {
    const ONE: &[&str] = &["spec", "clusterIP"];
    const ALL: &[&str] = &["spec", "clusterIPs"];
    let ip = obj.str_at(ONE).to_owned();
    let before = old.map_or("", |o| o.str_at(ONE));
    let same = old.is_some_and(|o| obj.list_at(ALL) == o.list_at(ALL));
    if ip.is_empty() {
        if !before.is_empty() && obj.at(ONE).is_some() && same {
            obj.take_at(ALL);
        }
    } else if before != ip && (same || obj.list_at(ALL).is_empty()) {
        obj.set_at(ALL, serde_json::json!([ip]));
    }
}

fn has_node_ports(service: &Value) -> bool {
    matches!(service.str_at(&["spec", "type"]), "NodePort" | "LoadBalancer")
}

fn node_port(port: &Value) -> i64 {
    port.at(&["nodePort"]).and_then(Value::as_i64).unwrap_or(0)
}

/// Ports that keep their names keep the nodes' ports; those of a type without go.
fn ports(obj: &mut Value, old: &Value) {
    const PORTS: &[&str] = &["spec", "ports"];
    if !has_node_ports(old) {
        return;
    }
    let before = old.list_at(PORTS);
    let numbers = |v: &Value| v.list_at(PORTS).iter().map(node_port).filter(|n| *n != 0).collect::<Vec<_>>();
    let (has, had) = (numbers(obj), numbers(old));
    if has_node_ports(obj) {
        for p in obj.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten().filter(|p| node_port(p) == 0) {
            let same = before.iter().rev().find(|o| o.str_at(&["name"]) == p.str_at(&["name"])).map_or(0, node_port);
            if same != 0 && !has.contains(&same) {
                p.set_at(&["nodePort"], same.into());
            }
        }
    } else if has.iter().all(|n| had.contains(n)) {
        for p in obj.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            p.take_at(&["nodePort"]);
        }
    }
}

/// What was filled in for the type that a service had goes with the type, if it was not changed.
fn forget(obj: &mut Value, old: &Value) {
    let kind = |v: &Value, k: &str| v.str_at(&["spec", "type"]) == k;
    let lost = |had: bool, has: bool| had && !has;
    let gone: [(bool, &[&str]); 4] = [
        (lost(!kind(old, "ExternalName"), !kind(obj, "ExternalName")), &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]),
        (lost(check::health(old), check::health(obj)), &["healthCheckNodePort"]),
        (lost(kind(old, "LoadBalancer"), kind(obj, "LoadBalancer")), &["allocateLoadBalancerNodePorts", "loadBalancerClass"]),
        (lost(check::outside(old), check::outside(obj)), &["externalTrafficPolicy"]),
    ];
    for field in gone.iter().filter(|(lost, _)| *lost).flat_map(|(_, fields)| *fields) {
        if obj.at(&["spec", field]) == old.at(&["spec", field]) {
            obj.take_at(&["spec", field]);
        }
    }
    if !kind(obj, "LoadBalancer") {
        obj.set_at(&["status", "loadBalancer"], serde_json::json!({}));
    }
}
