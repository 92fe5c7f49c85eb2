//! Whom this server trusts as a client: webhooks, aggregated servers, kubelets, issuers of tokens.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

/// A client's configuration, still without a certificate of its own.
pub type Builder = ConfigBuilder<ClientConfig, WantsClientCert>;

/// How a server's certificate is checked.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Nobody's certificate is checked.
    anybody: bool,
    /// What is trusted: authorities, and certificates of servers themselves, as Go has it.
    trusted: Vec<CertificateDer<'static>>,
    /// By authorities, if there are any.
    issued: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.anybody {
            return Ok(ServerCertVerified::assertion());
        }
        if self.trusted.iter().any(|t| t == own) {
            current(own, now)?;
            verify_server_name(&ParsedCertificate::try_from(own)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.issued {
            Some(v) => v.verify_server_cert(own, between, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
    fn verify_tls12_signature(&self, m: &[u8], c: &CertificateDer<'_>, d: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(m, c, d, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(&self, m: &[u8], c: &CertificateDer<'_>, d: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(m, c, d, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate holds at a time.
fn current(c: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(c).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

fn builder(verifier: Verifier) -> Result<Builder, String> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Trusts what a PEM holds, authorities and certificates of servers themselves; what the system
/// trusts if it is empty.
///
/// # Errors
/// What is wrong with the PEM.
pub fn by(pem: &[u8]) -> Result<Builder, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let mut trusted = Vec::new();
    if pem.is_empty() {
        for c in rustls_native_certs::load_native_certs().certs {
            let _ = roots.add(c);
        }
    }
    for c in CertificateDer::pem_slice_iter(pem) {
        let c = c.map_err(|e| e.to_string())?.into_owned();
        roots.add(c.clone()).map_err(|e| e.to_string())?;
        trusted.push(c);
    }
    let issued = if roots.is_empty() {
        None
    } else {
        let v = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        Some(v.map_err(|e| e.to_string())?)
    };
    builder(Verifier { provider, anybody: false, trusted, issued })
}

/// Trusts anybody.
///
/// # Errors
/// There are no ciphers.
pub fn anybody() -> Result<Builder, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    builder(Verifier { provider, anybody: true, trusted: Vec::new(), issued: None })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_servers_own_certificate_is_trusted_for_its_name_and_time() {
        let dir = tempfile::tempdir().expect("folder");
        let pki = knarr_pki::Pki::open(dir.path()).expect("pki");
        let ca = pki.authority("ca", "ca").expect("ca");
        let leaf = |name: &str| {
            let leaf = knarr_pki::Leaf { file: name.into(), common_name: name.into(), dns_names: vec![name.into()], server: true, ..knarr_pki::Leaf::default() };
            knarr_pki::issue(&ca, &leaf).expect("leaf").certificate
        };
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("pem");
        let (own, other) = (leaf("own"), leaf("other"));
        let verify = |trusted: &str, shown: &str, name: &str, now: UnixTime| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let v = Verifier { provider, anybody: false, trusted: vec![der(trusted)], issued: None };
            let name = ServerName::try_from(name.to_owned()).expect("name");
            v.verify_server_cert(&der(shown), &[], &name, &[], now).map(|_| ())
        };
        let (now, late) = (UnixTime::now(), UnixTime::since_unix_epoch(Duration::from_secs(1 << 40)));
        assert_eq!(verify(&own, &own, "own", now), Ok(()));
        assert!(verify(&own, &own, "else", now).is_err());
        assert_eq!(verify(&own, &own, "own", late), Err(CertificateError::Expired.into()));
        assert_eq!(verify(&own, &other, "other", now), Err(CertificateError::UnknownIssuer.into()));
    }
}
