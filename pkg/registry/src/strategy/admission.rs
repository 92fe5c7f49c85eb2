//! Kinds of admission that hold expressions: configurations of webhooks, policies.

use serde_json::Value;

use super::{Strategy, generic::Generic};
use crate::{error::FieldError, expressions, names::NameRule, object::Object};

/// Kinds whose expressions are checked when they are written.
pub(super) struct Expressions {
    pub(super) inner: Generic,
    /// The top-level field that holds them.
    pub(super) part: &'static str,
    pub(super) check: fn(&Value) -> Vec<FieldError>,
}

/// Match conditions of MutatingWebhookConfigurations and ValidatingWebhookConfigurations.
pub(super) fn webhooks(obj: &Value) -> Vec<FieldError> {
    let all = obj.list_at(&["webhooks"]).iter().enumerate();
    let mut out: Vec<FieldError> =
        all.flat_map(|(i, h)| expressions::validate_match_conditions(h.list_at(&["matchConditions"]), &format!("webhooks[{i}].matchConditions"))).collect();
    if let Some(table) = super::fields::of("admissionregistration.k8s.io", "validatingwebhookconfigurations") {
        out.extend(super::fields::validate(obj, &table));
    }
    out
}

/// ValidatingAdmissionPolicies and their expressions.
pub(super) fn policy(obj: &Value) -> Vec<FieldError> {
    with_table(
        obj,
        expressions::validate_policy(obj.get("spec").unwrap_or(&Value::Null)),
    )
}

/// MutatingAdmissionPolicies and their expressions.
pub(super) fn mutating_policy(obj: &Value) -> Vec<FieldError> {
    with_table(
        obj,
        expressions::validate_mutating_policy(obj.get("spec").unwrap_or(&Value::Null)),
    )
}

/// What the table of policies says, and then what is wrong with expressions.
fn with_table(obj: &Value, expressions: Vec<FieldError>) -> Vec<FieldError> {
    let table = super::fields::of(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
    );
    let mut out = table
        .map(|t| super::fields::validate(obj, &t))
        .unwrap_or_default();
    out.extend(expressions);
    out
}

impl Strategy for Expressions {
    fn names(&self) -> NameRule {
        self.inner.names()
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        self.inner.prepare_subresource(sub, obj, old);
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = self.inner.validate(obj);
        out.extend((self.check)(obj));
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        // What is stored and untouched stays valid.
        if obj.get(self.part) == old.get(self.part) { self.inner.validate_update(obj, old) } else { self.validate(obj) }
    }
    fn unconditional_update(&self) -> bool {
        self.inner.unconditional_update()
    }
    fn create_on_update(&self) -> bool {
        self.inner.create_on_update()
    }
    fn returns_deleted(&self) -> bool {
        self.inner.returns_deleted()
    }
}
