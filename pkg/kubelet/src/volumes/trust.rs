//! `clusterTrustBundle` projections: anchors by name, or by signer and labels.
use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::{
    api::{certificates::v1::ClusterTrustBundle, core::v1::ClusterTrustBundleProjection},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, api::ListParams};

use super::VolumeError;
use crate::{sources::SourceError, worker::Shared};

/// The PEM text: every certificate once, in a fixed order.
pub(super) async fn bundle(
    sh: &Shared,
    p: &ClusterTrustBundleProjection,
) -> Result<Vec<u8>, VolumeError> {
    let missing = |name: String| SourceError::NotFound {
        kind: "clustertrustbundle",
        name,
    };
    let what = p.name.clone().or_else(|| p.signer_name.clone()).unwrap_or_default();
    let Some(client) = sh.client.clone() else {
        return Err(SourceError::NoServer {
            kind: "clustertrustbundle",
            name: what,
        }
        .into());
    };
    let api = Api::<ClusterTrustBundle>::all(client);
    let refused = |source| VolumeError::Api {
        what: "clustertrustbundle".into(),
        source: Box::new(source),
    };
    let found: Vec<ClusterTrustBundle> = if let Some(name) = &p.name {
        api.get_opt(name).await.map_err(refused)?.into_iter().collect()
    } else {
        let signer = p.signer_name.clone().unwrap_or_default();
        let params = ListParams::default().fields(&format!("spec.signerName={signer}"));
        api.list(&params)
            .await
            .map_err(refused)?
            .items
            .into_iter()
            .filter(|b| {
                p.label_selector.as_ref().is_some_and(|s| {
                    matches(s, b.metadata.labels.as_ref().unwrap_or(&Default::default()))
                })
            })
            .collect()
    };
    let mut certs = BTreeSet::new();
    for b in &found {
        certs.extend(pem_blocks(&b.spec.trust_bundle));
    }
    if certs.is_empty() && p.optional != Some(true) {
        return Err(missing(what).into());
    }
    Ok(pem(certs).into_bytes())
}

/// Certificates as PEM text.
pub(super) fn pem(certs: impl IntoIterator<Item = Vec<u8>>) -> String {
    let mut out = String::new();
    for der in certs {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

/// The certificates in a text, without what stands between and in them.
pub(super) fn pem_blocks(text: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for block in text.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let Some((body, _)) = block.split_once("-----END CERTIFICATE-----") else {
            continue;
        };
        // A line with a colon is a header of the block.
        let body: String = body.lines().filter(|l| !l.contains(':')).flat_map(str::split_whitespace).collect();
        out.extend(STANDARD.decode(body));
    }
    out
}

type Labels = std::collections::BTreeMap<String, String>;

fn matches(s: &LabelSelector, labels: &Labels) -> bool {
    s.match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v))
        && s.match_expressions.iter().flatten().all(|e| {
            let value = labels.get(&e.key);
            let listed = value.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
