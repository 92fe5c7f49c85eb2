//! From flags and the files they name to the server's configuration.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use knarr_apiserver::{
    Encryption,
    AuthenticationConfiguration, AuthorizationMode, AuthorizationWebhook,
    AuthorizationWebhookOptions, Config, FeatureGates, RequestHeaders, RuntimeConfig, UserInfo, admission::PLUGINS,
};
use knarr_pki::{Leaf, Pki};
use knarr_storage::{EtcdConfig, SharedStore};

use super::{flags::Options, stand_in};
use crate::{layout::Layout, node, preflight, reset};

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn optional(path: Option<&PathBuf>) -> Result<Option<String>> {
    path.map(|p| text(p)).transpose()
}

fn pair(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<(String, String)>> {
    Ok(optional(certificate)?.zip(optional(key)?))
}

/// The embedded store, in the folder of `layout`.
async fn embedded(layout: &Layout) -> Result<SharedStore> {
    reset::claim(&layout.data_dir)?;
    Ok(knarr_storage::open_embedded(&layout.store()).await?)
}

async fn store(layout: &Layout, o: &Options) -> Result<SharedStore> {
    match o.etcd_servers.as_slice() {
        [] => return embedded(layout).await,
        [url] => {
            if let Some(data_dir) = stand_in::folder(url).await {
                tracing::info!(folder = %data_dir.display(), "no etcd but what stands in for it: everything is kept in that folder");
                return embedded(&Layout { data_dir, ..layout.clone() }).await;
            }
        }
        _ => {}
    }
    let identity = pair(o.etcd_certfile.as_ref(), o.etcd_keyfile.as_ref())?;
    let config = EtcdConfig {
        endpoints: o.etcd_servers.clone(),
        ca: optional(o.etcd_cafile.as_ref())?.map(String::into_bytes),
        identity: identity.map(|(c, k)| (c.into_bytes(), k.into_bytes())),
        prefix: format!("/{}", o.etcd_prefix.trim_matches('/')),
    };
    // It may be starting at the same time.
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match knarr_storage::open_etcd(&config).await {
            Err(error) if tokio::time::Instant::now() < end => {
                tracing::info!(%error, "waiting for etcd");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return Ok(done?),
        }
    }
}

/// The serving certificate: the one given, or that of the folder, signed by an authority of its
/// own that is forgotten; the file ends with it, so that clients can trust the file.
fn serving(o: &Options, advertise: IpAddr, service: IpAddr) -> Result<(String, String)> {
    if let Some(given) = pair(o.tls_cert_file.as_ref(), o.tls_private_key_file.as_ref())? {
        return Ok(given);
    }
    let pki = Pki::open(&o.cert_dir)?;
    let (certificate, key) = (pki.path("apiserver.crt"), pki.path("apiserver.key"));
    if certificate.exists() && key.exists() {
        return Ok((text(&certificate)?, text(&key)?));
    }
    let authority = knarr_pki::Authority::forgotten("knarr-apiserver-ca")?;
    let mut dns_names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    dns_names.extend(o.external_hostname.clone());
    let mut addresses = vec![advertise, service, IpAddr::from([127, 0, 0, 1])];
    if !o.bind_address.is_unspecified() {
        addresses.push(o.bind_address);
    }
    let leaf = Leaf {
        file: "apiserver".into(),
        common_name: "kube-apiserver".into(),
        dns_names,
        addresses,
        server: true,
        ..Leaf::default()
    };
    let made = knarr_pki::issue(&authority, &leaf)?;
    let chain = format!("{}{}", made.certificate, authority.certificate());
    knarr_pki::write(&key, &made.key, 0o600)?;
    knarr_pki::write(&certificate, &chain, 0o644)?;
    Ok((chain, made.key))
}

/// The cells of a line of a CSV file.
fn cells(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(cell) = out.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                cell.push('"');
                chars.next();
            }
            '"' if quoted || cell.trim().is_empty() => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => cell.push(c),
        }
    }
    out.iter().map(|c| c.trim().to_owned()).collect()
}

/// Tokens of a CSV file: token, user, uid, groups.
fn tokens(csv: &str) -> Result<HashMap<String, UserInfo>> {
    let mut out = HashMap::new();
    for (n, line) in csv
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'))
    {
        let cells = cells(line);
        let [token, name, uid, rest @ ..] = cells.as_slice() else {
            bail!("line {}: a token, a user and a uid must be there", n + 1)
        };
        if token.is_empty() {
            bail!("line {}: the token is empty", n + 1);
        }
        let groups = rest.first().map_or("", String::as_str);
        let groups: Vec<String> = groups
            .split(',')
            .map(str::trim)
            .filter(|g| !g.is_empty())
            .map(str::to_owned)
            .collect();
        let mut user = UserInfo::new(name.as_str(), groups);
        user.uid.clone_from(uid);
        if out.insert(token.clone(), user).is_some() {
            tracing::warn!(line = n + 1, "a token comes twice; the last counts");
        }
    }
    Ok(out)
}

/// The `--oidc-*` flags as the configuration they stand for.
fn oidc(o: &Options) -> Result<Option<AuthenticationConfiguration>> {
    let Some(url) = &o.oidc_issuer_url else {
        return Ok(None);
    };
    let mut issuer = serde_json::json!({"url": url, "audiences": [o.oidc_client_id]});
    if let Some(ca) = optional(o.oidc_ca_file.as_ref())? {
        issuer["certificateAuthority"] = ca.into();
    }
    let prefix = match o.oidc_username_prefix.as_deref() {
        None if o.oidc_username_claim == "email" => String::new(),
        None => format!("{url}#"),
        Some("-") => String::new(),
        Some(p) => p.to_owned(),
    };
    let mut mappings =
        serde_json::json!({"username": {"claim": o.oidc_username_claim, "prefix": prefix}});
    if let Some(claim) = &o.oidc_groups_claim {
        mappings["groups"] = serde_json::json!({"claim": claim, "prefix": o.oidc_groups_prefix});
    }
    let mut rules = Vec::new();
    for claim in &o.oidc_required_claim {
        let (claim, value) = claim
            .split_once('=')
            .with_context(|| format!("--oidc-required-claim {claim:?} is not KEY=VALUE"))?;
        rules.push(serde_json::json!({"claim": claim, "requiredValue": value}));
    }
    let document = serde_json::json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{"issuer": issuer, "claimMappings": mappings, "claimValidationRules": rules}]});
    AuthenticationConfiguration::parse(&document.to_string())
        .map(Some)
        .map_err(|why| anyhow!("--oidc-issuer-url: {why}"))
}

fn modes(o: &Options) -> Result<Vec<AuthorizationMode>> {
    if let Some(path) = &o.authorization_config {
        return knarr_apiserver::authorization_configuration(&text(path)?)
            .map_err(|why| anyhow!("{}: {why}", path.display()));
    }
    let names = &o.authorization_mode;
    if names.is_empty() {
        return Ok(vec![AuthorizationMode::AlwaysAllow]);
    }
    names
        .iter()
        .map(|name| match name.as_str() {
            "Node" => Ok(AuthorizationMode::Node),
            "RBAC" => Ok(AuthorizationMode::Rbac),
            "AlwaysAllow" => Ok(AuthorizationMode::AlwaysAllow),
            "AlwaysDeny" => Ok(AuthorizationMode::AlwaysDeny),
            "Webhook" => {
                let path = o.authorization_webhook_config_file.as_deref().context("--authorization-webhook-config-file is required for the mode Webhook")?;
                let options = AuthorizationWebhookOptions {
                    authorized_ttl: o.authorization_webhook_cache_authorized_ttl,
                    unauthorized_ttl: o.authorization_webhook_cache_unauthorized_ttl,
                    ..AuthorizationWebhookOptions::default()
                };
                let webhook = AuthorizationWebhook::new(node::service(path)?, options).map_err(|why| anyhow!(why))?;
                Ok(AuthorizationMode::Webhook(Arc::new(webhook)))
            }
            other => bail!("--authorization-mode {other:?} is not offered: Node, RBAC, Webhook, AlwaysAllow and AlwaysDeny are"),
        })
        .collect()
}

/// Plugins that kube-apiserver has and that are not asked unless they are named.
const UNUSUAL: &[&str] = &["NodeRestriction"];
/// Plugins that are part of what the server does anyway, or do nothing.
const IMPLIED: &[&str] = &["AlwaysAdmit", "NamespaceExists"];

fn disabled(o: &Options) -> Result<std::collections::HashSet<String>> {
    let known = |n: &str| PLUGINS.contains(&n);
    for name in &o.enable_admission_plugins {
        if !known(name) && !IMPLIED.contains(&name.as_str()) {
            bail!("--enable-admission-plugins: {name:?} is not offered");
        }
        if o.disable_admission_plugins.contains(name) {
            bail!("{name} in both --enable-admission-plugins and --disable-admission-plugins");
        }
    }
    let unusual = UNUSUAL
        .iter()
        .map(|n| (*n).to_owned())
        .filter(|n| !o.enable_admission_plugins.contains(n));
    Ok(o.disable_admission_plugins
        .iter()
        .cloned()
        .chain(unusual)
        .collect())
}

fn headers(o: &Options) -> RequestHeaders {
    RequestHeaders {
        allowed_names: o.requestheader_allowed_names.clone(),
        username: o.requestheader_username_headers.clone(),
        uid: o.requestheader_uid_headers.clone(),
        group: o.requestheader_group_headers.clone(),
        extra_prefix: o.requestheader_extra_headers_prefix.clone(),
    }
}

/// The configuration that the flags describe, over the store they name.
///
/// # Errors
/// Names the flag or the file.
pub async fn config(layout: &Layout, o: &Options) -> Result<Config> {
    let Some(issuer) = o.service_account_issuer.first() else {
        bail!("--service-account-issuer and --service-account-signing-key-file are required");
    };
    let signing = o
        .service_account_signing_key_file
        .as_ref()
        .context("--service-account-signing-key-file is required")?;
    let advertise = match o.advertise_address {
        Some(a) => a,
        None if o.bind_address.is_unspecified() || o.bind_address.is_loopback() => preflight::node_address(),
        None => o.bind_address,
    };
    let range = o
        .service_cluster_ip_range
        .split(',')
        .next()
        .unwrap_or_default();
    let service = node::nth(range, 1).context("--service-cluster-ip-range")?;
    let modes = modes(o)?;
    let disabled_admission = disabled(o)?;
    let (tls_certificate, tls_key) = serving(o, advertise, service)?;
    let (mut kept, mut encryption) = (store(layout, o).await?, None);
    if let Some(path) = &o.encryption_provider_config {
        let reloads = o.encryption_provider_config_automatic_reload;
        let e = Encryption::open(&text(path)?, reloads)
            .await
            .map_err(|why| anyhow!("{}: {why}", path.display()))?;
        if reloads {
            e.follow(path.clone(), super::LOOK);
        }
        kept = e.over(kept);
        encryption = Some(e);
    }
    let mut c = Config::new(kept);
    c.encryption = encryption;
    c.listen = SocketAddr::new(o.bind_address, o.secure_port);
    c.tls_certificate = tls_certificate;
    c.tls_key = tls_key;
    c.client_ca = optional(o.client_ca_file.as_ref())?.unwrap_or_default();
    c.service_account_key = text(signing)?;
    c.service_account_trusted = o
        .service_account_key_file
        .iter()
        .map(|p| text(p))
        .collect::<Result<_>>()?;
    c.issuer.clone_from(issuer);
    c.other_issuers = o.service_account_issuer.iter().skip(1).cloned().collect();
    c.jwks_uri.clone_from(&o.service_account_jwks_uri);
    c.audiences.clone_from(&o.api_audiences);
    c.service_cidr = range.to_owned();
    c.node_ports = o.service_node_port_range;
    c.advertise_address = advertise;
    c.kubelet_client = pair(
        o.kubelet_client_certificate.as_ref(),
        o.kubelet_client_key.as_ref(),
    )?;
    c.kubelet_ca = optional(o.kubelet_certificate_authority.as_ref())?;
    c.kubelet_address_types
        .clone_from(&o.kubelet_preferred_address_types);
    c.requestheader_ca = optional(o.requestheader_client_ca_file.as_ref())?;
    c.requestheader = headers(o);
    c.proxy_client = pair(
        o.proxy_client_cert_file.as_ref(),
        o.proxy_client_key_file.as_ref(),
    )?;
    c.anonymous = o.anonymous_auth;
    c.authorization = modes;
    c.disabled_admission = disabled_admission;
    c.event_ttl = o.event_ttl;
    c.max_in_flight = (o.max_requests_inflight, o.max_mutating_requests_inflight);
    if o.enable_priority_and_fairness && c.max_in_flight == (0, 0) {
        bail!("--max-requests-inflight and --max-mutating-requests-inflight are both 0, which leaves --enable-priority-and-fairness nothing to divide");
    }
    c.priority_and_fairness = o.enable_priority_and_fairness;
    c.allow_privileged = o.allow_privileged;
    c.runtime = RuntimeConfig::parse(&o.runtime_config).map_err(|why| anyhow!("--runtime-config: {why}"))?;
    for class in c.runtime.idle() {
        tracing::warn!("--runtime-config={class}=true changes nothing: such versions are not offered");
    }
    c.gates = FeatureGates::parse(&o.feature_gates).map_err(|why| anyhow!("--feature-gates: {why}"))?;
    for (name, on) in c.gates.changed() {
        tracing::warn!("--feature-gates={name}={on} changes nothing");
    }
    c.request_timeout = o.request_timeout;
    c.min_request_timeout = Duration::from_secs(o.min_request_timeout);
    c.authentication = oidc(o)?;
    if let Some(path) = &o.token_auth_file {
        c.tokens = tokens(&text(path)?).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &o.authentication_config {
        let parsed = AuthenticationConfiguration::parse(&text(path)?)
            .map_err(|why| anyhow!("{}: {why}", path.display()))?;
        c.authentication = Some(parsed);
    }
    if let Some(path) = &o.authentication_token_webhook_config_file {
        c.token_webhook = Some(node::service(path)?);
    }
    c.audit = o.audit.config()?;
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::{cells, tokens};

    #[test]
    fn tokens_come_with_their_groups() {
        let read = tokens("a,alice,1,\"admins,system:masters\"\n\nb,bob,2\n").expect("two tokens");
        assert!(
            read.get("a")
                .is_some_and(|u| u.is_in("system:masters") && u.is_in("admins") && u.uid == "1")
        );
        assert!(read.get("b").is_some_and(|u| u.name == "bob"));
        assert_eq!(cells("x,\"y \"\"z\"\"\",w"), ["x", "y \"z\"", "w"]);
        assert!(tokens("only,two").is_err());
        assert!(tokens(",nobody,1").is_err());
    }
}
