//! The API through clients as they are, in process and over the network.

mod common;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
};
use knarr_apiserver::UserInfo;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

fn admin(h: &common::Harness) -> Client {
    h.server.client(UserInfo::admin())
}

fn of<T: serde::de::DeserializeOwned>(v: serde_json::Value) -> T {
    serde_json::from_value(v).expect("shape")
}

async fn account(c: &Client) {
    let api: Api<ServiceAccount> = Api::namespaced(c.clone(), "default");
    api.create(&PostParams::default(), &of(json!({"metadata": {"name": "default"}}))).await.expect("account");
}

fn pod(name: &str) -> Pod {
    of(json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}))
}

#[tokio::test]
async fn an_object_lives_its_life() {
    let h = common::start().await;
    let c = admin(&h);
    let api: Api<ConfigMap> = Api::namespaced(c, "default");
    let made = api.create(&PostParams::default(), &of(json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))).await.expect("created");
    let rv = made.metadata.resource_version.clone().expect("version");
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let e = api.create(&PostParams::default(), &of(json!({"metadata": {"name": "a"}}))).await.expect_err("taken");
    assert_eq!(e.to_string().contains("already exists"), true, "{e}");
    let mut stale = made.clone();
    let patched = api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"x": "y"}}))).await.expect("patched");
    assert_eq!(patched.data.as_ref().map(|d| d.len()), Some(2));
    stale.data = None;
    let e = api.replace("a", &PostParams::default(), &stale).await.expect_err("stale");
    assert!(e.to_string().contains("the object has been modified"), "{e}");
    let mut w = api.watch(&WatchParams::default(), &rv).await.expect("watch").boxed();
    match w.try_next().await.expect("event") {
        Some(WatchEvent::Modified(o)) => assert_eq!(o.data.map(|d| d.len()), Some(2)),
        other => panic!("{other:?}"),
    }
    api.delete("a", &DeleteParams::default()).await.expect("deleted");
    match w.try_next().await.expect("event") {
        Some(WatchEvent::Deleted(o)) => assert_eq!(o.metadata.name.as_deref(), Some("a")),
        other => panic!("{other:?}"),
    }
    assert!(api.get_opt("a").await.expect("answer").is_none());
    let bad = api.create(&PostParams::default(), &of(json!({"metadata": {"name": "A_b"}}))).await.expect_err("bad name");
    assert!(bad.to_string().contains("a lowercase RFC 1123 subdomain"), "{bad}");
}

#[tokio::test]
async fn pods_are_defaulted_bound_and_end_gracefully() {
    let h = common::start().await;
    let c = admin(&h);
    let api: Api<Pod> = Api::namespaced(c.clone(), "default");
    let e = api.create(&PostParams::default(), &pod("a")).await.expect_err("no account yet");
    assert!(e.to_string().contains("serviceaccount \"default\" not found"), "{e}");
    account(&c).await;
    let made = api.create(&PostParams::default(), &pod("a")).await.expect("created");
    let spec = made.spec.expect("spec");
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert!(spec.containers[0].volume_mounts.as_ref().is_some_and(|m| m[0].mount_path.ends_with("serviceaccount")));
    assert_eq!(spec.priority, Some(0));
    assert_eq!(spec.tolerations.map(|t| t.len()), Some(2));
    assert_eq!(made.status.and_then(|s| s.qos_class).as_deref(), Some("BestEffort"));
    let nodes: Api<Node> = Api::all(c.clone());
    nodes.create(&PostParams::default(), &of(json!({"metadata": {"name": "n1"}}))).await.expect("node");
    let b = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    let r = http::Request::post("/api/v1/namespaces/default/pods/a/binding").header("content-type", "application/json").body(b.to_string().into_bytes()).expect("request");
    let s: serde_json::Value = c.request(r).await.expect("bound");
    assert_eq!(s["status"], "Success");
    let bound = api.get("a").await.expect("pod");
    assert_eq!(bound.spec.as_ref().and_then(|s| s.node_name.as_deref()), Some("n1"));
    let on_node = api.list(&ListParams::default().fields("spec.nodeName=n1")).await.expect("list");
    assert_eq!(on_node.items.len(), 1);
    api.delete("a", &DeleteParams::default()).await.expect("marked");
    let ending = api.get("a").await.expect("still there");
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
    api.delete("a", &DeleteParams::default().grace_period(0)).await.expect("gone");
    assert!(api.get_opt("a").await.expect("answer").is_none());
    // No node runs it: it goes at once.
    api.create(&PostParams::default(), &pod("b")).await.expect("created");
    api.delete("b", &DeleteParams::default()).await.expect("deleted");
    assert!(api.get_opt("b").await.expect("answer").is_none());
}

#[tokio::test]
async fn lists_come_in_pages_of_one_version() {
    let h = common::start().await;
    let c = admin(&h);
    let api: Api<ConfigMap> = Api::namespaced(c, "default");
    for i in 0..10 {
        api.create(&PostParams::default(), &of(json!({"metadata": {"name": format!("m{i}"), "labels": {"odd": (i % 2 == 1).to_string()}}}))).await.expect("created");
    }
    let first = api.list(&ListParams::default().limit(4)).await.expect("page");
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (4, Some(6)));
    api.delete("m9", &DeleteParams::default()).await.expect("deleted");
    let token = first.metadata.continue_.clone().expect("token");
    let second = api.list(&ListParams::default().limit(10).continue_token(&token)).await.expect("page");
    assert_eq!(second.items.len(), 6, "as it was when the first page was read");
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(api.list(&ListParams::default().labels("odd=true")).await.expect("list").items.len(), 4);
}

#[tokio::test]
async fn a_streaming_list_ends_its_initial_part_with_a_bookmark() {
    let h = common::start().await;
    let api: Api<Namespace> = Api::all(admin(&h));
    let wp = WatchParams { send_initial_events: true, bookmarks: true, ..WatchParams::default() };
    let mut w = api.watch(&wp, "0").await.expect("watch").boxed();
    let mut names = 0;
    loop {
        match w.try_next().await.expect("event").expect("not over") {
            WatchEvent::Added(_) => names += 1,
            WatchEvent::Bookmark(b) => {
                assert_eq!(b.metadata.annotations.get("k8s.io/initial-events-end").map(String::as_str), Some("true"));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names, 4);
}

#[tokio::test]
async fn services_get_addresses_and_ports_and_keep_them() {
    let h = common::start().await;
    let c = admin(&h);
    let api: Api<Service> = Api::namespaced(c, "default");
    let k = api.get("kubernetes").await.expect("bootstrap");
    assert_eq!(k.spec.and_then(|s| s.cluster_ip).as_deref(), Some("10.96.0.1"));
    let s = api.create(&PostParams::default(), &of(json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}))).await.expect("made");
    let spec = s.spec.expect("spec");
    let ip = spec.cluster_ip.clone().expect("ip");
    assert!(ip.starts_with("10.96."));
    let port = spec.ports.as_ref().expect("ports")[0].node_port.expect("port");
    assert!((30000..=32767).contains(&port));
    let e = api.create(&PostParams::default(), &of(json!({"metadata": {"name": "t"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}))).await.expect_err("taken");
    assert!(e.to_string().contains("provided IP is already allocated"), "{e}");
    let p = api.patch("s", &PatchParams::default(), &Patch::Merge(json!({"spec": {"type": "ClusterIP"}}))).await.expect("patched");
    let spec = p.spec.expect("spec");
    assert_eq!((spec.cluster_ip, spec.ports.expect("ports")[0].node_port), (Some(ip), None));
    let h = api.create(&PostParams::default(), &of(json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None"}}))).await.expect("headless");
    assert_eq!(h.spec.and_then(|s| s.cluster_ip).as_deref(), Some("None"));
}

#[tokio::test]
async fn deployments_scale_and_keep_status_apart() {
    let h = common::start().await;
    let api: Api<Deployment> = Api::namespaced(admin(&h), "default");
    let d = of(json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}));
    let d = api.create(&PostParams::default(), &d).await.expect("made");
    assert_eq!(d.metadata.generation, Some(1));
    assert_eq!(d.spec.revision_history_limit, Some(10));
    let s = api.get_scale("d").await.expect("scale");
    assert_eq!(s.status.and_then(|s| s.selector).as_deref(), Some("a=b"));
    api.patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await.expect("scaled");
    let d = api.get("d").await.expect("get");
    assert_eq!((d.spec.replicas, d.metadata.generation), (Some(3), Some(2)));
    let d = api.patch_status("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 9}, "status": {"replicas": 2}}))).await.expect("status");
    assert_eq!((d.spec.replicas, d.status.and_then(|s| s.replicas)), (Some(3), Some(2)));
    let e = api.patch("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}}))).await.expect_err("immutable");
    assert!(e.to_string().contains("field is immutable"), "{e}");
}

#[tokio::test]
async fn a_namespace_ends_through_its_finalizer() {
    let h = common::start().await;
    let c = admin(&h);
    let api: Api<Namespace> = Api::all(c.clone());
    api.create(&PostParams::default(), &of(json!({"metadata": {"name": "n"}}))).await.expect("made");
    api.delete("n", &DeleteParams::default()).await.expect("marked");
    let n = api.get("n").await.expect("there");
    assert_eq!(n.status.and_then(|s| s.phase).as_deref(), Some("Terminating"));
    let maps: Api<ConfigMap> = Api::namespaced(c.clone(), "n");
    let e = maps.create(&PostParams::default(), &of(json!({"metadata": {"name": "a"}}))).await.expect_err("ends");
    assert!(e.to_string().contains("because it is being terminated"), "{e}");
    let mut n = serde_json::to_value(api.get("n").await.expect("there")).expect("json");
    n["spec"]["finalizers"] = json!([]);
    let r = http::Request::put("/api/v1/namespaces/n/finalize").header("content-type", "application/json").body(n.to_string().into_bytes()).expect("request");
    let _: serde_json::Value = c.request(r).await.expect("finalized");
    assert!(api.get_opt("n").await.expect("answer").is_none());
}

#[tokio::test]
async fn users_may_do_what_roles_say() {
    let h = common::start().await;
    let nobody = h.server.client(UserInfo::new("jane", ["devs"]));
    let maps: Api<ConfigMap> = Api::namespaced(nobody.clone(), "default");
    let e = maps.list(&ListParams::default()).await.expect_err("forbidden");
    assert!(e.to_string().contains("configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""), "{e}");
    let c = admin(&h);
    use k8s_openapi::api::rbac::v1::RoleBinding;
    let rb: Api<RoleBinding> = Api::namespaced(c, "default");
    rb.create(&PostParams::default(), &of(json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]}))).await.expect("bound");
    for _ in 0..50 {
        if maps.list(&ListParams::default()).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    maps.list(&ListParams::default()).await.expect("allowed by an aggregated role");
    let other: Api<ConfigMap> = Api::namespaced(nobody, "kube-system");
    other.list(&ListParams::default()).await.expect_err("only in its namespace");
}

async fn raw(c: &Client, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let r = http::Request::builder().method(method).uri(path).header("content-type", "application/json").body(kube::client::Body::from(body.as_bytes().to_vec())).expect("request");
    let r = c.send(r).await.expect("an answer");
    let code = r.status().as_u16();
    let bytes = r.into_body().collect_bytes().await.expect("body");
    (code, serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::String(String::from_utf8_lossy(&bytes).into_owned())))
}

#[tokio::test]
async fn wrong_requests_are_told_so_and_harm_nothing() {
    let h = common::start().await;
    let c = admin(&h);
    let maps = "/api/v1/namespaces/default/configmaps";
    for (method, path, body, code, reason) in [
        ("POST", maps, "{bad", 400, "BadRequest"),
        ("POST", maps, "[]", 400, "BadRequest"),
        ("POST", maps, "", 400, "BadRequest"),
        ("POST", maps, r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#, 400, "BadRequest"),
        ("POST", maps, r#"{"metadata":{"name":"a","namespace":"other"}}"#, 400, "BadRequest"),
        ("POST", maps, r#"{"metadata":{}}"#, 422, "Invalid"),
        ("POST", maps, r#"{"metadata":[]}"#, 400, "BadRequest"),
        ("POST", "/api/v1/namespaces/nowhere/configmaps", r#"{"metadata":{"name":"a"}}"#, 404, "NotFound"),
        ("GET", "/api/v1/nonsense", "", 404, "NotFound"),
        ("GET", "/apis/none.example/v1/x", "", 404, "NotFound"),
        ("DELETE", "/api/v1/namespaces", "", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/namespaces/kube-system", "", 403, "Forbidden"),
        ("GET", "/api/v1/pods?continue=!!", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?resourceVersion=x", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods?labelSelector=%3D%3D", "", 400, "BadRequest"),
        ("PATCH", "/api/v1/namespaces/default", "{}", 415, "UnsupportedMediaType"),
    ] {
        let (got, v) = raw(&c, method, path, body).await;
        assert_eq!((got, v["reason"].as_str()), (code, Some(reason)), "{method} {path} {body}: {v}");
    }
    let big = format!(r#"{{"metadata":{{"name":"a"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    assert_eq!(raw(&c, "POST", maps, &big).await.0, 413);
    assert_eq!(raw(&c, "GET", "/readyz", "").await.0, 200);
}

#[tokio::test]
async fn tokens_of_service_accounts_name_them_until_they_are_gone() {
    let h = common::start().await;
    let c = admin(&h);
    account(&c).await;
    let (code, t) = raw(&c, "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", r#"{"spec":{"audiences":["a"]}}"#).await;
    assert_eq!(code, 201);
    let token = t["status"]["token"].as_str().expect("token");
    let review = |aud: &str| json!({"spec": {"token": token, "audiences": [aud]}}).to_string();
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, r) = raw(&c, "POST", path, &review("a")).await;
    assert_eq!(r["status"]["user"]["username"], "system:serviceaccount:default:default", "{r}");
    let groups = r["status"]["user"]["groups"].to_string();
    assert!(groups.contains("system:serviceaccounts:default") && groups.contains("system:authenticated"), "{groups}");
    let (_, r) = raw(&c, "POST", path, &review("b")).await;
    assert_ne!(r["status"]["authenticated"], true, "another audience");
    let api: Api<ServiceAccount> = Api::namespaced(c.clone(), "default");
    api.delete("default", &DeleteParams::default()).await.expect("deleted");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let (_, r) = raw(&c, "POST", path, &review("a")).await;
    assert_ne!(r["status"]["authenticated"], true, "the account is gone");
}

#[tokio::test]
async fn a_pod_is_reached_through_its_proxy() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let h = common::start().await;
    let c = admin(&h);
    account(&c).await;
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = l.local_addr().expect("address").port();
    tokio::spawn(async move {
        let (mut s, _) = l.accept().await.expect("a caller");
        let mut buf = [0; 4096];
        let n = s.read(&mut buf).await.expect("request");
        let line = String::from_utf8_lossy(&buf[..n]).lines().next().unwrap_or("").to_owned();
        let _ = s.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len()).as_bytes()).await;
    });
    let api: Api<Pod> = Api::namespaced(c.clone(), "default");
    api.create(&PostParams::default(), &pod("p")).await.expect("made");
    api.patch_status("p", &PatchParams::default(), &Patch::Merge(json!({"status": {"podIP": "127.0.0.1"}}))).await.expect("status");
    let (code, v) = raw(&c, "GET", &format!("/api/v1/namespaces/default/pods/p:{port}/proxy/hello?x=1"), "").await;
    assert_eq!((code, v.as_str()), (200, Some("GET /hello?x=1 HTTP/1.1")));
}

#[tokio::test]
async fn applied_fields_have_owners() {
    let h = common::start().await;
    let api: Api<ConfigMap> = Api::namespaced(admin(&h), "default");
    let cm = |v: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": v}});
    api.patch("a", &PatchParams::apply("one"), &Patch::Apply(cm("1"))).await.expect("created");
    let e = api.patch("a", &PatchParams::apply("two"), &Patch::Apply(cm("2"))).await.expect_err("owned");
    assert!(e.to_string().contains("conflict with \"one\": .data.k"), "{e}");
    let o = api.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(cm("2"))).await.expect("forced");
    assert_eq!(o.metadata.managed_fields.map(|m| m.len()), Some(1));
}

#[tokio::test]
async fn a_second_start_over_the_same_store_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut versions = Vec::new();
    for _ in 0..2 {
        let store = knarr_storage::open_embedded(dir.path()).await.expect("store");
        let h = common::start_over(store).await;
        let api: Api<Namespace> = Api::all(admin(&h));
        versions.push(api.list(&ListParams::default()).await.expect("list").items.into_iter().map(|n| (n.metadata.uid, n.metadata.resource_version)).collect::<Vec<_>>());
        h.server.shutdown().await;
    }
    assert_eq!(versions[0], versions[1]);
}

#[tokio::test]
async fn what_is_stored_can_be_labelled() {
    let h = common::start().await;
    let c = h.server.client(knarr_apiserver::UserInfo::admin());
    let spec = json!({"serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    let send = |method: &'static str, path: String, media: &'static str, body: serde_json::Value| {
        let c = c.clone();
        async move {
            let r = http::Request::builder().method(method).uri(path).header("content-type", media).body(kube::client::Body::from(body.to_string().into_bytes())).expect("request");
            c.send(r).await.expect("an answer").status().as_u16()
        }
    };
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": spec});
    assert_eq!(send("POST", sets.into(), "application/json", set).await, 201);
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(send("PATCH", format!("{sets}/s"), "application/merge-patch+json", labels).await, 200);
}
