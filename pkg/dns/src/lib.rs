//! Cluster DNS, as the Kubernetes DNS-based service discovery specification (version 1.1) defines
//! it: A, AAAA, SRV, PTR and CNAME records for services, endpoints and pods. Everything outside
//! the cluster's domain goes to the node's resolvers.
//!
//! Records are not kept: an answer is read from the shared informers when it is asked for, so it
//! is as fresh as the watch.
#![forbid(unsafe_code)]

mod forward;
mod server;
mod service;
mod zone;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use knarr_runner::Informers;
use tokio_util::sync::CancellationToken;

pub use service::ensure_service;

/// What a DNS server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens, over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The file that names the resolvers for everything else; read again when it changes.
    pub resolv_conf: PathBuf,
}

/// Why the DNS server could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The domain is no domain name.
    #[error("{domain:?} is not a domain name")]
    Domain {
        /// What was given.
        domain: String,
    },
    /// An address could not be listened on.
    #[error("cannot listen on {address} for DNS: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The service object could not be written.
    #[error("cannot write the DNS service: {0}")]
    Api(#[from] kube::Error),
}

/// Serves until `shutdown`.
///
/// # Errors
/// [`Error::Domain`] or [`Error::Listen`], before anything is served.
pub async fn run(
    informers: Informers,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let zone = zone::Zone::new(
        &config.domain,
        informers.get::<Service>(),
        informers.get::<EndpointSlice>(),
    )
    .ok_or_else(|| Error::Domain { domain: config.domain.clone() })?;
    let forward = forward::Forwarder::new(config.resolv_conf, config.listen.clone());
    let server = Arc::new(server::Server { zone, forward });
    let mut sockets = Vec::new();
    for &address in &config.listen {
        let listen = |source| Error::Listen { address, source };
        let udp = tokio::net::UdpSocket::bind(address).await.map_err(listen)?;
        let tcp = tokio::net::TcpListener::bind(address).await.map_err(listen)?;
        sockets.push((udp, tcp));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (udp, tcp) in sockets {
        tasks.spawn(server.clone().serve_udp(Arc::new(udp)));
        tasks.spawn(server.clone().serve_tcp(tcp));
    }
    shutdown.cancelled().await;
    tasks.shutdown().await;
    Ok(())
}
