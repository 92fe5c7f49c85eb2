//! Which hosts to ask for a repository, and with what: `registries.yaml`, and beside it the folder
//! `certs.d` with containerd's [`hosts`] files, which come first, and Docker's `config.json` with
//! credentials of registries for which `registries.yaml` has none.
//!
//! ```yaml
//! mirrors:
//!   docker.io:                       # or "*"
//!     endpoint: ["http://127.0.0.1:5000"]
//!     rewrite: { "library/": "mirror/library/" }   # by prefix
//! configs:
//!   "registry.example:5000":
//!     auth: { username: u, password: p }           # or auth: base64, or identityToken
//!     tls: { caFile: /ca.pem, certFile: …, keyFile: …, insecureSkipVerify: false }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use http::HeaderMap;
use serde::Deserialize;

use crate::{Error, Reference};

pub(crate) mod client;
mod docker;
mod hosts;
mod tls;

#[cfg(test)]
mod tests;

/// What a registry is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// A token to exchange for one that gives access.
    pub identity_token: String,
    /// A token that gives access.
    pub registry_token: String,
}

impl Credentials {
    /// From `base64(user:password)`, as in Docker's files.
    pub fn from_encoded(auth: &str) -> Option<Self> {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(auth.trim())
            .ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Self {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            ..Self::default()
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registries {
    #[serde(default)]
    mirrors: BTreeMap<String, Mirror>,
    #[serde(default)]
    configs: BTreeMap<String, Host>,
    /// The folder of `hosts.toml` files.
    #[serde(skip)]
    certs: PathBuf,
    /// Docker's file.
    #[serde(skip)]
    docker: docker::DockerConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirror {
    #[serde(default, alias = "endpoints")]
    endpoint: Vec<String>,
    #[serde(default)]
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    #[serde(default)]
    auth: Option<Auth>,
    #[serde(default)]
    pub tls: Option<Tls>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identityToken", alias = "identity_token")]
    identity_token: String,
}

/// How to speak TLS with one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    #[serde(default, rename = "caFile", alias = "ca_file")]
    pub ca_file: Option<PathBuf>,
    #[serde(skip)]
    pub more_cas: Vec<PathBuf>,
    #[serde(default, rename = "certFile", alias = "cert_file")]
    pub cert_file: Option<PathBuf>,
    #[serde(default, rename = "keyFile", alias = "key_file")]
    pub key_file: Option<PathBuf>,
    #[serde(default, rename = "insecureSkipVerify", alias = "insecure_skip_verify")]
    pub insecure_skip_verify: bool,
}

/// One place where a repository can be had.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `scheme://host[:port][/prefix]/v2`, without a slash at the end.
    pub api: String,
    pub repository: String,
    pub credentials: Option<Credentials>,
    pub tls: Tls,
    /// Sent with every request to it.
    pub headers: HeaderMap,
    /// Tags may be asked for, not digests alone.
    pub resolves: bool,
    /// The registry that it answers for, when it is another.
    pub namespace: Option<String>,
}

impl Registries {
    /// Reads the file; a missing one is empty.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let mut found = match text.trim() {
            "" => Self::default(),
            text => serde_yaml_ng::from_str(text)
                .map_err(|e| Error::malformed(path.display().to_string(), e))?,
        };
        found.certs = path.with_file_name("certs.d");
        found.docker = docker::DockerConfig::read(&path.with_file_name("config.json"))?;
        Ok(found)
    }

    /// Where to ask, in order: the mirrors, then the registry itself.
    ///
    /// # Errors
    /// A `hosts.toml` that cannot be read.
    pub(crate) fn endpoints(
        &self,
        name: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Endpoint>, Error> {
        let registry = name.registry();
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let own = self.config(host).or_else(|| self.config(registry));
        if let Some(hosts) = hosts::read(&self.certs, registry, self.scheme(host), host)? {
            let endpoint = |h: hosts::Host| {
                let theirs = if h.name == host {
                    own
                } else {
                    self.config(&h.name)
                };
                Endpoint {
                    credentials: credentials
                        .filter(|_| h.name == host)
                        .cloned()
                        .or_else(|| theirs.and_then(Host::credentials))
                        .or_else(|| self.docker.credentials(&h.name, name.repository())),
                    namespace: (h.name != host).then(|| registry.to_owned()),
                    api: h.api,
                    repository: name.repository().to_owned(),
                    tls: h.tls,
                    headers: h.headers,
                    resolves: h.resolves,
                }
            };
            return Ok(hosts.into_iter().map(endpoint).collect());
        }
        let mut out = Vec::new();
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        for base in mirror.iter().flat_map(|m| &m.endpoint) {
            let base = base.trim_end_matches('/').trim_end_matches("/v2");
            let base = match base.contains("://") {
                true => base.to_owned(),
                false => format!("{}://{base}", self.scheme(base)),
            };
            let mut repository = name.repository().to_owned();
            for (from, to) in mirror.iter().flat_map(|m| &m.rewrite) {
                if let Some(rest) = repository.strip_prefix(from.trim_start_matches('^')) {
                    repository = format!("{to}{rest}");
                    break;
                }
            }
            out.push(self.endpoint(&base, repository, None));
        }
        let base = format!("{}://{host}", self.scheme(host));
        let mut last = self.endpoint(&base, name.repository().to_owned(), credentials);
        last.credentials = credentials
            .cloned()
            .or_else(|| own.and_then(Host::credentials))
            .or_else(|| self.docker.credentials(host, name.repository()));
        out.push(last);
        Ok(out)
    }

    fn config(&self, host: &str) -> Option<&Host> {
        self.configs.get(host)
    }

    fn endpoint(
        &self,
        base: &str,
        repository: String,
        credentials: Option<&Credentials>,
    ) -> Endpoint {
        let host = base
            .split_once("://")
            .map_or(base, |(_, h)| h)
            .split('/')
            .next()
            .unwrap_or_default();
        let own = self.config(host);
        Endpoint {
            credentials: credentials
                .cloned()
                .or_else(|| own.and_then(Host::credentials))
                .or_else(|| self.docker.credentials(host, &repository)),
            tls: own.and_then(|h| h.tls.clone()).unwrap_or_default(),
            repository,
            api: format!("{base}/v2"),
            headers: HeaderMap::new(),
            resolves: true,
            namespace: None,
        }
    }

    /// Plain HTTP for this machine's own registries, unless TLS is configured for them.
    fn scheme(&self, host: &str) -> &'static str {
        let tls = self.config(host).is_some_and(|h| h.tls.is_some());
        if !tls && is_loopback(host) {
            "http"
        } else {
            "https"
        }
    }
}

impl Host {
    fn credentials(&self) -> Option<Credentials> {
        let auth = self.auth.as_ref()?;
        if !auth.auth.is_empty() {
            return Credentials::from_encoded(&auth.auth);
        }
        Some(Credentials {
            username: auth.username.clone(),
            password: auth.password.clone(),
            identity_token: auth.identity_token.clone(),
            registry_token: String::new(),
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}
