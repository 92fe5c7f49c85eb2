//! What is special about each kind, as pure functions over objects.

mod admission;
mod aggregation;
mod at;
mod certificates;
mod claims;
mod core;
mod custom;
mod data;
mod diff;
mod fields;
mod generic;
mod pod;
mod rbac;
mod names_of_nodes;
mod rules;
mod service;
mod sources;
#[cfg(test)]
mod tests;
mod workloads;

use std::sync::Arc;

use serde_json::Value;

use crate::{error::FieldError, names::NameRule};

pub(crate) use fields::mutable;
pub use data::{returns_deleted, status_keeps, unconditional};
pub use pod::{allow_privileged, qos_class, set_pod_condition};

/// The hooks of one kind. Every method has the behaviour most kinds share.
pub trait Strategy: Send + Sync + 'static {
    /// Which names are allowed.
    fn names(&self) -> NameRule {
        NameRule::Subdomain
    }
    /// Before an object is created: what users may not set is reset.
    fn prepare_create(&self, _obj: &mut Value) {}
    /// Before an object is changed.
    fn prepare_update(&self, _obj: &mut Value, _old: &Value) {}
    /// Before an object is changed through a subresource.
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        if sub == "status" {
            generic::status_only(obj, old, &[]);
        }
    }
    /// Everything wrong with a new object (metadata excepted).
    fn validate(&self, _obj: &Value) -> Vec<FieldError> {
        Vec::new()
    }
    /// Everything wrong with a changed object (metadata excepted).
    fn validate_update(&self, obj: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate(obj)
    }
    /// Everything wrong with a change through a subresource.
    fn validate_subresource(&self, _sub: &str, _obj: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }
    /// What the client should be told although the write succeeds.
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// Whether an update may name no version.
    fn unconditional_update(&self) -> bool {
        true
    }
    /// Whether an update of a missing object creates it.
    fn create_on_update(&self) -> bool {
        false
    }
    /// Seconds an object gets to end, `None` if the kind knows no grace.
    fn grace(&self, _obj: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
    /// What else a deletion marks.
    fn on_delete(&self, _obj: &mut Value) {}
    /// Whether an object without finalizers may go at once.
    fn removable(&self, _obj: &Value) -> bool {
        true
    }
    /// Whether dependents are orphaned when the client does not say.
    fn orphans_by_default(&self) -> bool {
        false
    }
    /// Whether a deletion answers with the object instead of a status.
    fn returns_deleted(&self) -> bool {
        false
    }
}

/// The strategy of a resource.
#[must_use]
pub fn of(group: &str, resource: &str) -> Arc<dyn Strategy> {
    let g = generic::Generic::of(group, resource);
    match (group, resource) {
        ("", "pods") => Arc::new(pod::Pods),
        ("", "services") => Arc::new(service::Services),
        ("", "namespaces") => Arc::new(core::Namespaces),
        ("", "nodes") => Arc::new(core::Nodes),
        ("", "secrets") => Arc::new(core::Secrets),
        ("", "configmaps") => Arc::new(core::ConfigMaps),
        ("", "persistentvolumes") => Arc::new(claims::Volumes { claims: false, inner: g }),
        ("", "persistentvolumeclaims") => Arc::new(claims::Volumes { claims: true, inner: g }),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("", "replicationcontrollers" | "podtemplates")
        | ("batch", "jobs" | "cronjobs") => {
            Arc::new(workloads::Workloads { resource: resource.to_owned(), inner: g })
        }
        ("rbac.authorization.k8s.io", _) => {
            Arc::new(rbac::Rbac { binding: resource.ends_with("bindings"), cluster: resource.starts_with("cluster"), inner: g })
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            Arc::new(admission::Expressions { inner: g, part: "webhooks", check: admission::webhooks })
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            Arc::new(admission::Expressions { inner: g, part: "spec", check: admission::policy })
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            Arc::new(admission::Expressions { inner: g, part: "spec", check: admission::mutating_policy })
        }
        ("certificates.k8s.io", "certificatesigningrequests") => Arc::new(certificates::Requests { inner: g }),
        ("apiregistration.k8s.io", "apiservices") => Arc::new(aggregation::ApiServices { inner: g }),
        ("apiextensions.k8s.io", "customresourcedefinitions") => Arc::new(custom::Definitions { inner: g }),
        _ => match fields::Checked::of(group, resource) {
            Some(checked) => Arc::new(checked),
            None => Arc::new(g),
        },
    }
}

/// The strategy of one version of a custom resource, with its `openAPIV3Schema`.
#[must_use]
pub fn custom(has_status: bool, schema: Option<Arc<Value>>) -> Arc<dyn Strategy> {
    let inner = generic::Generic {
        still: false,
        names: NameRule::Subdomain,
        reset_status: has_status,
        status: has_status,
        generation: true,
        counts: false,
        custom: true,
        unconditional: false,
        create_on_update: false,
        returns_deleted: false,
        status_keeps: &["labels", "annotations", "finalizers"],
        also_counts: None,
    };
    Arc::new(custom::Custom { inner, schema, rules: std::sync::OnceLock::new() })
}
