//! The cluster's authority as the controllers' signer.

use std::sync::Arc;

use anyhow::{Context, Result};
use knarr_controllers::certificates::{CertificateSigner, Subject};
use knarr_pki::{BootstrapToken, Request, Signer};

struct Authority(Signer);

impl CertificateSigner for Authority {
    fn read(&self, request: &str) -> Result<Subject, String> {
        let r = Request::parse(request).map_err(|e| e.to_string())?;
        Ok(Subject {
            common_name: r.common_name,
            organizations: r.organizations,
            dns_names: r.dns_names,
            addresses: r.addresses,
            other_names: r.other_names,
        })
    }
    fn sign(&self, request: &str, usages: &[String], seconds: i64) -> Result<String, String> {
        self.0
            .sign(request, usages, seconds)
            .map_err(|e| e.to_string())
    }
}

/// The signer of an authority given by certificate and key.
///
/// # Errors
/// If one of them is not what it should be.
pub fn from(certificate: &str, key: &str) -> Result<Arc<dyn CertificateSigner>> {
    let signer = Signer::new(certificate, key).context("the cluster's authority cannot sign")?;
    Ok(Arc::new(Authority(signer)))
}

/// The signature of a text by a bootstrap token.
pub fn by_token(content: &str, id: &str, secret: &str) -> String {
    BootstrapToken { id: id.to_owned(), secret: secret.to_owned() }.sign(content)
}
