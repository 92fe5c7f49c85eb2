//! Certificates of the server, and who the client is by his.
use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::auth::Identity;
use crate::config::{Error, Tls};

fn bad(path: &Path, reason: impl ToString) -> Error {
    Error::Tls {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

fn certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(path, e))?
        .collect();
    let list = list.map_err(|e| bad(path, e))?;
    if list.is_empty() {
        return Err(bad(path, "no certificate in it"));
    }
    Ok(list)
}

/// The server's side: client certificates are asked for, not demanded.
pub(super) fn server_config(tls: &Tls) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for c in certs(&tls.client_ca)? {
        roots.add(c).map_err(|e| bad(&tls.client_ca, e))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| bad(&tls.client_ca, e))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| bad(&tls.key, e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&tls.cert, e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs(&tls.cert)?, key)
        .map_err(|e| bad(&tls.cert, e))?;
    // upgrades need HTTP/1.1
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The name and groups of a verified client certificate.
pub(super) fn identity(c: &ServerConnection) -> Option<Identity> {
    let der = c.peer_certificates()?.first()?;
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    Some(Identity {
        user: subject.iter_common_name().next().and_then(text)?,
        groups: subject.iter_organization().filter_map(text).collect(),
        uid: String::new(),
        extra: Default::default(),
    })
}
