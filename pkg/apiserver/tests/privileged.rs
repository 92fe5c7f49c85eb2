//! Whether containers may be privileged is the whole process's: a program of its own.

mod common;

use http::Request;
use knarr_apiserver::UserInfo;
use serde_json::{Value, json};

#[tokio::test]
async fn privileged_containers_can_be_forbidden() {
    let h = common::start_with(|c| c.allow_privileged = false).await;
    let c = h.server.client(UserInfo::admin());
    let post = async |path: &str, body: &Value| {
        let r = Request::post(path).header("content-type", "application/json").body(body.to_string().into_bytes()).expect("request");
        match c.request_text(r).await {
            Ok(_) => String::new(),
            Err(kube::Error::Api(s)) => s.message.clone(),
            Err(e) => panic!("{e}"),
        }
    };
    let account = json!({"metadata": {"name": "default"}});
    assert_eq!(post("/api/v1/namespaces/default/serviceaccounts", &account).await, "");
    let spec = |privileged: bool| json!({"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": privileged}}]});
    let pod = |privileged: bool| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec(privileged)});
    assert_eq!(post("/api/v1/namespaces/default/pods", &pod(true)).await, "Pod \"p\" is invalid: spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy");
    assert_eq!(post("/api/v1/namespaces/default/pods", &pod(false)).await, "");
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec(true)}}});
    let why = post("/apis/apps/v1/namespaces/default/replicasets", &set).await;
    assert!(why.contains("spec.template.spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy"), "{why}");
}
