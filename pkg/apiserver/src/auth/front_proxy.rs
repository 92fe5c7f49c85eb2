//! Front proxies: a client whose certificate a proxy's authority has signed says in headers whom
//! it speaks for.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::HeaderMap;
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};

use super::UserInfo;
use crate::request::unescape;

/// Which proxies are believed, and the names of their headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaders {
    /// Common names of proxies' certificates; any if empty.
    pub allowed_names: Vec<String>,
    /// Headers of the user's name, the first with a value counts.
    pub username: Vec<String>,
    /// Headers of the user's uid.
    pub uid: Vec<String>,
    /// Headers of the user's groups.
    pub group: Vec<String>,
    /// What headers of the user's extra fields begin with.
    pub extra_prefix: Vec<String>,
}

impl Default for RequestHeaders {
    fn default() -> Self {
        let one = |s: &str| vec![s.to_owned()];
        Self {
            allowed_names: one("front-proxy-client"),
            username: one("X-Remote-User"),
            uid: one("X-Remote-Uid"),
            group: one("X-Remote-Group"),
            extra_prefix: one("X-Remote-Extra-"),
        }
    }
}

impl RequestHeaders {
    /// The user that the headers name, if they name one.
    #[must_use]
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let all = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|n| headers.get_all(n.as_str()));
            values.filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned).collect()
        };
        let name = all(&self.username).into_iter().next()?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in self.extra_prefix.iter().map(|p| p.to_lowercase()) {
            for (k, v) in headers {
                if let Some(key) = k.as_str().strip_prefix(&prefix)
                    && let Ok(v) = v.to_str()
                {
                    extra.entry(unescape(key, false)).or_default().push(v.to_owned());
                }
            }
        }
        let mut groups = all(&self.group);
        if !groups.iter().any(|g| g == "system:authenticated" || g == "system:unauthenticated") {
            groups.push("system:authenticated".into());
        }
        Some(UserInfo { name, uid: all(&self.uid).into_iter().next().unwrap_or_default(), groups, extra })
    }
}

/// The authorities of clients, and those of front proxies.
pub struct Authorities {
    clients: Option<Arc<dyn ClientCertVerifier>>,
    fronts: Option<Arc<dyn ClientCertVerifier>>,
    /// Verifies what either has signed; `None` if certificates are not asked for.
    pub any: Option<Arc<dyn ClientCertVerifier>>,
    allowed_names: Vec<String>,
}

fn verifier(pems: &[&str]) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let mut roots = RootCertStore::empty();
    for pem in pems {
        for c in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(c.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let v = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build().map_err(|e| e.to_string())?;
    Ok(Some(v))
}

/// What a connection's client certificate proves.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    /// The user it names.
    pub user: Option<Arc<UserInfo>>,
    /// Whether it is a front proxy's.
    pub front: bool,
    /// The other end.
    pub peer: Option<IpAddr>,
}

impl Authorities {
    /// From PEM.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(clients: &str, fronts: Option<&str>, allowed_names: &[String]) -> Result<Self, String> {
        let fronts = fronts.unwrap_or("");
        Ok(Self { clients: verifier(&[clients])?, fronts: verifier(&[fronts])?, any: verifier(&[clients, fronts])?, allowed_names: allowed_names.to_vec() })
    }

    /// Reads the certificates of a connection.
    #[must_use]
    pub fn read(&self, chain: &[CertificateDer<'_>]) -> Presented {
        let Some((leaf, rest)) = chain.split_first() else { return Presented::default() };
        let signed = |v: &Option<Arc<dyn ClientCertVerifier>>| v.as_ref().is_some_and(|v| v.verify_client_cert(leaf, rest, UnixTime::now()).is_ok());
        let front = signed(&self.fronts) && (self.allowed_names.is_empty() || common_name(leaf).is_some_and(|n| self.allowed_names.contains(&n)));
        let user = signed(&self.clients).then(|| UserInfo::of_certificate(leaf).inspect_err(|error| tracing::debug!(error, "client certificate refused")).ok()).flatten();
        Presented { user: user.map(Arc::new), front, peer: None }
    }
}

fn common_name(der: &[u8]) -> Option<String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    cert.subject().iter_common_name().filter_map(|a| a.as_str().ok()).last().map(str::to_owned)
}
