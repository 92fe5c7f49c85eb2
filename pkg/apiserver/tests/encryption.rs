//! Encryption at rest under a server.

mod common;

use http::Request;
use knarr_apiserver::{Encryption, UserInfo};
use serde_json::{Value, json};

fn configuration(provider: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n{provider}  - identity: {{}}\n"
    )
}

async fn call(c: &kube::Client, method: &str, path: &str, body: &Value) -> String {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body.to_string().into_bytes()).expect("request");
    c.request_text(request).await.expect("an answer")
}

#[tokio::test]
async fn an_object_that_is_written_again_is_encrypted_anew() {
    let store = knarr_storage::open_memory().expect("store");
    let encryption = Encryption::open(&configuration(""), true).await.expect("rules");
    let h = common::start_with(|c| {
        c.store = encryption.over(store.clone());
        c.encryption = Some(encryption.clone());
    })
    .await;
    let c = h.server.client(UserInfo::admin());
    let all = "/api/v1/namespaces/default/secrets";
    call(&c, "POST", all, &json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}})).await;
    let raw = || async { store.range("/registry/secrets/default/s", None, 0, 0).await.expect("read").items.remove(0) };
    let plain = raw().await;
    assert!(plain.value.starts_with(b"k8s\0"));
    let one = format!("{all}/s");
    let object: Value = serde_json::from_str(&call(&c, "GET", &one, &Value::Null).await).expect("JSON");
    // It is the same, and held as it should be.
    call(&c, "PUT", &one, &object).await;
    assert_eq!(raw().await.mod_revision, plain.mod_revision);
    let key = "  - secretbox: {keys: [{name: k, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}\n";
    encryption.change(&configuration(key)).await.expect("in force");
    call(&c, "PUT", &one, &object).await;
    assert!(raw().await.value.starts_with(b"k8s:enc:secretbox:v1:k:"));
    let now: Value = serde_json::from_str(&call(&c, "GET", &one, &Value::Null).await).expect("JSON");
    assert_eq!((&now["data"], &now["metadata"]["uid"]), (&object["data"], &object["metadata"]["uid"]));
    assert_eq!(call(&c, "GET", "/healthz/kms-providers", &Value::Null).await, "ok");
}
