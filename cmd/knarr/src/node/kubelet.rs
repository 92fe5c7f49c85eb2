//! `knarr kubelet`: a kubelet on a folder of static pods, with no API server, over the built-in runtime
//! or another one.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use knarr_kubelet::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{Parts, Runtime, claim};
use crate::{
    CGROUP_ROOT, KUBERNETES_VERSION,
    control::{self, Request},
    demo,
    layout::Layout,
    log_to, preflight, say,
};

/// What `knarr kubelet` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Folder of static pod manifests, watched
    #[arg(long)]
    manifests: PathBuf,
    /// This node's name [default: the host name]
    #[arg(long)]
    node_name: Option<String>,
    /// This node's address [default: that of the default route]
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Addresses of this node's pods
    #[arg(long, default_value = "10.244.0.0/24")]
    pod_cidr: String,
    /// Another container runtime, such as unix:///run/containerd/containerd.sock; it brings its own
    /// network and images [default: the built-in one]
    #[arg(long, value_name = "unix:///PATH", conflicts_with = "pod_cidr")]
    container_runtime_endpoint: Option<String>,
}

/// Connects to the runtime of a socket.
async fn connect(endpoint: &str) -> Result<Channel> {
    if !endpoint.starts_with("unix:///") {
        bail!("--container-runtime-endpoint {endpoint:?}: must be unix:///PATH");
    }
    Endpoint::from_shared(endpoint.to_owned())?
        .connect()
        .await
        .with_context(|| format!("cannot reach the container runtime at {endpoint}"))
}

/// The kubelet's configuration for this layout, with certificates if there are any.
pub(super) fn config(layout: &Layout, name: &str, address: IpAddr) -> Config {
    let mut config = Config::new(name, address);
    config.data_dir = layout.data_dir.clone();
    config.cgroup_root = format!("{CGROUP_ROOT}/kubepods");
    config.version = KUBERNETES_VERSION.into();
    config.listen = Some(super::kubelet_address());
    let pki = layout.pki();
    config.tls = Some(knarr_kubelet::Tls {
        cert: pki.join("kubelet.crt"),
        key: pki.join("kubelet.key"),
        client_ca: pki.join("ca.crt"),
    });
    config
}

/// Runs the kubelet until it is told to stop.
///
/// # Errors
/// If it cannot start or fails.
pub fn run(layout: &Layout, options: &Options, log: &str) -> Result<()> {
    preflight::privileges()?;
    preflight::kernel()?;
    if control::ask(&layout.control_socket(), &Request::Status)?.is_some() {
        bail!("knarr runs on these folders already: give it the manifests with `up --manifests`");
    }
    claim(layout)?;
    log_to(log, None)?;
    crate::lasting_runtime(2)?.block_on(serve(layout, options))
}

async fn serve(layout: &Layout, options: &Options) -> Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = options
        .node_name
        .clone()
        .unwrap_or_else(preflight::node_name);
    let address = options.node_ip.unwrap_or_else(preflight::node_address);
    let (parts, mut failures) = Parts::new();
    let channel = if let Some(endpoint) = &options.container_runtime_endpoint {
        connect(endpoint).await?
    } else {
        let mut network = knarr_network::Config::new(layout.data_dir.join("network"));
        network.pod_cidr.clone_from(&options.pod_cidr);
        network.service_cidr = None;
        let runtime = Runtime::open(layout, &network).await?;
        demo::import(runtime.cri.images())?;
        runtime.serve(layout, &parts, &shutdown);
        runtime.channel
    };
    let mut config = config(layout, &name, address);
    // Nobody could be told from anybody else: there is no authority.
    config.tls = None;
    config.listen = None;
    config.manifests = Some(options.manifests.clone());
    parts.start(
        "kubelet",
        knarr_kubelet::run(config, None, channel, shutdown.clone()),
    );
    say(&format!(
        "the kubelet runs the pods in {}",
        options.manifests.display()
    ));
    let result = tokio::select! {
        failure = failures.recv() => failure.map_or(Ok(()), Err),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    shutdown.cancel();
    parts.tasks.close();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), parts.tasks.wait()).await;
    result
}
