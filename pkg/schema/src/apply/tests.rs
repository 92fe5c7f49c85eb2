use serde_json::json;

use super::*;
use crate::types::types;

fn writer<'w>(manager: &'w str) -> Writer<'w> {
    Writer { manager, api_version: "apps/v1", subresource: "", reset: &["status"], now: Instant { seconds: 1_700_000_000, nanos: 0 }, schema: None }
}

fn deployment() -> Option<&'static Type> {
    types().kind("apps", "v1", "Deployment")
}

fn base(replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}}})
}

#[test]
fn an_applier_owns_its_configuration() {
    let got = apply(None, &base(1, "i"), deployment(), &writer("me"), false).unwrap();
    assert_eq!(
        got["metadata"]["managedFields"],
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": "2023-11-14T22:13:20Z", "fieldsType": "FieldsV1", "fieldsV1": {
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                ".": {}, "f:name": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}
            }}}}}
        }}])
    );
}

#[test]
fn others_conflict_unless_forced() {
    let live = apply(None, &base(1, "i"), deployment(), &writer("one"), false).unwrap();
    let Err(Error::Conflict(status)) = apply(Some(&live), &base(2, "i"), deployment(), &writer("two"), false) else { panic!("no conflict") };
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    assert_eq!(status.code, 409);
    let forced = apply(Some(&live), &base(2, "i"), deployment(), &writer("two"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    let one = &forced["metadata"]["managedFields"][0];
    assert_eq!(one["manager"], "one");
    assert!(one["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    // Sharing the same value is no conflict.
    assert!(apply(Some(&live), &base(1, "i"), deployment(), &writer("two"), false).is_ok());
}

#[test]
fn what_is_left_out_goes_away() {
    let live = apply(None, &base(1, "i"), deployment(), &writer("me"), false).unwrap();
    let mut next = base(1, "i");
    next["metadata"] = json!({"name": "d"});
    next["spec"]["template"]["spec"]["containers"] = json!([{"name": "x", "image": "j"}]);
    let got = apply(Some(&live), &next, deployment(), &writer("me"), false).unwrap();
    assert!(got["metadata"].get("labels").is_none());
    assert_eq!(got["spec"]["template"]["spec"]["containers"], json!([{"name": "x", "image": "j"}]));
}

#[test]
fn updates_take_fields_over() {
    let live = apply(None, &base(1, "i"), deployment(), &writer("me"), false).unwrap();
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    new["metadata"]["annotations"] = json!({"k": "v"});
    new["status"] = json!({"replicas": 1});
    track(Some(&live), &mut new, deployment(), &writer("kubectl-edit"));
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["fieldsV1"], json!({"f:metadata": {"f:annotations": {".": {}, "f:k": {}}}, "f:spec": {"f:replicas": {}}}));
    assert!(entries[0]["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    let Err(Error::Conflict(status)) = apply(Some(&new), &base(1, "i"), deployment(), &writer("me"), false) else { panic!("no conflict") };
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.replicas");
    // An update without a change changes nobody.
    let mut again = new.clone();
    track(Some(&new), &mut again, deployment(), &Writer { now: Instant { seconds: 1_800_000_000, nanos: 0 }, ..writer("kubectl-edit") });
    assert_eq!(again, new);
}

#[test]
fn unknown_fields_are_refused() {
    let mut config = base(1, "i");
    config["spec"]["foo"] = 1.into();
    let error = apply(None, &config, deployment(), &writer("me"), false).unwrap_err();
    assert_eq!(error.to_string(), "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema");
}

/// Sequences of writes, each with what upstream's field manager made of it.
#[test]
fn sequences_are_upstreams() {
    use std::io::Read;
    let path = match std::env::var("KNARR_SCHEMA_GOLDEN") {
        Ok(path) => path.replace("golden.jsonl", "apply.jsonl"),
        Err(_) => concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/apply.jsonl.gz").into(),
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let (mut failures, mut checked) = (std::collections::BTreeMap::new(), 0);
    let cell = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let (group, version, kind) = (cell(&row, "Group"), cell(&row, "Version"), cell(&row, "Kind"));
        let ty = types().kind(&group, &version, &kind);
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let mut live: Option<Value> = None;
        for (i, step) in row["Steps"].as_array().into_iter().flatten().enumerate() {
            let manager = cell(step, "manager");
            let writer = Writer { manager: &manager, api_version: &api_version, subresource: "", reset: &[], now: Instant { seconds: 1_700_000_000, nanos: 0 }, schema: None };
            let mut object = step["object"].clone();
            let force = step["force"].as_bool().unwrap_or(false);
            let got = if cell(step, "operation") == "Apply" {
                apply(live.as_ref(), &object, ty, &writer, force).map_err(|e| e.to_string())
            } else {
                track(live.as_ref(), &mut object, ty, &writer);
                Ok(object)
            };
            checked += 1;
            let key = format!("{kind} step {i} {}", cell(step, "operation"));
            match (got, step.get("live"), cell(step, "error")) {
                (Ok(mut got), Some(want), _) => {
                    let mut want = want.clone();
                    let next = got.clone();
                    for v in [&mut got, &mut want] {
                        for entry in v.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
                            entry.as_object_mut().unwrap().remove("time");
                        }
                        if let Some(list) = v.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
                            list.sort_by_key(|e| format!("{}{}", e["operation"], e["manager"]));
                        }
                        v["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
                    }
                    live = Some(next);
                    if let Some(d) = crate::proto::tests::difference("", &got, &want) {
                        failures.insert(key, d);
                        break;
                    }
                }
                (Err(got), None, want) if got == want => {}
                // Upstream refuses duplicate keys, and so does validation before us.
                (_, None, want) if want.contains("duplicate entries") || want.contains("to smd typed") => break,
                (got, _, want) => {
                    failures.insert(key, format!("got {:?}, want {want}", got.err()));
                    break;
                }
            }
        }
    }
    crate::proto::tests::report("apply sequences", checked, &failures);
}

#[test]
fn lists_of_custom_resources_merge_by_their_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}}
    }}}});
    let by = |manager: &'static str| Writer { manager, api_version: "e/v1", subresource: "", reset: &[], now: Instant { seconds: 1_700_000_000, nanos: 0 }, schema: Some(&schema) };
    let object = |spec: Value| json!({"apiVersion": "e/v1", "kind": "W", "metadata": {"name": "w", "namespace": "d"}, "spec": spec});
    let first = apply(None, &object(json!({"ports": [{"name": "a", "n": 1}], "tags": ["x"], "plain": ["p"]})), None, &by("one"), false).expect("applied");
    let second = apply(Some(&first), &object(json!({"ports": [{"name": "b", "n": 2}], "tags": ["y"]})), None, &by("two"), false).expect("applied");
    assert_eq!(second["spec"]["ports"], json!([{"name": "a", "n": 1}, {"name": "b", "n": 2}]));
    assert_eq!(second["spec"]["tags"], json!(["x", "y"]));
    let owned = &second["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"]["f:ports"];
    assert_eq!(owned, &json!({"k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:n": {}}}));
    let error = apply(Some(&second), &object(json!({"plain": ["q"]})), None, &by("two"), false).expect_err("conflict");
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.plain");
    let third = apply(Some(&second), &object(json!({})), None, &by("two"), false).expect("applied");
    assert_eq!(third["spec"]["ports"], json!([{"name": "a", "n": 1}]));
    let error = apply(None, &object(json!({"other": 1})), None, &by("one"), false).expect_err("unknown");
    assert!(error.to_string().contains(".spec.other: field not declared in schema"), "{error}");
}
