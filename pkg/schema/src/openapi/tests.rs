//! Facts that clients look for in the documents.

use super::*;

fn apps() -> Value {
    v3(Catalog::builtin(), "apis/apps/v1", "v1.37.2").unwrap()
}

#[test]
fn the_index_names_every_group_and_version() {
    let index = v3_index(Catalog::builtin(), |_| "TAG".into());
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=TAG");
    assert!(index["paths"].get("apis/apps/v1").is_some());
    assert!(v3(Catalog::builtin(), "apis/apps/v0", "").is_none());
}

#[test]
fn kinds_and_merge_keys_are_marked() {
    let document = apps();
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"][0],
        json!({ "group": "apps", "version": "v1", "kind": "Deployment" })
    );
    assert_eq!(
        deployment["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let required = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["required"];
    assert_eq!(required, &json!(["selector", "template"]));
}

#[test]
fn patch_takes_field_validation() {
    let document = apps();
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert!(names.contains(&json!("fieldValidation")));
    assert!(patch["requestBody"]["content"].get("application/apply-patch+yaml").is_some());
}

#[test]
fn no_reference_dangles() {
    let v2 = v2(Catalog::builtin(), "v1.37.2");
    let v3: Vec<Value> = group_versions(Catalog::builtin())
        .iter()
        .filter_map(|gv| super::v3(Catalog::builtin(), &api_path(gv), "v1.37.2"))
        .collect();
    for document in v3.iter().chain([&v2]) {
        let schemas = document.pointer("/components/schemas").or(document.get("definitions")).unwrap();
        let mut stack = vec![document];
        while let Some(value) = stack.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                        let name = reference.rsplit('/').next().unwrap();
                        assert!(schemas.get(name).is_some_and(|s| !s.is_null()), "{reference}");
                    }
                    stack.extend(map.values());
                }
                Value::Array(list) => stack.extend(list),
                _ => {}
            }
        }
    }
}

#[cfg(feature = "descriptions")]
#[test]
fn fields_are_described() {
    let document = apps();
    let replicas = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
    assert!(replicas["description"].as_str().is_some_and(|d| d.contains("pods")));
}

#[test]
fn documents_have_a_protobuf_form() {
    let document = json!({"swagger": "2.0", "definitions": {"A": {"type": "object", "additionalProperties": false}}});
    let schema = b"\xaa\x01\x02\x10\x00\xb2\x01\x08\x0a\x06object";
    let wanted = [b"\x0a\x032.0\x4a\x17\x0a\x15\x0a\x01A\x12\x10".as_slice(), schema].concat();
    assert_eq!(protobuf::encode(&document), wanted);
}
