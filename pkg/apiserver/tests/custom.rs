//! Custom resources: schemas, versions, subresources, names.

mod common;

use http::Request;
use kube::Client;
use knarr_apiserver::UserInfo;
use serde_json::{Value, json};

async fn call(c: &Client, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", media).body(body).expect("request");
    match c.request_text(request).await {
        Ok(t) => (200, serde_json::from_str(&t).unwrap_or(Value::String(t))),
        Err(kube::Error::Api(s)) => (s.code, json!({"message": s.message, "reason": s.reason})),
        Err(e) => panic!("{e}"),
    }
}

async fn post(c: &Client, path: &str, body: Value) -> (u16, Value) {
    call(c, "POST", path, "application/json", &body).await
}

async fn get(c: &Client, path: &str) -> (u16, Value) {
    call(c, "GET", path, "application/json", &Value::Null).await
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn crd() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
            "replicas": {"type": "integer"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}}
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}
    }});
    let sub = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": sub,
             "selectableFields": [{"jsonPath": ".spec.color"}],
             "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
            {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}
        ]}})
}

async fn served(c: &Client, path: &str) {
    for _ in 0..200 {
        if get(c, path).await.0 == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path} is not served");
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_schema_prunes_defaults_and_refuses() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    assert_eq!(post(&c, CRDS, crd()).await.0, 200);
    served(&c, WIDGETS).await;

    let (code, v) = post(&c, WIDGETS, widget("a", json!({"size": 2, "extra": 1}))).await;
    assert_eq!((code, &v["spec"]), (200, &json!({"size": 2, "color": "red"})), "{v}");
    assert_eq!(v["metadata"]["generation"], 1);
    let (code, v) = post(&c, &format!("{WIDGETS}?fieldValidation=Strict"), widget("b", json!({"size": 2, "extra": 1}))).await;
    assert_eq!(code, 400, "{v}");
    assert!(v["message"].as_str().is_some_and(|m| m.contains(r#"strict decoding error: unknown field "spec.extra""#)), "{v}");
    let mut odd = widget("b", json!({"size": 2}));
    odd["metadata"]["strange"] = json!(1);
    let (_, v) = post(&c, &format!("{WIDGETS}?fieldValidation=Strict"), odd).await;
    assert!(v["message"].as_str().is_some_and(|m| m.contains(r#"unknown field "metadata.strange""#)), "{v}");

    let (code, v) = post(&c, WIDGETS, widget("b", json!({"size": 0, "color": "green"}))).await;
    assert_eq!(code, 422);
    assert_eq!(v["message"], r#"Widget.example.com "b" is invalid: [spec.color: Unsupported value: "green": supported values: "red", "blue", spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1]"#);
    let (code, v) = post(&c, WIDGETS, widget("b", json!({"size": "x"}))).await;
    assert_eq!((code, v["message"].as_str()), (422, Some(r#"Widget.example.com "b" is invalid: spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#)));
    let (_, v) = post(&c, WIDGETS, widget("b", json!({}))).await;
    assert_eq!(v["message"], r#"Widget.example.com "b" is invalid: spec.size: Required value"#);

    // Subresources.
    let (code, v) = call(&c, "PATCH", &format!("{WIDGETS}/a/scale"), "application/merge-patch+json", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &v["spec"]["replicas"], v["kind"].as_str()), (200, &json!(3), Some("Scale")), "{v}");
    let (code, v) = call(&c, "PATCH", &format!("{WIDGETS}/a/status"), "application/merge-patch+json", &json!({"spec": {"size": 9}, "status": {"replicas": 3, "selector": "a=b"}})).await;
    assert_eq!((code, &v["spec"]["size"], &v["status"]["replicas"]), (200, &json!(2), &json!(3)), "{v}");
    let (_, v) = get(&c, &format!("{WIDGETS}/a/scale")).await;
    assert_eq!(v["status"], json!({"replicas": 3, "selector": "a=b"}));

    // Selectable fields, and another version of the same object.
    post(&c, WIDGETS, widget("blue", json!({"size": 1, "color": "blue"}))).await;
    let (_, v) = get(&c, &format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!(v["items"].as_array().map(Vec::len), Some(1), "{v}");
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let (_, v) = get(&c, &format!("{beta}/a")).await;
    assert_eq!((v["apiVersion"].as_str(), &v["spec"]["size"]), (Some("example.com/v1beta1"), &json!(2)), "{v}");
    let (_, v) = get(&c, &beta).await;
    assert_eq!(v["items"][1]["apiVersion"], "example.com/v1beta1", "{v}");
    let (code, _) = call(&c, "PATCH", &format!("{beta}/a"), "application/merge-patch+json", &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(code, 200);
    assert_eq!(get(&c, &format!("{WIDGETS}/a")).await.1["apiVersion"], "example.com/v1");

    // Server-side apply by the list's keys.
    let apply = |m: &str| format!("{WIDGETS}/a?fieldManager={m}");
    for (m, name) in [("one", "http"), ("two", "https")] {
        let mut o = widget("a", json!({"ports": [{"name": name, "n": 1}]}));
        o["metadata"]["namespace"] = json!("default");
        let (code, v) = call(&c, "PATCH", &apply(m), "application/apply-patch+yaml", &o).await;
        assert_eq!(code, 200, "{v}");
    }
    let (_, v) = get(&c, &format!("{WIDGETS}/a")).await;
    assert_eq!(v["spec"]["ports"].as_array().map(Vec::len), Some(2), "{v}");
    let (code, v) = call(&c, "PATCH", &apply("one"), "application/apply-patch+yaml", &widget("a", json!({"nothing": 1}))).await;
    assert_eq!(code, 400);
    assert!(v["message"].as_str().is_some_and(|m| m.contains(".spec.nothing: field not declared in schema")), "{v}");

    // Its documentation.
    let (_, v) = get(&c, "/openapi/v3/apis/example.com/v1").await;
    assert_eq!(v["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"]["minimum"], 1);
}

#[tokio::test]
async fn names_are_given_once() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    post(&c, CRDS, crd()).await;
    served(&c, WIDGETS).await;
    let mut second = crd();
    second["metadata"]["name"] = json!("gadgets.example.com");
    second["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    assert_eq!(post(&c, CRDS, second).await.0, 200);
    let mut found = Value::Null;
    for _ in 0..100 {
        found = get(&c, &format!("{CRDS}/gadgets.example.com")).await.1;
        if found["status"]["conditions"].is_array() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let conditions = &found["status"]["conditions"];
    assert_eq!((&conditions[0]["reason"], &conditions[0]["message"]), (&json!("ShortNamesConflict"), &json!(r#""wd" is already in use"#)), "{found}");
    assert_eq!(conditions[1]["reason"], "NotAccepted");
    assert_eq!(get(&c, "/apis/example.com/v1/namespaces/default/gadgets").await.0, 404);
    assert_eq!(call(&c, "DELETE", &format!("{CRDS}/widgets.example.com"), "application/json", &Value::Null).await.0, 200);
    served(&c, "/apis/example.com/v1/namespaces/default/gadgets").await;
}

#[tokio::test]
async fn bad_definitions_and_bodies_are_refused() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let mut bad = crd();
    bad["metadata"]["name"] = json!("other.example.com");
    bad["spec"]["versions"][1]["storage"] = json!(true);
    let (code, v) = post(&c, CRDS, bad).await;
    assert_eq!(code, 422);
    assert!(v["message"].as_str().is_some_and(|m| m.contains("must be spec.names.plural") && m.contains("must have exactly one version marked as storage version")), "{v}");
    post(&c, CRDS, crd()).await;
    served(&c, WIDGETS).await;
    for body in [json!([]), json!("x"), json!({"metadata": []}), json!({"metadata": {"name": 1}}), json!({"kind": 1}), json!({"spec": null, "metadata": {"name": "n"}}), json!({"metadata": {"name": "n"}, "spec": []})] {
        let (code, v) = post(&c, WIDGETS, body.clone()).await;
        assert!((400..500).contains(&code) || code == 200, "{body}: {code} {v}");
    }
    let (code, _) = call(&c, "PATCH", &format!("{WIDGETS}/n"), "application/json-patch+json", &json!([{"op": "replace", "path": "", "value": "x"}])).await;
    assert!((400..500).contains(&code), "{code}");
}
