//! Custom resources, and the definitions they come from.

mod schemas;

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
    let wrong = names::subdomain(group);
    if group.is_empty() {
        out.push(FieldError::required("spec.group", ""));
    } else if !wrong.is_empty() {
        out.push(FieldError::invalid("spec.group", group, wrong.join(",")));
    } else if !group.contains('.') {
        out.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    match obj.str_at(&["spec", "scope"]) {
        "Cluster" | "Namespaced" => {}
        "" => out.push(FieldError::required("spec.scope", "")),
        other => out.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    schemas::names(&obj["spec"]["names"], &mut out);
    let versions = obj.list_at(&["spec", "versions"]);
    let whole = || obj.at(&["spec", "versions"]).cloned().unwrap_or_default();
    let mut seen = HashSet::new();
    for (i, v) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = v.str_at(&["name"]);
        if let Some(why) = schemas::label(name) {
            if i == 0 && !name.is_empty() {
                out.push(FieldError::invalid("spec.version", name, why.as_str()));
            }
            out.push(FieldError::invalid(format!("{path}.name"), name, why));
        }
        if v.at(&["schema", "openAPIV3Schema"]).is_none() {
            out.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), ""));
        }
        schemas::version(v, &path, &mut out);
        seen.insert(name);
    }
    if seen.len() < versions.len() {
        out.push(FieldError::invalid("spec.versions", whole(), "must contain unique version names"));
    }
    let storage = versions.iter().filter(|v| v["storage"] == true).count();
    if storage != 1 {
        out.push(FieldError::invalid("spec.versions", whole(), "must have exactly one version marked as storage version"));
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

/// Notes the version in which objects are stored.
fn store(obj: &mut Value) {
    let mut stored = obj.list_at(&["status", "storedVersions"]).to_vec();
    let before = stored.len();
    for v in obj.list_at(&["spec", "versions"]).iter().filter(|v| v["storage"] == true) {
        if !stored.contains(&v["name"]) {
            stored.push(v["name"].clone());
        }
    }
    if stored.len() > before {
        obj.set_at(&["status", "storedVersions"], json!(stored));
    }
}

impl Strategy for Definitions {
    fn names(&self) -> NameRule {
        self.inner.names()
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
        store(obj);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
        store(obj);
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        self.inner.prepare_subresource(sub, obj, old);
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = definition(obj);
        let wanted = format!("{}.{}", obj.str_at(&["spec", "names", "plural"]), obj.str_at(&["spec", "group"]));
        if !obj.name().is_empty() && obj.name() != wanted {
            out.insert(0, FieldError::invalid("metadata.name", obj.name(), "must be spec.names.plural+\".\"+spec.group"));
        }
        if !obj.list_at(&["spec", "versions"]).iter().any(|v| v["storage"] == true) {
            out.push(FieldError::invalid("status.storedVersions", Value::Null, "must have at least one stored version"));
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = definition(obj);
        if !out.is_empty() {
            // What was wrong before does not stand in the way of other changes.
            let before = definition(old);
            out.retain(|e| !before.contains(e));
        }
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
    fn warnings(&self, obj: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for s in obj.list_at(&["spec", "versions"]).iter().filter_map(|v| v.at(&["schema", "openAPIV3Schema"])) {
            schemas::formats(s, &mut out, 0);
        }
        out
    }
    fn unconditional_update(&self) -> bool {
        self.inner.unconditional_update()
    }
}
