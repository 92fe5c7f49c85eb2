//! Clients that speak for others: front proxies.

mod common;

use http::Request;
use http_body_util::BodyExt;
use knarr_apiserver::UserInfo;
use knarr_pki::{Leaf, Pair};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

async fn client(h: &common::Harness, pair: &Pair) -> Client {
    let url = format!("https://127.0.0.1:{}", h.server.address().port());
    let text = knarr_pki::kubeconfig("knarr", &url, &h.ca, "proxy", pair);
    let file = Kubeconfig::from_yaml(&text).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    Client::try_from(config).expect("client")
}

/// Who the server takes the client for.
async fn whoami(c: &Client, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut r = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").header("content-type", "application/json");
    for (k, v) in headers {
        r = r.header(*k, *v);
    }
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string().into_bytes();
    let answer = c.send(r.body(kube::client::Body::from(body)).expect("request")).await.expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    let v: Value = serde_json::from_slice(&bytes).expect("json");
    (code, if code == 201 { v["status"]["userInfo"].clone() } else { v["message"].clone() })
}

#[tokio::test]
async fn a_proxy_says_whom_it_speaks_for() {
    let h = common::start().await;
    let front = h.pki.authority("front-proxy-ca", "front-proxy-ca").expect("ca");
    let leaf = |authority: &knarr_pki::Authority, name: &str| {
        knarr_pki::issue(authority, &Leaf { file: name.into(), common_name: name.into(), client: true, ..Leaf::default() }).expect("leaf")
    };
    let jane = [
        ("X-Remote-User", "jane"),
        ("X-Remote-Uid", "42"),
        ("X-Remote-Group", "devs"),
        ("X-Remote-Group", "ops"),
        ("X-Remote-Extra-Example.com%2fScope", "all"),
    ];
    let proxy = client(&h, &leaf(&front, "front-proxy-client")).await;
    let (code, user) = whoami(&proxy, &jane).await;
    assert_eq!((code, user), (201, json!({"username": "jane", "uid": "42", "groups": ["devs", "ops", "system:authenticated"], "extra": {"example.com/scope": ["all"]}})));
    // Without a name in the headers the proxy is nobody: its certificate is no client's.
    let (code, message) = whoami(&proxy, &[]).await;
    assert_eq!(code, 403, "{message}");
    assert!(message.as_str().is_some_and(|m| m.contains(r#"User "system:anonymous""#)), "{message}");
    // So is one whose name is not allowed.
    let other = client(&h, &leaf(&front, "someone")).await;
    let (code, message) = whoami(&other, &jane).await;
    assert!(code == 403 && message.as_str().is_some_and(|m| m.contains("system:anonymous")), "{code} {message}");
    // Headers of a client that no proxy's authority has signed count for nothing.
    let ca = h.pki.authority("ca", "kubernetes").expect("ca");
    let plain = client(&h, &leaf(&ca, "front-proxy-client")).await;
    let (code, user) = whoami(&plain, &jane).await;
    assert_eq!((code, &user["username"], &user["groups"]), (201, &json!("front-proxy-client"), &json!(["system:authenticated"])));
    // Other servers learn the rules from a config map.
    let own = h.server.client(UserInfo::admin());
    let map = own.request::<Value>(Request::get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").body(Vec::new()).expect("request")).await.expect("map");
    assert_eq!(map["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    assert_eq!(map["data"]["requestheader-uid-headers"], r#"["X-Remote-Uid"]"#);
    assert_eq!(map["data"]["requestheader-client-ca-file"], h.front_ca);
    assert_eq!(map["data"]["client-ca-file"], h.ca);
}
