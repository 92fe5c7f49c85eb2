//! How the server is started.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use knarr_schema::features::Gates;
use knarr_storage::SharedStore;

use crate::{encryption::Encryption, runtime_config::RuntimeConfig};
use crate::{
    alloc::Cidr,
    audit::AuditConfig,
    auth::{UserInfo, front_proxy::RequestHeaders},
    webhook::RemoteService,
};
pub use crate::{auth::oidc::AuthenticationConfiguration, authz::Mode as AuthorizationMode};

/// Everything the server must be told.
pub struct Config {
    /// Where everything is kept.
    pub store: SharedStore,
    /// How values are held in it, if `store` encrypts them; for health checks.
    pub encryption: Option<Arc<Encryption>>,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Serving certificate chain, PEM.
    pub tls_certificate: String,
    /// Its key, PEM.
    pub tls_key: String,
    /// Authorities of client certificates, PEM.
    pub client_ca: String,
    /// The key that signs service-account tokens, PEM (RSA, ECDSA P-256 or P-384).
    pub service_account_key: String,
    /// Other keys, private or public, whose service-account tokens are good; PEM.
    pub service_account_trusted: Vec<String>,
    /// `iss` of service-account tokens.
    pub issuer: String,
    /// Other values of `iss` that are accepted.
    pub other_issuers: Vec<String>,
    /// Where the issuer's documents say its keys are, if not at this server.
    pub jwks_uri: Option<String>,
    /// Who decides what may be done, in this order.
    pub authorization: Vec<AuthorizationMode>,
    /// Admission plugins that are not asked.
    pub disabled_admission: HashSet<String>,
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
    /// Which of a node's addresses its kubelet is reached at, by type, in this order.
    pub kubelet_address_types: Vec<String>,
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
    /// Most requests at a time that read, and that write; `0` is no limit. With priority and
    /// fairness their sum is what is divided.
    pub max_in_flight: (u32, u32),
    /// Whether requests are limited by priority and fairness; else each kind of them by its most.
    pub priority_and_fairness: bool,
    /// Whether containers may be privileged; of several servers in a process the last one says.
    pub allow_privileged: bool,
    /// Which of the built-in APIs are served.
    pub runtime: RuntimeConfig,
    /// The gates of features.
    pub gates: Gates,
    /// How long a request may take that is no watch and no stream.
    pub request_timeout: Duration,
    /// How long a watch lasts at least that does not say; and less than twice as long.
    pub min_request_timeout: Duration,
}

impl Config {
    /// The defaults over a store; certificates and keys must still be set.
    #[must_use]
    pub fn new(store: SharedStore) -> Self {
        Self {
            store,
            encryption: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls_certificate: String::new(),
            tls_key: String::new(),
            client_ca: String::new(),
            service_account_key: String::new(),
            service_account_trusted: Vec::new(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            other_issuers: Vec::new(),
            jwks_uri: None,
            authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            disabled_admission: HashSet::new(),
            audiences: Vec::new(),
            service_cidr: "10.96.0.0/16".into(),
            node_ports: (30000, 32767),
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            kubelet_client: None,
            kubelet_ca: None,
            kubelet_address_types: ["InternalIP", "Hostname", "ExternalIP"]
                .map(str::to_owned)
                .to_vec(),
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
            priority_and_fairness: true,
            allow_privileged: true,
            runtime: RuntimeConfig::default(),
            gates: Gates::default(),
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
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
    /// How long a request may take that is no watch and no stream.
    pub request_timeout: Duration,
    /// How long a watch lasts at least that does not say.
    pub min_request_timeout: Duration,
    /// Which of a node's addresses its kubelet is reached at, by type, in this order.
    pub kubelet_address_types: Vec<String>,
    /// `iss` of tokens.
    pub issuer: String,
    /// Where their keys are, if not at this server.
    pub jwks_uri: Option<String>,
    /// Admission plugins that are not asked.
    pub disabled_admission: HashSet<String>,
    /// Authorities of client certificates, PEM.
    pub client_ca: String,
    /// Authorities of front proxies, PEM.
    pub requestheader_ca: Option<String>,
    /// Which front proxies are believed, and their headers.
    pub requestheader: RequestHeaders,
}
