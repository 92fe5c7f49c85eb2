//! Roles and bindings.

use serde_json::Value;

use super::{Strategy, generic::Generic};
use crate::{error::FieldError, names::NameRule, object::Object};

/// Roles and bindings.
pub struct Rbac {
    pub(super) binding: bool,
    /// Whether it is in no namespace.
    pub(super) cluster: bool,
    pub(super) inner: Generic,
}

impl Strategy for Rbac {
    fn names(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn create_on_update(&self) -> bool {
        self.inner.create_on_update()
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if self.binding {
            let group = obj.str_at(&["roleRef", "apiGroup"]);
            if group != "rbac.authorization.k8s.io" {
                out.push(FieldError::not_supported("roleRef.apiGroup", group, &["rbac.authorization.k8s.io"]));
            }
            let kind = obj.str_at(&["roleRef", "kind"]);
            let all: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
            if !all.contains(&kind) {
                out.push(super::fields::not_supported("roleRef.kind", kind, all));
            }
            let name = obj.str_at(&["roleRef", "name"]);
            if name.is_empty() {
                out.push(FieldError::required("roleRef.name", ""));
            }
            out.extend(NameRule::PathSegment.check(name, false).into_iter().map(|m| FieldError::invalid("roleRef.name", name, m)));
            for (i, s) in obj.list_at(&["subjects"]).iter().enumerate() {
                if s.str_at(&["name"]).is_empty() {
                    out.push(FieldError::required(format!("subjects[{i}].name"), ""));
                }
                let kind = s.str_at(&["kind"]);
                if !matches!(kind, "ServiceAccount" | "User" | "Group") {
                    out.push(super::fields::not_supported(&format!("subjects[{i}].kind"), kind, &["ServiceAccount", "User", "Group"]));
                }
                let group = s.str_at(&["apiGroup"]);
                let wanted = if kind == "ServiceAccount" { "" } else { "rbac.authorization.k8s.io" };
                if matches!(kind, "ServiceAccount" | "User" | "Group") && group != wanted {
                    out.push(FieldError::not_supported(format!("subjects[{i}].apiGroup"), group, &[wanted]));
                }
                if kind == "ServiceAccount" {
                    let name = s.str_at(&["name"]);
                    out.extend(crate::names::subdomain(name).into_iter().filter(|_| !name.is_empty()).map(|m| FieldError::invalid(format!("subjects[{i}].name"), name, m)));
                }
                if kind == "ServiceAccount" && s.str_at(&["namespace"]).is_empty() && obj.namespace().is_empty() {
                    out.push(FieldError::required(format!("subjects[{i}].namespace"), ""));
                }
            }
        } else {
            for (i, r) in obj.list_at(&["rules"]).iter().enumerate() {
                let p = format!("rules[{i}]");
                if r.list_at(&["verbs"]).is_empty() {
                    out.push(FieldError::required(format!("{p}.verbs"), ""));
                }
                if r.list_at(&["nonResourceURLs"]).is_empty() {
                    if r.list_at(&["apiGroups"]).is_empty() {
                        out.push(FieldError::required(format!("{p}.apiGroups"), "resource rules must supply at least one api group"));
                    }
                    if r.list_at(&["resources"]).is_empty() {
                        out.push(FieldError::required(format!("{p}.resources"), "resource rules must supply at least one resource"));
                    }
                }
            }
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.validate(obj);
        if self.binding && obj.get("roleRef") != old.get("roleRef") {
            out.push(FieldError::invalid("roleRef", obj.get("roleRef").cloned().unwrap_or_default(), "field is immutable"));
        }
        out
    }
}
