//! From a service's ports to what the table has for it. Pure.

use crate::model::{Net, ServicePort};
use knarr_network::Protocol;
use knarr_network::nft::{
    AnonMap, Expr, IpFamily, R0, Rule, SetSpec, VERDICT_REG, Verdict, Write, datatype,
    ip_bytes, ip_ip, ip_port, ip_proto_port, proto_port,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// The mark bit of packets to be masqueraded (the one that other proxies use too).
pub(crate) const MARK: u32 = 0x4000;

/// The table's maps and sets of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Map {
    /// `address . protocol . port` to a service's chain.
    Services,
    /// `protocol . port` to a service's chain, for the host's addresses.
    NodePorts,
    /// The same for what has no endpoint: reject or drop.
    Dead,
    /// The same for node ports.
    DeadNodePorts,
    /// All cluster addresses: an unknown port of theirs is rejected.
    ClusterIps,
    /// Local endpoints beside themselves: a pod that reached itself.
    Hairpin,
}

impl Map {
    pub const ALL: [Map; 6] = [
        Map::Services,
        Map::NodePorts,
        Map::Dead,
        Map::DeadNodePorts,
        Map::ClusterIps,
        Map::Hairpin,
    ];

    /// Its name in the table.
    pub fn name(self, f: IpFamily) -> String {
        let base = match self {
            Map::Services => "services",
            Map::NodePorts => "nodeports",
            Map::Dead => "dead",
            Map::DeadNodePorts => "dead-nodeports",
            Map::ClusterIps => "cluster-ips",
            Map::Hairpin => "hairpin",
        };
        format!("{base}{}", f.digit())
    }

    /// How it is made.
    pub fn spec(self, f: IpFamily) -> SetSpec {
        let verdict = Some((datatype::VERDICT, 0));
        let ip = f.datatype();
        let (parts, key_len, data) = match self {
            Map::Services | Map::Dead => {
                (vec![ip, datatype::PROTO, datatype::PORT], f.addr_len() + 8, verdict)
            }
            Map::NodePorts | Map::DeadNodePorts => {
                (vec![datatype::PROTO, datatype::PORT], 8, verdict)
            }
            Map::ClusterIps => (vec![ip], f.addr_len(), None),
            Map::Hairpin => (vec![ip, ip], f.addr_len() * 2, None),
        };
        let key_type = datatype::concat(&parts);
        SetSpec { name: self.name(f), key_type, key_len, data, timeout: None }
    }
}

/// An element's place: which map, which family, which key.
pub(crate) type Place = (Map, IpFamily, Vec<u8>);

/// Where UDP arrives for a service, and where it may be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct UdpFront {
    pub addresses: BTreeSet<IpAddr>,
    pub port: u16,
    pub node_port: Option<u16>,
    pub backends: BTreeSet<SocketAddr>,
}

/// All that the table has for one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// Chains with their rules.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Affinity sets.
    pub sets: BTreeMap<String, SetSpec>,
    /// Elements; a set's have no verdict.
    pub elements: BTreeMap<Place, Option<Verdict>>,
    /// UDP ports.
    pub udp: Vec<UdpFront>,
}

fn hash(text: &str) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A chain's or set's name: unique by its number, readable by the rest, at most 100 bytes.
fn name(kind: &str, sp: &ServicePort, more: &str) -> String {
    let what = format!(
        "{}/{}/{}{}",
        sp.service,
        sp.protocol.name().to_lowercase(),
        sp.port_name,
        if sp.family == IpFamily::V6 { "/6" } else { "" }
    );
    let h = hash(&format!("{what} {} {more}", sp.cluster_ip));
    let mut n = format!("{kind}-{h:016x}-{what}");
    n.truncate(100);
    n
}

/// Leads one connection to one of the endpoints, picked at random.
fn spread(f: IpFamily, to: &BTreeSet<SocketAddr>) -> Rule {
    let mut it = to.iter();
    if let (Some(only), None) = (it.next(), it.next()) {
        return Rule::any().dnat(only.ip(), only.port());
    }
    let elements = numbered(to.iter().map(|e| Write::Data(ip_port(e.ip(), e.port()))));
    let map = AnonMap {
        key_type: datatype::INTEGER,
        key_len: 4,
        data_type: datatype::concat(&[f.datatype(), datatype::PORT]),
        data_len: f.addr_len() + 4,
        elements,
    };
    pick(to.len())
        .with(Expr::LookupAnon { map, sreg: R0, dreg: R0 })
        .with(Expr::Dnat { family: f, addr: R0, port: Some(R0 + f.regs()) })
}

fn numbered(values: impl Iterator<Item = Write>) -> Vec<(Vec<u8>, Write)> {
    (0u32..).zip(values).map(|(i, v)| (i.to_ne_bytes().to_vec(), v)).collect()
}

fn pick(n: usize) -> Rule {
    let modulus = u32::try_from(n).unwrap_or(u32::MAX);
    Rule::any().with(Expr::Random { dreg: R0, modulus })
}

impl Plan {
    /// Adds the chain that leads to these endpoints, and gives its name.
    fn balance(&mut self, kind: &str, sp: &ServicePort, to: &BTreeSet<SocketAddr>) -> String {
        let chain = name(kind, sp, "");
        let Some(seconds) = sp.affinity else {
            self.chains.insert(chain.clone(), vec![spread(sp.family, to)]);
            return chain;
        };
        let f = sp.family;
        let mut rules = Vec::new();
        let mut ends = Vec::new();
        for e in to {
            // One set per endpoint, shared by the chains of both policies.
            let set = name("aff", sp, &format!("{e} {seconds}"));
            let end = name("ep", sp, &e.to_string());
            self.sets.insert(
                set.clone(),
                SetSpec {
                    name: set.clone(),
                    key_type: f.datatype(),
                    key_len: f.addr_len(),
                    data: None,
                    timeout: Some(seconds),
                },
            );
            let update = Expr::Update { set: set.clone(), sreg: R0 };
            let rule = Rule::any().load_saddr(f, R0).with(update).dnat(e.ip(), e.port());
            self.chains.insert(end.clone(), vec![rule]);
            rules.push(Rule::any().load_saddr(f, R0).in_set(&set, false).goto(&end));
            ends.push(end);
        }
        let gotos = ends.iter().map(|e| Write::Verdict(Verdict::Goto(e.clone())));
        let map = AnonMap {
            key_type: datatype::INTEGER,
            key_len: 4,
            data_type: datatype::VERDICT,
            data_len: 0,
            elements: numbered(gotos),
        };
        rules.push(pick(to.len()).with(Expr::LookupAnon { map, sreg: R0, dreg: VERDICT_REG }));
        self.chains.insert(chain.clone(), rules);
        chain
    }

    fn address(&mut self, sp: &ServicePort, ip: IpAddr, map: Map, v: Verdict) {
        let key = ip_proto_port(ip, sp.protocol, sp.port);
        self.elements.insert((map, sp.family, key), Some(v));
    }

    fn node_port(&mut self, sp: &ServicePort, map: Map, v: Verdict) {
        if let Some(p) = sp.node_port {
            self.elements.insert((map, sp.family, proto_port(sp.protocol, p)), Some(v));
        }
    }

    fn port(&mut self, sp: &ServicePort, cluster: &[Net]) {
        let f = sp.family;
        self.elements.insert((Map::ClusterIps, f, ip_bytes(sp.cluster_ip)), None);
        for ip in &sp.here {
            self.elements.insert((Map::Hairpin, f, ip_ip(*ip, *ip)), None);
        }
        let reject = || Verdict::Goto("reject".into());
        let outside = !sp.external_ips.is_empty()
            || !sp.load_balancer_ips.is_empty()
            || sp.node_port.is_some();
        let by_cluster = (!sp.internal_local || outside) && !sp.all.is_empty();
        let chain = by_cluster.then(|| self.balance("svc", sp, &sp.all));
        let by_local = sp.internal_local || (outside && sp.external_local);
        let local =
            (by_local && !sp.local.is_empty()).then(|| self.balance("loc", sp, &sp.local));

        let inside = if sp.internal_local { local.clone() } else { chain.clone() };
        match inside {
            Some(c) => self.address(sp, sp.cluster_ip, Map::Services, Verdict::Goto(c)),
            // Endpoints elsewhere that the policy forbids: silence, so that clients wait.
            None if !sp.all.is_empty() => {
                self.address(sp, sp.cluster_ip, Map::Dead, Verdict::Drop);
            }
            None => self.address(sp, sp.cluster_ip, Map::Dead, reject()),
        }
        if outside {
            self.outside(sp, cluster, chain, local);
        }
        if sp.protocol == Protocol::Udp {
            let addresses = std::iter::once(sp.cluster_ip)
                .chain(sp.external_ips.iter().copied())
                .chain(sp.load_balancer_ips.iter().copied());
            self.udp.push(UdpFront {
                addresses: addresses.collect(),
                port: sp.port,
                node_port: sp.node_port,
                backends: sp.all.union(&sp.local).copied().collect(),
            });
        }
    }

    /// Traffic to node ports, external and load-balancer addresses.
    fn outside(
        &mut self,
        sp: &ServicePort,
        cluster: &[Net],
        chain: Option<String>,
        local: Option<String>,
    ) {
        let addresses: Vec<IpAddr> =
            sp.external_ips.iter().chain(&sp.load_balancer_ips).copied().collect();
        let Some(chain) = chain else {
            let reject = Verdict::Goto("reject".into());
            for ip in addresses {
                self.address(sp, ip, Map::Dead, reject.clone());
            }
            self.node_port(sp, Map::DeadNodePorts, reject);
            return;
        };
        let entry = name("ext", sp, "");
        let mut rules = Vec::new();
        if sp.external_local {
            // Pods and this node see every endpoint.
            for (net, prefix) in cluster.iter().filter(|n| IpFamily::of(n.0) == sp.family) {
                rules.push(Rule::any().saddr_in(*net, *prefix, true).goto(&chain));
            }
            rules.push(Rule::any().from_local().set_mark(MARK, true).goto(&chain));
            match &local {
                Some(l) => rules.push(Rule::any().goto(l)),
                None => {
                    for ip in &addresses {
                        self.address(sp, *ip, Map::Dead, Verdict::Drop);
                    }
                    self.node_port(sp, Map::DeadNodePorts, Verdict::Drop);
                }
            }
        } else {
            rules.push(Rule::any().set_mark(MARK, true).goto(&chain));
        }
        self.chains.insert(entry.clone(), rules);
        for ip in &sp.external_ips {
            self.address(sp, *ip, Map::Services, Verdict::Goto(entry.clone()));
        }
        self.node_port(sp, Map::NodePorts, Verdict::Goto(entry.clone()));
        let mut gate = entry.clone();
        if !sp.source_ranges.is_empty() && !sp.load_balancer_ips.is_empty() {
            gate = name("fw", sp, "");
            let mut rules: Vec<Rule> = sp
                .source_ranges
                .iter()
                .map(|(net, prefix)| Rule::any().saddr_in(*net, *prefix, true).goto(&entry))
                .collect();
            rules.push(Rule::any().verdict(Verdict::Drop));
            self.chains.insert(gate.clone(), rules);
        }
        for ip in &sp.load_balancer_ips {
            self.address(sp, *ip, Map::Services, Verdict::Goto(gate.clone()));
        }
    }
}

/// What the table has for the ports of one service.
pub(crate) fn plan(ports: &[ServicePort], cluster: &[Net]) -> Plan {
    let mut p = Plan::default();
    for sp in ports {
        p.port(sp, cluster);
    }
    p
}

#[cfg(test)]
mod tests;
