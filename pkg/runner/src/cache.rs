//! The cache of one kind: objects, indexes, and who wants to know of changes.

use crate::meta::{self, Key};
use crate::reflect::Delta;
use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{mpsc, watch};

/// A change of a cache.
#[derive(Debug)]
pub enum Event<K> {
    /// New to the cache.
    Added(Arc<K>),
    /// Changed.
    Updated {
        /// Before.
        old: Arc<K>,
        /// After.
        new: Arc<K>,
    },
    /// Gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Event<K> {
    /// The object after the change, or its last state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(o) | Self::Updated { new: o, .. } | Self::Deleted(o) => o,
        }
    }
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(o) => Self::Added(o.clone()),
            Self::Updated { old, new } => Self::Updated { old: old.clone(), new: new.clone() },
            Self::Deleted(o) => Self::Deleted(o.clone()),
        }
    }
}

/// A stream of a cache's events; begins with an `Added` for all it holds.
pub struct Subscription<K>(mpsc::UnboundedReceiver<Event<K>>);

impl<K> Subscription<K> {
    /// The next event; `None` when the informers have stopped. Cancellation safe.
    pub async fn next(&mut self) -> Option<Event<K>> {
        self.0.recv().await
    }
    /// The next event, if one is there.
    pub fn try_next(&mut self) -> Option<Event<K>> {
        self.0.try_recv().ok()
    }
}

struct Store<K> {
    objects: HashMap<String, BTreeMap<String, Arc<K>>>,
    by_owner: HashMap<String, HashMap<String, Arc<K>>>,
    by_node: HashMap<String, HashMap<String, Arc<K>>>,
    len: usize,
}

struct Feed<K> {
    handlers: Vec<Box<dyn Fn(&Event<K>) + Send>>,
    /// The watch has told everything up to here.
    seen: u64,
    /// Objects whose deletion was acknowledged and not yet told by the watch.
    dead: HashSet<String>,
    /// The keys named by the listing under way.
    listing: Option<Vec<K>>,
}

/// The objects of one kind as the server last told them.
pub struct Cache<K> {
    store: RwLock<Store<K>>,
    feed: Mutex<Feed<K>>,
    synced: watch::Sender<bool>,
}

fn node_of<K: 'static>(o: &K) -> Option<&str> {
    let any: &dyn Any = o;
    any.downcast_ref::<k8s_openapi::api::core::v1::Pod>()?
        .spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|n| !n.is_empty())
}

impl<K: crate::Kind> Store<K> {
    fn get(&self, ns: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(ns)?.get(name)
    }
    fn unindex(&mut self, o: &Arc<K>) {
        let m = o.meta();
        let uid = meta::uid(m);
        if let Some(owner) = meta::controller_of(m) {
            if let Some(set) = self.by_owner.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.by_owner.remove(&owner.uid);
                }
            }
        }
        if let Some(node) = node_of(o.as_ref()) {
            if let Some(set) = self.by_node.get_mut(node) {
                set.remove(uid);
                if set.is_empty() {
                    self.by_node.remove(node);
                }
            }
        }
    }
    fn insert(&mut self, o: Arc<K>) -> Option<Arc<K>> {
        let m = o.meta();
        let (ns, name, uid) = (meta::ns(m), meta::name(m), meta::uid(m).to_owned());
        let old = self.get(ns, name).cloned();
        if let Some(old) = &old {
            self.unindex(old);
        } else {
            self.len += 1;
        }
        if let Some(owner) = meta::controller_of(m) {
            self.by_owner.entry(owner.uid.clone()).or_default().insert(uid.clone(), o.clone());
        }
        if let Some(node) = node_of(o.as_ref()) {
            self.by_node.entry(node.to_owned()).or_default().insert(uid, o.clone());
        }
        self.objects.entry(ns.to_owned()).or_default().insert(name.to_owned(), o.clone());
        old
    }
    fn remove(&mut self, ns: &str, name: &str) -> Option<Arc<K>> {
        let set = self.objects.get_mut(ns)?;
        let old = set.remove(name)?;
        if set.is_empty() {
            self.objects.remove(ns);
        }
        self.len -= 1;
        self.unindex(&old);
        Some(old)
    }
}

impl<K: crate::Kind> Cache<K> {
    pub(crate) fn new() -> Self {
        Self {
            store: RwLock::new(Store {
                objects: HashMap::new(),
                by_owner: HashMap::new(),
                by_node: HashMap::new(),
                len: 0,
            }),
            feed: Mutex::new(Feed {
                handlers: Vec::new(),
                seen: 0,
                dead: HashSet::new(),
                listing: None,
            }),
            synced: watch::Sender::new(false),
        }
    }

    /// A cache of these objects that nothing feeds: what tests of plans look at.
    pub fn of(objects: impl IntoIterator<Item = K>) -> Self {
        let cache = Self::new();
        {
            let mut feed = crate::lock(&cache.feed);
            for o in objects {
                cache.put(&mut feed, Arc::new(o));
            }
        }
        cache.synced.send_replace(true);
        cache
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Store<K>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Store<K>> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object; the namespace of a cluster-wide kind is empty.
    pub fn get(&self, ns: &str, name: &str) -> Option<Arc<K>> {
        self.read().get(ns, name).cloned()
    }
    /// One object by key.
    pub fn by_key(&self, k: &Key) -> Option<Arc<K>> {
        self.get(&k.namespace, &k.name)
    }
    /// All objects.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().flat_map(|m| m.values().cloned()).collect()
    }
    /// The objects of a namespace, by name.
    pub fn in_namespace(&self, ns: &str) -> Vec<Arc<K>> {
        self.read().objects.get(ns).map(|m| m.values().cloned().collect()).unwrap_or_default()
    }
    /// The objects whose controller has this UID.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.read().by_owner.get(uid).map(|m| m.values().cloned().collect()).unwrap_or_default()
    }
    /// Pods bound to a node (empty for other kinds).
    pub fn on_node(&self, node: &str) -> Vec<Arc<K>> {
        self.read().by_node.get(node).map(|m| m.values().cloned().collect()).unwrap_or_default()
    }
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the first listing is complete.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }
    /// Waits for the first listing.
    pub async fn synced(&self) {
        let mut rx = self.synced.subscribe();
        // The sender lives in self, so this cannot fail while we borrow it.
        let _ = rx.wait_for(|s| *s).await;
    }

    /// Calls `f` for all objects present (as `Added`), then for every change, in order, without
    /// gap. `f` runs inside the cache's dispatch: it must be quick and must not write through
    /// this cache nor add handlers to it.
    pub fn on_event(&self, f: impl Fn(&Event<K>) + Send + 'static) {
        let mut feed = crate::lock(&self.feed);
        for o in self.list() {
            f(&Event::Added(o));
        }
        feed.handlers.push(Box::new(f));
    }

    /// The same as a stream.
    pub fn subscribe(&self) -> Subscription<K> {
        let (tx, rx) = mpsc::unbounded_channel();
        self.on_event(move |e| {
            let _ = tx.send(e.clone());
        });
        Subscription(rx)
    }

    /// Takes an object that the server answered to a write of ours.
    pub fn observe(&self, obj: K) -> Arc<K> {
        let o = Arc::new(strip(obj));
        let mut feed = crate::lock(&self.feed);
        let v = meta::rv(o.meta());
        if v > feed.seen && !feed.dead.contains(meta::uid(o.meta())) {
            self.put(&mut feed, o.clone());
        }
        o
    }

    /// Takes the news that the server deleted this object for a call of ours.
    pub fn observe_deleted(&self, ns: &str, name: &str, uid: &str) {
        let mut feed = crate::lock(&self.feed);
        let live = self.get(ns, name);
        if live.is_some_and(|o| meta::uid(o.meta()) == uid) {
            feed.dead.insert(uid.to_owned());
            self.drop_object(&mut feed, ns, name);
        }
    }

    fn put(&self, feed: &mut Feed<K>, o: Arc<K>) {
        let m = o.meta();
        let current = self.get(meta::ns(m), meta::name(m));
        if let Some(cur) = &current {
            let (have, new) = (meta::rv(cur.meta()), meta::rv(m));
            if new <= have && new != 0 {
                return;
            }
            if meta::uid(cur.meta()) != meta::uid(m) {
                self.drop_object(feed, meta::ns(m), meta::name(m));
            }
        }
        let old = self.write().insert(o.clone());
        let e = match old {
            Some(old) => Event::Updated { old, new: o },
            None => Event::Added(o),
        };
        for h in &feed.handlers {
            h(&e);
        }
    }

    fn drop_object(&self, feed: &mut Feed<K>, ns: &str, name: &str) {
        let old = self.write().remove(ns, name);
        if let Some(old) = old {
            let e = Event::Deleted(old);
            for h in &feed.handlers {
                h(&e);
            }
        }
    }

    pub(crate) fn delta(&self, d: Delta<K>) {
        let mut feed = crate::lock(&self.feed);
        match d {
            Delta::Restart => feed.listing = Some(Vec::new()),
            Delta::Init(o) => {
                let o = strip(o);
                if let Some(l) = &mut feed.listing {
                    l.push(o);
                }
            }
            Delta::InitDone(rv) => {
                let listing = feed.listing.take().unwrap_or_default();
                // A store that went back in time (restored from a backup): believe it.
                let rewound = rv < feed.seen;
                feed.dead.clear();
                feed.seen = rv;
                let named: HashSet<String> =
                    listing.iter().map(|o| meta::uid(o.meta()).to_owned()).collect();
                for old in self.list() {
                    let m = old.meta();
                    let newer = meta::rv(m) > rv && !rewound;
                    if (rewound || !named.contains(meta::uid(m))) && !newer {
                        self.drop_object(&mut feed, meta::ns(m), meta::name(m));
                    }
                }
                for o in listing {
                    self.put(&mut feed, Arc::new(o));
                }
                drop(feed);
                self.synced.send_replace(true);
            }
            Delta::Applied(o) => {
                let o = Arc::new(strip(o));
                feed.seen = feed.seen.max(meta::rv(o.meta()));
                if !feed.dead.contains(meta::uid(o.meta())) {
                    self.put(&mut feed, o);
                }
            }
            Delta::Deleted(o) => {
                let m = o.meta();
                feed.seen = feed.seen.max(meta::rv(m));
                feed.dead.remove(meta::uid(m));
                let same = self
                    .get(meta::ns(m), meta::name(m))
                    .is_some_and(|cur| meta::uid(cur.meta()) == meta::uid(m));
                if same {
                    // Keep the last state the server told.
                    let (ns, name) = (meta::ns(m).to_owned(), meta::name(m).to_owned());
                    let o = Arc::new(strip(o));
                    self.write().insert(o);
                    self.drop_object(&mut feed, &ns, &name);
                }
            }
            Delta::Bookmark(rv) => feed.seen = feed.seen.max(rv),
        }
    }
}

fn strip<K: crate::Kind>(mut o: K) -> K {
    o.m_mut().managed_fields = None;
    o
}

#[cfg(test)]
mod tests;
