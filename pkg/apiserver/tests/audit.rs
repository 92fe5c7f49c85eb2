//! The audit log.

mod common;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use knarr_apiserver::{AuditConfig, AuditDelivery, AuditMode, AuditPolicy, LogFile, RemoteService, UserInfo};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

async fn send(c: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> u16 {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let mut r = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    for (k, v) in headers {
        r = r.header(*k, *v);
    }
    let answer = c
        .send(r.body(kube::client::Body::from(bytes)).expect("request"))
        .await
        .expect("an answer");
    let code = answer.status().as_u16();
    let _ = answer.into_body().collect().await;
    code
}

/// The events of the log about one request, once there are so many.
async fn events(path: &std::path::Path, id: &str, many: usize) -> Vec<Value> {
    let mut found = Vec::new();
    for _ in 0..200 {
        let text = std::fs::read_to_string(path).expect("the log");
        found = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("JSON"))
            .filter(|e| e["auditID"] == id)
            .collect();
        if found.len() >= many {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{id}: {found:?}");
}

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: ["/livez*"]
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
- level: Request
  verbs: [create]
  resources: [{group: "", resources: ["pods"]}]
- level: Metadata
  omitStages: []
"#;

#[tokio::test]
async fn requests_are_recorded_as_the_policy_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("audit.log");
    let policy = AuditPolicy::parse(POLICY).expect("a policy");
    let h = common::start_with(|c| {
        c.audit = Some(AuditConfig {
            policy,
            log: Some((LogFile::new(&log), AuditDelivery::log())),
            webhook: None,
        })
    })
    .await;
    let c = h.server.client(UserInfo::admin());
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
    assert_eq!(
        send(
            &c,
            "POST",
            &format!("{maps}?dryRun=All"),
            &[("audit-id", "one"), ("user-agent", "test/1")],
            &map
        )
        .await,
        201
    );
    let all = events(&log, "one", 1).await;
    let e = &all[0];
    assert_eq!(
        (
            all.len(),
            &e["kind"],
            &e["apiVersion"],
            &e["level"],
            &e["stage"]
        ),
        (
            1,
            &json!("Event"),
            &json!("audit.k8s.io/v1"),
            &json!("RequestResponse"),
            &json!("ResponseComplete")
        )
    );
    assert_eq!(
        (&e["verb"], &e["requestURI"], &e["userAgent"]),
        (
            &json!("create"),
            &json!(format!("{maps}?dryRun=All")),
            &json!("test/1")
        )
    );
    assert_eq!(
        e["user"],
        json!({"username": "system:apiserver", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!(
        e["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"})
    );
    assert_eq!(
        (
            &e["responseStatus"]["code"],
            &e["requestObject"]["data"],
            &e["responseObject"]["data"]
        ),
        (&json!(201), &json!({"k": "v"}), &json!({"k": "v"}))
    );
    assert!(
        e["responseObject"]["metadata"]["uid"].is_string()
            && e["responseObject"]["metadata"]
                .get("managedFields")
                .is_none(),
        "{e}"
    );
    assert_eq!(e["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(e["requestReceivedTimestamp"].is_string() && e["stageTimestamp"].is_string());

    // A refusal tells why; PodSecurity leaves its notes.
    for (name, labels) in [(
        "strict",
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"}),
    )] {
        send(&c, "POST", "/api/v1/namespaces", &[], &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})).await;
        send(
            &c,
            "POST",
            &format!("/api/v1/namespaces/{name}/serviceaccounts"),
            &[],
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(
        send(
            &c,
            "POST",
            "/api/v1/namespaces/strict/pods",
            &[("audit-id", "two")],
            &pod
        )
        .await,
        403
    );
    let e = &events(&log, "two", 1).await[0];
    assert_eq!(
        (
            &e["level"],
            &e["responseStatus"]["reason"],
            &e["requestObject"]["spec"]["hostNetwork"]
        ),
        (&json!("Request"), &json!("Forbidden"), &json!(true))
    );
    assert!(
        e["responseStatus"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("violates PodSecurity"))
            && e.get("responseObject").is_none()
    );
    assert_eq!(
        e["annotations"]["pod-security.kubernetes.io/enforce-policy"],
        "baseline:latest"
    );
    assert!(
        e["annotations"]["pod-security.kubernetes.io/audit-violations"]
            .as_str()
            .is_some_and(|v| v
                .starts_with(r#"would violate PodSecurity "restricted:latest": host namespaces"#)),
        "{e}"
    );

    // Over the network: the address, impersonation, a watch from its beginning to its end, nobody.
    let file = Kubeconfig::from_yaml(&h.kubeconfig).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file.clone(), &KubeConfigOptions::default())
        .await
        .expect("config");
    let net = Client::try_from(config).expect("client");
    assert_eq!(
        send(
            &net,
            "GET",
            "/api/v1/namespaces/default/secrets",
            &[("audit-id", "three"), ("impersonate-user", "jane")],
            &Value::Null
        )
        .await,
        403
    );
    let e = &events(&log, "three", 1).await[0];
    assert_eq!(
        (
            &e["sourceIPs"],
            &e["impersonatedUser"]["username"],
            &e["user"]["username"]
        ),
        (
            &json!(["127.0.0.1"]),
            &json!("jane"),
            &json!("kubernetes-admin")
        )
    );
    assert_eq!(e["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        send(
            &net,
            "GET",
            "/api/v1/services?watch=1&timeoutSeconds=1",
            &[("audit-id", "four")],
            &Value::Null
        )
        .await,
        200
    );
    let stages: Vec<Value> = events(&log, "four", 2)
        .await
        .iter()
        .map(|e| e["stage"].clone())
        .collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
    let mut file = file;
    for named in &mut file.auth_infos {
        named.auth_info =
            Some(serde_json::from_value(json!({"token": "nonsense"})).expect("shape"));
    }
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .expect("config");
    let stranger = Client::try_from(config).expect("client");
    assert_eq!(
        send(
            &stranger,
            "GET",
            "/api/v1/nodes",
            &[("audit-id", "five")],
            &Value::Null
        )
        .await,
        401
    );
    let e = &events(&log, "five", 1).await[0];
    assert_eq!(
        (&e["stage"], &e["responseStatus"]["code"], &e["user"]),
        (&json!("ResponseStarted"), &json!(401), &json!({}))
    );
    send(&c, "GET", "/livez", &[("audit-id", "six")], &Value::Null).await;
    send(
        &c,
        "GET",
        "/version",
        &[("audit-id", "seven")],
        &Value::Null,
    )
    .await;
    assert_eq!(events(&log, "seven", 1).await[0]["requestURI"], "/version");
    assert!(
        !std::fs::read_to_string(&log)
            .expect("the log")
            .contains(r#""six""#)
    );
}

#[test]
fn policies_are_checked() {
    let bad = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [Never]\nrules:\n- level: Much\n- nonResourceURLs: ['x', '/a*b']\n  level: Metadata\n  namespaces: [n]\n";
    let text = AuditPolicy::parse(bad).expect_err("it is wrong");
    for part in [
        r#"omitStages[0]: Invalid value: "Never": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"#,
        r#"rules[0].level: Unsupported value: "Much": supported values: "Metadata", "None", "Request", "RequestResponse""#,
        r#"rules[1].nonResourceURLs[0]: Invalid value: "x": non-resource URL rules must begin with a '/' character"#,
        r#"rules[1].nonResourceURLs[1]: Invalid value: "/a*b": non-resource URL wildcards '*' must be the final character of the rule"#,
        "rules cannot apply to both regular resources and non-resource URLs",
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
    assert!(AuditPolicy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n").is_err());
}

#[tokio::test]
async fn a_full_log_is_set_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("audit.log");
    let policy = AuditPolicy::parse(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n",
    )
    .expect("a policy");
    let file = LogFile {
        max_bytes: 2000,
        max_backups: 2,
        ..LogFile::new(&log)
    };
    let h = common::start_with(|c| {
        c.audit = Some(AuditConfig {
            policy,
            log: Some((file, AuditDelivery::log())),
            webhook: None,
        })
    })
    .await;
    let c = h.server.client(UserInfo::admin());
    for n in 0..20 {
        send(
            &c,
            "GET",
            "/version",
            &[("audit-id", &format!("id-{n}"))],
            &Value::Null,
        )
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    events(&log, "id-19", 1).await;
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .expect("folder")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        (
            names.len(),
            names
                .iter()
                .filter(|n| n.starts_with("audit-") && n.ends_with(".log"))
                .count()
        ),
        (3, 2),
        "{names:?}"
    );
    assert!(std::fs::metadata(&log).expect("the log").len() <= 2000);
}

/// A service that takes lists of events, and the lists.
async fn service() -> (RemoteService, tokio::sync::mpsc::UnboundedReceiver<Value>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let url = format!("http://{}/audit", listener.local_addr().expect("address"));
    let (send_list, lists) = tokio::sync::mpsc::unbounded_channel::<Value>();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let lists = send_list.clone();
            let service = hyper::service::service_fn(move |r: Request<hyper::body::Incoming>| {
                let lists = lists.clone();
                async move {
                    let bytes = r.into_body().collect().await.expect("body").to_bytes();
                    lists
                        .send(serde_json::from_slice(&bytes).expect("json"))
                        .expect("sent");
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service),
            );
        }
    });
    let config = json!({"clusters": [{"name": "c", "cluster": {"server": url}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": ""}}], "current-context": "x"});
    let remote = RemoteService::parse(&config.to_string(), dir()).expect("a kubeconfig");
    (remote, lists)
}

#[tokio::test]
async fn a_service_takes_events_in_lists() {
    let (remote, mut lists) = service().await;
    let policy = AuditPolicy::parse(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n",
    )
    .expect("a policy");
    let h = common::start_with(|c| {
        c.audit = Some(AuditConfig {
            policy,
            log: None,
            webhook: Some((remote, AuditDelivery::webhook())),
        })
    })
    .await;
    let c = h.server.client(UserInfo::admin());
    for _ in 0..200 {
        send(&c, "GET", "/version", &[], &Value::Null).await;
    }
    let list = lists.recv().await.expect("a list");
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("EventList"), &json!("audit.k8s.io/v1"))
    );
    let items = list["items"].as_array().expect("items");
    // Requests of the server's own may come in between.
    let at = |stage: &str, id: &Value| {
        items.iter().position(|i| {
            i["requestURI"] == "/version"
                && i["stage"] == stage
                && (id.is_null() || i["auditID"] == *id)
        })
    };
    let received = at("RequestReceived", &Value::Null).expect("a request");
    let complete = at("ResponseComplete", &items[received]["auditID"]).expect("its end");
    assert!(received < complete, "{received} {complete}");
    assert_eq!(items.len(), 400);
    assert_eq!(items[399]["requestURI"], "/version");
}

#[tokio::test]
async fn requests_wait_for_what_blocks() {
    let (remote, mut lists) = service().await;
    let policy = AuditPolicy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n").expect("a policy");
    let how = AuditDelivery { mode: AuditMode::Blocking, ..AuditDelivery::webhook() };
    let h = common::start_with(|c| c.audit = Some(AuditConfig { policy, log: None, webhook: Some((remote, how)) })).await;
    let c = h.server.client(UserInfo::admin());
    send(&c, "GET", "/version", &[("audit-id", "mine")], &Value::Null).await;
    let mut stages = Vec::new();
    while let Ok(list) = lists.try_recv() {
        for e in list["items"].as_array().expect("items").iter().filter(|e| e["auditID"] == "mine") {
            stages.push(e["stage"].as_str().expect("stage").to_owned());
        }
    }
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_if_so_wanted() {
    for (mode, code) in [(AuditMode::BlockingStrict, 500), (AuditMode::Blocking, 200)] {
        let policy = AuditPolicy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, nonResourceURLs: [/version]}]\n").expect("a policy");
        // A disk that is full.
        let log = Some((LogFile::new("/dev/full"), AuditDelivery { mode, ..AuditDelivery::log() }));
        let h = common::start_with(|c| c.audit = Some(AuditConfig { policy, log, webhook: None })).await;
        let c = h.server.client(UserInfo::admin());
        assert_eq!(send(&c, "GET", "/version", &[], &Value::Null).await, code);
    }
}

#[tokio::test]
async fn what_waits_is_delivered_before_the_end() {
    let (remote, mut lists) = service().await;
    let policy = AuditPolicy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n").expect("a policy");
    let h = common::start_with(|c| c.audit = Some(AuditConfig { policy, log: None, webhook: Some((remote, AuditDelivery::webhook())) })).await;
    let c = h.server.client(UserInfo::admin());
    send(&c, "GET", "/version", &[("audit-id", "mine")], &Value::Null).await;
    h.server.shutdown().await;
    let list = lists.try_recv().expect("a list");
    assert!(list["items"].as_array().expect("items").iter().any(|e| e["auditID"] == "mine" && e["stage"] == "ResponseComplete"));
}

fn dir() -> &'static std::path::Path {
    std::path::Path::new("/")
}
