//! OCI runtimes that are programs of their own, chosen by the names of RuntimeClasses.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use knarr_cri_api::v1::*;

/// A runtime of its own: `features` and `checkpoint` are what the script says, the rest is ours.
fn script(node: &Node, name: &str, features: &str, checkpoint: &str) -> std::path::PathBuf {
    let path = node.path(name);
    let text = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in\n\
         features) {features} ;;\n\
         checkpoint) {checkpoint} ;;\n\
         resume) echo resumed >> {marks}; exit 0 ;;\n\
         create | start | state | kill | delete | exec | run) break ;;\n\
         esac; done\nexec {runc} \"$@\"\n",
        marks = node.path("marks").display(),
        runc = node.program("knarr-runc").display(),
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_is_believed_what_it_says_of_itself() {
    let Some(mut node) = Node::new("features").await else {
        return;
    };
    let few = r#"echo '{"mountOptions": ["rro"], "linux": {"mountExtensions": {"idmap": {"enabled": false}}}}'; exit 0"#;
    for (name, path) in [
        ("few", script(&node, "few", few, "exit 1")),
        ("none", script(&node, "none", "exit 1", "exit 1")),
        ("ours", node.program("knarr-runc")),
        ("missing", node.path("nothing-here")),
    ] {
        node.handlers.insert(name.to_owned(), path);
    }
    node.open().await;
    let mut client = node.client().await;
    let told = client.status(StatusRequest::default()).await.unwrap().into_inner();
    let of = |name: &str| {
        let handler = told.runtime_handlers.iter().find(|h| h.name == name).unwrap();
        let features = handler.features.unwrap();
        (features.recursive_read_only_mounts, features.user_namespaces)
    };
    assert_eq!(of(""), (true, true));
    assert_eq!(of("ours"), (true, true));
    assert_eq!(of("few"), (true, false));
    assert_eq!(of("none"), (false, false));
    assert_eq!(of("missing"), (false, false));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_takes_too_long_leaves_the_container_running() {
    let Some(mut node) = Node::new("slow").await else {
        return;
    };
    let marks = node.path("marks");
    let slow = format!("sleep 1000 & echo $! > {m}; wait", m = marks.display());
    let slow = script(&node, "slow", "exit 1", &slow);
    node.handlers.insert("slow".to_owned(), slow);
    node.open().await;
    let mut client = node.client().await;
    let config = pod("slow", &node.path("logs"));
    let sandbox = run_with(&mut client, &config, "slow").await;
    let id = create(&mut client, &sandbox, &config, container("main", &["sleep"])).await.unwrap();
    start(&mut client, &id).await.unwrap();
    let archive = node.path("dump.tar");
    let begin = Instant::now();
    let request = CheckpointContainerRequest {
        container_id: id.clone(),
        location: archive.display().to_string(),
        timeout: 1,
    };
    let late = client.checkpoint_container(request).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());

    // What the dump had started is ended, and the container is asked to go on.
    let said = || std::fs::read_to_string(&marks).unwrap();
    eventually("the runtime is asked to resume", || said().ends_with("resumed\n")).await;
    let helper = said().lines().next().unwrap().to_owned();
    let gone = || {
        let stat = std::fs::read_to_string(Path::new("/proc").join(&helper).join("stat"));
        stat.is_err() || stat.is_ok_and(|s| s.contains(") Z "))
    };
    eventually("no process of the dump is left", gone).await;
    assert!(!archive.exists());
    let folder = node.path("r/cri/containers").join(&id).join("checkpoint");
    eventually("its folder is gone", || !folder.exists()).await;
    assert_eq!(status(&mut client, &id).await.state(), ContainerState::ContainerRunning);
    assert_eq!(exec(&mut client, &id, &["/demo", "exit", "7"]).await.unwrap().exit_code, 7);
    node.close().await;
}
