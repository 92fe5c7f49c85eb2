//! `knarr cri` alone, driven by upstream's crictl: what another kubelet would do with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use knarr_e2e::{PATIENCE, host, image, knarr, run};
use serde_json::{Value, json};

/// The services on folders of their own; everything is removed when dropped.
struct Services {
    child: Child,
    folder: tempfile::TempDir,
    crictl: PathBuf,
    arguments: Vec<String>,
}

impl Services {
    fn start(crictl: &Path, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("knarr-e2e-").tempdir()?;
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let child = Command::new("true").spawn()?;
        let mut services = Services { child, folder, crictl: crictl.to_owned(), arguments };
        services.child.wait()?;
        services.again()?;
        let archive = services.folder.path().join("busybox.tar");
        image::busybox(&archive)?;
        services.knarr(&["images", "import", &archive.to_string_lossy()])?;
        Ok(services)
    }

    fn folders(&self) -> [String; 4] {
        let at = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        ["--data-dir".into(), at("data"), "--run-dir".into(), at("run")]
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("cri.sock")
    }

    /// Starts them on the same folders, as after a crash.
    fn again(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        self.child = Command::new(knarr())
            .arg("cri")
            .arg("--listen")
            .arg(self.socket())
            .args(&self.arguments)
            .args(self.folders())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let begin = Instant::now();
        while self.crictl(&["version"]).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.path().join("log"))?;
                bail!("knarr cri ended with {status}: {log}");
            }
            ensure!(begin.elapsed() < PATIENCE, "knarr cri does not serve");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn knarr(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(knarr()).args(arguments).args(self.folders()))
    }

    fn crictl(&self, arguments: &[&str]) -> Result<String> {
        let endpoint = format!("unix://{}", self.socket().display());
        run(Command::new(&self.crictl)
            .args(["--config", "/dev/null", "--timeout", "30s", "--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(arguments))
        .map(|out| out.trim().to_owned())
    }

    fn file(&self, name: &str, content: &Value) -> Result<String> {
        let path = self.folder.path().join(name);
        fs::write(&path, content.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// A pod with one container that sleeps; gives both ids.
    fn pod(&self) -> Result<(String, String)> {
        let logs = self.folder.path().join("logs");
        fs::create_dir_all(&logs)?;
        let pod = json!({
            "metadata": {"name": "till", "namespace": "shop", "uid": "u-1", "attempt": 0},
            "log_directory": logs, "linux": {}, "dns_config": {"servers": ["10.0.0.10"]},
        });
        let container = json!({
            "metadata": {"name": "main", "attempt": 0},
            "image": {"image": image::BUSYBOX},
            "command": ["sh", "-c", "echo open; exec sleep 1000"],
            "log_path": "main.log", "linux": {},
        });
        let (pod_file, container_file) = (self.file("pod.json", &pod)?, self.file("container.json", &container)?);
        let sandbox = self.crictl(&["runp", &pod_file])?;
        let id = self.crictl(&["create", &sandbox, &container_file, &pod_file])?;
        self.crictl(&["start", &id])?;
        Ok((sandbox, id))
    }

    fn inspect(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.crictl(&["inspect", id])?)?)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Err(error) = self.knarr(&["reset"]) {
            eprintln!("reset: {error:#}");
        }
    }
}

fn crictl() -> Option<PathBuf> {
    let path = std::env::var_os("KNARR_TEST_CRICTL").map(PathBuf::from).filter(|p| p.exists());
    if path.is_none() {
        eprintln!("skipped: KNARR_TEST_CRICTL names no crictl; hack/test builds it");
    }
    path
}

#[test]
fn pods_outlive_the_services() -> Result<()> {
    let Some(crictl) = crictl() else { return Ok(()) };
    let before = host::snapshot();
    let mut services = Services::start(&crictl, &[])?;
    let info: Value = serde_json::from_str(&services.crictl(&["info"])?)?;
    let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
    ensure!(conditions.iter().all(|c| c["status"] == true), "{conditions:?}");

    let (sandbox, id) = services.pod()?;
    let address = services.crictl(&["inspectp", "-o", "go-template", "--template", "{{.status.network.ip}}", &sandbox])?;
    ensure!(address.starts_with("10.244.0."), "{address}");
    let inside = services.crictl(&["exec", &id, "ip", "-4", "-o", "addr", "show", "eth0"])?;
    ensure!(inside.contains(&address), "{inside}");
    ensure!(services.crictl(&["exec", &id, "cat", "/etc/resolv.conf"])?.contains("10.0.0.10"));
    let logs = services.crictl(&["logs", &id])?;
    ensure!(logs == "open", "{logs}");
    let pid = services.inspect(&id)?["info"]["pid"].clone();

    services.kill()?;
    services.again()?;
    let now = services.inspect(&id)?;
    ensure!(now["status"]["state"] == "CONTAINER_RUNNING" && now["info"]["pid"] == pid, "{now:#}");
    ensure!(services.crictl(&["exec", &id, "echo", "still"])? == "still");

    services.crictl(&["stopp", &sandbox])?;
    services.crictl(&["rmp", &sandbox])?;
    ensure!(services.crictl(&["ps", "-a", "-q"])?.is_empty());
    drop(services);
    let left = host::difference(&before, &host::snapshot());
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn a_second_server_on_a_socket_is_refused() -> Result<()> {
    let Some(crictl) = crictl() else { return Ok(()) };
    let services = Services::start(&crictl, &[])?;
    let socket = services.socket().to_string_lossy().into_owned();
    let error = services.knarr(&["cri", "--listen", &socket]).expect_err("refused").to_string();
    ensure!(error.contains("is served already"), "{error}");
    Ok(())
}

#[test]
fn without_a_cni_configuration_the_network_is_not_ready() -> Result<()> {
    let Some(crictl) = crictl() else { return Ok(()) };
    let conf = tempfile::tempdir()?;
    let services = Services::start(&crictl, &["--cni-conf-dir", &conf.path().to_string_lossy()])?;
    let info: Value = serde_json::from_str(&services.crictl(&["info"])?)?;
    let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
    let network = conditions.iter().find(|c| c["type"] == "NetworkReady").context("no condition")?;
    ensure!(network["status"] == false && network["reason"] == "NetworkPluginNotReady", "{network}");
    ensure!(network["message"].as_str().is_some_and(|m| m.ends_with("cni plugin not initialized")), "{network}");
    let error = services.pod().expect_err("no network").to_string();
    ensure!(error.contains("cni plugin not initialized"), "{error}");
    Ok(())
}
