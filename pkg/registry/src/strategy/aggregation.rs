//! APIServices: where group versions are served.

use serde_json::{Value, json};

use super::{Strategy, generic::Generic};
use crate::{
    error::FieldError,
    names::{self, NameRule},
    object::{self, Object},
};

/// The strategy of APIServices.
pub(super) struct ApiServices {
    pub(super) inner: Generic,
}

fn local(obj: &Value) -> bool {
    obj.at(&["spec", "service"]).is_none()
}

/// A priority between 1 and `most`.
fn priority(obj: &Value, field: &str, most: i64, out: &mut Vec<FieldError>) {
    let n = obj.at(&["spec", field]).and_then(Value::as_i64).unwrap_or(0);
    if n <= 0 || n > most {
        out.push(FieldError::invalid(format!("spec.{field}"), n, format!("must be positive and less than {most}")));
    }
}

/// Bytes of a base64 text.
fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

impl Strategy for ApiServices {
    fn names(&self) -> NameRule {
        self.inner.names()
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
        if local(obj) {
            let c = json!({"type": "Available", "status": "True", "lastTransitionTime": object::now(),
                "reason": "Local", "message": "Local APIServices are always available"});
            obj.set_at(&["status", "conditions"], json!([c]));
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        self.inner.prepare_subresource(sub, obj, old);
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let (group, version) = (obj.str_at(&["spec", "group"]), obj.str_at(&["spec", "version"]));
        let wanted = format!("{version}.{group}");
        if !obj.name().is_empty() && obj.name() != wanted && NameRule::PathSegment.check(obj.name(), false).is_empty() {
            out.push(FieldError::invalid("metadata.name", obj.name(), format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")));
        }
        if group.is_empty() {
            if version != "v1" {
                out.push(FieldError::required("spec.group", "only v1 may have an empty group and it better be legacy kube"));
            }
        } else {
            out.extend(names::subdomain(group).into_iter().map(|m| FieldError::invalid("spec.group", group, m)));
        }
        out.extend(NameRule::Label1035.check(version, false).into_iter().map(|m| FieldError::invalid("spec.version", version, m)));
        priority(obj, "groupPriorityMinimum", 20000, &mut out);
        priority(obj, "versionPriority", 1000, &mut out);
        let bundle = obj.str_at(&["spec", "caBundle"]);
        let open = obj.at(&["spec", "insecureSkipTLSVerify"]) == Some(&Value::Bool(true));
        let Some(service) = obj.at(&["spec", "service"]) else {
            if !bundle.is_empty() {
                out.push(FieldError::invalid("spec.caBundle", format!("{} bytes", decoded_len(bundle)), "local APIServices may not have a caBundle"));
            }
            if open {
                out.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, "local APIServices may not have insecureSkipTLSVerify"));
            }
            return out;
        };
        for field in ["namespace", "name"] {
            if service.str_at(&[field]).is_empty() {
                out.push(FieldError::required(format!("spec.service.{field}"), ""));
            }
        }
        let port = service.at(&["port"]).and_then(Value::as_i64).unwrap_or(0);
        if !(1..=65535).contains(&port) {
            out.push(FieldError::invalid("spec.service.port", port, "port is not valid: must be between 1 and 65535, inclusive"));
        }
        if open && !bundle.is_empty() {
            out.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present"));
        }
        out
    }
    fn validate_subresource(&self, _sub: &str, obj: &Value, _old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for (i, c) in obj.list_at(&["status", "conditions"]).iter().enumerate() {
            let status = c.str_at(&["status"]);
            if !matches!(status, "True" | "False" | "Unknown") {
                out.push(FieldError::not_supported(format!("status.conditions[{i}].status"), status, &["True", "False", "Unknown"]));
            }
        }
        out
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}
