//! `podCertificate` projections (KEP-4317): a key made here, a certificate that a signer gives for
//! a PodCertificateRequest, both renewed before they end.
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus},
        core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Resource,
    api::{PostParams, WatchEvent, WatchParams},
};

use super::{Prepared, VolumeError, rotate_at, trust};
use crate::{sources::SourceError, spec, worker::Shared};

/// How long an answer is waited for at a time; after it the request goes on, and is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A key and, once a signer has answered, its certificates.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// PKCS#8, PEM.
    pub(super) key: String,
    /// PEM, the leaf first; empty while none is issued.
    pub(super) chain: String,
    /// The request that has yet to be answered, and its key.
    pending: Option<(String, String)>,
    refresh: Timestamp,
    end: Timestamp,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("refresh", &self.refresh).field("end", &self.end).finish_non_exhaustive()
    }
}

fn refused(what: &str) -> impl FnOnce(kube::Error) -> VolumeError {
    let what = what.to_owned();
    move |source| VolumeError::Api { what, source: Box::new(source) }
}

/// The key and certificates of a projection; those of the last time until they are to be renewed.
pub(super) async fn credential(
    sh: &Shared,
    pod: &Pod,
    volume: &str,
    index: usize,
    p: &PodCertificateProjection,
    out: &mut Prepared,
) -> Result<Credential, VolumeError> {
    let place = (volume.to_owned(), index);
    let now = Timestamp::now();
    let mut have = out.tokens.certificates.get(&place).cloned().unwrap_or_else(|| Credential {
        key: String::new(),
        chain: String::new(),
        pending: None,
        refresh: now,
        end: now,
    });
    if have.refresh <= now {
        let renewed = renew(sh, pod, p, &mut have).await;
        out.tokens.certificates.insert(place, have.clone());
        match renewed {
            // What is there holds yet: the signer gets more time.
            Err(error) if have.end > Timestamp::now() => {
                tracing::warn!(%error, pod = spec::name(pod), "renewing a pod certificate");
                let soon = Timestamp::now() + PATIENCE;
                out.refresh = Some(out.refresh.map_or(soon, |r| r.min(soon)));
                return Ok(have);
            }
            other => other?,
        }
    }
    out.refresh = Some(out.refresh.map_or(have.refresh, |r| r.min(have.refresh)));
    Ok(have)
}

async fn renew(sh: &Shared, pod: &Pod, p: &PodCertificateProjection, have: &mut Credential) -> Result<(), VolumeError> {
    let Some(client) = sh.client.clone() else {
        return Err(SourceError::NoServer { kind: "podcertificaterequest", name: p.signer_name.clone() }.into());
    };
    let requests = Api::<PodCertificateRequest>::namespaced(client.clone(), spec::namespace(pod));
    let (name, key) = match have.pending.clone() {
        Some(pending) => pending,
        None => {
            let (request, key) = request(sh, client, pod, p).await?;
            let made = requests
                .create(&PostParams::default(), &request)
                .await
                .map_err(refused("creating PodCertificateRequest"))?;
            let pending = (made.metadata.name.unwrap_or_default(), key);
            have.pending = Some(pending.clone());
            pending
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answered(&requests, &name))
        .await
        .map_err(|_| VolumeError::Layout(format!("PodCertificateRequest \"{name}\" is not answered yet")))?;
    // Answered or gone: not asked for again.
    have.pending = None;
    let status = answer?;
    if let Some(chain) = status.certificate_chain.filter(|c| !c.is_empty()) {
        let now = Timestamp::now();
        have.end = status.not_after.map_or(now, |t| t.0);
        have.refresh = status.begin_refresh_at.map_or_else(|| rotate_at(now, have.end), |t| t.0);
        have.chain = trust::pem(trust::pem_blocks(&chain));
        have.key = key;
        return Ok(());
    }
    let why = status.conditions.unwrap_or_default().into_iter().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
    let why = why.map_or_else(String::new, |c| format!(": {} ({}): {}", c.type_, c.reason, c.message));
    Err(VolumeError::Layout(format!("PodCertificateRequest \"{name}\" got no certificate{why}")))
}

/// A request for a new key, and that key.
async fn request(sh: &Shared, client: kube::Client, pod: &Pod, p: &PodCertificateProjection) -> Result<(PodCertificateRequest, String), VolumeError> {
    let algorithm = match p.key_type.as_str() {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        other => return Err(VolumeError::Layout(format!("keys of type {other} cannot be made on this node"))),
    };
    let broken = |e: rcgen::Error| VolumeError::Layout(format!("generating a key: {e}"));
    let key = rcgen::KeyPair::generate_for(algorithm).map_err(broken)?;
    let mut empty = rcgen::CertificateParams::default();
    empty.distinguished_name = rcgen::DistinguishedName::new();
    let csr = empty.serialize_request(&key).map_err(broken)?;

    let account = spec::spec(pod).service_account_name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), spec::namespace(pod));
    let nodes = Api::<Node>::all(client);
    let found = accounts.get(&account).await.map_err(refused(&format!("serviceaccount \"{account}\"")))?;
    let node = nodes.get(&sh.cfg.node_name).await.map_err(refused(&format!("node \"{}\"", sh.cfg.node_name)))?;
    let request = PodCertificateRequest {
        metadata: ObjectMeta {
            generate_name: Some("req-".into()),
            namespace: Some(spec::namespace(pod).into()),
            owner_references: Some(vec![OwnerReference {
                api_version: Pod::api_version(&()).into(),
                kind: Pod::kind(&()).into(),
                name: spec::name(pod).into(),
                uid: spec::uid(pod).into(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: p.signer_name.clone(),
            pod_name: spec::name(pod).into(),
            pod_uid: spec::uid(pod).into(),
            service_account_name: account,
            service_account_uid: found.metadata.uid.unwrap_or_default(),
            node_name: sh.cfg.node_name.clone(),
            node_uid: node.metadata.uid.unwrap_or_default(),
            max_expiration_seconds: p.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(csr.der().to_vec()),
            unverified_user_annotations: p.user_annotations.clone(),
        },
        status: None,
    };
    Ok((request, key.serialize_pem()))
}

/// Waits until a request has its answer.
async fn answered(requests: &Api<PodCertificateRequest>, name: &str) -> Result<PodCertificateRequestStatus, VolumeError> {
    let over = |r: &PodCertificateRequest| {
        let status = r.status.clone()?;
        let issued = status.certificate_chain.as_ref().is_some_and(|c| !c.is_empty());
        let ended = status.conditions.iter().flatten().any(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
        (issued || ended).then_some(status)
    };
    let gone = || VolumeError::Layout(format!("PodCertificateRequest \"{name}\" was deleted"));
    let what = format!("PodCertificateRequest \"{name}\"");
    loop {
        let now = requests.get_opt(name).await.map_err(refused(&what))?.ok_or_else(gone)?;
        if let Some(status) = over(&now) {
            return Ok(status);
        }
        let from = now.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut changes = requests.watch(&params, &from).await.map_err(refused(&what))?.boxed();
        while let Some(event) = changes.try_next().await.map_err(refused(&what))? {
            match event {
                WatchEvent::Added(r) | WatchEvent::Modified(r) => {
                    if let Some(status) = over(&r) {
                        return Ok(status);
                    }
                }
                WatchEvent::Deleted(_) => return Err(gone()),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => break,
            }
        }
    }
}
