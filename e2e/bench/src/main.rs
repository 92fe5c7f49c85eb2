//! Times a one-node cluster as its users see it: from an empty folder to Ready, pod starts,
//! deployments, deletions, services, and what it costs when idle.
//!
//! `KNARR=target/release/knarr cargo run --release -p knarr-bench` (as root). Every figure is
//! taken through the Kubernetes API on this machine; memory and CPU are those of all processes
//! of the node, from `/proc`.

mod cluster;
mod idle;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cluster::Cluster;
use futures::TryStreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

const PODS: usize = 20;
const REPLICAS: i32 = 30;

fn main() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

/// One line of the result.
struct Figure {
    work: &'static str,
    measured: String,
    target: &'static str,
    upstream: &'static str,
}

async fn run() -> Result<()> {
    let mut figures = Vec::new();
    let mut figure = |work, measured: String, target, upstream| {
        eprintln!("{work}: {measured}");
        figures.push(Figure { work, measured, target, upstream });
    };
    let begin = Instant::now();
    let cluster = Cluster::start()?;
    let client = cluster.client(begin).await?;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    wait_ready(&nodes).await?;
    let ready = begin.elapsed();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    cluster.import_busybox()?;
    let start = Instant::now();
    start_pod(&pods, "first").await?;
    let first = ready + start.elapsed();
    figure("empty data folder → node Ready", seconds(ready), "≤ 2 s", "4.6 s");
    figure("empty data folder → first pod Running", seconds(first), "≤ 3 s", "10.0 s");

    let mut starts = Vec::new();
    let mut deletions = Vec::new();
    for i in 0..PODS {
        let name = format!("pod-{i}");
        starts.push(start_pod(&pods, &name).await?);
        deletions.push(delete_pod(&pods, &name).await?);
    }
    figure("pod start, create → Running, p50", milliseconds(median(&mut starts)), "≤ 150 ms", "561 ms");
    figure("pod deletion, SIGTERM heeded, p50", milliseconds(median(&mut deletions)), "≤ 200 ms", "-");

    let deployed = deploy(client.clone(), REPLICAS).await?;
    figure("Deployment of 30 replicas, all Ready", seconds(deployed), "≤ 3 s", "7.3 s");

    let served = serve(client.clone()).await?;
    figure("Service answers after its endpoints are ready", milliseconds(served), "≤ 50 ms", "1.03 s");

    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.delete("bench", &DeleteParams::background()).await?;
    pods.delete("first", &DeleteParams::default()).await?;
    wait_empty(&pods).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = idle::measure(&cluster, Duration::from_secs(30))?;
    figure("idle memory, all processes of the node", format!("{:.1} MB", idle.megabytes), "≤ 120 MB", "742 MB");
    figure("idle CPU, all processes of the node", format!("{:.2} %", idle.cpu_percent), "≤ 2 %", "6.7 %");

    println!("| work | measured | to reach | upstream's parts |");
    println!("|---|---|---|---|");
    for f in &figures {
        println!("| {} | {} | {} | {} |", f.work, f.measured, f.target, f.upstream);
    }
    Ok(())
}

fn seconds(d: Duration) -> String {
    format!("{:.2} s", d.as_secs_f64())
}

fn milliseconds(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1e3)
}

fn median(all: &mut [Duration]) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

async fn wait_ready(nodes: &Api<k8s_openapi::api::core::v1::Node>) -> Result<()> {
    let is_ready = |node: &k8s_openapi::api::core::v1::Node| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let list = nodes.list(&ListParams::default()).await?;
    if list.items.iter().any(is_ready) {
        return Ok(());
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    let mut events = Box::pin(nodes.watch(&WatchParams::default(), &version).await?);
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(node) | WatchEvent::Modified(node) = event
            && is_ready(&node)
        {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of nodes ended")
}

fn pod(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "containers": [{
                "name": "main",
                "image": knarr_e2e::image::BUSYBOX,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
            }],
        },
    }))?)
}

/// Creates a pod and waits until a watch shows it Running; gives the time it took.
async fn start_pod(pods: &Api<Pod>, name: &str) -> Result<Duration> {
    let version = pods.list(&ListParams::default()).await?.metadata.resource_version;
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(pods.watch(&params, &version.unwrap_or_default()).await?);
    let begin = Instant::now();
    pods.create(&PostParams::default(), &pod(name)?).await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && pod.status.and_then(|s| s.phase).as_deref() == Some("Running")
        {
            return Ok(begin.elapsed());
        }
    }
    anyhow::bail!("the watch of {name} ended")
}

/// Deletes a pod and waits until a watch shows it gone.
async fn delete_pod(pods: &Api<Pod>, name: &str) -> Result<Duration> {
    let version = pods.list(&ListParams::default()).await?.metadata.resource_version;
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(pods.watch(&params, &version.unwrap_or_default()).await?);
    let begin = Instant::now();
    pods.delete(name, &DeleteParams::default()).await?;
    while let Some(event) = events.try_next().await? {
        if matches!(event, WatchEvent::Deleted(_)) {
            return Ok(begin.elapsed());
        }
    }
    anyhow::bail!("the watch of {name} ended")
}

async fn wait_empty(pods: &Api<Pod>) -> Result<()> {
    let begin = Instant::now();
    while !pods.list(&ListParams::default()).await?.items.is_empty() {
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(60), "pods stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn deploy(client: kube::Client, replicas: i32) -> Result<Duration> {
    let api: Api<Deployment> = Api::default_namespaced(client);
    let version = api.list(&ListParams::default()).await?.metadata.resource_version;
    let mut events =
        Box::pin(api.watch(&WatchParams::default(), &version.unwrap_or_default()).await?);
    let object = serde_json::from_value(json!({
        "metadata": { "name": "bench" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "bench" } },
            "template": {
                "metadata": { "labels": { "app": "bench" } },
                "spec": { "containers": [{
                    "name": "main",
                    "image": knarr_e2e::image::BUSYBOX,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c",
                        "echo ok > /tmp/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp & wait"],
                }] },
            },
        },
    }))?;
    let begin = Instant::now();
    api.create(&PostParams::default(), &object).await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(d) | WatchEvent::Modified(d) = event
            && d.status.and_then(|s| s.ready_replicas) == Some(replicas)
        {
            return Ok(begin.elapsed());
        }
    }
    anyhow::bail!("the watch of deployments ended")
}

/// Creates a Service over the deployment's pods; gives the time from its endpoints being ready
/// to the first answer through the ClusterIP.
async fn serve(client: kube::Client) -> Result<Duration> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let version = slices.list(&ListParams::default()).await?.metadata.resource_version;
    let params = WatchParams::default().labels("kubernetes.io/service-name=bench");
    let mut events = Box::pin(slices.watch(&params, &version.unwrap_or_default()).await?);
    let object = serde_json::from_value(json!({
        "metadata": { "name": "bench" },
        "spec": { "selector": { "app": "bench" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    }))?;
    let service = services.create(&PostParams::default(), &object).await?;
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.clone()).context("no ClusterIP")?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event
            && slice.endpoints.iter().flatten().any(|e| {
                e.conditions.as_ref().and_then(|c| c.ready) == Some(true)
            })
        {
            break;
        }
    }
    let begin = Instant::now();
    loop {
        let answer = tokio::time::timeout(
            Duration::from_millis(20),
            tokio::net::TcpStream::connect((ip.as_str(), 80)),
        );
        if matches!(answer.await, Ok(Ok(_))) {
            break;
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{} is silent", service.name_any());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = begin.elapsed();
    services.delete("bench", &DeleteParams::default()).await?;
    Ok(elapsed)
}
