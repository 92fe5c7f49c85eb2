//! Certificates, keys and kubeconfigs of a cluster.
//!
//! Everything lives in one folder under the names that kubeadm uses (`ca.crt`, `apiserver.crt`,
//! `sa.key`, …), keys with mode 0600. What is there and good is kept; a leaf that is about to
//! end, that another authority signed, or that lacks a wanted name is issued anew.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

mod requests;
mod token;

pub use requests::{Request, RequestError, Signer, request};
pub use token::{BootstrapToken, ca_hash};

#[cfg(test)]
mod tests;

const CA_LIFE: Duration = Duration::days(3650);
const LEAF_LIFE: Duration = Duration::days(365);
/// A leaf with less than this left is issued anew.
const RENEW: Duration = Duration::days(60);
/// Certificates begin a little earlier, for clocks that are behind.
const SKEW: Duration = Duration::minutes(5);

/// Why a certificate or key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A certificate or key file does not hold what its name says.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate {name}: {source}")]
    Issue {
        /// The certificate's name.
        name: String,
        /// What went wrong.
        source: rcgen::Error,
    },
}

/// A certificate (chain) and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS#8 PEM.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What a leaf certificate says.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    /// File name without extension, e.g. `apiserver`.
    pub file: String,
    /// CN: for a client, the user.
    pub common_name: String,
    /// O: for a client, the groups.
    pub organizations: Vec<String>,
    /// DNS names a server answers to.
    pub dns_names: Vec<String>,
    /// Addresses a server answers at.
    pub addresses: Vec<IpAddr>,
    /// May present itself to servers.
    pub client: bool,
    /// May serve.
    pub server: bool,
}

/// The folder of a cluster's keys.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

/// A certificate authority in the folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// One that is not kept: it signs what it signs now and nothing after.
    ///
    /// # Errors
    /// [`Error::Issue`].
    pub fn forgotten(common_name: &str) -> Result<Self, Error> {
        let issue = |source| Error::Issue { name: common_name.to_owned(), source };
        let (key_pair, params) = authority(common_name).map_err(issue)?;
        let certificate = params.self_signed(&key_pair).map_err(issue)?.pem();
        let issuer = Issuer::from_ca_cert_pem(&certificate, key_pair).map_err(issue)?;
        Ok(Authority { issuer, certificate })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

impl Pki {
    /// Opens the folder, making it with mode 0700 if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| Error::Io { path: dir.clone(), source })?;
        Ok(Pki { dir })
    }

    /// The path of a file in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The authority in `<name>.crt` and `<name>.key`, made if neither is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if only one is there or they cannot be read as certificate and key.
    pub fn authority(&self, name: &str, common_name: &str) -> Result<Authority, Error> {
        let (crt, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let issue = |source| Error::Issue { name: name.to_owned(), source };
        let pair = match (read(&crt)?, read(&key)?) {
            (Some(certificate), Some(key)) => Pair { certificate, key },
            (None, None) => {
                let (key_pair, params) = authority(common_name).map_err(issue)?;
                let certificate = params.self_signed(&key_pair).map_err(issue)?.pem();
                let pair = Pair { certificate, key: key_pair.serialize_pem() };
                write(&key, &pair.key, 0o600)?;
                write(&crt, &pair.certificate, 0o644)?;
                pair
            }
            (found, _) => {
                let missing = if found.is_some() { key } else { crt };
                let reason = "is missing while its counterpart is there; restore it, or remove \
                              both to make a new authority"
                    .to_owned();
                return Err(Error::Invalid { path: missing, reason });
            }
        };
        let invalid = |path: &Path, e: rcgen::Error| Error::Invalid {
            path: path.to_owned(),
            reason: format!("not a usable PEM: {e}"),
        };
        let key_pair = KeyPair::from_pem(&pair.key).map_err(|e| invalid(&key, e))?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key_pair)
            .map_err(|e| invalid(&crt, e))?;
        Ok(Authority { issuer, certificate: pair.certificate })
    }

    /// The leaf in `<file>.crt` and `<file>.key`, issued by `authority` if there is none that is
    /// good for what `leaf` says.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Issue`].
    pub fn leaf(&self, authority: &Authority, leaf: &Leaf) -> Result<Pair, Error> {
        let (crt, key) =
            (self.path(&format!("{}.crt", leaf.file)), self.path(&format!("{}.key", leaf.file)));
        if let (Some(certificate), Some(key)) = (read(&crt)?, read(&key)?)
            && good(&certificate, &key, authority, leaf)
        {
            return Ok(Pair { certificate, key });
        }
        let pair = issue(authority, leaf)?;
        write(&key, &pair.key, 0o600)?;
        write(&crt, &pair.certificate, 0o644)?;
        Ok(pair)
    }

    /// The key that signs service-account tokens: `sa.key` (private) and `sa.pub`, made if it is
    /// not there. Returns the private key, PKCS#8 PEM (ECDSA P-256).
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Issue`].
    pub fn service_account_key(&self) -> Result<String, Error> {
        let path = self.path("sa.key");
        if let Some(key) = read(&path)? {
            return Ok(key);
        }
        let key = KeyPair::generate()
            .map_err(|source| Error::Issue { name: "sa".to_owned(), source })?;
        let pem = key.serialize_pem();
        write(&path, &pem, 0o600)?;
        write(&self.path("sa.pub"), &key.public_key_pem(), 0o644)?;
        Ok(pem)
    }
}

/// A key of an authority, and what its certificate says.
fn authority(common_name: &str) -> Result<(KeyPair, CertificateParams), rcgen::Error> {
    let key_pair = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lifetime(&mut params, CA_LIFE);
    Ok((key_pair, params))
}

/// Issues a certificate without keeping it.
///
/// # Errors
/// [`Error::Issue`] if a name cannot be written into a certificate.
pub fn issue(authority: &Authority, leaf: &Leaf) -> Result<Pair, Error> {
    let error = |source| Error::Issue { name: leaf.file.clone(), source };
    let key = KeyPair::generate().map_err(error)?;
    let mut params = CertificateParams::new(leaf.dns_names.clone()).map_err(error)?;
    params.subject_alt_names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = rcgen::DistinguishedName::new();
    for organization in &leaf.organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, &leaf.common_name);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    if leaf.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    lifetime(&mut params, LEAF_LIFE);
    let certificate = params.signed_by(&key, &authority.issuer).map_err(error)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// How much longer a PEM certificate holds, in seconds; not positive when it has ended, `None` if
/// it cannot be read.
#[must_use]
pub fn seconds_left(certificate: &str) -> Option<i64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let ends = pem.parse_x509().ok()?.validity().not_after.to_datetime();
    Some((ends - OffsetDateTime::now_utc()).whole_seconds())
}

/// Whether a stored leaf can go on being used.
fn good(certificate: &str, key: &str, authority: &Authority, leaf: &Leaf) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()) else {
        return false;
    };
    let Ok(x509) = pem.parse_x509() else { return false };
    let Ok((_, ca_pem)) = x509_parser::pem::parse_x509_pem(authority.certificate.as_bytes())
    else {
        return false;
    };
    let Ok(ca) = ca_pem.parse_x509() else { return false };
    if x509.issuer() != ca.subject() || x509.verify_signature(Some(ca.public_key())).is_err() {
        return false;
    }
    if x509.validity().not_after.to_datetime() < OffsetDateTime::now_utc() + RENEW {
        return false;
    }
    let Ok(key) = KeyPair::from_pem(key) else { return false };
    if x509.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
        return false;
    }
    let subject = x509.subject();
    let names = |iter: Vec<Option<String>>| iter.into_iter().flatten().collect::<Vec<_>>();
    let text = |v: &x509_parser::x509::AttributeTypeAndValue<'_>| v.as_str().ok().map(str::to_owned);
    if names(subject.iter_common_name().map(text).collect()) != [leaf.common_name.clone()]
        || names(subject.iter_organization().map(text).collect()) != leaf.organizations
    {
        return false;
    }
    let (mut dns, mut addresses) = (Vec::new(), Vec::new());
    if let Ok(Some(san)) = x509.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                x509_parser::extensions::GeneralName::DNSName(name) => dns.push(*name),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => {
                    addresses.push(bytes.to_vec());
                }
                _ => {}
            }
        }
    }
    leaf.dns_names.iter().all(|name| dns.contains(&name.as_str()))
        && leaf.addresses.iter().all(|address| {
            let bytes = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            addresses.contains(&bytes)
        })
}

fn lifetime(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + life;
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

/// Writes a file whole: under another name first, then renamed.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let inner = || -> io::Result<()> {
        let temporary = path.with_extension("new");
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    inner().map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// A kubeconfig (as JSON, which is YAML) for one user with a client certificate.
#[must_use]
pub fn kubeconfig(cluster: &str, server: &str, ca: &str, user: &str, pair: &Pair) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&pair.certificate),
            "client-key-data": STANDARD.encode(&pair.key),
        }}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    });
    let mut text = serde_json::to_string_pretty(&config).unwrap_or_default();
    text.push('\n');
    text
}
