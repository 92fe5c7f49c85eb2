//! Carries the table's changes into the kernel.

use crate::model::{self, Net, Node};
use crate::plan::{Plan, plan};
use crate::table::Table;
use crate::udp::Forgetter;
use crate::{Config, Error};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_network::netlink::Socket;
use knarr_network::nft::Batch;
use std::sync::Arc;

/// One service as it is now; `None` when it is gone.
pub(crate) struct Change {
    pub key: String,
    pub service: Option<Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// The table and the way to it. Blocking.
pub(crate) struct Applier {
    socket: Socket,
    table: Table,
    node: Node,
    cluster: Vec<Net>,
    udp: Forgetter,
    /// Whether the kernel is known to have what `table` says.
    whole: bool,
    #[cfg(test)]
    rebuilds: usize,
}

impl Applier {
    /// In the network namespace of the calling thread.
    pub fn new(cfg: &Config) -> Result<Self, Error> {
        let mut cluster = Vec::new();
        for c in cfg.cluster_cidrs.iter().flat_map(|c| c.split(',')) {
            let reason = "not ADDRESS/PREFIX";
            let net = model::parse_net(c);
            cluster.push(net.ok_or_else(|| Error::Cidr { value: c.to_owned(), reason })?);
        }
        Ok(Self {
            socket: Socket::netfilter()?,
            table: Table::new(&cfg.table, cluster.clone()),
            node: Node { name: cfg.node_name.clone(), zone: cfg.zone.clone() },
            cluster,
            udp: Forgetter::start(cfg.node_ips.iter().copied().collect())?,
            whole: false,
            #[cfg(test)]
            rebuilds: 0,
        })
    }

    fn plan(&self, c: &Change) -> Option<Plan> {
        let ports = model::service_ports(c.service.as_deref()?, &c.slices, &self.node);
        Some(plan(&ports, &self.cluster))
    }

    /// Takes the changes and makes the kernel follow, in one transaction. The first call, and
    /// the one after a failure, replaces the whole table.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), Error> {
        let plans = changes.iter().map(|c| (c.key.clone(), self.plan(c))).collect();
        let (batch, stale) = self.table.update(plans);
        if self.whole
            && let Err(error) = batch.commit(&mut self.socket, "change services")
        {
            tracing::warn!(%error, "the service table is made anew");
            self.whole = false;
        }
        if !self.whole {
            self.table.rebuild().commit(&mut self.socket, "make the service table")?;
            self.whole = true;
            #[cfg(test)]
            {
                self.rebuilds += 1;
            }
            tracing::debug!(services = self.table.len(), "service table made");
        }
        self.udp.forget(stale);
        Ok(())
    }

    /// Waits until stale UDP flows are forgotten.
    #[cfg(test)]
    pub fn settle(&self) {
        self.udp.settle();
    }
}

/// Removes the proxy's table.
///
/// # Errors
/// The kernel's; a table that is not there is fine.
pub fn remove(table: &str) -> Result<(), Error> {
    let mut b = Batch::new(table);
    b.add_table();
    b.delete_table();
    Ok(b.commit(&mut Socket::netfilter()?, "delete the service table")?)
}

#[cfg(test)]
mod tests;
