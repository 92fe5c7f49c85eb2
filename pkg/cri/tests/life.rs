//! A pod's life with real parts: sandboxes, containers, crashes. Needs root, a kernel with
//! namespaces and cgroups, and the helper programs built beside the test (`knarr-runc`,
//! `knarr-shim`, `knarr-pause`); says why when it is skipped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_cri::{Config, Cri, NoNetwork};
use knarr_cri_api::v1::image_service_client::ImageServiceClient;
use knarr_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use knarr_cri_api::v1::*;
use knarr_images::{ImageConfig, RootFile};
use tonic::transport::Channel;

/// The demo image's name.
const IMAGE: &str = "demo.local/demo:1";

struct Node {
    dir: tempfile::TempDir,
    bin: PathBuf,
    cgroup: String,
    cri: Option<Arc<Cri>>,
}

type Client = RuntimeServiceClient<Channel>;

fn programs() -> Option<PathBuf> {
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
fn pause(bin: &Path) -> Option<PathBuf> {
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
    async fn new(name: &str) -> Option<Node> {
        let bin = programs()?;
        let dir = tempfile::Builder::new()
            .prefix("kc")
            .tempdir_in("/run")
            .unwrap();
        let mut node = Node {
            dir,
            bin,
            cgroup: format!("/knarr-test-{name}-{}", std::process::id()),
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
        node.cri()
            .images()
            .import_rootfs(IMAGE, config, &files)
            .unwrap();
        Some(node)
    }

    async fn open(&mut self) {
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
        config.cgroup_root = self.cgroup.clone();
        self.cri = Some(Cri::open(config).await.unwrap());
    }

    fn cri(&self) -> &Arc<Cri> {
        self.cri.as_ref().unwrap()
    }

    async fn client(&self) -> Client {
        RuntimeServiceClient::new(self.cri().connect_in_process().await.unwrap())
    }

    async fn close(self) {
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

fn cgroups(path: &str) -> Vec<PathBuf> {
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

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn pod(name: &str, logs: &Path) -> PodSandboxConfig {
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

fn container(name: &str, args: &[&str]) -> ContainerConfig {
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

async fn run(client: &mut Client, config: &PodSandboxConfig) -> String {
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    client
        .run_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .pod_sandbox_id
}

async fn create(
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

async fn start(client: &mut Client, id: &str) -> Result<(), tonic::Status> {
    let request = StartContainerRequest {
        container_id: id.to_owned(),
    };
    client.start_container(request).await.map(|_| ())
}

async fn status(client: &mut Client, id: &str) -> ContainerStatus {
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

async fn ended(client: &mut Client, id: &str) -> ContainerStatus {
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

async fn exec(
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life() {
    let Some(node) = Node::new("life").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let mut client = node.client().await;
    let mut events = client
        .get_container_events(GetEventsRequest {})
        .await
        .unwrap()
        .into_inner();
    let config = pod("one", &logs);
    let sandbox = run(&mut client, &config).await;
    assert_eq!(
        run(&mut client, &config).await,
        sandbox,
        "a repeated request finds the sandbox"
    );
    assert_eq!(
        events.message().await.unwrap().unwrap().container_id,
        sandbox
    );

    let id = create(
        &mut client,
        &sandbox,
        &config,
        container("main", &["sleep"]),
    )
    .await
    .unwrap();
    let again = create(
        &mut client,
        &sandbox,
        &config,
        container("main", &["sleep"]),
    )
    .await
    .unwrap();
    assert_eq!(id, again);
    start(&mut client, &id).await.unwrap();
    start(&mut client, &id).await.unwrap();
    let now = status(&mut client, &id).await;
    assert_eq!(now.state(), ContainerState::ContainerRunning);
    assert_eq!(now.image.unwrap().image, IMAGE);

    let env = exec(&mut client, &id, &["/demo", "env"]).await.unwrap();
    let text = String::from_utf8_lossy(&env.stdout).into_owned();
    for line in ["FROM_IMAGE=1", "HOSTNAME=one"] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in {text}"
        );
    }
    assert_eq!(
        exec(&mut client, &id, &["/demo", "exit", "7"])
            .await
            .unwrap()
            .exit_code,
        7
    );
    let missing = exec(&mut client, &id, &["nonsense"]).await.unwrap_err();
    assert!(
        missing
            .message()
            .contains("executable file not found in $PATH"),
        "{missing}"
    );
    let late = client
        .exec_sync(ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["/demo".to_owned(), "sleep".to_owned()],
            timeout: 1,
        })
        .await
        .unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);

    let stats = client
        .container_stats(ContainerStatsRequest {
            container_id: id.clone(),
        })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);

    client
        .stop_container(StopContainerRequest {
            container_id: id.clone(),
            timeout: 5,
        })
        .await
        .unwrap();
    let now = ended(&mut client, &id).await;
    assert_eq!((now.exit_code, now.reason.as_str()), (0, "Completed"));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends() {
    let Some(node) = Node::new("ends").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let mut client = node.client().await;
    let config = pod("ends", &logs);
    let sandbox = run(&mut client, &config).await;
    for (name, args, code, reason) in [
        ("fine", &["echo", "hello"][..], 0, "Completed"),
        ("bad", &["exit", "3"][..], 3, "Error"),
        ("hog", &["hog", "512"][..], 137, "OOMKilled"),
    ] {
        let id = create(&mut client, &sandbox, &config, container(name, args))
            .await
            .unwrap();
        start(&mut client, &id).await.unwrap();
        let now = ended(&mut client, &id).await;
        assert_eq!(
            (now.exit_code, now.reason.as_str()),
            (code, reason),
            "{name}"
        );
    }
    let log = std::fs::read_to_string(logs.join("fine.log")).unwrap();
    assert!(log.contains(" stdout F hello"), "{log}");

    let mut nothing = container("nothing", &[]);
    nothing.command = vec!["nothing".to_owned()];
    let id = create(&mut client, &sandbox, &config, nothing)
        .await
        .unwrap();
    let error = start(&mut client, &id).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("exec: \"nothing\": executable file not found in $PATH"),
        "{error}"
    );
    let now = status(&mut client, &id).await;
    assert_eq!((now.exit_code, now.reason.as_str()), (128, "StartError"));

    let mut gone = container("gone", &[]);
    gone.image = Some(ImageSpec {
        image: "nowhere:1".to_owned(),
        ..ImageSpec::default()
    });
    let error = create(&mut client, &sandbox, &config, gone)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_dies() {
    let Some(mut node) = Node::new("dies").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let mut client = node.client().await;
    let config = pod("dies", &logs);
    let sandbox = run(&mut client, &config).await;
    let stays = create(
        &mut client,
        &sandbox,
        &config,
        container("stays", &["sleep"]),
    )
    .await
    .unwrap();
    let leaves = create(
        &mut client,
        &sandbox,
        &config,
        container("leaves", &["sleep"]),
    )
    .await
    .unwrap();
    start(&mut client, &stays).await.unwrap();
    start(&mut client, &leaves).await.unwrap();
    let before = status(&mut client, &stays).await;
    // What a kill in the middle of a request would leave behind.
    let root = node.dir.path().join("r/cri");
    std::fs::create_dir_all(root.join("sandboxes/half/shm")).unwrap();
    std::fs::create_dir_all(root.join("containers/half/rootfs")).unwrap();
    drop(client);
    node.open().await;
    let mut client = node.client().await;
    assert!(!root.join("sandboxes/half").exists());
    assert!(!root.join("containers/half").exists());
    assert_eq!(run(&mut client, &config).await, sandbox);
    let after = status(&mut client, &stays).await;
    assert_eq!(after.state(), ContainerState::ContainerRunning);
    assert_eq!(after.created_at, before.created_at);
    exec(&mut client, &stays, &["/demo", "true"]).await.unwrap();
    client
        .stop_container(StopContainerRequest {
            container_id: leaves.clone(),
            timeout: 5,
        })
        .await
        .unwrap();
    assert_eq!(ended(&mut client, &leaves).await.exit_code, 0);
    node.close().await;
}

/// Exec, attach and port-forward as a stock client does them (`crictl` on the path in
/// `KNARR_TEST_CRICTL`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_client() {
    let Ok(crictl) = std::env::var("KNARR_TEST_CRICTL") else {
        println!("skipped: KNARR_TEST_CRICTL names no crictl");
        return;
    };
    let Some(node) = Node::new("stock").await else {
        return;
    };
    let socket = node.dir.path().join("cri.sock");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let cri = node.cri().clone();
    let path = socket.clone();
    let served = tokio::spawn(async move { cri.serve(&path, async { drop(stopped.await) }).await });
    eventually("the socket", || socket.exists()).await;
    let mut client = node.client().await;
    let config = pod("stock", &node.dir.path().join("logs"));
    let sandbox = run(&mut client, &config).await;
    let id = create(
        &mut client,
        &sandbox,
        &config,
        container("main", &["serve", "8080"]),
    )
    .await
    .unwrap();
    start(&mut client, &id).await.unwrap();
    let endpoint = format!("unix://{}", socket.display());
    let run = async |args: Vec<String>| {
        let (crictl, endpoint) = (crictl.clone(), endpoint.clone());
        tokio::task::spawn_blocking(move || {
            std::process::Command::new(crictl)
                .args(["-r", &endpoint, "-i", &endpoint])
                .args(args)
                .output()
                .unwrap()
        })
        .await
        .unwrap()
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for args in [
        format!("exec {id} /demo echo hello"),
        format!("exec -i {id} /demo echo hello"),
        format!("exec -s {id} /demo echo hello"),
        format!("exec --transport websocket {id} /demo echo hello"),
    ] {
        let out = run(words(&args)).await;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(text.contains("hello"), "{args}: {text} {error}");
    }
    let out = run(words(&format!("exec {id} /demo lines 200000"))).await;
    assert_eq!(out.stdout.iter().filter(|b| **b == b'\n').count(), 200_000);
    let out = run(words(&format!("exec {id} /demo exit 5"))).await;
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains('5'));
    let out = run(words("pods")).await;
    assert!(String::from_utf8_lossy(&out.stdout).contains("Ready"));
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut forward = std::process::Command::new(&crictl)
        .args([
            "-r",
            &endpoint,
            "-i",
            &endpoint,
            "port-forward",
            &sandbox,
            &format!("{port}:8080"),
        ])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let text = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let begin = Instant::now();
        let mut stream = loop {
            match std::net::TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) if begin.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(e) => panic!("{e}"),
            }
        };
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert!(text.contains("200 OK"), "{text}");
    drop(client);
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_fast() {
    let Some(node) = Node::new("fast").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let mut client = node.client().await;
    let mut times = Vec::new();
    for n in 0..20 {
        let config = pod(&format!("fast{n}"), &logs);
        let begin = Instant::now();
        let sandbox = run(&mut client, &config).await;
        let made = begin.elapsed();
        let id = create(&mut client, &sandbox, &config, container("c", &["sleep"]))
            .await
            .unwrap();
        let created = begin.elapsed();
        start(&mut client, &id).await.unwrap();
        times.push((begin.elapsed(), made, created - made));
    }
    times.sort();
    let (all, made, created) = times[times.len() / 2];
    println!(
        "run + create + start p50: {all:?} (sandbox {made:?}, create {created:?}, start {:?})",
        all - made - created
    );
    let mut images = ImageServiceClient::new(node.cri().connect_in_process().await.unwrap());
    let listed = images
        .list_images(ListImagesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.images[0].repo_tags, [IMAGE]);
    node.close().await;
}
