//! Admission policies in CEL, as a client meets them.

mod common;

use http::Request;
use knarr_apiserver::UserInfo;
use kube::Client;
use serde_json::{Value, json};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The answer of a POST: its code, reason and message, or the object.
async fn post(c: &Client, path: &str, body: &Value) -> (u16, String, String) {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("request");
    match c.request_text(request).await {
        Ok(t) => (201, String::new(), t),
        Err(kube::Error::Api(s)) => (s.code, s.reason.clone(), s.message.clone()),
        Err(e) => panic!("{e}"),
    }
}

async fn bind(c: &Client, name: &str, spec: Value, binding: Value) {
    let mut all = json!({"matchConstraints": {"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}});
    all.as_object_mut()
        .expect("map")
        .extend(spec.as_object().expect("map").clone());
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": all});
    assert_eq!(post(c, POLICIES, &policy).await.0, 201);
    let mut all = json!({"policyName": name, "validationActions": ["Deny"]});
    all.as_object_mut()
        .expect("map")
        .extend(binding.as_object().expect("map").clone());
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": format!("{name}-b")}, "spec": all});
    assert_eq!(post(c, BINDINGS, &binding).await.0, 201);
    // What is read sees every write before it, so admission does from now on.
    let read = Request::get(format!("{BINDINGS}/{name}-b"))
        .body(Vec::new())
        .expect("request");
    c.request_text(read).await.expect("the binding");
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

async fn client() -> (common::Harness, Client) {
    let h = common::start().await;
    let c = h
        .server
        .client(UserInfo::new("admin", vec!["system:masters"]));
    (h, c)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_policy_denies_with_its_message() {
    let (_h, c) = client().await;
    let spec = json!({
        "variables": [{"name": "size", "expression": "size(object.data)"}, {"name": "big", "expression": "variables.size > 1"}],
        "validations": [
            {"expression": "!variables.big", "messageExpression": "'too many keys: ' + string(variables.size)", "reason": "Forbidden"},
            {"expression": "namespaceObject.metadata.name == 'default'", "message": "elsewhere"},
            {"expression": "!('x' in object.data)"},
        ],
    });
    bind(&c, "small", spec, json!({})).await;
    assert_eq!(post(&c, MAPS, &map("fits", json!({"a": "1"}))).await.0, 201);
    let (code, reason, message) = post(&c, MAPS, &map("big", json!({"a": "1", "b": "2"}))).await;
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'small-b' denied request: too many keys: 2"
    );
    let (code, reason, message) = post(&c, MAPS, &map("x", json!({"x": "1"}))).await;
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(
        message.ends_with("denied request: failed expression: !('x' in object.data)"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_expression_denies_unless_failures_are_ignored() {
    let (_h, c) = client().await;
    let validations = json!([{"expression": "object.data.missing == 'x'"}]);
    bind(
        &c,
        "lax",
        json!({"failurePolicy": "Ignore", "validations": validations}),
        json!({}),
    )
    .await;
    assert_eq!(post(&c, MAPS, &map("one", json!({"a": "1"}))).await.0, 201);
    bind(&c, "strict", json!({"validations": validations}), json!({})).await;
    let (code, _, message) = post(&c, MAPS, &map("two", json!({"a": "1"}))).await;
    assert_eq!(code, 422);
    assert!(
        message.ends_with(
            "expression 'object.data.missing == 'x'' resulted in error: no such key: missing"
        ),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_selectors_and_conditions_decide() {
    let (_h, c) = client().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "named", "expression": "object.metadata.name.startsWith('checked')"}],
        "validations": [{"expression": "object.data.level == params.data.level", "message": "wrong level"}],
    });
    bind(&c, "level", spec, json!({
        "paramRef": {"name": "params", "namespace": "default", "parameterNotFoundAction": "Deny"},
        "matchResources": {"objectSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]}},
    })).await;
    let (code, _, message) = post(&c, MAPS, &map("checked-0", json!({"level": "1"}))).await;
    assert_eq!(code, 422);
    assert!(
        message.contains("no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{message}"
    );
    assert_eq!(
        post(&c, MAPS, &map("other", json!({}))).await.0,
        422,
        "the parameter's absence counts before conditions"
    );
    let mut params = map("params", json!({"level": "7"}));
    params["metadata"]["labels"] = json!({"free": "yes"});
    assert_eq!(post(&c, MAPS, &params).await.0, 201);
    assert_eq!(post(&c, MAPS, &map("other", json!({}))).await.0, 201);
    assert_eq!(
        post(&c, MAPS, &map("checked-1", json!({"level": "7"})))
            .await
            .0,
        201
    );
    let (code, _, message) = post(&c, MAPS, &map("checked-2", json!({"level": "1"}))).await;
    assert_eq!(code, 422);
    assert!(message.ends_with("wrong level"), "{message}");
    let mut free = map("checked-3", json!({"level": "1"}));
    free["metadata"]["labels"] = json!({"free": "yes"});
    assert_eq!(post(&c, MAPS, &free).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_that_cannot_be_compiled_are_refused() {
    let (_h, c) = client().await;
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": []},
        "validations": [{"expression": "object.("}, {"expression": "'text'"}, {"expression": "true", "messageExpression": "1"}]}});
    let (code, _, message) = post(&c, POLICIES, &policy).await;
    assert_eq!(code, 422);
    let composed = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": []},
        "variables": [{"name": "n", "expression": "1 + 2"}, {"name": "m", "expression": "variables.n + 1"}],
        "validations": [{"expression": "variables.m == 4"}, {"expression": "variables.other == 4"}, {"expression": "variables.n == 'x'"}]}});
    let refused = post(&c, POLICIES, &composed).await.2;
    assert!(refused.contains("spec.validations[1].expression: Invalid value: \"variables.other == 4\": compilation failed: ERROR: <input>:1:10: undefined field 'other'"), "{refused}");
    assert!(refused.contains("found no matching overload for '_==_' applied to '(int, string)'") && !refused.contains("validations[0]"), "{refused}");
    for part in [
        "spec.validations[0].expression: Invalid value: \"object.(\": compilation failed",
        "spec.validations[1].expression: Invalid value: \"'text'\": must evaluate to bool but got string",
        "spec.validations[2].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let none = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": []}}});
    assert!(
        post(&c, POLICIES, &none)
            .await
            .2
            .contains("validations or auditAnnotations must contain at least one item")
    );
}
