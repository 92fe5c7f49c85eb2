//! Services; addresses and ports are given out by the server right before the write.

use std::collections::HashSet;

use serde_json::Value;

use super::{Strategy, generic};
use crate::{error::FieldError, names::NameRule, object::Object};

/// Services.
pub struct Services;

impl Strategy for Services {
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() || obj.list_at(&["spec", "externalIPs"]).is_empty() {
            return Vec::new();
        }
        vec!["spec.externalIPs is deprecated and may no longer be implemented in some clusters".into()]
    }
    fn names(&self) -> NameRule {
        NameRule::Label1035
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
        super::fields::check(obj, super::fields::pod::SERVICE, &mut out);
        let kind = obj.str_at(&["spec", "type"]);
        let all = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        if kind.is_empty() {
            out.push(FieldError::required("spec.type", ""));
        } else if !all.contains(&kind) {
            out.push(FieldError::not_supported("spec.type", kind, &all));
        }
        let headless = obj.str_at(&["spec", "clusterIP"]) == "None";
        let ports = obj.list_at(&["spec", "ports"]);
        if ports.is_empty() && !headless && kind != "ExternalName" {
            out.push(FieldError::required("spec.ports", ""));
        }
        if kind == "ExternalName" {
            let n = obj.str_at(&["spec", "externalName"]).trim_end_matches('.');
            if n.is_empty() {
                out.push(FieldError::required("spec.externalName", ""));
            } else {
                for m in crate::names::subdomain(&n.to_lowercase()) {
                    out.push(FieldError::invalid("spec.externalName", n, m));
                }
            }
        }
        if kind == "LoadBalancer" && headless {
            out.push(FieldError::invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services"));
        }
        if kind == "NodePort" && headless {
            out.push(FieldError::invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort services"));
        }
        let mut seen_names = HashSet::new();
        let mut seen = HashSet::new();
        for (i, p) in ports.iter().enumerate() {
            let path = format!("spec.ports[{i}]");
            let name = p.str_at(&["name"]);
            if name.is_empty() {
                if ports.len() > 1 {
                    out.push(FieldError::required(format!("{path}.name"), ""));
                }
            } else {
                for m in crate::names::label(name) {
                    out.push(FieldError::invalid(format!("{path}.name"), name, m));
                }
                if !seen_names.insert(name.to_owned()) {
                    out.push(FieldError::duplicate(format!("{path}.name"), name));
                }
            }
            let n = p.at(&["port"]).and_then(Value::as_i64).unwrap_or(0);
            if !(1..=65535).contains(&n) {
                out.push(FieldError::invalid(format!("{path}.port"), n, "must be between 1 and 65535, inclusive"));
            }
            let proto = p.str_at(&["protocol"]);
            if proto.is_empty() {
                out.push(FieldError::required(format!("{path}.protocol"), ""));
            } else if !["TCP", "UDP", "SCTP"].contains(&proto) {
                out.push(FieldError::not_supported(format!("{path}.protocol"), proto, &["SCTP", "TCP", "UDP"]));
            }
            if let Some(t) = p.at(&["targetPort"]).and_then(Value::as_i64)
                && !(1..=65535).contains(&t)
            {
                out.push(FieldError::invalid(format!("{path}.targetPort"), t, "must be between 1 and 65535, inclusive"));
            }
            if kind == "ClusterIP" && p.at(&["nodePort"]).and_then(Value::as_i64).unwrap_or(0) != 0 {
                out.push(FieldError::forbidden(format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'"));
            }
            if !seen.insert((n, proto.to_owned())) {
                out.push(FieldError::duplicate(path, p.clone()));
            }
        }
        let affinity = obj.str_at(&["spec", "sessionAffinity"]);
        if !affinity.is_empty() && !["ClientIP", "None"].contains(&affinity) {
            out.push(FieldError::not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]));
        }
        for f in ["externalTrafficPolicy", "internalTrafficPolicy"] {
            let v = obj.str_at(&["spec", f]);
            if !v.is_empty() && !["Cluster", "Local"].contains(&v) {
                out.push(FieldError::not_supported(format!("spec.{f}"), v, &["Cluster", "Local"]));
            }
        }
        out.extend(crate::names::labels(obj.at(&["spec", "selector"]), "spec.selector"));
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let (n, o) = (obj.str_at(&["spec", "clusterIP"]), old.str_at(&["spec", "clusterIP"]));
        let ext = |v: &Value| v.str_at(&["spec", "type"]) == "ExternalName";
        if !o.is_empty() && n != o && !ext(obj) && !ext(old) {
            out.push(FieldError::invalid("spec.clusterIPs[0]", n, "may not change once set"));
        }
        out.extend(self.validate(obj));
        out
    }
}
