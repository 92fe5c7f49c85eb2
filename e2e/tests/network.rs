//! Pod → service name → pod, and what else the network promises.

use anyhow::{Context, Result};
use knarr_e2e::{Cluster, image::BUSYBOX};

fn manifest() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {BUSYBOX}
        command: [sh, -c, 'hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
        ports: [{{containerPort: 8080, name: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: headless}}
spec: {{clusterIP: None, selector: {{app: web}}, ports: [{{port: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: empty}}
spec: {{selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sleep, '100000']
---
apiVersion: v1
kind: Pod
metadata: {{name: ported}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, 'echo ported > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
    ports: [{{containerPort: 8080, hostPort: 18081}}]
"
    )
}

#[test]
fn pods_reach_services_by_name() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.apply(&manifest())?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    cluster.wait_ready("client")?;
    cluster.wait_ready("ported")?;
    let service = cluster.get(&["service", "web"])?;
    let ip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?.to_owned();
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let node = cluster.get(&["nodes"])?;
    let node_ip = node["items"][0]["status"]["addresses"]
        .as_array()
        .and_then(|all| all.iter().find(|a| a["type"] == "InternalIP"))
        .and_then(|a| a["address"].as_str())
        .context("no node address")?
        .to_owned();

    // By name, by address, by node port; each backend is reached.
    let line = "for i in $(seq 30); do timeout 5 wget -qO- http://web/index.html; done | sort -u";
    let seen = cluster.sh("client", "main", line)?;
    assert_eq!(seen.lines().count(), 2, "both backends answer: {seen}");
    for target in [
        "web.default",
        "web.default.svc.cluster.local",
        &ip,
        &format!("{node_ip}:{node_port}"),
        &format!("{node_ip}:18081"),
    ] {
        let answer =
            cluster.sh("client", "main", &format!("timeout 5 wget -qO- http://{target}/index.html"))?;
        assert!(answer.contains("web-") || answer.contains("ported"), "{target}: {answer}");
    }
    // From the host as well: the API server calls webhooks there.
    for target in [ip.clone(), format!("{node_ip}:{node_port}"), "127.0.0.1:18081".into()] {
        let answer = knarr_e2e::run(std::process::Command::new("/bin/busybox").args([
            "timeout", "5", "busybox", "wget", "-qO-", &format!("http://{target}/index.html"),
        ]))?;
        assert!(answer.contains("web-") || answer.contains("ported"), "{target}: {answer}");
    }
    // A pod reaches itself through its own service.
    let pods = cluster.get(&["pods", "-l", "app=web"])?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no pod")?.to_owned();
    let hairpin = "for i in $(seq 20); do timeout 5 wget -qO- http://web/index.html; done | sort -u";
    assert_eq!(cluster.sh(&pod, "main", hairpin)?.lines().count(), 2);

    // DNS records of the specification.
    let lookup = |name: &str| cluster.sh("client", "main", &format!("nslookup {name}"));
    assert!(lookup("web.default.svc.cluster.local")?.contains(&ip));
    let headless = lookup("headless.default.svc.cluster.local")?;
    for item in pods["items"].as_array().context("no pods")? {
        let address = item["status"]["podIP"].as_str().context("no pod IP")?;
        assert!(headless.contains(address), "{headless}");
    }
    assert!(lookup("kubernetes.default.svc.cluster.local")?.contains("10.96.0.1"));
    assert!(lookup(&ip)?.contains("web.default.svc.cluster.local"));
    assert!(lookup("nothing.default.svc.cluster.local").is_err());

    // A service without endpoints refuses at once instead of hanging.
    let refused = cluster.sh("client", "main", "time timeout 20 wget -qO- http://empty/ 2>&1; true")?;
    assert!(refused.contains("refused"), "{refused}");

    // A pod reaches the API server at its service's name, and the pod's own token is good there.
    let open = "nc -w 5 kubernetes.default 443 </dev/null && echo open";
    assert_eq!(cluster.sh("client", "main", open)?.trim(), "open");
    let token = "cat /var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = format!("--token={}", cluster.sh("client", "main", token)?);
    let whoami = ["--server=https://10.96.0.1", &token, "auth", "whoami"];
    let mut whoami = cluster.kubectl_command(&whoami);
    let config = cluster.data_dir().join("anonymous.kubeconfig");
    let text = std::fs::read_to_string(cluster.data_dir().join("kubeconfig"))?;
    let mut anonymous: serde_json::Value = serde_json::from_str(&text)?;
    anonymous["users"][0]["user"] = serde_json::json!({});
    std::fs::write(&config, anonymous.to_string())?;
    let answer = knarr_e2e::run(whoami.arg("--kubeconfig").arg(&config))?;
    assert!(answer.contains("system:serviceaccount:default:default"), "{answer}");
    let resolv = cluster.sh("client", "main", "cat /etc/resolv.conf")?;
    assert!(resolv.contains("nameserver 10.96.0.10") && resolv.contains("ndots:5"), "{resolv}");
    let hosts = cluster.sh("client", "main", "cat /etc/hosts")?;
    assert!(hosts.starts_with("# Kubernetes-managed hosts file."), "{hosts}");
    Ok(())
}
