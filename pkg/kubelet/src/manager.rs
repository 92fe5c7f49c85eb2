//! The kubelet as a whole: where pods come from, and which task each news goes to.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use knarr_cri_api::v1;
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    admit,
    config::{Config, Error},
    cri::{Cri, RUNTIME_NAME},
    events::Recorder,
    manifests,
    model::{Runtime, label},
    net, node, server,
    sources::Sources,
    spec,
    status::Host,
    userns::UserNamespaces,
    volumes,
    worker::{self, Handle, Msg, Shared},
};

/// Pods by uid with a way to reach them; what the server looks pods up in.
pub type Table = BTreeMap<String, Entry>;

/// One pod that the kubelet has.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object as last seen.
    pub pod: Arc<Pod>,
    /// Its task.
    pub handle: Handle,
}

/// Runs the kubelet until `stop`. Containers go on running after it.
///
/// Without a client only the manifests' pods run; with one, they also appear as mirror pods.
///
/// # Errors
/// When the data folder, the manifests' folder, the port or the certificates cannot be used.
pub async fn run(
    cfg: Config,
    client: Option<Client>,
    cri: tonic::transport::Channel,
    stop: CancellationToken,
) -> Result<(), Error> {
    let pods_dir = cfg.pods_dir();
    std::fs::create_dir_all(&pods_dir).map_err(Error::io(&pods_dir))?;
    let cri = Cri::new(cri);
    let Some(version) = wait_for_runtime(&cri, &stop).await else {
        return Ok(());
    };
    let runtime = cfg
        .runtime_name
        .clone()
        .unwrap_or_else(|| version.runtime_name.clone());
    let _ = RUNTIME_NAME.set(format!(
        "{}://{}",
        version.runtime_name, version.runtime_version
    ));
    let (changed_tx, changed) = mpsc::unbounded_channel();
    let hostname = nix::unistd::gethostname()
        .ok()
        .and_then(|h| h.into_string().ok())
        .unwrap_or_else(|| cfg.node_name.clone());
    let sh = Arc::new(Shared {
        recorder: Recorder::new(client.clone(), &cfg.node_name),
        sources: Sources::new(client.clone(), changed_tx),
        host: Host {
            ip: cfg.node_ip.to_string(),
            runtime,
        },
        hostname,
        node_memory: node::memory(),
        node_dns: net::node_dns(&cfg.resolv_conf),
        allocatable: Mutex::new(node::capacity(&cfg)),
        images_changed: tokio::sync::Notify::new(),
        userns: UserNamespaces::new(&cfg),
        client: client.clone(),
        cri,
        cfg,
    });
    let (table, table_rx) = watch::channel(Table::new());
    let mut tasks = tokio::task::JoinSet::new();
    if let (Some(addr), Some(tls)) = (sh.cfg.listen, sh.cfg.tls.clone()) {
        let server = server::Server::bind(addr, &tls, Arc::clone(&sh), table_rx).await?;
        tasks.spawn(server.run(stop.clone()));
    }
    if let Some(client) = &client {
        tasks.spawn(node::keep(Arc::clone(&sh), client.clone(), stop.clone()));
        let s = Arc::clone(&sh);
        tasks.spawn(async move { s.sources.follow_services().await });
    }
    let manifests = {
        let (tx, rx) = mpsc::unbounded_channel();
        if let Some(dir) = sh.cfg.manifests.clone() {
            std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
            let node = sh.cfg.node_name.clone();
            tasks.spawn(async move {
                if let Err(error) = manifests::follow(&dir, &node, tx).await {
                    tracing::error!(%error, "static pods are no longer watched");
                }
            });
        } else {
            let _ = tx.send(BTreeMap::new());
        }
        rx
    };
    let (done_tx, done) = mpsc::unbounded_channel();
    let mut m = Manager {
        sh: Arc::clone(&sh),
        table,
        statics: BTreeMap::new(),
        mirrors: HashMap::new(),
        done: HashSet::new(),
        deferred: HashSet::new(),
        held: HashMap::new(),
        seen_api: client.is_none(),
        seen_manifests: false,
        cleaned: false,
        done_tx,
        node_uid: None,
    };
    tasks.spawn(crate::upkeep::run(Arc::clone(&sh), m.table.subscribe()));
    tasks.spawn(crate::upkeep::images(Arc::clone(&sh)));
    m.run(manifests, changed, done, stop.clone()).await;
    tasks.abort_all();
    Ok(())
}

async fn wait_for_runtime(cri: &Cri, stop: &CancellationToken) -> Option<v1::VersionResponse> {
    let mut pause = Duration::from_millis(10);
    loop {
        let ask = cri.version(v1::VersionRequest {
            version: "v1".into(),
        });
        tokio::select! {
            v = ask => match v {
                Ok(v) => return Some(v),
                Err(error) => tracing::debug!(%error, "waiting for the container runtime"),
            },
            () = stop.cancelled() => return None,
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return None,
        }
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

struct Manager {
    sh: Arc<Shared>,
    table: watch::Sender<Table>,
    statics: BTreeMap<String, Arc<Pod>>,
    /// Mirror pods by namespace and name.
    mirrors: HashMap<(String, String), Arc<Pod>>,
    /// Uids of pods that are done but whose objects stay (finalizers).
    done: HashSet<String>,
    /// Uids of pods whose resize waits for room.
    deferred: HashSet<String>,
    /// Static pods that wait for one of the same name to end.
    held: HashMap<String, Arc<Pod>>,
    seen_api: bool,
    seen_manifests: bool,
    cleaned: bool,
    done_tx: mpsc::UnboundedSender<String>,
    node_uid: Option<String>,
}

impl Manager {
    async fn run(
        &mut self,
        mut manifests: mpsc::UnboundedReceiver<BTreeMap<String, Arc<Pod>>>,
        mut changed: mpsc::UnboundedReceiver<String>,
        mut done: mpsc::UnboundedReceiver<String>,
        stop: CancellationToken,
    ) {
        let mut pods = match &self.sh.client {
            Some(client) => {
                let config = watcher::Config::default()
                    .fields(&format!("spec.nodeName={}", self.sh.cfg.node_name));
                watcher(Api::<Pod>::all(client.clone()), config)
                    .default_backoff()
                    .boxed()
            }
            None => futures::stream::pending().boxed(),
        };
        let (runtime_tx, mut runtime) = mpsc::channel(256);
        let follower = tokio::spawn(follow_runtime(self.sh.cri.clone(), runtime_tx));
        let mut fresh: Option<HashSet<String>> = None;
        loop {
            tokio::select! {
                event = pods.next() => match event {
                    Some(Ok(e)) => self.api_event(e, &mut fresh).await,
                    Some(Err(error)) => tracing::debug!(%error, "watching pods"),
                    None => pods = futures::stream::pending().boxed(),
                },
                Some(all) = manifests.recv() => self.manifests(all).await,
                Some(event) = runtime.recv() => self.runtime_event(event).await,
                Some(uid) = changed.recv() => self.tell(&uid, Msg::Sources),
                Some(uid) = done.recv() => self.ended(&uid).await,
                () = stop.cancelled() => break,
            }
            if self.seen_api && self.seen_manifests && !self.cleaned {
                self.cleaned = true;
                self.clean_orphans().await;
            }
        }
        follower.abort();
    }

    fn tell(&self, uid: &str, msg: Msg) {
        if let Some(e) = self.table.borrow().get(uid) {
            e.handle.send(msg);
        }
    }

    async fn api_event(&mut self, event: watcher::Event<Pod>, fresh: &mut Option<HashSet<String>>) {
        match event {
            watcher::Event::Init => *fresh = Some(HashSet::new()),
            watcher::Event::InitApply(pod) => {
                if let Some(f) = fresh {
                    f.insert(spec::uid(&pod).to_owned());
                }
                self.pod(Arc::new(pod)).await;
            }
            watcher::Event::InitDone => {
                // what was there before and is not any more
                let listed = fresh.take().unwrap_or_default();
                let lost: Vec<Arc<Pod>> = self
                    .table
                    .borrow()
                    .iter()
                    .filter(|(uid, e)| !listed.contains(*uid) && !spec::is_static(&e.pod))
                    .map(|(_, e)| Arc::clone(&e.pod))
                    .collect();
                for p in lost {
                    self.gone(&p).await;
                }
                self.seen_api = true;
            }
            watcher::Event::Apply(pod) => self.pod(Arc::new(pod)).await,
            watcher::Event::Delete(pod) => self.gone(&pod).await,
        }
    }

    async fn pod(&mut self, pod: Arc<Pod>) {
        if spec::is_mirror(&pod) {
            return self.mirror(pod).await;
        }
        let uid = spec::uid(&pod).to_owned();
        if pod.metadata.deletion_timestamp.is_some() && self.done.contains(&uid) {
            return;
        }
        let before = self.table.borrow().get(&uid).map(|e| Arc::clone(&e.pod));
        if let Some(before) = before {
            if admit::resources_differ(&before, &pod) {
                self.judge_resize(&pod);
            }
            self.table.send_modify(|t| {
                if let Some(e) = t.get_mut(&uid) {
                    e.pod = Arc::clone(&pod);
                }
            });
            self.tell(&uid, Msg::Pod(pod));
            return;
        }
        self.start(pod).await;
    }

    /// Whether changed resources fit on the node.
    fn judge_resize(&mut self, pod: &Pod) {
        let uid = spec::uid(pod);
        let others: Vec<Arc<Pod>> = self
            .table
            .borrow()
            .iter()
            .filter(|(u, _)| *u != uid)
            .map(|(_, e)| Arc::clone(&e.pod))
            .collect();
        let verdict = admit::resize(pod, &others, &self.sh.allocatable());
        if verdict.as_ref().is_some_and(|v| v.reason == "Deferred") {
            self.deferred.insert(uid.to_owned());
        } else {
            self.deferred.remove(uid);
        }
        self.tell(uid, Msg::Resize(verdict.map(|v| (v.reason, v.message))));
    }

    /// Gives a pod its task, unless it may not run here.
    async fn start(&mut self, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        if !safe_uid(&uid) {
            tracing::warn!(uid, "a pod with a strange uid is left alone");
            return;
        }
        // once orphans are cleaned, a new pod cannot have containers
        let rt = if self.cleaned {
            Runtime::default()
        } else {
            self.sh.cri.observe(&uid).await.unwrap_or_default()
        };
        let refused = if rt.containers.is_empty() && rt.sandboxes.is_empty() {
            let others: Vec<Arc<Pod>> = self
                .table
                .borrow()
                .values()
                .map(|e| Arc::clone(&e.pod))
                .collect();
            admit::check(&pod, &others, &self.sh.allocatable())
        } else {
            None
        };
        let handle = worker::spawn(
            Arc::clone(&self.sh),
            Arc::clone(&pod),
            rt,
            self.done_tx.clone(),
        );
        if let Some(r) = refused {
            self.sh.recorder.pod(
                &pod,
                None,
                crate::events::Kind::Warning,
                r.reason,
                r.message.clone(),
            );
            handle.send(Msg::Reject(
                r.reason.into(),
                format!("Pod was rejected: {}", r.message),
            ));
        }
        self.table.send_modify(|t| {
            t.insert(uid, Entry { pod, handle });
        });
    }

    async fn gone(&mut self, pod: &Pod) {
        if spec::is_mirror(pod) {
            let key = (spec::namespace(pod).to_owned(), spec::name(pod).to_owned());
            self.mirrors.remove(&key);
            // as long as the manifest is there, so is its mirror
            if let Some((uid, p)) = self.static_by_name(&key) {
                self.tell(&uid, Msg::Mirror(None));
                self.make_mirror(&p).await;
            }
            return;
        }
        let uid = spec::uid(pod).to_owned();
        self.done.remove(&uid);
        let grace = pod.metadata.deletion_grace_period_seconds;
        self.tell(&uid, Msg::Gone(grace));
    }

    async fn ended(&mut self, uid: &str) {
        self.deferred.remove(uid);
        let last = self.table.borrow().get(uid).map(|e| Arc::clone(&e.pod));
        self.table.send_modify(|t| {
            t.remove(uid);
        });
        let waiting: Vec<String> = self.deferred.iter().cloned().collect();
        for w in waiting {
            let pod = self.table.borrow().get(&w).map(|e| Arc::clone(&e.pod));
            if let Some(pod) = pod {
                self.judge_resize(&pod);
            }
        }
        if let Some(p) = last {
            if !spec::is_static(&p) && p.metadata.finalizers.iter().flatten().next().is_some() {
                self.done.insert(uid.to_owned());
            }
            let name = format!("{}/{}", spec::namespace(&p), spec::name(&p));
            if let Some(next) = self.held.remove(&name) {
                self.start(Arc::clone(&next)).await;
                self.make_mirror(&next).await;
            }
        }
    }

    // ---- static pods ----

    fn static_by_name(&self, key: &(String, String)) -> Option<(String, Arc<Pod>)> {
        self.statics
            .iter()
            .find(|(_, p)| spec::namespace(p) == key.0 && spec::name(p) == key.1)
            .map(|(u, p)| (u.clone(), Arc::clone(p)))
    }

    async fn manifests(&mut self, all: BTreeMap<String, Arc<Pod>>) {
        let before = std::mem::replace(&mut self.statics, all.clone());
        for (uid, pod) in &before {
            if !all.contains_key(uid) {
                self.tell(uid, Msg::Gone(None));
                let key = (spec::namespace(pod).to_owned(), spec::name(pod).to_owned());
                if let Some(m) = self.mirrors.get(&key).cloned() {
                    self.delete_mirror(&m).await;
                }
            }
        }
        for (uid, pod) in all {
            if before.contains_key(&uid) {
                continue;
            }
            let twin = self.table.borrow().iter().any(|(u, e)| {
                u != &uid
                    && spec::name(&e.pod) == spec::name(&pod)
                    && spec::namespace(&e.pod) == spec::namespace(&pod)
            });
            if twin {
                // the old one of that name has to end first
                let name = format!("{}/{}", spec::namespace(&pod), spec::name(&pod));
                self.held.insert(name, pod);
                continue;
            }
            self.start(Arc::clone(&pod)).await;
            let key = (
                spec::namespace(&pod).to_owned(),
                spec::name(&pod).to_owned(),
            );
            match self.mirrors.get(&key).cloned() {
                Some(m) => self.mirror(m).await,
                None if self.seen_api => self.make_mirror(&pod).await,
                None => {}
            }
        }
        self.seen_manifests = true;
    }

    async fn mirror(&mut self, mirror: Arc<Pod>) {
        let key = (
            spec::namespace(&mirror).to_owned(),
            spec::name(&mirror).to_owned(),
        );
        self.mirrors.insert(key.clone(), Arc::clone(&mirror));
        if !self.seen_manifests {
            return;
        }
        let own = self.static_by_name(&key);
        let matches = own.as_ref().is_some_and(|(_, p)| {
            spec::annotation(&mirror, spec::CONFIG_MIRROR) == spec::annotation(p, spec::CONFIG_HASH)
        });
        if !matches || mirror.metadata.deletion_timestamp.is_some() {
            self.delete_mirror(&mirror).await;
            return;
        }
        if let Some((uid, _)) = own {
            self.tell(&uid, Msg::Mirror(Some(mirror)));
        }
    }

    async fn delete_mirror(&self, mirror: &Pod) {
        let Some(client) = self.sh.client.clone() else {
            return;
        };
        let (ns, name, uid) = (
            spec::namespace(mirror),
            spec::name(mirror),
            spec::uid(mirror),
        );
        if let Err(error) = worker::delete(client, ns, name, uid).await {
            tracing::warn!(%error, "deleting a mirror pod");
        }
    }

    async fn make_mirror(&mut self, pod: &Pod) {
        let Some(client) = self.sh.client.clone() else {
            return;
        };
        // A mirror pod must name its node as its owner, and the node may just be registering.
        for _ in 0..20 {
            if self.node_uid.is_some() {
                break;
            }
            let node = Api::<Node>::all(client.clone())
                .get_opt(&self.sh.cfg.node_name)
                .await;
            self.node_uid = node.ok().flatten().and_then(|n| n.metadata.uid);
            if self.node_uid.is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let mut m = pod.clone();
        let hash = spec::annotation(pod, spec::CONFIG_HASH)
            .unwrap_or_default()
            .to_owned();
        m.metadata.uid = None;
        m.metadata
            .annotations
            .get_or_insert_default()
            .insert(spec::CONFIG_MIRROR.into(), hash);
        m.status = None;
        if let Some(uid) = &self.node_uid {
            m.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: self.sh.cfg.node_name.clone(),
                uid: uid.clone(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
        }
        let api = Api::<Pod>::namespaced(client, spec::namespace(pod));
        match api.create(&PostParams::default(), &m).await {
            Ok(_) => {}
            Err(kube::Error::Api(s)) if s.code == 409 => {}
            Err(error) => tracing::warn!(%error, pod = spec::name(pod), "making a mirror pod"),
        }
    }

    // ---- the runtime ----

    async fn runtime_event(&mut self, event: RuntimeNews) {
        match event {
            RuntimeNews::Event(e) => {
                let uid = e
                    .pod_sandbox_status
                    .as_ref()
                    .and_then(|s| s.metadata.as_ref())
                    .map(|m| m.uid.clone());
                match uid {
                    Some(uid) => self.tell(&uid, Msg::Runtime(e)),
                    // deletions need not say whose: everyone may look
                    None => {
                        for entry in self.table.borrow().values() {
                            entry.handle.send(Msg::Runtime(e.clone()));
                        }
                    }
                }
            }
            RuntimeNews::Again => {
                let uids: Vec<String> = self.table.borrow().keys().cloned().collect();
                for uid in uids {
                    if let Ok(rt) = self.sh.cri.observe(&uid).await {
                        self.tell(&uid, Msg::Observed(Box::new(rt)));
                    }
                }
            }
        }
    }

    /// Stops and removes what belongs to no pod: sandboxes and folders.
    async fn clean_orphans(&mut self) {
        // static pods whose mirrors are still to be made
        let statics: Vec<Arc<Pod>> = self.statics.values().cloned().collect();
        for p in statics {
            let key = (spec::namespace(&p).to_owned(), spec::name(&p).to_owned());
            match self.mirrors.get(&key).cloned() {
                Some(m) => self.mirror(m).await,
                None => self.make_mirror(&p).await,
            }
        }
        let strays: Vec<Arc<Pod>> = self.mirrors.values().cloned().collect();
        for m in strays {
            let key = (spec::namespace(&m).to_owned(), spec::name(&m).to_owned());
            if self.static_by_name(&key).is_none() {
                self.delete_mirror(&m).await;
            }
        }
        let known: HashSet<String> = self.table.borrow().keys().cloned().collect();
        let sh = Arc::clone(&self.sh);
        tokio::spawn(async move {
            let list = v1::ListPodSandboxRequest { filter: None };
            let sandboxes = match sh.cri.list_pod_sandbox(list).await {
                Ok(l) => l.items,
                Err(error) => {
                    tracing::warn!(%error, "looking for orphans");
                    return;
                }
            };
            // without an API server nothing is known of its pods: they are left alone
            let alone = sh.client.is_none();
            let mut removed = HashSet::new();
            for s in sandboxes {
                let Some(uid) = s.labels.get(label::POD_UID) else {
                    continue;
                };
                if known.contains(uid) || (alone && !spec::from_manifest(&s.annotations)) {
                    continue;
                }
                removed.insert(uid.clone());
                tracing::info!(sandbox = s.id, uid, "removing an orphan");
                let id = s.id;
                let stop = v1::StopPodSandboxRequest {
                    pod_sandbox_id: id.clone(),
                };
                let _ = sh.cri.stop_pod_sandbox(stop).await;
                let _ = sh
                    .cri
                    .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id })
                    .await;
            }
            let Ok(entries) = std::fs::read_dir(sh.cfg.pods_dir()) else {
                return;
            };
            for e in entries.flatten() {
                let name = e.file_name().to_string_lossy().into_owned();
                if !known.contains(&name) && (!alone || removed.contains(&name)) {
                    tracing::info!(uid = name, "removing an orphan's folder");
                    volumes::remove(e.path()).await;
                }
            }
        });
    }
}

/// A uid becomes a folder's name.
fn safe_uid(uid: &str) -> bool {
    !uid.is_empty()
        && uid != "."
        && uid != ".."
        && uid
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

enum RuntimeNews {
    Event(Box<v1::ContainerEventResponse>),
    /// The stream began anew: something may have been missed.
    Again,
}

/// Follows the runtime's events for ever, opening the stream anew when it breaks.
async fn follow_runtime(cri: Cri, tx: mpsc::Sender<RuntimeNews>) {
    let mut first = true;
    let mut pause = Duration::from_millis(50);
    loop {
        match cri.events().await {
            Ok(mut stream) => {
                pause = Duration::from_millis(50);
                if !first && tx.send(RuntimeNews::Again).await.is_err() {
                    return;
                }
                first = false;
                loop {
                    match stream.message().await {
                        Ok(Some(e)) => {
                            if tx.send(RuntimeNews::Event(Box::new(e))).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(%error, "container events broke off");
                            break;
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "no container events"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
