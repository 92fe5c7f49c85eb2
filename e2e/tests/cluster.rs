//! A cluster of three nodes on this machine: joined by token, one pod network, one service
//! network; a node that is cut off, paused, or loses power; nothing left behind.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use knarr_e2e::{PATIENCE, host, image, knarr, run};
use serde_json::Value;

struct Nodes {
    folder: tempfile::TempDir,
    kubectl: PathBuf,
}

impl Nodes {
    fn create(nodes: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("knarr-nodes-").tempdir()?;
        let kubectl = std::env::var_os("KUBECTL").context("KUBECTL: use hack/test")?.into();
        let cluster = Nodes { folder, kubectl };
        let nodes = nodes.to_string();
        cluster.cluster(&["create", "t", "--nodes", &nodes, "--", "--node-monitor-grace-seconds=15"])?;
        Ok(cluster)
    }

    fn cluster(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(knarr());
        command.arg("cluster").args(words);
        run(command.env("KNARR_CLUSTERS_DIR", self.folder.path().join("clusters")))
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.folder.path().join("clusters/t/kubeconfig"));
        run(command.arg("--cache-dir").arg(self.folder.path().join("cache")).args(words))
    }

    fn get(&self, words: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(words);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    fn eventually<T>(&self, what: &str, check: impl Fn() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            match check() {
                Ok(done) => return Ok(done),
                Err(error) if begin.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn becomes_ready(&self, node: &str, wanted: &str) -> Result<()> {
        self.eventually(&format!("{node} Ready={wanted}"), || {
            let node = self.get(&["node", node])?;
            let conditions = node["status"]["conditions"].as_array().context("conditions")?;
            let ready = conditions.iter().find(|c| c["type"] == "Ready").context("no Ready")?;
            if ready["status"] != wanted {
                bail!("Ready is {}", ready["status"]);
            }
            Ok(())
        })
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.cluster(&["logs", "t"]).unwrap_or_default());
        }
        if self.folder.path().join("clusters/t").exists()
            && let Err(error) = self.cluster(&["delete", "t"])
        {
            eprintln!("{error:#}");
        }
    }
}

fn manifest() -> String {
    let image = image::BUSYBOX;
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{
  replicas: 3, selector: {{matchLabels: {{app: web}}}},
  template: {{metadata: {{labels: {{app: web}}}}, spec: {{
    terminationGracePeriodSeconds: 0,
    affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [
      {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: web}}}}}}]}}}},
    containers: [{{name: main, image: '{image}',
      command: [sh, -c, 'hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp'],
      ports: [{{containerPort: 8080, hostPort: 18080}}]}}]}}}}}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: NodePort,
  selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}}}
"
    )
}

#[test]
fn three_nodes_are_one_cluster_and_leave_nothing() -> Result<()> {
    let before = host::snapshot();
    let cluster = Nodes::create(3)?;
    let nodes = cluster.get(&["nodes"])?;
    let names: Vec<_> = nodes["items"].as_array().context("nodes")?.iter().map(|n| &n["metadata"]["name"]).collect();
    assert_eq!(names, ["t-1", "t-2", "t-3"]);

    let archive = cluster.folder.path().join("busybox.tar");
    image::busybox(&archive)?;
    cluster.cluster(&["load", "image", "--name", "t", &archive.to_string_lossy()])?;
    let file = cluster.folder.path().join("web.yaml");
    std::fs::write(&file, manifest())?;
    cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;

    // One pod on each node, each in its node's own range.
    let pods = cluster.get(&["pods"])?;
    let pods: Vec<(String, String, String)> = pods["items"].as_array().context("pods")?.iter().map(|p| {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&p["metadata"]["name"]), text(&p["spec"]["nodeName"]), text(&p["status"]["podIP"]))
    }).collect();
    let mut on: Vec<_> = pods.iter().map(|(_, node, _)| node.as_str()).collect();
    on.sort_unstable();
    assert_eq!(on, ["t-1", "t-2", "t-3"]);

    // Every pod reaches every other by its address, with its own as source, and sees all of them
    // behind the service by name; nodes reach the service through any node.
    let fetch = |pod: &str, url: &str| {
        cluster.kubectl(&["exec", pod, "--", "timeout", "5", "wget", "-q", "-O", "-", url])
    };
    for (from, _, _) in &pods {
        for (to, _, ip) in &pods {
            let said = cluster.eventually(ip, || fetch(from, &format!("http://{ip}:8080/")))?;
            assert_eq!(said.trim(), to);
        }
        let mut seen = std::collections::BTreeSet::new();
        cluster.eventually("all pods behind the service", || {
            let mut new = Vec::new();
            for _ in 0..10 {
                new.push(fetch(from, "http://web.default.svc.cluster.local/")?.trim().to_owned());
            }
            Ok(new)
        })?.into_iter().for_each(|pod| { seen.insert(pod); });
        assert!(seen.len() > 1, "the service leads to {seen:?} only");
    }
    let service = cluster.get(&["service", "web"])?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
    for address in ["10.89.0.2", "10.89.0.3", "10.89.0.4"] {
        let list = cluster.cluster(&["list"])?;
        if !list.contains(address) {
            continue;
        }
        fetch(&pods[0].0, &format!("http://{address}:{port}/"))?;
    }
    // The API server reaches every kubelet by its own certificate.
    for (pod, _, _) in &pods {
        cluster.kubectl(&["logs", pod])?;
    }

    // Cut off: known within the grace; connected again: back, and its pod has gone on.
    let (pod, _, _) = pods.iter().find(|(_, node, _)| node == "t-3").context("no pod on t-3")?;
    let boot = cluster.kubectl(&["exec", pod, "--", "cat", "/proc/1/stat"])?;
    cluster.cluster(&["node", "cut", "t-3"])?;
    assert!(cluster.cluster(&["list"])?.lines().any(|l| l.contains("t-3") && l.ends_with("cut")));
    cluster.becomes_ready("t-3", "Unknown")?;
    cluster.cluster(&["node", "start", "t-3"])?;
    cluster.becomes_ready("t-3", "True")?;
    let after = cluster.eventually("exec", || cluster.kubectl(&["exec", pod, "--", "cat", "/proc/1/stat"]))?;
    let started = |stat: &str| stat.split(' ').nth(21).map(str::to_owned);
    assert_eq!(started(&boot), started(&after), "the pod was started anew");

    // Paused: it stands still, and goes on.
    cluster.cluster(&["node", "pause", "t-3"])?;
    assert!(cluster.cluster(&["list"])?.lines().any(|l| l.contains("t-3") && l.ends_with("paused")));
    let others: Vec<_> = pods.iter().filter(|(_, node, _)| node != "t-3").collect();
    fetch(&others[0].0, &format!("http://{}:8080/", others[1].2))?;
    let silent = cluster.kubectl(&["exec", pod, "--", "true"]).map_err(|e| e.to_string());
    assert!(silent.as_ref().is_err_and(|e| e.contains("TLS handshake timeout")), "{silent:?}");
    cluster.cluster(&["node", "start", "t-3"])?;
    cluster.eventually("exec", || cluster.kubectl(&["exec", pod, "--", "true"]))?;

    // Without power: its pod runs again once it is back, with no token asked for.
    cluster.cluster(&["node", "stop", "t-2"])?;
    assert!(cluster.cluster(&["list"])?.lines().any(|l| l.contains("t-2") && l.ends_with("stopped")));
    cluster.cluster(&["node", "start", "t-2"])?;
    cluster.eventually("the pod on t-2 is started again", || {
        let pods = cluster.get(&["pods", "--field-selector=spec.nodeName=t-2"])?;
        let status = &pods["items"][0]["status"]["containerStatuses"][0];
        if status["ready"] != true || status["restartCount"].as_u64() < Some(1) {
            bail!("{status}");
        }
        Ok(())
    })?;

    cluster.cluster(&["delete", "t"])?;
    let left = host::difference(&before, &host::snapshot());
    assert!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

#[test]
fn a_wrong_token_or_authority_is_not_followed() -> Result<()> {
    let cluster = Nodes::create(1)?;
    let server = "https://10.89.0.2:6443";
    if !cluster.cluster(&["list"])?.contains("10.89.0.2") {
        eprintln!("skipped: 10.89.0.0/24 is in use on this machine");
        return Ok(());
    }
    let exec = |words: &[&str]| {
        let mut all = vec!["node", "exec", "t-1", "--", "/knarr"];
        all.extend(words);
        cluster.cluster(&all)
    };
    let token = exec(&["token", "create", "--ttl-hours=1", "--description", "for a test"])?;
    let token = token.trim();
    assert!(exec(&["token", "list"])?.contains("for a test"));
    let join = exec(&["token", "create", "--print-join-command"])?;
    assert!(join.contains(server) && join.contains("--ca-hash sha256:"), "{join}");
    let agent = |token: &str, hash: &str| {
        let mut command = Command::new("timeout");
        command.args(["4"]).arg(knarr()).args(["agent", "--server", server, "--token", token, "--ca-hash", hash]);
        command.arg("--data-dir").arg(cluster.folder.path().join("data"));
        command.arg("--run-dir").arg(cluster.folder.path().join("run"));
        let output = command.args(["--log", "info", "--node-name", "t-9"]).output()?;
        anyhow::Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let nobody = format!("sha256:{}", "0".repeat(64));
    let said = agent("aaaaaa.0123456789abcdef", &nobody)?;
    assert!(said.contains("the cluster does not know the token"), "{said}");
    let said = agent(&format!("{}.0123456789abcdef", &token[..6]), &nobody)?;
    assert!(said.contains("not signed with the token"), "{said}");
    let said = agent(token, &nobody)?;
    assert!(said.contains("not the one of --ca-hash"), "{said}");
    exec(&["token", "delete", token])?;
    cluster.eventually("the signature goes with the token", || {
        let map = cluster.get(&["configmap", "-n", "kube-public", "cluster-info"])?;
        if map["data"].as_object().is_some_and(|d| d.contains_key(&format!("jws-kubeconfig-{}", &token[..6]))) {
            bail!("still there");
        }
        Ok(())
    })
}
