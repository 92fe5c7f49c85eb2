//! The nine layers, each seen from outside.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use knarr_e2e::{Cluster, image::BUSYBOX};
use serde_json::Value;

fn cluster() -> Cluster {
    Cluster::up(&[]).unwrap()
}

fn pod(name: &str, containers: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{\
         terminationGracePeriodSeconds: 1, containers: [{containers}]}}}}"
    )
}

fn container(name: &str, shell: &str, more: &str) -> String {
    format!(
        "{{name: {name}, image: '{BUSYBOX}', command: [sh, -c, {}]{more}}}",
        serde_json::to_string(shell).unwrap()
    )
}

fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    pod["status"]["containerStatuses"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["name"] == container))
        .unwrap_or(&Value::Null)
}

fn trace(cluster: &Cluster, pod: &str) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.knarr(["trace", "pod", pod, "-o", "json"])?)?)
}

fn traced<'a>(trace: &'a Value, name: &str) -> &'a Value {
    trace["runtime"]["containers"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["name"] == name && !c["process"].is_null()))
        .unwrap_or(&Value::Null)
}

/// Everything runs on one node, one after the other: starting a node for each would only cost
/// time.
#[test]
fn the_nine_layers_hold() {
    let cluster = cluster();
    containers_of_a_pod_share_the_network_but_not_mounts_and_pids(&cluster).unwrap();
    the_root_is_pivoted_and_image_layers_are_read_only(&cluster).unwrap();
    a_memory_hog_is_killed_by_the_kernel(&cluster).unwrap();
    a_cpu_limit_throttles(&cluster).unwrap();
    a_container_killed_from_outside_restarts_in_the_same_pod(&cluster).unwrap();
    trace_shows_every_layer(&cluster).unwrap();
}

fn containers_of_a_pod_share_the_network_but_not_mounts_and_pids(cluster: &Cluster) -> Result<()> {
    let server = container("server", "echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp", "");
    let client = container("client", "sleep 100000", "");
    cluster.apply(&pod("shared", &format!("{server}, {client}")))?;
    let object = cluster.wait_ready("shared")?;
    let ip = object["status"]["podIP"].as_str().context("no pod IP")?.to_owned();
    let got = cluster.sh("shared", "client", "wget -qO- http://127.0.0.1:8080/index.html")?;
    assert_eq!(got.trim(), "hello", "localhost is shared");
    let addresses = |c: &str| cluster.sh("shared", c, "ip -4 addr show eth0");
    assert!(addresses("server")?.contains(&ip) && addresses("client")?.contains(&ip));
    let files = cluster.sh("shared", "client", "ls /tmp")?;
    assert_eq!(files.trim(), "", "mounts differ");
    let processes = cluster.sh("shared", "client", "ps -o args")?;
    assert!(!processes.contains("httpd"), "PIDs differ:\n{processes}");
    let first = cluster.sh("shared", "client", "tr '\\0' ' ' < /proc/1/cmdline")?;
    assert!(first.contains("sleep 100000"), "the container's first process is its own: {first}");
    Ok(())
}

fn the_root_is_pivoted_and_image_layers_are_read_only(cluster: &Cluster) -> Result<()> {
    cluster.apply(&pod("root", &container("main", "trap 'exit 1' TERM; sleep 100000 & wait", "")))?;
    cluster.wait_ready("root")?;
    let mounts = cluster.sh("root", "main", "cat /proc/1/mountinfo")?;
    let root = mounts.lines().find(|l| l.split(' ').nth(4) == Some("/")).context("no root")?;
    assert!(root.contains(" - overlay "), "the root is an overlay: {root}");
    let data = cluster.data_dir();
    assert!(
        !mounts.lines().any(|l| l.split(' ').nth(4).is_some_and(|p| p.starts_with("/var/lib/knarr")
            || p.starts_with(data.to_str().unwrap_or("-")))),
        "the old root is gone:\n{mounts}"
    );
    let host = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let inside = cluster.sh("root", "main", "cat /etc/os-release 2>/dev/null || echo none")?;
    assert_eq!(inside.trim(), "none", "the host's files are not there ({} bytes)", host.len());
    // A write is the container's own and dies with it.
    cluster.sh("root", "main", "echo mine > /bin/written; rm /bin/vi")?;
    // The shell ends with its container: with which code is chance.
    let _ = cluster.sh("root", "main", "kill -TERM 1");
    cluster.wait_for(&["pod", "root"], |p| {
        status(p, "main")["restartCount"] == 1 && status(p, "main")["ready"] == true
    })?;
    let after = cluster.sh("root", "main", "ls /bin/written /bin/vi 2>&1 || true")?;
    assert!(after.contains("/bin/written: No such file"), "{after}");
    assert!(!after.contains("/bin/vi: No such file"), "the image is as it was: {after}");
    Ok(())
}

fn a_memory_hog_is_killed_by_the_kernel(cluster: &Cluster) -> Result<()> {
    let hog = container(
        "hog",
        "sleep 0.2; x=0123456789abcdef; while true; do x=$x$x; done",
        ", resources: {limits: {memory: 24Mi}}",
    );
    cluster.apply(&pod("hog", &hog))?;
    let object = cluster.wait_for(&["pod", "hog"], |p| {
        let status = status(p, "hog");
        status["restartCount"].as_u64() >= Some(1)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    let last = &status(&object, "hog")["lastState"]["terminated"];
    assert_eq!(last["reason"], "OOMKilled", "{object:#}");
    assert_eq!(last["exitCode"], 137);
    cluster.kubectl(&["delete", "pod", "hog"])?;
    Ok(())
}

fn a_cpu_limit_throttles(cluster: &Cluster) -> Result<()> {
    let spin =
        container("spin", "while true; do :; done", ", resources: {limits: {cpu: 50m}}");
    cluster.apply(&pod("spin", &spin))?;
    cluster.wait_ready("spin")?;
    std::thread::sleep(Duration::from_millis(1500));
    let trace = trace(cluster, "spin")?;
    let cpu = &traced(&trace, "spin")["process"]["cgroup"]["cpu"];
    assert_eq!(cpu["quotaMicroseconds"], 5000, "{cpu}");
    assert_eq!(cpu["periodMicroseconds"], 100_000);
    assert!(cpu["throttledPeriods"].as_u64() > Some(5), "{cpu}");
    cluster.kubectl(&["delete", "pod", "spin"])?;
    Ok(())
}

fn a_container_killed_from_outside_restarts_in_the_same_pod(cluster: &Cluster) -> Result<()> {
    cluster.apply(&pod("victim", &container("main", "sleep 100000", "")))?;
    let before = cluster.wait_ready("victim")?;
    let seen = trace(cluster, "victim")?;
    let pause = seen["runtime"]["sandbox"]["pausePid"].as_i64().context("no pause pid")?;
    let pid = traced(&seen, "main")["pid"].as_i64().context("no pid")?;
    knarr_e2e::run(std::process::Command::new("kill").args(["-9", &pid.to_string()]))?;
    let after = cluster.wait_for(&["pod", "victim"], |p| {
        status(p, "main")["restartCount"] == 1 && status(p, "main")["ready"] == true
    })?;
    assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(status(&after, "main")["lastState"]["terminated"]["exitCode"], 137);
    let again = trace(cluster, "victim")?;
    assert_eq!(again["runtime"]["sandbox"]["pausePid"], pause, "the pause process stayed");
    assert_eq!(
        seen["runtime"]["namespaces"]["net"][0]["inode"],
        again["runtime"]["namespaces"]["net"][0]["inode"],
        "and kept the network namespace"
    );
    Ok(())
}

fn trace_shows_every_layer(cluster: &Cluster) -> Result<()> {
    let seen = trace(cluster, "shared")?;
    assert_eq!(seen["pod"]["name"], "shared");
    assert!(
        seen["scheduling"]["event"]["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("Successfully assigned default/shared to ")),
        "{}",
        seen["scheduling"]
    );
    assert_eq!(seen["kubelet"]["phase"], "Running");
    let namespaces = &seen["runtime"]["namespaces"];
    for kind in ["net", "ipc", "uts"] {
        let list = namespaces[kind].as_array().context("no namespaces")?;
        assert_eq!(list.len(), 1, "{kind} is shared by all: {namespaces:#}");
        assert_eq!(list[0]["host"], false);
    }
    for kind in ["mnt", "pid"] {
        assert!(namespaces[kind].as_array().is_some_and(|l| l.len() == 3), "{namespaces:#}");
    }
    let server = traced(&seen, "server");
    assert!(server["shim"].as_i64() > Some(1), "{server:#}");
    assert_eq!(server["process"]["rootfs"]["type"], "overlay");
    assert!(server["process"]["argv"].as_array().is_some_and(|a| a.len() > 1));
    let text = cluster.knarr(["trace", "pod", "shared"])?;
    for layer in ["9 control plane", "8 kubelet", "7 pod", "6 runtime", "5 rootfs", "4 cgroup",
        "3 namespaces", "2 clone", "1 execve"]
    {
        assert!(text.contains(layer), "{layer} is missing in\n{text}");
    }
    let missing = cluster.knarr(["trace", "pod", "nobody"]).unwrap_err().to_string();
    assert!(missing.contains("pods \"nobody\" not found"), "{missing}");
    Ok(())
}
