//! `knarr agent`: this machine as a node of a cluster whose control plane is elsewhere.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;
use knarr_pki::BootstrapToken;

use super::{join::Invitation, kubelet_address};
use crate::{layout::Layout, preflight, up::{self, Plan}};
use anyhow::{Result, bail};

/// What `knarr agent` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// URL of the cluster's API server; not needed again once joined
    #[arg(long, requires = "token")]
    server: Option<String>,
    /// Bootstrap token to join with (`knarr token create`)
    #[arg(long, env = "KNARR_TOKEN", hide_env_values = true)]
    token: Option<BootstrapToken>,
    /// Hash of the cluster authority's public key, `sha256:…`, to know it by besides the token
    #[arg(long, requires = "token")]
    ca_hash: Option<String>,
    /// Go to the background when the node is ready; the log is <data-dir>/knarr.log
    #[arg(long)]
    detach: bool,
    /// This node's name [default: the host name]
    #[arg(long)]
    pub(super) node_name: Option<String>,
    /// This node's address [default: that of the default route]
    #[arg(long)]
    pub(super) node_ip: Option<IpAddr>,
    /// Folder of static pod manifests, watched
    #[arg(long)]
    pub(super) manifests: Option<PathBuf>,
    /// Remove unused images when the disk is fuller than this, in percent; 100: never
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(super) image_gc_high_threshold: u8,
    /// Set in the child of --detach
    #[arg(long, hide = true)]
    detached_child: bool,
}

impl Options {
    pub(super) fn invitation(&self) -> Option<Invitation> {
        let (server, token) = self.server.clone().zip(self.token.clone())?;
        Some(Invitation { server, token, ca_hash: self.ca_hash.clone() })
    }
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// If it cannot start; one line that names what to do.
pub fn run(layout: &Layout, options: &Options, log: &str) -> Result<()> {
    if let Some(server) = &options.server
        && !server.starts_with("https://")
    {
        bail!("--server is a URL like https://10.0.0.1:6443");
    }
    up::prepare(layout)?;
    preflight::free(kubelet_address(), "a free machine")?;
    up::run_plan(layout, Plan::Agent(options.clone()), options.detach, options.detached_child, log)
}
