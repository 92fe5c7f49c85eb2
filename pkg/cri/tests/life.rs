//! A pod's life with real parts: sandboxes, containers, crashes.

mod common;

use std::time::{Duration, Instant};

use common::*;
use knarr_cri_api::v1::image_service_client::ImageServiceClient;
use knarr_cri_api::v1::*;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint() {
    let Some(node) = Node::new("dump").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let mut client = node.client().await;
    let config = pod("dump", &logs);
    let sandbox = run(&mut client, &config).await;
    let id = create(
        &mut client,
        &sandbox,
        &config,
        container("main", &["sleep"]),
    )
    .await
    .unwrap();
    let archive = node.dir.path().join("dump.tar");
    let ask = |location: &str| CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.to_owned(),
        timeout: 60,
    };
    let place = archive.display().to_string();
    let early = client.checkpoint_container(ask(&place)).await.unwrap_err();
    assert!(
        early
            .message()
            .ends_with("only CONTAINER_RUNNING containers can be checkpointed"),
        "{early}"
    );
    start(&mut client, &id).await.unwrap();
    let bad = client
        .checkpoint_container(ask("relative.tar"))
        .await
        .unwrap_err();
    assert_eq!(bad.code(), tonic::Code::InvalidArgument);
    let has_criu = std::process::Command::new("criu")
        .arg("check")
        .output()
        .is_ok_and(|o| o.status.success());
    match client.checkpoint_container(ask(&place)).await {
        Ok(_) => {
            let mut tar = tar::Archive::new(std::fs::File::open(&archive).unwrap());
            let names: Vec<String> = tar
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().display().to_string())
                .collect();
            for name in [
                "config.dump",
                "spec.dump",
                "status.dump",
                "rootfs-diff.tar",
                "checkpoint/inventory.img",
            ] {
                assert!(
                    names.iter().any(|n| n == name),
                    "{name} is missing in {names:?}"
                );
            }
        }
        Err(e) if has_criu => panic!("{e}"),
        // The error names what is missing; nothing half-made is left.
        Err(e) => {
            println!("no criu that works: {}", e.message());
            assert!(
                e.message().starts_with("checkpointing container failed: "),
                "{e}"
            );
            assert!(!archive.exists());
        }
    }
    assert!(
        !node
            .dir
            .path()
            .join("r/cri/containers")
            .join(&id)
            .join("checkpoint")
            .exists()
    );
    assert_eq!(
        status(&mut client, &id).await.state(),
        ContainerState::ContainerRunning
    );
    assert_eq!(
        exec(&mut client, &id, &["/demo", "exit", "7"])
            .await
            .unwrap()
            .exit_code,
        7
    );
    node.close().await;
}
