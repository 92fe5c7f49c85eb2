//! The cluster as the scheduler sees it: nodes with the pods on them, kept up to date by events.

use crate::resources::{self, Resources};
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use knarr_runner::meta;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A host port as claimed: protocol, address, number.
pub type HostPort = (String, String, i32);

/// A pod with what scheduling needs of it, computed once.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub requests: Resources,
    /// CPU and memory with defaults for containers that ask for nothing.
    pub nonzero: (i64, i64),
    pub ports: Vec<HostPort>,
    pub priority: i32,
    /// Has required anti-affinity.
    pub repels: bool,
    /// Has any inter-pod affinity.
    pub affine: bool,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let requests = resources::of_pod(&pod, false);
        let nz = resources::of_pod(&pod, true);
        let spec = pod.spec.as_ref();
        let aff = spec.and_then(|s| s.affinity.as_ref());
        let anti = aff.and_then(|a| a.pod_anti_affinity.as_ref());
        let repels = anti
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .is_some_and(|t| !t.is_empty());
        let affine = anti.is_some() || aff.is_some_and(|a| a.pod_affinity.is_some());
        let priority = spec.and_then(|s| s.priority).unwrap_or(0);
        let mut ports = Vec::new();
        if let Some(s) = spec {
            let sidecars = s
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            for p in s.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
                if let Some(n) = p.host_port.filter(|n| *n > 0) {
                    let ip = p.host_ip.clone().filter(|i| !i.is_empty() && i != "::");
                    ports.push((
                        p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                        ip.unwrap_or_else(|| "0.0.0.0".into()),
                        n,
                    ));
                }
            }
        }
        Self { pod, requests, nonzero: (nz.cpu, nz.memory), ports, priority, repels, affine }
    }
    pub fn uid(&self) -> &str {
        meta::uid(&self.pod.metadata)
    }
    pub fn ns(&self) -> &str {
        meta::ns(&self.pod.metadata)
    }
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[])
    }
}

/// A node with the sums over its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub pods: HashMap<String, Arc<PodInfo>>,
    pub used: Resources,
    pub nonzero: (i64, i64),
    pub ports: HashMap<HostPort, usize>,
    /// Sizes of the images on the node by every name they have.
    pub images: HashMap<String, i64>,
    /// Whether the API knows the node (pods may be told before their node).
    pub known: bool,
}

impl NodeInfo {
    pub fn name(&self) -> &str {
        meta::name(&self.node.metadata)
    }
    pub fn label(&self, k: &str) -> Option<&str> {
        meta::label(&self.node.metadata, k)
    }
    fn set(&mut self, node: Arc<Node>) {
        let st = node.status.as_ref();
        let alloc = st.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = Resources::from_list(alloc);
        self.max_pods = alloc
            .and_then(|a| a.get("pods"))
            .map_or(0, |q| knarr_runner::quantity::value(&q.0));
        self.images = st
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|i| {
                i.names.iter().flatten().map(move |n| (n.clone(), i.size_bytes.unwrap_or(0)))
            })
            .collect();
        self.node = node;
        self.known = true;
    }
    pub fn add(&mut self, p: Arc<PodInfo>) {
        self.used.add(&p.requests);
        self.nonzero.0 += p.nonzero.0;
        self.nonzero.1 += p.nonzero.1;
        for k in &p.ports {
            *self.ports.entry(k.clone()).or_default() += 1;
        }
        self.pods.insert(p.uid().to_owned(), p);
    }
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let p = self.pods.remove(uid)?;
        self.used.sub(&p.requests);
        self.nonzero.0 -= p.nonzero.0;
        self.nonzero.1 -= p.nonzero.1;
        for k in &p.ports {
            if let Some(n) = self.ports.get_mut(k) {
                *n -= 1;
                if *n == 0 {
                    self.ports.remove(k);
                }
            }
        }
        Some(p)
    }
}

/// The whole cluster.
#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Where each bound or assumed pod is.
    pub placed: HashMap<String, String>,
    /// Bound pods that repel others.
    pub repelling: HashMap<String, String>,
    /// Bound pods with any affinity.
    pub affine: HashMap<String, String>,
    /// Pods that were promised room on a node.
    pub nominated: HashMap<String, (String, Arc<PodInfo>)>,
}

impl Cluster {
    pub fn set_node(&mut self, n: Arc<Node>) {
        self.nodes.entry(meta::name(&n.metadata).to_owned()).or_default().set(n);
    }
    pub fn remove_node(&mut self, name: &str) {
        if let Some(n) = self.nodes.get_mut(name) {
            n.known = false;
            if n.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }
    pub fn place(&mut self, p: Arc<PodInfo>, node: &str) {
        let uid = p.uid().to_owned();
        self.remove_pod(&uid);
        self.nominated.remove(&uid);
        self.placed.insert(uid.clone(), node.to_owned());
        if p.repels {
            self.repelling.insert(uid.clone(), node.to_owned());
        }
        if p.affine {
            self.affine.insert(uid, node.to_owned());
        }
        self.nodes.entry(node.to_owned()).or_default().add(p);
    }
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        self.repelling.remove(uid);
        self.affine.remove(uid);
        if let Some(n) = self.nodes.get_mut(&node) {
            n.remove(uid);
            if !n.known && n.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
    pub fn known(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.known)
    }
}
