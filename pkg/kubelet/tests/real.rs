//! The kubelet over the real runtime: processes, cgroups, mounts. Needs root.
//!
//! The programs `knarr-runc`, `knarr-shim` and `knarr-pause` are looked for in the folder that
//! `KNARR_HELPERS` names, or else beside this test's own target folder; without them nothing can
//! run and the test says so.
#![allow(clippy::unwrap_used)]
mod common;

use std::{path::PathBuf, sync::Arc, time::{Duration, Instant}};

use common::{Bench, phase, ready};
use serde_json::json;

const IMAGE: &str = "demo.local/demo:1";

fn helpers() -> Option<PathBuf> {
    let dir = match std::env::var_os("KNARR_HELPERS") {
        Some(d) => PathBuf::from(d),
        None => std::env::current_exe().ok()?.parent()?.parent()?.to_path_buf(),
    };
    dir.join("knarr-shim").exists().then_some(dir)
}

/// A runtime on its own folders with an image named `demo` that holds the pause program.
async fn runtime(b: &mut Bench, helpers: &std::path::Path) -> Arc<knarr_cri::Cri> {
    let mut cfg = knarr_cri::Config::new(
        b.dir.path().join("data"),
        b.dir.path().join("run"),
        Arc::new(knarr_cri::NoNetwork),
    );
    cfg.shim = helpers.join("knarr-shim");
    cfg.runc = helpers.join("knarr-runc");
    cfg.pause = helpers.join("knarr-pause");
    cfg.cgroup_root = b.cgroup.clone();
    let cri = knarr_cri::Cri::open(cfg).await.unwrap();
    b.channel = cri.connect_in_process().await.unwrap();
    cri
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_processes() {
    let Some(helpers) = helpers() else {
        eprintln!("skipped: no knarr-shim beside the tests; build it or set KNARR_HELPERS");
        return;
    };
    let mut b = Bench::new().await;
    let cri = runtime(&mut b, &helpers).await;
    let images = Arc::clone(cri.images());
    let content = std::fs::read(helpers.join("knarr-pause")).unwrap();
    tokio::task::spawn_blocking(move || {
        let config = knarr_images::ImageConfig {
            entrypoint: vec!["/demo".into()],
            ..Default::default()
        };
        let file = knarr_images::RootFile { path: "demo".into(), mode: 0o755, content };
        images.import_rootfs(IMAGE, config, &[file]).unwrap();
    })
    .await
    .unwrap();
    let _k = b.start();
    b.api.wait("/api/v1/nodes/node1", "node", |_| true).await;
    let spec = json!({"hostNetwork": true, "terminationGracePeriodSeconds": 5, "containers":
        [{"name": "c", "image": IMAGE, "imagePullPolicy": "Never",
          "resources": {"limits": {"memory": "32Mi", "cpu": "500m"}}}]});
    let begun = Instant::now();
    let path = b.pod("p", spec);
    let p = b.api.wait(&path, "ready", ready).await;
    println!("create → ready {:?}", begun.elapsed());
    assert_eq!(phase(&p), "Running");
    let id = p["status"]["containerStatuses"][0]["containerID"].clone();
    // still the same after a restart of the kubelet
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.api.get(&path).unwrap()["status"]["containerStatuses"][0]["containerID"], id);
    let begun = Instant::now();
    b.delete(&path, 5);
    b.api.wait_gone(&path).await;
    println!("delete → gone {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(std::fs::read_dir(b.config().pods_dir()).unwrap().next().is_none());
}
