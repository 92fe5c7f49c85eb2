//! Acting as somebody else: constrained to what, and not.

mod common;

use http::Request;
use knarr_apiserver::UserInfo;
use kube::Client;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn call(c: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    match c.request_text(request.body(body).expect("request")).await {
        Ok(t) => (200, serde_json::from_str(&t).unwrap_or(Value::String(t))),
        Err(kube::Error::Api(s)) => (s.code, json!(s.message)),
        Err(e) => panic!("{e}"),
    }
}

/// Lets a user do what rules say, everywhere.
async fn let_(admin: &Client, user: &str, rules: Value) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user.replace(':', "-")}, "rules": rules});
    assert_eq!(call(admin, "POST", &format!("{RBAC}/clusterroles"), &[], role).await.0, 200);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user.replace(':', "-")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user.replace(':', "-")},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]});
    assert_eq!(call(admin, "POST", &format!("{RBAC}/clusterrolebindings"), &[], binding).await.0, 200);
}

async fn until_allowed(c: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Value {
    for _ in 0..200 {
        let (code, v) = call(c, method, path, headers, body.clone()).await;
        if code == 200 {
            return v;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{method} {path} is not allowed: {:?}", call(c, method, path, headers, body).await);
}

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn review() -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
}

#[tokio::test]
async fn a_user_may_be_another_one_for_some_requests() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let helper = h.server.client(UserInfo::new("helper", [""; 0]));
    let_(&admin, "jane", json!([{"apiGroups": [""], "resources": ["pods", "configmaps"], "verbs": ["list"]}])).await;
    let_(&admin, "helper", json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["groups"], "resourceNames": ["dev", "system:masters"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["impersonate-on:user-info:list"]}])).await;
    let jane = ("impersonate-user", "jane");
    let list = until_allowed(&helper, "GET", "/api/v1/namespaces/default/pods", &[jane, ("impersonate-group", "dev")], Value::Null).await;
    assert_eq!(list["kind"], "PodList");
    // Not for anything else that jane may do, not as anybody else, and never as a master.
    let (code, why) = call(&helper, "GET", "/api/v1/namespaces/default/configmaps", &[jane], Value::Null).await;
    assert_eq!((code, why.as_str()), (403, Some("configmaps is forbidden: User \"helper\" cannot impersonate-on:user-info:list resource \"configmaps\" in API group \"\" in the namespace \"default\"")));
    let (code, why) = call(&helper, "GET", "/api/v1/namespaces/default/pods", &[("impersonate-user", "joe")], Value::Null).await;
    assert_eq!((code, why.as_str()), (403, Some("users.authentication.k8s.io \"joe\" is forbidden: User \"helper\" cannot impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the cluster scope")));
    let (code, why) = call(&helper, "GET", "/api/v1/namespaces/default/pods", &[jane, ("impersonate-group", "system:masters")], Value::Null).await;
    assert!(code == 403 && why.as_str().is_some_and(|w| w.contains("impersonating the system:masters group is not allowed")), "{why}");
    assert_eq!(call(&helper, "GET", "/api/v1/namespaces/default/pods", &[], Value::Null).await.0, 403);
    // An administrator may be a master, in the old way.
    let v = until_allowed(&admin, "POST", REVIEWS, &[jane, ("impersonate-group", "system:masters")], review()).await;
    assert_eq!(v["status"]["userInfo"]["groups"], json!(["system:masters", "system:authenticated"]));
}

#[tokio::test]
async fn who_may_impersonate_may_do_so_for_everything() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let old = h.server.client(UserInfo::new("old", [""; 0]));
    let_(&admin, "old", json!([{"apiGroups": [""], "resources": ["users", "serviceaccounts"], "verbs": ["impersonate"]}])).await;
    let v = until_allowed(&old, "POST", REVIEWS, &[("impersonate-user", "jane")], review()).await;
    assert_eq!((&v["status"]["userInfo"]["username"], &v["status"]["userInfo"]["groups"]), (&json!("jane"), &json!(["system:authenticated"])));
    let v = until_allowed(&old, "POST", REVIEWS, &[("impersonate-user", "system:serviceaccount:ns:robot")], review()).await;
    assert_eq!(v["status"]["userInfo"]["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]));
    assert_eq!(call(&old, "POST", REVIEWS, &[("impersonate-group", "x")], review()).await.0, 400);
}

#[tokio::test]
async fn a_pod_may_be_the_node_it_is_on() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let name = "system:serviceaccount:kube-system:agent";
    let mut agent = UserInfo::new(name, ["system:serviceaccounts"]);
    agent.extra.insert("authentication.kubernetes.io/node-name".into(), vec!["one".into()]);
    let agent = h.server.client(agent);
    let_(&admin, name, json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["nodes"], "verbs": ["impersonate:associated-node"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["impersonate-on:associated-node:create"]}])).await;
    let v = until_allowed(&agent, "POST", REVIEWS, &[("impersonate-user", "system:node:one")], review()).await;
    assert_eq!((&v["status"]["userInfo"]["username"], &v["status"]["userInfo"]["groups"]), (&json!("system:node:one"), &json!(["system:nodes", "system:authenticated"])));
    let (code, why) = call(&agent, "POST", REVIEWS, &[("impersonate-user", "system:node:two")], review()).await;
    assert!(code == 403 && why.as_str().is_some_and(|w| w.contains("impersonate-on:arbitrary-node:create")), "{why}");
}
