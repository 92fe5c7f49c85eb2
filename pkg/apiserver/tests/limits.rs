//! What namespaces and budgets allow: LimitRanger, ResourceQuota, eviction.

mod common;

use http::Request;
use knarr_apiserver::UserInfo;
use kube::Client;
use serde_json::{Value, json};

async fn call(c: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", media).body(body.to_string().into_bytes()).expect("request");
    match c.request_text(request).await {
        Ok(t) => (200, serde_json::from_str(&t).unwrap_or(Value::String(t))),
        Err(kube::Error::Api(s)) => (s.code, json!({"message": s.message, "reason": s.reason})),
        Err(e) => panic!("{e}"),
    }
}

const NS: &str = "/api/v1/namespaces/default";

async fn begin() -> (common::Harness, Client) {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let (code, v) = call(&c, "POST", &format!("{NS}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await;
    assert_eq!(code, 200, "{v}");
    (h, c)
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "busybox", "resources": resources}]}})
}

#[tokio::test]
async fn a_limit_range_fills_in_and_refuses() {
    let (_h, c) = begin().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "64Mi"}, "defaultRequest": {"memory": "32Mi"}, "max": {"memory": "128Mi"}}]}});
    assert_eq!(call(&c, "POST", &format!("{NS}/limitranges"), &range).await.0, 200);
    let (code, v) = call(&c, "POST", &format!("{NS}/pods"), &pod("a", json!({}))).await;
    assert_eq!((code, &v["spec"]["containers"][0]["resources"]), (200, &json!({"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi"}})), "{v}");
    let (code, v) = call(&c, "POST", &format!("{NS}/pods"), &pod("b", json!({"limits": {"memory": "1Gi"}}))).await;
    assert_eq!((code, v["message"].as_str()), (403, Some(r#"pods "b" is forbidden: maximum memory usage per Container is 128Mi, but limit is 1Gi"#)));
}

#[tokio::test]
async fn a_quota_ends() {
    let (_h, c) = begin().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    assert_eq!(call(&c, "POST", &format!("{NS}/resourcequotas"), &quota).await.0, 200);
    let status = json!({"status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}});
    assert_eq!(call(&c, "PATCH", &format!("{NS}/resourcequotas/q/status"), &status).await.0, 200);
    assert_eq!(call(&c, "POST", &format!("{NS}/pods"), &pod("a", json!({}))).await.0, 200);
    let (code, v) = call(&c, "POST", &format!("{NS}/pods"), &pod("b", json!({}))).await;
    assert_eq!((code, v["message"].as_str()), (403, Some(r#"pods "b" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"#)));
}

#[tokio::test]
async fn a_budget_stands_before_eviction() {
    let (_h, c) = begin().await;
    for name in ["a", "b"] {
        assert_eq!(call(&c, "POST", &format!("{NS}/pods"), &pod(name, json!({}))).await.0, 200);
        let bound = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
        assert_eq!(call(&c, "POST", &format!("{NS}/pods/{name}/binding"), &bound).await.0, 200);
        let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(call(&c, "PATCH", &format!("{NS}/pods/{name}/status"), &running).await.0, 200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "p"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    assert_eq!(call(&c, "POST", budgets, &budget).await.0, 200);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    assert_eq!(call(&c, "PATCH", &format!("{budgets}/p/status"), &status).await.0, 200);
    let evict = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let mut other = evict("a");
    other["deleteOptions"] = json!({"preconditions": {"uid": "other"}});
    let (code, v) = call(&c, "POST", &format!("{NS}/pods/a/eviction"), &other).await;
    assert_eq!(code, 409, "{v}");
    let (code, v) = call(&c, "POST", &format!("{NS}/pods/a/eviction"), &evict("a")).await;
    assert_eq!(code, 200, "{v}");
    let (_, v) = call(&c, "GET", &format!("{NS}/pods/a"), &Value::Null).await;
    let disrupted = v["status"]["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == "DisruptionTarget"));
    assert_eq!(disrupted.map(|c| (c["status"].as_str(), c["reason"].as_str())), Some((Some("True"), Some("EvictionByEvictionAPI"))), "{v}");
    let (_, v) = call(&c, "GET", &format!("{budgets}/p"), &Value::Null).await;
    assert_eq!(v["status"]["disruptionsAllowed"], 0, "{v}");
    let (code, v) = call(&c, "POST", &format!("{NS}/pods/b/eviction"), &evict("b")).await;
    assert_eq!((code, v["message"].as_str(), v["reason"].as_str()), (429, Some("Cannot evict pod as it would violate the pod's disruption budget."), Some("TooManyRequests")), "{v}");
    // One that is not ready disrupts nothing, where the budget says so.
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    assert_eq!(call(&c, "PATCH", &format!("{NS}/pods/b/status"), &unready).await.0, 200);
    let status = json!({"status": {"disruptionsAllowed": 0, "currentHealthy": 0}});
    assert_eq!(call(&c, "PATCH", &format!("{budgets}/p/status"), &status).await.0, 200);
    assert_eq!(call(&c, "POST", &format!("{NS}/pods/b/eviction"), &evict("b")).await.0, 429);
    let policy = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    assert_eq!(call(&c, "PATCH", &format!("{budgets}/p"), &policy).await.0, 200);
    let (code, v) = call(&c, "POST", &format!("{NS}/pods/b/eviction"), &evict("b")).await;
    assert_eq!(code, 200, "{v}");
}
