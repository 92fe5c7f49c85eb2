//! Configurations of admission webhooks.

use serde_json::Value;

use super::{Strategy, generic::Generic};
use crate::{error::FieldError, expressions, names::NameRule, object::Object};

/// MutatingWebhookConfigurations and ValidatingWebhookConfigurations.
pub(super) struct Webhooks {
    pub(super) inner: Generic,
}

fn conditions(obj: &Value) -> Vec<&[Value]> {
    obj.list_at(&["webhooks"]).iter().map(|h| h.list_at(&["matchConditions"])).collect()
}

impl Strategy for Webhooks {
    fn names(&self) -> NameRule {
        self.inner.names()
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = self.inner.validate(obj);
        for (i, all) in conditions(obj).into_iter().enumerate() {
            out.extend(expressions::validate_match_conditions(all, &format!("webhooks[{i}].matchConditions")));
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        // What is stored and untouched stays valid.
        if conditions(obj) == conditions(old) { self.inner.validate_update(obj, old) } else { self.validate(obj) }
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
