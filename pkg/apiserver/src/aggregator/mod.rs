//! API aggregation: group versions that other servers serve, as APIServices say.
//!
//! A task for each APIService with a service keeps its condition `Available` right and its
//! discovery and OpenAPI documents fresh; requests for its group version are passed on, after
//! authorization, with the user in headers.

mod backend;
mod discovery;
mod documents;
mod proxy;
mod register;
mod status;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use knarr_registry::{Change, Entry, Object, cache::Watcher};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::core::Core;

pub use backend::ProxyClient;
pub use proxy::serve;
pub use register::builtin;

/// The key prefix of APIServices.
pub const KIND: &str = "apiregistration.k8s.io/apiservices";

/// A group version that another server serves.
pub struct Remote {
    /// The APIService's name.
    pub name: String,
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// The group's place among all.
    pub group_priority: i64,
    /// The version's place in its group.
    pub version_priority: i64,
    /// The way to it.
    pub backend: backend::Backend,
    /// Whether requests are passed on.
    available: AtomicBool,
    /// What it says about itself.
    documents: RwLock<Arc<documents::Documents>>,
    spec: Value,
    wake: Notify,
    gone: CancellationToken,
}

impl Remote {
    /// Its documents as last read.
    pub fn documents(&self) -> Arc<documents::Documents> {
        Arc::clone(&self.documents.read().unwrap_or_else(PoisonError::into_inner))
    }
    /// Whether its last check has passed.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }
}

/// All group versions of other servers, by `group/version`.
pub type Remotes = HashMap<String, Arc<Remote>>;

/// What the server knows about aggregated ones.
pub struct Aggregator {
    remotes: RwLock<Arc<Remotes>>,
    client: Option<ProxyClient>,
    /// Held while the set is changed.
    changing: Mutex<()>,
}

impl Aggregator {
    /// With the client certificate that aggregated servers know.
    #[must_use]
    pub fn new(client: Option<ProxyClient>) -> Self {
        Self { remotes: RwLock::default(), client, changing: Mutex::new(()) }
    }
    /// The group versions of other servers.
    #[must_use]
    pub fn remotes(&self) -> Arc<Remotes> {
        Arc::clone(&self.remotes.read().unwrap_or_else(PoisonError::into_inner))
    }
    /// Who serves a path, if another server does.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let all = self.remotes();
        if all.is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|p| !p.is_empty());
        match parts.next()? {
            "apis" => all.get(&format!("{}/{}", parts.next()?, parts.next()?)).cloned(),
            "api" => all.get(&format!("/{}", parts.next()?)).cloned(),
            _ => None,
        }
    }
}

fn available(v: &Value) -> bool {
    v.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Available" && c["status"] == "True")
}

/// Makes the set of remotes fit the APIServices, starting and ending their tasks.
fn arrange(core: &Arc<Core>) {
    let Ok(kind) = core.kind(KIND) else { return };
    let _one = core.aggregator.changing.lock().unwrap_or_else(PoisonError::into_inner);
    let old = core.aggregator.remotes();
    let mut next = Remotes::new();
    for e in kind.cache.snapshot().range("") {
        let v = e.value();
        if v.at(&["spec", "service"]).is_none() {
            continue;
        }
        let (group, version) = (v.str_at(&["spec", "group"]).to_owned(), v.str_at(&["spec", "version"]).to_owned());
        let key = format!("{group}/{version}");
        if let Some(r) = old.get(&key).filter(|r| r.spec == v["spec"]) {
            r.wake.notify_one();
            next.insert(key, Arc::clone(r));
            continue;
        }
        let number = |f: &str| v.at(&["spec", f]).and_then(Value::as_i64).unwrap_or(0);
        let same = old.get(&key).filter(|r| r.spec["service"] == v["spec"]["service"]);
        let r = Arc::new(Remote {
            name: v.name().to_owned(),
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            backend: backend::Backend::new(&v["spec"], core.aggregator.client.as_ref()),
            available: AtomicBool::new(available(&v)),
            documents: RwLock::new(same.map(|r| r.documents()).unwrap_or_default()),
            spec: v["spec"].clone(),
            wake: Notify::new(),
            gone: core.stop.child_token(),
            group,
            version,
        });
        tokio::spawn(look_after(Arc::clone(core), Arc::clone(&r)));
        next.insert(key, r);
    }
    for (key, r) in old.iter() {
        if next.get(key).is_none_or(|n| !Arc::ptr_eq(n, r)) {
            r.gone.cancel();
        }
    }
    let different = old.len() != next.len() || next.iter().any(|(k, r)| old.get(k).is_none_or(|o| !Arc::ptr_eq(o, r)));
    if different {
        *core.aggregator.remotes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

/// Checks one aggregated server until its APIService is gone or another one.
async fn look_after(core: Arc<Core>, r: Arc<Remote>) {
    let mut failures = 0_u32;
    loop {
        let work = async {
            let found = status::check(&core, &r).await;
            let passed = found.passed();
            let was = r.available.load(Ordering::Acquire);
            match status::write(&core, &r, &found).await {
                Ok(()) => {}
                Err(e) if e.is_not_found() => return None,
                Err(error) => tracing::debug!(%error, name = r.name, "the condition of an APIService is not written"),
            }
            r.available.store(passed, Ordering::Release);
            if was != passed && !passed {
                r.backend.hang_up();
            }
            documents::refresh(&core, &r, passed).await;
            Some(passed)
        };
        let passed = tokio::select! {
            p = work => p,
            () = r.gone.cancelled() => return,
        };
        failures = if passed == Some(true) { 0 } else { (failures + 1).min(7) };
        let pause = if failures == 0 { Duration::from_secs(30) } else { Duration::from_millis(250) * 2_u32.pow(failures) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = r.wake.notified() => {}
            () = r.gone.cancelled() => return,
        }
    }
}

/// Wakes those whose service a change is about.
fn touch(core: &Core, changes: &[Arc<Change>], service: impl Fn(&Entry) -> Option<String>) {
    let all = core.aggregator.remotes();
    for c in changes {
        let Some(name) = service(&c.entry) else { continue };
        for r in all.values() {
            let (ns, svc, _) = r.backend.service();
            if ns == &*c.entry.namespace && svc == name {
                r.wake.notify_one();
            }
        }
    }
}

async fn next(w: &mut Option<Watcher>) -> Option<Vec<Arc<Change>>> {
    match w {
        Some(w) => w.next().await.ok(),
        None => std::future::pending().await,
    }
}

/// Follows APIServices, and the services and endpoints behind them.
pub async fn follow(core: Arc<Core>) {
    let (Ok(own), Ok(services), Ok(slices)) = (core.kind(KIND), core.kind("services/specs"), core.kind("endpointslices")) else { return };
    loop {
        let (_, mut own) = own.cache.snapshot_and_watch(None);
        let (_, services) = services.cache.snapshot_and_watch(None);
        let (_, slices) = slices.cache.snapshot_and_watch(None);
        let (mut services, mut slices) = (Some(services), Some(slices));
        arrange(&core);
        // A reader that has fallen behind begins anew.
        loop {
            let idle = core.aggregator.remotes().is_empty();
            tokio::select! {
                r = own.next() => match r {
                    Ok(_) => {
                        let was = idle;
                        arrange(&core);
                        if was && !core.aggregator.remotes().is_empty() {
                            break;
                        }
                    }
                    Err(_) => break,
                },
                c = next(&mut services), if !idle => match c {
                    Some(c) => touch(&core, &c, |e| Some(e.name.to_string())),
                    None => break,
                },
                c = next(&mut slices), if !idle => match c {
                    Some(c) => touch(&core, &c, |e| e.label("kubernetes.io/service-name").map(str::to_owned)),
                    None => break,
                },
                () = core.stop.cancelled() => return,
            }
        }
    }
}

/// Keeps the APIServices of custom resources.
pub async fn follow_custom(core: Arc<Core>) {
    let mut seen = 0;
    let mut table = core.table_changes.subscribe();
    loop {
        let generation = core.table().generation;
        if generation != seen {
            match register::custom(&core).await {
                Ok(()) => seen = generation,
                Err(error) => tracing::debug!(%error, "APIServices of custom resources are not written"),
            }
        }
        tokio::select! {
            r = table.changed() => if r.is_err() { return },
            () = core.stop.cancelled() => return,
        }
        // Definitions come in crowds.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Adds the group versions of other servers to a discovery document.
pub use discovery::{aggregated, group, group_list};
pub use documents::{merge_v2, merge_v3_index, tag};
