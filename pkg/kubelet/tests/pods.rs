//! Pods through the whole kubelet, between a pretended API server and a pretended runtime.
#![allow(clippy::unwrap_used)]
mod common;

use std::time::{Duration, Instant};

use common::{Bench, condition, phase, ready};
use serde_json::json;

fn one() -> serde_json::Value {
    json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_goes() {
    let b = Bench::new().await;
    let _k = b.start();
    b.api
        .wait("/api/v1/nodes/node1", "node ready", |n| {
            n["status"]["conditions"].as_array().is_some_and(|c| {
                c.iter()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True")
            })
        })
        .await;
    b.api
        .wait(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node1",
            "lease",
            |_| true,
        )
        .await;
    let begun = Instant::now();
    let path = b.pod("p", one());
    let p = b.api.wait(&path, "ready", ready).await;
    println!("create → ready {:?}", begun.elapsed());
    assert_eq!(phase(&p), "Running");
    let s = &p["status"];
    assert_eq!(s["podIP"], "10.0.0.1");
    assert_eq!(s["hostIP"], "192.168.7.1");
    assert_eq!(s["qosClass"], "BestEffort");
    assert_eq!(s["observedGeneration"], 1);
    let c = &s["containerStatuses"][0];
    assert!(c["containerID"].as_str().unwrap().starts_with("fake://ctr"));
    assert_eq!(c["started"], true);
    assert!(c["state"]["running"]["startedAt"].is_string());
    for t in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&p, t)["status"], "True", "{t}");
    }
    let hosts = std::fs::read_to_string(
        b.config()
            .pod_dir(p["metadata"]["uid"].as_str().unwrap())
            .join("etc-hosts"),
    )
    .unwrap();
    assert!(
        hosts.starts_with("# Kubernetes-managed hosts file.\n"),
        "{hosts}"
    );
    let begun = Instant::now();
    b.delete(&path, 30);
    b.api.wait_gone(&path).await;
    println!("delete → gone {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(500));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let s = b.cri.state.lock().unwrap();
    assert!(s.sandboxes.is_empty() && s.containers.is_empty());
    assert!(
        std::fs::read_dir(b.config().pods_dir())
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_backs_off() {
    let b = Bench::new().await;
    b.cri.state.lock().unwrap().ends_with.insert("c".into(), 3);
    let _k = b.start();
    let path = b.pod("p", one());
    let p = b
        .api
        .wait(&path, "back-off", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let c = &p["status"]["containerStatuses"][0];
    assert_eq!(c["restartCount"], 1);
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(c["lastState"]["terminated"]["reason"], "Error");
    let m = c["state"]["waiting"]["message"].as_str().unwrap();
    assert!(
        m.starts_with("back-off 10s restarting failed container=c pod=p_ns("),
        "{m}"
    );
    assert_eq!(phase(&p), "Running");
    assert_eq!(condition(&p, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(
        condition(&p, "Ready")["message"],
        "containers with unready status: [c]"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_and_sidecars_go_in_order() {
    let b = Bench::new().await;
    b.cri.state.lock().unwrap().registry.insert("img".into());
    let _k = b.start();
    let path = b.pod("p", json!({
        "initContainers": [
            {"name": "i1", "image": "img", "imagePullPolicy": "IfNotPresent"},
            {"name": "side", "image": "img", "restartPolicy": "Always", "imagePullPolicy": "IfNotPresent",
             "startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1}},
        ],
        "containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent"}]
    }));
    let p = b
        .api
        .wait(&path, "i1 runs", |p| {
            p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(phase(&p), "Pending");
    assert_eq!(
        condition(&p, "Initialized")["message"],
        "containers with incomplete status: [i1 side]"
    );
    assert_eq!(
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    b.cri.exit("i1", 0);
    let p = b.api.wait(&path, "ready", ready).await;
    let i = &p["status"]["initContainerStatuses"];
    assert_eq!(i[0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(i[0]["ready"], true);
    assert_eq!(i[1]["started"], true);
    let calls = b.cri.state.lock().unwrap().calls.clone();
    let starts: Vec<_> = calls.iter().filter(|c| c.starts_with("start ")).collect();
    assert_eq!(starts, ["start i1", "start side", "start c"]);
    b.delete(&path, 5);
    b.api.wait_gone(&path).await;
    let calls = b.cri.state.lock().unwrap().calls.clone();
    let stops: Vec<_> = calls
        .iter()
        .filter(|c| c.starts_with("stop c") || c.starts_with("stop side"))
        .collect();
    assert_eq!(stops, ["stop c 5", "stop side 5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_never_restarts_ends() {
    let b = Bench::new().await;
    let _k = b.start();
    for (name, code, end) in [("good", 0, "Succeeded"), ("bad", 7, "Failed")] {
        b.cri
            .state
            .lock()
            .unwrap()
            .ends_with
            .insert(name.into(), code);
        let path = b.pod(
            name,
            json!({"restartPolicy": "Never", "containers":
            [{"name": name, "image": "img", "imagePullPolicy": "Never"}]}),
        );
        let p = b.api.wait(&path, end, |p| phase(p) == end).await;
        let t = &p["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(t["exitCode"], code);
        assert_eq!(t["reason"], if code == 0 { "Completed" } else { "Error" });
        let reason = if code == 0 {
            "PodCompleted"
        } else {
            "PodFailed"
        };
        assert_eq!(condition(&p, "Ready")["reason"], reason);
        assert!(p["status"]["podIP"].is_string());
        b.delete(&path, 0);
        b.api.wait_gone(&path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_fails_fast_and_mends() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod(
        "p",
        json!({"containers": [{"name": "c", "image": "none:1"}]}),
    );
    b.api
        .wait(&path, "ErrImagePull", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    let p = b
        .api
        .wait(&path, "ImagePullBackOff", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
    assert_eq!(phase(&p), "Pending");
    // a changed image is tried at once
    b.api.patch(&path, &json!({"spec": {"containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent"}]}}));
    b.api.wait(&path, "ready", ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_kubelet_adopts_what_runs() {
    let b = Bench::new().await;
    let k = b.start();
    let path = b.pod("p", one());
    let p = b.api.wait(&path, "ready", ready).await;
    let id = p["status"]["containerStatuses"][0]["containerID"].clone();
    k.kill().await;
    let k = b.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let q = b.api.get(&path).unwrap();
    assert_eq!(q["status"]["containerStatuses"][0]["containerID"], id);
    assert_eq!(q["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(q["status"], p["status"], "nothing changed");
    k.kill().await;
    // the run folder is lost: made again
    b.cri.forget();
    let _k = b.start();
    let q = b
        .api
        .wait(&path, "made again", |p| {
            ready(p) && p["status"]["containerStatuses"][0]["containerID"] != id
        })
        .await;
    assert_eq!(q["status"]["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_removed() {
    let b = Bench::new().await;
    let k = b.start();
    let path = b.pod("p", one());
    b.api.wait(&path, "ready", ready).await;
    k.kill().await;
    b.api.remove(&path);
    let _k = b.start();
    for _ in 0..100 {
        if b.cri.state.lock().unwrap().sandboxes.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the orphan stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_environment_come_from_the_api_and_follow_it() {
    let b = Bench::new().await;
    let cm = "/api/v1/namespaces/ns/configmaps/cm";
    b.api
        .put(cm, json!({"kind": "ConfigMap", "data": {"k": "one"}}));
    b.api.put("/api/v1/namespaces/default/services/kubernetes", json!({"kind": "Service", "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443, "name": "https"}]}}));
    let _k = b.start();
    let path = b.pod("p", json!({
        "serviceAccountName": "sa",
        "volumes": [
            {"name": "v", "configMap": {"name": "cm"}},
            {"name": "e", "emptyDir": {"medium": "Memory"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
        ],
        "containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "B", "value": "<$(A)>"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "command": ["echo", "$(B)"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/one", "subPath": "k"},
                {"name": "t", "mountPath": "/t"}, {"name": "e", "mountPath": "/e"}]}]
    }));
    b.api.wait(&path, "ready", ready).await;
    let c = b.cri.find("c").unwrap().config;
    let env = |n: &str| {
        c.envs
            .iter()
            .find(|e| e.key == n)
            .map(|e| String::from_utf8(e.value.to_vec()).unwrap())
    };
    assert_eq!(env("B").as_deref(), Some("<one>"));
    assert_eq!(env("IP").as_deref(), Some("10.0.0.1"));
    assert_eq!(env("KUBERNETES_SERVICE_HOST").as_deref(), Some("10.96.0.1"));
    assert_eq!(c.command, ["echo", "<one>"]);
    let host = |at: &str| {
        c.mounts
            .iter()
            .find(|m| m.container_path == at)
            .unwrap()
            .host_path
            .clone()
    };
    assert_eq!(
        std::fs::read_to_string(format!("{}/k", host("/v"))).unwrap(),
        "one"
    );
    assert_eq!(std::fs::read_to_string(host("/one")).unwrap(), "one");
    assert_eq!(
        std::fs::read_to_string(format!("{}/token", host("/t"))).unwrap(),
        "a-token"
    );
    assert_eq!(
        std::fs::read_to_string(format!("{}/name", host("/t"))).unwrap(),
        "p"
    );
    b.api
        .put(cm, json!({"kind": "ConfigMap", "data": {"k": "two"}}));
    for _ in 0..100 {
        if std::fs::read_to_string(format!("{}/k", host("/v"))).unwrap() == "two" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        std::fs::read_to_string(format!("{}/k", host("/v"))).unwrap(),
        "two"
    );
    b.delete(&path, 1);
    b.api.wait_gone(&path).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        std::fs::read_dir(b.config().pods_dir())
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_source_is_waited_for() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod(
        "p",
        json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent",
        "envFrom": [{"configMapRef": {"name": "cm"}}]}]}),
    );
    let p = b
        .api
        .wait(&path, "config error", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(
        p["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "configmap \"cm\" not found"
    );
    b.api.put(
        "/api/v1/namespaces/ns/configmaps/cm",
        json!({"kind": "ConfigMap", "data": {"k": "one"}}),
    );
    b.api.wait(&path, "ready", ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_kill_and_unready() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod("p", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent",
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": {"exec": {"command": ["live"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    b.api.wait(&path, "ready", ready).await;
    b.cri.state.lock().unwrap().exec.insert("ready".into(), 1);
    b.api
        .wait(&path, "unready", |p| {
            !ready(p) && p["status"]["containerStatuses"][0]["restartCount"] == 0
        })
        .await;
    b.cri.state.lock().unwrap().exec.insert("live".into(), 1);
    b.api
        .wait(&path, "restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    let events = b.api.all("/events/");
    let has = |m: &str| {
        events
            .iter()
            .any(|e| e["message"].as_str().is_some_and(|t| t.starts_with(m)))
    };
    assert!(has("Container c failed liveness probe, will be restarted"));
    assert!(has("Readiness probe failed: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sandbox_is_replaced() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod("p", one());
    let p = b.api.wait(&path, "ready", ready).await;
    let ip = p["status"]["podIP"].clone();
    {
        let mut s = b.cri.state.lock().unwrap();
        for x in s.sandboxes.values_mut() {
            x.1.state = 1;
        }
    }
    b.cri.exit("c", 137);
    let p = b
        .api
        .wait(&path, "ready again", |p| {
            ready(p) && p["status"]["podIP"] != ip
        })
        .await;
    assert_eq!(p["status"]["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_fails_the_pod() {
    let b = Bench::new().await;
    let _k = b.start();
    let mut spec = one();
    spec["activeDeadlineSeconds"] = 1.into();
    let path = b.pod("p", spec);
    let p = b.api.wait(&path, "failed", |p| phase(p) == "Failed").await;
    assert_eq!(p["status"]["reason"], "DeadlineExceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_host_port_fails_the_pod() {
    let b = Bench::new().await;
    let _k = b.start();
    let spec = json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 1, "hostPort": 81}]}]});
    let a = b.pod("a", spec.clone());
    b.api.wait(&a, "ready", ready).await;
    let second = b.pod("b", spec);
    let p = b
        .api
        .wait(&second, "failed", |p| phase(p) == "Failed")
        .await;
    assert_eq!(p["status"]["reason"], "NodePorts");
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_need_no_server_and_are_mirrored_with_one() {
    let b = Bench::new().await;
    let mut cfg = b.config();
    let dir = b.dir.path().join("manifests");
    cfg.manifests = Some(dir.clone());
    let k = b.start_with(cfg.clone(), None);
    for _ in 0..100 {
        if dir.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::write(dir.join("web.yaml"), "kind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: w, image: img, imagePullPolicy: Never}]}\n").unwrap();
    let mut id = String::new();
    for _ in 0..200 {
        if let Some(c) = b.cri.find("w") {
            id = c.status.id;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!id.is_empty(), "runs without a server");
    tokio::time::sleep(Duration::from_millis(100)).await;
    k.kill().await;
    let _k = b.start_with(cfg, Some(b.api.client()));
    let mirror = "/api/v1/namespaces/default/pods/web-node1";
    let p = b.api.wait(mirror, "mirrored", ready).await;
    assert_eq!(
        p["status"]["containerStatuses"][0]["containerID"],
        format!("fake://{id}"),
        "adopted"
    );
    assert!(p["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    b.api.remove(mirror);
    b.api.wait(mirror, "mirrored again", ready).await;
    std::fs::remove_file(dir.join("web.yaml")).unwrap();
    b.api.wait_gone(mirror).await;
    for _ in 0..100 {
        if b.cri.state.lock().unwrap().sandboxes.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_change_in_place() {
    let b = Bench::new().await;
    let _k = b.start();
    let with = |cpu: &str| {
        json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "Never",
        "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]})
    };
    let path = b.pod("p", with("100m"));
    let p = b.api.wait(&path, "ready", ready).await;
    assert_eq!(
        p["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"],
        "100m"
    );
    b.api.patch(&path, &json!({"spec": with("200m")}));
    let p = b
        .api
        .wait(&path, "resized", |p| {
            p["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"] == "200m"
                && p["status"]["containerStatuses"][0]["allocatedResources"]["cpu"] == "200m"
        })
        .await;
    assert_eq!(p["status"]["containerStatuses"][0]["restartCount"], 0);
    let r = b
        .cri
        .find("c")
        .unwrap()
        .config
        .linux
        .unwrap()
        .resources
        .unwrap();
    assert_eq!((r.cpu_quota, r.cpu_shares), (20_000, 204));
    b.api.patch(&path, &json!({"spec": with("1000")}));
    let p = b
        .api
        .wait(&path, "refused", |p| {
            condition(p, "PodResizePending")["reason"] == "Infeasible"
        })
        .await;
    assert_eq!(
        p["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"],
        "200m"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_keeps_the_object_but_not_the_containers() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod("p", one());
    b.api.wait(&path, "ready", ready).await;
    b.api
        .patch(&path, &json!({"metadata": {"finalizers": ["x/y"]}}));
    b.delete(&path, 1);
    let p = b.api.wait(&path, "failed", |p| phase(p) == "Failed").await;
    assert_eq!(
        p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        143
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    let v = b.api.get(&path).unwrap()["metadata"]["resourceVersion"].clone();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        b.api.get(&path).unwrap()["metadata"]["resourceVersion"],
        v,
        "quiet"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_in_the_container() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod("p", json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "Never",
        "lifecycle": {"postStart": {"exec": {"command": ["after", "start"]}}, "preStop": {"exec": {"command": ["before", "stop"]}}}}]}));
    b.api.wait(&path, "ready", ready).await;
    b.delete(&path, 5);
    b.api.wait_gone(&path).await;
    assert_eq!(
        b.cri.state.lock().unwrap().execed,
        ["after start", "before stop"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_container_joins() {
    let b = Bench::new().await;
    let _k = b.start();
    let path = b.pod("p", one());
    b.api.wait(&path, "ready", ready).await;
    b.api.patch(&path, &json!({"spec": {"ephemeralContainers": [{"name": "dbg", "image": "img", "imagePullPolicy": "Never",
        "stdin": true, "tty": true, "targetContainerName": "c"}]}}));
    let p = b
        .api
        .wait(&path, "runs", |p| {
            p["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert!(ready(&p));
    let config = b.cri.find("dbg").unwrap().config;
    assert!(config.stdin && config.tty);
    let ns = config
        .linux
        .unwrap()
        .security_context
        .unwrap()
        .namespace_options
        .unwrap();
    assert_eq!(ns.target_id, b.cri.find("c").unwrap().status.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_at_once() {
    let b = Bench::new().await;
    let _k = b.start();
    b.api.wait("/api/v1/nodes/node1", "node", |_| true).await;
    let begun = Instant::now();
    let spec = json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "Never"}]});
    let paths: Vec<String> = (0..50)
        .map(|i| b.pod(&format!("p{i}"), spec.clone()))
        .collect();
    for p in &paths {
        b.api.wait(p, "ready", ready).await;
    }
    println!("50 pods ready in {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_have_users_of_their_own() {
    let b = Bench::new().await;
    b.cri.state.lock().unwrap().users = true;
    let _k = b.start();
    b.api.wait("/api/v1/nodes/node1", "the runtime's features", |n| {
        n["status"]["runtimeHandlers"] == json!([{"name": "", "features": {"recursiveReadOnlyMounts": true, "userNamespaces": true}}])
    }).await;
    let mut spec = one();
    spec["hostUsers"] = json!(false);
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let mut firsts = Vec::new();
    for name in ["a", "b"] {
        let path = b.pod(name, spec.clone());
        b.api.wait(&path, "ready", ready).await;
        let s = b.cri.state.lock().unwrap();
        let (id, config) = s
            .sandboxes
            .iter()
            .find_map(|(id, (c, _))| {
                (c.metadata.as_ref()?.name == name).then(|| (id.clone(), c.clone()))
            })
            .unwrap();
        let users = config
            .linux
            .unwrap()
            .security_context
            .unwrap()
            .namespace_options
            .unwrap()
            .userns_options
            .unwrap();
        assert_eq!(users.mode, knarr_cri_api::v1::NamespaceMode::Pod as i32);
        assert_eq!(
            (users.uids[0].container_id, users.uids[0].length),
            (0, 65536)
        );
        assert_eq!(users.uids, users.gids);
        let c = s.containers.values().find(|c| c.sandbox == id).unwrap();
        let own = c
            .config
            .linux
            .as_ref()
            .unwrap()
            .security_context
            .as_ref()
            .unwrap();
        assert_eq!(
            own.namespace_options
                .as_ref()
                .unwrap()
                .userns_options
                .as_ref(),
            Some(&users)
        );
        // Also the files that the kubelet itself adds.
        assert!(c.config.mounts.len() >= 3, "{:?}", c.config.mounts);
        assert!(
            c.config
                .mounts
                .iter()
                .all(|m| m.uid_mappings == users.uids && m.gid_mappings == users.gids)
        );
        firsts.push(users.uids[0].host_id);
    }
    assert_eq!(firsts, [65536, 131_072]);
    let path = b.pod("host", one());
    b.api.wait(&path, "ready", ready).await;
    {
        let s = b.cri.state.lock().unwrap();
        let c = s
            .containers
            .values()
            .find(|c| c.config.labels["io.kubernetes.pod.name"] == "host")
            .unwrap();
        assert!(c.config.mounts.iter().all(|m| m.uid_mappings.is_empty()));
    }
    // A runtime that cannot is not asked to.
    b.cri.state.lock().unwrap().users = false;
    b.pod("c", spec);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let s = b.cri.state.lock().unwrap();
    assert!(
        !s.sandboxes
            .values()
            .any(|(c, _)| c.metadata.as_ref().unwrap().name == "c")
    );
}
