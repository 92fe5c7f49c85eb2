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
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        generic::keep(obj, old, "status");
        let (new, before) = (obj.str_at(&["spec", "type"]).to_owned(), old.str_at(&["spec", "type"]).to_owned());
        // What the user does not mention is kept, so that a service does not lose its address.
        if before != "ExternalName" && new != "ExternalName" {
            for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if obj.at(&["spec", f]).is_none_or(|v| v == "" || v.as_array().is_some_and(Vec::is_empty))
                    && let Some(v) = old.at(&["spec", f])
                {
                    obj.set_at(&["spec", f], v.clone());
                }
            }
        }
        if matches!(new.as_str(), "NodePort" | "LoadBalancer") && matches!(before.as_str(), "NodePort" | "LoadBalancer") {
            let old_ports = old.list_at(&["spec", "ports"]).to_vec();
            for p in obj.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if p.at(&["nodePort"]).and_then(Value::as_i64).unwrap_or(0) == 0
                    && let Some(o) = old_ports.iter().find(|o| o.get("port") == p.get("port") && o.get("protocol") == p.get("protocol"))
                    && let Some(n) = o.get("nodePort")
                {
                    p["nodePort"] = n.clone();
                }
            }
        }
        if !matches!(new.as_str(), "NodePort" | "LoadBalancer") && matches!(before.as_str(), "NodePort" | "LoadBalancer") {
            let old_ports = old.list_at(&["spec", "ports"]).to_vec();
            for p in obj.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if old_ports.iter().any(|o| o.get("nodePort") == p.get("nodePort"))
                    && let Some(m) = p.as_object_mut()
                {
                    m.remove("nodePort");
                }
            }
        }
        if new == "ExternalName" && before != "ExternalName" {
            for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
                if obj.at(&["spec", f]) == old.at(&["spec", f]) {
                    obj.take_at(&["spec", f]);
                }
            }
        }
        if new != "LoadBalancer" && before == "LoadBalancer" {
            obj.set_at(&["status", "loadBalancer"], serde_json::json!({}));
            obj.take_at(&["spec", "allocateLoadBalancerNodePorts"]);
        }
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
