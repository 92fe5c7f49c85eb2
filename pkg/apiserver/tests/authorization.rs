//! Another service decides what may be done.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_apiserver::{AuthorizationMode, UserInfo, authorization_configuration};
use serde_json::{Value, json};

/// A service that lets jane read pods, forbids bob everything and has no opinion else; the path of
/// its kubeconfig, and how often it was asked.
async fn service(dir: &std::path::Path) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let url = format!("http://{}/decide", listener.local_addr().expect("address"));
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            let service = hyper::service::service_fn(move |r: Request<hyper::body::Incoming>| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    let v: Value = serde_json::from_slice(
                        &r.into_body().collect().await.expect("body").to_bytes(),
                    )
                    .expect("json");
                    assert_eq!(
                        (&v["kind"], &v["apiVersion"]),
                        (
                            &json!("SubjectAccessReview"),
                            &json!("authorization.k8s.io/v1")
                        )
                    );
                    let what = &v["spec"]["resourceAttributes"];
                    let status = match v["spec"]["user"].as_str() {
                        Some("jane") if what["resource"] == "pods" && what["version"] == "v1" => {
                            json!({"allowed": true, "reason": "she may"})
                        }
                        Some("bob") => {
                            json!({"allowed": false, "denied": true, "reason": "not he"})
                        }
                        _ => json!({"allowed": false}),
                    };
                    let answer = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status});
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(
                        answer.to_string(),
                    ))))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service),
            );
        }
    });
    let config = json!({"clusters": [{"name": "c", "cluster": {"server": url}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"});
    let path = dir.join("service.kubeconfig");
    std::fs::write(&path, config.to_string()).expect("written");
    (path.display().to_string(), asked)
}

fn configuration(kubeconfig: &str, more: &Value) -> Vec<AuthorizationMode> {
    let mut webhook = json!({"authorizedTTL": "1m", "unauthorizedTTL": "1m", "timeout": "2s", "failurePolicy": "Deny", "subjectAccessReviewVersion": "v1",
        "matchConditionSubjectAccessReviewVersion": "v1", "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig}});
    for (k, v) in more.as_object().into_iter().flatten() {
        webhook[k] = v.clone();
    }
    let document = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [{"type": "Webhook", "name": "other", "webhook": webhook}, {"type": "RBAC", "name": "rbac"}]});
    authorization_configuration(&document.to_string()).expect("a configuration")
}

async fn get(h: &common::Harness, user: &str, path: &str) -> (u16, String) {
    let r = Request::get(path)
        .body(kube::client::Body::empty())
        .expect("request");
    let answer = h
        .server
        .client(UserInfo::new(user, Vec::<String>::new()))
        .send(r)
        .await
        .expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    let v: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    (code, v["message"].as_str().unwrap_or("").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_allows_denies_or_leaves_it_to_the_next() {
    let dir = tempfile::tempdir().expect("a folder");
    let (kubeconfig, asked) = service(dir.path()).await;
    let h = common::start_with(|c| c.authorization = configuration(&kubeconfig, &json!({}))).await;
    assert_eq!(
        get(&h, "jane", "/api/v1/namespaces/default/pods").await.0,
        200
    );
    assert_eq!(
        get(&h, "jane", "/api/v1/namespaces/default/pods").await.0,
        200
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the answer is remembered");
    let (code, why) = get(&h, "jane", "/api/v1/namespaces/default/secrets").await;
    assert_eq!(
        (code, why.as_str()),
        (
            403,
            r#"secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "default""#
        )
    );
    // RBAC lets everybody see the version; a service that denies is the last word.
    assert_eq!(get(&h, "jane", "/version").await.0, 200);
    let (code, why) = get(&h, "bob", "/version").await;
    assert_eq!(code, 403);
    assert!(why.ends_with(": not he"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_say_whether_the_service_is_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (kubeconfig, asked) = service(dir.path()).await;
    let only = json!({"matchConditions": [{"expression": "has(request.resourceAttributes)"}, {"expression": "request.resourceAttributes.namespace == 'default'"}]});
    let h = common::start_with(|c| c.authorization = configuration(&kubeconfig, &only)).await;
    assert_eq!(get(&h, "bob", "/version").await.0, 200);
    assert_eq!(get(&h, "jane", "/api/v1/pods").await.0, 403);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(
        get(&h, "jane", "/api/v1/namespaces/default/pods").await.0,
        200
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_denies_where_it_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let away = json!({"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/"}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"});
    let path = dir.path().join("away.kubeconfig");
    std::fs::write(&path, away.to_string()).expect("written");
    let path = path.display().to_string();
    let h = common::start_with(|c| c.authorization = configuration(&path, &json!({}))).await;
    assert_eq!(get(&h, "jane", "/version").await.0, 403);
    let h = common::start_with(|c| {
        c.authorization = configuration(&path, &json!({"failurePolicy": "NoOpinion"}))
    })
    .await;
    assert_eq!(get(&h, "jane", "/version").await.0, 200);
    assert!(authorization_configuration("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: Webhook, name: x, webhook: {failurePolicy: Maybe}}]").is_err());
}

#[tokio::test]
async fn a_changed_configuration_is_in_force() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("authorization.yaml");
    let text = |modes: &str| format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{modes}]\n");
    let (rbac, all) = ("{type: RBAC, name: rbac}", "{type: AlwaysAllow, name: alwaysallow}");
    std::fs::write(&path, text(rbac)).expect("written");
    let h = common::start_with(|c| c.authorization = authorization_configuration(&text(rbac)).expect("a configuration")).await;
    h.server.follow_authorization(path.clone(), std::time::Duration::from_millis(20));
    let until = async |code: u16| {
        for _ in 0..200 {
            if get(&h, "jane", "/api/v1/namespaces/default/pods").await.0 == code {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("never {code}");
    };
    until(403).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    std::fs::write(&path, text(&format!("{rbac}, {all}"))).expect("written");
    until(200).await;
    // What was there from the beginning stays, and names are what they must be.
    std::fs::write(&path, text(all)).expect("written");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    until(200).await;
    std::fs::write(&path, text(rbac)).expect("written");
    until(403).await;
    let admin = h.server.client(UserInfo::admin());
    let metrics = admin.request_text(Request::get("/metrics").body(Vec::new()).expect("request")).await.expect("metrics");
    for (status, n) in [("success", 2), ("failure", 1)] {
        assert!(metrics.contains(&format!("apiserver_authorization_config_controller_automatic_reloads_total{{status=\"{status}\"}} {n}\n")), "{metrics}");
    }
    assert!(authorization_configuration(&text("{type: RBAC, name: other}")).is_err_and(|e| e == "expected name rbac for authorizer RBAC instead of other"));
}
