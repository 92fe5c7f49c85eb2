//! Stock kubectl: every everyday command.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use knarr_e2e::{Cluster, PATIENCE, image::BUSYBOX};

fn deployment(name: &str, replicas: u32, text: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {BUSYBOX}
        command: [sh, -c, 'echo {text}; mkdir -p /www; echo {text} > /www/index.html; exec httpd -f -p 8080 -h /www']
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /index.html, port: http}}, periodSeconds: 1}}
"
    )
}

/// One node for all, since each step builds on the one before as a user's would.
#[test]
fn everyday_commands_work() {
    let cluster = Cluster::up(&[]).unwrap();
    get_and_describe(&cluster).unwrap();
    apply_patch_scale_and_roll_out(&cluster).unwrap();
    server_side_apply_owns_fields(&cluster).unwrap();
    logs_exec_attach_and_cp(&cluster).unwrap();
    port_forward_answers(&cluster).unwrap();
    explain_and_discovery(&cluster).unwrap();
    errors_are_kubernetes_errors(&cluster).unwrap();
    failures_show_where_users_look(&cluster).unwrap();
    deletion_is_quick_and_complete(&cluster).unwrap();
}

fn get_and_describe(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.kubectl(&["get", "nodes"])?;
    let header: Vec<_> = nodes.lines().next().context("no header")?.split_whitespace().collect();
    assert_eq!(header, ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]);
    assert!(nodes.contains(" Ready ") && nodes.contains("v1.37"), "{nodes}");
    let wide = cluster.kubectl(&["get", "nodes", "-o", "wide"])?;
    assert!(wide.contains("INTERNAL-IP") && wide.contains("CONTAINER-RUNTIME"), "{wide}");
    let described = cluster.kubectl(&["describe", "nodes"])?;
    for part in ["Capacity:", "Allocatable:", "PodCIDR:", "KubeletReady"] {
        assert!(described.contains(part), "{part} in\n{described}");
    }
    let namespaces = cluster.kubectl(&["get", "namespaces"])?;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(namespaces.contains(name), "{namespaces}");
    }
    let services = cluster.kubectl(&["get", "services"])?;
    assert!(services.contains("10.96.0.1") && services.contains("443/TCP"), "{services}");
    let version = cluster.kubectl(&["version"])?;
    assert!(version.contains("Server Version: v1.37"), "{version}");
    Ok(())
}

fn apply_patch_scale_and_roll_out(cluster: &Cluster) -> Result<()> {
    let created = cluster.apply(&deployment("web", 2, "one"))?;
    assert_eq!(created.trim(), "deployment.apps/web created");
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let unchanged = cluster.apply(&deployment("web", 2, "one"))?;
    assert_eq!(unchanged.trim(), "deployment.apps/web unchanged");
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=web"])?;
    let header: Vec<_> = pods.lines().next().context("no header")?.split_whitespace().collect();
    assert_eq!(header, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(pods.lines().filter(|l| l.contains("1/1") && l.contains("Running")).count(), 2);

    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"])?;
    cluster.kubectl(&[
        "wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/web", "--timeout=60s",
    ])?;
    cluster.kubectl(&["patch", "deployment", "web", "-p",
        r#"{"metadata":{"annotations":{"patched":"strategic"}}}"#])?;
    cluster.kubectl(&["patch", "deployment", "web", "--type=merge", "-p",
        r#"{"metadata":{"annotations":{"merged":"yes"}}}"#])?;
    cluster.kubectl(&["patch", "deployment", "web", "--type=json", "-p",
        r#"[{"op":"remove","path":"/metadata/annotations/merged"}]"#])?;
    let annotations = cluster.get(&["deployment", "web"])?["metadata"]["annotations"].clone();
    assert_eq!(annotations["patched"], "strategic");
    assert!(annotations["merged"].is_null());
    cluster.kubectl(&["label", "deployment/web", "tier=front"])?;
    assert!(cluster.kubectl(&["get", "deploy", "-l", "tier=front"])?.contains("web"));

    // A roll-out to a new template, and back.
    let changed = cluster.apply(&deployment("web", 3, "two"))?;
    assert_eq!(changed.trim(), "deployment.apps/web configured");
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let history = cluster.kubectl(&["rollout", "history", "deployment/web"])?;
    assert!(history.lines().any(|l| l.starts_with('2')), "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/web"])?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    // The pods of the other revision may still be leaving.
    cluster.wait_for(&["pods", "-l", "app=web"], |l| {
        l["items"].as_array().is_some_and(|items| items.len() == 3)
    })?;
    let logs = cluster.kubectl(&["logs", "deployment/web"])?;
    assert_eq!(logs.trim(), "one");
    cluster.kubectl(&["rollout", "restart", "deployment/web"])?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let sets = cluster.get(&["replicasets", "-l", "app=web"])?;
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(3));

    let edited = std::env::temp_dir().join(format!("knarr-editor-{}", std::process::id()));
    std::fs::write(&edited, "#!/bin/sh\nsed -i 's/replicas: 3/replicas: 1/' \"$1\"\n")?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&edited, std::fs::Permissions::from_mode(0o755))?;
    let mut edit = cluster.kubectl_command(&["edit", "deployment", "web"]);
    knarr_e2e::run(edit.env("KUBE_EDITOR", &edited))?;
    std::fs::remove_file(&edited)?;
    cluster.wait_for(&["pods", "-l", "app=web"], |l| {
        l["items"].as_array().is_some_and(|items| items.len() == 1)
    })?;
    Ok(())
}

fn server_side_apply_owns_fields(cluster: &Cluster) -> Result<()> {
    let map = |value: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: owned}}, data: {{key: {value}}}}}"
        )
    };
    let apply = |manager: &str, text: &str, more: &[&str]| {
        let manager = format!("--field-manager={manager}");
        let mut all = vec!["apply", "--server-side", manager.as_str(), "-f", "-"];
        all.extend(more);
        cluster.kubectl_input(&all, text)
    };
    apply("first", &map("one"), &[])?;
    let conflict = apply("second", &map("two"), &[]).unwrap_err().to_string();
    assert!(conflict.contains("conflict with \"first\": .data.key"), "{conflict}");
    apply("second", &map("two"), &["--force-conflicts"])?;
    let object = cluster.get(&["configmap", "owned", "--show-managed-fields"])?;
    assert_eq!(object["data"]["key"], "two");
    let managers = object["metadata"]["managedFields"].to_string();
    assert!(managers.contains("second"), "{managers}");
    Ok(())
}

fn logs_exec_attach_and_cp(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: tool}}, spec: {{\
         terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{BUSYBOX}', \
         stdin: true, command: [sh, -c, 'i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo line $i; \
         sleep 0.2; done; cat']}}]}}}}"
    ))?;
    cluster.wait_ready("tool")?;
    // -f follows until the lines are there.
    let mut follow = cluster
        .kubectl_command(&["logs", "-f", "tool"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut seen = String::new();
    let mut out = follow.stdout.take().context("no output")?;
    let mut buffer = [0; 256];
    while !seen.contains("line 5\n") {
        let n = out.read(&mut buffer)?;
        ensure!(n > 0, "logs -f ended early: {seen}");
        seen.push_str(std::str::from_utf8(&buffer[..n])?);
    }
    follow.kill()?;
    follow.wait()?;
    assert!(seen.starts_with("line 1\n"), "{seen}");
    assert_eq!(cluster.kubectl(&["logs", "tool", "--tail=1"])?, "line 5\n");
    assert!(cluster.kubectl(&["logs", "tool", "--timestamps", "--tail=1"])?.contains("Z line 5"));

    // exec: streams apart, exit code, standard input.
    assert_eq!(cluster.sh("tool", "main", "echo out; echo err >&2")?, "out\n");
    let failed = cluster.sh("tool", "main", "exit 7").unwrap_err().to_string();
    assert!(failed.contains("exit code 7"), "{failed}");
    let echoed = cluster.kubectl_input(&["exec", "-i", "tool", "--", "cat"], "through\n")?;
    assert_eq!(echoed, "through\n");
    let missing = cluster.kubectl(&["exec", "tool", "--", "no-such-command"]).unwrap_err();
    assert!(missing.to_string().contains("executable file not found"), "{missing}");
    // -t: a terminal, as `script` gives kubectl one.
    let kubectl = cluster.kubectl_command(&["exec", "-it", "tool", "--", "sh", "-c",
        "test -t 0 && test -t 1 && echo a terminal"]);
    let line: Vec<_> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|a| format!("'{}'", a.to_string_lossy()))
        .collect();
    let tty = knarr_e2e::run(
        std::process::Command::new("script").args(["-qec", &line.join(" "), "/dev/null"]),
    )?;
    assert!(tty.contains("a terminal"), "{tty}");

    // attach: what is typed reaches the container's own process and its answer comes back.
    let mut attach = cluster
        .kubectl_command(&["attach", "-i", "tool"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    attach.stdin.as_mut().context("no stdin")?.write_all(b"typed\n")?;
    let mut out = attach.stdout.take().context("no stdout")?;
    let mut seen = String::new();
    while !seen.contains("typed\n") {
        let n = out.read(&mut buffer)?;
        ensure!(n > 0, "attach ended early: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    attach.kill()?;
    attach.wait()?;

    // cp, there and back, byte for byte.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("data");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes)?;
    let back = folder.path().join("back");
    cluster.kubectl(&["cp", file.to_str().context("path")?, "tool:/tmp/data"])?;
    cluster.kubectl(&["cp", "tool:/tmp/data", back.to_str().context("path")?])?;
    assert!(std::fs::read(&back)? == bytes, "cp changed the file");
    Ok(())
}

fn port_forward_answers(cluster: &Cluster) -> Result<()> {
    let mut forward = cluster
        .kubectl_command(&["port-forward", "deployment/web", "18080:8080"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = (|| {
        let begin = Instant::now();
        loop {
            let answer = TcpStream::connect("127.0.0.1:18080").and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text)
            });
            match answer {
                Ok(text) if text.contains("one") => return Ok(()),
                other if begin.elapsed() > PATIENCE => {
                    anyhow::bail!("port-forward does not answer: {other:?}")
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    })();
    forward.kill()?;
    forward.wait()?;
    outcome
}

fn explain_and_discovery(cluster: &Cluster) -> Result<()> {
    let explained = cluster.kubectl(&["explain", "deployment.spec.strategy"])?;
    assert!(explained.contains("rollingUpdate"), "{explained}");
    assert!(explained.contains("FIELD: strategy"), "{explained}");
    let resources = cluster.kubectl(&["api-resources"])?;
    for (name, short) in [("pods", "po"), ("deployments", "deploy"), ("storageclasses", "sc"),
        ("customresourcedefinitions", "crd,crds"), ("leases", "")]
    {
        assert!(
            resources.lines().any(|l| {
                let mut words = l.split_whitespace();
                words.next() == Some(name) && (short.is_empty() || words.next() == Some(short))
            }),
            "{name} in\n{resources}"
        );
    }
    // Every kind is served through the one path.
    let all = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    assert!(all.lines().count() > 50, "{all}");
    for resource in all.lines() {
        cluster.kubectl(&["get", resource, "-A"]).with_context(|| resource.to_owned())?;
        // After the first dot explain takes a field's name.
        let plural = resource.split('.').next().unwrap_or(resource);
        cluster.kubectl(&["explain", plural]).with_context(|| plural.to_owned())?;
    }
    let versions = cluster.kubectl(&["api-versions"])?;
    assert!(versions.lines().any(|l| l == "apps/v1"), "{versions}");
    let raw = cluster.kubectl(&["get", "--raw", "/readyz"])?;
    assert_eq!(raw, "ok");
    assert!(cluster.kubectl(&["auth", "can-i", "create", "pods"])?.starts_with("yes"));
    assert!(cluster.kubectl(&["auth", "whoami"])?.contains("system:masters"));
    Ok(())
}

fn errors_are_kubernetes_errors(cluster: &Cluster) -> Result<()> {
    let error = |arguments: &[&str]| cluster.kubectl(arguments).unwrap_err().to_string();
    let text = error(&["get", "pod", "nobody"]);
    assert!(text.contains("Error from server (NotFound): pods \"nobody\" not found"), "{text}");
    let text = error(&["get", "nonsense"]);
    assert!(text.contains("the server doesn't have a resource type \"nonsense\""), "{text}");
    let apply = |text: &str| cluster.apply(text).unwrap_err().to_string();
    let text = apply("{apiVersion: v1, kind: Pod, metadata: {name: Bad_Name}, spec: {containers: [{name: a, image: b}]}}");
    assert!(text.contains("metadata.name: Invalid value: \"Bad_Name\""), "{text}");
    let text = apply("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: []}}");
    assert!(text.contains("spec.containers: Required value"), "{text}");
    let text = apply("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b, imagee: c}]}}");
    assert!(text.contains("unknown field \"spec.containers[0].imagee\""), "{text}");
    let text = apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}");
    assert!(text.contains("namespaces \"nowhere\" not found"), "{text}");
    let text = error(&["--token=wrong", "--user=nobody", "get", "pods"]);
    assert!(!text.is_empty());
    let text = error(&["get", "pods", "--as=stranger"]);
    assert!(
        text.contains("pods is forbidden: User \"stranger\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{text}"
    );
    Ok(())
}

fn failures_show_where_users_look(cluster: &Cluster) -> Result<()> {
    let pod = |name: &str, image: &str, command: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{\
             terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{image}', \
             imagePullPolicy: IfNotPresent, command: [{command}]}}]}}}}"
        )
    };
    let waiting = |name: &str, reasons: &[&str]| {
        cluster.wait_for(&["pod", name], |p| {
            let status = &p["status"]["containerStatuses"][0];
            reasons.iter().any(|&r| {
                status["state"]["waiting"]["reason"] == r
                    || status["state"]["terminated"]["reason"] == r
                    || status["lastState"]["terminated"]["reason"] == r
            })
        })
    };
    cluster.apply(&pod("no-image", "localhost:1/does/not:exist", "sh"))?;
    waiting("no-image", &["ErrImagePull", "ImagePullBackOff"])?;
    let events = cluster.kubectl(&["describe", "pod", "no-image"])?;
    assert!(events.contains("Failed to pull image \"localhost:1/does/not:exist\""), "{events}");
    cluster.apply(&pod("no-command", BUSYBOX, "/does/not/exist"))?;
    let object = waiting("no-command", &["StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError"])?;
    assert!(object.to_string().contains("/does/not/exist"), "{object:#}");
    cluster.apply(&pod("crashing", BUSYBOX, "'false'"))?;
    let object = waiting("crashing", &["CrashLoopBackOff"])?;
    assert_eq!(object["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    cluster.kubectl(&["delete", "pods", "no-image", "no-command", "crashing"])?;
    Ok(())
}

fn deletion_is_quick_and_complete(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "namespace", "gone"])?;
    cluster.kubectl_input(&["apply", "-n", "gone", "-f", "-"], &deployment("web", 2, "x"))?;
    cluster.kubectl(&["-n", "gone", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    cluster.kubectl(&["delete", "namespace", "gone", "--timeout=60s"])?;
    let pods = cluster.get(&["pods", "-A"])?;
    assert!(!pods.to_string().contains("\"namespace\":\"gone\""));
    // The garbage collector follows owners: deployment, replica set, pods.
    cluster.kubectl(&["delete", "deployment", "web"])?;
    cluster.wait_for(&["pods", "-l", "app=web"], |l| {
        l["items"].as_array().is_some_and(Vec::is_empty)
    })?;
    let sets = cluster.get(&["replicasets"])?;
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(0));
    Ok(())
}
