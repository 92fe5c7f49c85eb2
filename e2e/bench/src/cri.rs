//! The container runtime by itself, through CRI v1, beside containerd and runc in the same run.

mod daemon;
mod image;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use daemon::Daemon;
use futures::future::try_join_all;
use knarr_cri_api::v1;

use crate::{idle, median};

const ONE_BY_ONE: usize = 30;
const AT_ONCE: usize = 30;
const MANY: usize = 100;
const EXECS: usize = 50;
const PULLS: usize = 3;

/// What is measured, its unit, and what is to be reached.
const WORK: [(&str, &str, &str); 10] = [
    ("RunPodSandbox + CreateContainer + StartContainer, cached image, p50", "ms", "≤ 40 ms, ≤ 1/5"),
    ("CPU of the whole machine to start one and remove it", "ms", "-"),
    ("30 pods at once, all running", "ms", "≤ 1/3"),
    ("ExecSync of true, p50", "ms", "≤ 1/3"),
    ("daemon memory, no containers", "MB", "≤ 12 MB"),
    ("daemon memory, 100 containers", "MB", "≤ 20 MB"),
    ("private memory of a shim, median", "MB", "≤ 1 MB"),
    ("pull and unpack 500 MB in 10 layers", "ms", "≤ 1/2"),
    ("CPU of the daemon for it", "ms", "-"),
    ("daemon memory at most, during the pull", "MB", "≤ 40 MB"),
];

type Figures = [f64; WORK.len()];

/// Measures both and prints the table.
pub(crate) async fn run() -> Result<()> {
    let registry = image::Registry::start()?;
    let ours = measure(&Daemon::knarr()?, &registry).await?;
    let theirs = measure(&Daemon::containerd()?, &registry).await?;
    println!("| work | knarr cri | to reach | containerd + runc | ratio |");
    println!("|---|---|---|---|---|");
    for (i, (work, unit, target)) in WORK.iter().enumerate() {
        let (a, b) = (ours[i], theirs[i]);
        println!("| {work} | {a:.2} {unit} | {target} | {b:.2} {unit} | {:.3} |", a / b);
    }
    Ok(())
}

fn milliseconds(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

async fn measure(daemon: &Daemon, registry: &image::Registry) -> Result<Figures> {
    let cri = daemon.connect().await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let empty = idle::pss(daemon.pid());
    start(&cri, "warm", 0).await?.remove(&cri).await?;

    let (mut starts, busy) = (Vec::new(), idle::machine_ticks());
    for i in 0..ONE_BY_ONE {
        let begin = Instant::now();
        let pod = start(&cri, "one", i).await?;
        starts.push(begin.elapsed());
        pod.remove(&cri).await?;
    }
    // A tick is 10 ms.
    let cpu = idle::machine_ticks().saturating_sub(busy) as f64 * 10.0 / ONE_BY_ONE as f64;

    let pod = start(&cri, "exec", 0).await?;
    let mut execs = Vec::new();
    for _ in 0..EXECS {
        let begin = Instant::now();
        pod.exec(&cri).await?;
        execs.push(begin.elapsed());
    }
    pod.remove(&cri).await?;

    let begin = Instant::now();
    let pods = try_join_all((0..AT_ONCE).map(|i| start(&cri, "once", i))).await?;
    let at_once = begin.elapsed();
    try_join_all(pods.iter().map(|p| p.remove(&cri))).await?;

    let mut pods = Vec::new();
    for i in 0..MANY {
        pods.push(start(&cri, "many", i).await?);
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let full = idle::pss(daemon.pid());
    let mut shims: Vec<u64> = daemon.shims().into_iter().map(idle::private).collect();
    shims.sort_unstable();
    let shim = shims.get(shims.len() / 2).copied().context("no shim")?;
    for pod in &pods {
        pod.remove(&cri).await?;
    }

    // The page cache and the disk of the machine have their moods.
    let (mut pulls, mut peak, before) = (Vec::new(), 0, idle::ticks(daemon.pid()));
    let spec = v1::ImageSpec { image: registry.reference(), ..Default::default() };
    for _ in 0..PULLS {
        idle::forget_peak(daemon.pid())?;
        let begin = Instant::now();
        cri.images().pull_image(v1::PullImageRequest { image: Some(spec.clone()), ..Default::default() }).await?;
        pulls.push(begin.elapsed());
        peak = peak.max(idle::peak(daemon.pid()));
        cri.images().remove_image(v1::RemoveImageRequest { image: Some(spec.clone()) }).await?;
    }
    let pulling = idle::ticks(daemon.pid()).saturating_sub(before) as f64 * 10.0 / PULLS as f64;
    let megabytes = |kilobytes: u64| kilobytes as f64 / 1024.0;
    Ok([
        milliseconds(median(&mut starts)),
        cpu,
        milliseconds(at_once),
        milliseconds(median(&mut execs)),
        megabytes(empty),
        megabytes(full),
        megabytes(shim),
        milliseconds(median(&mut pulls)),
        pulling,
        megabytes(peak),
    ])
}

/// A sandbox with one container.
struct Pod {
    sandbox: String,
    container: String,
}

async fn start(cri: &daemon::Cri, name: &str, i: usize) -> Result<Pod> {
    let name = format!("{name}-{i}");
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.clone(),
            uid: format!("{name}-uid"),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: name.clone(),
        log_directory: cri.logs(&name),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/pod-{name}", daemon::CGROUP),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut runtime = cri.runtime();
    let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let sandbox = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: knarr_e2e::image::BUSYBOX.into(), ..Default::default() }),
        command: vec!["sleep".into(), "100000".into()],
        log_path: "main/0.log".into(),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container = runtime.create_container(request).await?.into_inner().container_id;
    runtime.start_container(v1::StartContainerRequest { container_id: container.clone() }).await?;
    Ok(Pod { sandbox, container })
}

impl Pod {
    async fn exec(&self, cri: &daemon::Cri) -> Result<()> {
        let request = v1::ExecSyncRequest { container_id: self.container.clone(), cmd: vec!["true".into()], timeout: 10 };
        let answer = cri.runtime().exec_sync(request).await?.into_inner();
        anyhow::ensure!(answer.exit_code == 0, "exec ended with {}", answer.exit_code);
        Ok(())
    }

    async fn remove(&self, cri: &daemon::Cri) -> Result<()> {
        let mut runtime = cri.runtime();
        let id = || self.sandbox.clone();
        let request = v1::StopContainerRequest { container_id: self.container.clone(), timeout: 0 };
        runtime.stop_container(request).await?;
        runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id() }).await?;
        runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id() }).await?;
        Ok(())
    }
}
