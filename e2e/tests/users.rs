//! Pods with user namespaces of their own (`hostUsers: false`).

use std::{fs, os::unix::fs::MetadataExt};

use anyhow::{Context, Result, ensure};
use knarr_e2e::{Cluster, image::BUSYBOX};
use serde_json::{Value, json};

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "hostUsers": false,
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "work", "emptyDir": {}}, {"name": "known", "configMap": {"name": "known"}}],
            "containers": [{
                "name": "main", "image": BUSYBOX, "command": ["sh", "-c", "sleep 100000"],
                "volumeMounts": [{"name": "work", "mountPath": "/work"}, {"name": "known", "mountPath": "/known"}],
            }],
        },
    })
}

/// Where the pod's root is on the host, as `/proc/self/uid_map` says.
fn first_id(cluster: &Cluster, pod: &str) -> Result<u32> {
    let map = cluster.sh(pod, "main", "cat /proc/self/uid_map")?;
    let fields: Vec<u32> = map
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [inside, outside, count] = fields[..] else {
        anyhow::bail!("one range is expected: {map:?}");
    };
    ensure!(inside == 0 && count == 65_536, "{map:?}");
    Ok(outside)
}

#[test]
fn root_of_a_pod_is_nobody_on_the_host() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    let node = cluster.get(&["nodes"])?;
    let handlers = &node["items"][0]["status"]["runtimeHandlers"];
    ensure!(
        handlers[0]["features"]["userNamespaces"] == true,
        "the node does not say that it can: {handlers}"
    );
    cluster.kubectl(&["create", "configmap", "known", "--from-literal=key=value"])?;
    for name in ["one", "two"] {
        cluster.apply(&pod(name).to_string())?;
    }
    let mut first = Vec::new();
    for name in ["one", "two"] {
        let uid = cluster.wait_ready(name)?["metadata"]["uid"]
            .as_str()
            .context("no uid")?
            .to_owned();
        let id = first_id(&cluster, name)?;
        ensure!(id >= 65_536, "{name} has ids of the host: {id}");
        first.push(id);
        // Root inside owns its root folder, its volumes and what it writes.
        let line = "id -u; stat -c %u / /work /known/..data/key; echo x > /work/new && echo x > /new && stat -c %u /work/new /new";
        let seen = cluster.sh(name, "main", line)?;
        ensure!(
            seen.split_whitespace().all(|id| id == "0"),
            "{name}: {seen}"
        );
        // On the host, a volume's files are those of the kubelet's own ids: they are mapped where they are mounted.
        let file = cluster
            .data_dir()
            .join("kubelet/pods")
            .join(&uid)
            .join("volumes/kubernetes.io~empty-dir/work/new");
        let owner = fs::metadata(&file)
            .with_context(|| file.display().to_string())?
            .uid();
        ensure!(owner == 0, "{} is owned by {owner}", file.display());
        // Its process is nobody that the host knows.
        let processes = cluster.sh(name, "main", "cat /proc/1/status | grep ^Uid:")?;
        ensure!(
            processes.split_whitespace().nth(1) == Some("0"),
            "{processes}"
        );
    }
    ensure!(
        first[0].abs_diff(first[1]) >= 65_536,
        "both have the same ids: {first:?}"
    );
    // They keep them when the node's program is started again, and none is given twice.
    cluster.kill()?;
    cluster.start(&[])?;
    cluster.wait_ready("one")?;
    ensure!(first_id(&cluster, "one")? == first[0]);
    cluster.apply(&pod("three").to_string())?;
    cluster.wait_ready("three")?;
    let third = first_id(&cluster, "three")?;
    ensure!(
        first.iter().all(|id| id.abs_diff(third) >= 65_536),
        "{first:?} {third}"
    );
    // What the host's network would make of it is refused.
    let mut wrong = pod("wrong");
    wrong["spec"]["hostNetwork"] = true.into();
    let refused = cluster.apply(&wrong.to_string());
    ensure!(
        refused.is_err(),
        "hostNetwork with hostUsers: false was accepted"
    );
    Ok(())
}
