//! A kubelet between a pretended API server and a pretended runtime.
#![allow(dead_code, clippy::unwrap_used)]
pub mod api;
pub mod cri;

use std::{net::IpAddr, path::Path};

use knarr_kubelet::Config;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub struct Bench {
    pub api: api::Api,
    pub cri: cri::Fake,
    pub dir: tempfile::TempDir,
    pub channel: tonic::transport::Channel,
    pub cgroup: String,
}

pub struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), knarr_kubelet::Error>>,
}

impl Running {
    /// As with `kill -9`, for all that the containers know.
    pub async fn kill(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl Bench {
    pub async fn new() -> Self {
        let cri = cri::Fake::new();
        cri.state.lock().unwrap().images.insert("img".into());
        let channel = cri.channel().await;
        let dir = tempfile::tempdir().unwrap();
        let cgroup = format!("/knarr-kubelet-test-{}-{:x}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
        Bench { api: api::Api::new(), cri, dir, channel, cgroup }
    }

    pub fn config(&self) -> Config {
        let mut c = Config::new("node1", IpAddr::from([192, 168, 7, 1]));
        c.data_dir = self.dir.path().join("data");
        c.listen = None;
        c.cgroup_root = self.cgroup.clone();
        c.cluster_dns = vec![IpAddr::from([10, 96, 0, 10])];
        c
    }

    pub fn start(&self) -> Running {
        self.start_with(self.config(), Some(self.api.client()))
    }

    pub fn start_with(&self, cfg: Config, client: Option<kube::Client>) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(knarr_kubelet::run(cfg, client, self.channel.clone(), stop.clone()));
        Running { stop, task }
    }

    pub fn pod(&self, name: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/ns/pods/{name}");
        let mut spec = spec;
        spec["nodeName"] = "node1".into();
        self.api.put(
            &path,
            json!({"kind": "Pod", "apiVersion": "v1",
                "metadata": {"generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}),
        );
        path
    }

    pub fn delete(&self, path: &str, grace: i64) {
        self.api.patch(
            path,
            &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}}),
        );
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if e.path().is_dir() {
                    remove(&e.path());
                }
            }
            let _ = std::fs::remove_dir(dir);
        }
        for h in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove(&h.path().join(self.cgroup.trim_start_matches('/')));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let inside = self.dir.path().to_string_lossy().into_owned();
        for m in mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|m| m.starts_with(&inside)) {
            let _ = nix::mount::umount2(m, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

pub fn phase(v: &Value) -> &str {
    v["status"]["phase"].as_str().unwrap_or_default()
}

pub fn condition<'a>(v: &'a Value, t: &str) -> &'a Value {
    v["status"]["conditions"]
        .as_array()
        .and_then(|l| l.iter().find(|c| c["type"] == t))
        .unwrap_or(&Value::Null)
}

pub fn ready(v: &Value) -> bool {
    condition(v, "Ready")["status"] == "True"
}
