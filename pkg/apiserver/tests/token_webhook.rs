//! Tokens that another service reviews.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_apiserver::{RemoteService, UserInfo};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

fn review(token: &str, audiences: &Value) -> Value {
    match token {
        "good" => json!({"authenticated": true, "user": {"username": "jane", "uid": "42", "groups": ["devs"], "extra": {"k": ["v"]}}}),
        "narrow" => json!({"authenticated": true, "user": {"username": "jane"}, "audiences": ["other"]}),
        "named" => json!({"authenticated": true, "user": {"username": "jane"}, "audiences": audiences}),
        "told" => json!({"authenticated": false, "error": "the token was revoked"}),
        _ => json!({"authenticated": false}),
    }
}

/// A service that knows some tokens, its kubeconfig, and how often it was asked.
async fn service() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}/review", listener.local_addr().expect("address"));
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            let service = hyper::service::service_fn(move |r: Request<hyper::body::Incoming>| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    assert_eq!((r.uri().path(), r.headers()["authorization"].to_str().expect("text")), ("/review", "Bearer of-the-server"));
                    let v: Value = serde_json::from_slice(&r.into_body().collect().await.expect("body").to_bytes()).expect("json");
                    assert_eq!((&v["kind"], &v["apiVersion"]), (&json!("TokenReview"), &json!("authentication.k8s.io/v1")));
                    let token = v["spec"]["token"].as_str().expect("a token");
                    let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": review(token, &v["spec"]["audiences"])});
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(answer.to_string()))))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
        }
    });
    let config = json!({"clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {"token": "of-the-server"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"});
    (config.to_string(), asked)
}

async fn whoami(h: &common::Harness, token: &str) -> Result<Value, u16> {
    let mut file = Kubeconfig::from_yaml(&h.kubeconfig).expect("kubeconfig");
    for named in &mut file.auth_infos {
        named.auth_info = Some(serde_json::from_value(json!({"token": token})).expect("shape"));
    }
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string().into_bytes();
    let r = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").header("content-type", "application/json").body(kube::client::Body::from(body)).expect("request");
    let answer = Client::try_from(config).expect("client").send(r).await.expect("an answer");
    let code = answer.status().as_u16();
    let v: Value = serde_json::from_slice(&answer.into_body().collect().await.expect("body").to_bytes()).expect("json");
    if code == 201 { Ok(v["status"]["userInfo"].clone()) } else { Err(code) }
}

#[tokio::test]
async fn another_service_knows_the_user() {
    let (config, asked) = service().await;
    let remote = RemoteService::parse(&config, std::path::Path::new("/")).expect("a kubeconfig");
    let h = common::start_with(|c| c.token_webhook = Some(remote)).await;
    let jane = json!({"username": "jane", "uid": "42", "groups": ["devs", "system:authenticated"], "extra": {"k": ["v"]}});
    assert_eq!(whoami(&h, "good").await, Ok(jane.clone()));
    assert_eq!(whoami(&h, "good").await, Ok(jane));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "its answers are kept");
    assert!(whoami(&h, "named").await.is_ok());
    for token in ["narrow", "unknown", "told"] {
        assert_eq!(whoami(&h, token).await, Err(401), "{token}");
    }
    let own = h.server.client(UserInfo::admin());
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "told"}}).to_string().into_bytes();
    let r = Request::post("/apis/authentication.k8s.io/v1/tokenreviews").header("content-type", "application/json").body(body).expect("request");
    let v: Value = own.request(r).await.expect("a review");
    assert_eq!(v["status"]["error"], "[invalid bearer token, the token was revoked]");
    let broken = config.replace(r#""current-context":"x""#, r#""current-context":"y""#);
    assert_eq!(RemoteService::parse(&broken, std::path::Path::new("/")).expect_err("no such context"), "the current context is not in the kubeconfig");
}
