//! The garbage collector: what is owned goes when its owners are gone.
//!
//! A graph of all objects' owners is kept from metadata-only watches over every kind the API
//! serves. An owner that was named but never seen is a virtual node until a read of the API says
//! whether it is there.

mod graph;

use crate::discovery::{Resource, discover};
use graph::{Graph, Ident, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use knarr_runner::{Delta, HasMeta, Informers, Queue, Source, message, meta, reflect};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// An object of which only the metadata is kept.
#[derive(serde::Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: ObjectMeta,
}

impl HasMeta for Partial {
    fn m(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn m_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

struct Collector {
    informers: Informers,
    graph: Mutex<Graph>,
    delete: Queue<String>,
    orphan: Queue<String>,
    /// (group, kind) -> resource.
    kinds: Mutex<HashMap<(String, String), Arc<Resource>>>,
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(g, _)| g)
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let k = (group_of(api_version).to_owned(), kind.to_owned());
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&k).cloned()
    }

    fn seen(&self, r: &Arc<Resource>, m: &ObjectMeta) {
        let finalizer = |f: &str| m.finalizers.iter().flatten().any(|x| x == f);
        let deleting = meta::deleting(m);
        let node = Node {
            ident: Ident {
                resource: r.clone(),
                namespace: meta::ns(m).to_owned(),
                name: meta::name(m).to_owned(),
            },
            owners: m.owner_references.clone().unwrap_or_default(),
            dependents: HashSet::new(),
            deleting,
            foreground: deleting && finalizer(FOREGROUND),
            is_virtual: false,
        };
        let uid = meta::uid(m).to_owned();
        let orphaning = deleting && finalizer(ORPHAN);
        let foreground = node.foreground;
        let (check, virtuals) = self.graph().put(&uid, node, |o| self.guess(r, m, o));
        for v in virtuals {
            self.delete.add(v);
        }
        if orphaning {
            self.orphan.add(uid.clone());
        }
        if foreground {
            let dependents = self.graph().dependents(&uid);
            for d in dependents {
                self.delete.add(d);
            }
            self.delete.add(uid);
        } else if check {
            self.delete.add(uid);
        }
    }

    /// Where an owner that was never seen would be.
    fn guess(&self, r: &Resource, m: &ObjectMeta, o: &OwnerReference) -> Ident {
        let known = self.resource(&o.api_version, &o.kind);
        let namespaced = known.as_ref().is_some_and(|k| k.namespaced);
        let _ = r;
        Ident {
            resource: known.unwrap_or_else(|| {
                Arc::new(Resource {
                    group: group_of(&o.api_version).to_owned(),
                    version: o.api_version.rsplit('/').next().unwrap_or("").to_owned(),
                    plural: String::new(),
                    kind: o.kind.clone(),
                    namespaced: true,
                    verbs: Vec::new(),
                })
            }),
            namespace: if namespaced { meta::ns(m).to_owned() } else { String::new() },
            name: o.name.clone(),
        }
    }

    fn gone(&self, uid: &str) {
        let (dependents, owners) = self.graph().remove(uid);
        for d in dependents {
            self.delete.add(d);
        }
        for o in owners {
            self.delete.add(o);
        }
    }

    async fn live(&self, i: &Ident) -> Result<Option<ObjectMeta>, kube::Error> {
        if i.resource.plural.is_empty() {
            // A kind that is not served: no proof that the owner is gone.
            return Err(kube::Error::Service("the owner's kind is not served".into()));
        }
        let req = http::Request::get(format!("{}/{}", i.resource.path(&i.namespace), i.name))
            .header("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json")
            .body(Vec::new())
            .map_err(|e| kube::Error::Service(Box::new(e)))?;
        match self.informers.client().request::<Partial>(req).await {
            Ok(p) => Ok(Some(p.metadata)),
            Err(e) if knarr_runner::is_not_found(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn patch(&self, i: &Ident, patch: &Value) -> Result<(), kube::Error> {
        let req = http::Request::patch(format!("{}/{}", i.resource.path(&i.namespace), i.name))
            .header("content-type", "application/merge-patch+json")
            .header("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json")
            .body(serde_json::to_vec(patch).map_err(kube::Error::SerdeError)?)
            .map_err(|e| kube::Error::Service(Box::new(e)))?;
        match self.informers.client().request_text(req).await {
            Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn remove_finalizer(&self, i: &Ident, uid: &str, f: &str) -> Result<(), kube::Error> {
        let Some(m) = self.live(i).await? else { return Ok(()) };
        if meta::uid(&m) != uid {
            return Ok(());
        }
        let left: Vec<&String> = m.finalizers.iter().flatten().filter(|x| *x != f).collect();
        if m.finalizers.as_ref().is_none_or(|all| all.len() == left.len()) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": m.resource_version, "finalizers": left }});
        self.patch(i, &patch).await
    }

    async fn drop_owners(
        &self,
        i: &Ident,
        uid: &str,
        doomed: &HashSet<String>,
    ) -> Result<(), kube::Error> {
        let Some(m) = self.live(i).await? else { return Ok(()) };
        let left: Vec<&OwnerReference> =
            m.owner_references.iter().flatten().filter(|o| !doomed.contains(&o.uid)).collect();
        if meta::uid(&m) != uid
            || m.owner_references.as_ref().is_none_or(|all| all.len() == left.len())
        {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": uid, "resourceVersion": m.resource_version, "ownerReferences": left }});
        self.patch(i, &patch).await
    }

    /// Lets all owners of an object go without it, so that a circle of owners that wait for one
    /// another comes apart.
    async fn unblock(&self, i: &Ident, uid: &str) -> Result<(), kube::Error> {
        let Some(m) = self.live(i).await? else { return Ok(()) };
        let mut owners = m.owner_references.clone().unwrap_or_default();
        if meta::uid(&m) != uid || owners.iter().all(|o| o.block_owner_deletion != Some(true)) {
            return Ok(());
        }
        for o in &mut owners {
            o.block_owner_deletion = Some(false);
        }
        let patch = json!({"metadata": {
            "uid": uid, "resourceVersion": m.resource_version, "ownerReferences": owners }});
        self.patch(i, &patch).await
    }

    /// Orphans the dependents of an object being deleted, then lets it go.
    async fn process_orphan(&self, uid: &str) -> Result<(), kube::Error> {
        let Some(node) = self.graph().get(uid).cloned() else { return Ok(()) };
        let only = HashSet::from([uid.to_owned()]);
        let dependents = self.graph().dependents(uid);
        for d in dependents {
            let ident = self.graph().get(&d).map(|n| n.ident.clone());
            if let Some(i) = ident {
                self.drop_owners(&i, &d, &only).await?;
            }
        }
        self.remove_finalizer(&node.ident, uid, ORPHAN).await
    }

    /// Looks whether an object must go.
    async fn process(&self, uid: &str) -> Result<(), kube::Error> {
        let Some(node) = self.graph().get(uid).cloned() else { return Ok(()) };
        if node.is_virtual {
            return match self.live(&node.ident).await? {
                Some(m) if meta::uid(&m) == uid => Ok(()),
                _ => {
                    self.gone(uid);
                    Ok(())
                }
            };
        }
        if node.foreground {
            return self.process_foreground(uid, &node).await;
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(());
        }
        let (mut solid, mut dangling, mut waiting) = (0, HashSet::new(), HashSet::new());
        for o in &node.owners {
            let known = self.graph().get(&o.uid).cloned();
            match known {
                Some(n) if !n.is_virtual => {
                    if n.foreground && o.block_owner_deletion == Some(true) {
                        waiting.insert(o.uid.clone());
                    } else {
                        solid += 1;
                    }
                }
                _ => {
                    let at = known.map(|n| n.ident).unwrap_or_else(|| {
                        let m = ObjectMeta {
                            namespace: Some(node.ident.namespace.clone()),
                            ..ObjectMeta::default()
                        };
                        self.guess(&node.ident.resource, &m, o)
                    });
                    match self.live(&at).await? {
                        Some(m) if meta::uid(&m) == o.uid => solid += 1,
                        _ => {
                            dangling.insert(o.uid.clone());
                        }
                    }
                }
            }
        }
        if solid > 0 {
            if dangling.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            dangling.extend(waiting);
            return self.drop_owners(&node.ident, uid, &dangling).await;
        }
        let policy = if !waiting.is_empty() && !node.dependents.is_empty() {
            if self.graph().circular(uid) {
                self.unblock(&node.ident, uid).await?;
            }
            Some("Foreground")
        } else {
            None
        };
        self.delete_object(&node.ident, uid, policy).await
    }

    async fn process_foreground(&self, uid: &str, node: &Node) -> Result<(), kube::Error> {
        let blocking: Vec<(String, bool)> = {
            let g = self.graph();
            node.dependents
                .iter()
                .filter_map(|d| g.get(d).map(|n| (d, n)))
                .filter(|(_, n)| {
                    n.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
                })
                .map(|(d, n)| (d.clone(), n.foreground))
                .collect()
        };
        if blocking.is_empty() {
            return self.remove_finalizer(&node.ident, uid, FOREGROUND).await;
        }
        for (d, foreground) in blocking {
            if !foreground {
                self.delete.add(d);
            }
        }
        Ok(())
    }

    async fn delete_object(
        &self,
        i: &Ident,
        uid: &str,
        policy: Option<&str>,
    ) -> Result<(), kube::Error> {
        let Some(m) = self.live(i).await? else {
            self.gone(uid);
            return Ok(());
        };
        if meta::uid(&m) != uid {
            self.gone(uid);
            return Ok(());
        }
        let has = |f: &str| m.finalizers.iter().flatten().any(|x| x == f);
        let policy = policy.unwrap_or(if has(ORPHAN) {
            "Orphan"
        } else if has(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        });
        let body = json!({"apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": m.resource_version},
            "propagationPolicy": policy});
        let req = http::Request::delete(format!("{}/{}", i.resource.path(&i.namespace), i.name))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?)
            .map_err(|e| kube::Error::Service(Box::new(e)))?;
        tracing::debug!(kind = %i.resource.kind, name = %i.name, policy, "collecting");
        match self.informers.client().request_text(req).await {
            Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn worker(self: Arc<Self>) {
        loop {
            let (uid, orphan) = tokio::select! {
                u = self.delete.get() => (u, false),
                u = self.orphan.get() => (u, true),
            };
            let (queue, result) = if orphan {
                (&self.orphan, self.process_orphan(&uid).await)
            } else {
                (&self.delete, self.process(&uid).await)
            };
            match result {
                Ok(()) => queue.forget(&uid),
                Err(e) => {
                    tracing::trace!(%uid, error = %message(&e), "collecting failed");
                    queue.add_rate_limited(uid.clone());
                }
            }
            queue.done(&uid);
        }
    }

    fn delta(&self, r: &Arc<Resource>, listing: &mut Option<HashSet<String>>, d: Delta<Partial>) {
        match d {
            Delta::Restart => *listing = Some(HashSet::new()),
            Delta::Init(o) => {
                if let Some(l) = listing {
                    l.insert(meta::uid(&o.metadata).to_owned());
                }
                self.seen(r, &o.metadata);
            }
            Delta::InitDone(_) => {
                let named = listing.take().unwrap_or_default();
                let lost = self.graph().of_resource(r, &named);
                for u in lost {
                    self.gone(&u);
                }
            }
            Delta::Applied(o) => self.seen(r, &o.metadata),
            Delta::Deleted(o) => self.gone(meta::uid(&o.metadata)),
            Delta::Bookmark(_) => {}
        }
    }
}

/// Kinds that own nothing and are owned by nothing that matters, and change all the time.
fn ignored(r: &Resource) -> bool {
    r.plural == "events" && matches!(r.group.as_str(), "" | "events.k8s.io")
}

/// Runs the collector until cancelled.
pub async fn run(informers: Informers, cancel: CancellationToken) {
    let c = Arc::new(Collector {
        informers: informers.clone(),
        graph: Mutex::default(),
        delete: Queue::new("garbage_collector_attempt_to_delete"),
        orphan: Queue::new("garbage_collector_attempt_to_orphan"),
        kinds: Mutex::default(),
    });
    let changed = Arc::new(Notify::new());
    let n = changed.clone();
    informers.get::<CustomResourceDefinition>().on_event(move |_| n.notify_one());
    let n = changed.clone();
    informers.get::<APIService>().on_event(move |_| n.notify_one());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        workers.spawn(c.clone().worker());
    }
    let mut watches: HashMap<Resource, CancellationToken> = HashMap::new();
    loop {
        let again = match discover(&informers).await {
            Ok((all, failed)) => {
                let wanted: HashMap<Resource, ()> = all
                    .iter()
                    .filter(|r| r.can("list") && r.can("watch") && r.can("delete") && !ignored(r))
                    .map(|r| (r.clone(), ()))
                    .collect();
                *c.kinds.lock().unwrap_or_else(PoisonError::into_inner) = all
                    .into_iter()
                    .map(|r| ((r.group.clone(), r.kind.clone()), Arc::new(r)))
                    .collect();
                if failed.is_empty() {
                    watches.retain(|r, t| {
                        let keep = wanted.contains_key(r);
                        if !keep {
                            t.cancel();
                        }
                        keep
                    });
                }
                for r in wanted.into_keys() {
                    if watches.contains_key(&r) {
                        continue;
                    }
                    let token = cancel.child_token();
                    watches.insert(r.clone(), token.clone());
                    let src =
                        Source { path: r.path(""), query: String::new(), metadata_only: true };
                    let (c, r, mut listing) = (c.clone(), Arc::new(r), None);
                    tokio::spawn(reflect::<Partial, _>(
                        informers.client().clone(),
                        src,
                        move |d| c.delta(&r, &mut listing, d),
                        token,
                    ));
                }
                !failed.is_empty()
            }
            Err(e) => {
                tracing::debug!(error = %message(&e), "discovery failed");
                true
            }
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            () = changed.notified() => {}
            () = tokio::time::sleep(Duration::from_secs(2)), if again => {}
        }
        // A definition is served a moment after it was written: take several changes together.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    workers.shutdown().await;
}
