//! Times a one-node cluster as its users see it: from an empty folder to Ready, pod starts,
//! deployments, deletions, services, and what it costs when idle.
//!
//! `hack/bench` (as root), with `--peer` for the same of upstream's parts in the same run. Every
//! figure is taken through the Kubernetes API on this machine; memory and CPU are those of all
//! processes of the node, from `/proc`.

// The tables are what it is for.
#![allow(clippy::print_stdout)]

mod cluster;
mod cri;
mod idle;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cluster::{Cluster, Knarr, Upstream};
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

/// What is measured, its unit, and what is to be reached.
const WORK: [(&str, &str, &str); 8] = [
    ("empty data folder → node Ready", "s", "≤ 2 s"),
    ("empty data folder → first pod Running", "s", "≤ 3 s"),
    ("pod start, create → Running, p50", "ms", "≤ 150 ms"),
    ("pod deletion, SIGTERM heeded, p50", "ms", "≤ 200 ms"),
    ("Deployment of 30 replicas, all Ready", "s", "≤ 3 s"),
    ("Service answers after its endpoints are ready", "ms", "≤ 50 ms"),
    ("idle memory, all processes of the node", "MB", "≤ 120 MB"),
    ("idle CPU, all processes of the node", "% of a core", "≤ 2 %"),
];

/// The result of each line of [`WORK`], in its unit.
type Figures = [f64; WORK.len()];

async fn run() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("cri") {
        return cri::run().await;
    }
    let ours = {
        let cluster = Knarr::start()?;
        let begun = cluster.ready().await?;
        cluster.import_busybox()?;
        measure(&cluster, begun).await?
    };
    eprintln!("knarr: {ours:?}");
    let peer = if std::env::args().any(|a| a == "--peer") {
        let cluster = Upstream::start()?;
        let begun = cluster.ready().await?;
        Some(measure(&cluster, begun).await?)
    } else {
        None
    };
    println!("| work | knarr | to reach | upstream's parts | ratio |");
    println!("|---|---|---|---|---|");
    for (i, (work, unit, target)) in WORK.iter().enumerate() {
        let mine = ours[i];
        let (theirs, ratio) = match peer.map(|p| p[i]) {
            Some(theirs) => (format!("{theirs:.2} {unit}"), format!("{:.3}", mine / theirs)),
            None => ("-".into(), "-".into()),
        };
        println!("| {work} | {mine:.2} {unit} | {target} | {theirs} | {ratio} |");
    }
    Ok(())
}

async fn measure(cluster: &impl Cluster, (client, ready): (kube::Client, Duration)) -> Result<Figures> {
    let (seconds, milliseconds) = (|d: Duration| d.as_secs_f64(), |d: Duration| d.as_secs_f64() * 1e3);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let start = Instant::now();
    start_first(&pods).await?;
    let first = ready + start.elapsed();
    let mut starts = Vec::new();
    let mut deletions = Vec::new();
    for i in 0..PODS {
        let name = format!("pod-{i}");
        starts.push(start_pod(&pods, &name).await?);
        deletions.push(delete_pod(&pods, &name).await?);
    }
    let deployed = deploy(client.clone(), REPLICAS).await?;
    let served = serve(client.clone()).await?;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.delete("bench", &DeleteParams::background()).await?;
    pods.delete("first", &DeleteParams::default()).await?;
    wait_empty(&pods).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = idle::measure(cluster, Duration::from_secs(30))?;
    Ok([
        seconds(ready),
        seconds(first),
        milliseconds(median(&mut starts)),
        milliseconds(median(&mut deletions)),
        seconds(deployed),
        milliseconds(served),
        idle.megabytes,
        idle.cpu_percent,
    ])
}

/// The first pod: refused while its namespace has no service account yet.
async fn start_first(pods: &Api<Pod>) -> Result<()> {
    let begin = Instant::now();
    loop {
        match start_pod(pods, "first").await {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > Duration::from_secs(30) => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn median(all: &mut [Duration]) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
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
