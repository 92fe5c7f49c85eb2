//! Namespaces, nodes, secrets, config maps and volumes.

use base64::Engine;
use serde_json::{Value, json};

use super::{
    Strategy,
    generic::{Generic, keep, status_only},
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
    fn validate_subresource(&self, sub: &str, obj: &Value, _: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
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
    }
    fn removable(&self, obj: &Value) -> bool {
        obj.list_at(&["spec", "finalizers"]).is_empty()
    }
    fn returns_deleted(&self) -> bool {
        true
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
        super::fields::check(obj, super::fields::pod::NODE, &mut out);
        let mut seen = std::collections::HashSet::new();
        for (i, t) in obj.list_at(&["spec", "taints"]).iter().enumerate() {
            let p = format!("spec.taints[{i}]");
            if t.str_at(&["key"]).is_empty() {
                out.push(FieldError::required(format!("{p}.key"), ""));
            }
            let effect = t.str_at(&["effect"]);
            if effect.is_empty() {
                out.push(FieldError::required(format!("{p}.effect"), ""));
            } else if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                out.push(FieldError::not_supported(format!("{p}.effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]));
            }
            if !seen.insert((t.str_at(&["key"]).to_owned(), effect.to_owned())) {
                out.push(FieldError::duplicate(p, t.clone()));
            }
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.validate(obj);
        for f in ["providerID", "podCIDR"] {
            let (n, o) = (obj.str_at(&["spec", f]), old.str_at(&["spec", f]));
            if !o.is_empty() && n != o {
                out.push(FieldError::forbidden(format!("spec.{f}"), "node updates may not change podCIDR except from \"\" to valid".replace("podCIDR", f)));
            }
        }
        out
    }
}

fn keys(obj: &Value, member: &str, out: &mut Vec<FieldError>) {
    for k in obj.get(member).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k) {
        let path = format!("{member}[{k}]");
        if k.len() > 253 {
            out.push(FieldError::invalid(&path, k.as_str(), "must be no more than 253 bytes"));
        }
        let chars = k.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if k.is_empty() || !chars {
            out.push(FieldError::invalid(&path, k.as_str(), "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"));
        } else if k == "." {
            out.push(FieldError::invalid(&path, k.as_str(), "must not be '.'"));
        } else if k.starts_with("..") {
            out.push(FieldError::invalid(&path, k.as_str(), "must not start with '..'"));
        }
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

/// What a claim is filled from is said in an old field and in a new one.
fn sources(obj: &mut Value) {
    if obj.str_at(&["kind"]) != "PersistentVolumeClaim" {
        return;
    }
    let (old, new) = (obj.at(&["spec", "dataSource"]).cloned(), obj.at(&["spec", "dataSourceRef"]).cloned());
    match (old, new) {
        (Some(old), None) => {
            obj.set_at(&["spec", "dataSourceRef"], old);
        }
        (None, Some(new)) if new.str_at(&["namespace"]).is_empty() => {
            obj.set_at(&["spec", "dataSource"], new);
        }
        _ => {}
    }
}

/// What of a claim's spec was changed and may not be.
fn claim_update(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let (mut new, before) = (obj["spec"].clone(), &old["spec"]);
    let mut may = |path: &[&str]| match before.at(path) {
        Some(v) => new.set_at(path, v.clone()),
        None => {
            new.take_at(path);
        }
    };
    if before.str_at(&["volumeName"]).is_empty() {
        may(&["volumeName"]);
        // A class may be given later to who asked for the default one.
        if before.at(&["storageClassName"]).is_none() {
            may(&["storageClassName"]);
        }
    }
    if old.str_at(&["status", "phase"]) == "Bound" {
        may(&["resources", "requests"]);
        may(&["volumeAttributesClassName"]);
    }
    if new != *before {
        out.push(FieldError::forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"));
    }
}

/// Volumes and claims: their status begins with a phase.
pub struct Phased {
    pub(super) phase: &'static str,
    pub(super) inner: Generic,
}

impl Strategy for Phased {
    fn prepare_create(&self, obj: &mut Value) {
        obj.set_at(&["status"], json!({"phase": self.phase}));
        if obj.str_at(&["kind"]) == "PersistentVolume" {
            obj.set_at(&["status", "lastPhaseTransitionTime"], json!(crate::object::now()));
        }
        sources(obj);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
        sources(obj);
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.validate(obj);
        if obj.str_at(&["kind"]) == "PersistentVolumeClaim" {
            claim_update(obj, old, &mut out);
        }
        out
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        super::fields::check(obj, super::fields::pod::VOLUME, &mut out);
        if obj.str_at(&["kind"]) == "PersistentVolumeClaim" {
            if obj.at(&["spec", "resources", "requests", "storage"]).is_none() {
                out.push(FieldError::required("spec.resources[storage]", ""));
            }
        } else if obj.at(&["spec", "capacity"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
            out.push(FieldError::required("spec.capacity", ""));
        }
        if obj.list_at(&["spec", "accessModes"]).is_empty() {
            out.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
        }
        for (i, m) in obj.list_at(&["spec", "accessModes"]).iter().enumerate() {
            let m = m.as_str().unwrap_or("");
            let all = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
            if !all.contains(&m) {
                out.push(FieldError::not_supported(format!("spec.accessModes[{i}]").replace(&format!("[{i}]"), ""), m, &all));
            }
        }
        out
    }
}
