//! Config maps, secrets, services that pods look at: each watched once, while some pod uses it.
//!
//! Guarantees: [`Sources::config_map`] and [`Sources::secret`] answer from the first list of a
//! watch that is at least as new as the call; when the object changes later, every pod that uses
//! it is told.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret, Service},
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

type Key = (String, String);

/// Objects of one kind, by namespace and name.
struct Kind<K> {
    entries: Mutex<HashMap<Key, Entry<K>>>,
}

struct Entry<K> {
    users: HashSet<String>,
    value: watch::Receiver<Option<Option<Arc<K>>>>,
    task: AbortHandle,
}

impl<K> Default for Kind<K> {
    fn default() -> Self {
        Kind {
            entries: Mutex::default(),
        }
    }
}

/// What the pods of this node look at in the API.
pub struct Sources {
    client: Option<Client>,
    config_maps: Arc<Kind<ConfigMap>>,
    secrets: Arc<Kind<Secret>>,
    services: watch::Sender<Option<Arc<Services>>>,
    changed: mpsc::UnboundedSender<String>,
}

/// What is needed of services: by namespace and name, the address and the ports.
pub type Services = BTreeMap<Key, ServiceFacts>;

/// One service with a cluster address.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFacts {
    /// Cluster IP.
    pub ip: String,
    /// Ports: name, number, protocol.
    pub ports: Vec<(String, i32, String)>,
}

/// An object could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no API server to ask.
    #[error("{kind} \"{name}\" needs an API server")]
    NoServer {
        /// `configmap`, `secret`.
        kind: &'static str,
        /// Which.
        name: String,
    },
    /// It does not exist.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// `configmap`, `secret`.
        kind: &'static str,
        /// Which.
        name: String,
    },
    /// The watch could not be started in time.
    #[error("failed to sync {kind} \"{name}\" cache: timed out waiting for the condition")]
    Timeout {
        /// `configmap`, `secret`.
        kind: &'static str,
        /// Which.
        name: String,
    },
}

impl Sources {
    /// Nothing watched yet. Uids of pods whose sources changed go to `changed`.
    pub fn new(client: Option<Client>, changed: mpsc::UnboundedSender<String>) -> Self {
        Sources {
            client,
            config_maps: Arc::default(),
            secrets: Arc::default(),
            services: watch::Sender::new(None),
            changed,
        }
    }

    /// A config map, for the pod `uid`.
    pub async fn config_map(
        &self,
        uid: &str,
        ns: &str,
        name: &str,
    ) -> Result<Arc<ConfigMap>, SourceError> {
        self.get(&self.config_maps, "configmap", uid, ns, name).await
    }

    /// A secret, for the pod `uid`.
    pub async fn secret(
        &self,
        uid: &str,
        ns: &str,
        name: &str,
    ) -> Result<Arc<Secret>, SourceError> {
        self.get(&self.secrets, "secret", uid, ns, name).await
    }

    async fn get<K>(
        &self,
        kind: &Arc<Kind<K>>,
        word: &'static str,
        uid: &str,
        ns: &str,
        name: &str,
    ) -> Result<Arc<K>, SourceError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let Some(client) = &self.client else {
            return Err(SourceError::NoServer {
                kind: word,
                name: name.into(),
            });
        };
        let mut rx = {
            let mut entries = kind.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries
                .entry((ns.to_owned(), name.to_owned()))
                .or_insert_with(|| {
                    let (tx, rx) = watch::channel(None);
                    let task = tokio::spawn(follow(
                        Arc::clone(kind),
                        Api::<K>::namespaced(client.clone(), ns),
                        (ns.to_owned(), name.to_owned()),
                        tx,
                        self.changed.clone(),
                    ));
                    Entry {
                        users: HashSet::new(),
                        value: rx,
                        task: task.abort_handle(),
                    }
                });
            entry.users.insert(uid.to_owned());
            entry.value.clone()
        };
        let first = rx.wait_for(Option::is_some);
        let value = tokio::time::timeout(std::time::Duration::from_secs(10), first).await;
        match value {
            Ok(Ok(v)) => match v.as_ref() {
                Some(Some(k)) => Ok(Arc::clone(k)),
                _ => Err(SourceError::NotFound {
                    kind: word,
                    name: name.into(),
                }),
            },
            _ => Err(SourceError::Timeout {
                kind: word,
                name: name.into(),
            }),
        }
    }

    /// The pod `uid` is gone: what only it used is no longer watched.
    pub fn release(&self, uid: &str) {
        fn drop_user<K>(kind: &Kind<K>, uid: &str) {
            let mut entries = kind.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.retain(|_, e| {
                if e.users.remove(uid) && e.users.is_empty() {
                    e.task.abort();
                    return false;
                }
                true
            });
        }
        drop_user(&self.config_maps, uid);
        drop_user(&self.secrets, uid);
    }

    /// Services with a cluster address, once they are known; empty without an API server.
    pub async fn services(&self) -> Arc<Services> {
        if self.client.is_none() {
            return Arc::default();
        }
        let mut rx = self.services.subscribe();
        let first = rx.wait_for(Option::is_some);
        match tokio::time::timeout(std::time::Duration::from_secs(10), first).await {
            Ok(Ok(v)) => v.clone().unwrap_or_default(),
            _ => Arc::default(),
        }
    }

    /// Keeps [`Sources::services`] up to date. Never returns.
    pub async fn follow_services(&self) {
        let Some(client) = self.client.clone() else {
            return;
        };
        let api = Api::<Service>::all(client);
        let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut all = Services::new();
        let mut fresh = Services::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => {
                    fresh.clear();
                    continue;
                }
                Ok(watcher::Event::InitApply(s)) => {
                    if let Some((k, v)) = facts(&s) {
                        fresh.insert(k, v);
                    }
                    continue;
                }
                Ok(watcher::Event::InitDone) => all = std::mem::take(&mut fresh),
                Ok(watcher::Event::Apply(s)) => match facts(&s) {
                    Some((k, v)) => {
                        if all.get(&k) == Some(&v) {
                            continue;
                        }
                        all.insert(k, v);
                    }
                    None => {
                        all.remove(&key(&s));
                    }
                },
                Ok(watcher::Event::Delete(s)) => {
                    all.remove(&key(&s));
                }
                Err(error) => {
                    tracing::debug!(%error, "watching services");
                    continue;
                }
            }
            self.services.send_replace(Some(Arc::new(all.clone())));
        }
    }
}

fn key(s: &Service) -> Key {
    (
        s.metadata.namespace.clone().unwrap_or_default(),
        s.metadata.name.clone().unwrap_or_default(),
    )
}

fn facts(s: &Service) -> Option<(Key, ServiceFacts)> {
    let spec = s.spec.as_ref()?;
    let ip = spec
        .cluster_ip
        .clone()
        .filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec
        .ports
        .iter()
        .flatten()
        .map(|p| {
            (
                p.name.clone().unwrap_or_default(),
                p.port,
                p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            )
        })
        .collect();
    Some((key(s), ServiceFacts { ip, ports }))
}

/// Watches one object into `tx`; tells its users when it changes.
async fn follow<K>(
    kind: Arc<Kind<K>>,
    api: Api<K>,
    key: Key,
    tx: watch::Sender<Option<Option<Arc<K>>>>,
    changed: mpsc::UnboundedSender<String>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut fresh = None;
    while let Some(event) = stream.next().await {
        let value = match event {
            Ok(watcher::Event::Init) => {
                fresh = None;
                continue;
            }
            Ok(watcher::Event::InitApply(k)) => {
                fresh = Some(Arc::new(k));
                continue;
            }
            Ok(watcher::Event::InitDone) => fresh.take(),
            Ok(watcher::Event::Apply(k)) => Some(Arc::new(k)),
            Ok(watcher::Event::Delete(_)) => None,
            Err(error) => {
                tracing::debug!(%error, namespace = key.0, name = key.1, "watching an object");
                continue;
            }
        };
        let version = |v: &Option<Arc<K>>| {
            v.as_ref()
                .and_then(|k| k.meta().resource_version.clone())
        };
        let first = tx.borrow().is_none();
        let same = !first && tx.borrow().as_ref().map(version) == Some(version(&value));
        tx.send_replace(Some(value));
        if first || same {
            continue;
        }
        let users: Vec<String> = {
            let entries = kind.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries
                .get(&key)
                .map(|e| e.users.iter().cloned().collect())
                .unwrap_or_default()
        };
        for uid in users {
            let _ = changed.send(uid);
        }
    }
}
