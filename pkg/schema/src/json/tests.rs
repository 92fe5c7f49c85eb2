use serde_json::json;

use super::*;
use crate::types::types;

fn deployment() -> Option<&'static Type> {
    types().kind("apps", "v1", "Deployment")
}

fn strict(text: &str) -> Error {
    decode(text.as_bytes(), deployment(), FieldValidation::Strict).unwrap_err()
}

#[test]
fn strictness() {
    assert_eq!(
        strict(r#"{"spec":{"foo":1,"replicas":1,"replicas":2,"template":{"spec":{"containers":[{"name":"a","x":{}}]}}}}"#).to_string(),
        r#"strict decoding error: unknown field "spec.foo", duplicate field "spec.replicas", unknown field "spec.template.spec.containers[0].x""#
    );
    let warned = decode(br#"{"a":1,"kind":"Deployment"}"#, deployment(), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, [r#"unknown field "a""#]);
    assert!(warned.object.get("a").is_none());
}

#[test]
fn mismatches() {
    assert_eq!(strict(r#"{"spec":{"replicas":"x"}}"#).to_string(), "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32");
    assert_eq!(
        strict(r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"value":1}]}]}}}}"#).to_string(),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
    );
    assert_eq!(strict("[]").to_string(), "json: cannot unmarshal array into Go value of type v1.Deployment");
}

#[test]
fn normal_form() {
    let got = decode(
        br#"{"metadata":{"name":"d","labels":{},"creationTimestamp":null},"spec":{"replicas":0,"paused":false,"template":{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1000m"}}}]}}}}"#,
        deployment(),
        FieldValidation::Strict,
    )
    .unwrap();
    assert_eq!(
        got.object,
        json!({"metadata":{"name":"d"},"spec":{"replicas":0,"selector":null,"strategy":{},"template":{"metadata":{},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]}}},"status":{}})
    );
}
