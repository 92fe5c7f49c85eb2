//! Pods with user namespaces of their own, with real parts.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use knarr_cri_api::v1::*;

fn users(first: u32) -> UserNamespace {
    let ids = vec![IdMapping {
        host_id: first,
        container_id: 0,
        length: 65536,
    }];
    UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    }
}

fn pod_of(name: &str, first: u32, logs: &Path) -> PodSandboxConfig {
    let mut config = pod(name, logs);
    config.linux = Some(LinuxPodSandboxConfig {
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(NamespaceOption {
                pid: NamespaceMode::Container.into(),
                userns_options: Some(users(first)),
                ..NamespaceOption::default()
            }),
            ..LinuxSandboxSecurityContext::default()
        }),
        ..LinuxPodSandboxConfig::default()
    });
    config
}

fn shell(name: &str, first: u32, volume: &Path, script: &str) -> ContainerConfig {
    let mut config = container(name, &[]);
    config.command = ["/bin/busybox", "sh", "-c", script]
        .map(str::to_owned)
        .to_vec();
    let ids = users(first);
    config.mounts = vec![Mount {
        container_path: "/data".to_owned(),
        host_path: volume.display().to_string(),
        uid_mappings: ids.uids.clone(),
        gid_mappings: ids.gids.clone(),
        ..Mount::default()
    }];
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context
        .namespace_options
        .get_or_insert_default()
        .userns_options = Some(ids);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_users_of_its_own() {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox");
        return;
    }
    let Some(mut node) = Node::new("users").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let mut client = node.client().await;
    let features = client
        .status(StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(
        features.runtime_handlers[0]
            .features
            .unwrap()
            .user_namespaces,
        "they are offered"
    );
    let volume = node.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("given"), "from the host\n").unwrap();

    let first = 5 * 65536;
    let config = pod_of("users", first, &logs);
    let sandbox = run(&mut client, &config).await;
    let script = "bb=/bin/busybox; set -e; $bb cat /proc/self/uid_map /proc/self/gid_map; \
        $bb id -u; $bb stat -c '%u %n' /etc/passwd /data/given /etc/hosts /dev/shm /demo; \
        echo mine > /mine; $bb mkdir /made; echo x > /data/mine; $bb chown 7:8 /data/mine; \
        echo again > /dev/stdout; echo ready; exec $bb sleep 1000";
    let id = create(
        &mut client,
        &sandbox,
        &config,
        shell("main", first, &volume, script),
    )
    .await
    .unwrap();
    start(&mut client, &id).await.unwrap();
    let log = logs.join("main.log");
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the script's end", || {
        told().contains(" ready\n") || told().contains("stderr")
    })
    .await;
    let lines: Vec<String> = told()
        .lines()
        .map(|l| {
            l.splitn(4, ' ')
                .nth(3)
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let map = format!("0 {first} 65536");
    assert_eq!(
        lines,
        [
            map.as_str(),
            &map,
            "0",
            "0 /etc/passwd",
            "0 /data/given",
            "0 /etc/hosts",
            "0 /dev/shm",
            "0 /demo",
            "again",
            "ready",
        ]
    );
    // The root is written with the pod's ids on the host; a volume with the volume's.
    let written = node.dir.path().join("d/images/rw").join(&id).join("u");
    for name in ["mine", "made"] {
        let meta = std::fs::metadata(written.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (first, first), "{name}");
    }
    let meta = std::fs::metadata(volume.join("mine")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));

    // Programs that join later are of the same namespace, also after the services' restart.
    drop(client);
    node.open().await;
    let mut client = node.client().await;
    let words = ["/bin/busybox", "cat", "/proc/self/uid_map"];
    let out = exec(&mut client, &id, &words).await.unwrap();
    let text = String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(text, map);
    let words = ["/bin/busybox", "sh", "-c", "echo from exec > /dev/stdout"];
    let out = exec(&mut client, &id, &words).await.unwrap();
    assert_eq!((out.exit_code, &out.stdout[..]), (0, &b"from exec\n"[..]));

    // Another user than root, a terminal, and all capabilities there are.
    let mut web = shell(
        "web",
        first,
        &volume,
        "/bin/busybox id -u; echo told > /dev/stdout",
    );
    let context = web
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    context.run_as_user = Some(Int64Value { value: 1000 });
    let web = create(&mut client, &sandbox, &config, web).await.unwrap();
    start(&mut client, &web).await.unwrap();
    assert_eq!(
        ended(&mut client, &web).await.exit_code,
        0,
        "{:?}",
        std::fs::read_to_string(logs.join("web.log"))
    );
    let log = std::fs::read_to_string(logs.join("web.log")).unwrap();
    assert!(
        log.contains("stdout F 1000\n") && log.contains("stdout F told\n"),
        "{log}"
    );
    let mut all = shell(
        "all",
        first,
        &volume,
        "/bin/busybox mount -t tmpfs none /tmp && /bin/busybox hostname changed",
    );
    all.linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .privileged = true;
    all.tty = true;
    let all = create(&mut client, &sandbox, &config, all).await.unwrap();
    start(&mut client, &all).await.unwrap();
    let end = ended(&mut client, &all).await;
    let log = std::fs::read_to_string(logs.join("all.log")).unwrap();
    assert_eq!(end.exit_code, 0, "{log}");

    // An image as a volume is the pod's root's, too.
    let mut with_image = shell(
        "image",
        first,
        &volume,
        "/bin/busybox stat -c %u /image/demo",
    );
    with_image.mounts.push(Mount {
        container_path: "/image".to_owned(),
        readonly: true,
        image: Some(ImageSpec {
            image: IMAGE.to_owned(),
            ..ImageSpec::default()
        }),
        ..with_image.mounts[0].clone()
    });
    let with_image = create(&mut client, &sandbox, &config, with_image)
        .await
        .unwrap();
    start(&mut client, &with_image).await.unwrap();
    let log = logs.join("image.log");
    assert_eq!(
        ended(&mut client, &with_image).await.exit_code,
        0,
        "{:?}",
        std::fs::read_to_string(&log)
    );
    assert!(
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("stdout F 0\n")
    );

    // A container says the same as its pod, or is refused.
    let other = shell("other", first + 65536, &volume, "true");
    let error = create(&mut client, &sandbox, &config, other)
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("for sandbox is different from container"),
        "{error}"
    );
    node.close().await;
}
