//! What a cluster holds so that more nodes can join: its public description, its settings, and
//! the rights of who joins.

use anyhow::{Context, Result};
use knarr_pki::BootstrapToken;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client;

/// Who joins with a token; kubeadm's name, so that its tokens do too.
pub const JOINERS: &str = "system:bootstrappers:kubeadm:default-node-token";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// What every node of a cluster must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Addresses of all pods.
    pub cluster_cidr: String,
    /// Addresses of services.
    pub service_cidr: String,
    /// DNS domain.
    pub cluster_domain: String,
}

impl Settings {
    /// The cluster's, as a node may read them.
    ///
    /// # Errors
    /// If they are not there or the client may not read them.
    pub async fn read(client: &Client) -> Result<Self> {
        let request = http::Request::get("/api/v1/namespaces/kube-system/configmaps/knarr-config")
            .body(Vec::new())?;
        let map: Value = client.request(request).await?;
        serde_json::from_value(map["data"].clone()).context("the cluster's settings")
    }
}

/// Makes or updates an object below `path`.
async fn apply(client: &Client, path: &str, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let request = http::Request::patch(format!("{path}/{name}?fieldManager=knarr&force=true"))
        .header("content-type", "application/apply-patch+yaml")
        .body(object.to_string().into_bytes())?;
    let _: Value = client.request(request).await.with_context(|| format!("{path}/{name}"))?;
    Ok(())
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn binding(kind: &str, name: &str, role: (&str, &str), subject: (&str, &str)) -> Value {
    json!({
        "apiVersion": format!("{RBAC_GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": role.0, "name": role.1},
        "subjects": [{"apiGroup": RBAC_GROUP, "kind": subject.0, "name": subject.1}],
    })
}

/// Makes all of it, and the Secret of `token` if there is one.
///
/// # Errors
/// If the API server refuses.
pub async fn open(
    client: Client,
    server: String,
    ca: String,
    settings: Settings,
    token: Option<BootstrapToken>,
) -> Result<()> {
    let kubeconfig = client::public(&server, &ca);
    let (public, system) = ("/api/v1/namespaces/kube-public", "/api/v1/namespaces/kube-system");
    apply(&client, &format!("{public}/configmaps"), &config_map("cluster-info", &json!({"kubeconfig": kubeconfig}))).await?;
    apply(&client, &format!("{system}/configmaps"), &config_map("knarr-config", &serde_json::to_value(settings)?)).await?;
    // Each may be read by those who need it and nobody else.
    for (namespace, map, subject) in [
        ("kube-public", "cluster-info", ("User", "system:anonymous")),
        ("kube-system", "knarr-config", ("Group", "system:nodes")),
    ] {
        let name = format!("knarr:{map}");
        let role = json!({
            "apiVersion": format!("{RBAC_GROUP}/v1"), "kind": "Role", "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get"]}],
        });
        let bound = binding("RoleBinding", &name, ("Role", &name), subject);
        apply(&client, &format!("{RBAC}/namespaces/{namespace}/roles"), &role).await?;
        apply(&client, &format!("{RBAC}/namespaces/{namespace}/rolebindings"), &bound).await?;
    }
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    for (name, role, group) in [
        ("knarr:node-bootstrapper", "system:node-bootstrapper".to_owned(), JOINERS),
        ("knarr:approve-new-nodes", format!("{requests}:nodeclient"), JOINERS),
        ("knarr:approve-nodes", format!("{requests}:selfnodeclient"), "system:nodes"),
        ("knarr:node-proxier", "system:node-proxier".to_owned(), "system:nodes"),
    ] {
        let bound = binding("ClusterRoleBinding", name, ("ClusterRole", &role), ("Group", group));
        apply(&client, &format!("{RBAC}/clusterrolebindings"), &bound).await?;
    }
    if let Some(token) = token {
        apply(&client, &format!("{system}/secrets"), &secret(&token, None, "given to knarr up")).await?;
    }
    Ok(())
}

/// The Secret by which a cluster knows a token.
#[must_use]
pub fn secret(token: &BootstrapToken, expires: Option<&str>, description: &str) -> Value {
    let mut data = json!({
        "token-id": token.id,
        "token-secret": token.secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": JOINERS,
    });
    if let Some(time) = expires {
        data["expiration"] = json!(time);
    }
    if !description.is_empty() {
        data["description"] = json!(description);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    })
}
