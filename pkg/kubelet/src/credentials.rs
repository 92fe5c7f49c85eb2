//! Registry credentials from a pod's image pull secrets.
use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::{Pod, Secret};
use knarr_cri_api::v1::AuthConfig;
use serde::Deserialize;

use crate::{events::Kind, spec, worker::Shared};

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

/// Credentials that fit `image`, most specific first.
pub async fn of_pod(sh: &Shared, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for r in spec::spec(pod).image_pull_secrets.iter().flatten() {
        match sh
            .sources
            .secret(spec::uid(pod), spec::namespace(pod), &r.name)
            .await
        {
            Ok(s) => found.extend(fitting(&s, image)),
            Err(_) => missing.push(r.name.clone()),
        }
    }
    if !missing.is_empty() {
        sh.recorder.pod(
            pod,
            None,
            Kind::Warning,
            "FailedToRetrieveImagePullSecret",
            format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            ),
        );
    }
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, a)| a).collect()
}

fn fitting(s: &Secret, image: &str) -> Vec<(usize, AuthConfig)> {
    let data = |k: &str| s.data.as_ref().and_then(|d| d.get(k)).map(|b| b.0.as_slice());
    let auths: BTreeMap<String, Entry> = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(json), _) => serde_json::from_slice::<Config>(json)
            .map(|c| c.auths)
            .unwrap_or_default(),
        (None, Some(json)) => serde_json::from_slice(json).unwrap_or_default(),
        (None, None) => BTreeMap::new(),
    };
    auths
        .into_iter()
        .filter_map(|(server, e)| {
            let len = fits(&server, image)?;
            let (mut user, mut pass) = (e.username, e.password);
            if user.is_empty()
                && let Some((u, p)) = STANDARD
                    .decode(&e.auth)
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok())
                    .and_then(|t| t.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())))
            {
                (user, pass) = (u, p.trim_end_matches('\0').to_owned());
            }
            Some((
                len,
                AuthConfig {
                    username: user,
                    password: pass,
                    server_address: server,
                    identity_token: e.identity_token,
                    ..AuthConfig::default()
                },
            ))
        })
        .collect()
}

/// How much of the image's name a server covers; `None` when it does not.
fn fits(server: &str, image: &str) -> Option<usize> {
    let server = server
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = path.trim_start_matches("v1").trim_start_matches("v2").trim_matches('/');
    let (image_host, image_path) = match image.split_once('/') {
        Some((h, p)) if h.contains(['.', ':']) || h == "localhost" => (h, p),
        _ => ("docker.io", image),
    };
    let same = host == image_host
        || (image_host == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io"))
        || host
            .strip_prefix("*.")
            .is_some_and(|h| image_host.split_once('.').is_some_and(|(_, rest)| rest == h));
    (same && (path.is_empty() || image_path == path || image_path.starts_with(&format!("{path}/"))
        || image_path.starts_with(&format!("{path}:"))))
    .then_some(server.len())
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn servers_cover_hosts_and_paths() {
        assert!(fits("https://index.docker.io/v1/", "busybox").is_some());
        assert!(fits("r.example:5000", "r.example:5000/a/b:1").is_some());
        assert!(fits("r.example/a", "r.example/a/b").is_some());
        assert!(fits("r.example/a", "r.example/ab").is_none());
        assert!(fits("*.example", "r.example/x").is_some());
        assert!(fits("other", "r.example/x").is_none());
    }
}
