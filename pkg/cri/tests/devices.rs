//! Devices by their vendors' names (CDI), with real parts.

mod common;

use common::*;
use knarr_cri_api::v1::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_device_is_there() {
    let Some(node) = Node::new("cdi").await else {
        return;
    };
    let logs = node.dir.path().join("logs");
    let folder = node.dir.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let file = "cdiVersion: 0.7.0\nkind: vendor.example/toy\ncontainerEdits: {env: [TOYS=1]}\ndevices:\n\
        - name: full\n  containerEdits:\n    env: [TOY=full]\n    additionalGids: [4242]\n\
        \x20   deviceNodes: [{path: /dev/toy, hostPath: /dev/full, permissions: rw}]\n\
        \x20   mounts: [{hostPath: FILE, containerPath: /toy.txt, options: [bind, ro]}]\n";
    let given = node.dir.path().join("given");
    std::fs::write(&given, "a toy\n").unwrap();
    std::fs::write(
        folder.join("toy.yaml"),
        file.replace("FILE", &given.display().to_string()),
    )
    .unwrap();
    let mut client = node.client().await;
    let config = pod("cdi", &logs);
    let sandbox = run(&mut client, &config).await;
    let with = |name: &str, devices: &[&str]| {
        let mut config = container(name, &["sleep"]);
        config.cdi_devices = devices
            .iter()
            .map(|d| CdiDevice {
                name: (*d).to_owned(),
            })
            .collect();
        config
    };
    let error = create(
        &mut client,
        &sandbox,
        &config,
        with("none", &["vendor.example/toy=none"]),
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.message(),
        "CDI device injection failed: unresolvable CDI devices vendor.example/toy=none"
    );

    let id = create(
        &mut client,
        &sandbox,
        &config,
        with("toy", &["vendor.example/toy=full"]),
    )
    .await
    .unwrap();
    start(&mut client, &id).await.unwrap();
    let told = exec(&mut client, &id, &["/demo", "env"]).await.unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("TOYS=1\n") && told.contains("TOY=full\n"),
        "{told}"
    );
    if std::path::Path::new("/bin/busybox").exists() {
        let script = "bb=/bin/busybox; $bb cat /toy.txt; $bb id -G; $bb stat -c %t:%T /dev/toy; echo x >/dev/toy";
        let out = exec(&mut client, &id, &["/bin/busybox", "sh", "-c", script])
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "a toy\n0 4242\n1:7\n");
        // The device answers: it is the one that is always full.
        assert!(
            String::from_utf8_lossy(&out.stderr).contains("No space left"),
            "{out:?}"
        );
    }
    node.close().await;
}
