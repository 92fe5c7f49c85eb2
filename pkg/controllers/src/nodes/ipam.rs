//! Pod networks for nodes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, EventType, Informers, Plan, Queue};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A network from which nodes get theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pool {
    base: u128,
    bits: u8,
    prefix: u8,
    node_prefix: u8,
}

fn parse(cidr: &str) -> Option<(u128, u8, u8)> {
    let (ip, len) = cidr.split_once('/')?;
    let len: u8 = len.parse().ok()?;
    match ip.parse().ok()? {
        IpAddr::V4(v) if len <= 32 => Some((u128::from(u32::from(v)), 32, len)),
        IpAddr::V6(v) if len <= 128 => Some((u128::from(v), 128, len)),
        _ => None,
    }
}

impl Pool {
    fn new(cidr: &str, v4: u8, v6: u8) -> Option<Self> {
        let (base, bits, prefix) = parse(cidr)?;
        let node_prefix = if bits == 32 { v4 } else { v6 };
        if node_prefix < prefix || node_prefix > bits {
            return None;
        }
        let host = bits - prefix;
        let base = if host >= 128 { 0 } else { base >> host << host };
        Some(Self { base, bits, prefix, node_prefix })
    }
    fn text(&self, i: u128) -> String {
        let v = self.base + (i << (self.bits - self.node_prefix));
        let ip = if self.bits == 32 {
            IpAddr::from((u32::try_from(v).unwrap_or(0)).to_be_bytes())
        } else {
            IpAddr::from(v.to_be_bytes())
        };
        format!("{ip}/{}", self.node_prefix)
    }
    fn free(&self, used: &HashSet<String>) -> Option<String> {
        let n = 1u128 << (self.node_prefix - self.prefix).min(24);
        (0..n).map(|i| self.text(i)).find(|c| !used.contains(c))
    }
}

/// The node IPAM controller.
pub struct Ipam {
    nodes: Arc<Cache<Node>>,
    pools: Vec<Pool>,
    /// Given and perhaps not yet seen, by node.
    given: Mutex<HashMap<String, Vec<String>>>,
}

impl Ipam {
    /// A controller over these informers. Malformed networks are left out.
    pub fn new(i: &Informers, cidrs: &[String], v4: u8, v6: u8) -> Self {
        let pools = cidrs
            .iter()
            .filter_map(|c| {
                let p = Pool::new(c, v4, v6);
                if p.is_none() {
                    tracing::error!(cidr = %c, "not a usable cluster network");
                }
                p
            })
            .collect();
        Self { nodes: i.get(), pools, given: Mutex::default() }
    }
}

fn cidrs(n: &Node) -> Vec<String> {
    let s = n.spec.as_ref();
    let many = s.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    if many.is_empty() {
        s.and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty()).into_iter().collect()
    } else {
        many
    }
}

impl Controller for Ipam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.nodes.on_event(move |e| {
            if cidrs(e.object()).is_empty() {
                q.add(Key::of(&e.object().metadata));
            }
        });
    }
    fn synced(&self) -> bool {
        self.nodes.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|n, _| self.nodes.get("", n).is_some());
        let Some(n) = self.nodes.by_key(key) else { return Plan::none() };
        if self.pools.is_empty() || !cidrs(&n).is_empty() {
            return Plan::none();
        }
        let mut used: HashSet<String> = self.nodes.list().iter().flat_map(|n| cidrs(n)).collect();
        used.extend(given.iter().filter(|(k, _)| **k != key.name).flat_map(|(_, v)| v.clone()));
        let mut mine = Vec::new();
        for p in &self.pools {
            match p.free(&used) {
                Some(c) => mine.push(c),
                None => {
                    let text = "Node CIDR allocation failed: no free networks";
                    return Plan::one(Action::event(
                        "cidrAllocator",
                        n.as_ref(),
                        EventType::Normal,
                        "CIDRNotAvailable",
                        text,
                    ));
                }
            }
        }
        given.insert(meta::name(&n.metadata).to_owned(), mine.clone());
        let patch = serde_json::json!({"spec": {"podCIDR": mine[0], "podCIDRs": mine}});
        Plan::one(Action::merge(n.as_ref(), "", patch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_cut_and_not_given_twice() {
        let p = Pool::new("10.244.0.0/16", 24, 64).expect("valid");
        assert_eq!(p.text(0), "10.244.0.0/24");
        let used = HashSet::from(["10.244.0.0/24".to_owned()]);
        assert_eq!(p.free(&used).as_deref(), Some("10.244.1.0/24"));
        let six = Pool::new("fd00::/48", 24, 64).expect("valid");
        assert_eq!(six.text(1), "fd00:0:0:1::/64");
        assert!(Pool::new("10.0.0.0/28", 24, 64).is_none());
    }
}
