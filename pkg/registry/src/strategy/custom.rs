//! Custom resources, and the definitions they come from.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use knarr_schema::structural::{self, Reason, Violation};
use serde_json::{Value, json};

use super::{Strategy, generic::Generic};
use crate::{
    error::{FieldError, FieldErrorKind},
    names::{self, NameRule},
    object::Object,
};

/// The strategy of one version of a custom resource.
pub(super) struct Custom {
    pub(super) inner: Generic,
    pub(super) schema: Option<Arc<Value>>,
    /// Compiled when an object is first looked at.
    pub(super) rules: OnceLock<Option<super::rules::Rules>>,
}

fn error(v: Violation) -> FieldError {
    let kind = match v.reason {
        Reason::Required => FieldErrorKind::Required,
        Reason::Invalid => FieldErrorKind::Invalid,
        Reason::Type => FieldErrorKind::TypeInvalid,
        Reason::NotSupported => FieldErrorKind::NotSupported,
        Reason::TooLong => FieldErrorKind::TooLong,
        Reason::TooMany => FieldErrorKind::TooMany,
        Reason::Duplicate => FieldErrorKind::Duplicate,
    };
    FieldError { kind, field: v.field, value: v.value, detail: v.detail }
}

/// The value at a field's path.
fn lookup<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split(['.', '[']).filter(|p| !p.is_empty()).try_fold(object, |at, part| match part.strip_suffix(']') {
        Some(i) => at.get(i.parse::<usize>().ok()?),
        None => at.get(part),
    })
}

impl Custom {
    fn check(&self, obj: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let Some(schema) = &self.schema else { return Vec::new() };
        let mut all = structural::validate(obj, schema);
        if all.is_empty() {
            return self.rules.get_or_init(|| super::rules::Rules::of(schema, true)).as_ref().map(|r| r.check(obj, old)).unwrap_or_default();
        }
        if let (Some(old), false) = (old, all.is_empty()) {
            // What was wrong before and is untouched does not stand in the way of other changes.
            let before = structural::validate(old, schema);
            all.retain(|v| {
                let at = if v.reason == Reason::Required { v.field.rsplit_once('.').map_or("", |(p, _)| p) } else { &v.field };
                !before.contains(v) || at == "<nil>" || lookup(obj, at) != lookup(old, at)
            });
        }
        all.into_iter().map(error).collect()
    }
}

impl Strategy for Custom {
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
        self.check(obj, None)
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        self.check(obj, Some(old))
    }
    fn validate_subresource(&self, _: &str, obj: &Value, old: &Value) -> Vec<FieldError> {
        self.check(obj, Some(old))
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}

/// CustomResourceDefinitions.
pub(super) struct Definitions {
    pub(super) inner: Generic,
}

fn definition(obj: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let group = obj.str_at(&["spec", "group"]);
    let plural = obj.str_at(&["spec", "names", "plural"]);
    let wanted = format!("{plural}.{group}");
    if obj.name() != wanted {
        out.push(FieldError::invalid("metadata.name", obj.name(), "must be spec.names.plural+\".\"+spec.group"));
    }
    if group.is_empty() {
        out.push(FieldError::required("spec.group", ""));
    } else if !group.contains('.') {
        out.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    match obj.str_at(&["spec", "scope"]) {
        "Cluster" | "Namespaced" => {}
        "" => out.push(FieldError::required("spec.scope", "")),
        other => out.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    for name in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{name}");
        match obj.str_at(&["spec", "names", name]) {
            "" => out.push(FieldError::required(path, "")),
            text => {
                let lower = text.to_lowercase();
                let checked = if name.to_lowercase().ends_with("kind") { lower.as_str() } else { text };
                out.extend(names::label(checked).into_iter().map(|why| FieldError::invalid(path.clone(), text, why)));
            }
        }
    }
    let versions = obj.list_at(&["spec", "versions"]);
    let mut seen = HashSet::new();
    for (i, v) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = v.str_at(&["name"]);
        if name.is_empty() || !seen.insert(name) {
            out.push(FieldError::invalid(format!("{path}.name"), name, "must be unique and not empty"));
        }
        match v.at(&["schema", "openAPIV3Schema"]) {
            None => out.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), "schemas are required")),
            Some(s) => {
                let at = format!("{path}.schema.openAPIV3Schema");
                if s.str_at(&["type"]) != "object" {
                    out.push(if s.str_at(&["type"]).is_empty() {
                        FieldError::required(format!("{at}.type"), "must not be empty at the root")
                    } else {
                        FieldError::invalid(format!("{at}.type"), s.str_at(&["type"]), "must be object at the root")
                    });
                }
                patterns(s, &at, &mut out, 0);
                let mut broken = Vec::new();
                if let Some(r) = super::rules::Rules::of(s, true) {
                    r.broken(&at, &mut broken);
                }
                out.extend(broken.into_iter().map(|(at, i, why)| FieldError::invalid(format!("{at}.x-kubernetes-validations[{i}].rule"), "", why)));
            }
        }
    }
    let storage = versions.iter().filter(|v| v["storage"] == true).count();
    if storage != 1 {
        out.push(FieldError::invalid("spec.versions", json!(versions), "must have exactly one version marked as storage version"));
    }
    match obj.str_at(&["spec", "conversion", "strategy"]) {
        "None" | "" => {
            if obj.at(&["spec", "conversion", "webhook"]).is_some() {
                out.push(FieldError::forbidden("spec.conversion.webhook", "should not be set when strategy is not set to Webhook"));
            }
        }
        "Webhook" => {
            if obj.at(&["spec", "conversion", "webhook", "clientConfig"]).is_none() {
                out.push(FieldError::required("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook"));
            }
        }
        other => out.push(FieldError::not_supported("spec.conversion.strategy", other, &["None", "Webhook"])),
    }
    if obj.at(&["spec", "preserveUnknownFields"]) == Some(&json!(true)) {
        out.push(FieldError::invalid("spec.preserveUnknownFields", true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"));
    }
    out
}

/// Patterns that cannot be compiled, anywhere in a schema.
fn patterns(schema: &Value, path: &str, out: &mut Vec<FieldError>, depth: usize) {
    if depth > 64 {
        return;
    }
    if let Some(p) = schema.get("pattern").and_then(Value::as_str)
        && structural::pattern(p).is_none()
    {
        out.push(FieldError::invalid(format!("{path}.pattern"), p, "must be a valid regular expression"));
    }
    for (key, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        patterns(inner, &format!("{path}.properties[{key}]"), out, depth + 1);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key).filter(|s| s.is_object()) {
            patterns(inner, &format!("{path}.{key}"), out, depth + 1);
        }
    }
}

impl Strategy for Definitions {
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
        definition(obj)
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = definition(obj);
        for path in [&["spec", "group"][..], &["spec", "scope"], &["spec", "names", "plural"], &["spec", "names", "kind"]] {
            if obj.at(path) != old.at(path) {
                out.push(FieldError::invalid(path.join("."), obj.at(path).cloned().unwrap_or_default(), "field is immutable"));
            }
        }
        let kept: Vec<&str> = obj.list_at(&["spec", "versions"]).iter().map(|v| v.str_at(&["name"])).collect();
        for (i, v) in old.list_at(&["status", "storedVersions"]).iter().filter_map(Value::as_str).enumerate() {
            if !kept.contains(&v) {
                let why = format!("missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions");
                out.push(FieldError::invalid(format!("status.storedVersions[{i}]"), v, why));
            }
        }
        out
    }
    fn unconditional_update(&self) -> bool {
        self.inner.unconditional_update()
    }
}
