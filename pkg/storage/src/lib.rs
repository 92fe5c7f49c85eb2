//! Two stores behind one trait: the embedded engine and etcd.
//!
//! A store is an ordered map from key to value with one revision counter for the whole map, as
//! etcd v3 defines it. Keys and values are those that upstream's kube-apiserver writes.
//!
//! Guarantees every implementation gives:
//! - A write that returned `Ok` is on stable storage.
//! - Revisions are strictly increasing; each write has a revision of its own.
//! - A watch delivers every event with a revision from its start on, once and in revision order,
//!   or it ends with [`Error::Compacted`] or another error. It never skips.

mod embedded;
mod etcd;

use std::{path::Path, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::Stream;

/// The store's logical clock. `0` means "now" where a revision is optional.
pub type Revision = u64;

/// A stored pair and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, e.g. `/registry/pods/default/web`.
    pub key: String,
    /// The value as the caller wrote it.
    pub value: Bytes,
    /// The revision that created the key (a deletion starts a new life).
    pub create_revision: Revision,
    /// The revision of the last write.
    pub mod_revision: Revision,
    /// The lease the key is bound to; `0` is none.
    pub lease: i64,
}

/// What a range read returns.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Pairs in key order.
    pub items: Vec<KeyValue>,
    /// The revision the read was made at.
    pub revision: Revision,
    /// Whether the limit cut the answer short.
    pub more: bool,
    /// How many keys the whole range has at that revision.
    pub count: u64,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key that changed.
    pub key: String,
    /// The new pair; `None` is a deletion.
    pub current: Option<KeyValue>,
    /// The pair before the change; `None` is a creation.
    pub previous: Option<KeyValue>,
    /// The revision of the change.
    pub revision: Revision,
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// Events in revision order.
    Events(Vec<Event>),
    /// Every event up to this revision has been delivered.
    Progress(Revision),
}

/// A running watch; dropping it ends it.
pub type Watch = Pin<Box<dyn Stream<Item = Result<WatchItem, Error>> + Send>>;

/// What a compare-and-swap found.
#[derive(Clone, Debug)]
pub enum Swap {
    /// The write was made at this revision.
    Done(Revision),
    /// The key's `mod_revision` was another than expected; the pair as it is now (`None`: absent).
    Conflict(Option<KeyValue>),
}

/// Why a store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The revision asked for is older than the compaction.
    #[error("required revision {requested} has been compacted (oldest is {compacted})")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The revision compacted to.
        compacted: Revision,
    },
    /// The revision asked for lies in the future.
    #[error("required revision {requested} is a future revision (now {current})")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// The disk or the peer failed; the write may or may not have been made.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The data folder is damaged or of a newer version.
    #[error("data at {path} is unusable: {reason}")]
    Corrupt {
        /// The file or folder.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// The one boundary between the API machinery and what keeps its data.
///
/// All methods are cancellation safe: a dropped future leaves the write either made or not made.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys in `[start, end)` (`end` `None`: only `start`) at `revision` (`0`: now,
    /// linearizable). `limit` `0` is no limit.
    async fn range(
        &self,
        start: &str,
        end: Option<&str>,
        limit: u64,
        revision: Revision,
    ) -> Result<Range, Error>;

    /// Writes `value` if the key's `mod_revision` is `expected` (`0`: the key must be absent).
    /// `lease` `0` is none.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: i64,
    ) -> Result<Swap, Error>;

    /// Deletes the key if its `mod_revision` is `expected`.
    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, Error>;

    /// Watches keys with `prefix` for changes with a revision of at least `from` (`0`: from now).
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error>;

    /// Whether the value of a key is held in another form than it would be written in now, so that
    /// writing it again changes something though it is the same.
    async fn stale(&self, key: &str) -> Result<bool, Error> {
        let _ = key;
        Ok(false)
    }

    /// Grants a lease of `ttl` seconds; its keys are deleted when it ends.
    async fn lease(&self, ttl: i64) -> Result<i64, Error>;

    /// Forgets history up to and including `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// The current revision, linearizable.
    async fn revision(&self) -> Result<Revision, Error>;

    /// Asks every running watch for a [`WatchItem::Progress`] of at least the revision that is
    /// current now, once it has delivered all before it.
    async fn request_progress(&self) -> Result<(), Error>;
}

/// A store shared by everything in the process.
pub type SharedStore = Arc<dyn Store>;

/// The end of the range of all keys that begin with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &str) -> String {
    // Keys are ASCII paths, so the last byte can always be raised.
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    String::from_utf8(end).unwrap_or_default()
}

/// Opens the embedded engine in `dir`, creating it if it is empty.
///
/// # Errors
/// [`Error::Corrupt`] if the folder holds damaged data or data of a newer version;
/// [`Error::Unavailable`] if it cannot be read or written or another process has it open.
pub async fn open_embedded(dir: &Path) -> Result<SharedStore, Error> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || embedded::Engine::open(&dir))
        .await
        .map_err(|e| Error::Unavailable(e.to_string()))?
        .map(|engine| Arc::new(engine) as SharedStore)
}

/// A store with no disk under it, for tests: durable as long as the process.
///
/// # Errors
/// [`Error::Unavailable`] if its thread cannot be started.
pub fn open_memory() -> Result<SharedStore, Error> {
    embedded::Engine::memory().map(|engine| Arc::new(engine) as SharedStore)
}

/// How to reach an etcd cluster.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// Client URLs, `http://` or `https://`.
    pub endpoints: Vec<String>,
    /// PEM of the authorities that etcd's certificate must come from.
    pub ca: Option<Vec<u8>>,
    /// PEM certificate and key to present.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// What keys begin with there instead of `/registry`; empty: `/registry`.
    pub prefix: String,
}

/// Connects to etcd v3.
///
/// # Errors
/// [`Error::Unavailable`] if no endpoint answers.
pub async fn open_etcd(config: &EtcdConfig) -> Result<SharedStore, Error> {
    etcd::Etcd::connect(config)
        .await
        .map(|s| Arc::new(s) as SharedStore)
}
