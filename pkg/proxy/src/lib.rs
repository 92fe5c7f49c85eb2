//! Services in one nftables table: ClusterIP, NodePort, external and load-balancer addresses,
//! session affinity, traffic policies.
//!
//! The rules never change with the number of services: verdict maps lead from an address and a
//! port to the chain of a service. A change of a Service or of its EndpointSlices becomes one
//! transaction that touches that service's chains and elements only.
#![forbid(unsafe_code)]

mod apply;
mod model;
mod plan;
mod run;
mod table;
mod udp;

pub use apply::remove;
pub use run::{run, run_with};

use std::net::IpAddr;

/// How the proxy of this node is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name: which endpoints are local.
    pub node_name: String,
    /// The node's addresses, for forgetting UDP flows to node ports.
    pub node_ips: Vec<IpAddr>,
    /// The ranges of all pods; what comes from elsewhere to a service address is masqueraded.
    pub cluster_cidrs: Vec<String>,
    /// The node's zone (label topology.kubernetes.io/zone), for topology hints.
    pub zone: Option<String>,
    /// The nftables table (family inet), wholly ours.
    pub table: String,
}

impl Config {
    /// The usual settings.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>, cluster_cidr: &str) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips,
            cluster_cidrs: vec![cluster_cidr.to_owned()],
            zone: None,
            table: "knarr".into(),
        }
    }
}

/// An error of the proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Network(#[from] knarr_network::Error),
    /// The configuration makes no sense.
    #[error("cluster range {value:?}: {reason}")]
    Cidr {
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A task of ours died.
    #[error("the thread that writes the table died: {0}")]
    Died(String),
}
