//! A node's parts, wired together: store, API server, controllers, scheduler, runtime, kubelet,
//! service proxy and DNS, all in this process.

mod agent;
mod certs;
mod cri;
mod join;
mod kubelet;
pub mod membership;
mod routes;
mod signer;
mod worker;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use knarr_apiserver::{ApiServer, UserInfo};
use knarr_cri::{BridgeNetwork, Cri, Network};
use knarr_network::Bridge;
use knarr_runner::Informers;
use knarr_scheduler::Decisions;
use knarr_storage::{EtcdConfig, SharedStore};
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use agent::{Options as AgentOptions, run as run_agent};
pub use cri::{Options as CriOptions, run as run_cri};
pub use kubelet::{Options as KubeletOptions, run as run_kubelet};

use self::{membership::Settings, worker::Worker};
use crate::{CGROUP_ROOT, helpers, layout::Layout, preflight, reset, up::Options};

/// How long a node may take to become Ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says what was done.
pub type Step<'a> = &'a (dyn Fn(&str) + Sync);

/// A running node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where its API server is reached.
    pub server: String,
    /// A client with an administrator's rights.
    pub client: kube::Client,
    informers: Informers,
    decisions: Decisions,
    api: Mutex<Option<ApiServer>>,
    tasks: TaskTracker,
    failures: tokio::sync::Mutex<mpsc::Receiver<anyhow::Error>>,
}

/// Where the kubelet listens.
#[must_use]
pub fn kubelet_address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 10250))
}

/// Starts parts and reports the first that fails.
#[derive(Clone)]
struct Parts {
    tasks: TaskTracker,
    failed: mpsc::Sender<anyhow::Error>,
}

impl Parts {
    fn new() -> (Self, mpsc::Receiver<anyhow::Error>) {
        let (failed, failures) = mpsc::channel(1);
        (Parts { tasks: TaskTracker::new(), failed }, failures)
    }

    fn start<F, E>(&self, name: &'static str, part: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + Send,
    {
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            if let Err(error) = part.await {
                let error: anyhow::Error = error.into();
                // One failure is enough to end the node; the others follow from it.
                let _ = failed.try_send(error.context(format!("the {name} has failed")));
            }
        });
    }
}

/// The `n`th address of a network.
///
/// # Errors
/// If it is no IPv4 network.
pub fn nth(network: &str, n: u32) -> Result<IpAddr> {
    let (base, _) = network.split_once('/').with_context(|| format!("{network:?} is no network"))?;
    let base: std::net::Ipv4Addr =
        base.parse().with_context(|| format!("{network:?} is no IPv4 network"))?;
    Ok(IpAddr::from(std::net::Ipv4Addr::from(u32::from(base) + n)))
}

/// The service that a kubeconfig names.
///
/// # Errors
/// Names the file.
pub fn service(path: &std::path::Path) -> Result<knarr_apiserver::RemoteService> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().unwrap_or(std::path::Path::new("."));
    knarr_apiserver::RemoteService::parse(&text, folder)
        .map_err(|why| anyhow!("{}: {why}", path.display()))
}

async fn open_store(layout: &Layout, options: &Options) -> Result<SharedStore> {
    if options.etcd_endpoints.is_empty() {
        return Ok(knarr_storage::open_embedded(&layout.store()).await?);
    }
    let read = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|p| std::fs::read(p).with_context(|| format!("cannot read {}", p.display())))
            .transpose()
    };
    let config = EtcdConfig {
        endpoints: options.etcd_endpoints.clone(),
        ca: read(&options.etcd_cafile)?,
        identity: read(&options.etcd_certfile)?.zip(read(&options.etcd_keyfile)?),
        ..EtcdConfig::default()
    };
    Ok(knarr_storage::open_etcd(&config).await?)
}

impl Node {
    /// Starts all parts; returns when the API server serves.
    ///
    /// # Errors
    /// If a part cannot start.
    pub async fn start(
        layout: &Layout,
        options: &Options,
        shutdown: &CancellationToken,
        step: Step<'_>,
    ) -> Result<Self> {
        let name = options.node_name.clone().unwrap_or_else(preflight::node_name);
        let address = options.node_ip.unwrap_or_else(preflight::node_address);
        let api_address = nth(&options.service_cidr, 1)?;
        let dns_address = nth(&options.service_cidr, 10)?;
        let names = certs::Names {
            node: &name,
            address,
            service: api_address,
            domain: &options.cluster_domain,
        };
        let certs = certs::load(layout, &names)?;
        let store = open_store(layout, options).await?;
        step("the store is open");

        let mut config = knarr_apiserver::Config::new(store);
        config.listen = options.listen;
        config.tls_certificate = certs.apiserver.certificate.clone();
        config.tls_key = certs.apiserver.key.clone();
        config.client_ca = certs.ca.clone();
        config.service_account_key = certs.service_account_key.clone();
        config.issuer = format!("https://kubernetes.default.svc.{}", options.cluster_domain);
        config.service_cidr = options.service_cidr.clone();
        config.advertise_address = address;
        config.kubelet_client =
            Some((certs.kubelet_client.certificate.clone(), certs.kubelet_client.key.clone()));
        config.kubelet_ca = Some(certs.ca.clone());
        config.requestheader_ca = Some(certs.front_proxy_ca.clone());
        config.proxy_client =
            Some((certs.front_proxy_client.certificate.clone(), certs.front_proxy_client.key.clone()));
        config.cluster_domain = options.cluster_domain.clone();
        if let Some(path) = &options.authentication_config {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let parsed = knarr_apiserver::AuthenticationConfiguration::parse(&text)
                .map_err(|why| anyhow!("{}: {why}", path.display()))?;
            config.authentication = Some(parsed);
        }
        if let Some(path) = &options.authentication_token_webhook_config_file {
            config.token_webhook = Some(service(path)?);
        }
        if let Some(path) = &options.audit_policy_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let policy = knarr_apiserver::AuditPolicy::parse(&text)
                .map_err(|why| anyhow!("{}: {why}", path.display()))?;
            let log = options.audit_log_path.as_ref().map(|path| {
                let file = knarr_apiserver::LogFile {
                    max_bytes: options.audit_log_maxsize << 20,
                    max_backups: options.audit_log_maxbackup,
                    ..knarr_apiserver::LogFile::new(path)
                };
                (file, knarr_apiserver::AuditDelivery::log())
            });
            let webhook = options.audit_webhook_config_file.as_deref().map(service).transpose()?;
            let webhook = webhook.map(|w| (w, knarr_apiserver::AuditDelivery::webhook()));
            config.audit = Some(knarr_apiserver::AuditConfig { policy, log, webhook });
        }
        let api = ApiServer::start(config).await?;
        if let Some(path) = &options.authentication_config {
            api.follow_authentication(path.clone(), Duration::from_secs(60));
        }
        let local = match options.listen.ip() {
            ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], options.listen.port())),
            _ => options.listen,
        };
        let server = format!("https://{local}");
        let kubeconfig =
            knarr_pki::kubeconfig("knarr", &server, &certs.ca, "kubernetes-admin", &certs.admin);
        knarr_pki::write(&layout.kubeconfig(), &kubeconfig, 0o600)?;
        step(&format!("the API server serves at {server}"));

        let (parts, failures) = Parts::new();
        let user = |name: &str, groups: &[&str]| api.client(UserInfo::new(name, groups.to_vec()));
        let client = user("system:knarr", &["system:masters"]);
        let informers = Informers::with_cancel(client.clone(), shutdown.clone());
        let decisions = Decisions::default();
        let scheduler = knarr_scheduler::Config {
            informers: Some(informers.clone()),
            decisions: decisions.clone(),
            ..knarr_scheduler::Config::default()
        };
        parts.tasks.spawn(knarr_scheduler::run(client.clone(), scheduler, shutdown.clone()));
        let controllers = knarr_controllers::Config {
            cluster_ca_pem: certs.ca.clone(),
            cluster_cidrs: vec![options.cluster_cidr.clone()],
            certificate_signer: Some(signer::from(&certs.ca, &certs.ca_key)?),
            approve_serving: true,
            bootstrap_signer: Some(signer::by_token),
            node_monitor_grace: Duration::from_secs(options.node_monitor_grace_seconds),
            informers: Some(informers.clone()),
            ..knarr_controllers::Config::default()
        };
        parts.tasks.spawn(knarr_controllers::run(client.clone(), controllers, shutdown.clone()));

        let settings = Settings {
            cluster_cidr: options.cluster_cidr.clone(),
            service_cidr: options.service_cidr.clone(),
            cluster_domain: options.cluster_domain.clone(),
        };
        let worker = Worker {
            layout,
            name: &name,
            address,
            settings: &settings,
            pod_cidr: &options.pod_cidr,
            manifests: options.manifests.clone(),
            image_gc_high: options.image_gc_high_threshold,
            kubelet: user(&format!("system:node:{name}"), &["system:nodes"]),
            informers: &informers,
        };
        let dns_endpoint = SocketAddr::from((worker.start(&parts, shutdown).await?, 53));
        step("the container runtime is ready");
        let dns = knarr_dns::Config {
            listen: vec![dns_endpoint],
            domain: options.cluster_domain.clone(),
            resolv_conf: "/etc/resolv.conf".into(),
        };
        parts.start("DNS server", knarr_dns::run(informers.clone(), dns, shutdown.clone()));
        parts.start("DNS service", knarr_dns::ensure_service(client.clone(), dns_address, dns_endpoint));
        let address = SocketAddr::from((address, options.listen.port()));
        let (own, open) = (name.clone(), membership::open(
            client.clone(),
            format!("https://{address}"),
            certs.ca.clone(),
            settings,
            options.token.clone(),
        ));
        let nodes = informers.get::<NodeObject>();
        parts.start("membership", async move {
            // The first pod range is this node's.
            until(&nodes, |nodes| nodes.get("", &own).is_some()).await;
            open.await
        });
        Ok(Node {
            name,
            server,
            client,
            informers,
            decisions,
            api: Mutex::new(Some(api)),
            tasks: parts.tasks,
            failures: tokio::sync::Mutex::new(failures),
        })
    }

    /// Joins a cluster and starts all parts of a node without a control plane.
    ///
    /// # Errors
    /// If it cannot join or a part cannot start.
    pub async fn join(
        layout: &Layout,
        options: &AgentOptions,
        shutdown: &CancellationToken,
        step: Step<'_>,
    ) -> Result<Self> {
        let name = options.node_name.clone().unwrap_or_else(preflight::node_name);
        let address = options.node_ip.unwrap_or_else(preflight::node_address);
        let member = join::join(layout, &name, address, options.invitation().as_ref()).await?;
        step(&format!("joined the cluster at {}", member.server));
        let (parts, failures) = Parts::new();
        let informers = Informers::with_cancel(member.client.clone(), shutdown.clone());
        let worker = Worker {
            layout,
            name: &name,
            address,
            settings: &member.settings,
            pod_cidr: &member.pod_cidr,
            manifests: options.manifests.clone(),
            image_gc_high: options.image_gc_high_threshold,
            kubelet: member.client.clone(),
            informers: &informers,
        };
        worker.start(&parts, shutdown).await?;
        step("the container runtime is ready");
        Ok(Node {
            name,
            server: member.server,
            client: member.client,
            informers,
            decisions: Decisions::default(),
            api: Mutex::new(None),
            tasks: parts.tasks,
            failures: tokio::sync::Mutex::new(failures),
        })
    }

    /// Whether the node is Ready now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.informers.get::<NodeObject>().get("", &self.name).is_some_and(|n| ready(&n))
    }

    /// Waits until the node is Ready.
    ///
    /// # Errors
    /// If it does not become so in a minute.
    pub async fn wait_ready(&self) -> Result<()> {
        let nodes = self.informers.get::<NodeObject>();
        let wait = until(&nodes, |_| self.is_ready());
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            bail!("node {} does not become Ready; see `kubectl describe node {0}`", self.name);
        }
        Ok(())
    }

    /// Waits until a part fails.
    pub async fn failed(&self) -> anyhow::Error {
        let failure = self.failures.lock().await.recv().await;
        failure.unwrap_or_else(|| anyhow!("all parts have ended"))
    }

    /// What the scheduler decided for a pod.
    #[must_use]
    pub fn decision(&self, uid: &str) -> serde_json::Value {
        self.decisions
            .get(uid)
            .and_then(|decision| serde_json::to_value(&*decision).ok())
            .unwrap_or_default()
    }

    /// Waits for all parts to end, then ends the API server.
    pub async fn finish(&self) {
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            tracing::warn!("a part does not end; leaving it");
        }
        let api = self.api.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(api) = api {
            api.shutdown().await;
        }
    }
}

/// Whether a node says that it is Ready.
#[must_use]
pub fn ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Waits until something holds of a cache.
async fn until<K: knarr_runner::Kind>(
    cache: &Arc<knarr_runner::Cache<K>>,
    holds: impl Fn(&knarr_runner::Cache<K>) -> bool,
) {
    let changed = Arc::new(Notify::new());
    let bell = changed.clone();
    cache.on_event(move |_| bell.notify_one());
    while !holds(cache) {
        changed.notified().await;
    }
}

/// Removes the pod network of a node that no longer runs.
///
/// # Errors
/// If an interface or table stays.
pub fn remove_network(layout: &Layout) -> Result<()> {
    let config = knarr_network::Config::new(layout.data_dir.join("network"));
    Bridge::remove_all(&config).context("cannot remove the pod network")
}

/// The built-in pod network.
async fn bridge(config: &knarr_network::Config) -> Result<Arc<Bridge>> {
    let config = config.clone();
    let bridge = tokio::task::spawn_blocking(move || Bridge::open(config))
        .await?
        .context("cannot set up the pod network")?;
    Ok(Arc::new(bridge))
}

/// Layers 6 and 7 of a node.
struct Runtime {
    cri: Arc<Cri>,
    channel: tonic::transport::Channel,
    bridge: Arc<Bridge>,
}

impl Runtime {
    async fn open(layout: &Layout, network: &knarr_network::Config) -> Result<Self> {
        let bridge = bridge(network).await?;
        let network = Arc::new(BridgeNetwork::new(bridge.clone()));
        let cri = Self::services(layout, network, BTreeMap::new()).await?;
        let channel = cri.connect_in_process().await?;
        Ok(Runtime { cri, channel, bridge })
    }

    /// The services over a network, with the OCI runtimes that RuntimeClasses may name.
    async fn services(
        layout: &Layout,
        network: Arc<dyn Network>,
        handlers: BTreeMap<String, PathBuf>,
    ) -> Result<Arc<Cri>> {
        let helpers = helpers::install(&layout.bin())?;
        let mut config = knarr_cri::Config::new(&layout.data_dir, &layout.run_dir, network);
        config.shim = helpers.shim;
        config.runc = helpers.runc;
        config.pause = helpers.pause;
        config.cgroup_root = CGROUP_ROOT.into();
        config.handlers = handlers;
        Cri::open(config).await.context("cannot start the container runtime")
    }

    fn serve(&self, layout: &Layout, parts: &Parts, shutdown: &CancellationToken) {
        let (cri, socket, stop) = (self.cri.clone(), layout.cri_socket(), shutdown.clone());
        parts.start("CRI socket", async move { cri.serve(&socket, stop.cancelled_owned()).await });
    }
}

/// Marks both folders as ours.
fn claim(layout: &Layout) -> Result<()> {
    reset::claim(&layout.data_dir)?;
    reset::claim(&layout.run_dir)
}
