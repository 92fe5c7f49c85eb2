//! What a pod may ask of its node: volumes, probes, hooks, init and ephemeral containers,
//! security, host namespaces, last words, deadlines, resizing, logs.

use std::{
    fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use knarr_e2e::{Cluster, PATIENCE, image::BUSYBOX};
use serde_json::{Value, json};

/// `base` with the fields of `more` over it.
fn with(mut base: Value, more: Value) -> Value {
    if let (Some(all), Value::Object(more)) = (base.as_object_mut(), more) {
        all.extend(more);
    }
    base
}

fn container(name: &str, shell: &str, more: Value) -> Value {
    with(json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", shell]}), more)
}

/// A container that does nothing and leaves at once when asked.
fn idle(name: &str, more: Value) -> Value {
    container(name, "trap 'exit 0' TERM; sleep 100000 & wait", more)
}

fn pod(name: &str, containers: Value, more: Value) -> Value {
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": containers});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": with(spec, more),
    })
}

fn apply(cluster: &Cluster, object: &Value) -> Result<()> {
    cluster.apply(&object.to_string()).map(drop)
}

fn ready(cluster: &Cluster, object: &Value) -> Result<Value> {
    apply(cluster, object)?;
    cluster.wait_ready(name(object))
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn gone(cluster: &Cluster, names: &[&str]) -> Result<()> {
    let mut all = vec!["delete", "pod", "--wait=false"];
    all.extend(names);
    cluster.kubectl(&all).map(drop)
}

fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|c| c["name"] == container)
        .unwrap_or(&Value::Null)
}

fn sh(cluster: &Cluster, pod: &str, line: &str) -> Result<String> {
    Ok(cluster.sh(pod, "main", line)?.trim().to_owned())
}

fn wait_sh(cluster: &Cluster, pod: &str, line: &str, wanted: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let got = sh(cluster, pod, line)?;
        if got == wanted {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "{line}: {got:?} did not become {wanted:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for an event of a pod whose message has `text`.
fn event(cluster: &Cluster, pod: &str, reason: &str, text: &str) -> Result<()> {
    let begin = Instant::now();
    let select = format!("involvedObject.name={pod},reason={reason}");
    loop {
        let events = cluster.get(&["events", "--field-selector", &select])?;
        let found = events["items"].as_array().is_some_and(|all| {
            all.iter().any(|e| e["message"].as_str().is_some_and(|m| m.contains(text)))
        });
        if found {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "no event {reason} {text:?} of {pod}: {events:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Everything runs on one node; a step that fails is named, and the others run all the same.
#[test]
fn pods_get_what_they_ask_for() {
    let cluster = Cluster::up(&[]).unwrap();
    type Step = fn(&Cluster) -> Result<()>;
    let steps: &[(&str, Step)] = &[
        ("content volumes change live", content_volumes_change_live),
        ("a group owns its volumes", a_group_owns_its_volumes),
        ("empty dirs", empty_dirs),
        ("host paths are checked", host_paths_are_checked),
        ("sub paths", sub_paths),
        ("an image is a volume", an_image_is_a_volume),
        ("readiness comes and goes", readiness_comes_and_goes),
        ("a failed liveness probe restarts", a_failed_liveness_probe_restarts),
        ("every kind of probe", every_kind_of_probe),
        ("hooks run", hooks_run),
        ("init containers and sidecars", init_containers_and_sidecars),
        ("a failing init container", a_failing_init_container),
        ("kubectl debug", kubectl_debug),
        ("users and groups", users_and_groups),
        ("security contexts", security_contexts),
        ("sysctls", sysctls),
        ("namespaces of the host", namespaces_of_the_host),
        ("a shared process namespace", a_shared_process_namespace),
        ("last words", last_words),
        ("an active deadline", an_active_deadline),
        ("resize in place", resize_in_place),
        ("logs rotate", logs_rotate),
    ];
    let only = std::env::var("STEP").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, step) in steps.iter().filter(|(name, _)| name.contains(&only)) {
        let begin = Instant::now();
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| step(&cluster)))
            .unwrap_or_else(|what| {
                let text = what.downcast_ref::<String>().cloned();
                Err(anyhow!(text.unwrap_or_else(|| "see above".to_owned())))
            });
        eprintln!("{name}: {:?} {}", begin.elapsed(), if result.is_ok() { "ok" } else { "FAILED" });
        if let Err(error) = result {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n\n"));
}

fn content_volumes_change_live(cluster: &Cluster) -> Result<()> {
    apply(cluster, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "live"},
        "data": {"text": "one", "other": "o"}, "binaryData": {"bytes": "AAEC"}}))?;
    apply(cluster, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "live"},
        "stringData": {"password": "one"}}))?;
    let projected = json!({"defaultMode": 0o440, "sources": [
        {"configMap": {"name": "live", "items": [{"key": "text", "path": "a/b", "mode": 0o400}]}},
        {"secret": {"name": "live"}},
        {"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef":
                {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "other"}},
        {"configMap": {"name": "missing", "optional": true}},
    ]});
    let main = idle("main", json!({
        "resources": {"limits": {"cpu": "250m"}},
        "volumeMounts": [
            {"name": "cm", "mountPath": "/cm"},
            {"name": "secret", "mountPath": "/secret"},
            {"name": "projected", "mountPath": "/projected"},
            {"name": "down", "mountPath": "/down"},
        ],
    }));
    let object = pod("live", json!([main]), json!({"volumes": [
        {"name": "cm", "configMap": {"name": "live"}},
        {"name": "secret", "secret": {"secretName": "live", "defaultMode": 0o400}},
        {"name": "projected", "projected": projected},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]}));
    ready(cluster, &object)?;
    let got = sh(cluster, "live", "cat /cm/text /cm/other; od -An -tx1 /cm/bytes; \
        cat /secret/password /projected/a/b /projected/password /projected/labels; \
        echo; cat /projected/cpu")?;
    assert_eq!(got, "oneo 00 01 02\noneoneoneapp=\"live\"\n250");
    let modes = sh(cluster, "live", "stat -Lc %a /cm /cm/text /secret/password /projected/a/b \
        /projected/password /projected/token | tr '\\n' ' '; readlink /cm/text")?;
    assert_eq!(modes, "777 644 400 400 440 440 ..data/text");
    let tmpfs = sh(cluster, "live", "stat -fc %T /secret /projected /down | sort -u")?;
    assert_eq!(tmpfs, "tmpfs", "secrets stay in memory");
    let write = sh(cluster, "live", "touch /cm/x 2>&1 || true")?;
    assert!(write.contains("Read-only"), "{write}");
    let token = sh(cluster, "live", "cut -d. -f2 /projected/token | tr _- /+")?;
    ensure!(token.len() > 100, "no token: {token}");
    cluster.kubectl(&["patch", "cm", "live", "-p", r#"{"data":{"text":"two","other":null}}"#])?;
    cluster.kubectl(&["patch", "secret", "live", "-p", r#"{"stringData":{"password":"two"}}"#])?;
    cluster.kubectl(&["label", "pod", "live", "color=red"])?;
    wait_sh(cluster, "live", "cat /cm/text /projected/a/b /projected/password", "twotwotwo")?;
    wait_sh(cluster, "live", "cat /down/labels", "app=\"live\"\ncolor=\"red\"")?;
    wait_sh(cluster, "live", "ls /cm | tr '\\n' ' '", "bytes text")?;
    // One that is not there keeps the pod waiting, and is said.
    let waits = pod("waits", json!([idle("main", json!({
        "volumeMounts": [{"name": "cm", "mountPath": "/cm"}]}))]),
        json!({"volumes": [{"name": "cm", "configMap": {"name": "later"}}]}));
    apply(cluster, &waits)?;
    event(cluster, "waits", "FailedMount", "configmap \"later\" not found")?;
    cluster.kubectl(&["create", "cm", "later", "--from-literal=a=b"])?;
    cluster.wait_ready("waits")?;
    gone(cluster, &["live", "waits"])
}

fn a_group_owns_its_volumes(cluster: &Cluster) -> Result<()> {
    let main = idle("main", json!({"volumeMounts": [
        {"name": "empty", "mountPath": "/empty"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "secret", "mountPath": "/secret"},
    ]}));
    apply(cluster, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "owned"},
        "stringData": {"a": "b"}}))?;
    let object = pod("owned", json!([main]), json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000},
        "volumes": [
            {"name": "empty", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "secret", "secret": {"secretName": "owned", "defaultMode": 0o400}},
        ],
    }));
    ready(cluster, &object)?;
    let got = sh(cluster, "owned", "id -u; id -g; id -G; stat -Lc '%a %g' /empty /memory /secret/a; \
        touch /empty/new; stat -c '%u %g' /empty/new; cat /secret/a")?;
    assert_eq!(got, "1000\n1001\n1001 2000\n2777 2000\n2777 2000\n440 2000\n1000 2000\nb");
    gone(cluster, &["owned"])
}

fn empty_dirs(cluster: &Cluster) -> Result<()> {
    let mounts = json!({"volumeMounts": [
        {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"},
    ]});
    let object = pod("empty", json!([idle("main", mounts.clone()), idle("other", mounts)]),
        json!({"volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}},
        ]}));
    ready(cluster, &object)?;
    assert_eq!(sh(cluster, "empty", "stat -c %a /disk /memory | tr '\\n' ' '")?, "777 777");
    cluster.sh("empty", "other", "echo shared > /disk/file")?;
    // The shell ends with its container: with which code is chance.
    let _ = cluster.sh("empty", "other", "kill -TERM 1");
    cluster.wait_for(&["pod", "empty"], |p| status(p, "other")["restartCount"] == 1)?;
    assert_eq!(sh(cluster, "empty", "cat /disk/file")?, "shared", "outlives its container");
    let full = sh(cluster, "empty", "stat -fc %T /memory; dd if=/dev/zero of=/memory/x bs=1M count=3 2>&1 || true")?;
    assert!(full.starts_with("tmpfs") && full.contains("No space left"), "{full}");
    let uid = cluster.get(&["pod", "empty"])?["metadata"]["uid"].as_str().context("uid")?.to_owned();
    cluster.kubectl(&["delete", "pod", "empty"])?;
    let folder = cluster.data_dir().join("kubelet/pods").join(uid);
    let begin = Instant::now();
    while folder.exists() {
        ensure!(begin.elapsed() < PATIENCE, "{} is still there", folder.display());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn host_paths_are_checked(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let volumes = json!([
        {"name": "made", "hostPath": {"path": at("made"), "type": "DirectoryOrCreate"}},
        {"name": "file", "hostPath": {"path": at("file"), "type": "FileOrCreate"}},
        {"name": "device", "hostPath": {"path": "/dev/null", "type": "CharDevice"}},
    ]);
    let main = idle("main", json!({"volumeMounts": [
        {"name": "made", "mountPath": "/made"},
        {"name": "file", "mountPath": "/file"},
        {"name": "device", "mountPath": "/device"},
    ]}));
    ready(cluster, &pod("paths", json!([main]), json!({"volumes": volumes})))?;
    sh(cluster, "paths", "echo in > /made/x; echo in > /file; test -c /device")?;
    assert_eq!(fs::read_to_string(at("made/x"))?, "in\n");
    assert_eq!(fs::read_to_string(at("file"))?, "in\n");
    let bad = pod("badpath", json!([idle("main", json!({"volumeMounts": [
        {"name": "bad", "mountPath": "/bad"}]}))]),
        json!({"volumes": [{"name": "bad", "hostPath": {"path": at("file"), "type": "Directory"}}]}));
    apply(cluster, &bad)?;
    let text = format!("hostPath type check failed: {} is not a directory", at("file"));
    event(cluster, "badpath", "FailedMount", &text)?;
    let waiting = cluster.get(&["pod", "badpath"])?;
    assert_eq!(status(&waiting, "main")["state"]["waiting"]["reason"], "ContainerCreating");
    gone(cluster, &["paths", "badpath"])
}

fn sub_paths(cluster: &Cluster) -> Result<()> {
    apply(cluster, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sub"},
        "data": {"a": "A", "b": "B"}}))?;
    let main = idle("main", json!({
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [
            {"name": "cm", "mountPath": "/etc/one", "subPath": "a"},
            {"name": "disk", "mountPath": "/mine", "subPathExpr": "logs/$(POD)"},
            {"name": "disk", "mountPath": "/all", "readOnly": true},
        ],
    }));
    let volumes = json!([
        {"name": "cm", "configMap": {"name": "sub"}}, {"name": "disk", "emptyDir": {}}]);
    ready(cluster, &pod("sub", json!([main]), json!({"volumes": volumes})))?;
    let got = sh(cluster, "sub", "cat /etc/one; touch /mine/f; ls /all/logs/sub; touch /all/x 2>&1 || true")?;
    assert!(got.starts_with("Af\n") && got.contains("Read-only"), "{got}");
    // A link that leads out of the volume is not followed.
    let volumes = json!([{"name": "disk", "emptyDir": {}}]);
    let out = pod("out", json!([idle("main", json!({"volumeMounts":
            [{"name": "disk", "mountPath": "/x", "subPath": "link/passwd"}]}))]),
        json!({"volumes": volumes, "initContainers": [container("init", "ln -s /etc /disk/link",
            json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}))]}));
    apply(cluster, &out)?;
    let object = cluster.wait_for(&["pod", "out"], |p| {
        status(p, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    let message = status(&object, "main")["state"]["waiting"]["message"].to_string();
    assert!(message.contains("failed to prepare subPath for volumeMount"), "{message}");
    gone(cluster, &["sub", "out"])
}

fn an_image_is_a_volume(cluster: &Cluster) -> Result<()> {
    let main = idle("main", json!({"volumeMounts": [
        {"name": "image", "mountPath": "/image"},
        {"name": "image", "mountPath": "/part", "subPath": "etc"},
    ]}));
    let volumes = json!([{"name": "image", "image": {"reference": BUSYBOX, "pullPolicy": "IfNotPresent"}}]);
    ready(cluster, &pod("image", json!([main]), json!({"volumes": volumes})))?;
    let got = sh(cluster, "image", "ls /image/bin/busybox; head -1 /part/passwd; touch /image/x 2>&1 || true")?;
    assert!(got.starts_with("/image/bin/busybox\nroot:x:0:0"), "{got}");
    assert!(got.contains("Read-only"), "{got}");
    gone(cluster, &["image"])
}

fn condition(pod: &Value, kind: &str) -> String {
    pod["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["type"] == kind))
        .and_then(|c| c["status"].as_str())
        .unwrap_or("-")
        .to_owned()
}

fn readiness_comes_and_goes(cluster: &Cluster) -> Result<()> {
    let main = idle("main", json!({"readinessProbe":
        {"exec": {"command": ["cat", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1}}));
    apply(cluster, &pod("ready", json!([main]), json!({})))?;
    event(cluster, "ready", "Unhealthy", "Readiness probe failed: cat: can't open '/tmp/ok'")?;
    let object = cluster.get(&["pod", "ready"])?;
    assert_eq!((condition(&object, "Ready"), &status(&object, "main")["started"]), ("False".into(), &json!(true)));
    sh(cluster, "ready", "touch /tmp/ok")?;
    cluster.wait_ready("ready")?;
    sh(cluster, "ready", "rm /tmp/ok")?;
    cluster.wait_for(&["pod", "ready"], |p| condition(p, "Ready") == "False")?;
    gone(cluster, &["ready"])
}

fn a_failed_liveness_probe_restarts(cluster: &Cluster) -> Result<()> {
    let shell = "echo fine > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let main = container("main", shell, json!({
        "ports": [{"name": "web", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/index.html", "port": "web"},
            "periodSeconds": 1, "failureThreshold": 2}}));
    ready(cluster, &pod("live", json!([main]), json!({})))?;
    sh(cluster, "live", "rm /tmp/index.html")?;
    event(cluster, "live", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 404")?;
    event(cluster, "live", "Killing", "Container main failed liveness probe, will be restarted")?;
    cluster.wait_for(&["pod", "live"], |p| {
        status(p, "main")["restartCount"] == 1 && status(p, "main")["ready"] == true
    })?;
    gone(cluster, &["live"])
}

fn every_kind_of_probe(cluster: &Cluster) -> Result<()> {
    let node = cluster.get(&["nodes"])?;
    let node = node["items"][0]["status"]["addresses"][0]["address"].as_str().context("address")?.to_owned();
    let startup = json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 60});
    let never = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    let main = container("main", "sleep 2; touch /tmp/up; exec httpd -f -p 9000", json!({
        "startupProbe": startup,
        "readinessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1},
    }));
    // A liveness probe does not begin before the startup probe has succeeded.
    let held = idle("held", json!({
        "startupProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1000},
        "livenessProbe": never,
    }));
    let secure = idle("secure", json!({"readinessProbe": {"httpGet":
        {"scheme": "HTTPS", "host": node, "port": 6443, "path": "/readyz"}, "periodSeconds": 1}}));
    let grpc = container("grpc", "exec httpd -f -p 9001", json!({
        "readinessProbe": {"grpc": {"port": 9001}, "periodSeconds": 1}}));
    let begin = Instant::now();
    apply(cluster, &pod("kinds", json!([main, held, secure, grpc]), json!({})))?;
    let object = cluster.wait_for(&["pod", "kinds"], |p| {
        status(p, "main")["ready"] == true && status(p, "secure")["ready"] == true
    })?;
    ensure!(begin.elapsed() > Duration::from_secs(2), "ready before it was up");
    assert_eq!(status(&object, "held")["started"], false);
    assert_eq!(status(&object, "held")["restartCount"], 0);
    assert_eq!(status(&object, "grpc")["ready"], false);
    event(cluster, "kinds", "Unhealthy", "Startup probe failed: ")?;
    event(cluster, "kinds", "Unhealthy", "Readiness probe failed: ")?;
    gone(cluster, &["kinds"])
}

fn hooks_run(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volumes = json!([{"name": "host", "hostPath": {"path": folder.path()}}]);
    let mount = json!([{"name": "host", "mountPath": "/host"}]);
    let hook = |line: &str| json!({"exec": {"command": ["sh", "-c", line]}});
    let main = idle("main", json!({"volumeMounts": mount, "lifecycle": {
        "postStart": hook("echo started >> /host/log"),
        "preStop": hook("echo stopping >> /host/log"),
    }}));
    let slept = idle("slept", json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}));
    let object = pod("hooks", json!([main, slept]), json!({"volumes": volumes, "terminationGracePeriodSeconds": 10}));
    ready(cluster, &object)?;
    let begin = Instant::now();
    cluster.kubectl(&["delete", "pod", "hooks"])?;
    ensure!(begin.elapsed() > Duration::from_secs(1), "the sleep was left out");
    assert_eq!(fs::read_to_string(folder.path().join("log"))?, "started\nstopping\n");
    let bad = idle("main", json!({"lifecycle": {"postStart": hook("exit 3")}}));
    apply(cluster, &pod("badhook", json!([bad]), json!({})))?;
    event(cluster, "badhook", "FailedPostStartHook", "PostStartHook failed")?;
    cluster.wait_for(&["pod", "badhook"], |p| status(p, "main")["restartCount"].as_u64() >= Some(1))?;
    gone(cluster, &["badhook"])
}

fn init_containers_and_sidecars(cluster: &Cluster) -> Result<()> {
    let mount = json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]});
    let side = container("side", "trap 'exit 0' TERM; echo side >> /disk/log; sleep 100000 & wait",
        with(mount.clone(), json!({"restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["grep", "side", "/disk/log"]}, "periodSeconds": 1}})));
    let more = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "volumes": [{"name": "disk", "emptyDir": {}}],
        "initContainers": [
            container("first", "echo first >> /disk/log", mount.clone()),
            side,
            container("last", "echo last >> /disk/log", mount.clone()),
        ],
    });
    apply(cluster, &pod("side", json!([container("main", "echo main >> /disk/log; cat /disk/log", mount)]), more))?;
    let object = cluster.wait_for(&["pod", "side"], |p| p["status"]["phase"] == "Succeeded")?;
    assert_eq!(cluster.kubectl(&["logs", "side", "-c", "main"])?, "first\nside\nlast\nmain\n");
    assert_eq!(status(&object, "side")["state"]["terminated"]["exitCode"], 0, "{object:#}");
    assert_eq!(status(&object, "first")["state"]["terminated"]["reason"], "Completed");
    gone(cluster, &["side"])
}

fn a_failing_init_container(cluster: &Cluster) -> Result<()> {
    let more = json!({"initContainers": [container("bad", "exit 7", json!({}))]});
    apply(cluster, &pod("badinit", json!([idle("main", json!({}))]), more))?;
    let object = cluster.wait_for(&["pod", "badinit"], |p| {
        status(p, "bad")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    assert_eq!(status(&object, "bad")["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(status(&object, "main")["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(object["status"]["phase"], "Pending");
    let table = cluster.kubectl(&["get", "pod", "badinit"])?;
    assert!(table.contains("Init:CrashLoopBackOff"), "{table}");
    gone(cluster, &["badinit"])
}

fn kubectl_debug(cluster: &Cluster) -> Result<()> {
    ready(cluster, &pod("plain", json!([container("main", "exec sleep 98765", json!({}))]), json!({})))?;
    cluster.kubectl(&["debug", "plain", "--image", BUSYBOX, "--target", "main", "-c", "dbg",
        "--image-pull-policy=IfNotPresent", "--", "sleep", "100000"])?;
    let object = cluster.wait_for(&["pod", "plain"], |p| !status(p, "dbg")["state"]["running"].is_null())?;
    assert_eq!(status(&object, "main")["restartCount"], 0);
    let seen = cluster.sh("plain", "dbg", "ps -o args")?;
    assert!(seen.contains("sleep 98765"), "sees the target's processes:\n{seen}");
    gone(cluster, &["plain"])
}

fn users_and_groups(cluster: &Cluster) -> Result<()> {
    let main = idle("main", json!({}));
    let own = idle("own", json!({"securityContext": {"runAsUser": 1234, "runAsGroup": 5678}}));
    let common = json!({"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000]});
    let object = ready(cluster, &pod("users", json!([main, own]), json!({"securityContext": common})))?;
    assert_eq!(sh(cluster, "users", "id -u; id -g; id -G")?, "1000\n3000\n3000 4000");
    assert_eq!(cluster.sh("users", "own", "id -u; id -G")?, "1234\n5678 4000\n");
    let user = &status(&object, "main")["user"]["linux"];
    assert_eq!(user, &json!({"uid": 1000, "gid": 3000, "supplementalGroups": [3000, 4000]}));
    let root = idle("main", json!({"securityContext": {"runAsNonRoot": true}}));
    apply(cluster, &pod("noroot", json!([root]), json!({})))?;
    let object = cluster.wait_for(&["pod", "noroot"], |p| {
        status(p, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    let message = status(&object, "main")["state"]["waiting"]["message"].to_string();
    assert!(message.contains("container has runAsNonRoot and image will run as root"), "{message}");
    gone(cluster, &["users", "noroot"])
}

fn security_contexts(cluster: &Cluster) -> Result<()> {
    let of = |name: &str, context: Value| idle(name, json!({"securityContext": context}));
    let containers = json!([
        of("main", json!({})),
        of("readonly", json!({"readOnlyRootFilesystem": true})),
        of("caps", json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})),
        of("added", json!({"capabilities": {"add": ["NET_ADMIN"]}})),
        of("privileged", json!({"privileged": true})),
        of("seccomp", json!({"seccompProfile": {"type": "RuntimeDefault"}, "allowPrivilegeEscalation": false})),
    ]);
    ready(cluster, &pod("context", containers, json!({})))?;
    let fact = |container: &str, key: &str| -> Result<String> {
        let line = format!("grep ^{key}: /proc/1/status | cut -f2");
        Ok(cluster.sh("context", container, &line)?.trim().to_owned())
    };
    assert_eq!(fact("main", "CapEff")?, "00000000a80425fb", "the usual fourteen");
    assert_eq!(fact("caps", "CapBnd")?, "0000000000000400");
    assert_eq!(fact("added", "CapEff")?, "00000000a80435fb");
    let own = fs::read_to_string("/proc/1/status")?;
    let all = own.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).context("CapBnd")?;
    assert_eq!(fact("privileged", "CapEff")?, all);
    assert_eq!((fact("main", "Seccomp")?, fact("seccomp", "Seccomp")?), ("0".into(), "2".into()));
    assert_eq!((fact("main", "NoNewPrivs")?, fact("seccomp", "NoNewPrivs")?), ("0".into(), "1".into()));
    let line = "touch /x 2>&1 || true; touch /dev/shm/x && echo shm";
    let got = cluster.sh("context", "readonly", line)?;
    assert!(got.contains("Read-only") && got.contains("shm"), "{got}");
    let masked = cluster.sh("context", "main", "cat /proc/kcore 2>/dev/null | wc -c; echo 1 > /proc/sys/kernel/pid_max 2>&1 || true; ls /dev | wc -l")?;
    ensure!(masked.starts_with("0\n"), "/proc/kcore can be read: {masked}");
    let few: usize = masked.lines().last().unwrap_or_default().trim().parse()?;
    let many: usize = cluster.sh("context", "privileged", "ls /dev | wc -l")?.trim().parse()?;
    ensure!(many > few, "a privileged container sees the node's devices: {many} {few}");
    cluster.sh("context", "privileged", "mount -t tmpfs none /tmp && umount /tmp")?;
    ensure!(cluster.sh("context", "main", "mount -t tmpfs none /tmp").is_err(), "mounted");
    gone(cluster, &["context"])
}

fn sysctls(cluster: &Cluster) -> Result<()> {
    let of = |name: &str, value: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": value}]}});
    let safe = pod("safe", json!([idle("main", json!({}))]), of("kernel.shm_rmid_forced", "1"));
    ready(cluster, &safe)?;
    assert_eq!(sh(cluster, "safe", "cat /proc/sys/kernel/shm_rmid_forced")?, "1");
    gone(cluster, &["safe"])
}

fn namespaces_of_the_host(cluster: &Cluster) -> Result<()> {
    let more = json!({"hostNetwork": true, "hostPID": true, "hostIPC": true});
    let object = ready(cluster, &pod("host", json!([idle("main", json!({}))]), more))?;
    assert_eq!(object["status"]["podIP"], object["status"]["hostIP"]);
    for kind in ["net", "ipc", "pid"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let inside = sh(cluster, "host", &format!("readlink /proc/self/ns/{kind}"))?;
        assert_eq!(Path::new(&inside), host, "{kind}");
    }
    for kind in ["mnt", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let inside = sh(cluster, "host", &format!("readlink /proc/self/ns/{kind}"))?;
        ensure!(Path::new(&inside) != host || kind == "uts", "{kind} is the host's");
    }
    gone(cluster, &["host"])
}

fn a_shared_process_namespace(cluster: &Cluster) -> Result<()> {
    let containers = json!([idle("main", json!({})), container("other", "exec sleep 87654", json!({}))]);
    ready(cluster, &pod("shared", containers, json!({"shareProcessNamespace": true})))?;
    let seen = sh(cluster, "shared", "ps -o pid,args")?;
    assert!(seen.contains("sleep 87654"), "{seen}");
    let first = seen.lines().find(|l| l.trim_start().starts_with("1 ")).unwrap_or_default();
    assert!(first.contains("pause"), "the pause process is the first:\n{seen}");
    gone(cluster, &["shared"])
}

fn last_words(cluster: &Cluster) -> Result<()> {
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let containers = json!([
        container("file", "echo -n done > /dev/termination-log", json!({})),
        container("path", "echo -n there > /tmp/words", json!({"terminationMessagePath": "/tmp/words"})),
        container("log", "echo it broke; exit 2", fallback.clone()),
        container("fine", "echo all well", fallback),
        container("long", "head -c 10000 /dev/zero | tr '\\0' x > /dev/termination-log", json!({})),
    ]);
    apply(cluster, &pod("words", containers, json!({"restartPolicy": "Never"})))?;
    let object = cluster.wait_for(&["pod", "words"], |p| p["status"]["phase"] == "Failed")?;
    let words = |c: &str| status(&object, c)["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!((words("file"), words("path")), ("done".into(), "there".into()));
    assert_eq!((words("log"), words("fine")), ("it broke\n".into(), String::new()));
    assert_eq!(words("long").len(), 4096);
    assert_eq!(status(&object, "log")["state"]["terminated"]["reason"], "Error");
    gone(cluster, &["words"])
}

fn an_active_deadline(cluster: &Cluster) -> Result<()> {
    apply(cluster, &pod("late", json!([idle("main", json!({}))]), json!({"activeDeadlineSeconds": 1})))?;
    let object = cluster.wait_for(&["pod", "late"], |p| p["status"]["phase"] == "Failed")?;
    assert_eq!(object["status"]["reason"], "DeadlineExceeded");
    assert_eq!(object["status"]["message"], "Pod was active on the node longer than the specified deadline");
    gone(cluster, &["late"])
}

fn quota(cluster: &Cluster, pod: &str) -> Result<Value> {
    let trace: Value = serde_json::from_str(&cluster.knarr(["trace", "pod", pod, "-o", "json"])?)?;
    trace["runtime"]["containers"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["name"] == "main" && !c["process"].is_null()))
        .map(|c| c["process"]["cgroup"].clone())
        .context("no process")
}

fn resize_in_place(cluster: &Cluster) -> Result<()> {
    let main = idle("main", json!({
        "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
    }));
    let object = ready(cluster, &pod("resize", json!([main]), json!({})))?;
    assert_eq!(object["status"]["qosClass"], "Burstable");
    let seen = quota(cluster, "resize")?;
    assert_eq!(seen["cpu"]["quotaMicroseconds"], 20_000, "{seen}");
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"300m"}}}]}}"#;
    cluster.kubectl(&["patch", "pod", "resize", "--subresource", "resize", "-p", patch])?;
    let object = cluster.wait_for(&["pod", "resize"], |p| {
        status(p, "main")["resources"]["limits"]["cpu"] == "300m"
    })?;
    assert_eq!(status(&object, "main")["restartCount"], 0, "cpu needs no restart");
    let seen = quota(cluster, "resize")?;
    assert_eq!(seen["cpu"]["quotaMicroseconds"], 30_000, "{seen}");
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":"96Mi"}}}]}}"#;
    cluster.kubectl(&["patch", "pod", "resize", "--subresource", "resize", "-p", patch])?;
    cluster.wait_for(&["pod", "resize"], |p| {
        let s = status(p, "main");
        s["resources"]["limits"]["memory"] == "96Mi" && s["restartCount"] == 1 && s["ready"] == true
    })?;
    // More than the node has is refused.
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"900"},"limits":{"cpu":"900"}}}]}}"#;
    let refused = cluster.kubectl(&["patch", "pod", "resize", "--subresource", "resize", "-p", patch]);
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(text.contains("node didn't have enough allocatable resources: cpu"), "{text}");
    gone(cluster, &["resize"])
}

fn logs_rotate(cluster: &Cluster) -> Result<()> {
    let line = "yes 0123456789012345678901234567890123456789 | head -n 300000; echo end; sleep 100000";
    let object = ready(cluster, &pod("talk", json!([container("main", line, json!({}))]), json!({})))?;
    let uid = object["metadata"]["uid"].as_str().context("uid")?;
    let folder = cluster.data_dir().join(format!("logs/pods/default_talk_{uid}/main"));
    let begin = Instant::now();
    loop {
        let files: Vec<_> = fs::read_dir(&folder)?.flatten().map(|e| e.file_name()).collect();
        if files.len() > 1 {
            break;
        }
        if begin.elapsed() > PATIENCE {
            bail!("not rotated: {files:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // The flood may still go on when its first part is set aside.
    loop {
        let last = cluster.kubectl(&["logs", "talk", "--tail=1"])?;
        if last == "end\n" || last.is_empty() {
            break;
        }
        if begin.elapsed() > PATIENCE {
            bail!("the end is missing: {last}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    gone(cluster, &["talk"])
}
