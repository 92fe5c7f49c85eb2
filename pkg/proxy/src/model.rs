//! What the proxy needs to know of Services and EndpointSlices.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use knarr_network::Protocol;
use knarr_network::nft::IpFamily;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The label of services and slices that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label of services and slices that no proxy serves.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The label that ties a slice to its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// A network as address and prefix length.
pub(crate) type Net = (IpAddr, u8);

/// One port of a service in one IP family, with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// `namespace/name`
    pub service: String,
    pub port_name: String,
    pub family: IpFamily,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ip: IpAddr,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; empty for all.
    pub source_ranges: Vec<Net>,
    pub node_port: Option<u16>,
    pub internal_local: bool,
    pub external_local: bool,
    /// Seconds a client stays with its endpoint.
    pub affinity: Option<u32>,
    /// Endpoints for the policy Cluster.
    pub all: BTreeSet<SocketAddr>,
    /// Endpoints of this node for the policy Local.
    pub local: BTreeSet<SocketAddr>,
    /// Endpoints of this node in any state: they may call themselves.
    pub here: BTreeSet<IpAddr>,
}

/// The node we are on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub name: String,
    pub zone: Option<String>,
}

pub(crate) fn parse_net(text: &str) -> Option<Net> {
    let (ip, prefix) = text.trim().split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, prefix))
}

fn ips(list: Option<&Vec<String>>, f: IpFamily) -> Vec<IpAddr> {
    let all = list.into_iter().flatten().filter_map(|t| t.parse().ok());
    all.filter(|ip| IpFamily::of(*ip) == f).collect()
}

fn port(n: i32) -> Option<u16> {
    u16::try_from(n).ok().filter(|p| *p != 0)
}

fn has_label(labels: Option<&std::collections::BTreeMap<String, String>>, key: &str) -> bool {
    labels.is_some_and(|l| l.contains_key(key))
}

/// Whether a slice is for us.
pub(crate) fn is_ours(s: &EndpointSlice) -> bool {
    let l = s.metadata.labels.as_ref();
    !has_label(l, PROXY_NAME) && !has_label(l, HEADLESS) && s.address_type != "FQDN"
}

#[derive(Clone)]
struct Candidate<'a> {
    at: SocketAddr,
    ready: bool,
    /// Still answers while it ends.
    ending: bool,
    local: bool,
    endpoint: &'a Endpoint,
}

fn candidates<'a>(
    slices: &'a [Arc<EndpointSlice>],
    f: IpFamily,
    name: &str,
    protocol: Protocol,
    node: &Node,
) -> Vec<Candidate<'a>> {
    let mut out = Vec::new();
    let kind = if f == IpFamily::V4 { "IPv4" } else { "IPv6" };
    for s in slices.iter().filter(|s| s.address_type == kind && is_ours(s)) {
        for p in s.ports.iter().flatten() {
            let same_name = p.name.as_deref().unwrap_or_default() == name;
            let same_protocol =
                Protocol::parse(p.protocol.as_deref().unwrap_or_default()) == Some(protocol);
            let Some(number) = p.port.and_then(port) else { continue };
            if !same_name || !same_protocol {
                continue;
            }
            for e in s.endpoints.iter().flatten() {
                let Some(Ok(ip)) = e.addresses.first().map(|a| a.parse::<IpAddr>()) else {
                    continue;
                };
                let c = e.conditions.clone().unwrap_or_default();
                let terminating = c.terminating.unwrap_or(false);
                let ready = c.ready.unwrap_or(true);
                let serving = c.serving.unwrap_or(ready);
                out.push(Candidate {
                    at: SocketAddr::new(ip, number),
                    ready,
                    ending: serving && terminating,
                    local: e.node_name.as_deref() == Some(node.name.as_str()),
                    endpoint: e,
                });
            }
        }
    }
    out
}

/// Those that are ready; if none is, those that still answer while they end.
fn usable(list: &[Candidate<'_>]) -> BTreeSet<SocketAddr> {
    let ready: BTreeSet<_> = list.iter().filter(|c| c.ready).map(|c| c.at).collect();
    if !ready.is_empty() {
        return ready;
    }
    list.iter().filter(|c| c.ending).map(|c| c.at).collect()
}

/// Keeps to the endpoints hinted for this node or zone, if every ready endpoint has hints and
/// some are for us.
fn hinted<'a>(list: Vec<Candidate<'a>>, node: &Node) -> Vec<Candidate<'a>> {
    fn for_node(e: &Endpoint) -> Option<Vec<&str>> {
        let l = e.hints.as_ref()?.for_nodes.as_ref()?;
        Some(l.iter().map(|n| n.name.as_str()).collect())
    }
    fn for_zone(e: &Endpoint) -> Option<Vec<&str>> {
        let l = e.hints.as_ref()?.for_zones.as_ref()?;
        Some(l.iter().map(|z| z.name.as_str()).collect())
    }
    fn pick<'a>(
        list: &[Candidate<'a>],
        get: fn(&Endpoint) -> Option<Vec<&str>>,
        ours: &str,
    ) -> Option<Vec<Candidate<'a>>> {
        let mut out = Vec::new();
        for c in list.iter().filter(|c| c.ready) {
            if get(c.endpoint)?.contains(&ours) {
                out.push(c.clone());
            }
        }
        (!out.is_empty()).then_some(out)
    }
    let zone = |list: &[Candidate<'a>]| pick(list, for_zone, node.zone.as_deref()?);
    pick(&list, for_node, &node.name).or_else(|| zone(&list)).unwrap_or(list)
}

/// The ports of a service; none for one that no proxy serves (headless, ExternalName, another's).
pub(crate) fn service_ports(
    svc: &Service,
    slices: &[Arc<EndpointSlice>],
    node: &Node,
) -> Vec<ServicePort> {
    let mut out = Vec::new();
    let Some(spec) = &svc.spec else { return out };
    let labels = svc.metadata.labels.as_ref();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let skip = kind == "ExternalName" || has_label(labels, PROXY_NAME) || has_label(labels, HEADLESS);
    if skip || spec.cluster_ip.as_deref().is_none_or(|ip| ip.is_empty() || ip == "None") {
        return out;
    }
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    for ip in listed.filter_map(|t| t.parse().ok()) {
        if !cluster_ips.contains(&ip) {
            cluster_ips.push(ip);
        }
    }
    let policy = |p: &Option<String>| p.as_deref() == Some("Local");
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let c = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let given = c.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
        given.filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS)
    });
    let ingress: Vec<String> = svc
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref())
        .flatten()
        .filter(|i| i.ip_mode.as_deref().unwrap_or("VIP") == "VIP")
        .filter_map(|i| i.ip.clone())
        .collect();
    let name = |m: &Option<String>| m.clone().unwrap_or_default();
    for cluster_ip in cluster_ips {
        let f = IpFamily::of(cluster_ip);
        for p in spec.ports.iter().flatten() {
            let protocol = Protocol::parse(p.protocol.as_deref().unwrap_or_default());
            let (Some(protocol), Some(number)) = (protocol, port(p.port)) else { continue };
            let port_name = name(&p.name);
            let list = candidates(slices, f, &port_name, protocol, node);
            let local: Vec<_> = list.iter().filter(|c| c.local).cloned().collect();
            let external = matches!(kind, "NodePort" | "LoadBalancer");
            let ranges = spec.load_balancer_source_ranges.iter().flatten();
            out.push(ServicePort {
                service: format!(
                    "{}/{}",
                    name(&svc.metadata.namespace),
                    name(&svc.metadata.name)
                ),
                port_name,
                family: f,
                protocol,
                port: number,
                cluster_ip,
                external_ips: ips(spec.external_ips.as_ref(), f),
                load_balancer_ips: if kind == "LoadBalancer" {
                    ips(Some(&ingress), f)
                } else {
                    Vec::new()
                },
                source_ranges: ranges
                    .filter_map(|r| parse_net(r))
                    .filter(|(ip, _)| IpFamily::of(*ip) == f)
                    .collect(),
                node_port: p.node_port.filter(|_| external).and_then(port),
                internal_local: policy(&spec.internal_traffic_policy),
                external_local: policy(&spec.external_traffic_policy),
                affinity,
                local: usable(&local),
                here: local.iter().map(|c| c.at.ip()).collect(),
                all: usable(&hinted(list, node)),
            });
        }
    }
    out
}
