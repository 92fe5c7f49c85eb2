//! `knarr cluster create`, and how a node is started.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Node as NodeObject;
use knarr_pki::BootstrapToken;
use knarr_runner::Informers;
use tokio::sync::Notify;

use super::{Cluster, Folder, Named, machine::Job};
use crate::{client, helpers, node, preflight, say};

/// How long all nodes may take to become Ready.
const READY: Duration = Duration::from_secs(180);
/// Where the control plane listens.
const PORT: u16 = 6443;

/// What a cluster is made of.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    cluster: Named,
    /// How many nodes; the first has the control plane and takes pods too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=200))]
    nodes: u32,
    /// Archives of images that all nodes get before they start
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// registries.yaml of all nodes: mirrors and credentials; this machine is host.knarr.internal
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Do not wait for the nodes
    #[arg(long)]
    no_wait: bool,
    /// More arguments for the control plane's `knarr up`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Makes a cluster; what was made goes again if it fails.
///
/// # Errors
/// If it cannot be made, or its nodes do not become Ready.
pub fn create(options: &Options, log: &str) -> Result<()> {
    preflight::kernel()?;
    let begin = Instant::now();
    let step = |text: &str| say(&format!("{:>7.3}s  {text}", begin.elapsed().as_secs_f64()));
    let cluster = claim(options, log)?;
    let made = cluster.network().and_then(|n| Ok(n.open()?)).and_then(|()| {
        step("the nodes' network is there");
        std::thread::scope(|scope| {
            let one = |n| {
                let cluster = &cluster;
                scope.spawn(move || prepare(cluster, n, options))
            };
            let all: Vec<_> = (0..cluster.nodes).map(one).collect();
            let died = |_| anyhow::anyhow!("a thread that prepares a node died");
            all.into_iter().try_for_each(|t| t.join().map_err(died)?)
        })?;
        for n in 0..cluster.nodes {
            start(&cluster, n, false)?;
        }
        step(&format!("{} nodes are started", cluster.nodes));
        crate::runtime(1)?.block_on(finish(&cluster, options, &step))
    });
    if let Err(error) = made {
        for machine in cluster.machines() {
            let text = fs::read_to_string(machine.log()).unwrap_or_default();
            for line in text.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev() {
                say(&format!("{}: {line}", machine.name));
            }
        }
        if let Err(also) = cluster.delete() {
            say(&format!("removing what was made failed too: {also:#}"));
        }
        return Err(error);
    }
    say("");
    say(&format!("  export KUBECONFIG={}", cluster.kubeconfig().display()));
    Ok(())
}

/// Takes the name and a network.
fn claim(options: &Options, log: &str) -> Result<Cluster> {
    let (name, folder) = (&options.cluster.name, &options.cluster.folder.clusters_dir);
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 40 || name.starts_with('-') || !name.bytes().all(good) {
        bail!("{name:?} is no name for a cluster: up to 40 lower-case letters, digits and dashes");
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let own = folder.join(name);
    if own.exists() {
        bail!("there is a cluster {name:?} already; `knarr cluster delete {name}` removes it");
    }
    let token = BootstrapToken::generate().map_err(anyhow::Error::msg)?.reveal();
    let mut cluster = Cluster {
        name: name.clone(),
        index: 0,
        nodes: options.nodes,
        token,
        arguments: options.arguments.clone(),
        log: log.to_owned(),
        folder: own,
    };
    let taken: Vec<u8> = Folder { clusters_dir: folder.clone() }.all().iter().map(|c| c.index).collect();
    let free = |index: &u8| {
        cluster.index = *index;
        !taken.contains(index) && cluster.network().is_ok_and(|n| n.is_free().unwrap_or(false))
    };
    cluster.index = (0..=254).find(free).context("no network below 10.89.0.0/16 is free")?;
    // It holds the nodes' token and keys.
    fs::DirBuilder::new().mode(0o700).create(&cluster.folder)?;
    fs::write(cluster.folder.join("cluster.json"), serde_json::to_string_pretty(&cluster)?)?;
    helpers::install(&cluster.folder.join("bin"))?;
    Ok(cluster)
}

/// What a node has before its first start.
fn prepare(cluster: &Cluster, n: u32, options: &Options) -> Result<()> {
    let data = cluster.machine(n).data();
    crate::reset::claim(&data)?;
    if let Some(file) = &options.registries {
        fs::copy(file, data.join("registries.yaml"))
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    for file in &options.image {
        let images = knarr_images::Images::open(data.join("images"), data.join("registries.yaml"))?;
        images.import(file, None).with_context(|| format!("cannot import {}", file.display()))?;
    }
    Ok(())
}

/// Starts a node that does not run.
///
/// # Errors
/// If it cannot be started.
pub fn start(cluster: &Cluster, n: u32, again: bool) -> Result<()> {
    let machine = cluster.machine(n);
    if again {
        machine.remove()?;
    }
    let network = cluster.network()?;
    if again {
        // After a reboot it is gone.
        network.open()?;
    }
    let server = format!("https://{}:{PORT}", network.node(0));
    let mut arguments: Vec<String> = if n == 0 {
        let own = ["up".to_owned(), format!("--listen=0.0.0.0:{PORT}")];
        own.into_iter().chain(cluster.arguments.iter().cloned()).collect()
    } else {
        vec!["agent".into(), format!("--server={server}")]
    };
    arguments.extend([
        format!("--log={}", cluster.log),
        format!("--node-ip={}", network.node(n)),
        // The disk is the host's, and what fills it is not the nodes' images.
        "--image-gc-high-threshold=100".into(),
    ]);
    let program = std::env::current_exe()?;
    let pid = machine.create(&Job {
        program: &program,
        arguments,
        environment: vec![format!("KNARR_TOKEN={}", cluster.token)],
        init: &cluster.folder.join("bin/knarr-pause"),
        host: network.host(),
    })?;
    network
        .attach(n, Path::new(&format!("/proc/{pid}/ns/net")))
        .with_context(|| format!("node {}: cannot connect it", machine.name))?;
    machine.start()
}

/// Waits for the control plane, writes the kubeconfig, waits for the nodes.
async fn finish(cluster: &Cluster, options: &Options, step: node::Step<'_>) -> Result<()> {
    let begin = Instant::now();
    let inside = cluster.machine(0).data().join("kubeconfig");
    while !inside.exists() {
        alive(cluster, begin)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = fs::read_to_string(&inside)?;
    let server = format!("https://{}:{PORT}", cluster.network()?.node(0));
    let mut config: serde_json::Value = serde_json::from_str(&text).context("kubeconfig")?;
    config["clusters"][0]["cluster"]["server"] = server.into();
    let text = serde_json::to_string_pretty(&config)?;
    knarr_pki::write(&cluster.kubeconfig(), &text, 0o600)?;
    step("the API server serves");
    if options.no_wait {
        return Ok(());
    }
    let client = client::by_file(&cluster.kubeconfig()).await?;
    let informers = Informers::new(client);
    let nodes = informers.get::<NodeObject>();
    let changed = Arc::new(Notify::new());
    let bell = changed.clone();
    nodes.on_event(move |_| bell.notify_one());
    let mut told = 0;
    loop {
        let ready = nodes.list().iter().filter(|n| node::ready(n)).count();
        if ready > told {
            told = ready;
            step(&format!("{ready} of {} nodes are Ready", cluster.nodes));
        }
        if u32::try_from(ready).is_ok_and(|n| n >= cluster.nodes) {
            informers.stop();
            return Ok(());
        }
        alive(cluster, begin)?;
        let _ = tokio::time::timeout(Duration::from_secs(1), changed.notified()).await;
    }
}

/// Fails if a node's program has ended, or time is up.
fn alive(cluster: &Cluster, begin: Instant) -> Result<()> {
    for machine in cluster.machines() {
        if machine.state().is_none_or(|(state, _)| state == "stopped") {
            bail!("node {} has ended", machine.name);
        }
    }
    if begin.elapsed() > READY {
        bail!("the nodes do not become Ready");
    }
    Ok(())
}
