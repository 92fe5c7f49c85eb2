//! Aggregated API servers: proxying, availability, discovery, OpenAPI.

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_apiserver::UserInfo;
use knarr_pki::Leaf;
use kube::Client;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Extension {
    address: SocketAddr,
    ca: String,
    broken: Arc<AtomicBool>,
}

fn reply(code: u16, media: &str, body: &Value) -> Response<Full<Bytes>> {
    Response::builder().status(code).header(header::CONTENT_TYPE, media).body(Full::new(Bytes::from(body.to_string()))).expect("response")
}

fn documents() -> (Value, Value) {
    let gvk = json!([{"group": "ext.example.com", "version": "v1", "kind": "Flag"}]);
    let flag = json!({"type": "object", "properties": {"color": {"type": "string"}, "more": {"$ref": "#/definitions/com.example.More"}}, "x-kubernetes-group-version-kind": gvk});
    let v2 = json!({"swagger": "2.0", "info": {"title": "x", "version": "1"}, "paths": {
            "/apis/ext.example.com/v1/flags": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/com.example.Flag"}}}}},
            "/apis/other.example.com/v1/x": {"get": {}}},
        "definitions": {"com.example.Flag": flag, "com.example.More": {"type": "object"}, "com.example.Unused": {"type": "object"}}});
    let v3 = json!({"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=AB"}, "version": {"serverRelativeURL": "/openapi/v3/version?hash=1"}}});
    (v2, v3)
}

async fn answer(mut r: Request<hyper::body::Incoming>, certified: bool, broken: Arc<AtomicBool>) -> Response<Full<Bytes>> {
    if broken.load(Ordering::Relaxed) {
        return reply(500, "text/plain", &json!("out of order"));
    }
    let path = r.uri().path().to_owned();
    let (v2, v3) = documents();
    match path.as_str() {
        "/apis/ext.example.com/v1" => reply(200, "application/json", &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ext.example.com/v1", "resources": [
            {"name": "flags", "singularName": "flag", "namespaced": true, "kind": "Flag", "verbs": ["get", "list"], "shortNames": ["fl"]},
            {"name": "flags/status", "singularName": "", "namespaced": true, "kind": "Flag", "verbs": ["get"]}]})),
        "/openapi/v2" => reply(200, "application/json", &v2),
        "/openapi/v3" => reply(200, "application/json", &v3),
        "/openapi/v3/apis/ext.example.com/v1" => reply(200, "application/json", &json!({"openapi": "3.0.0", "mine": true})),
        p if p.ends_with("/exec") => {
            let up = hyper::upgrade::on(&mut r);
            tokio::spawn(async move {
                let mut io = TokioIo::new(up.await.expect("upgraded"));
                let mut b = [0; 4];
                io.read_exact(&mut b).await.expect("read");
                b.reverse();
                io.write_all(&b).await.expect("written");
            });
            let mut out = reply(101, "text/plain", &json!(""));
            *out.body_mut() = Full::default();
            *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            out.headers_mut().insert(header::CONNECTION, "Upgrade".parse().expect("value"));
            out.headers_mut().insert(header::UPGRADE, "echo".parse().expect("value"));
            out
        }
        p if p.starts_with("/apis/ext.example.com/v1/") => {
            let headers: Vec<(String, String)> = r.headers().iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap_or("").to_owned())).collect();
            let (method, uri) = (r.method().to_string(), r.uri().path_and_query().map(ToString::to_string));
            let body = r.into_body().collect().await.expect("body").to_bytes();
            reply(if method == "POST" { 201 } else { 200 }, "application/json", &json!({"method": method, "uri": uri, "headers": headers, "certified": certified, "body": String::from_utf8_lossy(&body)}))
        }
        _ => reply(404, "text/plain", &json!("404 page not found")),
    }
}

async fn extension(h: &common::Harness) -> Extension {
    let ca = h.pki.authority("ext", "ext").expect("ca");
    let leaf = h.pki.leaf(&ca, &Leaf { file: "ext-serving".into(), common_name: "ext".into(), dns_names: vec!["ext.default.svc".into()], server: true, ..Leaf::default() }).expect("leaf");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>().expect("pem");
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("pem");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for c in CertificateDer::pem_slice_iter(h.front_ca.as_bytes()) {
        roots.add(c.expect("pem")).expect("root");
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).allow_unauthenticated().build().expect("verifier");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("localhost:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let broken: Arc<AtomicBool> = Arc::default();
    let switch = Arc::clone(&broken);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, switch) = (acceptor.clone(), Arc::clone(&switch));
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let certified = tls.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
                let service = hyper::service::service_fn(move |r| {
                    let switch = Arc::clone(&switch);
                    async move { Ok::<_, std::convert::Infallible>(answer(r, certified, switch).await) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(tls), service).await;
            });
        }
    });
    Extension { address, ca: ca.certificate().to_owned(), broken }
}

async fn call_with(c: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let mut request = Request::builder().method(method).uri(path).header("content-type", media);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let answer = c.send(request.body(kube::client::Body::from(body)).expect("request")).await.expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

async fn call(c: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    call_with(c, method, path, &[], body).await
}

async fn get(c: &Client, path: &str) -> Value {
    call(c, "GET", path, &Value::Null).await.1
}

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const OWN: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.ext.example.com";
const FLAGS: &str = "/apis/ext.example.com/v1/namespaces/default/flags";

fn registration(x: &Extension, version: &str) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": format!("{version}.ext.example.com")},
        "spec": {"group": "ext.example.com", "version": version, "groupPriorityMinimum": 17450, "versionPriority": 10,
            "service": {"namespace": "default", "name": "ext", "port": x.address.port()}, "caBundle": STANDARD.encode(&x.ca)}})
}

fn external(x: &Extension) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext"}, "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": x.address.port()}]}})
}

/// Waits until the APIService's condition has a reason, and returns the condition.
async fn reason(c: &Client, reason: &str) -> Value {
    let mut last = Value::Null;
    for _ in 0..500 {
        last = get(c, OWN).await["status"]["conditions"][0].clone();
        if last["reason"] == reason {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the reason does not become {reason}: {last}");
}

async fn registered() -> (common::Harness, Extension, Client) {
    let h = common::start().await;
    let x = extension(&h).await;
    let c = h.server.client(UserInfo::admin());
    assert_eq!(call(&c, "POST", "/api/v1/namespaces/default/services", &external(&x)).await.0, 201);
    assert_eq!(call(&c, "POST", SERVICES, &registration(&x, "v1")).await.0, 201);
    reason(&c, "Passed").await;
    (h, x, c)
}

#[tokio::test]
async fn what_this_server_serves_is_registered() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let v = get(&c, &format!("{SERVICES}/v1.apps")).await;
    assert_eq!(v["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(v["spec"], json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15}));
    let condition = &v["status"]["conditions"][0];
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("Local"), &json!("Local APIServices are always available")));
    assert_eq!(get(&c, &format!("{SERVICES}/v1.")).await["spec"]["groupPriorityMinimum"], 18000);

    let schema = json!({"type": "object"});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "toys.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(call(&c, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.0, 201);
    let toys = format!("{SERVICES}/v1.example.com");
    let there = async |wanted: bool| {
        for _ in 0..200 {
            let (code, v) = call(&c, "GET", &toys, &Value::Null).await;
            if (code == 200) == wanted {
                return v;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{toys}: not {wanted}");
    };
    let v = there(true).await;
    assert_eq!(v["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    assert_eq!((&v["spec"]["groupPriorityMinimum"], &v["spec"]["versionPriority"]), (&json!(1000), &json!(100)));
    call(&c, "DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/toys.example.com", &Value::Null).await;
    there(false).await;
}

#[tokio::test]
async fn registrations_are_checked() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let bad = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.b.example.com"},
        "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 0, "versionPriority": 1001, "service": {"name": "", "namespace": "x", "port": 70000},
            "caBundle": "YQ==", "insecureSkipTLSVerify": true}});
    let (code, v) = call(&c, "POST", SERVICES, &bad).await;
    assert_eq!(code, 422, "{v}");
    let message = v["message"].as_str().expect("a message");
    for part in [
        r#"metadata.name: Invalid value: "v1.b.example.com": must be `spec.version+"."+spec.group`: "v1.ext.example.com""#,
        "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
        "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
        "spec.service.name: Required value",
        "spec.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
        "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
    ] {
        assert!(message.contains(part), "{part}\nnot in\n{message}");
    }
}

#[tokio::test]
async fn requests_are_passed_on_with_the_user_in_headers() {
    let (h, x, c) = registered().await;
    let mut user = UserInfo::new("jane", ["devs"]);
    user.uid = "42".into();
    user.extra.insert("example.com/Scope".into(), vec!["a".into(), "b".into()]);
    let jane = h.server.client(user);
    // Authorization is this server's.
    let (code, v) = call(&jane, "GET", FLAGS, &Value::Null).await;
    assert_eq!(code, 403);
    assert!(v["message"].as_str().is_some_and(|m| m.contains(r#"User "jane" cannot list resource "flags" in API group "ext.example.com" in the namespace "default""#)), "{v}");
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "flags"}, "rules": [{"apiGroups": ["ext.example.com"], "resources": ["*"], "verbs": ["*"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "flags"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flags"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    assert_eq!(call(&c, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.0, 201);
    assert_eq!(call(&c, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.0, 201);
    let forged = [("X-Remote-User", "root"), ("X-Remote-Group", "system:masters"), ("X-Remote-Extra-Boss", "yes"), ("Authorization", "Bearer secret"), ("X-Mine", "1")];
    let (code, v) = call_with(&jane, "POST", &format!("{FLAGS}?dryRun=All&x=a%20b"), &forged, &json!({"kind": "Flag"})).await;
    assert_eq!(code, 201, "{v}");
    assert_eq!((&v["method"], &v["certified"], &v["body"]), (&json!("POST"), &json!(true), &json!(r#"{"kind":"Flag"}"#)));
    assert_eq!(v["uri"], format!("{FLAGS}?dryRun=All&x=a%20b"));
    let all = |name: &str| -> Vec<&str> { v["headers"].as_array().expect("headers").iter().filter(|h| h[0] == name).map(|h| h[1].as_str().expect("text")).collect() };
    assert_eq!(all("x-remote-user"), ["jane"]);
    assert_eq!(all("x-remote-uid"), ["42"]);
    assert_eq!(all("x-remote-group"), ["devs", "system:authenticated"]);
    assert_eq!(all("x-remote-extra-example.com%2fscope"), ["a", "b"]);
    assert_eq!((all("x-remote-extra-boss").len(), all("authorization").len(), all("x-mine").len()), (0, 0, 1));

    // Without its authority the server is not believed; unless nobody asks.
    let (code, _) = call(&c, "PATCH", OWN, &json!({"spec": {"caBundle": STANDARD.encode(&h.ca)}})).await;
    assert_eq!(code, 200);
    let found = reason(&c, "FailedDiscoveryCheck").await;
    assert!(found["message"].as_str().is_some_and(|m| m.starts_with(&format!("failing or missing response from https://localhost:{}/apis/ext.example.com/v1: ", x.address.port())) && m.contains("certificate")), "{found}");
    let (code, v) = call(&jane, "GET", FLAGS, &Value::Null).await;
    assert_eq!((code, v), (503, json!("service unavailable\n")));
    let (code, _) = call(&c, "PATCH", OWN, &json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}})).await;
    assert_eq!(code, 200);
    reason(&c, "Passed").await;
    let (code, _) = call(&jane, "GET", FLAGS, &Value::Null).await;
    assert_eq!(code, 200);

    // Without the APIService nobody serves the group.
    call(&c, "DELETE", OWN, &Value::Null).await;
    for _ in 0..100 {
        if call(&c, "GET", FLAGS, &Value::Null).await.0 == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the group is still served");
}

#[tokio::test]
async fn upgraded_connections_are_tunnelled() {
    let (h, _x, _c) = registered().await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(h.ca.as_bytes()).expect("pem")).expect("root");
    let chain = vec![CertificateDer::from_pem_slice(h.admin.certificate.as_bytes()).expect("pem")];
    let key = PrivateKeyDer::from_pem_slice(h.admin.key.as_bytes()).expect("pem");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("certificate");
    let tcp = tokio::net::TcpStream::connect(h.server.address()).await.expect("connected");
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().expect("name"), tcp).await.expect("tls");
    let request = format!("GET {FLAGS}/a/exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    tls.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.expect("a byte"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    tls.write_all(b"abcd").await.expect("written");
    let mut back = [0; 4];
    tls.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"dcba");
}

#[tokio::test]
async fn availability_follows_the_service() {
    let h = common::start().await;
    let x = extension(&h).await;
    let c = h.server.client(UserInfo::admin());
    assert_eq!(call(&c, "POST", SERVICES, &registration(&x, "v1")).await.0, 201);
    let found = reason(&c, "ServiceNotFound").await;
    assert_eq!((&found["type"], &found["status"], &found["message"]), (&json!("Available"), &json!("False"), &json!(r#"service/ext in "default" is not present"#)));
    assert_eq!(call(&c, "GET", FLAGS, &Value::Null).await, (503, json!("service unavailable\n")));
    let all = "/api/v1/namespaces/default/services";
    let port = x.address.port();
    let service = |port: u16| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext"}, "spec": {"ports": [{"port": port}]}});
    assert_eq!(call(&c, "POST", all, &service(1)).await.0, 201);
    assert_eq!(reason(&c, "ServicePortError").await["message"], format!(r#"service/ext in "default" is not listening on port {port}"#));
    call(&c, "DELETE", &format!("{all}/ext"), &Value::Null).await;
    assert_eq!(call(&c, "POST", all, &service(port)).await.0, 201);
    assert_eq!(reason(&c, "EndpointsNotFound").await["message"], r#"cannot find endpointslices for service/ext in "default""#);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "ext", "labels": {"kubernetes.io/service-name": "ext"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": false}}], "ports": [{"port": 1}]});
    assert_eq!(call(&c, "POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.0, 201);
    assert_eq!(reason(&c, "MissingEndpoints").await["message"], r#"endpointslices for service/ext in "default" have no addresses with port name """#);
    call(&c, "DELETE", &format!("{all}/ext"), &Value::Null).await;
    assert_eq!(call(&c, "POST", all, &external(&x)).await.0, 201);
    assert_eq!(reason(&c, "Passed").await["message"], "all checks passed");
    x.broken.store(true, Ordering::Relaxed);
    // A change makes the server look again at once.
    let (code, v) = call(&c, "PATCH", OWN, &json!({"metadata": {"labels": {"look": "again"}}})).await;
    assert_eq!(code, 200, "{v}");
    let found = reason(&c, "FailedDiscoveryCheck").await;
    assert!(found["message"].as_str().is_some_and(|m| m.ends_with(&format!("bad status from https://localhost:{port}/apis/ext.example.com/v1: 500"))), "{found}");
}

#[tokio::test]
async fn discovery_and_openapi_show_it() {
    let (h, _x, c) = registered().await;
    let groups = get(&c, "/apis").await["groups"].clone();
    let names: Vec<&str> = groups.as_array().expect("groups").iter().map(|g| g["name"].as_str().expect("name")).collect();
    let at = names.iter().position(|n| *n == "ext.example.com").expect("it is there");
    assert_eq!((names[at - 1], names[at + 1]), ("autoscaling", "batch"));
    assert_eq!(get(&c, "/apis/ext.example.com").await, json!({"kind": "APIGroup", "apiVersion": "v1", "name": "ext.example.com",
        "versions": [{"groupVersion": "ext.example.com/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "ext.example.com/v1", "version": "v1"}}));
    assert_eq!(get(&c, "/apis/ext.example.com/v1").await["resources"][0]["name"], "flags");

    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let find = async || {
        let v = call_with(&c, "GET", "/apis", &accept, &Value::Null).await.1;
        v["items"].as_array().expect("items").iter().find(|g| g["metadata"]["name"] == "ext.example.com").cloned()
    };
    let mut g = find().await.expect("the group");
    for _ in 0..100 {
        if g["versions"][0]["freshness"] == "Current" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        g = find().await.expect("the group");
    }
    let kind = json!({"group": "ext.example.com", "version": "v1", "kind": "Flag"});
    assert_eq!(g["versions"], json!([{"version": "v1", "freshness": "Current", "resources": [{"resource": "flags", "responseKind": kind, "scope": "Namespaced", "singularResource": "flag",
        "verbs": ["get", "list"], "shortNames": ["fl"], "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get"]}]}]}]));

    let mut v2 = get(&c, "/openapi/v2").await;
    for _ in 0..100 {
        if !v2["definitions"]["com.example.Flag"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        v2 = get(&c, "/openapi/v2").await;
    }
    assert!(!v2["paths"]["/apis/ext.example.com/v1/flags"].is_null() && !v2["paths"]["/api/v1/pods"].is_null());
    assert!(v2["paths"]["/apis/other.example.com/v1/x"].is_null() && v2["definitions"]["com.example.Unused"].is_null());
    assert!(!v2["definitions"]["com.example.More"].is_null());
    assert_eq!(get(&c, "/openapi/v3").await["paths"]["apis/ext.example.com/v1"], json!({"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=AB"}));
    assert_eq!(get(&c, "/openapi/v3/apis/ext.example.com/v1?hash=AB").await["mine"], true);
    drop(h);
}
