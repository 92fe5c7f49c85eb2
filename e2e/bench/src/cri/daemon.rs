//! The daemons that are measured, each in folders of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use knarr_cri_api::v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{busybox, running_from};

/// The cgroup of all pods.
pub(super) const CGROUP: &str = "/knarr-bench";

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// A running daemon; gone when dropped.
pub(super) struct Daemon {
    process: Child,
    folder: tempfile::TempDir,
    /// Programs of the daemon's own lie here.
    programs: PathBuf,
    /// Its shim's file name.
    shim: &'static str,
    /// Ends what the daemon leaves behind.
    clean: Option<Command>,
}

fn upstream() -> PathBuf {
    Path::new(&std::env::var_os("KNARR_CACHE").unwrap_or_default()).join("upstream")
}

impl Daemon {
    pub(super) fn knarr() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
        let knarr = || {
            let mut command = Command::new(knarr_e2e::knarr());
            command.arg("--data-dir").arg(folder.path().join("data"));
            command.arg("--run-dir").arg(folder.path().join("run"));
            command
        };
        let mut daemon = knarr();
        daemon.args(["cri", "--pod-cidr", "10.250.0.0/24", "--listen"]).arg(folder.path().join("cri.sock"));
        let process = daemon.stdout(Stdio::null()).spawn()?;
        let archive = busybox(folder.path())?;
        let socket = folder.path().join("cri.sock");
        wait_for(&socket)?;
        knarr_e2e::run(knarr().args(["images", "import"]).arg(archive))?;
        let mut clean = knarr();
        clean.arg("reset");
        let programs = folder.path().join("run/bin");
        Ok(Daemon { process, folder, programs, shim: "knarr-shim", clean: Some(clean) })
    }

    pub(super) fn containerd() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
        let at = folder.path();
        let bin = upstream();
        let forward = fs::read_to_string(FORWARD).unwrap_or_else(|_| "0".into());
        let had_table = Command::new("nft").args(["list", "table", "ip", "nat"]).output().is_ok_and(|o| o.status.success());
        fs::create_dir(at.join("net.d"))?;
        let chain = serde_json::json!({
            "cniVersion": "1.0.0", "name": "bench",
            "plugins": [
                {"type": "bridge", "bridge": "knarr-bench0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                 "ipam": {"type": "host-local", "dataDir": at.join("ipam"), "ranges": [[{"subnet": "10.251.0.0/24"}]],
                          "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        fs::write(at.join("net.d/10-bench.conflist"), chain.to_string())?;
        let socket = at.join("cri.sock");
        let mut config = include_str!("../../../upstream/containerd.toml").to_owned();
        for (word, path) in [
            ("{root}", at.join("data")),
            ("{state}", at.join("run")),
            ("{socket}", socket.clone()),
            ("{plugins}", bin.clone()),
            ("{networks}", at.join("net.d")),
        ] {
            config = config.replace(word, &path.display().to_string());
        }
        fs::write(at.join("containerd.toml"), config)?;
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let log = fs::File::create(at.join("log"))?;
        let process = Command::new(bin.join("containerd"))
            .arg("--config").arg(at.join("containerd.toml"))
            .env("PATH", path)
            .stdout(log.try_clone()?).stderr(log)
            .spawn()?;
        wait_for(&socket)?;
        let pause = Path::new(&std::env::var_os("KNARR_CACHE").unwrap_or_default()).join("images/pause.tar");
        for archive in [busybox(at)?, pause] {
            let mut import = Command::new(bin.join("ctr"));
            import.arg("-a").arg(&socket).args(["-n", "k8s.io", "images", "import", "--local"]).arg(archive);
            knarr_e2e::run(&mut import)?;
        }
        // The plugins leave forwarding on, and the table that they made.
        let mut undo = format!("ip link delete knarr-bench0; echo {} > {FORWARD}", forward.trim());
        if !had_table {
            undo.push_str("; nft delete table ip nat 2>/dev/null || true");
        }
        let mut clean = Command::new("sh");
        clean.args(["-c", &undo]);
        Ok(Daemon { process, programs: bin, shim: "containerd-shim-runc-v2", folder, clean: Some(clean) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Process ids of its shims.
    pub(super) fn shims(&self) -> Vec<u32> {
        running_from(&self.programs.join(self.shim))
    }

    pub(super) async fn connect(&self) -> Result<Cri> {
        let socket = self.folder.path().join("cri.sock");
        let channel = Endpoint::try_from(format!("unix://{}", socket.display()))?.connect().await?;
        Ok(Cri { channel, logs: self.folder.path().join("logs") })
    }
}

fn wait_for(socket: &Path) -> Result<()> {
    let begin = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        ensure!(begin.elapsed() < Duration::from_secs(30), "{} is not served", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = knarr_e2e::run(Command::new("kill").arg(self.pid().to_string()));
        let _ = self.process.wait();
        if let Some(clean) = &mut self.clean
            && let Err(error) = knarr_e2e::run(clean)
        {
            eprintln!("cleaning up failed: {error:#}");
        }
        for pid in self.shims() {
            let _ = knarr_e2e::run(Command::new("kill").args(["-9", &pid.to_string()]));
        }
        let inside = format!("{}/", self.folder.path().display());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for at in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|at| at.starts_with(&inside)) {
            let _ = knarr_e2e::run(Command::new("umount").args(["-l", at]));
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_tree(&hierarchy.path().join(CGROUP.trim_start_matches('/')));
        }
    }
}

/// Removes a cgroup and those in it.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// Clients of a daemon.
pub(super) struct Cri {
    channel: Channel,
    logs: PathBuf,
}

impl Cri {
    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// The folder of a pod's logs.
    pub(super) fn logs(&self, pod: &str) -> String {
        let folder = self.logs.join(pod);
        // A kubelet makes it before it asks.
        let _ = fs::create_dir_all(folder.join("main")).context("logs");
        folder.display().to_string()
    }
}
