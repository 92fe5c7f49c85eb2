//! What create, update and delete mean, once for every kind.

mod delete;

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use serde_json::{Map, Value, json};

pub use delete::{DeleteOptions, Deleted, delete};

use crate::{
    cache::{Cache, Entry},
    error::ApiError,
    names,
    object::{self, Object},
    registry::{Put, Registry, Write},
    strategy::Strategy,
};

/// One stored resource, as the generic code needs it.
#[derive(Clone)]
pub struct Kind {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Plural name in paths.
    pub resource: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Its cache.
    pub cache: Arc<Cache>,
    /// What is special about it.
    pub strategy: Arc<dyn Strategy>,
}

impl Kind {
    /// The storage key of an object.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.cache.prefix)
        } else {
            format!("{}{name}", self.cache.prefix)
        }
    }
    /// The key prefix of a namespace's objects, or of all.
    #[must_use]
    pub fn scope(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.cache.prefix)
        } else {
            self.cache.prefix.clone()
        }
    }
    pub(crate) fn missing(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.group, &self.resource, name)
    }
    fn invalid(&self, name: &str, errors: &[crate::FieldError]) -> Result<(), ApiError> {
        if errors.is_empty() {
            return Ok(());
        }
        // Both groups' events are the core group's.
        let group = if self.group == "events.k8s.io" {
            ""
        } else {
            self.group.as_str()
        };
        let mut once: Vec<crate::FieldError> = Vec::new();
        for e in errors {
            // Extensions say what is wrong twice, where two find it.
            if matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io")
                || !once.contains(e)
            {
                once.push(e.clone());
            }
        }
        Err(ApiError::invalid(group, &self.kind, name, &once))
    }
}

/// The steps of the pipeline around a write that belong to the server, not to the kind.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Mutating admission and what follows it (defaults, field ownership).
    async fn mutate(&self, obj: &mut Value, old: Option<&Value>) -> Result<(), ApiError>;
    /// Records who owns the fields that the write changes; what admission changes is nobody's.
    fn own(&self, _obj: &mut Value, _old: Option<&Value>) {}
    /// What must be reserved right before the object is stored (addresses, ports).
    async fn allocate(&self, obj: &mut Value, old: Option<&Value>) -> Result<(), ApiError>;
    /// Validating admission.
    async fn validate(&self, obj: &Value, old: Option<&Value>) -> Result<(), ApiError>;
    /// A warning for the client.
    fn warn(&self, text: String);
}

/// Options common to writes.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// The subresource written through; empty for the object itself.
    pub subresource: String,
    /// Seconds after which the object vanishes by itself.
    pub ttl: Option<i64>,
    /// Whether a missing object is created.
    pub create: bool,
}

/// Creates an object.
///
/// # Errors
/// The answer for the client.
pub async fn create(
    registry: &Registry,
    kind: &Kind,
    namespace: &str,
    mut obj: Value,
    options: &WriteOptions,
    hooks: &dyn Hooks,
) -> Result<Arc<Entry>, ApiError> {
    if !obj.resource_version().is_empty() && obj.resource_version() != "0" {
        return Err(ApiError::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    scope(kind, namespace, &mut obj)?;
    let generated = obj.name().is_empty() && !obj.str_at(&["metadata", "generateName"]).is_empty();
    {
        let m = obj.meta_mut();
        for f in [
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ] {
            m.remove(f);
        }
        m.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
        m.insert("creationTimestamp".into(), json!(object::now()));
        m.remove("generation");
    }
    if generated {
        generate(&mut obj);
    }
    hooks.own(&mut obj, None);
    hooks.mutate(&mut obj, None).await?;
    kind.strategy.prepare_create(&mut obj);
    let mut errors = names::metadata(&obj, kind.namespaced, kind.strategy.names());
    errors.extend(kind.strategy.validate(&obj));
    kind.invalid(obj.name(), &errors)?;
    for w in kind.strategy.warnings(&obj, None) {
        hooks.warn(w);
    }
    hooks.validate(&obj, None).await?;
    hooks.allocate(&mut obj, None).await?;
    for attempt in 0..8 {
        let key = kind.key(obj.namespace(), obj.name());
        if options.dry_run {
            if registry.get(&kind.cache, &key, true).await?.is_some() {
                return Err(exists(kind, &obj, generated));
            }
            return Ok(Arc::new(Entry::new(&key, &obj, 0, Vec::new())));
        }
        match registry
            .put(&kind.cache, &key, obj, 0, options.ttl)
            .await?
        {
            Put::Done(e) => return Ok(e),
            Put::Conflict(_, back) => obj = back,
        }
        if !generated || attempt == 7 {
            break;
        }
        generate(&mut obj);
    }
    Err(exists(kind, &obj, generated))
}

fn exists(kind: &Kind, obj: &Value, generated: bool) -> ApiError {
    let mut e = ApiError::already_exists(&kind.group, &kind.resource, obj.name());
    if generated {
        e.message = format!(
            "{}, the server was not able to generate a unique name for the object",
            e.message
        );
    }
    e
}

fn generate(obj: &mut Value) {
    let mut base = obj.str_at(&["metadata", "generateName"]).to_owned();
    base.truncate(
        (0..=58)
            .rev()
            .find(|i| base.is_char_boundary(*i))
            .unwrap_or(0),
    );
    let name = format!("{base}{}", object::suffix());
    obj.meta_mut().insert("name".into(), json!(name));
}

/// Puts the request's namespace into an object that names none, and refuses another one.
fn scope(kind: &Kind, namespace: &str, obj: &mut Value) -> Result<(), ApiError> {
    if !kind.namespaced {
        if obj.namespace().is_empty() {
            obj.meta_mut().remove("namespace");
        }
        return Ok(());
    }
    if obj.namespace().is_empty() {
        obj.meta_mut().insert("namespace".into(), json!(namespace));
    } else if obj.namespace() != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {:?} != {namespace:?}",
            obj.namespace()
        )
        .split_once(": ")
        .map_or_else(String::new, |(a, _)| a.to_owned())));
    }
    Ok(())
}

/// What an update did.
pub struct Updated {
    /// The object as it is now.
    pub entry: Arc<Entry>,
    /// Whether it was created.
    pub created: bool,
}

/// Changes an object: `make` turns the present object into the wanted one and is called anew when
/// somebody else wrote in between and the wanted object names no version.
///
/// # Errors
/// The answer for the client.
pub async fn update<F, Fut>(
    registry: &Registry,
    kind: &Kind,
    namespace: &str,
    name: &str,
    options: &WriteOptions,
    hooks: &dyn Hooks,
    mut make: F,
) -> Result<Updated, ApiError>
where
    F: FnMut(Option<Value>) -> Fut,
    Fut: Future<Output = Result<Value, ApiError>>,
{
    let key = kind.key(namespace, name);
    let mut current = registry.get(&kind.cache, &key, false).await?;
    let mut fresh = false;
    if current.is_none() {
        current = registry.get(&kind.cache, &key, true).await?;
        fresh = true;
    }
    loop {
        let Some(entry) = current else {
            if !options.create {
                return Err(kind.missing(name));
            }
            let mut obj = make(None).await?;
            if !obj.resource_version().is_empty() && obj.resource_version() != "0" {
                return Err(ApiError::conflict(
                    &kind.group,
                    &kind.resource,
                    name,
                    &format!(
                        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: ",
                        obj.uid()
                    ),
                ));
            }
            obj.meta_mut().insert("name".into(), json!(name));
            let entry = create(registry, kind, namespace, obj, options, hooks).await;
            return match entry {
                Ok(entry) => Ok(Updated {
                    entry,
                    created: true,
                }),
                Err(e) if e.code == 409 && e.reason == "AlreadyExists" => {
                    current = registry.get(&kind.cache, &key, true).await?;
                    continue;
                }
                Err(e) => Err(e),
            };
        };
        match attempt(
            registry, kind, namespace, name, options, hooks, &mut make, &entry,
        )
        .await
        {
            Ok(Attempt::Done(e)) => {
                return Ok(Updated {
                    entry: e,
                    created: false,
                });
            }
            // That nothing changes is an answer only if what was compared is what is stored.
            Ok(Attempt::Same(e)) => {
                if fresh {
                    return Ok(Updated {
                        entry: e,
                        created: false,
                    });
                }
                let now = registry.get(&kind.cache, &key, true).await?;
                if now.as_ref().is_some_and(|n| n.revision == e.revision) {
                    return Ok(Updated {
                        entry: e,
                        created: false,
                    });
                }
                current = now;
                fresh = true;
            }
            Ok(Attempt::Again(next)) => {
                current = next;
                fresh = true;
            }
            // What the cache says may be old: only what the store says is an answer.
            Err(e) if !fresh && matches!(e.code, 404 | 409 | 422) => {
                let now = registry.get(&kind.cache, &key, true).await?;
                if now.as_ref().is_some_and(|n| n.revision == entry.revision) {
                    return Err(e);
                }
                current = now;
                fresh = true;
            }
            Err(e) => return Err(e),
        }
    }
}

enum Attempt {
    Done(Arc<Entry>),
    Same(Arc<Entry>),
    Again(Option<Arc<Entry>>),
}

#[allow(clippy::too_many_arguments)]
async fn attempt<F, Fut>(
    registry: &Registry,
    kind: &Kind,
    namespace: &str,
    name: &str,
    options: &WriteOptions,
    hooks: &dyn Hooks,
    make: &mut F,
    entry: &Arc<Entry>,
) -> Result<Attempt, ApiError>
where
    F: FnMut(Option<Value>) -> Fut,
    Fut: Future<Output = Result<Value, ApiError>>,
{
    let old = entry.value();
    let mut obj = make(Some(old.clone())).await?;
    if obj.name().is_empty() {
        obj.meta_mut().insert("name".into(), json!(name));
    } else if obj.name() != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            obj.name()
        )));
    }
    scope(kind, namespace, &mut obj)?;
    if !obj.uid().is_empty() && obj.uid() != old.uid() {
        return Err(ApiError::conflict(
            &kind.group,
            &kind.resource,
            name,
            &format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: {}",
                entry.key,
                obj.uid(),
                old.uid()
            ),
        ));
    }
    let wanted = obj.resource_version().to_owned();
    if wanted.is_empty() || wanted == "0" {
        if !kind.strategy.unconditional_update() {
            return kind
                .invalid(
                    name,
                    &[crate::FieldError::invalid(
                        "metadata.resourceVersion",
                        json!(0),
                        "must be specified for an update",
                    )],
                )
                .map(|()| Attempt::Again(None));
        }
    } else if wanted != old.resource_version() {
        return Err(ApiError::modified(&kind.group, &kind.resource, name));
    }
    {
        let before = old.get("metadata").unwrap_or(&Value::Null);
        let m = obj.meta_mut();
        for f in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "selfLink",
        ] {
            match before.get(f) {
                Some(v) => m.insert(f.into(), v.clone()),
                None => m.remove(f),
            };
        }
    }
    hooks.own(&mut obj, Some(&old));
    hooks.mutate(&mut obj, Some(&old)).await?;
    if options.subresource.is_empty() {
        kind.strategy.prepare_update(&mut obj, &old);
    } else {
        kind.strategy
            .prepare_subresource(&options.subresource, &mut obj, &old);
    }
    let mut errors = names::metadata(&obj, kind.namespaced, crate::names::NameRule::PathSegment);
    errors.extend(names::metadata_update(&obj, &old));
    if options.subresource.is_empty() {
        errors.extend(kind.strategy.validate_update(&obj, &old));
    } else {
        errors.extend(
            kind.strategy
                .validate_subresource(&options.subresource, &obj, &old),
        );
    }
    kind.invalid(name, &errors)?;
    if options.subresource.is_empty() {
        for w in kind.strategy.warnings(&obj, Some(&old)) {
            hooks.warn(w);
        }
    }
    hooks.validate(&obj, Some(&old)).await?;
    hooks.allocate(&mut obj, Some(&old)).await?;
    if obj.deleting()
        && obj.finalizers().is_empty()
        && obj
            .at(&["metadata", "deletionGracePeriodSeconds"])
            .and_then(Value::as_i64)
            .unwrap_or(0)
            == 0
        && kind.strategy.removable(&obj)
    {
        let last = Arc::new(Entry::new(&entry.key, &obj, entry.revision, Vec::new()));
        if options.dry_run {
            return Ok(Attempt::Done(last));
        }
        return match registry.remove(&kind.cache, entry).await? {
            Write::Done(_) => Ok(Attempt::Done(last)),
            Write::Conflict(now) => Ok(Attempt::Again(now)),
        };
    }
    // What is held in another form than it would be written in is written though it is the same.
    let anew = || async { registry.store().stale(&entry.key).await };
    if same(&obj, &old) && (options.dry_run || !anew().await?) {
        return Ok(Attempt::Same(Arc::clone(entry)));
    }
    if options.dry_run {
        return Ok(Attempt::Done(Arc::new(Entry::new(
            &entry.key,
            &obj,
            entry.revision,
            Vec::new(),
        ))));
    }
    match registry
        .put(&kind.cache, &entry.key, obj, entry.revision, options.ttl)
        .await?
    {
        Put::Done(e) => Ok(Attempt::Done(e)),
        Put::Conflict(now, _) => Ok(Attempt::Again(now)),
    }
}

/// Whether a write would change nothing; times in `managedFields` alone are no change.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else {
        return new == old;
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|((k, v), (l, w))| {
            k == l
                && match (k.as_str(), v, w) {
                    ("metadata", Value::Object(v), Value::Object(w)) => same_metadata(v, w),
                    _ => v == w,
                }
        })
}

fn same_metadata(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((k, v), (l, w))| {
            k == l
                && match (k.as_str(), v, w) {
                    ("managedFields", Value::Array(v), Value::Array(w)) => {
                        v.len() == w.len() && v.iter().zip(w).all(|(v, w)| same_manager(v, w))
                    }
                    _ => v == w,
                }
        })
}

/// One entry of `managedFields`; its time does not count.
fn same_manager(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return a == b;
    };
    let timeless = |m: &'_ Map<String, Value>| m.len() - usize::from(m.contains_key("time"));
    timeless(a) == timeless(b) && a.iter().all(|(k, v)| k == "time" || b.get(k) == Some(v))
}
