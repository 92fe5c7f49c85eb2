//! MutatingAdmissionPolicy, as a client meets it.

mod common;

use http::Request;
use http_body_util::BodyExt;
use knarr_apiserver::UserInfo;
use kube::Client;
use serde_json::{Value, json};

const API: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn post(c: &Client, path: &str, body: &Value) -> (u16, Value) {
    let r = Request::post(path).header("content-type", "application/json").body(kube::client::Body::from(body.to_string().into_bytes())).expect("request");
    let answer = c.send(r).await.expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).expect("json"))
}

fn policy(name: &str, resource: &str, spec: &Value) -> Value {
    let mut all = json!({"failurePolicy": "Fail", "reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}]}});
    all.as_object_mut().expect("map").extend(spec.as_object().expect("map").clone());
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name}, "spec": all})
}

async fn bind(c: &Client, name: &str, resource: &str, spec: Value, binding: Value) {
    let (code, v) = post(c, &format!("{API}/mutatingadmissionpolicies"), &policy(name, resource, &spec)).await;
    assert_eq!(code, 201, "{v}");
    let mut all = json!({"policyName": name});
    all.as_object_mut().expect("map").extend(binding.as_object().expect("map").clone());
    let b = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": format!("{name}-b")}, "spec": all});
    let (code, v) = post(c, &format!("{API}/mutatingadmissionpolicybindings"), &b).await;
    assert_eq!(code, 201, "{v}");
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

async fn client() -> (common::Harness, Client) {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    (h, c)
}

#[tokio::test]
async fn a_sidecar_is_merged_into_pods() {
    let (_h, c) = client().await;
    post(&c, "/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let spec = json!({
        "matchConditions": [{"name": "none-yet", "expression": "!object.spec.?initContainers.orValue([]).exists(c, c.name == 'mesh')"}],
        "variables": [{"name": "image", "expression": "'mesh/' + object.metadata.name"}],
        "mutations": [apply("Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'mesh', image: variables.image, restartPolicy: 'Always'}]}}")],
    });
    bind(&c, "mesh", "pods", spec, json!({})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "own", "image": "i"}], "containers": [{"name": "c", "image": "i"}]}});
    let (code, v) = post(&c, "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(code, 201, "{v}");
    let init: Vec<(&str, &str)> = v["spec"]["initContainers"].as_array().expect("a list").iter().map(|c| (c["name"].as_str().unwrap_or(""), c["image"].as_str().unwrap_or(""))).collect();
    assert_eq!(init, [("own", "i"), ("mesh", "mesh/p")]);
    // It is defaulted, and gets what the plugins give to every container.
    let mesh = &v["spec"]["initContainers"][1];
    assert_eq!((&mesh["imagePullPolicy"], &mesh["restartPolicy"]), (&json!("Always"), &json!("Always")));
    assert_eq!(mesh["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
}

#[tokio::test]
async fn patches_are_made_with_parameters() {
    let (_h, c) = client().await;
    assert_eq!(post(&c, MAPS, &map("settings", json!({"team": "red/blue"}))).await.0, 201);
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "mutations": [
            patch("[JSONPatch{op: 'add', path: '/metadata/labels', value: {'a/b': 'x'}}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/team'), value: 'is-' + string(size(params.data.team))}]"),
            // What fails its test changes nothing.
            patch("[JSONPatch{op: 'add', path: '/data/no', value: 'no'}, JSONPatch{op: 'test', path: '/data/k', value: 'other'}]"),
            apply("Object{data: {'seen': string(has(object.metadata.labels))}}"),
        ],
    });
    bind(&c, "teams", "configmaps", spec, json!({"paramRef": {"name": "settings", "namespace": "default", "parameterNotFoundAction": "Deny"}})).await;
    let (code, v) = post(&c, MAPS, &map("m", json!({"k": "v"}))).await;
    assert_eq!(code, 201, "{v}");
    assert_eq!(v["metadata"]["labels"], json!({"a/b": "x", "example.com/team": "is-8"}));
    assert_eq!(v["data"], json!({"k": "v", "seen": "true"}));
}

#[tokio::test]
async fn failures_are_told_or_ignored() {
    let (_h, c) = client().await;
    let bad = |name: &str, expression: &str, policy: &str| (name.to_owned(), json!({"failurePolicy": policy, "matchConditions": [{"name": "one", "expression": format!("object.metadata.name == '{name}'")}], "mutations": [apply(expression)]}));
    for (name, spec) in [
        bad("key", "Object{data: {'a': object.data.missing}}", "Fail"),
        bad("name", "Object{metadata: Object.wrong{labels: {'a': 'b'}}}", "Fail"),
        bad("sets", "Object{metadata: Object.metadata{finalizers: ['a.b/c']}, immutable: true}", "Fail"),
        bad("calm", "Object{data: {'a': object.data.missing}}", "Ignore"),
    ] {
        bind(&c, &name, "configmaps", spec, json!({})).await;
    }
    let denied = async |name: &str| {
        let (code, v) = post(&c, MAPS, &map(name, json!({}))).await;
        assert_eq!((code, &v["reason"]), (403, &json!("Invalid")), "{v}");
        v["message"].as_str().expect("a message").to_owned()
    };
    let message = denied("key").await;
    assert!(message.starts_with("policy 'key' with binding 'key-b' denied request: expression ") && message.ends_with("resulted in error: no such key: data"), "{message}");
    let message = denied("name").await;
    assert_eq!(message, r#"policy 'name' with binding 'name-b' denied request: type mismatch: unexpected type name "Object.wrong", expected "Object.metadata", which matches field name path from root Object type"#);
    let (code, v) = post(&c, MAPS, &map("calm", json!({}))).await;
    assert_eq!(code, 201, "{v}");
    let (code, v) = post(&c, MAPS, &map("sets", json!({}))).await;
    assert_eq!((code, &v["metadata"]["finalizers"], &v["immutable"]), (201, &json!(["a.b/c"]), &json!(true)), "{v}");

    let wrong = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["x"]}]},
        "mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}, apply("'text'"), {"patchType": "Magic"}]});
    let (code, v) = post(&c, &format!("{API}/mutatingadmissionpolicies"), &policy("wrong", "x", &wrong)).await;
    let fields: Vec<&str> = v["details"]["causes"].as_array().expect("causes").iter().filter_map(|c| c["field"].as_str()).collect();
    assert_eq!((code, fields), (422, vec!["spec.matchConstraints.resourceRules.operations", "spec.mutations[0].jsonPatch", "spec.mutations[0].applyConfiguration", "spec.mutations[1].applyConfiguration.expression", "spec.mutations[2].patchType"]), "{v}");
}

#[tokio::test]
async fn atomic_lists_are_left_alone() {
    let (_h, c) = client().await;
    post(&c, "/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    bind(&c, "args", "pods", json!({"mutations": [apply("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', args: ['x']}]}}")]}), json!({})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, v) = post(&c, "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!((code, v["message"].as_str()), (403, Some("policy 'args' with binding 'args-b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args")));
}

#[tokio::test]
async fn policies_see_what_others_have_changed() {
    let (_h, c) = client().await;
    let when = |label: &str, adds: &str, again: &str| {
        json!({"reinvocationPolicy": again, "matchConditions": [{"name": "there", "expression": format!("'{label}' in object.data")}], "mutations": [apply(&format!("Object{{data: {{'{adds}': 'yes'}}}}"))]})
    };
    bind(&c, "a-late", "configmaps", json!({"reinvocationPolicy": "IfNeeded", "mutations": [apply("Object{data: {'late': string('two' in object.data)}}")]}), json!({})).await;
    bind(&c, "b-once", "configmaps", json!({"mutations": [apply("Object{data: {'once': string('two' in object.data)}}")]}), json!({})).await;
    bind(&c, "c-two", "configmaps", when("one", "two", "Never"), json!({})).await;
    let (code, v) = post(&c, MAPS, &map("m", json!({"one": "yes"}))).await;
    assert_eq!((code, &v["data"]), (201, &json!({"one": "yes", "two": "yes", "late": "true", "once": "false"})), "{v}");
}
