//! A node of our own, in the foreground of this process.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A running node; reset when dropped.
pub(crate) struct Cluster {
    program: PathBuf,
    process: Child,
    folder: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Result<Self> {
        let program = knarr_e2e::knarr();
        let folder = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
        let mut command = Command::new(&program);
        command.arg("up").arg("--data-dir").arg(folder.path().join("data"));
        command.arg("--run-dir").arg(folder.path().join("run"));
        let process = command.stdout(Stdio::null()).spawn()?;
        Ok(Cluster { program, process, folder })
    }

    fn knarr(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data-dir").arg(self.folder.path().join("data"));
        command.arg("--run-dir").arg(self.folder.path().join("run"));
        knarr_e2e::run(&mut command)
    }

    pub(crate) fn import_busybox(&self) -> Result<()> {
        let archive = self.folder.path().join("busybox.tar");
        knarr_e2e::image::busybox(&archive)?;
        self.knarr(&["images", "import", archive.to_str().context("path")?]).map(|_| ())
    }

    /// A client, as soon as the API server answers.
    pub(crate) async fn client(&self, begin: Instant) -> Result<kube::Client> {
        let path = self.folder.path().join("data/kubeconfig");
        loop {
            ensure!(begin.elapsed() < Duration::from_secs(60), "the API server does not answer");
            if let Ok(file) = Kubeconfig::read_from(&path)
                && let Ok(config) =
                    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
                && let Ok(client) = kube::Client::try_from(config)
                && client.apiserver_version().await.is_ok()
            {
                return Ok(client);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Process ids of the node: the program and every helper it started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let bin = self.folder.path().join("run/bin");
        let mut pids = vec![self.process.id()];
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if exe.starts_with(&bin)
                && let Ok(pid) = entry.file_name().to_string_lossy().parse()
            {
                pids.push(pid);
            }
        }
        pids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = knarr_e2e::run(Command::new("kill").arg(&pid));
        let _ = self.process.wait();
        if let Err(error) = self.knarr(&["reset"]) {
            eprintln!("reset failed: {error:#}");
        }
    }
}
