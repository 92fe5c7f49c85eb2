//! Custom resources, and the definitions they come from.

mod expressions;
mod openapi;
mod schemas;
mod structure;

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
    let versions = obj.list_at(&["spec", "versions"]);
    let whole = || obj.at(&["spec", "versions"]).cloned().unwrap_or_default();
    schemas::versions(versions, &mut out);
    let names: HashSet<&str> = versions.iter().map(|v| v.str_at(&["name"])).collect();
    if names.len() < versions.len() {
        out.push(FieldError::invalid("spec.versions", whole(), "must contain unique version names"));
    }
    let storage = versions.iter().filter(|v| v["storage"] == true).count();
    if storage != 1 {
        out.push(FieldError::invalid("spec.versions", whole(), "must have exactly one version marked as storage version"));
    }
    let first = versions.first().map(|v| v.str_at(&["name"])).unwrap_or_default();
    if let Some(why) = schemas::label(first).filter(|_| !first.is_empty()) {
        out.push(FieldError::invalid("spec.version", first, why));
    }
    schemas::names(&obj["spec"]["names"], &mut out);
    schemas::common(versions, &mut out);
    if let Some(c) = obj.at(&["spec", "conversion"]) {
        conversion(c, &mut out);
    }
    if obj.at(&["spec", "preserveUnknownFields"]) == Some(&json!(true)) {
        out.push(FieldError::invalid("spec.preserveUnknownFields", true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"));
    }
    out
}

/// How objects get from one version to another; the paths are upstream's.
fn conversion(c: &Value, out: &mut Vec<FieldError>) {
    let (client, versions) = (c.at(&["webhook", "clientConfig"]), c.list_at(&["webhook", "conversionReviewVersions"]));
    const CLIENT: &str = "spec.conversion.webhookClientConfig";
    const VERSIONS: &str = "spec.conversion.conversionReviewVersions";
    match c.str_at(&["strategy"]) {
        "Webhook" => {}
        other => {
            match other {
                "None" => {}
                "" => out.push(FieldError::required("spec.conversion.strategy", "")),
                other => out.push(FieldError::not_supported("spec.conversion.strategy", other, &["None", "Webhook"])),
            }
            for (field, given) in [(CLIENT, client.is_some()), (VERSIONS, !versions.is_empty())] {
                if given {
                    out.push(FieldError::forbidden(field, "should not be set when strategy is not set to Webhook"));
                }
            }
            return;
        }
    }
    match client {
        None => out.push(FieldError::required(CLIENT, "required when strategy is set to Webhook")),
        Some(client) => {
            let mut named = client.clone();
            if let Some(service) = named.get_mut("service").filter(|s| s.is_object()) {
                // Upstream calls each by the other's name.
                for (field, other) in [("name", "namespace"), ("namespace", "name")] {
                    if service.str_at(&[field]).is_empty() {
                        out.push(FieldError::required(format!("{CLIENT}.service.{other}"), ""));
                        service[field] = "a".into();
                    }
                }
            }
            super::fields::admission::client(&named, CLIENT, out);
        }
    }
    if versions.is_empty() {
        out.push(FieldError::required(VERSIONS, ""));
        return;
    }
    for (i, v) in versions.iter().enumerate() {
        let text = v.as_str().unwrap_or_default();
        if versions[..i].contains(v) {
            out.push(FieldError::invalid(format!("{VERSIONS}[{i}]"), text, "duplicate version"));
        } else {
            out.extend(schemas::label(text).map(|why| FieldError::invalid(format!("{VERSIONS}[{i}]"), text, why)));
        }
    }
    if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        out.push(FieldError::invalid(VERSIONS, json!(versions), "must include at least one of v1, v1beta1"));
    }
}

const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether a definition of the community's groups says who has approved it; and if not, why not.
fn approval(obj: &Value) -> (u8, Option<FieldError>) {
    let field = || format!("metadata.annotations[{APPROVED}]");
    let text = obj.str_at(&["metadata", "annotations", APPROVED]);
    let url = text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
    const MORE: &str = ", see https://github.com/kubernetes/enhancements/pull/1111";
    match text {
        "" => (0, Some(FieldError::required(field(), format!("protected groups must have approval annotation {APPROVED:?}{MORE}")))),
        t if t.starts_with("unapproved") => (1, None),
        _ if url => (2, None),
        t => {
            let why = format!("protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\"{MORE}");
            (3, Some(FieldError::invalid(field(), t, why)))
        }
    }
}

fn approved(obj: &Value, old: Option<&Value>) -> Option<FieldError> {
    let group = obj.str_at(&["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|g| group.strip_suffix(g).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let (state, why) = approval(obj);
    why.filter(|_| protected && old.is_none_or(|o| approval(o).0 != state))
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
        out.extend(approved(obj, None));
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = definition(obj);
        if !out.is_empty() {
            // What was wrong before does not stand in the way of other changes.
            let before = definition(old);
            out.retain(|e| !before.contains(e));
        }
        out.extend(approved(obj, Some(old)));
        let established = old.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        for (path, always) in [(&["spec", "group"][..], true), (&["spec", "scope"], false), (&["spec", "names", "plural"], true), (&["spec", "names", "kind"], false)] {
            if (always || established) && obj.at(path) != old.at(path) {
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
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let all = |obj: &Value| {
            let (mut formats, mut sets) = (Vec::new(), std::collections::BTreeSet::new());
            for s in obj.list_at(&["spec", "versions"]).iter().filter_map(|v| v.at(&["schema", "openAPIV3Schema"])) {
                schemas::warnings(s, &mut formats, &mut sets, 0);
            }
            formats.extend(sets);
            formats
        };
        let before = old.map(all).unwrap_or_default();
        all(obj).into_iter().filter(|w| !before.contains(w)).collect()
    }
    fn unconditional_update(&self) -> bool {
        self.inner.unconditional_update()
    }
}

#[cfg(test)]
mod tests;
