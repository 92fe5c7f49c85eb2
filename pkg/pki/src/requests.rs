//! Certificate signing requests: what they say, and certificates for them.

use std::net::IpAddr;

use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::SKEW;

/// Why a request was not read or signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is no PEM of a certificate request.
    #[error("not a PEM certificate request")]
    Malformed,
    /// A usage that no certificate of this authority has.
    #[error("unsupported usage {0:?}")]
    Usage(String),
    /// The subject has one attribute several times, which cannot be written.
    #[error("the subject has several organizations or common names")]
    Repeated,
    /// It cannot be signed.
    #[error("{0}")]
    Sign(#[from] rcgen::Error),
}

/// What a request asks to be certified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// CN.
    pub common_name: String,
    /// O, each.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Names of other kinds (mail addresses, URIs, …), counted.
    pub other_names: usize,
}

fn der(pem: &str) -> Result<Vec<u8>, RequestError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| RequestError::Malformed)?;
    if pem.label != "CERTIFICATE REQUEST" && pem.label != "NEW CERTIFICATE REQUEST" {
        return Err(RequestError::Malformed);
    }
    Ok(pem.contents)
}

impl Request {
    /// Reads a PEM request.
    ///
    /// # Errors
    /// [`RequestError::Malformed`].
    pub fn parse(pem: &str) -> Result<Self, RequestError> {
        let der = der(pem)?;
        let (_, csr) =
            X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
        let subject = &csr.certification_request_info.subject;
        let text = |v: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            v.as_str().unwrap_or_default().to_owned()
        };
        let mut out = Request {
            common_name: subject
                .iter_common_name()
                .map(text)
                .next()
                .unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            ..Request::default()
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(san) = extension else {
                continue;
            };
            for name in &san.general_names {
                match name {
                    GeneralName::DNSName(n) => out.dns_names.push((*n).to_owned()),
                    GeneralName::IPAddress(b) => {
                        let v4 = <[u8; 4]>::try_from(*b).map(IpAddr::from);
                        let v6 = <[u8; 16]>::try_from(*b).map(IpAddr::from);
                        out.addresses.extend(v4.or(v6));
                    }
                    _ => out.other_names += 1,
                }
            }
        }
        Ok(out)
    }
}

/// A new key and a request for a certificate of what `leaf` says, both PEM: request, key.
///
/// # Errors
/// [`RequestError::Sign`] if a name cannot be written into a request.
pub fn request(leaf: &crate::Leaf) -> Result<(String, String), RequestError> {
    let key = KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(leaf.dns_names.clone())?;
    params.subject_alt_names.extend(leaf.addresses.iter().copied().map(rcgen::SanType::IpAddress));
    params.distinguished_name = rcgen::DistinguishedName::new();
    for organization in &leaf.organizations {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, &leaf.common_name);
    Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

/// Signs requests with an authority's key.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    ends: OffsetDateTime,
}

impl Signer {
    /// From an authority's certificate and key, both PEM.
    ///
    /// # Errors
    /// If one of them is not what it should be.
    pub fn new(certificate: &str, key: &str) -> Result<Self, RequestError> {
        let ends = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .ok()
            .and_then(|(_, pem)| Some(pem.parse_x509().ok()?.validity().not_after.to_datetime()))
            .ok_or(RequestError::Malformed)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, ends })
    }

    /// A certificate (PEM) for a PEM request, with these usages in Kubernetes' words and no
    /// others, for `seconds` or as long as the authority itself lives.
    ///
    /// # Errors
    /// If the request is malformed, its signature wrong, or a usage unknown.
    pub fn sign(
        &self,
        request: &str,
        usages: &[String],
        seconds: i64,
    ) -> Result<String, RequestError> {
        let der = der(request)?;
        let (_, parsed) =
            X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
        let subject = &parsed.certification_request_info.subject;
        if subject.iter_organization().count() > 1 || subject.iter_common_name().count() > 1 {
            return Err(RequestError::Repeated);
        }
        let mut csr = CertificateSigningRequestParams::from_der(&der.as_slice().into())?;
        csr.params.key_usages.clear();
        csr.params.extended_key_usages.clear();
        for usage in usages {
            match usage.as_str() {
                "signing" | "digital signature" => {
                    csr.params
                        .key_usages
                        .push(KeyUsagePurpose::DigitalSignature);
                }
                "content commitment" => {
                    csr.params
                        .key_usages
                        .push(KeyUsagePurpose::ContentCommitment);
                }
                "key encipherment" => csr.params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "data encipherment" => {
                    csr.params
                        .key_usages
                        .push(KeyUsagePurpose::DataEncipherment);
                }
                "key agreement" => csr.params.key_usages.push(KeyUsagePurpose::KeyAgreement),
                "server auth" => {
                    csr.params
                        .extended_key_usages
                        .push(ExtendedKeyUsagePurpose::ServerAuth);
                }
                "client auth" => {
                    csr.params
                        .extended_key_usages
                        .push(ExtendedKeyUsagePurpose::ClientAuth);
                }
                "code signing" => {
                    csr.params
                        .extended_key_usages
                        .push(ExtendedKeyUsagePurpose::CodeSigning);
                }
                other => return Err(RequestError::Usage(other.to_owned())),
            }
        }
        csr.params.is_ca = IsCa::ExplicitNoCa;
        csr.params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        csr.params.not_before = now - SKEW;
        csr.params.not_after = (now + Duration::seconds(seconds)).min(self.ends);
        Ok(csr.signed_by(&self.issuer)?.pem())
    }
}

#[cfg(test)]
mod tests;
