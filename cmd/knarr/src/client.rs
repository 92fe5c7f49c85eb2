//! Clients of a cluster's API server, by kubeconfig.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::layout::Layout;

/// The administrator of the cluster in these folders.
///
/// # Errors
/// If there is none.
pub async fn administrator(layout: &Layout) -> Result<kube::Client> {
    by_file(&layout.kubeconfig())
        .await
        .with_context(|| format!("there is no cluster in {}", layout.data_dir.display()))
}

/// Whoever a kubeconfig file says.
///
/// # Errors
/// If it cannot be read or used.
pub async fn by_file(path: &std::path::Path) -> Result<kube::Client> {
    from(Kubeconfig::read_from(path)?).await
}

/// A client of the server at this URL, whose authority is `ca` (PEM), for a user as a kubeconfig
/// describes it.
///
/// # Errors
/// If a part of it is not what it should be.
pub async fn of(server: &str, ca: &str, user: &Value) -> Result<kube::Client> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    });
    from(Kubeconfig::from_yaml(&config.to_string())?).await
}

/// A kubeconfig that says where a cluster is and by whom it is certified, for nobody in
/// particular.
#[must_use]
pub fn public(server: &str, ca: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca),
        }}],
    })
    .to_string()
}

/// The server and the authority (PEM) that a kubeconfig names.
#[must_use]
pub fn cluster(kubeconfig: &str) -> Option<(String, String)> {
    let file = Kubeconfig::from_yaml(kubeconfig).ok()?;
    let cluster = file.clusters.into_iter().next()?.cluster?;
    let pem = STANDARD.decode(cluster.certificate_authority_data?).ok()?;
    Some((cluster.server?, String::from_utf8(pem).ok()?))
}

async fn from(file: Kubeconfig) -> Result<kube::Client> {
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
