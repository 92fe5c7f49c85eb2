//! Facts that clients look for in the documents.

use super::*;

fn apps() -> Value {
    v3(Catalog::builtin(), "apis/apps/v1", "v1.37.2").unwrap()
}

#[test]
fn the_index_names_every_group_and_version() {
    let index = v3_index(Catalog::builtin(), "v1.37.2");
    let tag = etag(Catalog::builtin(), Some("api/v1"), "v1.37.2", "");
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], format!("/openapi/v3/api/v1?hash={tag}"));
    assert!(index["paths"].get("apis/apps").is_some() && index["paths"].get("version").is_some());
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
    let v3: Vec<Value> =
        documents(Catalog::builtin()).iter().filter_map(|path| super::v3(Catalog::builtin(), path, "v1.37.2")).collect();
    for document in v3.iter().chain([&v2]) {
        let mut stack = vec![document];
        while let Some(value) = stack.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                        let found = document.pointer(reference.trim_start_matches('#'));
                        assert!(found.is_some_and(|s| !s.is_null()), "{reference}");
                    }
                    stack.extend(map.values());
                }
                Value::Array(list) => stack.extend(list),
                _ => {}
            }
        }
    }
}

#[test]
fn what_all_methods_share_stands_once() {
    let document = v2(Catalog::builtin(), "v1.37.2");
    let page = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
    let names: Vec<&str> = page["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str().or(p["$ref"].as_str())).collect();
    assert_eq!(names, ["name", "#/parameters/namespace-vgWSWtn3", "#/parameters/pretty-tJGM1-ng"]);
    assert!(page["get"].get("parameters").is_none());
    assert_eq!(page["patch"]["parameters"][0]["$ref"], "#/parameters/body-78PwaGsr");
    assert_eq!(document["parameters"].as_object().unwrap().len(), 47);
    let watch = &document["paths"]["/api/v1/watch/namespaces/{namespace}/pods/{name}"]["get"];
    assert_eq!(watch["operationId"], "watchCoreV1NamespacedPod");
}

#[test]
fn a_tag_follows_what_its_document_says() {
    let row = |revision: &str| {
        let row = crate::Resource { group: "a.io".into(), version: "v1".into(), plural: "as".into(), kind: "A".into(), revision: revision.to_owned().into(), ..Default::default() };
        Catalog::builtin().extended(&[], [std::sync::Arc::new(row)])
    };
    let tag = |revision: &str, path| etag(&row(revision), path, "v1.37.2", "");
    assert_ne!(tag("1", Some("apis/a.io/v1")), tag("2", Some("apis/a.io/v1")));
    assert_ne!(tag("1", None), tag("2", None));
    assert_eq!(tag("1", Some("apis/apps/v1")), tag("2", Some("apis/apps/v1")));
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
    assert_eq!(protobuf::encode_v2(&document), wanted);
}

#[test]
fn version_3_has_a_protobuf_form() {
    let document = json!({"openapi": "3.0.0", "components": {"schemas": {"A": {"type": "object", "default": {}}, "B": {"$ref": "#/A"}}}});
    let whole = b"\x0a\x0c\xca\x01\x06object\x8a\x02\x00";
    let schemas = [b"\x0a\x13\x0a\x01A\x12\x0e".as_slice(), whole, b"\x0a\x0c\x0a\x01B\x12\x07\x12\x05\x0a\x03#/A"].concat();
    let wanted = [b"\x0a\x053.0.0\x2a\x25\x0a\x23".as_slice(), &schemas].concat();
    assert_eq!(protobuf::encode_v3(&document), wanted);
}
