//! Encryption at rest: a store over another one that holds some resources' values encrypted, in
//! kube-apiserver's envelopes: `k8s:enc:CIPHER:v1:KEY:` and `k8s:enc:kms:v2:NAME:`.
//!
//! # Guarantees
//! What is written is encrypted by the first provider of its resource; what is read may be of any of
//! them. Another configuration is in force as a whole, or not at all.

mod ciphers;
mod config;
mod kms;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use knarr_storage::{Error, Event, KeyValue, Range, Revision, SharedStore, Store, Swap, Watch, WatchItem};

use self::{
    ciphers::{Cbc, Gcm, Secretbox},
    kms::Kms,
};
use crate::reload::{self, Reloads};

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";
/// How long a server that starts waits for key management services.
const START: Duration = Duration::from_secs(60);
/// How long services of another configuration are waited for at least.
const CHANGE: Duration = Duration::from_secs(10);

/// One way to write values, and to read them. A value names its key by what it begins with.
enum Provider {
    /// As they are.
    Identity,
    /// AES-GCM.
    Gcm { prefix: Vec<u8>, key: Gcm },
    /// AES-CBC.
    Cbc { prefix: Vec<u8>, key: Cbc },
    /// NaCl's secret box.
    Secretbox { prefix: Vec<u8>, key: Secretbox },
    /// By keys that a service keeps.
    Kms(Arc<Kms>),
}

impl Provider {
    fn prefix(&self) -> &[u8] {
        match self {
            Self::Identity => &[],
            Self::Gcm { prefix, .. } | Self::Cbc { prefix, .. } | Self::Secretbox { prefix, .. } => prefix,
            Self::Kms(kms) => &kms.prefix,
        }
    }

    /// Whether it wrote a value.
    fn wrote(&self, value: &[u8]) -> bool {
        match self {
            Self::Identity => !value.starts_with(MARK),
            _ => value.starts_with(self.prefix()),
        }
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, Error> {
        let failed = |why: String| Error::Unavailable(format!("{key} cannot be encrypted: {why}"));
        let sealed = match self {
            Self::Identity => return Ok(value),
            Self::Gcm { key: secret, .. } => secret.seal(&value, key.as_bytes()),
            Self::Cbc { key: secret, .. } => secret.seal(&value),
            Self::Secretbox { key: secret, .. } => secret.seal(&value),
            Self::Kms(kms) => return kms.seal(&value, key.as_bytes()).map(Bytes::from).map_err(failed),
        };
        Ok([self.prefix(), &sealed.map_err(|e| failed(e.to_string()))?].concat().into())
    }

    async fn open(&self, key: &str, value: Bytes) -> Result<Bytes, Error> {
        let rest = value.get(self.prefix().len()..).unwrap_or_default();
        let corrupt = |reason: String| Error::Corrupt { path: key.to_owned(), reason };
        let plain = match self {
            Self::Identity => return Ok(value),
            Self::Gcm { key: secret, .. } => secret.open(rest, key.as_bytes()),
            Self::Cbc { key: secret, .. } => secret.open(rest),
            Self::Secretbox { key: secret, .. } => secret.open(rest),
            Self::Kms(kms) => {
                return kms.open(rest, key.as_bytes()).await.map(Bytes::from).map_err(|(why, later)| {
                    if later { Error::Unavailable(format!("{key} cannot be decrypted: {why}")) } else { corrupt(why) }
                });
            }
        };
        plain.map(Bytes::from).map_err(|e| corrupt(e.to_string()))
    }
}

/// What happens to the values of some keys.
struct Rule {
    /// What keys begin with; empty is every key.
    prefixes: Vec<String>,
    /// The first one writes.
    providers: Vec<Provider>,
}

/// The rules of an EncryptionConfiguration; of several for a key the first counts.
struct Rules(Vec<Rule>);

impl Rules {
    fn of(&self, key: &str) -> Option<&Rule> {
        self.0.iter().find(|r| r.prefixes.iter().any(|p| key.starts_with(p.as_str())))
    }

    fn writer(&self, key: &str) -> Option<&Provider> {
        self.of(key).and_then(|r| r.providers.first())
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, Error> {
        self.writer(key).map_or(Ok(value.clone()), |p| p.seal(key, value))
    }

    async fn open(&self, key: &str, value: Bytes) -> Result<Bytes, Error> {
        let unusable = |reason: &str| Error::Corrupt { path: key.to_owned(), reason: reason.to_owned() };
        let encrypted = value.starts_with(MARK);
        let Some(rule) = self.of(key) else {
            return if encrypted { Err(unusable("it is encrypted, and the configuration does not name its resource")) } else { Ok(value) };
        };
        match rule.providers.iter().find(|p| p.wrote(&value)) {
            Some(p) => p.open(key, value).await,
            None if encrypted => Err(unusable("no key of the configuration is the one it was encrypted with")),
            None => Err(unusable("it is not encrypted, and the configuration does not allow that")),
        }
    }

    /// Whether a value was written in another way than it would be now.
    fn stale(&self, key: &str, value: &[u8]) -> bool {
        match self.writer(key) {
            None => false,
            Some(Provider::Kms(kms)) => value.strip_prefix(kms.prefix.as_slice()).is_none_or(|rest| kms.stale(rest)),
            Some(p) => !p.wrote(value),
        }
    }

    async fn pair(&self, kv: KeyValue) -> Result<KeyValue, Error> {
        let value = self.open(&kv.key, kv.value).await?;
        Ok(KeyValue { value, ..kv })
    }

    async fn event(&self, mut e: Event) -> Result<Event, Error> {
        for side in [&mut e.current, &mut e.previous] {
            if let Some(kv) = side.take() {
                *side = Some(self.pair(kv).await?);
            }
        }
        Ok(e)
    }

    fn services(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.0.iter().flat_map(|r| &r.providers).filter_map(|p| if let Provider::Kms(k) = p { Some(k) } else { None })
    }

    /// Whether all key management services are well.
    async fn health(&self) -> Result<(), String> {
        for s in self.services() {
            s.health().await?;
        }
        Ok(())
    }

    /// Waits until they are, for some time at most.
    async fn well(&self, within: Duration) -> Result<(), String> {
        let begin = tokio::time::Instant::now();
        loop {
            match self.health().await {
                Ok(()) => return Ok(()),
                Err(why) if begin.elapsed() >= within => return Err(why),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }
}

/// Encryption as an EncryptionConfiguration says, which may change.
pub struct Encryption {
    rules: RwLock<Arc<Rules>>,
    /// Whether it may change.
    changes: bool,
    reloads: Arc<Reloads>,
}

impl Encryption {
    /// Reads a configuration, and waits for the key management services it names. `changes` if
    /// another one may be put in force.
    ///
    /// # Errors
    /// All that is wrong with it, or which service does not answer.
    pub async fn open(configuration: &str, changes: bool) -> Result<Arc<Self>, String> {
        let rules = Rules(config::parse(configuration)?);
        rules.well(START).await?;
        rules.services().for_each(Kms::follow);
        Ok(Arc::new(Self { rules: RwLock::new(Arc::new(rules)), changes, reloads: Arc::default() }))
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another configuration in force, once its key management services are well.
    ///
    /// # Errors
    /// What is wrong with it; the one before stays in force then.
    pub async fn change(&self, configuration: &str) -> Result<(), String> {
        let rules = Rules(config::parse(configuration)?);
        let slowest: Duration = rules.services().map(|s| s.timeout()).sum();
        rules.well(slowest.max(CHANGE)).await?;
        rules.services().for_each(Kms::follow);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        Ok(())
    }

    /// Looks at the configuration's file every `every` and puts it in force when it has changed.
    pub fn follow(self: &Arc<Self>, path: PathBuf, every: Duration) {
        let weak = Arc::downgrade(self);
        reload::follow("encryption", path, every, Arc::clone(&self.reloads), move |text| {
            let weak = weak.clone();
            Box::pin(async move { Some(weak.upgrade()?.change(&text).await) })
        });
    }

    /// A store that holds its values encrypted in another one.
    #[must_use]
    pub fn over(self: &Arc<Self>, inner: SharedStore) -> SharedStore {
        Arc::new(Encrypted { inner, encryption: Arc::clone(self) })
    }

    /// Whether there is a health check `kms-providers`, and how it is.
    pub async fn health(&self) -> Option<Result<(), String>> {
        let rules = self.rules();
        (self.changes || rules.services().next().is_some()).then_some(())?;
        Some(rules.health().await)
    }

    /// How often its file was read again.
    #[must_use]
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }
}

/// The store.
struct Encrypted {
    inner: SharedStore,
    encryption: Arc<Encryption>,
}

impl Encrypted {
    async fn conflict(&self, swap: Swap) -> Result<Swap, Error> {
        Ok(match swap {
            Swap::Conflict(Some(kv)) => Swap::Conflict(Some(self.encryption.rules().pair(kv).await?)),
            other => other,
        })
    }
}

#[async_trait::async_trait]
impl Store for Encrypted {
    async fn range(&self, start: &str, end: Option<&str>, limit: u64, revision: Revision) -> Result<Range, Error> {
        let mut r = self.inner.range(start, end, limit, revision).await?;
        let rules = self.encryption.rules();
        for kv in &mut r.items {
            kv.value = rules.open(&kv.key, std::mem::take(&mut kv.value)).await?;
        }
        Ok(r)
    }
    async fn put(&self, key: &str, value: Bytes, expected: Revision, lease: i64) -> Result<Swap, Error> {
        let sealed = self.encryption.rules().seal(key, value)?;
        self.conflict(self.inner.put(key, sealed, expected, lease).await?).await
    }
    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, Error> {
        self.conflict(self.inner.delete(key, expected).await?).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let encryption = Arc::clone(&self.encryption);
        let events = self.inner.watch(prefix, from).await?;
        Ok(Box::pin(events.then(move |item| {
            let rules = encryption.rules();
            async move {
                match item? {
                    WatchItem::Events(all) => {
                        let mut out = Vec::with_capacity(all.len());
                        for e in all {
                            out.push(rules.event(e).await?);
                        }
                        Ok(WatchItem::Events(out))
                    }
                    progress @ WatchItem::Progress(_) => Ok(progress),
                }
            }
        })))
    }
    async fn stale(&self, key: &str) -> Result<bool, Error> {
        let r = self.inner.range(key, None, 1, 0).await?;
        let rules = self.encryption.rules();
        Ok(r.items.first().is_some_and(|kv| rules.stale(&kv.key, &kv.value)))
    }
    async fn lease(&self, ttl: i64) -> Result<i64, Error> {
        self.inner.lease(ttl).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }
    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }
}
