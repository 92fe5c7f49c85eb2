//! Routes to the pods of other nodes.

use std::{net::{IpAddr, Ipv4Addr}, sync::Arc};

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use knarr_network::{Bridge, Peer};
use knarr_runner::Informers;
use tokio_util::sync::CancellationToken;

/// A node's pods and the address that leads to them, once both are known.
fn peer(node: &Node) -> Option<Peer> {
    let pod_cidr = node.spec.as_ref()?.pod_cidr.clone().filter(|c| c.contains('.'))?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let own = addresses.iter().filter(|a| a.type_ == "InternalIP");
    let node_ip: Ipv4Addr = own.filter_map(|a| a.address.parse().ok()).next()?;
    Some(Peer { pod_cidr, node_ip })
}

/// Keeps the routes until `shutdown`.
///
/// # Errors
/// If the thread that sets them dies.
pub async fn keep(
    informers: Informers,
    bridge: Arc<Bridge>,
    own: IpAddr,
    shutdown: CancellationToken,
) -> Result<()> {
    let nodes = informers.get::<Node>();
    let mut events = nodes.subscribe();
    nodes.synced().await;
    let mut set = Vec::new();
    loop {
        while events.try_next().is_some() {}
        let mut peers: Vec<Peer> = nodes.list().iter().filter_map(|n| peer(n)).collect();
        peers.retain(|p| IpAddr::V4(p.node_ip) != own);
        peers.sort_by(|a, b| a.pod_cidr.cmp(&b.pod_cidr));
        if peers != set {
            set.clone_from(&peers);
            let bridge = bridge.clone();
            let done = tokio::task::spawn_blocking(move || bridge.set_peers(&peers)).await?;
            if let Err(error) = done {
                // A node of another network: its pods are not reached from here.
                tracing::warn!(%error, "a route to another node's pods");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            event = events.next() => if event.is_none() { return Ok(()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_peer_once_its_range_and_address_are_known() {
        let node = |spec: &str, address: &str| -> Node {
            serde_json::from_value(serde_json::json!({
                "spec": {"podCIDR": spec},
                "status": {"addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": address},
                ]},
            }))
            .unwrap()
        };
        let known = peer(&node("10.244.1.0/24", "10.0.0.2")).unwrap();
        assert_eq!((known.pod_cidr.as_str(), known.node_ip), ("10.244.1.0/24", [10, 0, 0, 2].into()));
        assert_eq!(peer(&node("", "10.0.0.2")), None);
        assert_eq!(peer(&node("fd00::/64", "10.0.0.2")), None);
        assert_eq!(peer(&node("10.244.1.0/24", "fe80::1")), None);
        assert_eq!(peer(&Node::default()), None);
    }
}
