//! The behaviour most kinds share: status and spec are written apart, generation counts.

use serde_json::{Map, Value, json};

use super::{Strategy, data};
use crate::{names::NameRule, object::Object};

/// A kind without peculiarities.
pub struct Generic {
    pub(super) names: NameRule,
    pub(super) reset_status: bool,
    pub(super) status: bool,
    pub(super) generation: bool,
    /// The generation stays what it was at first.
    pub(super) still: bool,
    /// Whether changes are counted without a beginning.
    pub(super) counts: bool,
    pub(super) custom: bool,
    pub(super) unconditional: bool,
    pub(super) create_on_update: bool,
    pub(super) returns_deleted: bool,
    pub(super) status_keeps: &'static [&'static str],
    /// A map of the metadata that counts as a change.
    pub(super) also_counts: Option<&'static str>,
}

impl Generic {
    pub(super) fn of(group: &str, resource: &str) -> Self {
        let status = data::has_status(group, resource);
        Self {
            names: data::names(group, resource),
            reset_status: status && data::resets_status(group, resource),
            status,
            generation: data::generation(group, resource),
            still: (group, resource) == ("scheduling.k8s.io", "priorityclasses"),
            counts: (group, resource) == ("storage.k8s.io", "csidrivers"),
            custom: false,
            unconditional: data::unconditional(group, resource),
            create_on_update: data::create_on_update(group, resource),
            returns_deleted: data::returns_deleted(group, resource),
            status_keeps: data::status_keeps(group, resource),
            also_counts: match (group, resource) {
                ("discovery.k8s.io", _) => Some("labels"),
                ("apps", "deployments") => Some("annotations"),
                _ => None,
            },
        }
    }
}

/// Puts the old value of a member in place of the new one.
pub(super) fn keep(obj: &mut Value, old: &Value, member: &str) {
    if let Value::Object(m) = obj {
        match old.get(member) {
            Some(v) => m.insert(member.to_owned(), v.clone()),
            None => m.remove(member),
        };
    }
}

/// The status of an object that has none yet: the members that are always there.
pub(super) fn empty_status(obj: &Value) -> Value {
    let version = obj.str_at(&["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let ty = knarr_schema::types::types().kind(group, version, obj.str_at(&["kind"]));
    match ty.and_then(|t| t.field("status")).map(|f| knarr_schema::json::zero(f.shape)) {
        Some(Value::Object(m)) => Value::Object(m),
        _ => json!({}),
    }
}

/// Keeps everything but metadata and status; of the metadata too what `keeps` names.
pub(super) fn status_only(obj: &mut Value, old: &Value, keeps: &[&str]) {
    let status = obj.get("status").cloned();
    let meta = obj.get("metadata").cloned();
    let mut next: Map<String, Value> = old.as_object().cloned().unwrap_or_default();
    if let Some(m) = meta {
        next.insert("metadata".into(), m);
    }
    match status {
        Some(s) => next.insert("status".into(), s),
        None => next.remove("status"),
    };
    *obj = Value::Object(next);
    // Owners and finalizers of the object itself are not the status writer's to change.
    for f in ["ownerReferences"].iter().chain(keeps) {
        match old.at(&["metadata", f]) {
            Some(v) => obj.set_at(&["metadata", f], v.clone()),
            None => {
                obj.take_at(&["metadata", f]);
            }
        }
    }
}

/// Raises the generation if anything but metadata and status changed.
pub(super) fn count(obj: &mut Value, old: &Value) {
    let changed = {
        let strip = |v: &Value| -> Vec<(String, Value)> {
            v.as_object()
                .map(|m| {
                    m.iter()
                        .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect()
                })
                .unwrap_or_default()
        };
        strip(obj) != strip(old)
    };
    let g = old.generation() + i64::from(changed);
    if g > 0 {
        obj.set_at(&["metadata", "generation"], json!(g));
    }
}

impl Strategy for Generic {
    fn names(&self) -> NameRule {
        self.names
    }
    fn prepare_create(&self, obj: &mut Value) {
        if self.reset_status {
            if let Value::Object(m) = obj {
                m.remove("status");
            }
            if !self.custom {
                obj.set_at(&["status"], empty_status(obj));
            }
        }
        if self.generation {
            obj.set_at(&["metadata", "generation"], json!(1));
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        if self.status {
            keep(obj, old, "status");
        }
        if self.still {
            obj.set_at(&["metadata", "generation"], json!(old.generation()));
        } else if self.generation || self.counts {
            count(obj, old);
            let changed = |map: &str| obj.at(&["metadata", map]) != old.at(&["metadata", map]);
            if obj.generation() == old.generation() && self.also_counts.is_some_and(changed) {
                obj.set_at(&["metadata", "generation"], json!(old.generation() + 1));
            }
        }
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        if sub == "status" {
            status_only(obj, old, self.status_keeps);
        }
    }
    fn unconditional_update(&self) -> bool {
        self.unconditional
    }
    fn create_on_update(&self) -> bool {
        self.create_on_update
    }
    fn returns_deleted(&self) -> bool {
        self.returns_deleted
    }
}
