//! The certificates of a one-node cluster.

use std::net::IpAddr;

use anyhow::{Context, Result};
use knarr_pki::{Leaf, Pair, Pki};

use crate::layout::Layout;

/// Everything the parts of a node authenticate with.
pub struct Certs {
    /// The cluster's authority, PEM.
    pub ca: String,
    /// The authority for aggregated API servers' clients, PEM.
    pub front_proxy_ca: String,
    /// What the API server shows aggregated API servers.
    pub front_proxy_client: Pair,
    /// What the API server serves with.
    pub apiserver: Pair,
    /// What the API server shows kubelets.
    pub kubelet_client: Pair,
    /// The administrator.
    pub admin: Pair,
    /// Signs service-account tokens.
    pub service_account_key: String,
    /// The authority's key, PEM: the signer of certificate signing requests.
    pub ca_key: String,
}

/// The names and addresses a cluster is reached at.
pub struct Names<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's address.
    pub address: IpAddr,
    /// The first service address.
    pub service: IpAddr,
    /// The cluster's DNS domain.
    pub domain: &'a str,
}

/// Loads the certificates, issuing what is missing or about to end.
///
/// # Errors
/// If a file cannot be read or written, or half of an authority is missing.
pub fn load(layout: &Layout, names: &Names<'_>) -> Result<Certs> {
    let pki = Pki::open(layout.pki())?;
    let ca = pki.authority("ca", "kubernetes")?;
    let front = pki.authority("front-proxy-ca", "front-proxy-ca")?;
    let loopback = || [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    let mut dns_names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .to_vec();
    dns_names.push(format!("kubernetes.default.svc.{}", names.domain));
    dns_names.extend(["localhost".to_owned(), names.node.to_owned()]);
    let mut addresses = loopback().to_vec();
    addresses.extend([names.address, names.service]);
    let client = |file: &str, user: &str, groups: &[&str]| Leaf {
        file: file.into(),
        common_name: user.into(),
        organizations: groups.iter().map(|&g| g.to_owned()).collect(),
        client: true,
        ..Leaf::default()
    };
    let mut kubelet_addresses = loopback().to_vec();
    kubelet_addresses.push(names.address);
    // The kubelet reads these files itself.
    pki.leaf(
        &ca,
        &Leaf {
            file: "kubelet".into(),
            common_name: format!("system:node:{}", names.node),
            organizations: vec!["system:nodes".into()],
            dns_names: vec![names.node.to_owned(), "localhost".into()],
            addresses: kubelet_addresses,
            server: true,
            ..Leaf::default()
        },
    )?;
    Ok(Certs {
        apiserver: pki.leaf(
            &ca,
            &Leaf {
                file: "apiserver".into(),
                common_name: "kube-apiserver".into(),
                dns_names,
                addresses,
                server: true,
                ..Leaf::default()
            },
        )?,
        kubelet_client: pki.leaf(
            &ca,
            &client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"]),
        )?,
        front_proxy_client: pki.leaf(&front, &client("front-proxy-client", "front-proxy-client", &[]))?,
        admin: pki.leaf(&ca, &client("admin", "kubernetes-admin", &["system:masters"]))?,
        service_account_key: pki.service_account_key()?,
        ca_key: std::fs::read_to_string(pki.path("ca.key"))
            .with_context(|| format!("cannot read {}", pki.path("ca.key").display()))?,
        ca: ca.certificate().to_owned(),
        front_proxy_ca: front.certificate().to_owned(),
    })
}
