//! The clusters that are measured: one of our own, in the foreground of this process, and one of
//! upstream's parts.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};

/// A running cluster of one node.
pub(crate) trait Cluster {
    /// A client, and how long it took from nothing to a Ready node.
    async fn ready(&self) -> Result<(kube::Client, Duration)>;
    /// Process ids of the node and its control plane.
    fn pids(&self) -> Vec<u32>;
}

/// An archive of the image that every pod here runs.
pub(crate) fn busybox(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("busybox.tar");
    knarr_e2e::image::busybox(&archive)?;
    Ok(archive)
}

/// Ids of the processes whose program is in a folder, or is that file.
pub(crate) fn running_from(folder: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        // One that runs from a sealed copy of its file still has its name.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let name = line.split(|b| *b == 0).next().unwrap_or_default();
        if (exe.starts_with(folder) || Path::new(OsStr::from_bytes(name)).starts_with(folder))
            && let Ok(pid) = entry.file_name().to_string_lossy().parse()
        {
            pids.push(pid);
        }
    }
    pids
}

/// Ours; reset when dropped.
pub(crate) struct Knarr {
    program: PathBuf,
    process: Child,
    folder: tempfile::TempDir,
    begin: Instant,
}

impl Knarr {
    pub(crate) fn start() -> Result<Self> {
        let begin = Instant::now();
        let program = knarr_e2e::knarr();
        let folder = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
        let mut command = Command::new(&program);
        command.arg("up").arg("--data-dir").arg(folder.path().join("data"));
        command.arg("--run-dir").arg(folder.path().join("run"));
        let process = command.stdout(Stdio::null()).spawn()?;
        Ok(Knarr { program, process, folder, begin })
    }

    fn knarr(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data-dir").arg(self.folder.path().join("data"));
        command.arg("--run-dir").arg(self.folder.path().join("run"));
        knarr_e2e::run(&mut command)
    }

    pub(crate) fn import_busybox(&self) -> Result<()> {
        let archive = busybox(self.folder.path())?;
        self.knarr(&["images", "import", archive.to_str().context("path")?]).map(|_| ())
    }
}

impl Cluster for Knarr {
    async fn ready(&self) -> Result<(kube::Client, Duration)> {
        let path = self.folder.path().join("data/kubeconfig");
        let client = loop {
            ensure!(self.begin.elapsed() < Duration::from_secs(60), "the API server does not answer");
            if let Ok(client) = connect(&path).await
                && client.apiserver_version().await.is_ok()
            {
                break client;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        wait_ready(&kube::Api::all(client.clone())).await?;
        Ok((client, self.begin.elapsed()))
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.process.id()];
        pids.extend(running_from(&self.folder.path().join("run/bin")));
        pids
    }
}

async fn connect(kubeconfig: &Path) -> Result<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Upstream's etcd, control plane, kube-proxy and kubelet over containerd and runc, as
/// `hack/kubelet-over-cri` starts them; gone when dropped.
pub(crate) struct Upstream {
    process: Child,
    kubeconfig: PathBuf,
    ready: Duration,
    _folder: tempfile::TempDir,
}

impl Upstream {
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/kubelet-over-cri");
        let mut command = Command::new(script);
        let pause = Path::new(&std::env::var_os("KNARR_CACHE").unwrap_or_default()).join("images/pause.tar");
        command.args(["containerd", "--hold", "--proxy"]);
        command.arg("--image").arg(busybox(folder.path())?).arg("--image").arg(pause);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(process.stdout.take().context("no output")?).lines();
        let (mut kubeconfig, mut ready) = (None, None);
        for line in lines {
            let line = line?;
            match line.split_once('=') {
                Some(("KUBECONFIG", path)) => kubeconfig = Some(path.into()),
                Some(("READY", seconds)) => ready = Some(Duration::from_secs_f64(seconds.parse()?)),
                _ => {}
            }
            if let (Some(kubeconfig), Some(ready)) = (&kubeconfig, ready) {
                let kubeconfig = PathBuf::clone(kubeconfig);
                return Ok(Upstream { process, kubeconfig, ready, _folder: folder });
            }
        }
        anyhow::bail!("upstream's cluster did not start: {}", process.wait()?)
    }
}

impl Cluster for Upstream {
    async fn ready(&self) -> Result<(kube::Client, Duration)> {
        Ok((connect(&self.kubeconfig).await?, self.ready))
    }

    fn pids(&self) -> Vec<u32> {
        let cache = std::env::var_os("KNARR_CACHE").unwrap_or_default();
        running_from(&Path::new(&cache).join("upstream"))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

async fn wait_ready(nodes: &Api<Node>) -> Result<()> {
    let is_ready = |node: &Node| {
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

impl Drop for Knarr {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = knarr_e2e::run(Command::new("kill").arg(&pid));
        let _ = self.process.wait();
        if let Err(error) = self.knarr(&["reset"]) {
            eprintln!("reset failed: {error:#}");
        }
    }
}
