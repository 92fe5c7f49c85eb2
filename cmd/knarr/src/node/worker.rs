//! What every node runs, whether or not it has a control plane: runtime, kubelet, service proxy,
//! routes to other nodes.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use anyhow::Result;
use knarr_runner::Informers;
use tokio_util::sync::CancellationToken;

use super::{Parts, Runtime, kubelet, membership::Settings, nth, routes};
use crate::{demo, layout::Layout};

/// A node to be run.
pub struct Worker<'a> {
    /// Its folders.
    pub layout: &'a Layout,
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub address: IpAddr,
    /// The cluster's settings.
    pub settings: &'a Settings,
    /// Addresses of its pods.
    pub pod_cidr: &'a str,
    /// Folder of static pod manifests.
    pub manifests: Option<PathBuf>,
    /// How full the disk may be, in percent, before unused images are removed.
    pub image_gc_high: u8,
    /// A client that is its kubelet.
    pub kubelet: kube::Client,
    /// What the service proxy and the routes read.
    pub informers: &'a Informers,
}

impl Worker<'_> {
    /// Starts all of it; gives the node's address in its pods' network.
    ///
    /// # Errors
    /// If the pod network or the runtime cannot start.
    pub async fn start(self, parts: &Parts, shutdown: &CancellationToken) -> Result<Ipv4Addr> {
        let mut network = knarr_network::Config::new(self.layout.data_dir.join("network"));
        network.pod_cidr = self.pod_cidr.to_owned();
        network.cluster_cidr = self.settings.cluster_cidr.clone();
        network.service_cidr = Some(self.settings.service_cidr.clone());
        let runtime = Runtime::open(self.layout, &network).await?;
        demo::import(runtime.cri.images())?;
        runtime.serve(self.layout, parts, shutdown);

        let mut config = kubelet::config(self.layout, self.name, self.address);
        config.cluster_dns = vec![nth(&self.settings.service_cidr, 10)?];
        config.cluster_domain = self.settings.cluster_domain.clone();
        config.manifests = self.manifests;
        config.image_gc_high_percent = self.image_gc_high;
        config.pod_cidr = Some(self.pod_cidr.to_owned());
        parts.start(
            "kubelet",
            knarr_kubelet::run(config, Some(self.kubelet), runtime.channel, shutdown.clone()),
        );
        let proxy = knarr_proxy::Config::new(self.name, vec![self.address], &self.settings.cluster_cidr);
        let (shared, stop) = (self.informers.clone(), shutdown.clone());
        parts.start("service proxy", async move {
            knarr_proxy::run_with(&shared, proxy, stop).await
        });
        let gateway = runtime.bridge.gateway();
        let keep = routes::keep(self.informers.clone(), runtime.bridge, self.address, shutdown.clone());
        parts.start("routes to other nodes", keep);
        Ok(gateway)
    }
}
