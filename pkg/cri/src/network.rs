//! What the sandboxes need of a pod network.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use knarr_cri_api::v1::DnsConfig;
use knarr_network::Bridge;

/// A port of the host that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// On the host.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// The host's address; `None` is all.
    pub host_ip: Option<IpAddr>,
}

/// A sandbox to connect.
#[derive(Debug, Clone)]
pub struct NetworkRequest<'a> {
    /// The sandbox's id.
    pub id: &'a str,
    /// Its network namespace.
    pub netns: &'a Path,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// The pod's UID.
    pub uid: &'a str,
    /// Its host ports.
    pub ports: Vec<HostPort>,
    /// Traffic limit into the pod, in bits per second.
    pub ingress: Option<u64>,
    /// Traffic limit out of the pod, in bits per second.
    pub egress: Option<u64>,
    /// The pod's resolver.
    pub dns: Option<&'a DnsConfig>,
    /// The pod's cgroup.
    pub cgroup_parent: &'a str,
    /// The pod's annotations.
    pub annotations: Option<&'a HashMap<String, String>>,
}

/// The pod network, as seen by this crate. Calls may be repeated.
pub trait Network: Send + Sync + 'static {
    /// Connects a sandbox; gives its addresses, the primary one first.
    fn add<'a>(&'a self, request: NetworkRequest<'a>)
    -> BoxFuture<'a, Result<Vec<IpAddr>, String>>;
    /// Disconnects a sandbox, whether or not its namespace is still there.
    fn del<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// Fails with the reason if a sandbox is not connected as it was.
    fn check<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// Releases what belongs to none of the sandboxes given.
    fn gc<'a>(&'a self, alive: &'a [String]) -> BoxFuture<'a, Result<(), String>>;
    /// Fails with the reason if pods cannot be connected now.
    fn status(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// The built-in bridge. Its calls block, so each runs aside.
#[derive(Debug, Clone)]
pub struct BridgeNetwork(Arc<Bridge>);

impl BridgeNetwork {
    /// Over a bridge that is open.
    pub fn new(bridge: Arc<Bridge>) -> Self {
        Self(bridge)
    }

    fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bridge) -> Result<T, String> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, String>> {
        let bridge = self.0.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || work(&bridge))
                .await
                .unwrap_or_else(|e| Err(e.to_string()))
        })
    }
}

impl Network for BridgeNetwork {
    fn add<'a>(&'a self, r: NetworkRequest<'a>) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        let (id, netns) = (r.id.to_owned(), r.netns.to_path_buf());
        let (namespace, name) = (r.namespace.to_owned(), r.name.to_owned());
        let (ports, ingress, egress) = (r.ports, r.ingress, r.egress);
        self.aside(move |bridge| {
            let host_ports = ports
                .iter()
                .map(|p| knarr_network::HostPort {
                    host_ip: p.host_ip,
                    host_port: p.host_port,
                    container_port: p.container_port,
                    protocol: knarr_network::Protocol::parse(p.protocol).unwrap_or_default(),
                })
                .collect();
            let done = bridge.add(knarr_network::AddRequest {
                sandbox_id: &id,
                netns: &netns,
                namespace: &namespace,
                name: &name,
                host_ports,
                bandwidth: knarr_network::Bandwidth { ingress, egress },
            });
            done.map(|a| a.ips).map_err(|e| e.to_string())
        })
    }

    fn del<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let id = id.to_owned();
        self.aside(move |bridge| bridge.del(&id).map_err(|e| e.to_string()))
    }

    fn check<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let id = id.to_owned();
        self.aside(move |bridge| bridge.check(&id).map_err(|e| e.to_string()))
    }

    fn gc<'a>(&'a self, alive: &'a [String]) -> BoxFuture<'a, Result<(), String>> {
        let alive: HashSet<String> = alive.iter().cloned().collect();
        self.aside(move |bridge| bridge.gc(&alive).map_err(|e| e.to_string()))
    }

    fn status(&self) -> BoxFuture<'_, Result<(), String>> {
        self.aside(|bridge| match bridge.status() {
            status if status.ready => Ok(()),
            status => Err(status.message),
        })
    }
}

/// No pod network: sandboxes have a loopback at most, and no address.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn add<'a>(&'a self, _: NetworkRequest<'a>) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn del<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn check<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn gc<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn status(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}
