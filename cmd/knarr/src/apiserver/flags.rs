//! kube-apiserver's flags.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use knarr_apiserver::duration;

/// A switch as Go's flag packages take it: alone, or with `=true` or `=false`.
macro_rules! switch {
    () => {
        "true"
    };
}

/// What `knarr apiserver` can be told: kube-apiserver's flags by their names. Without
/// `--etcd-servers` everything is kept in the embedded store in the data folder.
#[derive(Args, Clone, Debug)]
pub struct Options {
    // Storage
    /// etcd servers to keep everything in; without them it is kept in the data folder
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd_servers: Vec<String>,
    /// PEM file of the authority that etcd's certificate comes from
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// PEM file of the certificate to show etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// File with an EncryptionConfiguration: which resources are kept encrypted, and how
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether that file is read again when it changes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), default_value_t = false, action = ArgAction::Set)]
    pub encryption_provider_config_automatic_reload: bool,
    /// How long events are kept
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub event_ttl: Duration,

    // Serving
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Address at which the rest of the cluster reaches this server
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Folder of the serving certificate if none is given: apiserver.crt and apiserver.key, made if missing
    #[arg(long, default_value = "/var/run/kubernetes", value_name = "DIR")]
    pub cert_dir: PathBuf,
    /// PEM file of the serving certificate, with what it was signed by
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Name in the documents of the token issuer, and in a certificate that is made
    #[arg(long, value_name = "NAME")]
    pub external_hostname: Option<String>,
    /// Most reading requests at a time, together with those that write; 0 is no limit
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Most writing requests at a time, together with those that read; 0 is no limit
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// How long a request may take, but for watches, logs and streams
    #[arg(long, default_value = "1m", value_parser = duration)]
    pub request_timeout: Duration,
    /// How many seconds a watch lasts at least that does not say; less than twice as many
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    pub min_request_timeout: u64,
    /// Whether flow schemas and priority levels say who is served first; else both limits stand alone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), default_value_t = true, action = ArgAction::Set)]
    pub enable_priority_and_fairness: bool,

    // Who asks
    /// Whether requests without credentials are served, as system:anonymous
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), default_value_t = true, action = ArgAction::Set)]
    pub anonymous_auth: bool,
    /// PEM file of the authorities of client certificates
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// CSV file of tokens: token, user, uid, groups
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// File with an AuthenticationConfiguration
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// Kubeconfig of a service that reviews tokens
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Whether bootstrap tokens are accepted (they are)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), default_value_t = false, action = ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// Audiences of tokens for this server
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Issuer of service-account tokens; of several, the first issues
    #[arg(long, value_name = "URL")]
    pub service_account_issuer: Vec<String>,
    /// PEM file of keys that verify service-account tokens
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,
    /// PEM file of the key that signs them
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Where the issuer's documents say its keys are
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// Issuer of OpenID tokens
    #[arg(
        long,
        value_name = "URL",
        requires = "oidc_client_id",
        conflicts_with = "authentication_config"
    )]
    pub oidc_issuer_url: Option<String>,
    /// Audience of OpenID tokens
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// PEM file of the authority of the issuer's certificate
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// What is put before the name; `-` for nothing
    #[arg(long)]
    pub oidc_username_prefix: Option<String>,
    /// Claim that holds the groups
    #[arg(long)]
    pub oidc_groups_claim: Option<String>,
    /// What is put before groups
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// A claim that a token must have, and its value
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// PEM file of the authorities of front proxies
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies' certificates; any if empty
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers of the user's name
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers of the user's uid
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers of the user's groups
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    pub requestheader_group_headers: Vec<String>,
    /// What headers of the user's extra fields begin with
    #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
    pub requestheader_extra_headers_prefix: Vec<String>,

    // What they may
    /// Who decides: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny, in this order
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "MODE",
        conflicts_with = "authorization_config"
    )]
    pub authorization_mode: Vec<String>,
    /// File with an AuthorizationConfiguration
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,
    /// Kubeconfig of the service that decides in the mode Webhook
    #[arg(long, value_name = "FILE", conflicts_with = "authorization_config")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// How long its permissions are remembered
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its refusals are remembered
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,

    // Admission
    /// Admission plugins to ask besides the usual ones
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to ask
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub disable_admission_plugins: Vec<String>,

    // Audit
    /// Audit
    #[command(flatten)]
    pub audit: super::audit::AuditOptions,

    // The cluster
    /// Whether containers may be privileged
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), default_value_t = false, action = ArgAction::Set)]
    pub allow_privileged: bool,
    /// Which of the built-in APIs are served: api/all=BOOL, api/ga=BOOL, GROUP/VERSION=BOOL, GROUP/VERSION/RESOURCE=BOOL
    #[arg(long, value_name = "KEY=BOOL")]
    pub runtime_config: Vec<String>,
    /// Features to turn on or off: their names are checked, and what they would change does not change
    #[arg(long, value_name = "NAME=BOOL")]
    pub feature_gates: Vec<String>,
    /// Addresses of services
    #[arg(long, default_value = "10.0.0.0/24", value_name = "CIDR")]
    pub service_cluster_ip_range: String,
    /// First and last node port
    #[arg(long, default_value = "30000-32767", value_parser = ports)]
    pub service_node_port_range: (u16, u16),
    /// PEM file of the authority of kubelets' certificates
    #[arg(long, value_name = "FILE")]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// PEM file of the certificate to show kubelets
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    pub kubelet_client_key: Option<PathBuf>,
    /// Which of a node's addresses its kubelet is reached at
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP"
    )]
    pub kubelet_preferred_address_types: Vec<String>,
    /// PEM file of the certificate to show aggregated API servers
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,

    /// How much to log: 0 warnings, 2 what happens, 4 and more everything
    #[arg(short, long, value_name = "LEVEL")]
    pub v: Option<u8>,
    /// Flags that are taken and change nothing
    #[command(flatten)]
    pub idle: Idle,
}

/// kube-apiserver's flags that change nothing here; `true` marks a switch.
const IDLE: &[(&str, bool)] = &[
    ("aggregator-reject-forwarding-redirect", true),
    ("allow-metric-labels", false),
    ("allow-metric-labels-manifest", false),
    ("authentication-token-webhook-cache-ttl", false),
    ("authentication-token-webhook-version", false),
    ("authorization-webhook-version", false),
    ("contention-profiling", true),
    ("coordinated-leadership-lease-duration", false),
    ("coordinated-leadership-renew-deadline", false),
    ("coordinated-leadership-retry-period", false),
    ("default-not-ready-toleration-seconds", false),
    ("default-unreachable-toleration-seconds", false),
    ("delete-collection-workers", false),
    ("disabled-metrics", false),
    ("emulated-version", false),
    ("emulation-forward-compatible", true),
    ("enable-aggregator-routing", true),
    ("enable-garbage-collector", true),
    ("enable-logs-handler", true),
    ("endpoint-reconciler-type", false),
    ("etcd-compaction-interval", false),
    ("etcd-count-metric-poll-period", false),
    ("etcd-db-metric-poll-interval", false),
    ("etcd-healthcheck-timeout", false),
    ("etcd-readycheck-timeout", false),
    ("goaway-chance", false),
    ("http2-max-streams-per-connection", false),
    ("kubelet-timeout", false),
    ("lease-reuse-duration-seconds", false),
    ("livez-grace-period", false),
    ("log-flush-frequency", false),
    ("logging-format", false),
    ("max-connection-bytes-per-sec", false),
    ("peer-advertise-ip", false),
    ("peer-advertise-port", false),
    ("peer-ca-file", false),
    ("permit-address-sharing", true),
    ("permit-port-sharing", true),
    ("profiling", true),
    ("runtime-config-emulation-forward-compatible", true),
    ("service-account-extend-token-expiration", true),
    ("service-account-lookup", true),
    ("service-account-max-token-expiration", false),
    ("show-hidden-metrics-for-version", false),
    ("shutdown-delay-duration", false),
    ("shutdown-send-retry-after", true),
    ("shutdown-watch-termination-grace-period", false),
    ("storage-backend", false),
    ("storage-initialization-timeout", false),
    ("storage-media-type", false),
    ("vmodule", false),
    ("watch-cache", true),
    ("watch-cache-sizes", false),
];

/// Those of [`IDLE`] that were given.
#[derive(Clone, Debug, Default)]
pub struct Idle(pub Vec<&'static str>);

impl FromArgMatches for Idle {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(
            IDLE.iter()
                .map(|(name, _)| *name)
                .filter(|n| matches.contains_id(n))
                .collect(),
        ))
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Idle {
    fn augment_args(command: Command) -> Command {
        IDLE.iter().fold(command, |command, (name, switch)| {
            let arg = Arg::new(*name)
                .long(*name)
                .hide(true)
                .action(ArgAction::Append);
            command.arg(if *switch {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg.num_args(1).allow_hyphen_values(true)
            })
        })
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `30000-32767`: the first and the last; or `30000+2767`.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("{text:?} is no range of ports, such as 30000-32767");
    let number = |t: &str| t.trim().parse::<u16>().map_err(|_| bad());
    let (first, last) = if let Some((a, b)) = text.split_once('-') {
        (number(a)?, number(b)?)
    } else if let Some((a, n)) = text.split_once('+') {
        (
            number(a)?,
            number(a)?.checked_add(number(n)?).ok_or_else(bad)?,
        )
    } else {
        (number(text)?, number(text)?)
    };
    if first == 0 || first > last {
        Err(bad())
    } else {
        Ok((first, last))
    }
}
