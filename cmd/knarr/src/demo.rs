//! `knarr up --demo`: a Deployment and a Service made of knarr's own helper, answering.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use knarr_images::{ImageConfig, Images, RootFile};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{helpers, node::Node, say};

/// The demo's image; it is made in memory and never pulled.
pub const IMAGE: &str = "localhost/knarr-demo:v1";
const REPLICAS: i32 = 2;
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts the demo image into the store.
///
/// # Errors
/// If the store cannot be written.
pub fn import(images: &Images) -> Result<()> {
    let config = ImageConfig {
        entrypoint: vec!["/knarr-pause".into()],
        cmd: vec!["serve".into()],
        ..ImageConfig::default()
    };
    let file = RootFile { path: "knarr-pause".into(), mode: 0o755, content: helpers::PAUSE.to_vec() };
    images.import_rootfs(IMAGE, config, &[file]).context("cannot make the demo image")?;
    Ok(())
}

/// Deploys the demo and shows it answering.
///
/// # Errors
/// If it does not answer in time.
pub async fn run(node: &Node, step: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let params = PatchParams::apply("knarr-demo").force();
    let deployments: Api<Deployment> = Api::default_namespaced(node.client.clone());
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "demo" },
        "spec": {
            "replicas": REPLICAS,
            "selector": { "matchLabels": { "app": "demo" } },
            "template": {
                "metadata": { "labels": { "app": "demo" } },
                "spec": { "containers": [{
                    "name": "server",
                    "image": IMAGE,
                    "ports": [{ "name": "http", "containerPort": 8080 }],
                }] },
            },
        },
    });
    deployments.patch("demo", &params, &Patch::Apply(deployment)).await?;
    let services: Api<Service> = Api::default_namespaced(node.client.clone());
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "demo" },
        "spec": {
            "selector": { "app": "demo" },
            "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
        },
    });
    let service = services.patch("demo", &params, &Patch::Apply(service)).await?;
    let ip = service.spec.and_then(|s| s.cluster_ip).context("the demo's service has no address")?;

    let begin = Instant::now();
    loop {
        let status = deployments.get("demo").await?.status.unwrap_or_default();
        if status.available_replicas == Some(REPLICAS) {
            break;
        }
        if begin.elapsed() > PATIENCE {
            bail!("the demo does not become ready; see `kubectl describe pods -l app=demo`");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    step("deployment demo is available");
    let begin = Instant::now();
    let answer = loop {
        match get(&ip).await {
            Ok(answer) => break answer,
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(error).context(format!("the demo does not answer at {ip}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    step(&format!("service demo answers at http://{ip}/"));
    for line in answer.lines() {
        say(&format!("          {line}"));
    }
    Ok(())
}

/// The body at `http://<ip>/`.
async fn get(ip: &str) -> Result<String> {
    let connect = tokio::net::TcpStream::connect((ip, 80));
    let mut stream = tokio::time::timeout(Duration::from_secs(1), connect).await??;
    let request = format!("GET / HTTP/1.0\r\nHost: {ip}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(2), read).await??;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    if !head.contains(" 200 ") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
