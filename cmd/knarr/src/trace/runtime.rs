//! Layers 7 and 6: sandbox and containers as the CRI tells them.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use knarr_cri_api::v1::{
    ContainerFilter, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    PodSandboxFilter, PodSandboxStatusRequest, runtime_service_client::RuntimeServiceClient,
};
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use super::process;

pub(super) async fn gather(socket: &Path, pod_uid: &str) -> Result<Value> {
    let path = socket.to_owned();
    let channel = Endpoint::from_static("http://cri")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path).await.map(TokioIo::new)
            }
        }))
        .await
        .with_context(|| format!("no CRI runtime at {}", socket.display()))?;
    let mut client = RuntimeServiceClient::new(channel);
    let label = HashMap::from([("io.kubernetes.pod.uid".to_owned(), pod_uid.to_owned())]);
    let filter = PodSandboxFilter { label_selector: label.clone(), ..Default::default() };
    let mut sandboxes = client
        .list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })
        .await?
        .into_inner()
        .items;
    sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    let Some(sandbox) = sandboxes.into_iter().next() else {
        return Ok(json!({ "error": "the pod has no sandbox on this node" }));
    };
    let status = client
        .pod_sandbox_status(PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            verbose: true,
        })
        .await?
        .into_inner();
    let network = status.status.as_ref().and_then(|s| s.network.as_ref());
    let info = info(&status.info);
    let pause = pid(&info);
    let filter = ContainerFilter { pod_sandbox_id: sandbox.id.clone(), ..Default::default() };
    let listed = client
        .list_containers(ListContainersRequest { filter: Some(filter) })
        .await?
        .into_inner()
        .containers;
    let mut containers = Vec::new();
    for container in listed {
        let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: true };
        let answer = client.container_status(request).await?.into_inner();
        let info = self::info(&answer.info);
        let status = answer.status.unwrap_or_default();
        let pid = pid(&info);
        containers.push(json!({
            "id": container.id,
            "name": container.metadata.as_ref().map(|m| m.name.clone()),
            "attempt": container.metadata.as_ref().map(|m| m.attempt),
            "state": status.state().as_str_name(),
            "exitCode": status.exit_code,
            "reason": status.reason,
            "image": container.image.as_ref().map(|i| i.image.clone()),
            "imageId": container.image_id,
            "logPath": status.log_path,
            "shim": info.get("shimPid").cloned(),
            "bundle": info.get("bundle").cloned(),
            "snapshot": info.get("snapshot").cloned(),
            "pid": pid,
            "process": pid.map(process::describe),
        }));
    }
    let mut everyone: Vec<(String, i32)> = Vec::new();
    everyone.extend(pause.map(|pid| ("pause".to_owned(), pid)));
    for container in &containers {
        if let (Some(name), Some(pid)) = (
            container["name"].as_str(),
            container["pid"].as_i64().and_then(|p| i32::try_from(p).ok()),
        ) {
            everyone.push((name.to_owned(), pid));
        }
    }
    Ok(json!({
        "sandbox": {
            "id": sandbox.id,
            "state": sandbox.state().as_str_name(),
            "handler": sandbox.runtime_handler,
            "ip": network.map(|n| n.ip.clone()),
            "pausePid": pause,
            "pause": pause.map(process::describe),
        },
        "containers": containers,
        "namespaces": process::namespaces(&everyone),
    }))
}

/// CRI's verbose information: JSON under the key `info`.
fn info(map: &HashMap<String, String>) -> Value {
    map.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn pid(info: &Value) -> Option<i32> {
    info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|&pid| pid > 0)
}
