//! Configuration, requests and answers.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// How the pod network of this node is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The bridge's name (at most 15 bytes).
    pub bridge: String,
    /// The node's pod range; its first address is the gateway, on the bridge.
    pub pod_cidr: String,
    /// The range of all nodes' pods; traffic to it is not masqueraded.
    pub cluster_cidr: String,
    /// The range of service addresses. A route to it on the bridge lets processes of the host
    /// reach services on a machine without a default route, with the bridge's address as source.
    pub service_cidr: Option<String>,
    /// Where leases and the ledger are kept (`<data-dir>/network`); made if missing.
    pub data_dir: PathBuf,
    /// Host ends of pods are this prefix and 8 hex digits (at most 7 bytes).
    pub if_prefix: String,
    /// The MTU of pods in bytes; 0 for that of the default route's interface.
    pub mtu: u32,
    /// The name of the nftables table (family inet) with masquerading and host ports.
    pub table: String,
    /// The name of the service proxy's table, which [`crate::Bridge::remove_all`] deletes too.
    pub proxy_table: String,
}

impl Config {
    /// The usual settings with the state in this folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            bridge: "knarr0".into(),
            pod_cidr: "10.244.0.0/24".into(),
            cluster_cidr: "10.244.0.0/16".into(),
            service_cidr: Some("10.96.0.0/16".into()),
            data_dir: data_dir.into(),
            if_prefix: "knarr".into(),
            mtu: 0,
            table: "knarr-net".into(),
            proxy_table: "knarr".into(),
        }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, also where nothing is said.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
    /// Kubernetes' name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
    /// From Kubernetes' name; empty is TCP.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// The host's address; `None` for all, 127.0.0.1 included.
    pub host_ip: Option<IpAddr>,
    /// The port on the host.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Limits on a pod's traffic in bits per second (the annotations kubernetes.io/ingress-bandwidth
/// and kubernetes.io/egress-bandwidth).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Into the pod.
    pub ingress: Option<u64>,
    /// Out of the pod.
    pub egress: Option<u64>,
}

/// A pod sandbox to attach.
#[derive(Debug, Clone)]
pub struct AddRequest<'a> {
    /// The sandbox's id; the key of its lease.
    pub sandbox_id: &'a str,
    /// Its network namespace, such as `/proc/<pid>/ns/net`.
    pub netns: &'a Path,
    /// The pod's namespace (for the record only).
    pub namespace: &'a str,
    /// The pod's name (for the record only).
    pub name: &'a str,
    /// Its host ports.
    pub host_ports: Vec<HostPort>,
    /// Its traffic limits.
    pub bandwidth: Bandwidth,
}

/// What an attached sandbox has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The hardware address of its eth0, as `0a:58:…`.
    pub mac: String,
    /// Its default gateway: the bridge's address.
    pub gateway: Ipv4Addr,
    /// The host's end of its veth pair.
    pub host_interface: String,
}

/// Another node, for routes to its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its pod range.
    pub pod_cidr: String,
    /// Its address on a network shared with this node.
    pub node_ip: Ipv4Addr,
}

/// The state of the pod network.
#[derive(Debug, Clone)]
pub struct Status {
    /// Whether the bridge is there and up.
    pub ready: bool,
    /// Why not, or empty.
    pub message: String,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Sandboxes with a lease: id and address.
    pub leases: Vec<(String, Ipv4Addr)>,
    /// How many addresses pods can have.
    pub capacity: usize,
}
