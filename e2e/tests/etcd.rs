//! The same cluster over real etcd.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use knarr_e2e::{Cluster, PATIENCE, image, run};

struct Etcd {
    process: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Result<Self> {
        let free = || -> Result<String> {
            Ok(format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
        };
        let (url, peer) = (free()?, free()?);
        let data = tempfile::tempdir()?;
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let begin = Instant::now();
        let address = url.trim_start_matches("http://").to_owned();
        while std::net::TcpStream::connect(&address).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Etcd { process, url, _data: data })
    }

    fn keys(&self) -> Result<String> {
        run(Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url, "get", "/registry/", "--prefix", "--keys-only"]))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_cluster_lives_in_etcd() -> Result<()> {
    let etcd = Etcd::start()?;
    let arguments = ["--etcd-endpoints", etcd.url.as_str()];
    let cluster = Cluster::up(&arguments)?;
    cluster.kubectl(&["create", "deployment", "web", "--image", image::BUSYBOX, "--replicas=2",
        "--", "sleep", "100000"])?;
    cluster.wait_for(&["deployment", "web"], |d| d["status"]["readyReplicas"] == 2)?;
    let keys = etcd.keys()?;
    assert!(keys.contains("/registry/deployments/default/web"), "{keys}");
    assert!(keys.contains("/registry/minions/"), "{keys}");
    let uid = cluster.get(&["deployment", "web"])?["metadata"]["uid"].clone();
    cluster.kill()?;
    cluster.start(&arguments)?;
    let after = cluster.wait_for(&["deployment", "web"], |d| d["status"]["readyReplicas"] == 2)?;
    assert_eq!(after["metadata"]["uid"], uid);
    Ok(())
}
