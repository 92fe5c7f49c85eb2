//! A node with real parts. Needs root, a kernel with namespaces and cgroups, and the helper
//! programs built beside the test (`knarr-runc`, `knarr-shim`, `knarr-pause`); says why when it
//! is skipped.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_cri::{Config, Cri, NoNetwork};
use knarr_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use knarr_cri_api::v1::*;
use knarr_images::{ImageConfig, RootFile};
use tonic::transport::Channel;

/// The demo image's name.
pub const IMAGE: &str = "demo.local/demo:1";

pub struct Node {
    pub dir: tempfile::TempDir,
    bin: PathBuf,
    cgroup: String,
    /// OCI runtimes by the names of handlers, from the next [`Node::open`] on.
    pub handlers: BTreeMap<String, PathBuf>,
    cri: Option<Arc<Cri>>,
}

pub type Client = RuntimeServiceClient<Channel>;

pub fn programs() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    // Programs built elsewhere, all static (release ones, to measure).
    if let Ok(bin) = std::env::var("KNARR_TEST_BIN") {
        return Some(PathBuf::from(bin));
    }
    let exe = std::env::current_exe().unwrap();
    let bin = exe.parent()?.parent()?.to_path_buf();
    if pause(&bin).is_none() {
        println!(
            "skipped: no static knarr-pause; build it with RUSTFLAGS='-C target-feature=+crt-static' \
             and --target {}-unknown-linux-gnu",
            std::env::consts::ARCH
        );
        return None;
    }
    for name in ["knarr-runc", "knarr-shim"] {
        if !bin.join(name).exists() {
            println!("skipped: {} is not built", bin.join(name).display());
            return None;
        }
    }
    Some(bin)
}

/// The pause program runs in a root without libraries.
pub fn pause(bin: &Path) -> Option<PathBuf> {
    if std::env::var_os("KNARR_TEST_BIN").is_some() {
        return Some(bin.join("knarr-pause"));
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let path = bin
        .parent()?
        .join(target)
        .join(bin.file_name()?)
        .join("knarr-pause");
    path.exists().then_some(path)
}

impl Node {
    pub async fn new(name: &str) -> Option<Node> {
        let bin = programs()?;
        let dir = tempfile::Builder::new()
            .prefix("kc")
            .tempdir_in("/run")
            .unwrap();
        let mut node = Node {
            dir,
            bin,
            cgroup: format!("/knarr-test-{name}-{}", std::process::id()),
            handlers: BTreeMap::new(),
            cri: None,
        };
        node.open().await;
        let pause = std::fs::read(pause(&node.bin).unwrap()).unwrap();
        let config = ImageConfig {
            entrypoint: vec!["/demo".to_owned()],
            env: vec!["FROM_IMAGE=1".to_owned()],
            ..ImageConfig::default()
        };
        let files = [
            RootFile {
                path: "demo".to_owned(),
                mode: 0o755,
                content: pause,
            },
            RootFile {
                path: "etc/".to_owned(),
                mode: 0o755,
                content: vec![],
            },
            RootFile {
                path: "etc/passwd".to_owned(),
                mode: 0o644,
                content: b"root:x:0:0::/root:/\nweb:x:1000:1000::/:/\n".to_vec(),
            },
            RootFile {
                path: "tmp/".to_owned(),
                mode: 0o1777,
                content: vec![],
            },
        ];
        let shell = std::fs::read("/bin/busybox").ok().map(|content| RootFile {
            path: "bin/busybox".to_owned(),
            mode: 0o755,
            content,
        });
        let files: Vec<RootFile> = files.into_iter().chain(shell).collect();
        node.cri()
            .images()
            .import_rootfs(IMAGE, config, &files)
            .unwrap();
        Some(node)
    }

    pub async fn open(&mut self) {
        self.cri = None;
        let root = self.dir.path();
        let mut config = Config::new(root.join("d"), root.join("r"), Arc::new(NoNetwork));
        for (slot, name) in [
            (&mut config.shim, "knarr-shim"),
            (&mut config.runc, "knarr-runc"),
        ] {
            *slot = self.bin.join(name);
        }
        config.pause = pause(&self.bin).unwrap();
        if let Ok(runc) = std::env::var("KNARR_TEST_RUNC") {
            config.runc = PathBuf::from(&runc);
            config.handlers.insert(String::new(), PathBuf::from(runc));
        }
        config.handlers.extend(self.handlers.clone());
        config.cgroup_root = self.cgroup.clone();
        config.cdi_dirs = vec![root.join("cdi")];
        self.cri = Some(Cri::open(config).await.unwrap());
    }

    /// A folder or file of the node's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    pub fn cri(&self) -> &Arc<Cri> {
        self.cri.as_ref().unwrap()
    }

    pub async fn client(&self) -> Client {
        RuntimeServiceClient::new(self.cri().connect_in_process().await.unwrap())
    }

    pub async fn close(self) {
        let mut client = self.client().await;
        let all = client
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await
            .unwrap();
        for pod in all.into_inner().items {
            client
                .remove_pod_sandbox(RemovePodSandboxRequest {
                    pod_sandbox_id: pod.id,
                })
                .await
                .unwrap();
        }
        let under = |path: &str| {
            let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            text.lines().filter(|l| l.contains(path)).count()
        };
        let path = self.dir.path().display().to_string();
        eventually("all mounts are gone", || under(&path) == 0).await;
        for kind in ["cri/sandboxes", "cri/containers", "oci"] {
            let dir = self.dir.path().join("r").join(kind);
            eventually(kind, || std::fs::read_dir(&dir).unwrap().count() == 0).await;
        }
        let rw = self.dir.path().join("d/images/rw");
        assert_eq!(std::fs::read_dir(rw).unwrap().count(), 0);
        for hierarchy in cgroups(&self.cgroup) {
            // The parent is the kubelet's in real life; below it nothing may be left.
            std::fs::remove_dir(&hierarchy)
                .unwrap_or_else(|e| panic!("{}: {e}", hierarchy.display()));
        }
    }
}

pub fn cgroups(path: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(
        std::fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|e| e.path()),
    );
    roots
        .iter()
        .filter(|r| !r.is_symlink())
        .map(|r| r.join(path.trim_start_matches('/')))
        .filter(|p| p.exists())
        .collect()
}

pub async fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn pod(name: &str, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.display().to_string(),
        labels: HashMap::from([("app".to_owned(), name.to_owned())]),
        linux: Some(LinuxPodSandboxConfig::default()),
        ..PodSandboxConfig::default()
    }
}

pub fn container(name: &str, args: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: IMAGE.to_owned(),
            ..ImageSpec::default()
        }),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                oom_score_adj: 1000,
                ..LinuxContainerResources::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                seccomp: Some(SecurityProfile::default()),
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxContainerSecurityContext::default()
            }),
        }),
        ..ContainerConfig::default()
    }
}

pub async fn run(client: &mut Client, config: &PodSandboxConfig) -> String {
    run_with(client, config, "").await
}

pub async fn run_with(client: &mut Client, config: &PodSandboxConfig, handler: &str) -> String {
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: handler.to_owned(),
    };
    client
        .run_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .pod_sandbox_id
}

pub async fn create(
    client: &mut Client,
    sandbox: &str,
    pod: &PodSandboxConfig,
    config: ContainerConfig,
) -> Result<String, tonic::Status> {
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    Ok(client
        .create_container(request)
        .await?
        .into_inner()
        .container_id)
}

pub async fn start(client: &mut Client, id: &str) -> Result<(), tonic::Status> {
    let request = StartContainerRequest {
        container_id: id.to_owned(),
    };
    client.start_container(request).await.map(|_| ())
}

pub async fn status(client: &mut Client, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    client
        .container_status(request)
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap()
}

pub async fn ended(client: &mut Client, id: &str) -> ContainerStatus {
    let begin = Instant::now();
    loop {
        let now = status(client, id).await;
        if now.state() == ContainerState::ContainerExited {
            return now;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn exec(
    client: &mut Client,
    id: &str,
    cmd: &[&str],
) -> Result<ExecSyncResponse, tonic::Status> {
    let request = ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: cmd.iter().map(|c| (*c).to_owned()).collect(),
        timeout: 5,
    };
    Ok(client.exec_sync(request).await?.into_inner())
}
