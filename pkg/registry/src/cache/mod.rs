//! The watch cache of one resource: every object's encoded bytes in key order, and the recent
//! events. Snapshots are cheap, so lists never hold a lock while they are written out.

mod map;
#[cfg(test)]
mod tests;
mod topics;
mod watcher;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, RwLock},
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

pub use map::Snapshot;
pub use topics::Interest;
pub use watcher::{Lag, Watcher};

use crate::object::{self, Object};

/// How many events a cache remembers for watches that begin in the past.
const RING: usize = 8192;
/// And how many bytes of objects they hold: so many, and an eighth of what the cache holds.
const RING_BYTES: usize = 8 << 20;
/// How many old snapshots serve the following pages of lists.
const PAGES: usize = 16;

/// Between stored bytes and JSON values, for one resource.
pub trait Codec: Send + Sync + 'static {
    /// Stored bytes to an object in its storage version, with `apiVersion` and `kind`.
    ///
    /// # Errors
    /// Why the bytes cannot be read.
    fn decode(&self, stored: &[u8]) -> Result<Value, String>;
    /// An object to stored bytes; its defaults are filled in.
    ///
    /// # Errors
    /// Why the object cannot be written.
    fn encode(&self, obj: &mut Value) -> Result<Encoded, String>;
    /// The values of the kind's selectable fields beyond name and namespace.
    fn fields(&self, obj: &Value) -> Vec<(String, String)>;
}

/// What is stored of an object.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The bytes.
    pub bytes: Bytes,
    /// Whether decoding them gives the object as it is, its version apart.
    pub exact: bool,
}

/// One object at one version, encoded.
#[derive(Debug)]
pub struct Entry {
    /// The storage key.
    pub key: Box<str>,
    /// The version.
    pub revision: u64,
    /// `metadata.namespace`, empty for cluster-scoped ones.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    json: Bytes,
    head: usize,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(Box<str>, Box<str>)]>,
    /// The protobuf form, made when first asked for.
    pub proto: OnceLock<Bytes>,
    /// The value, kept when others are decided by it again and again.
    parsed: OnceLock<Arc<Value>>,
}

impl Entry {
    /// Encodes an object of a version.
    #[must_use]
    pub fn new(key: &str, obj: &Value, revision: u64, fields: Vec<(String, String)>) -> Self {
        let (json, head) = object::encode(obj, revision);
        let labels = obj
            .at(&["metadata", "labels"])
            .and_then(Value::as_object)
            .map(|m| {
                m.iter()
                    .map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or("").into()))
                    .collect()
            })
            .unwrap_or_default();
        Self {
            key: key.into(),
            revision,
            namespace: obj.namespace().into(),
            name: obj.name().into(),
            json: Bytes::from(json.into_boxed_slice()),
            head,
            labels,
            fields: fields
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            proto: OnceLock::new(),
            parsed: OnceLock::new(),
        }
    }
    /// The whole object as JSON.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }
    /// The object's JSON after `{"kind":…,"apiVersion":…,`: what follows a `{` in a list.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        self.json.get(self.head..).unwrap_or(b"}")
    }
    /// The object as a value.
    #[must_use]
    pub fn value(&self) -> Value {
        knarr_schema::json::value(&self.json).unwrap_or_default()
    }
    /// The object as a value that is kept: for objects by which requests are decided, such as
    /// namespaces; it takes several times the memory of the bytes.
    #[must_use]
    pub fn shared(&self) -> &Arc<Value> {
        self.parsed.get_or_init(|| Arc::new(self.value()))
    }
    /// A label's value.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(k, _)| &**k == key)
            .map(|(_, v)| &**v)
    }
    /// A selectable field's value.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        match key {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self
                .fields
                .iter()
                .find(|(k, _)| &**k == key)
                .map(|(_, v)| &**v),
        }
    }
    /// Bytes held, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.json.len() + self.key.len() + 200
    }
}

/// A write that has begun; forgotten when nothing comes of it.
pub(crate) struct Begun<'c> {
    cache: &'c Cache,
    key: &'c str,
    stored: &'c Bytes,
    obj: Arc<Value>,
    done: bool,
}

impl Begun<'_> {
    /// The entry of what was stored.
    pub(crate) fn written(mut self, revision: u64) -> Arc<Entry> {
        self.done = true;
        self.cache.written(self.key, self.stored, &self.obj, revision)
    }

    /// Nothing was stored; the object.
    pub(crate) fn refused(self) -> Value {
        let obj = Arc::clone(&self.obj);
        drop(self);
        Arc::unwrap_or_clone(obj)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut all = self.cache.writing();
        if all
            .get(self.key)
            .is_some_and(|w| identical(&w.stored, self.stored))
        {
            all.remove(self.key);
        }
    }
}

/// Whether both are the same bytes of memory.
fn identical(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr() && a.len() == b.len()
}

/// One change, shared by all watchers.
#[derive(Debug)]
pub struct Change {
    /// The version of the change.
    pub revision: u64,
    /// The object after it; for a deletion the last object with the deletion's version.
    pub entry: Arc<Entry>,
    /// The object before it.
    pub previous: Option<Arc<Entry>>,
    /// Whether it is a deletion.
    pub deleted: bool,
    /// The JSON watch frame, encoded for the first watcher that needs it.
    pub frame: OnceLock<Bytes>,
}

struct Ring {
    events: VecDeque<Arc<Change>>,
    /// Sequence number of the first event kept.
    first: u64,
    /// Events with a revision above this one are all kept.
    complete_after: u64,
    bytes: usize,
}

impl Ring {
    /// The sequence number after the newest event.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }
    fn lag(&self) -> Lag {
        Lag {
            oldest: self.complete_after,
        }
    }
}

struct State {
    map: Snapshot,
    ring: Ring,
    pages: VecDeque<(u64, Snapshot)>,
    loaded: u64,
    /// Bytes of all objects as JSON.
    bytes: usize,
}

/// The cache of one resource.
pub struct Cache {
    /// The key prefix with its closing slash.
    pub prefix: String,
    codec: Arc<dyn Codec>,
    state: RwLock<State>,
    /// The sequence number after the newest event.
    tail: watch::Sender<u64>,
    /// What watchers of few objects ask for; locked after `state`.
    topics: Mutex<topics::Topics>,
    /// What is being written, by key, until its event comes.
    writing: Mutex<HashMap<Box<str>, Writing>>,
}

/// An object on its way to the store: whoever makes its entry first makes it for both.
#[derive(Debug)]
struct Writing {
    stored: Bytes,
    /// The object, if it would be read back as it is.
    obj: Option<Arc<Value>>,
    entry: Option<Arc<Entry>>,
}

impl Cache {
    /// An empty cache, complete from `revision` on.
    pub(crate) fn new(prefix: &str, codec: Arc<dyn Codec>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            codec,
            state: RwLock::new(State {
                map: Snapshot::default(),
                ring: Ring {
                    events: VecDeque::new(),
                    first: 0,
                    complete_after: 0,
                    bytes: 0,
                },
                pages: VecDeque::new(),
                loaded: 0,
                bytes: 0,
            }),
            tail: watch::Sender::new(0),
            topics: Mutex::default(),
            writing: Mutex::default(),
        }
    }
    fn writing(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Writing>> {
        self.writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn topics(&self) -> std::sync::MutexGuard<'_, topics::Topics> {
        self.topics
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// The codec.
    #[must_use]
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    fn entry_of(&self, key: &str, obj: &Value, revision: u64) -> Entry {
        Entry::new(key, obj, revision, self.codec.fields(obj))
    }

    fn entry(&self, key: &str, stored: &[u8], revision: u64) -> Option<Entry> {
        match self.codec.decode(stored) {
            Ok(obj) => Some(self.entry_of(key, &obj, revision)),
            Err(error) => {
                tracing::error!(key, error, "stored object cannot be read; it is left out");
                None
            }
        }
    }

    /// Decodes a stored pair.
    #[must_use]
    pub fn decode(&self, kv: &knarr_storage::KeyValue) -> Option<Arc<Entry>> {
        self.entry(&kv.key, &kv.value, kv.mod_revision)
            .map(Arc::new)
    }

    /// Says that an object is about to be stored in these bytes, so that they need not be read when
    /// they come back.
    pub(crate) fn begin<'c>(&'c self, key: &'c str, encoded: &'c Encoded, obj: Value) -> Begun<'c> {
        let obj = Arc::new(obj);
        let writing = Writing {
            stored: encoded.bytes.clone(),
            obj: encoded.exact.then(|| Arc::clone(&obj)),
            entry: None,
        };
        self.writing().insert(key.into(), writing);
        Begun {
            cache: self,
            key,
            stored: &encoded.bytes,
            obj,
            done: false,
        }
    }

    fn written(&self, key: &str, stored: &Bytes, obj: &Value, revision: u64) -> Arc<Entry> {
        if let Some(entry) = self.get(key)
            && entry.revision == revision
        {
            return entry;
        }
        let exact = self
            .writing()
            .get(key)
            .is_some_and(|w| identical(&w.stored, stored) && w.obj.is_some());
        // Else read back: that is how everybody else will see it.
        let read = if exact { None } else { self.entry(key, stored, revision) };
        let entry = Arc::new(read.unwrap_or_else(|| self.entry_of(key, obj, revision)));
        if let Some(writing) = self.writing().get_mut(key)
            && identical(&writing.stored, stored)
        {
            writing.entry = Some(Arc::clone(&entry));
        }
        entry
    }

    /// The entry of an event, if this server has written it.
    fn take_written(&self, key: &str, stored: &[u8], revision: u64) -> Option<Arc<Entry>> {
        let writing = {
            let mut all = self.writing();
            if all.get(key)?.stored != stored {
                return None;
            }
            all.remove(key)?
        };
        match (writing.entry, writing.obj) {
            (Some(entry), _) if entry.revision == revision => Some(entry),
            (_, Some(obj)) => Some(Arc::new(self.entry_of(key, &obj, revision))),
            _ => None,
        }
    }

    /// Fills the cache with what a range read returned.
    pub(crate) fn load(&self, items: &[knarr_storage::KeyValue], revision: u64) {
        let entries: Vec<Arc<Entry>> = items.iter().filter_map(|kv| self.decode(kv)).collect();
        let bytes = entries.iter().map(|e| e.json.len()).sum();
        self.writing().clear();
        let mut s = self.write();
        s.bytes = bytes;
        s.map = Snapshot::from_sorted(entries);
        s.ring.events.clear();
        s.ring.bytes = 0;
        // Watchers of before the load, the one that had read all included, find themselves behind and
        // end.
        let first = *self.tail.borrow() + 1;
        s.ring.first = first;
        s.ring.complete_after = revision;
        s.loaded = revision;
        s.pages.clear();
        self.topics().forget(first);
        drop(s);
        self.tail.send_replace(first);
    }

    /// Applies a store event.
    pub(crate) fn apply(&self, e: &knarr_storage::Event) {
        // Made before the lock is taken: readers do not wait for it.
        let current = e.current.as_ref().map(|kv| {
            self.take_written(&e.key, &kv.value, kv.mod_revision)
                .or_else(|| self.decode(kv))
        });
        let mut s = self.write();
        if e.revision <= s.loaded {
            return;
        }
        let change = if let Some(entry) = current {
            let Some(entry) = entry else { return };
            let previous = s.map.insert(Arc::clone(&entry));
            s.bytes = (s.bytes + entry.json.len())
                .saturating_sub(previous.as_ref().map_or(0, |p| p.json.len()));
            Change {
                revision: e.revision,
                entry,
                previous,
                deleted: false,
                frame: OnceLock::new(),
            }
        } else {
            let Some(previous) = s.map.remove(&e.key) else {
                return;
            };
            s.bytes = s.bytes.saturating_sub(previous.json.len());
            let obj = previous.value();
            let fields = self.codec.fields(&obj);
            let entry = Arc::new(Entry::new(&e.key, &obj, e.revision, fields));
            Change {
                revision: e.revision,
                entry,
                previous: Some(previous),
                deleted: true,
                frame: OnceLock::new(),
            }
        };
        s.ring.bytes += change.entry.size();
        let (change, sequence) = (Arc::new(change), s.ring.end());
        s.ring.events.push_back(Arc::clone(&change));
        let most = RING_BYTES + s.bytes / 8;
        while s.ring.events.len() > RING || (s.ring.bytes > most && s.ring.events.len() > 64) {
            let Some(old) = s.ring.events.pop_front() else {
                break;
            };
            s.ring.bytes = s.ring.bytes.saturating_sub(old.entry.size());
            s.ring.first += 1;
            s.ring.complete_after = old.revision;
        }
        let tail = s.ring.end();
        // Within the lock: nobody sees the change who could not be told of it.
        self.topics().tell(&change, sequence, s.ring.first);
        drop(s);
        self.tail.send_replace(tail);
    }

    /// Number of changes so far: another number means that something changed.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        *self.tail.borrow()
    }
    /// The objects as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.read().map.clone()
    }
    /// Every object, and the last revision that changed one of them: at once, for a change that comes
    /// in between would be in the one and not in the other.
    #[must_use]
    pub fn snapshot_and_revision(&self) -> (Snapshot, u64) {
        let s = self.read();
        let newest = s.ring.events.back();
        (
            s.map.clone(),
            newest.map_or(s.ring.complete_after, |e| e.revision),
        )
    }
    /// One object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().map.get(key)
    }
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().map.len()
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all objects together, as JSON.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.read().bytes
    }

    /// Remembers a snapshot for the following pages of a list.
    pub fn keep_page(&self, revision: u64, snapshot: &Snapshot) {
        let mut s = self.write();
        if s.pages.iter().any(|(r, _)| *r == revision) {
            return;
        }
        if s.pages.len() >= PAGES {
            s.pages.pop_front();
        }
        s.pages.push_back((revision, snapshot.clone()));
    }

    /// The objects as they were at `revision`, if memory still knows.
    #[must_use]
    pub fn snapshot_at(&self, revision: u64) -> Option<Snapshot> {
        let s = self.read();
        let newest = s
            .ring
            .events
            .back()
            .map_or(s.ring.complete_after, |e| e.revision);
        if revision >= newest {
            return Some(s.map.clone());
        }
        s.pages
            .iter()
            .find(|(r, _)| *r == revision)
            .map(|(_, m)| m.clone())
    }

    /// A watcher of every change after `revision`, or of those alone that are of interest.
    ///
    /// # Errors
    /// [`Lag`] if those changes are no longer all known.
    pub fn watch(self: &Arc<Self>, revision: u64, interest: Option<Interest>) -> Result<Watcher, Lag> {
        let s = self.read();
        if revision < s.ring.complete_after {
            return Err(s.ring.lag());
        }
        let skip = s.ring.events.partition_point(|e| e.revision <= revision);
        Ok(self.watcher(&s, s.ring.first + skip as u64, interest))
    }

    /// A snapshot and a watcher of every change after it, or of those alone that are of interest, taken
    /// together.
    #[must_use]
    pub fn snapshot_and_watch(self: &Arc<Self>, interest: Option<Interest>) -> (Snapshot, Watcher) {
        let s = self.read();
        (s.map.clone(), self.watcher(&s, s.ring.end(), interest))
    }

    fn watcher(self: &Arc<Self>, s: &State, next: u64, interest: Option<Interest>) -> Watcher {
        let topic = interest.map(|i| self.topics().topic(i, &s.ring, next));
        let tail = topic.as_ref().map_or_else(|| self.tail.subscribe(), |t| t.subscribe());
        Watcher::new(Arc::clone(self), next, tail, topic)
    }

    fn since(&self, next: u64, topic: Option<&topics::Topic>, out: &mut Vec<Arc<Change>>) -> Result<u64, Lag> {
        let s = self.read();
        if let Some(topic) = topic {
            return topic.since(&s.ring, next, out);
        }
        if next < s.ring.first {
            return Err(s.ring.lag());
        }
        let skip = usize::try_from(next - s.ring.first).unwrap_or(usize::MAX);
        out.extend(s.ring.events.iter().skip(skip).take(512).cloned());
        Ok(next + out.len() as u64)
    }
}
