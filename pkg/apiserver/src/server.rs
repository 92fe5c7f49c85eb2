//! Starting, serving, stopping.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use knarr_registry::{ApiError, Registry};
use knarr_schema::Catalog;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    aggregator::{self, Aggregator, ProxyClient},
    alloc::Cidr,
    audit::Audit,
    auth::{Impersonation, Tokens, UserInfo, front_proxy::Authorities, jwt, oidc, webhook::TokenWebhook},
    authz::{self, Authorizer},
    bootstrap,
    config::{AuthenticationConfiguration, Config, Settings},
    core::{self, ConfigReloads, Core},
    custom,
    flowcontrol::{self, Limiter},
    pipeline::{self, Identity},
    reload,
    respond::{Body, BodyError},
    serve::connect::Kubelets,
};

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be read or written.
    #[error("the store: {0}")]
    Store(#[source] ApiError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{what}: {reason}")]
    Key {
        /// Which one.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The authentication configuration makes no sense.
    #[error("the authentication configuration: {0}")]
    Authentication(String),
    /// A setting makes no sense.
    #[error("{what} {value:?} is not valid")]
    Setting {
        /// Which one.
        what: &'static str,
        /// Its value.
        value: String,
    },
}

/// A running API server; dropping it stops it.
pub struct ApiServer {
    core: Arc<Core>,
    address: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

fn tls(config: &Config, authorities: &Authorities) -> Result<TlsAcceptor, Error> {
    let key_error = |what| {
        move |e: &dyn std::fmt::Display| Error::Key {
            what,
            reason: e.to_string(),
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| key_error("TLS")(&e))?;
    let builder = match &authorities.any {
        None => builder.with_no_client_auth(),
        Some(v) => builder.with_client_cert_verifier(Arc::clone(v)),
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(config.tls_certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| key_error("serving certificate")(&e))?;
    let key = PrivateKeyDer::from_pem_slice(config.tls_key.as_bytes())
        .map_err(|e| key_error("serving key")(&e))?;
    let mut c = builder
        .with_single_cert(chain, key)
        .map_err(|e| key_error("serving certificate")(&e))?;
    c.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(c)))
}

impl ApiServer {
    /// Loads the store, makes what every cluster has, and serves.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let authorities = Authorities::new(
            &config.client_ca,
            config.requestheader_ca.as_deref(),
            &config.requestheader.allowed_names,
        )
        .map_err(|reason| Error::Key {
            what: "client authority",
            reason,
        })?;
        let acceptor = tls(&config, &authorities)?;
        let service_cidr = Cidr::parse(&config.service_cidr).ok_or_else(|| Error::Setting {
            what: "service network",
            value: config.service_cidr.clone(),
        })?;
        let bad_key = |e: jwt::Error| Error::Key {
            what: "service-account key",
            reason: e.to_string(),
        };
        let mut signer = jwt::Signer::new(&config.service_account_key).map_err(bad_key)?;
        for pem in &config.service_account_trusted {
            signer.trust(pem).map_err(bad_key)?;
        }
        let kubelets = Kubelets::new(config.kubelet_client.as_ref(), config.kubelet_ca.as_deref())
            .map_err(|reason| Error::Key {
                what: "kubelet client certificate",
                reason,
            })?;
        let audit = config.audit.clone().map(Audit::open).transpose();
        let audit = audit.map_err(|e| Error::Setting {
            what: "audit log",
            value: e.to_string(),
        })?;
        let authentication = oidc::Authentication::new(
            &config.authentication.clone().unwrap_or_default(),
            &config.issuer,
            config.anonymous,
        )
        .map_err(Error::Authentication)?;
        let proxy_client = config
            .proxy_client
            .as_ref()
            .map(|(c, k)| ProxyClient::new(c, k))
            .transpose();
        let proxy_client = proxy_client.map_err(|reason| Error::Key {
            what: "front proxy's client certificate",
            reason,
        })?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| Error::Listen {
                address: config.listen,
                source,
            })?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
        let builtin = Arc::new(config.runtime.catalog());
        let caches = core::codecs(Catalog::builtin().resources())
            .into_iter()
            .map(|(p, c, _)| (p, c))
            .collect();
        let registry = Registry::open(Arc::clone(&config.store), caches)
            .await
            .map_err(Error::Store)?;
        knarr_registry::strategy::allow_privileged(config.allow_privileged);
        let audiences = if config.audiences.is_empty() {
            vec![config.issuer.clone()]
        } else {
            config.audiences.clone()
        };
        let table = core::table(Arc::clone(&builtin), &registry);
        let core = Arc::new(Core {
            settings: Settings {
                service_cidr,
                node_ports: (
                    i64::from(config.node_ports.0),
                    i64::from(config.node_ports.1),
                ),
                advertise: SocketAddr::new(config.advertise_address, address.port()),
                anonymous: config.anonymous,
                event_ttl: i64::try_from(config.event_ttl.as_secs()).unwrap_or(3600),
                request_timeout: config.request_timeout,
                min_request_timeout: config.min_request_timeout,
                issuer: config.issuer.clone(),
                kubelet_address_types: config.kubelet_address_types,
                jwks_uri: config.jwks_uri,
                disabled_admission: config.disabled_admission,
                client_ca: config.client_ca.clone(),
                requestheader_ca: config.requestheader_ca.clone(),
                requestheader: config.requestheader.clone(),
            },
            authorizer: Authorizer::new(Arc::clone(&registry), config.authorization),
            tokens: Tokens {
                signer,
                issuer: config.issuer,
                other_issuers: config.other_issuers,
                audiences,
                fixed: config.tokens,
                registry: Arc::clone(&registry),
            },
            registry,
            builtin,
            gates: config.gates,
            table: RwLock::new(Arc::new(table)),
            allocating: Arc::new(tokio::sync::Mutex::new(())),
            ready: AtomicBool::new(false),
            requests: Mutex::new(HashMap::new()),
            limiter: Limiter::new(config.priority_and_fairness, config.max_in_flight),
            stop: CancellationToken::new(),
            table_changes: tokio::sync::watch::Sender::new(0),
            aggregator: Aggregator::new(proxy_client),
            authentication: RwLock::new(Arc::new(authentication)),
            audit,
            token_webhook: config.token_webhook.map(TokenWebhook::new),
            kubelets,
            encryption: config.encryption,
            impersonation: Impersonation::default(),
            reloads: ConfigReloads::default(),
        });
        core.authentication().issuers.start(&core.stop);
        custom::refresh(&core).await.map_err(Error::Store)?;
        flowcontrol::maintain::begin(&core).map_err(Error::Store)?;
        bootstrap::run(&core).await.map_err(Error::Store)?;
        core.ready.store(true, Ordering::Release);
        let tasks = vec![
            tokio::spawn(accept(
                Arc::clone(&core),
                listener,
                acceptor,
                Arc::new(authorities),
            )),
            tokio::spawn(custom::follow(Arc::clone(&core))),
            tokio::spawn(flowcontrol::maintain::follow(Arc::clone(&core))),
            tokio::spawn(aggregator::follow(Arc::clone(&core))),
            tokio::spawn(aggregator::follow_custom(Arc::clone(&core))),
            tokio::spawn(compact(Arc::clone(&core))),
        ];
        Ok(Self {
            core,
            address,
            tasks,
        })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts another authentication configuration in force; what it does not name any more is over.
    ///
    /// # Errors
    /// Everything that is wrong with it; the one in force stays then.
    pub fn set_authentication(&self, config: &AuthenticationConfiguration) -> Result<(), Error> {
        authenticate_by(&self.core, config)
    }

    /// Reads an authentication configuration again whenever its file changes, looking every `every`.
    pub fn follow_authentication(&self, path: std::path::PathBuf, every: Duration) {
        let weak = Arc::downgrade(&self.core);
        let reloads = Arc::clone(&self.core.reloads.authentication);
        reload::follow("authentication", path, every, reloads, move |text| {
            let weak = weak.clone();
            Box::pin(async move {
                let core = weak.upgrade()?;
                let config = AuthenticationConfiguration::parse(&text);
                Some(config.and_then(|c| authenticate_by(&core, &c).map_err(|e| e.to_string())))
            })
        });
    }

    /// Reads an authorization configuration again whenever its file changes, looking every `every`.
    pub fn follow_authorization(&self, path: std::path::PathBuf, every: Duration) {
        let weak = Arc::downgrade(&self.core);
        let reloads = Arc::clone(&self.core.reloads.authorization);
        reload::follow("authz", path, every, reloads, move |text| {
            let weak = weak.clone();
            Box::pin(async move {
                let core = weak.upgrade()?;
                Some(authz::webhook::configuration(&text).and_then(|modes| core.authorizer.change(modes)))
            })
        });
    }

    /// A client over the server's own service: no socket, no TLS, the same pipeline, as `user`.
    #[must_use]
    pub fn client(&self, user: UserInfo) -> kube::Client {
        // A client that is kept must not keep the store open after the server has ended.
        let core = Arc::downgrade(&self.core);
        let id = Identity::Fixed(Arc::new(user));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (core, id) = (core.clone(), id.clone());
            async move {
                let core = core
                    .upgrade()
                    .ok_or_else(|| BodyError("the API server has ended".into()))?;
                let request =
                    request.map(|b| b.map_err(|e| BodyError(e.to_string())).boxed_unsync());
                Ok::<_, BodyError>(pipeline::handle(core, request, id).await)
            }
        });
        kube::Client::new(service, "default")
    }

    /// Ends all watches, stops listening and lets running requests finish for a moment.
    pub async fn shutdown(mut self) {
        self.core.stop.cancel();
        for t in std::mem::take(&mut self.tasks) {
            let _ = tokio::time::timeout(Duration::from_secs(2), t).await;
        }
        if let Some(a) = &self.core.audit {
            a.close().await;
        }
        self.core.registry.close();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

/// Puts an authentication configuration in force.
fn authenticate_by(core: &Core, config: &AuthenticationConfiguration) -> Result<(), Error> {
    let s = &core.settings;
    let next = Arc::new(
        oidc::Authentication::new(config, &s.issuer, s.anonymous).map_err(Error::Authentication)?,
    );
    next.issuers.start(&core.stop);
    *core
        .authentication
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = next;
    Ok(())
}

async fn accept(
    core: Arc<Core>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    authorities: Arc<Authorities>,
) {
    loop {
        let tcp = tokio::select! {
            r = listener.accept() => match r {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = core.stop.cancelled() => return,
        };
        let _ = tcp.set_nodelay(true);
        let (core, acceptor, authorities) = (
            Arc::clone(&core),
            acceptor.clone(),
            Arc::clone(&authorities),
        );
        tokio::spawn(async move {
            let handshake =
                tokio::time::timeout(Duration::from_secs(10), acceptor.accept(tcp)).await;
            let Ok(Ok(stream)) = handshake else {
                tracing::debug!("a TLS handshake failed");
                return;
            };
            let mut presented =
                authorities.read(stream.get_ref().1.peer_certificates().unwrap_or_default());
            presented.peer = stream
                .get_ref()
                .0
                .peer_addr()
                .ok()
                .map(|a| a.ip().to_canonical());
            let id = Identity::Network(presented);
            let stop = core.stop.clone();
            let service =
                hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (core, id) = (Arc::clone(&core), id.clone());
                    async move {
                        let request = request.map(|b| -> Body {
                            b.map_err(|e| BodyError(e.to_string())).boxed_unsync()
                        });
                        Ok::<_, std::convert::Infallible>(pipeline::handle(core, request, id).await)
                    }
                });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30));
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(1000)
                .keep_alive_interval(Some(Duration::from_secs(30)));
            let io = TokioIo::new(stream);
            let conn = builder.serve_connection_with_upgrades(io, service);
            tokio::pin!(conn);
            tokio::select! {
                r = conn.as_mut() => if let Err(error) = r {
                    tracing::debug!(error, "connection ended");
                },
                () = stop.cancelled() => {
                    conn.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(Duration::from_secs(2), conn).await;
                }
            }
        });
    }
}

/// Every five minutes the history of before the last five is forgotten.
async fn compact(core: Arc<Core>) {
    let every = Duration::from_secs(300);
    let mut before = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = core.stop.cancelled() => return,
        }
        if let Some(r) = before.replace(core.registry.applied())
            && let Err(error) = core.registry.compact(r).await
        {
            tracing::warn!(%error, "history cannot be compacted");
        }
    }
}
