//! Deletion: preconditions, grace, finalizers, orphaning.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Hooks, Kind};
use crate::{
    cache::Entry,
    error::ApiError,
    object::{self, Object},
    registry::{Put, Registry, Write},
};

/// What a deletion asks for.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds the object may take.
    pub grace: Option<i64>,
    /// Only if the uid is this one.
    pub uid: Option<String>,
    /// Only if the version is this one.
    pub resource_version: Option<String>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// The old form of `propagation`.
    pub orphan: Option<bool>,
    /// Do everything but delete.
    pub dry_run: bool,
}

/// What became of the object.
pub enum Deleted {
    /// It is gone; this is how it was.
    Gone(Arc<Entry>),
    /// It is marked and waits for grace or finalizers.
    Pending(Arc<Entry>),
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

fn finalizers(kind: &Kind, obj: &Value, o: &DeleteOptions) -> Vec<String> {
    let now = obj.finalizers();
    let has = |f: &str| now.iter().any(|x| x == f);
    let policy = o.propagation.as_deref();
    let orphan = match (o.orphan, policy) {
        (Some(b), _) => b,
        (_, Some("Orphan")) => true,
        (_, Some(_)) => false,
        _ => has(ORPHAN) || (!has(FOREGROUND) && kind.strategy.orphans_by_default()),
    };
    let foreground = match (o.orphan, policy) {
        (Some(_), _) => false,
        (_, Some("Foreground")) => true,
        (_, Some(_)) => false,
        _ => has(FOREGROUND),
    };
    let mut out: Vec<String> =
        now.into_iter().filter(|f| f != ORPHAN && f != FOREGROUND).collect();
    if orphan {
        out.push(ORPHAN.into());
    }
    if foreground {
        out.push(FOREGROUND.into());
    }
    out
}

impl DeleteOptions {
    /// Whether the object is the one that was meant.
    ///
    /// # Errors
    /// 409 if it is not.
    pub fn check(&self, kind: &Kind, name: &str, obj: &Value) -> Result<(), ApiError> {
        let other = |what: &str, wanted: &str, found: &str, since: &str| {
            let text = format!("the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been {since}");
            Err(ApiError::conflict(&kind.group, &kind.kind, name, &text))
        };
        // Namespaces have words of their own.
        let own = |what: &str, wanted: &str, found: &str| {
            let text = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            Err(ApiError::conflict("", "namespaces", name, &text))
        };
        let namespaces = kind.group.is_empty() && kind.resource == "namespaces";
        match (&self.uid, &self.resource_version) {
            (Some(uid), _) if namespaces && uid != obj.uid() => own("UID", uid, obj.uid()),
            (_, Some(rv)) if namespaces && rv != obj.resource_version() => own("ResourceVersion", rv, obj.resource_version()),
            (Some(uid), _) if uid != obj.uid() => other("UID", uid, obj.uid(), "deleted and then recreated"),
            (_, Some(rv)) if rv != obj.resource_version() => other("ResourceVersion", rv, obj.resource_version(), "modified"),
            _ => Ok(()),
        }
    }
}

/// Deletes an object, or marks it where grace or finalizers ask for time.
///
/// # Errors
/// The answer for the client.
pub async fn delete(
    registry: &Registry,
    kind: &Kind,
    namespace: &str,
    name: &str,
    o: &DeleteOptions,
    hooks: &dyn Hooks,
) -> Result<Deleted, ApiError> {
    let key = kind.key(namespace, name);
    let mut current = registry.get(&kind.cache, &key, true).await?;
    let mut admitted = false;
    loop {
        let entry = current.ok_or_else(|| kind.missing(name))?;
        let old = entry.value();
        o.check(kind, name, &old)?;
        if !admitted {
            hooks.validate(&Value::Null, Some(&old)).await?;
            admitted = true;
        }
        let mut obj = old.clone();
        let wanted = finalizers(kind, &obj, o);
        if wanted != obj.finalizers() {
            if wanted.is_empty() {
                obj.meta_mut().remove("finalizers");
            } else {
                obj.meta_mut().insert("finalizers".into(), json!(wanted));
            }
        }
        let grace = kind.strategy.grace(&obj, o.grace).unwrap_or(0).max(0);
        mark(&mut obj, grace);
        kind.strategy.on_delete(&mut obj);
        let left = obj.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        if wanted.is_empty() && left == 0 && kind.strategy.removable(&obj) {
            // Where deletion can take time, what is gone is shown as it was marked.
            let last = |revision| Arc::new(Entry::new(&key, &obj, revision, Vec::new()));
            let graceful = kind.strategy.grace(&old, o.grace).is_some() && !old.deleting();
            if o.dry_run {
                return Ok(Deleted::Gone(if graceful { last(entry.revision) } else { entry }));
            }
            match registry.remove(&kind.cache, &entry).await? {
                Write::Done(e) => return Ok(Deleted::Gone(if graceful { last(e.revision) } else { e })),
                Write::Conflict(now) => current = now,
            }
            continue;
        }
        if obj == old {
            return Ok(Deleted::Pending(entry));
        }
        if o.dry_run {
            return Ok(Deleted::Pending(Arc::new(Entry::new(&key, &obj, entry.revision, Vec::new()))));
        }
        match registry.put(&kind.cache, &key, obj, entry.revision, None).await? {
            Put::Done(e) => return Ok(Deleted::Pending(e)),
            Put::Conflict(now, _) => current = now,
        }
    }
}

/// Sets or shortens the deletion mark.
fn mark(obj: &mut Value, grace: i64) {
    let before = obj.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    if obj.deleting() {
        if before.is_some_and(|b| grace >= b) {
            return;
        }
        if before.unwrap_or(0) > grace {
            obj.set_at(&["metadata", "deletionGracePeriodSeconds"], json!(grace));
            obj.set_at(&["metadata", "deletionTimestamp"], json!(object::after(grace)));
        }
        return;
    }
    obj.set_at(&["metadata", "deletionTimestamp"], json!(object::after(grace)));
    obj.set_at(&["metadata", "deletionGracePeriodSeconds"], json!(grace));
    let generation = obj.generation();
    if generation > 0 {
        obj.set_at(&["metadata", "generation"], json!(generation + 1));
    }
}
