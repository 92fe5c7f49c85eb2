//! Credentials in Docker's own file (`config.json`, as `docker login` writes it): `auths`, by
//! registry, or by registry and the start of a path. Helpers that are programs are not run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Credentials;
use crate::Error;

#[derive(Debug, Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// The file; what else is in it is not for us.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

impl DockerConfig {
    /// Reads the file; a missing one is empty.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        serde_json::from_slice(&text).map_err(|e| {
            // Serde's message may quote what it read, which is secret here.
            let place = format!("line {}, column {}", e.line(), e.column());
            Error::malformed(path.display().to_string(), place)
        })
    }

    /// What the registry is shown for a repository: the entry that covers most of its name.
    pub(super) fn credentials(&self, host: &str, repository: &str) -> Option<Credentials> {
        let covered = |server: &str| covers(server, host, repository);
        let fitting = self
            .auths
            .iter()
            .filter_map(|(server, e)| Some((covered(server)?, e)));
        let (_, entry) = fitting.max_by_key(|(covered, _)| *covered)?;
        if !entry.auth.is_empty() && entry.username.is_empty() {
            let from = Credentials::from_encoded(&entry.auth)?;
            return Some(Credentials {
                identity_token: entry.identity_token.clone(),
                registry_token: entry.registry_token.clone(),
                ..from
            });
        }
        Some(Credentials {
            username: entry.username.clone(),
            password: entry.password.clone(),
            identity_token: entry.identity_token.clone(),
            registry_token: entry.registry_token.clone(),
        })
    }
}

/// How much of the name a key covers; `None` when it does not.
fn covers(key: &str, host: &str, repository: &str) -> Option<usize> {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let (server, path) = key
        .trim_end_matches('/')
        .split_once('/')
        .unwrap_or((key.trim_end_matches('/'), ""));
    // Docker's file names its hub by an address of old.
    let path = if matches!(path, "v1" | "v2") {
        ""
    } else {
        path
    };
    let hub = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let below = repository.strip_prefix(path)?;
    let whole = path.is_empty() || below.is_empty() || below.starts_with('/');
    ((server == host || (hub(server) && hub(host))) && whole).then_some(key.len())
}
