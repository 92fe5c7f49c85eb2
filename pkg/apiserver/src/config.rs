//! How the server is started.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use knarr_storage::SharedStore;

use crate::{webhook::RemoteService, alloc::Cidr, audit::AuditConfig, auth::{UserInfo, front_proxy::RequestHeaders}};
pub use crate::auth::oidc::AuthenticationConfiguration;

/// Everything the server must be told.
pub struct Config {
    /// Where everything is kept.
    pub store: SharedStore,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Serving certificate chain, PEM.
    pub tls_certificate: String,
    /// Its key, PEM.
    pub tls_key: String,
    /// Authorities of client certificates, PEM.
    pub client_ca: String,
    /// The key that signs service-account tokens, PKCS#8 PEM (ECDSA P-256).
    pub service_account_key: String,
    /// `iss` of service-account tokens.
    pub issuer: String,
    /// Audiences of tokens meant for this server; the issuer if empty.
    pub audiences: Vec<String>,
    /// Network of service addresses, e.g. `10.96.0.0/16`.
    pub service_cidr: String,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// The address at which pods reach this server.
    pub advertise_address: IpAddr,
    /// Client certificate and key (PEM) for kubelets.
    pub kubelet_client: Option<(String, String)>,
    /// Authorities of kubelets' serving certificates, PEM; without them they are not verified.
    pub kubelet_ca: Option<String>,
    /// Authorities of front proxies' client certificates, PEM.
    pub requestheader_ca: Option<String>,
    /// Which front proxies are believed, and their headers.
    pub requestheader: RequestHeaders,
    /// Client certificate and key (PEM) that aggregated API servers know this server by.
    pub proxy_client: Option<(String, String)>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Whether requests without credentials are served as `system:anonymous`.
    pub anonymous: bool,
    /// Other issuers of tokens, and which requests may be anonymous if it says so.
    pub authentication: Option<AuthenticationConfiguration>,
    /// Who reviews tokens that nobody here knows.
    pub token_webhook: Option<RemoteService>,
    /// What is recorded of requests, and where.
    pub audit: Option<AuditConfig>,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// Fixed bearer tokens.
    pub tokens: HashMap<String, UserInfo>,
    /// Most requests at a time that read, and that write; `0` is no limit.
    pub max_in_flight: (u32, u32),
}

impl Config {
    /// The defaults over a store; certificates and keys must still be set.
    #[must_use]
    pub fn new(store: SharedStore) -> Self {
        Self {
            store,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls_certificate: String::new(),
            tls_key: String::new(),
            client_ca: String::new(),
            service_account_key: String::new(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            audiences: Vec::new(),
            service_cidr: "10.96.0.0/16".into(),
            node_ports: (30000, 32767),
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            kubelet_client: None,
            kubelet_ca: None,
            requestheader_ca: None,
            requestheader: RequestHeaders::default(),
            proxy_client: None,
            cluster_domain: "cluster.local".into(),
            anonymous: true,
            authentication: None,
            audit: None,
            token_webhook: None,
            event_ttl: Duration::from_secs(3600),
            tokens: HashMap::new(),
            max_in_flight: (400, 200),
        }
    }
}

/// What of the configuration requests look at.
pub struct Settings {
    /// Network of service addresses.
    pub service_cidr: Cidr,
    /// First and last node port.
    pub node_ports: (i64, i64),
    /// Where pods reach this server.
    pub advertise: SocketAddr,
    /// Whether requests without credentials are served, where no configuration says.
    pub anonymous: bool,
    /// Seconds that events are kept.
    pub event_ttl: i64,
    /// Limits of requests that read and write.
    pub max_in_flight: (u32, u32),
    /// `iss` of tokens.
    pub issuer: String,
    /// Authorities of client certificates, PEM.
    pub client_ca: String,
    /// Authorities of front proxies, PEM.
    pub requestheader_ca: Option<String>,
    /// Which front proxies are believed, and their headers.
    pub requestheader: RequestHeaders,
}
