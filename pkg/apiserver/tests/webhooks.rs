//! Admission webhooks over the network: what they see, change, refuse, and what their absence means.

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_apiserver::UserInfo;
use knarr_pki::{Leaf, Pki};
use kube::Client;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

/// A webhook server; its path says what it does.
struct Hooks {
    address: SocketAddr,
    ca: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    _dir: tempfile::TempDir,
}

/// In version 1 there is `host`, in version 2 `address`.
fn converted(request: &Value) -> Value {
    let to = &request["desiredAPIVersion"];
    let objects = request["objects"].as_array().cloned().unwrap_or_default().into_iter().map(|mut o| {
        let (from, into) = if to == "example.com/v2" { ("host", "address") } else { ("address", "host") };
        let v = o["spec"][from].clone();
        o["spec"] = json!({into: v});
        o["apiVersion"] = to.clone();
        o["metadata"]["annotations"] = json!({"by": "hook"});
        o["metadata"]["name"] = json!("a-hook-may-not-rename");
        o
    });
    let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects.collect::<Vec<_>>()});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response})
}

fn answer(path: &str, request: &Value) -> Value {
    if path == "/convert" {
        return converted(request);
    }
    let mut r = json!({"uid": request["uid"], "allowed": true});
    let patch = |r: &mut Value, ops: Value| {
        r["patchType"] = json!("JSONPatch");
        r["patch"] = json!(STANDARD.encode(ops.to_string()));
    };
    match path {
        "/deny" => {
            r["allowed"] = json!(false);
            r["status"] = json!({"message": "not this one", "code": 403, "reason": "Forbidden"});
        }
        "/first" => {
            if request["object"]["data"]["second"].is_string() {
                patch(&mut r, json!([{"op": "add", "path": "/data/again", "value": "yes"}]));
            } else {
                patch(&mut r, json!([{"op": "add", "path": "/data/first", "value": "yes"}]));
            }
        }
        "/second" => patch(&mut r, json!([{"op": "add", "path": "/data/second", "value": "yes"}])),
        "/warn" => r["warnings"] = json!(["mind the gap"]),
        "/wrong" => r["uid"] = json!("other"),
        "/bad" => patch(&mut r, json!([{"op": "replace", "path": "", "value": 1}])),
        _ => {}
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": r})
}

async fn hooks() -> Hooks {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::open(dir.path()).expect("pki");
    let ca = pki.authority("hooks", "hooks").expect("ca");
    let leaf = pki
        .leaf(&ca, &Leaf {
            file: "hook".into(),
            common_name: "hook".into(),
            dns_names: vec!["hook.default.svc".into(), "localhost".into()],
            addresses: vec!["127.0.0.1".parse().expect("ip")],
            server: true,
            ..Leaf::default()
        })
        .expect("leaf");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>().expect("pem");
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("pem");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = hyper::service::service_fn(move |r: Request<hyper::body::Incoming>| {
                    let log = Arc::clone(&log);
                    async move {
                        let uri = r.uri().to_string();
                        let path = r.uri().path().to_owned();
                        let body = r.into_body().collect().await.expect("body").to_bytes();
                        let review: Value = serde_json::from_slice(&body).expect("json");
                        log.lock().expect("lock").push((uri, review["request"].clone()));
                        if path == "/slow" {
                            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
                        }
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::from(answer(&path, &review["request"]).to_string()))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    Hooks { address, ca: ca.certificate().to_owned(), seen, _dir: dir }
}

async fn call(c: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", media).body(body).expect("request");
    match c.request_text(request).await {
        Ok(t) => (200, serde_json::from_str(&t).unwrap_or(Value::String(t))),
        Err(kube::Error::Api(s)) => (s.code, json!({"message": s.message, "reason": s.reason})),
        Err(e) => panic!("{e}"),
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

impl Hooks {
    fn hook(&self, name: &str, path: &str, more: Value) -> Value {
        let mut h = json!({"name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", self.address.port()), "caBundle": STANDARD.encode(&self.ca)},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
        for (k, v) in more.as_object().into_iter().flatten() {
            h[k] = v.clone();
        }
        h
    }
    async fn install(&self, c: &Client, kind: &str, name: &str, hooks: Vec<Value>) {
        let plural = format!("{}webhookconfigurations", kind.to_lowercase());
        let v = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"), "metadata": {"name": name}, "webhooks": hooks});
        let (code, v) = call(c, "POST", &format!("/apis/admissionregistration.k8s.io/v1/{plural}"), &v).await;
        assert_eq!(code, 200, "{v}");
    }
}

#[tokio::test]
async fn objects_are_changed_and_hooks_asked_again() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let hooks = hooks().await;
    hooks.install(&c, "Mutating", "m", vec![hooks.hook("one", "/first", json!({"reinvocationPolicy": "IfNeeded"})), hooks.hook("two", "/second", json!({}))]).await;
    let (code, v) = call(&c, "POST", MAPS, &map("a")).await;
    assert_eq!((code, &v["data"]), (200, &json!({"k": "v", "first": "yes", "second": "yes", "again": "yes"})), "{v}");
    let seen = hooks.seen.lock().expect("lock").clone();
    assert_eq!(seen.len(), 3);
    let (uri, q) = &seen[0];
    assert!(uri.ends_with("/first?timeout=10s"), "{uri}");
    assert_eq!((&q["operation"], &q["name"], &q["namespace"]), (&json!("CREATE"), &json!("a"), &json!("default")));
    assert_eq!((&q["kind"]["kind"], &q["resource"]["resource"], &q["oldObject"]), (&json!("ConfigMap"), &json!("configmaps"), &Value::Null));
    assert_eq!(q["userInfo"]["username"], "system:apiserver");
    // The configuration itself is seen by none, and can be taken away.
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/m";
    assert_eq!(call(&c, "DELETE", path, &Value::Null).await.0, 200);
    let (_, v) = call(&c, "POST", MAPS, &map("b")).await;
    assert_eq!(v["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn requests_are_refused_in_upstreams_words() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let hooks = hooks().await;
    call(&c, "POST", MAPS, &map("kept")).await;
    let only = json!({"objectSelector": {"matchLabels": {"deny": "yes"}}});
    hooks.install(&c, "Validating", "v", vec![hooks.hook("no", "/deny", only)]).await;
    assert_eq!(call(&c, "POST", MAPS, &map("free")).await.0, 200);
    let mut denied = map("x");
    denied["metadata"]["labels"] = json!({"deny": "yes"});
    let (code, v) = call(&c, "POST", MAPS, &denied).await;
    assert_eq!((code, v["message"].as_str(), v["reason"].as_str()), (403, Some(r#"admission webhook "no.example.com" denied the request: not this one"#), Some("Forbidden")));
    let (code, _) = call(&c, "PATCH", &format!("{MAPS}/kept"), &json!({"metadata": {"labels": {"deny": "yes"}}})).await;
    assert_eq!(code, 403);
    let (_, v) = call(&c, "GET", &format!("{MAPS}/kept"), &Value::Null).await;
    assert!(v["metadata"]["labels"].is_null());
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/v";
    assert_eq!(call(&c, "PATCH", path, &json!({"metadata": {"labels": {"a": "b"}}})).await.0, 200);
    let deletes = json!({"rules": [{"operations": ["DELETE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"]}]});
    hooks.install(&c, "Validating", "w", vec![hooks.hook("del", "/deny", deletes)]).await;
    let (code, v) = call(&c, "DELETE", &format!("{MAPS}/kept"), &Value::Null).await;
    assert_eq!(code, 403, "{v}");
    let seen = hooks.seen.lock().expect("lock").last().cloned().expect("asked");
    assert_eq!((&seen.1["operation"], &seen.1["oldObject"]["metadata"]["name"], &seen.1["object"]), (&json!("DELETE"), &json!("kept"), &Value::Null));
}

#[tokio::test]
async fn a_hook_that_does_not_answer_closes_or_opens_the_way() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let hooks = hooks().await;
    let labelled = |l: &str, more: Value| {
        let mut m = json!({"objectSelector": {"matchLabels": {"t": l}}});
        for (k, v) in more.as_object().into_iter().flatten() {
            m[k] = v.clone();
        }
        m
    };
    let url = json!({"url": "https://127.0.0.1:1/x", "caBundle": STANDARD.encode(&hooks.ca)});
    let service = json!({"service": {"name": "gone", "namespace": "default", "path": "/p"}, "caBundle": STANDARD.encode(&hooks.ca)});
    hooks
        .install(&c, "Validating", "v", vec![
            hooks.hook("slow", "/slow", labelled("slow", json!({"timeoutSeconds": 1}))),
            hooks.hook("away", "/", labelled("away", json!({"clientConfig": url}))),
            hooks.hook("open", "/", labelled("open", json!({"clientConfig": url, "failurePolicy": "Ignore"}))),
            hooks.hook("svc", "/", labelled("svc", json!({"clientConfig": service}))),
            hooks.hook("wrong", "/wrong", labelled("wrong", json!({}))),
            hooks.hook("trust", "/", labelled("trust", json!({"clientConfig": {"url": format!("https://127.0.0.1:{}/", hooks.address.port()), "caBundle": STANDARD.encode(&h.ca)}}))),
        ])
        .await;
    hooks.install(&c, "Mutating", "m", vec![hooks.hook("bad", "/bad", labelled("bad", json!({})))]).await;
    let make = |l: &str| {
        let mut v = map(l);
        v["metadata"]["labels"] = json!({"t": l});
        v
    };
    let slow = format!(r#"Internal error occurred: failed calling webhook "slow.example.com": failed to call webhook: Post "https://127.0.0.1:{}/slow?timeout=1s": context deadline exceeded"#, hooks.address.port());
    let away = r#"Internal error occurred: failed calling webhook "away.example.com": failed to call webhook: Post "https://127.0.0.1:1/x?timeout=10s": dial tcp 127.0.0.1:1: connect: connection refused"#;
    let svc = r#"Internal error occurred: failed calling webhook "svc.example.com": failed to call webhook: Post "https://gone.default.svc:443/p?timeout=10s": service "gone" not found"#;
    for (label, text) in [("slow", slow.as_str()), ("away", away), ("svc", svc)] {
        let (code, v) = call(&c, "POST", MAPS, &make(label)).await;
        assert_eq!((code, v["message"].as_str()), (500, Some(text)));
    }
    for (label, part) in [("wrong", "received invalid webhook response: expected response.uid="), ("trust", "tls: failed to verify certificate"), ("bad", "replaced the object")] {
        let (code, v) = call(&c, "POST", MAPS, &make(label)).await;
        assert_eq!(code, 500);
        assert!(v["message"].as_str().is_some_and(|m| m.contains(part)), "{v}");
    }
    assert_eq!(call(&c, "POST", MAPS, &make("open")).await.0, 200);
    let effects = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "e"},
        "webhooks": [hooks.hook("effects", "/", json!({"sideEffects": "Some"}))]});
    let (code, v) = call(&c, "POST", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &effects).await;
    assert_eq!(code, 422, "{v}");
}

#[tokio::test]
async fn versions_are_converted_by_a_hook() {
    use futures::{AsyncBufReadExt, TryStreamExt};
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let hooks = hooks().await;
    let schema = |f: &str| json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "required": [f], "properties": {f: {"type": "string"}}}}}});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "hosts.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "hosts", "kind": "Host"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema("host")}, {"name": "v2", "served": true, "storage": false, "schema": schema("address")}],
        "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", hooks.address.port()), "caBundle": STANDARD.encode(&hooks.ca)}}}}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, v) = call(&c, "POST", crds, &crd).await;
    assert_eq!(code, 200, "{v}");
    let (one, two) = ("/apis/example.com/v1/namespaces/default/hosts", "/apis/example.com/v2/namespaces/default/hosts");
    for _ in 0..200 {
        if call(&c, "GET", two, &Value::Null).await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let object = |v: &str, name: &str, spec: Value| json!({"apiVersion": format!("example.com/{v}"), "kind": "Host", "metadata": {"name": name}, "spec": spec});
    let (code, v) = call(&c, "POST", one, &object("v1", "a", json!({"host": "x"}))).await;
    assert_eq!(code, 200, "{v}");
    let (code, v) = call(&c, "POST", two, &object("v2", "b", json!({"address": "y"}))).await;
    assert_eq!((code, &v["spec"], &v["metadata"]["name"]), (200, &json!({"address": "y"}), &json!("b")), "{v}");
    let (_, v) = call(&c, "GET", &format!("{one}/b"), &Value::Null).await;
    assert_eq!((&v["spec"], &v["apiVersion"]), (&json!({"host": "y"}), &json!("example.com/v1")));
    let (_, v) = call(&c, "GET", two, &Value::Null).await;
    assert_eq!((&v["items"][0]["spec"], &v["items"][0]["metadata"]["annotations"]), (&json!({"address": "x"}), &json!({"by": "hook"})), "{v}");
    let (code, v) = call(&c, "PATCH", &format!("{two}/a"), &json!({"spec": {"address": "z"}})).await;
    assert_eq!((code, &v["spec"]), (200, &json!({"address": "z"})), "{v}");
    let request = Request::get(format!("{two}?watch=1")).body(Vec::new()).expect("request");
    let mut lines = c.request_stream(request).await.expect("watch").lines();
    let first: Value = serde_json::from_str(&lines.try_next().await.expect("event").expect("event")).expect("json");
    assert_eq!((&first["type"], &first["object"]["spec"]), (&json!("ADDED"), &json!({"address": "z"})), "{first}");
    // Without the hook the stored version is still there.
    let gone = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://127.0.0.1:1/convert"}}}}});
    let (code, v) = call(&c, "PATCH", &format!("{crds}/hosts.example.com"), &gone).await;
    assert_eq!(code, 200, "{v}");
    let mut last = (0, Value::Null);
    for _ in 0..200 {
        last = call(&c, "GET", &format!("{two}/a"), &Value::Null).await;
        if last.0 == 500 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(last.1["message"], r#"conversion webhook for example.com/v1, Kind=Host failed: Post "https://127.0.0.1:1/convert?timeout=30s": dial tcp 127.0.0.1:1: connect: connection refused"#);
    assert_eq!(call(&c, "GET", &format!("{one}/a"), &Value::Null).await.0, 200);
}

#[tokio::test]
async fn conditions_decide_whether_a_hook_is_asked() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let hooks = hooks().await;
    let when = |e: &str, policy: &str| json!({"failurePolicy": policy, "matchConditions": [{"name": "first", "expression": "request.operation == 'CREATE'"}, {"name": "second", "expression": e}]});
    hooks
        .install(&c, "Validating", "v", vec![
            hooks.hook("name", "/deny", when("object.metadata.name.startsWith('no-') && authorizer.requestResource.check('create').allowed()", "Fail")),
            hooks.hook("open", "/deny", when("object.data.missing == 'x' && object.metadata.name == 'odd'", "Ignore")),
        ])
        .await;
    assert_eq!(call(&c, "POST", MAPS, &map("yes")).await.0, 200);
    let (code, v) = call(&c, "POST", MAPS, &map("no-1")).await;
    assert_eq!((code, v["message"].as_str()), (403, Some(r#"admission webhook "name.example.com" denied the request: not this one"#)));
    assert_eq!(hooks.seen.lock().expect("lock").len(), 1);
    // A condition that cannot be evaluated closes the way if the policy is Fail, a false one beside it does not.
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(call(&c, "DELETE", &format!("{path}/v"), &Value::Null).await.0, 200);
    hooks.install(&c, "Validating", "w", vec![hooks.hook("fails", "/allow", when("object.data.missing == 'x'", "Fail"))]).await;
    let (code, v) = call(&c, "POST", MAPS, &map("odd")).await;
    let text = v["message"].as_str().unwrap_or_default();
    assert_eq!(code, 403, "{v}");
    assert!(text.ends_with("expression 'object.data.missing == 'x'' resulted in error: no such key: missing"), "{text}");
    assert_eq!(call(&c, "PATCH", &format!("{MAPS}/yes"), &json!({"data": {"a": "b"}})).await.0, 200);
    // What cannot be compiled is not stored.
    let bad = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "bad"},
        "webhooks": [hooks.hook("bad", "/allow", json!({"matchConditions": [{"name": "a", "expression": "... [] bad expression"}, {"name": "a", "expression": "1"}, {"name": "b", "expression": "object.x == bogus"}]}))]});
    let (code, v) = call(&c, "POST", path, &bad).await;
    let text = v["message"].as_str().unwrap_or_default();
    assert_eq!(code, 422, "{v}");
    for part in ["webhooks[0].matchConditions[0].expression: Invalid value: ", "compilation failed: ERROR: <input>:1:2: Syntax error: mismatched input '.'",
        "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"", "must evaluate to bool but got int", "undeclared reference to 'bogus' (in container '')"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
