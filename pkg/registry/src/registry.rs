//! All caches over one store, fed by one watch of everything, and the writes that go to the store.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::StreamExt;
use knarr_storage::{SharedStore, Swap, WatchItem, prefix_end};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::{
    cache::{Cache, Codec, Entry},
    error::ApiError,
};

/// Where everything lives in the store.
pub const ROOT: &str = "/registry/";
/// How long a read waits for the cache to catch up with the store.
const CATCH_UP: Duration = Duration::from_secs(3);

/// What a conditional write found.
pub enum Write {
    /// Written; the object as it is now.
    Done(Arc<Entry>),
    /// Somebody else wrote first; the object as it is now, `None` if it is gone.
    Conflict(Option<Arc<Entry>>),
}

/// What a write of an object found.
pub enum Put {
    /// Written; the object as it is now.
    Done(Arc<Entry>),
    /// Somebody else wrote first; the object as it is now, `None` if it is gone, and the one that
    /// was to be written.
    Conflict(Option<Arc<Entry>>, Value),
}

/// The store, with a cache for each resource.
pub struct Registry {
    store: SharedStore,
    caches: RwLock<HashMap<String, Arc<Cache>>>,
    applied: watch::Sender<u64>,
    /// The revision up to which history was given up.
    compacted: std::sync::atomic::AtomicU64,
    /// Held while events are applied and while a cache is loaded.
    gate: Mutex<()>,
    task: std::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// The lease that objects with a lifetime share: lifetime, when it was granted, its id.
    lease: Mutex<Option<(i64, std::time::Instant, i64)>>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.close();
    }
}

impl Registry {
    /// Loads the caches of all `resources` (key prefix with closing slash, codec) and follows the
    /// store from there on.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn open(
        store: SharedStore,
        resources: Vec<(String, Arc<dyn Codec>)>,
    ) -> Result<Arc<Self>, ApiError> {
        let caches = resources
            .into_iter()
            .map(|(p, c)| {
                let cache = Arc::new(Cache::new(&p, c));
                (p, cache)
            })
            .collect();
        let this = Arc::new(Self {
            store,
            caches: RwLock::new(caches),
            applied: watch::Sender::new(0),
            compacted: std::sync::atomic::AtomicU64::new(0),
            gate: Mutex::new(()),
            task: std::sync::Mutex::new(None),
            lease: Mutex::new(None),
        });
        let from = this.reload().await?;
        let watch = this.store.watch(ROOT, from + 1).await?;
        let weak = Arc::downgrade(&this);
        let task = tokio::spawn(async move {
            let mut watch = watch;
            loop {
                let item = watch.next().await;
                let Some(this) = weak.upgrade() else { return };
                match item {
                    Some(Ok(item)) => this.apply(item).await,
                    other => {
                        if let Some(Err(error)) = other {
                            tracing::warn!(%error, "the store's watch ended; reading everything anew");
                        }
                        watch = this.resume().await;
                    }
                }
            }
        });
        if let Ok(mut t) = this.task.lock() {
            *t = Some(task);
        }
        Ok(this)
    }

    /// Stops following the store.
    pub fn close(&self) {
        if let Ok(mut t) = self.task.lock()
            && let Some(t) = t.take()
        {
            t.abort();
        }
    }

    async fn resume(&self) -> knarr_storage::Watch {
        let mut pause = Duration::from_millis(50);
        loop {
            let from = *self.applied.borrow();
            // Events may still be there; only if they are compacted is everything read anew.
            match self.store.watch(ROOT, from + 1).await {
                Ok(w) => return w,
                Err(knarr_storage::Error::Compacted { .. }) => {
                    if let Err(error) = self.reload().await {
                        tracing::warn!(%error, "the store cannot be read");
                    } else {
                        continue;
                    }
                }
                Err(error) => tracing::warn!(%error, "the store cannot be watched"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn reload(&self) -> Result<u64, ApiError> {
        let _gate = self.gate.lock().await;
        let end = prefix_end(ROOT);
        let range = self.store.range(ROOT, Some(&end), 0, 0).await?;
        let mut parts: HashMap<String, Vec<knarr_storage::KeyValue>> = HashMap::new();
        for kv in range.items {
            if let Some(c) = self.owner(&kv.key) {
                parts.entry(c.prefix.clone()).or_default().push(kv);
            }
        }
        let caches: Vec<Arc<Cache>> = self.all();
        for c in caches {
            let items = parts.remove(&c.prefix).unwrap_or_default();
            c.load(&items, range.revision);
        }
        self.applied.send_if_modified(|r| {
            let newer = range.revision > *r;
            *r = (*r).max(range.revision);
            newer
        });
        Ok(range.revision)
    }

    async fn apply(&self, item: WatchItem) {
        let _gate = self.gate.lock().await;
        let revision = match item {
            WatchItem::Events(events) => {
                let mut last = 0;
                for e in &events {
                    if let Some(c) = self.owner(&e.key) {
                        c.apply(e);
                    }
                    last = e.revision;
                }
                last
            }
            WatchItem::Progress(r) => r,
        };
        self.applied.send_if_modified(|r| {
            let newer = revision > *r;
            *r = (*r).max(revision);
            newer
        });
    }

    fn all(&self) -> Vec<Arc<Cache>> {
        self.caches
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    fn owner(&self, key: &str) -> Option<Arc<Cache>> {
        let caches = self.caches.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let rest = key.strip_prefix(ROOT)?;
        let one = ROOT.len() + rest.find('/')? + 1;
        let two = key.get(one..).and_then(|r| r.find('/')).map(|i| one + i + 1);
        two.and_then(|t| key.get(..t))
            .and_then(|p| caches.get(p))
            .or_else(|| key.get(..one).and_then(|p| caches.get(p)))
            .cloned()
    }

    /// Adds a resource at run time and loads what the store has of it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn register(&self, prefix: &str, codec: Arc<dyn Codec>) -> Result<Arc<Cache>, ApiError> {
        let cache = Arc::new(Cache::new(prefix, codec));
        let _gate = self.gate.lock().await;
        let range = self.store.range(prefix, Some(&prefix_end(prefix)), 0, 0).await?;
        cache.load(&range.items, range.revision);
        self.caches
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(prefix.to_owned(), Arc::clone(&cache));
        Ok(cache)
    }

    /// Forgets a resource; its objects stay in the store.
    pub fn unregister(&self, prefix: &str) {
        self.caches
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(prefix);
    }

    /// The cache of a key prefix.
    #[must_use]
    pub fn cache(&self, prefix: &str) -> Option<Arc<Cache>> {
        self.caches
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .get(prefix)
            .cloned()
    }

    /// The version up to which all caches are complete.
    #[must_use]
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Gives up the history before `revision`: lists and watches of then answer 410.
    ///
    /// # Errors
    /// What the store says.
    pub async fn compact(&self, revision: u64) -> Result<(), knarr_storage::Error> {
        self.store.compact(revision).await?;
        self.compacted.fetch_max(revision, std::sync::atomic::Ordering::AcqRel);
        Ok(())
    }

    /// The oldest revision of which a list can be had.
    #[must_use]
    pub fn compacted(&self) -> u64 {
        self.compacted.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Waits until the caches hold every write acknowledged before the call; returns the version.
    ///
    /// # Errors
    /// If the store is unavailable or the caches do not catch up.
    pub async fn current(&self) -> Result<u64, ApiError> {
        let now = self.store.revision().await?;
        if self.applied() < now {
            self.store.request_progress().await?;
        }
        self.at_least(now).await
    }

    /// Waits until the caches have reached `revision`.
    ///
    /// # Errors
    /// 504 if that does not come.
    pub async fn at_least(&self, revision: u64) -> Result<u64, ApiError> {
        let mut rx = self.applied.subscribe();
        let wait = rx.wait_for(|r| *r >= revision);
        match tokio::time::timeout(CATCH_UP, wait).await {
            Ok(Ok(r)) => Ok(*r),
            _ => Err(ApiError::future_version(revision, self.applied())),
        }
    }

    /// Reads one object; with `fresh` from the store, else from the cache.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn get(&self, cache: &Cache, key: &str, fresh: bool) -> Result<Option<Arc<Entry>>, ApiError> {
        if fresh {
            let r = self.store.range(key, None, 1, 0).await?;
            return Ok(r.items.first().and_then(|kv| cache.decode(kv)));
        }
        Ok(cache.get(key))
    }

    /// Writes an object if its version is `expected` (`0`: it must be absent).
    ///
    /// # Errors
    /// If the object cannot be encoded or the store is unavailable.
    pub async fn put(
        &self,
        cache: &Cache,
        key: &str,
        mut obj: Value,
        expected: u64,
        ttl: Option<i64>,
    ) -> Result<Put, ApiError> {
        let encoded = cache.codec().encode(&mut obj).map_err(ApiError::internal)?;
        let lease = match ttl {
            Some(t) => self.shared_lease(t).await?,
            None => 0,
        };
        let begun = cache.begin(key, &encoded, obj);
        match self.store.put(key, encoded.bytes.clone(), expected, lease).await? {
            Swap::Done(rev) => Ok(Put::Done(begun.written(rev))),
            Swap::Conflict(kv) => {
                let now = kv.and_then(|kv| cache.decode(&kv));
                Ok(Put::Conflict(now, begun.refused()))
            }
        }
    }

    /// A lease of at least `ttl` seconds; one is shared for a minute, so that many short-lived
    /// objects do not need a lease each.
    async fn shared_lease(&self, ttl: i64) -> Result<i64, ApiError> {
        const SHARED: Duration = Duration::from_secs(60);
        let mut lease = self.lease.lock().await;
        if let Some((t, since, id)) = *lease
            && t == ttl
            && since.elapsed() < SHARED
        {
            return Ok(id);
        }
        let id = self.store.lease(ttl + 60).await?;
        *lease = Some((ttl, std::time::Instant::now(), id));
        Ok(id)
    }

    /// Deletes an object if its version is `expected`.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn remove(&self, cache: &Cache, entry: &Entry) -> Result<Write, ApiError> {
        match self.store.delete(&entry.key, entry.revision).await? {
            Swap::Done(rev) => {
                let obj = entry.value();
                let fields = cache.codec().fields(&obj);
                Ok(Write::Done(Arc::new(Entry::new(&entry.key, &obj, rev, fields))))
            }
            Swap::Conflict(kv) => Ok(Write::Conflict(kv.and_then(|kv| cache.decode(&kv)))),
        }
    }
}
