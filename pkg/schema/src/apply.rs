//! Server-side apply: who owns which field, merging by ownership, conflicts.
//!
//! Behaves as structured-merge-diff does: lists are atomic, sets or maps as the table marks
//! them, structs and maps are granular unless they are marked atomic.

mod managers;
mod sets;
mod walk;

use serde_json::{Map, Value};

use crate::{
    status::{Cause, Status},
    time::Instant,
    types::Type,
};

use managers::{Managers, Operation};
pub use sets::Set;
use walk::Kind;

/// Who writes, and through which version and subresource.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'w> {
    /// The field manager's name.
    pub manager: &'w str,
    /// The `apiVersion` of the request.
    pub api_version: &'w str,
    /// The subresource; empty is the object itself.
    pub subresource: &'w str,
    /// Fields that this endpoint does not write, e.g. `status`; each a dotted path.
    pub reset: &'w [&'w str],
    /// When.
    pub now: Instant,
    /// The schema of a custom resource (`openAPIV3Schema`), which says how its lists merge.
    pub schema: Option<&'w Value>,
}

/// Why an object could not be applied.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Others own the fields; the status is the answer.
    #[error("{0}")]
    Conflict(Box<Status>),
    /// The applied object does not fit the schema.
    #[error("{0}")]
    Invalid(String),
}

/// Tracks the owners of what a create or update changes: rewrites `new`'s `managedFields`.
///
/// `live` is the stored object (`None` when the object is created). `new` should be in its final
/// form, as it will be stored.
pub fn track(live: Option<&Value>, new: &mut Value, ty: Option<&'static Type>, writer: &Writer<'_>) {
    let given = new.pointer("/metadata/managedFields").unwrap_or(&Value::Null);
    let stored = live.and_then(|l| l.pointer("/metadata/managedFields")).unwrap_or(&Value::Null);
    let cleared = given.as_array().is_some_and(|l| l.len() == 1 && l[0].as_object().is_some_and(Map::is_empty));
    if cleared {
        if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
        return;
    }
    let mut managers = Managers::parse(given).filter(|m| !m.is_empty() && writer.subresource.is_empty()).or_else(|| Managers::parse(stored)).unwrap_or_default();
    let root = Kind::root(ty, writer.schema);
    let empty = Value::Object(Map::new());
    let mut changes = walk::compare(live.unwrap_or(&empty), new, root);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        strip(set, writer.reset);
    }
    let mut changed = changes.added;
    changed.add(changes.modified);
    let me = managers.entry(writer, Operation::Update);
    for (id, entry) in managers.iter_mut() {
        if *id == me {
            continue;
        }
        entry.set.subtract(&changed);
        entry.set.subtract(&changes.removed);
    }
    let own = managers.get_mut(&me);
    own.set.subtract(&changes.removed);
    if !changed.is_empty() {
        own.time = Some(writer.now);
        own.set.add(changed);
    }
    managers.settle();
    managers.cap(10);
    managers.write(new);
}

/// Applies a configuration: returns the merged object with its `managedFields`, not yet in
/// normal form and without defaults.
///
/// # Errors
/// [`Error::Conflict`] unless `force`, [`Error::Invalid`] for a configuration that does not fit.
pub fn apply(live: Option<&Value>, config: &Value, ty: Option<&'static Type>, writer: &Writer<'_>, force: bool) -> Result<Value, Error> {
    if config.pointer("/metadata/managedFields").is_some_and(|m| m.as_array().is_none_or(|l| !l.is_empty()) && !m.is_null()) {
        return Err(Error::Invalid("metadata.managedFields must be nil".into()));
    }
    let result = apply_once(live, config, ty, writer, force);
    match result {
        Err((_, conflicts)) if writer.manager == "kubectl" && covered(live, &conflicts, Kind::root(ty, writer.schema)) => apply_once(live, config, ty, writer, true).map_err(|e| e.0),
        other => other.map_err(|e| e.0),
    }
}

/// Merges a configuration into an object as [`apply`] does, with nobody becoming an owner; what can
/// only be replaced as a whole may not be in it.
///
/// # Errors
/// [`Error::Invalid`] for a configuration that does not fit.
pub fn merge(live: &Value, config: &Value, ty: Option<&'static Type>, schema: Option<&Value>) -> Result<Value, Error> {
    let root = Kind::root(ty, schema);
    walk::fields(config, root).map_err(|why| Error::Invalid(format!("failed to convert patch object to typed object: {why}")))?;
    let mut atomics = Vec::new();
    walk::atomics(config, root, "", &mut atomics);
    if !atomics.is_empty() {
        return Err(Error::Invalid(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", atomics.join(", "))));
    }
    Ok(walk::merge(live, config, root))
}

/// Whether all conflicting fields are in what client-side apply wrote last: then `kubectl` takes
/// them over without force.
fn covered(live: Option<&Value>, conflicts: &Set, root: Kind<'_>) -> bool {
    let last = live.and_then(|l| l.pointer("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration")).and_then(Value::as_str);
    let Some(last) = last.and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return false };
    !conflicts.is_empty() && walk::fields(&last, root).is_ok_and(|set| conflicts.difference(&set).is_empty())
}

fn apply_once(live: Option<&Value>, config: &Value, ty: Option<&'static Type>, writer: &Writer<'_>, force: bool) -> Result<Value, (Error, Set)> {
    let root = Kind::root(ty, writer.schema);
    let invalid = |message: String| {
        let name = format!("{}/{}", field(config, "/metadata/namespace"), field(config, "/metadata/name"));
        let kind = field(config, "/kind");
        let slash = if writer.api_version.contains('/') { "" } else { "/" };
        (Error::Invalid(format!("failed to create typed patch object ({name}; {slash}{}, Kind={kind}): {message}", writer.api_version)), Set::default())
    };
    let stored = live.and_then(|l| l.pointer("/metadata/managedFields")).unwrap_or(&Value::Null);
    let mut managers = Managers::parse(stored).unwrap_or_default();
    let mut bare = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    if let Some(meta) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    if managers.is_empty() && live.is_some() {
        let mut all = walk::fields(&bare, root).unwrap_or_default();
        strip(&mut all, writer.reset);
        let before = Writer { manager: "before-first-apply", ..*writer };
        let id = managers.entry(&before, Operation::Update);
        managers.get_mut(&id).set = all;
        managers.get_mut(&id).time = Some(writer.now);
    }
    // What the configuration names stays, also what nobody owns, such as its own name.
    let mut owned = walk::fields(config, root).map_err(invalid)?;
    let mut own = owned.clone();
    strip(&mut own, writer.reset);
    let me = managers.entry(writer, Operation::Apply);
    let last = std::mem::replace(&mut managers.get_mut(&me).set, own);
    managers.get_mut(&me).api_version = writer.api_version.to_owned();
    let mut merged = walk::merge(&bare, config, root);
    for (_, entry) in managers.iter_mut() {
        owned.add(entry.set.clone());
    }
    walk::prune(&mut merged, &last, &owned, root);

    let mut changes = walk::compare(&bare, &merged, root);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        strip(set, writer.reset);
    }
    let mut changed = changes.added;
    changed.add(changes.modified);
    let mut conflicts: Vec<(String, String)> = Vec::new();
    let mut conflicting = Set::default();
    for (id, entry) in managers.iter_mut() {
        if *id == me {
            continue;
        }
        let both = entry.set.intersection(&changed);
        for path in both.paths() {
            conflicts.push((id.shown(), path));
        }
        if force {
            entry.set.subtract(&both);
        }
        entry.set.subtract(&changes.removed);
        conflicting.add(both);
    }
    if !force && !conflicts.is_empty() {
        return Err((Error::Conflict(Box::new(conflict(conflicts))), conflicting));
    }
    // Who applies what is there already has no time.
    if live.is_none() || merged != bare {
        managers.get_mut(&me).time = Some(writer.now);
    }
    managers.settle();
    managers.cap(10);
    managers.write(&mut merged);
    Ok(merged)
}

fn field<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn conflict(mut conflicts: Vec<(String, String)>) -> Status {
    conflicts.sort_by(|a, b| a.0.cmp(&b.0));
    let causes = conflicts.iter().map(|(manager, path)| Cause { reason: "FieldManagerConflict".into(), message: format!("conflict with {manager}"), field: path.clone() }).collect();
    let message = if let [(manager, path)] = &conflicts[..] {
        format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
    } else {
        let mut lines = Vec::new();
        let mut at = "";
        for (manager, path) in &conflicts {
            if manager != at {
                lines.push(format!("conflicts with {manager}:"));
                at = manager;
            }
            lines.push(format!("- {path}"));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    };
    Status::apply_conflict(causes, message)
}

/// Takes out what nobody owns: identity, the server's own metadata, and the endpoint's reset fields.
fn strip(set: &mut Set, reset: &[&str]) {
    set.remove(&["f:apiVersion"]);
    set.remove(&["f:kind"]);
    for name in ["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"] {
        set.remove_tree(&["f:metadata", &format!("f:{name}")]);
    }
    set.remove(&["f:metadata"]);
    for path in reset {
        let parts: Vec<String> = path.split('.').map(|p| format!("f:{p}")).collect();
        set.remove_tree(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests;
