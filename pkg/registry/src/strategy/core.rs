//! Namespaces, nodes, secrets, config maps and volumes.

use base64::Engine;
use serde_json::{Value, json};

use super::{
    Strategy,
    at::At,
    generic::{keep, status_only},
};
use crate::{error::FieldError, names::NameRule, object::Object};

/// Namespaces end through their own finalizers, held in the spec.
pub struct Namespaces;

impl Strategy for Namespaces {
    fn names(&self) -> NameRule {
        NameRule::Label
    }
    fn prepare_create(&self, obj: &mut Value) {
        obj.set_at(&["status"], json!({"phase": "Active"}));
        let has = obj.list_at(&["spec", "finalizers"]).iter().any(|f| f == "kubernetes");
        if !has {
            let mut all = obj.list_at(&["spec", "finalizers"]).to_vec();
            all.push(json!("kubernetes"));
            obj.set_at(&["spec", "finalizers"], Value::Array(all));
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        keep(obj, old, "spec");
        keep(obj, old, "status");
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        if sub == "finalize" {
            keep(obj, old, "status");
        } else {
            status_only(obj, old, &[]);
        }
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        finalizers(obj, &mut out);
        out
    }
    fn validate_update(&self, _: &Value, _: &Value) -> Vec<FieldError> {
        Vec::new()
    }
    fn validate_subresource(&self, sub: &str, obj: &Value, _: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if sub == "finalize" {
            finalizers(obj, &mut out);
        }
        if sub == "status" {
            let phase = obj.str_at(&["status", "phase"]);
            if obj.deleting() {
                if phase != "Terminating" {
                    out.push(FieldError::invalid("status.Phase", phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"));
                }
            } else if phase != "Active" {
                out.push(FieldError::invalid("status.Phase", phase, "may only be 'Active' if `deletionTimestamp` is empty"));
            }
        }
        out
    }
    fn on_delete(&self, obj: &mut Value) {
        obj.set_at(&["status", "phase"], json!("Terminating"));
        // It ends when it is empty, not after a time.
        obj.take_at(&["metadata", "deletionGracePeriodSeconds"]);
    }
    fn removable(&self, obj: &Value) -> bool {
        obj.list_at(&["spec", "finalizers"]).is_empty()
    }
    fn returns_deleted(&self) -> bool {
        true
    }
}

/// What holds a namespace back has a name that belongs to someone.
fn finalizers(obj: &Value, out: &mut Vec<FieldError>) {
    for f in obj.list_at(&["spec", "finalizers"]).iter().filter_map(Value::as_str) {
        let wrong = crate::names::qualified(f);
        let known = ["kubernetes", "orphan", "foregroundDeletion"].contains(&f);
        out.extend(wrong.into_iter().map(|m| FieldError::invalid("spec.finalizers", f, m)));
        if !f.contains('/') && !known {
            out.push(FieldError::invalid("spec.finalizers", f, "name is neither a standard finalizer name nor is it fully qualified"));
        }
    }
}

/// Nodes report themselves: their status is kept on create.
pub struct Nodes;

impl Strategy for Nodes {
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        keep(obj, old, "status");
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        node(&At::top(obj, ""), &mut out);
        let all = obj.list_at(&["spec", "podCIDRs"]);
        for (i, c) in all.iter().filter_map(Value::as_str).enumerate() {
            out.extend(super::fields::network(c).into_iter().map(|m| FieldError::invalid(format!("spec.podCIDRs[{i}]"), c, m)));
        }
        let six = |v: &Value| v.as_str().is_some_and(|t| t.contains(':'));
        if all.len() > 2 || matches!(all, [a, b] if six(a) == six(b)) {
            out.push(FieldError::invalid("spec.podCIDRs", all.to_vec(), "may specify no more than one CIDR for each IP family"));
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.validate(obj);
        const CIDRS: &[&str] = &["spec", "podCIDRs"];
        let (n, o) = (obj.list_at(CIDRS), old.list_at(CIDRS));
        let changed = if n.len() == o.len() { o.iter().zip(n).filter(|(a, b)| a != b).count() } else { usize::from(!o.is_empty()) };
        for _ in 0..changed {
            out.push(FieldError::forbidden(CIDRS.join("."), "node updates may not change podCIDR except from \"\" to valid"));
        }
        let (n, o) = (obj.str_at(&["spec", "providerID"]), old.str_at(&["spec", "providerID"]));
        match (o, n) {
            ("", _) => {}
            (_, "") => out.push(FieldError::invalid("spec.providerID", Value::Null, "field cannot be cleared once set")),
            _ if n != o => out.push(FieldError::invalid("spec.providerID", Value::Null, "field cannot be modified once set")),
            _ => {}
        }
        if obj.at(&["spec", "externalID"]) != old.at(&["spec", "externalID"]) {
            out.push(FieldError::forbidden("spec.externalID", "may not be updated"));
        }
        out
    }
    fn warnings(&self, obj: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if obj.at(&["spec", "configSource"]).is_some() {
            out.push("spec.configSource: the feature is no longer available".to_owned());
        }
        if !obj.str_at(&["spec", "externalID"]).is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        let root = At::top(obj, "");
        root.get("spec.podCIDRs").items().for_each(|c| super::pod::odd_network(&c, &mut out));
        out
    }
}

/// The taints and sizes of a node.
fn node(root: &At, out: &mut Vec<FieldError>) {
    // Upstream names them as if they stood in the metadata.
    let meta = root.get("metadata");
    let taints = meta.get("taints").with(root.get("spec.taints").value);
    let mut seen = std::collections::HashSet::new();
    for t in taints.items() {
        let (key, value, effect) = (t.get("key"), t.get("value"), t.get("effect"));
        crate::names::qualified(key.text()).into_iter().for_each(|m| key.invalid(key.text(), m, out));
        let wrong = knarr_schema::names::label_value(value.text());
        if !wrong.is_empty() {
            value.wrong(wrong.join(";"), out);
        }
        super::pod::policy(&effect, &super::pod::EFFECTS, out);
        if !seen.insert((key.text(), effect.text())) {
            out.push(FieldError { detail: "taints must be unique by key and effect pair".into(), ..FieldError::duplicate(t.to_string(), t.value.clone()) });
        }
    }
    for side in ["status.capacity", "status.allocatable"] {
        for (name, size) in root.get(side).entries() {
            super::pod::amount(name, &root.get(side).get(name).with(size.value), out);
        }
    }
}

fn keys(obj: &Value, member: &str, out: &mut Vec<FieldError>) {
    for k in obj.get(member).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k) {
        let path = format!("{member}[{k}]");
        out.extend(knarr_schema::names::config_map_key(k).into_iter().map(|m| FieldError::invalid(&path, k.as_str(), m)));
    }
}

fn size(obj: &Value, members: &[&str]) -> usize {
    members
        .iter()
        .filter_map(|m| obj.get(*m).and_then(Value::as_object))
        .flatten()
        .map(|(_, v)| v.as_str().map_or(0, str::len))
        .sum()
}

fn immutable(obj: &Value, old: &Value, members: &[&str], out: &mut Vec<FieldError>) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if obj.get("immutable") != Some(&Value::Bool(true)) {
        out.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for m in members {
        if obj.get(*m) != old.get(*m) {
            out.push(FieldError::forbidden(*m, "field is immutable when `immutable` is set"));
        }
    }
}

/// Config maps.
pub struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        keys(obj, "data", &mut out);
        for (k, _) in obj.get("data").and_then(Value::as_object).into_iter().flatten() {
            if obj.at(&["binaryData", k]).is_some() {
                out.push(FieldError::invalid(format!("data[{k}]"), k.as_str(), "duplicate of key present in binaryData"));
            }
        }
        keys(obj, "binaryData", &mut out);
        if size(obj, &["data"]) + size(obj, &["binaryData"]) / 4 * 3 > 1024 * 1024 {
            out.push(FieldError { kind: crate::error::FieldErrorKind::TooLong, field: String::new(), value: None, detail: "may not be more than 1048576 bytes".into() });
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        immutable(obj, old, &["data", "binaryData"], &mut out);
        out.extend(self.validate(obj));
        out
    }
}

/// Secrets.
pub struct Secrets;

impl Secrets {
    fn fold(obj: &mut Value) {
        // What is written as `stringData` is stored encoded in `data`.
        let Some(Value::Object(plain)) = obj.take_at(&["stringData"]) else { return };
        for (k, v) in plain {
            let text = v.as_str().unwrap_or("");
            obj.set_at(&["data", &k], json!(base64::engine::general_purpose::STANDARD.encode(text)));
        }
    }
}

impl Strategy for Secrets {
    fn prepare_create(&self, obj: &mut Value) {
        Self::fold(obj);
        if obj.str_at(&["type"]).is_empty() {
            obj.set_at(&["type"], json!("Opaque"));
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        Self::fold(obj);
        if obj.str_at(&["type"]).is_empty() {
            keep(obj, old, "type");
        }
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        keys(obj, "data", &mut out);
        if size(obj, &["data"]) / 4 * 3 > 1024 * 1024 {
            out.push(FieldError::too_long("data", 1024 * 1024));
        }
        let need = |key: &str, out: &mut Vec<FieldError>| {
            if obj.at(&["data", key]).is_none() {
                out.push(FieldError::required(format!("data[{key}]"), ""));
            }
        };
        match obj.str_at(&["type"]) {
            "kubernetes.io/service-account-token"
                if obj.str_at(&["metadata", "annotations", "kubernetes.io/service-account.name"]).is_empty() =>
            {
                out.push(FieldError::required("metadata.annotations[kubernetes.io/service-account.name]", ""));
            }
            "kubernetes.io/tls" => {
                need("tls.crt", &mut out);
                need("tls.key", &mut out);
            }
            "kubernetes.io/dockerconfigjson" => need(".dockerconfigjson", &mut out),
            "kubernetes.io/dockercfg" => need(".dockercfg", &mut out),
            "kubernetes.io/ssh-auth" => need("ssh-privatekey", &mut out),
            "kubernetes.io/basic-auth"
                if obj.at(&["data", "username"]).is_none() && obj.at(&["data", "password"]).is_none() =>
            {
                out.push(FieldError::required("data[username]", ""));
                out.push(FieldError::required("data[password]", ""));
            }
            _ => {}
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if obj.str_at(&["type"]) != old.str_at(&["type"]) {
            out.push(FieldError::invalid("type", obj.str_at(&["type"]), "field is immutable"));
        }
        immutable(obj, old, &["data"], &mut out);
        out.extend(self.validate(obj));
        out
    }
}
