//! `knarr cri`: the container runtime alone, for another kubelet.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Args;
use knarr_cri::{BridgeNetwork, CniNetwork, Network};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Parts, Runtime, bridge, claim};
use crate::{
    control::{self, Request},
    layout::Layout,
    log_to, preflight, say,
};

/// What `knarr cri` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Unix socket of the CRI v1 services [default: cri.sock in the run folder]
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// Folder of CNI configurations; without it the built-in bridge connects pods
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Folder of CNI plugins; may be given several times
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/opt/cni/bin",
        requires = "cni_conf_dir"
    )]
    cni_bin_dir: Vec<PathBuf>,
    /// Addresses of this node's pods on the built-in bridge
    #[arg(long, default_value = "10.244.0.0/24", conflicts_with = "cni_conf_dir")]
    pod_cidr: String,
    /// Another OCI runtime, by the name that a RuntimeClass's handler gives it
    #[arg(long, value_name = "NAME=PATH", value_parser = handler)]
    runtime: Vec<(String, PathBuf)>,
}

fn handler(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("it must be NAME=PATH")?;
    let path = PathBuf::from(path);
    if !path.is_absolute() || !path.is_file() {
        return Err(format!("{} is no program", path.display()));
    }
    Ok((name.to_owned(), path))
}

/// Serves until told to stop; containers go on, and the next start takes them over.
///
/// # Errors
/// If it cannot start or fails.
pub fn run(layout: &Layout, options: &Options, log: &str) -> Result<()> {
    preflight::privileges()?;
    preflight::kernel()?;
    if control::ask(&layout.control_socket(), &Request::Status)?.is_some() {
        bail!(
            "knarr runs on these folders already, with a runtime of its own: choose others with --data-dir and --run-dir"
        );
    }
    let socket = options
        .listen
        .clone()
        .unwrap_or_else(|| layout.cri_socket());
    // A child of one that was killed may hold its socket until it has become another program.
    let served = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    let begun = std::time::Instant::now();
    while served() {
        if begun.elapsed() > std::time::Duration::from_secs(2) {
            bail!("{} is served already", socket.display());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    claim(layout)?;
    log_to(log, None)?;
    crate::lasting_runtime(2)?.block_on(serve(layout, options, socket))
}

async fn serve(layout: &Layout, options: &Options, socket: PathBuf) -> Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let network: Arc<dyn Network> = match &options.cni_conf_dir {
        Some(conf) => {
            let cache = layout.data_dir.join("cni");
            Arc::new(CniNetwork::new(conf, options.cni_bin_dir.clone(), cache))
        }
        None => {
            let mut config = knarr_network::Config::new(layout.data_dir.join("network"));
            config.pod_cidr.clone_from(&options.pod_cidr);
            config.cluster_cidr.clone_from(&options.pod_cidr);
            config.service_cidr = None;
            Arc::new(BridgeNetwork::new(bridge(&config).await?))
        }
    };
    let handlers = options.runtime.iter().cloned().collect();
    let (parts, mut failures) = Parts::new();
    let cri = Runtime::services(layout, network, handlers).await?;
    let (at, stop) = (socket.clone(), shutdown.clone());
    parts.start("CRI socket", async move {
        cri.serve(&at, stop.cancelled_owned()).await
    });
    say(&format!("CRI v1 at unix://{}", socket.display()));
    let result = tokio::select! {
        failure = failures.recv() => failure.map_or(Ok(()), Err),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    shutdown.cancel();
    parts.tasks.close();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), parts.tasks.wait()).await;
    let _ = std::fs::remove_file(&socket);
    result
}
