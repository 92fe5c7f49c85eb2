//! The node object: registered, kept alive by a Lease, its status written when it changes.
use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
            NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus,
            NodeSystemInfo, Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    },
};
use knarr_cri_api::v1;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, cri::Cri, events::Kind, status::whole, worker::Shared};

/// Images listed in the node's status.
const IMAGES_MAX: usize = 50;
/// How long a lease is good for, in seconds.
const LEASE_SECONDS: i32 = 40;
/// How long the server may take for one of the node's own calls.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Namespace of the leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The machine's memory in bytes.
pub fn memory() -> i64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|t| {
            let line = t.lines().find(|l| l.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<i64>().ok()
        })
        .map_or(0, |kb| kb * 1024)
}

/// What the node has.
pub fn capacity(cfg: &Config) -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let disk = nix::sys::statvfs::statvfs(&cfg.data_dir)
        .or_else(|_| nix::sys::statvfs::statvfs("/"))
        .map(|s| s.blocks() * s.fragment_size())
        .unwrap_or(0);
    BTreeMap::from([
        ("cpu".into(), Quantity(cpus.to_string())),
        ("memory".into(), Quantity(format!("{}Ki", memory() / 1024))),
        ("pods".into(), Quantity(cfg.max_pods.to_string())),
        (
            "ephemeral-storage".into(),
            Quantity(format!("{}Ki", disk / 1024)),
        ),
        ("hugepages-1Gi".into(), Quantity("0".into())),
        ("hugepages-2Mi".into(), Quantity("0".into())),
    ])
}

fn line(path: &str) -> String {
    fs::read_to_string(path)
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image() -> String {
    fs::read_to_string("/etc/os-release")
        .ok()
        .and_then(|t| {
            t.lines()
                .find_map(|l| l.strip_prefix("PRETTY_NAME="))
                .map(|v| v.trim_matches('"').to_owned())
        })
        .unwrap_or_else(|| "Linux".into())
}

fn system_info(cfg: &Config, runtime: &str) -> NodeSystemInfo {
    let machine = line("/etc/machine-id");
    let uuid = line("/sys/class/dmi/id/product_uuid");
    NodeSystemInfo {
        architecture: arch().into(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.into(),
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: cfg.version.clone(),
        system_uuid: if uuid.is_empty() {
            machine.clone()
        } else {
            uuid
        },
        machine_id: machine,
        operating_system: "linux".into(),
        os_image: os_image(),
        ..NodeSystemInfo::default()
    }
}

/// Labels that say what the node is.
pub fn labels(cfg: &Config) -> BTreeMap<String, String> {
    let mut l: BTreeMap<String, String> = cfg.node_labels.iter().cloned().collect();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        l.insert(format!("{prefix}/arch"), arch().into());
        l.insert(format!("{prefix}/os"), "linux".into());
    }
    l.insert("kubernetes.io/hostname".into(), cfg.node_name.clone());
    l
}

fn taints(cfg: &Config) -> Vec<Taint> {
    cfg.register_taints
        .iter()
        .filter_map(|t| {
            let (kv, effect) = t.rsplit_once(':')?;
            let (key, value) = kv.split_once('=').unwrap_or((kv, ""));
            Some(Taint {
                key: key.into(),
                value: (!value.is_empty()).then(|| value.to_owned()),
                effect: effect.into(),
                time_added: None,
            })
        })
        .collect()
}

/// What the runtime can do.
#[derive(Default)]
struct Abilities {
    handlers: Vec<NodeRuntimeHandler>,
    features: Option<NodeFeatures>,
}

impl Abilities {
    fn of(status: &v1::StatusResponse) -> Self {
        let handler = |h: &v1::RuntimeHandler| NodeRuntimeHandler {
            name: Some(h.name.clone()),
            features: h.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
                user_namespaces: Some(f.user_namespaces),
            }),
        };
        Abilities {
            handlers: status.runtime_handlers.iter().map(handler).collect(),
            features: status.features.as_ref().map(|f| NodeFeatures {
                supplemental_groups_policy: Some(f.supplemental_groups_policy),
            }),
        }
    }
}

/// The runtime's health: ready, and if not, why. What it can do is noted on the way.
async fn runtime_ready(cri: &Cri, abilities: &mut Abilities) -> Result<(), String> {
    let status = cri
        .status(v1::StatusRequest { verbose: false })
        .await
        .map_err(|e| format!("container runtime is down: {}", e.message()))?;
    *abilities = Abilities::of(&status);
    let conditions = status.status.map(|s| s.conditions).unwrap_or_default();
    for (name, text) in [
        (
            "RuntimeReady",
            "container runtime status check may not have completed yet",
        ),
        ("NetworkReady", "container runtime network not ready"),
    ] {
        match conditions.iter().find(|c| c.r#type == name) {
            Some(c) if c.status => {}
            Some(c) => {
                return Err(format!(
                    "{text}: {name}={} reason:{} message:{}",
                    c.status, c.reason, c.message
                ));
            }
            None => return Err(text.to_owned()),
        }
    }
    Ok(())
}

fn conditions(
    ready: &Result<(), String>,
    old: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let make = |t: &str, ok: bool, reason: &str, message: &str| {
        let status = if ok { "True" } else { "False" };
        let since = old
            .iter()
            .find(|o| o.type_ == t && o.status == status)
            .and_then(|o| o.last_transition_time.clone());
        NodeCondition {
            type_: t.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(whole(now)),
            last_transition_time: Some(since.unwrap_or_else(|| whole(now))),
        }
    };
    vec![
        make(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        make(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        make(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        match ready {
            Ok(()) => make(
                "Ready",
                true,
                "KubeletReady",
                "kubelet is posting ready status",
            ),
            Err(why) => make("Ready", false, "KubeletNotReady", why),
        },
    ]
}

async fn images(cri: &Cri) -> Vec<ContainerImage> {
    let Ok(list) = cri
        .list_images(v1::ListImagesRequest { filter: None })
        .await
    else {
        return Vec::new();
    };
    let mut images = list.images;
    images.sort_by_key(|i| std::cmp::Reverse(i.size));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|i| ContainerImage {
            names: Some(
                i.repo_digests
                    .into_iter()
                    .chain(i.repo_tags)
                    .take(5)
                    .collect(),
            ),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect()
}

/// Registers the node and keeps it alive until `stop`.
pub async fn keep(sh: Arc<Shared>, client: Client, stop: CancellationToken) {
    let name = sh.cfg.node_name.clone();
    let api = Api::<Node>::all(client.clone());
    let mut pause = Duration::from_millis(50);
    let mut node = loop {
        match register(&sh, &api).await {
            Ok(n) => break n,
            Err(error) => {
                tracing::debug!(%error, "registering the node");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    };
    tracing::info!(node = name, "registered");
    sh.recorder
        .node(Kind::Normal, "Starting", "Starting kubelet.");
    let doubted = Arc::new(Notify::new());
    let lease = tokio::spawn(keep_lease(
        client,
        sh.cfg.clone(),
        node.metadata.uid.clone().unwrap_or_default(),
        doubted.clone(),
    ));
    let watching = tokio::spawn(notice(api.clone(), name.clone(), doubted.clone()));
    let mut ready_before = false;
    let mut abilities = Abilities::default();
    loop {
        let ready = runtime_ready(&sh.cri, &mut abilities).await;
        if ready.is_ok() != ready_before {
            ready_before = ready.is_ok();
            let reason = if ready_before {
                "NodeReady"
            } else {
                "NodeNotReady"
            };
            let text = format!("Node {name} status is now: {reason}");
            sh.recorder.node(Kind::Normal, reason, text);
        }
        let written = soon(write_status(&sh, &api, &node, &ready, &abilities)).await;
        let next = match (&written, &ready) {
            (Ok(_), Ok(())) => sh.cfg.status_period,
            // not ready: look again soon, for it is about to be
            _ => Duration::from_millis(100),
        };
        match written {
            Ok(n) => node = n,
            Err(kube::Error::Api(s)) if s.code == 404 => {
                if let Ok(n) = soon(register(&sh, &api)).await {
                    node = n;
                }
            }
            Err(error) => tracing::warn!(%error, "writing the node's status"),
        }
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = sh.images_changed.notified() => {
                // several changes at once are written as one
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            () = doubted.notified() => {
                if let Ok(n) = soon(api.get(&name)).await {
                    node = n;
                }
            }
            () = stop.cancelled() => break,
        }
    }
    lease.abort();
    watching.abort();
}

/// A call that is given up when the server is not heard: after a cut of the network its
/// connection may be dead without either side knowing.
async fn soon<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let late =
        |_| kube::Error::Service(Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut)));
    tokio::time::timeout(ANSWER_TIME, call)
        .await
        .map_err(late)?
}

/// Tells when others take the node for silent, or have removed it.
async fn notice(api: Api<Node>, name: String, doubted: Arc<Notify>) {
    let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, own).default_backoff());
    while let Some(event) = events.next().await {
        let doubt = match event {
            Ok(watcher::Event::Apply(n) | watcher::Event::InitApply(n)) => {
                let conditions = n.status.and_then(|s| s.conditions).unwrap_or_default();
                conditions.iter().any(|c| c.status == "Unknown")
            }
            Ok(watcher::Event::Delete(_)) => true,
            _ => false,
        };
        if doubt {
            doubted.notify_one();
        }
    }
}

/// Makes the node object, or brings labels of an existing one up to date.
async fn register(sh: &Shared, api: &Api<Node>) -> Result<Node, kube::Error> {
    let cfg = &sh.cfg;
    if let Some(old) = api.get_opt(&cfg.node_name).await? {
        let labels = labels(cfg);
        let have = old.metadata.labels.clone().unwrap_or_default();
        if labels.iter().all(|(k, v)| have.get(k) == Some(v)) {
            return Ok(old);
        }
        let patch = json!({"metadata": {"labels": labels}});
        return api
            .patch(
                &cfg.node_name,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await;
    }
    let cap = sh.allocatable();
    let node = Node {
        metadata: ObjectMeta {
            name: Some(cfg.node_name.clone()),
            labels: Some(labels(cfg)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".into(),
                "true".into(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints(cfg)).filter(|t| !t.is_empty()),
            pod_cidr: cfg.pod_cidr.clone(),
            pod_cidrs: cfg.pod_cidr.clone().map(|c| vec![c]),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            capacity: Some(cap.clone()),
            allocatable: Some(cap),
            ..NodeStatus::default()
        }),
    };
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(s)) if s.code == 409 => api.get(&cfg.node_name).await,
        other => other,
    }
}

async fn write_status(
    sh: &Shared,
    api: &Api<Node>,
    node: &Node,
    ready: &Result<(), String>,
    abilities: &Abilities,
) -> Result<Node, kube::Error> {
    let cfg = &sh.cfg;
    let now = Timestamp::now();
    let old = node.status.clone().unwrap_or_default();
    let capacity = capacity(cfg);
    *sh.allocatable
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = capacity.clone();
    let runtime = crate::cri::RUNTIME_NAME
        .get()
        .cloned()
        .unwrap_or_else(|| "unknown://".into());
    let status = NodeStatus {
        addresses: Some(vec![
            NodeAddress {
                type_: "InternalIP".into(),
                address: cfg.node_ip.to_string(),
            },
            NodeAddress {
                type_: "Hostname".into(),
                address: cfg.node_name.clone(),
            },
        ]),
        // extended resources that others put there stay: these maps are merged
        capacity: Some(capacity.clone()),
        allocatable: Some(capacity),
        conditions: Some(conditions(
            ready,
            old.conditions.as_deref().unwrap_or_default(),
            now,
        )),
        daemon_endpoints: cfg.listen.map(|l| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(l.port()),
            }),
        }),
        node_info: Some(system_info(cfg, &runtime)),
        images: Some(images(&sh.cri).await),
        runtime_handlers: Some(abilities.handlers.clone()).filter(|h| !h.is_empty()),
        features: abilities.features.clone(),
        ..NodeStatus::default()
    };
    let patch = Patch::Strategic(json!({"status": status}));
    api.patch_status(&cfg.node_name, &PatchParams::default(), &patch)
        .await
}

/// Renews the node's Lease; tells when it could not for a while and then could.
async fn keep_lease(client: Client, cfg: Config, uid: String, doubted: Arc<Notify>) {
    let api = Api::<Lease>::namespaced(client, LEASE_NAMESPACE);
    let mut ticks = tokio::time::interval(cfg.lease_period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut failed = false;
        while let Err(error) = soon(renew(&api, &cfg, &uid)).await {
            failed = true;
            tracing::debug!(%error, "renewing the node's lease");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if failed {
            doubted.notify_one();
        }
    }
}

async fn renew(api: &Api<Lease>, cfg: &Config, uid: &str) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let patch = Patch::Merge(json!({"spec": {
        "holderIdentity": cfg.node_name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
    }}));
    match api
        .patch(&cfg.node_name, &PatchParams::default(), &patch)
        .await
    {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(s)) if s.code == 404 => {}
        Err(e) => return Err(e),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(cfg.node_name.clone()),
            namespace: Some(LEASE_NAMESPACE.into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: cfg.node_name.clone(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(cfg.node_name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    match api.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
