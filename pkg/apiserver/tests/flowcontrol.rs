//! Priority and fairness through the server: whose request it is, who waits, who is refused.

mod common;

use std::time::{Duration, Instant};

use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use knarr_apiserver::{AuthorizationMode, Config, UserInfo};
use kube::Client;
use serde_json::{Value, json};

const API: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Answer {
    code: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("text"))
    }
    fn value(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }
}

async fn call(c: &Client, method: &str, path: &str, body: Value) -> Answer {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", media).body(body.into()).expect("request");
    let reply = c.send(request).await.expect("an answer");
    let (code, headers) = (reply.status().as_u16(), reply.headers().clone());
    let bytes = reply.into_body().collect().await.expect("a body").to_bytes();
    Answer { code, headers, text: String::from_utf8_lossy(&bytes).into_owned() }
}

async fn start(set: impl FnOnce(&mut Config)) -> (common::Harness, Client) {
    let h = common::start_with(|c| {
        c.authorization = vec![AuthorizationMode::AlwaysAllow];
        set(c);
    })
    .await;
    let admin = h.server.client(UserInfo::admin());
    (h, admin)
}

fn level(name: &str, shares: u32, response: Value) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": name},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "borrowingLimitPercent": 0, "limitResponse": response}}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 50, "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})
}

/// Waits until something is so.
async fn eventually<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let begin = Instant::now();
    while !is().await {
        assert!(begin.elapsed() < Duration::from_secs(10), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes a level and its schema for a user, and waits until they are in force.
async fn give(admin: &Client, user: &Client, name: &str, shares: u32, response: Value) -> (String, String) {
    let made = call(admin, "POST", &format!("{API}/prioritylevelconfigurations"), level(name, shares, response)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let level_uid = made.value()["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let made = call(admin, "POST", &format!("{API}/flowschemas"), schema(name, name, name)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let uid = made.value()["metadata"]["uid"].as_str().expect("a uid").to_owned();
    eventually("the schema is in force", || async { call(user, "GET", "/version", Value::Null).await.header("x-kubernetes-pf-flowschema-uid") == uid }).await;
    (uid, level_uid)
}

/// A webhook that never answers, so that making a config map takes `seconds`.
async fn slow(admin: &Client, seconds: u32) -> tokio::net::TcpListener {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("https://{}/", listener.local_addr().expect("address"));
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "slow"},
        "webhooks": [{"name": "slow.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore", "timeoutSeconds": seconds,
            "clientConfig": {"url": url}, "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}]}]});
    let made = call(admin, "POST", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", hook).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let asked = || async { tokio::time::timeout(Duration::from_millis(200), call(admin, "POST", MAPS, map())).await.is_err() };
    eventually("the webhook is asked", asked).await;
    listener
}

fn map() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "m-"}})
}

fn uid_of(list: &Value, name: &str) -> String {
    let all = list["items"].as_array().expect("items");
    let one = all.iter().find(|o| o["metadata"]["name"] == name).unwrap_or_else(|| panic!("there is no {name}"));
    one["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

#[tokio::test]
async fn every_answer_says_whose_it_is() {
    let (h, admin) = start(|c| c.authorization = vec![AuthorizationMode::Rbac]).await;
    let schemas = call(&admin, "GET", &format!("{API}/flowschemas"), Value::Null).await;
    let levels = call(&admin, "GET", &format!("{API}/prioritylevelconfigurations"), Value::Null).await.value();
    let is = |a: &Answer, schema: &str, level: &str| {
        assert_eq!(a.header("x-kubernetes-pf-flowschema-uid"), uid_of(&schemas.value(), schema), "{schema}");
        assert_eq!(a.header("x-kubernetes-pf-prioritylevel-uid"), uid_of(&levels, level), "{level}");
    };
    is(&schemas, "exempt", "exempt");
    let someone = h.server.client(UserInfo::new("someone", ["people"]));
    let refused = call(&someone, "GET", "/api/v1/pods", Value::Null).await;
    assert_eq!(refused.code, 403);
    is(&refused, "global-default", "global-default");
    is(&call(&someone, "GET", "/nowhere", Value::Null).await, "global-default", "global-default");
    let node = h.server.client(UserInfo::new("system:node:n", ["system:nodes"]));
    is(&call(&node, "GET", "/api/v1/nodes/n", Value::Null).await, "system-node-high", "node-high");
    is(&call(&node, "GET", "/api/v1/pods", Value::Null).await, "system-nodes", "system");
    let account = |ns: &str| h.server.client(UserInfo::new(format!("system:serviceaccount:{ns}:x"), ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{ns}")]));
    is(&call(&account("kube-system"), "GET", "/api/v1/pods", Value::Null).await, "kube-system-service-accounts", "workload-high");
    is(&call(&account("default"), "GET", "/api/v1/pods", Value::Null).await, "service-accounts", "workload-low");
    let manager = h.server.client(UserInfo::new("system:kube-controller-manager", ["x"]));
    is(&call(&manager, "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l", json!({})).await, "system-leader-election", "leader-election");
    is(&call(&manager, "GET", "/api/v1/pods", Value::Null).await, "kube-controller-manager", "workload-high");
    let nobody = h.server.client(UserInfo::anonymous());
    is(&call(&nobody, "GET", "/livez", Value::Null).await, "probes", "exempt");
    is(&call(&nobody, "GET", "/api/v1/pods", Value::Null).await, "global-default", "global-default");
    let outsider = h.server.client(UserInfo { name: "outsider".into(), ..UserInfo::default() });
    is(&call(&outsider, "GET", "/api/v1/pods", Value::Null).await, "catch-all", "catch-all");
    let watch = call(&admin, "GET", "/api/v1/namespaces?watch=1&timeoutSeconds=1", Value::Null).await;
    is(&watch, "exempt", "exempt");
}

#[tokio::test]
async fn one_level_that_is_full_does_not_hinder_another() {
    let (h, admin) = start(|c| (c.max_in_flight, c.request_timeout) = ((20, 10), Duration::from_secs(40))).await;
    let [flood, calm] = ["flood", "calm"].map(|u| h.server.client(UserInfo::new(u, ["people"])));
    let queue = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}});
    let (schema_uid, level_uid) = give(&admin, &flood, "flood", 1, queue).await;
    let _listener = slow(&admin, 2).await;
    let begin = Instant::now();
    // One runs, two wait.
    let three: Vec<_> = (0..3).map(|_| tokio::spawn({ let c = flood.clone(); async move { call(&c, "POST", MAPS, map()).await } })).collect();
    eventually("two wait", || async { call(&admin, "GET", "/metrics", Value::Null).await.text.contains("apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"flood\",priority_level=\"flood\"} 2\n") }).await;
    let refused = call(&flood, "GET", "/api/v1/namespaces/default", Value::Null).await;
    assert_eq!((refused.code, refused.text.as_str()), (429, "Too many requests, please try again later.\n"));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!((refused.header("x-kubernetes-pf-flowschema-uid"), refused.header("x-kubernetes-pf-prioritylevel-uid")), (schema_uid.as_str(), level_uid.as_str()));
    // Others are served meanwhile, the administrator too.
    for c in [&calm, &admin] {
        assert_eq!(call(c, "GET", "/api/v1/namespaces/default", Value::Null).await.code, 200);
    }
    let page = call(&admin, "GET", "/debug/api_priority_and_fairness/dump_priority_levels", Value::Null).await.text;
    let row: Vec<&str> = page.lines().find(|l| l.starts_with("flood,")).expect("a row").split(',').map(str::trim).collect();
    assert_eq!(row[1..6], ["1", "false", "false", "2", "1"], "{page}");
    assert_eq!(row[7], "1", "{page}");
    let page = call(&admin, "GET", "/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1", Value::Null).await.text;
    let rows: Vec<Vec<&str>> = page.lines().filter(|l| l.starts_with("flood,")).map(|l| l.split(',').map(str::trim).collect()).collect();
    let of = |r: &[&str]| [r[1], r[2], r[3], r[4], r[10], r[11], r[16]].map(str::to_owned);
    assert_eq!(rows.iter().map(|r| of(r)).collect::<Vec<_>>(), ["0", "1", "-1"].map(|i| ["flood", "0", i, "flood", "flood", "create", "configmaps"].map(str::to_owned)), "{page}");
    let page = call(&admin, "GET", "/debug/api_priority_and_fairness/dump_queues", Value::Null).await.text;
    assert!(page.starts_with("PriorityLevelName, Index,  PendingRequests, ExecutingRequests, SeatsInUse, NextDispatchR,"), "{page}");
    assert!(begin.elapsed() < Duration::from_secs(2), "the slow requests ended before the test looked");
    for t in three {
        assert_eq!(t.await.expect("it ends").code, 201);
    }
    assert!(begin.elapsed() >= Duration::from_secs(6), "one after the other");
    let text = call(&admin, "GET", "/metrics", Value::Null).await.text;
    for line in [
        "rejected_requests_total{flow_schema=\"flood\",priority_level=\"flood\",reason=\"queue-full\"} 1",
        "nominal_limit_seats{priority_level=\"flood\"} 1",
        "upper_limit_seats{priority_level=\"flood\"} 1",
        "current_inqueue_requests{flow_schema=\"flood\",priority_level=\"flood\"} 0",
        "current_executing_seats{flow_schema=\"flood\",priority_level=\"flood\"} 0",
    ] {
        assert!(text.contains(&format!("apiserver_flowcontrol_{line}\n")), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_a_quarter_of_its_time() {
    let (h, admin) = start(|c| (c.max_in_flight, c.request_timeout) = ((20, 10), Duration::from_secs(3))).await;
    let busy = h.server.client(UserInfo::new("busy", ["people"]));
    give(&admin, &busy, "busy", 1, json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 9}})).await;
    let _listener = slow(&admin, 2).await;
    let first = tokio::spawn({ let c = busy.clone(); async move { call(&c, "POST", MAPS, map()).await } });
    eventually("one runs", || async { call(&admin, "GET", "/metrics", Value::Null).await.text.contains("current_executing_requests{flow_schema=\"busy\",priority_level=\"busy\"} 1\n") }).await;
    let begin = Instant::now();
    let late = call(&busy, "GET", "/version", Value::Null).await;
    assert_eq!((late.code, late.header("retry-after")), (429, "1"));
    assert!((Duration::from_millis(700)..Duration::from_millis(1700)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    // A client that goes away leaves its place.
    let gone = tokio::time::timeout(Duration::from_millis(50), call(&busy, "GET", "/version", Value::Null)).await;
    assert!(gone.is_err());
    let text = call(&admin, "GET", "/metrics", Value::Null).await.text;
    assert!(text.contains("current_inqueue_requests{flow_schema=\"busy\",priority_level=\"busy\"} 0\n"), "{text}");
    assert!(text.contains("rejected_requests_total{flow_schema=\"busy\",priority_level=\"busy\",reason=\"time-out\"} 2\n"), "{text}");
    assert_eq!(first.await.expect("it ends").code, 201);
    assert_eq!(call(&busy, "GET", "/version", Value::Null).await.code, 200);
}

#[tokio::test]
async fn a_request_ends_when_its_time_is_over() {
    let (_h, admin) = start(|c| c.request_timeout = Duration::from_secs(30)).await;
    let _listener = slow(&admin, 5).await;
    let begin = Instant::now();
    let late = call(&admin, "POST", &format!("{MAPS}?timeout=300ms"), map()).await;
    assert_eq!((late.code, &late.value()["reason"], &late.value()["message"]), (504, &json!("Timeout"), &json!("Timeout: request did not complete within the allotted timeout")));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let wrong = call(&admin, "GET", "/api/v1/namespaces?timeout=soon", Value::Null).await;
    assert_eq!((wrong.code, &wrong.value()["message"]), (400, &json!("invalid timeout specified in the request URL - time: invalid duration \"soon\"")));
    assert_eq!(call(&admin, "GET", "/api/v1/namespaces?timeout=0s", Value::Null).await.code, 200);
}

#[tokio::test]
async fn without_it_each_kind_of_requests_has_its_limit() {
    let (h, admin) = start(|c| (c.priority_and_fairness, c.max_in_flight) = (false, (5, 1))).await;
    let _listener = slow(&admin, 2).await;
    let someone = h.server.client(UserInfo::new("someone", ["people"]));
    let first = tokio::spawn({ let c = someone.clone(); async move { call(&c, "POST", MAPS, map()).await } });
    eventually("one runs", || async { call(&admin, "GET", "/metrics", Value::Null).await.text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1\n") }).await;
    let refused = call(&someone, "POST", "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    assert_eq!((refused.code, refused.text.as_str(), refused.header("retry-after")), (429, "Too many requests, please try again later.\n", "1"));
    assert_eq!(refused.header("x-kubernetes-pf-flowschema-uid"), "");
    assert_eq!(call(&someone, "GET", "/version", Value::Null).await.code, 200);
    let by_admin = call(&admin, "POST", "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    assert_eq!(by_admin.code, 201, "{}", by_admin.text);
    assert_eq!(first.await.expect("it ends").code, 201);
}

#[tokio::test]
async fn a_schema_says_whether_its_level_is_there() {
    let (_h, admin) = start(|_| ()).await;
    assert_eq!(call(&admin, "POST", &format!("{API}/flowschemas"), schema("lost", "missing", "lost")).await.code, 201);
    let path = format!("{API}/flowschemas/lost");
    let says = |status: &'static str| {
        let (admin, path) = (admin.clone(), path.clone());
        move || {
            let (admin, path) = (admin.clone(), path.clone());
            async move { call(&admin, "GET", &path, Value::Null).await.value()["status"]["conditions"][0]["status"] == status }
        }
    };
    eventually("it dangles", says("True")).await;
    let v = call(&admin, "GET", &path, Value::Null).await.value();
    let c = &v["status"]["conditions"][0];
    assert_eq!((&c["type"], &c["reason"]), (&json!("Dangling"), &json!("NotFound")));
    assert_eq!(c["message"], "This FlowSchema references the PriorityLevelConfiguration object named \"missing\" but there is no such object");
    let writers: Vec<&Value> = v["metadata"]["managedFields"].as_array().expect("writers").iter().filter(|m| m["subresource"] == "status").collect();
    assert_eq!(writers.len(), 1, "{v}");
    assert_eq!((&writers[0]["manager"], &writers[0]["operation"]), (&json!("api-priority-and-fairness-config-consumer-v1"), &json!("Apply")));
    let made = call(&admin, "POST", &format!("{API}/prioritylevelconfigurations"), level("missing", 1, json!({"type": "Reject"}))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    eventually("it does not dangle", says("False")).await;
    let v = call(&admin, "GET", &path, Value::Null).await.value();
    assert_eq!(v["status"]["conditions"][0]["message"], "This FlowSchema references the PriorityLevelConfiguration object named \"missing\" and it exists");
    // The bootstrap ones say so too.
    let v = call(&admin, "GET", &format!("{API}/flowschemas/catch-all"), Value::Null).await.value();
    assert_eq!(v["status"]["conditions"][0]["status"], "False", "{v}");
}

#[tokio::test]
async fn bootstrap_objects_are_kept_unless_their_owner_says_no() {
    let store = knarr_storage::open_memory().expect("store");
    let h = common::start_over(store.clone()).await;
    let admin = h.server.client(UserInfo::admin());
    let levels = format!("{API}/prioritylevelconfigurations");
    let v = call(&admin, "GET", &format!("{levels}/workload-low"), Value::Null).await.value();
    assert_eq!((&v["spec"]["limited"]["nominalConcurrencyShares"], &v["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"]), (&json!(100), &json!("true")), "{v}");
    assert_eq!(v["metadata"]["managedFields"][0]["manager"], "api-priority-and-fairness-config-producer-v1");
    let shares = |n: u32, auto: &str| json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": auto}}, "spec": {"limited": {"nominalConcurrencyShares": n}}});
    for (name, auto) in [("workload-low", "true"), ("workload-high", "false")] {
        let changed = call(&admin, "PATCH", &format!("{levels}/{name}"), shares(7, auto)).await;
        assert_eq!(changed.code, 200, "{}", changed.text);
    }
    assert_eq!(call(&admin, "DELETE", &format!("{levels}/system"), Value::Null).await.code, 200);
    // The mandatory ones cannot be changed at all.
    let refused = call(&admin, "PATCH", &format!("{levels}/catch-all"), json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}})).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.text.contains("spec of 'catch-all' must equal the fixed value"), "{}", refused.text);
    // A bootstrap object of another version of the server.
    let mut old = schema("old", "system", "old");
    old["metadata"]["annotations"] = json!({"apf.kubernetes.io/autoupdate-spec": "true"});
    assert_eq!(call(&admin, "POST", &format!("{API}/flowschemas"), old).await.code, 201);
    h.server.shutdown().await;
    let h = common::start_over(store).await;
    let admin = h.server.client(UserInfo::admin());
    for (name, is) in [("workload-low", 100), ("workload-high", 7), ("system", 30)] {
        let v = call(&admin, "GET", &format!("{levels}/{name}"), Value::Null).await.value();
        assert_eq!(v["spec"]["limited"]["nominalConcurrencyShares"], is, "{name}: {v}");
    }
    assert_eq!(call(&admin, "GET", &format!("{API}/flowschemas/old"), Value::Null).await.code, 404);
}
