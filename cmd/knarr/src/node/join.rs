//! How a machine becomes a node of a cluster that it knows only by an address and a token.

use std::{fs, net::IpAddr, time::{Duration, Instant}};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{ConfigMap, Node as NodeObject},
};
use knarr_pki::{BootstrapToken, Leaf, Pair};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::wait::{Condition, await_condition},
};
use serde_json::{Value, json};

use super::membership::Settings;
use crate::{client, layout::Layout};

/// How long the cluster may take for one step.
const PATIENCE: Duration = Duration::from_secs(120);
/// A certificate with less than this left is asked for anew.
const RENEW_SECONDS: i64 = 60 * 24 * 3600;

/// Where the cluster is and how it is known.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// Its API server's URL.
    pub server: String,
    /// What it is joined with.
    pub token: BootstrapToken,
    /// The hash of its authority's public key, `sha256:…`, if that is known beforehand.
    pub ca_hash: Option<String>,
}

/// What a member of a cluster has.
pub struct Membership {
    /// The API server's URL.
    pub server: String,
    /// A client that is the node's kubelet.
    pub client: Client,
    /// The cluster's settings.
    pub settings: Settings,
    /// Addresses of this node's pods.
    pub pod_cidr: String,
}

/// A step that is tried until it succeeds or patience ends.
async fn insist<T, F: Future<Output = Result<T>>>(what: &str, step: impl Fn() -> F) -> Result<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        match step().await {
            Ok(done) => return Ok(done),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
            Err(error) => tracing::info!("{what}: {error:#}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The cluster's authority (PEM), proven by the token or by its hash.
async fn discover(invitation: &Invitation) -> Result<String> {
    let mut config = kube::Config::new(invitation.server.parse().context("--server")?);
    // Whom we speak to is proven by what it says.
    config.accept_invalid_certs = true;
    let stranger = Client::try_from(config)?;
    let map: ConfigMap = Api::namespaced(stranger, "kube-public").get("cluster-info").await?;
    let data = map.data.unwrap_or_default();
    let kubeconfig = data.get("kubeconfig").context("the cluster does not describe itself")?;
    let signature = data
        .get(&format!("jws-kubeconfig-{}", invitation.token.id))
        .context("the cluster does not know the token")?;
    if !invitation.token.verifies(kubeconfig, signature) {
        bail!("the cluster's description is not signed with the token");
    }
    let (_, ca) = client::cluster(kubeconfig).context("the cluster names no authority")?;
    if let Some(wanted) = &invitation.ca_hash
        && knarr_pki::ca_hash(&ca).as_ref() != Some(wanted)
    {
        bail!("the cluster's authority is not the one of --ca-hash");
    }
    Ok(ca)
}

/// Whether a request has been decided.
fn decided() -> impl Condition<CertificateSigningRequest> {
    |r: Option<&CertificateSigningRequest>| {
        let status = r.and_then(|r| r.status.as_ref());
        status.is_some_and(|s| {
            let refused = |c: &k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition| {
                c.type_ == "Denied" || c.type_ == "Failed"
            };
            s.certificate.is_some() || s.conditions.iter().flatten().any(refused)
        })
    }
}

/// Asks the cluster for a certificate.
async fn certificate(client: &Client, leaf: &Leaf) -> Result<Pair> {
    let (request, key) = knarr_pki::request(leaf)?;
    let (signer, usage) = if leaf.server {
        ("kubernetes.io/kubelet-serving", "server auth")
    } else {
        ("kubernetes.io/kube-apiserver-client-kubelet", "client auth")
    };
    let object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"generateName": "node-csr-"},
        "spec": {
            "request": k8s_openapi::ByteString(request.into_bytes()),
            "signerName": signer,
            "usages": ["digital signature", usage],
        },
    }))?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = api.create(&PostParams::default(), &object).await?.metadata.name.unwrap_or_default();
    let answer = tokio::time::timeout(PATIENCE, await_condition(api, &name, decided()))
        .await
        .map_err(|_| anyhow!("nobody approves the certificate request {name}: `kubectl certificate approve {name}`"))??;
    let status = answer.and_then(|r| r.status).unwrap_or_default();
    let certificate = status.certificate.with_context(|| format!("the certificate request {name} was refused"))?;
    Ok(Pair { certificate: String::from_utf8(certificate.0)?, key })
}

/// The files of a member.
struct Files<'a>(&'a Layout);

impl Files<'_> {
    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.pki().join(name)).ok()
    }
    fn pair(&self, name: &str) -> Option<Pair> {
        let certificate = self.read(&format!("{name}.crt"))?;
        Some(Pair { certificate, key: self.read(&format!("{name}.key"))? })
    }
    fn write_pair(&self, name: &str, pair: &Pair) -> Result<()> {
        let pki = self.0.pki();
        knarr_pki::write(&pki.join(format!("{name}.key")), &pair.key, 0o600)?;
        Ok(knarr_pki::write(&pki.join(format!("{name}.crt")), &pair.certificate, 0o644)?)
    }
}

fn left(pair: &Pair) -> i64 {
    knarr_pki::seconds_left(&pair.certificate).unwrap_or(0)
}

fn user(pair: &Pair) -> Value {
    let text = |t: &str| json!(k8s_openapi::ByteString(t.as_bytes().to_vec()));
    json!({"client-certificate-data": text(&pair.certificate), "client-key-data": text(&pair.key)})
}

/// The node's identity: kept from an earlier life, or given by the cluster for the token.
async fn identity(layout: &Layout, name: &str, invitation: Option<&Invitation>) -> Result<(String, Client)> {
    knarr_pki::Pki::open(layout.pki())?;
    let files = Files(layout);
    let leaf = Leaf {
        common_name: format!("system:node:{name}"),
        organizations: vec!["system:nodes".into()],
        client: true,
        ..Leaf::default()
    };
    let known = files.read("server").zip(files.read("ca.crt")).zip(files.pair("kubelet-client"));
    if let Some(((server, ca), pair)) = known.filter(|(_, pair)| left(pair) > 0) {
        let server = invitation.map_or(server, |i| i.server.clone());
        let mut own = client::of(&server, &ca, &user(&pair)).await?;
        if left(&pair) < RENEW_SECONDS {
            let pair = insist("renewing the node's certificate", || certificate(&own, &leaf)).await?;
            files.write_pair("kubelet-client", &pair)?;
            own = client::of(&server, &ca, &user(&pair)).await?;
        }
        return Ok((server, own));
    }
    let invitation = invitation.context("this machine is no node yet: it needs --server and --token (`knarr token create`)")?;
    let ca = insist("discovering the cluster", || discover(invitation)).await?;
    let joiner = client::of(&invitation.server, &ca, &json!({"token": invitation.token.reveal()})).await?;
    let pair = insist("asking for the node's certificate", || certificate(&joiner, &leaf)).await?;
    let own = client::of(&invitation.server, &ca, &user(&pair)).await?;
    knarr_pki::write(&layout.pki().join("ca.crt"), &ca, 0o644)?;
    files.write_pair("kubelet-client", &pair)?;
    knarr_pki::write(&layout.pki().join("server"), &invitation.server, 0o644)?;
    Ok((invitation.server.clone(), own))
}

/// Registers the node with its addresses; what is registered already stays.
async fn register(client: &Client, name: &str, address: IpAddr) -> Result<()> {
    let node: NodeObject = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name},
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "status": {"addresses": [
            {"type": "InternalIP", "address": address.to_string()},
            {"type": "Hostname", "address": name},
        ]},
    }))?;
    match Api::all(client.clone()).create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Joins the cluster, or comes back to it.
///
/// # Errors
/// If the cluster cannot be reached or proven, or refuses.
pub async fn join(layout: &Layout, name: &str, address: IpAddr, invitation: Option<&Invitation>) -> Result<Membership> {
    let (server, client) = identity(layout, name, invitation).await?;
    let settings = insist("reading the cluster's settings", || Settings::read(&client)).await?;
    insist("registering the node", || register(&client, name, address)).await?;
    let ranged = |node: Option<&NodeObject>| {
        node.and_then(|n| n.spec.as_ref()).is_some_and(|s| s.pod_cidr.is_some())
    };
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let node = tokio::time::timeout(PATIENCE, await_condition(nodes, name, ranged))
        .await
        .map_err(|_| anyhow!("the cluster gives the node no pod range"))??;
    let pod_cidr = node.and_then(|n| n.spec?.pod_cidr).unwrap_or_default();
    let serving = Leaf {
        common_name: format!("system:node:{name}"),
        organizations: vec!["system:nodes".into()],
        dns_names: vec![name.to_owned()],
        addresses: vec![address],
        server: true,
        ..Leaf::default()
    };
    let files = Files(layout);
    let at = address.to_string();
    let good = files.pair("kubelet").is_some_and(|p| left(&p) > RENEW_SECONDS) && files.read("address") == Some(at.clone());
    if !good {
        let pair = certificate(&client, &serving).await.context("asking for the kubelet's certificate")?;
        files.write_pair("kubelet", &pair)?;
        knarr_pki::write(&layout.pki().join("address"), &at, 0o644)?;
    }
    Ok(Membership { server, client, settings, pod_cidr })
}
