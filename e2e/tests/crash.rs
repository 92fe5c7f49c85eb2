//! Any process may be killed at any instant; containers go on.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};
use knarr_e2e::{Cluster, image::BUSYBOX};
use serde_json::Value;

const PODS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: counter}
spec:
  replicas: 3
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: IMAGE
        command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done']
";

/// Container id and restart count of every pod.
fn containers(cluster: &Cluster) -> Result<BTreeMap<String, (String, u64)>> {
    let list = cluster.get(&["pods", "-l", "app=counter"])?;
    let mut found = BTreeMap::new();
    for pod in list["items"].as_array().context("no list")? {
        let status = &pod["status"]["containerStatuses"][0];
        found.insert(
            pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            (
                status["containerID"].as_str().unwrap_or_default().to_owned(),
                status["restartCount"].as_u64().unwrap_or(99),
            ),
        );
    }
    Ok(found)
}

fn all_ready(deployment: &Value) -> bool {
    deployment["status"]["readyReplicas"] == 3
        && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
}

#[test]
fn containers_outlive_every_crash() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.apply(&PODS.replace("IMAGE", BUSYBOX))?;
    cluster.wait_for(&["deployment", "counter"], all_ready)?;
    let before = containers(&cluster)?;
    assert_eq!(before.len(), 3);

    for round in 0..3 {
        cluster.kill()?;
        std::thread::sleep(Duration::from_millis(300 * round));
        cluster.start(&[])?;
        cluster.wait_for(&["deployment", "counter"], all_ready)?;
        assert_eq!(containers(&cluster)?, before, "round {round}: adopted, not restarted");
    }
    let pod = before.keys().next().context("no pod")?;
    let log = cluster.kubectl(&["logs", pod])?;
    let numbers: Vec<u64> =
        log.lines().filter_map(|l| l.strip_prefix("line ")?.parse().ok()).collect();
    assert!(numbers.len() > 20, "the log goes on: {} lines", numbers.len());
    assert!(
        numbers.iter().zip(1..).all(|(&n, expected)| n == expected),
        "no line of the log is lost"
    );
    let exec = cluster.sh(pod, "main", "echo still here")?;
    assert_eq!(exec.trim(), "still here");

    // A crash in the middle of starting pods leaves nothing half-made.
    cluster.kubectl(&["scale", "deployment", "counter", "--replicas=12"])?;
    std::thread::sleep(Duration::from_millis(150));
    cluster.kill()?;
    cluster.start(&[])?;
    cluster.wait_for(&["deployment", "counter"], |d| d["status"]["readyReplicas"] == 12)?;
    let after = containers(&cluster)?;
    for (pod, container) in &before {
        assert_eq!(after.get(pod), Some(container), "{pod} was left alone");
    }

    // And one in the middle of removing them.
    cluster.kubectl(&["scale", "deployment", "counter", "--replicas=3"])?;
    std::thread::sleep(Duration::from_millis(100));
    cluster.kill()?;
    cluster.start(&[])?;
    cluster.wait_for(&["pods", "-l", "app=counter"], |list| {
        list["items"].as_array().is_some_and(|items| items.len() == 3)
    })?;
    Ok(())
}

#[test]
fn a_lost_run_folder_is_a_reboot() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.apply(&PODS.replace("IMAGE", BUSYBOX))?;
    cluster.wait_for(&["deployment", "counter"], all_ready)?;
    let before = containers(&cluster)?;
    cluster.kill()?;
    lose_run_folder(&cluster)?;
    cluster.start(&[])?;
    cluster.wait_for(&["pods", "-l", "app=counter"], |list| {
        list["items"].as_array().is_some_and(|items| {
            items.len() == 3
                && items.iter().all(|pod| {
                    let status = &pod["status"]["containerStatuses"][0];
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    status["ready"] == true
                        && before
                            .get(name)
                            .is_none_or(|(id, _)| Some(id.as_str()) != status["containerID"].as_str())
                })
        })
    })?;
    Ok(())
}

/// What a reboot takes: processes, cgroups, interfaces, mounts, and everything in /run.
fn lose_run_folder(cluster: &Cluster) -> Result<()> {
    let bin = cluster.run_dir().join("bin");
    for _ in 0..100 {
        let mut pids = Vec::new();
        for entry in fs::read_dir("/sys/fs/cgroup")?.flatten() {
            pids.extend(members(&entry.path().join("knarr")));
        }
        for entry in fs::read_dir("/proc")?.flatten() {
            if fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.starts_with(&bin)) {
                pids.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = knarr_e2e::run(std::process::Command::new("kill").args(["-9", &pid]));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let folder = cluster.run_dir();
    let points = mounts.lines().rev().filter_map(|l| l.split(' ').nth(4));
    for point in points.filter(|p| p.starts_with(folder.to_str().unwrap_or("-"))) {
        knarr_e2e::run(std::process::Command::new("umount").args(["-l", point]))?;
    }
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("knarr") {
            // Host ends of pods may be gone already with their namespaces.
            let _ = knarr_e2e::run(std::process::Command::new("ip").args(["link", "del", &name]));
        }
    }
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn members(cgroup: &std::path::Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(members(&entry.path()));
        }
    }
    found
}
