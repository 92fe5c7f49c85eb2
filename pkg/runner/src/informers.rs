//! One cache per kind for the whole process, and the writes that keep it fresh.

use crate::cache::Cache;
use crate::events::Recorder;
use crate::meta;
use crate::reflect::{HasMeta, Source, reflect};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

pub use kube::api::PropagationPolicy as Propagation;

/// A kind known at compile time that can be cached and written.
pub trait Kind:
    Resource<DynamicType = ()>
    + HasMeta
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()>
        + HasMeta
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

struct Inner {
    client: Client,
    caches: Mutex<HashMap<TypeId, (Arc<dyn Any + Send + Sync>, bool)>>,
    cancel: CancellationToken,
    recorder: Recorder,
    paused: bool,
}

/// The shared informers of a process; clones share them.
#[derive(Clone)]
pub struct Informers(Arc<Inner>);

impl Informers {
    /// Informers over this client, until it is dropped or [`Informers::stop`] is called.
    pub fn new(client: Client) -> Self {
        Self::with_cancel(client, CancellationToken::new())
    }

    /// Informers that stop with `cancel`.
    pub fn with_cancel(client: Client, cancel: CancellationToken) -> Self {
        let recorder = Recorder::start(client.clone(), cancel.clone());
        Self(Arc::new(Inner { client, caches: Mutex::default(), cancel, recorder, paused: false }))
    }

    /// The client underneath.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The event recorder.
    pub fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }

    /// Ended when the informers stop.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Stops all watches.
    pub fn stop(&self) {
        self.0.cancel.cancel();
    }

    /// The cache of a kind; the first call starts its watch.
    pub fn get<K: Kind>(&self) -> Arc<Cache<K>> {
        self.get_inner::<K>("")
    }

    /// The cache of a kind restricted by an encoded query such as
    /// `fieldSelector=spec.nodeName%3Dn1`. The first caller of a kind decides for the process.
    pub fn get_selected<K: Kind>(&self, query: &str) -> Arc<Cache<K>> {
        self.get_inner::<K>(query)
    }

    fn get_inner<K: Kind>(&self, query: &str) -> Arc<Cache<K>> {
        let mut caches = crate::lock(&self.0.caches);
        let entry = caches.entry(TypeId::of::<K>()).or_insert_with(|| {
            let cache: Arc<Cache<K>> = Arc::new(Cache::new());
            (cache, self.0.paused)
        });
        let started = std::mem::replace(&mut entry.1, true);
        let cache = match entry.0.clone().downcast::<Cache<K>>() {
            Ok(c) => c,
            // The map is keyed by the type: this cannot be another cache.
            Err(_) => Arc::new(Cache::new()),
        };
        drop(caches);
        if !started {
            let src =
                Source { path: K::url_path(&(), None), query: query.to_owned(), metadata_only: false };
            let (client, sink, cancel) =
                (self.0.client.clone(), cache.clone(), self.0.cancel.clone());
            tokio::spawn(reflect::<K, _>(client, src, move |d| sink.delta(d), cancel));
        }
        cache
    }

    fn existing<K: Kind>(&self) -> Option<Arc<Cache<K>>> {
        let any = crate::lock(&self.0.caches).get(&TypeId::of::<K>())?.0.clone();
        any.downcast().ok()
    }

    fn wrote<K: Kind>(&self, obj: K) -> Arc<K> {
        match self.existing::<K>() {
            Some(c) => c.observe(obj),
            None => Arc::new(obj),
        }
    }

    fn request<K: Kind>(ns: &str) -> Request {
        Request::new(K::url_path(&(), Some(ns).filter(|n| !n.is_empty())))
    }

    async fn send<K: Kind>(
        &self,
        req: Result<http::Request<Vec<u8>>, impl Into<kube::core::request::Error>>,
    ) -> Result<Arc<K>, kube::Error> {
        let req = req.map_err(|e| kube::Error::BuildRequest(e.into()))?;
        let obj: K = self.0.client.request(req).await?;
        Ok(self.wrote(obj))
    }

    /// Creates an object; gives it as stored.
    pub async fn create<K: Kind>(&self, obj: &K) -> Result<Arc<K>, kube::Error> {
        let data = serde_json::to_vec(obj).map_err(kube::Error::SerdeError)?;
        let ns = meta::ns(obj.meta());
        self.send(Self::request::<K>(ns).create(&PostParams::default(), data)).await
    }

    /// Replaces an object (its resource version must be the current one).
    pub async fn update<K: Kind>(&self, obj: &K) -> Result<Arc<K>, kube::Error> {
        let data = serde_json::to_vec(obj).map_err(kube::Error::SerdeError)?;
        let m = obj.meta();
        let r = Self::request::<K>(meta::ns(m));
        self.send(r.replace(meta::name(m), &PostParams::default(), data)).await
    }

    /// Replaces an object's status (its resource version must be the current one).
    pub async fn update_status<K: Kind>(&self, obj: &K) -> Result<Arc<K>, kube::Error> {
        self.update_subresource(obj, "status").await
    }

    /// Replaces through a subresource (`status`, `finalize`, `approval`).
    pub async fn update_subresource<K: Kind>(
        &self,
        obj: &K,
        sub: &str,
    ) -> Result<Arc<K>, kube::Error> {
        let data = serde_json::to_vec(obj).map_err(kube::Error::SerdeError)?;
        let m = obj.meta();
        let r = Self::request::<K>(meta::ns(m));
        self.send(r.replace_subresource(sub, meta::name(m), &PostParams::default(), data)).await
    }

    /// Patches an object; `sub` is a subresource or empty.
    pub async fn patch<K: Kind, P: Serialize + Debug>(
        &self,
        ns: &str,
        name: &str,
        sub: &str,
        patch: &Patch<P>,
    ) -> Result<Arc<K>, kube::Error> {
        let r = Self::request::<K>(ns);
        let pp = PatchParams::default();
        let req = if sub.is_empty() {
            r.patch(name, &pp, patch)
        } else {
            r.patch_subresource(sub, name, &pp, patch)
        };
        self.send(req).await
    }

    /// Patches with a JSON merge patch.
    pub async fn merge<K: Kind>(
        &self,
        ns: &str,
        name: &str,
        sub: &str,
        patch: serde_json::Value,
    ) -> Result<Arc<K>, kube::Error> {
        self.patch(ns, name, sub, &Patch::Merge(patch)).await
    }

    /// Deletes exactly this object (by UID) with the given propagation (default background) and
    /// grace period in seconds.
    pub async fn delete<K: Kind>(
        &self,
        obj: &K,
        propagation: Option<Propagation>,
        grace: Option<u32>,
    ) -> Result<(), kube::Error> {
        let m = obj.meta();
        let dp = DeleteParams {
            propagation_policy: propagation,
            grace_period_seconds: grace,
            preconditions: m
                .uid
                .clone()
                .map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        let (ns, name, uid) = (meta::ns(m), meta::name(m), meta::uid(m));
        let req = Self::request::<K>(ns)
            .delete(name, &dp)
            .map_err(kube::Error::BuildRequest)?;
        let text = self.0.client.request_text(req).await?;
        let Some(cache) = self.existing::<K>() else { return Ok(()) };
        // The answer is the object where something still holds it, else a Status or its last state.
        if let Ok(o) = serde_json::from_str::<K>(&text) {
            let om = o.meta();
            let held = om.deletion_grace_period_seconds.is_some_and(|g| g > 0)
                || om.finalizers.as_ref().is_some_and(|f| !f.is_empty());
            if om.deletion_timestamp.is_some() && held {
                cache.observe(o);
                return Ok(());
            }
        }
        cache.observe_deleted(ns, name, uid);
        Ok(())
    }
}
