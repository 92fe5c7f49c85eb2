use serde_json::{Value, json};

use super::definition;

/// What is wrong with a definition of one version with this schema as `spec`: fields and sentences.
fn wrong(spec: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let definition = definition(&json!({"spec": {
        "group": "a.io", "scope": "Namespaced", "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }}));
    let short = |e: crate::FieldError| e.to_string().replace("spec.validation.openAPIV3Schema.properties[spec]", "SPEC").replace("spec.validation.openAPIV3Schema", "ROOT");
    definition.into_iter().map(short).collect()
}

fn ruled(rule: Value) -> Value {
    json!({"type": "object", "properties": {"a": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}}, "x-kubernetes-validations": [rule]})
}

#[test]
fn a_rule_may_not_cost_too_much() {
    let found = wrong(ruled(json!({"rule": "self.list.all(x, self.list.all(y, x == y))"})));
    assert!(found[0].starts_with("SPEC.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying"), "{found:?}");
    assert!(found.iter().any(|e| e.starts_with("ROOT: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget")));
    let mut bounded = ruled(json!({"rule": "self.list.all(x, self.list.all(y, x == y))"}));
    bounded["properties"]["list"] = json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}});
    assert_eq!(wrong(bounded), Vec::<String>::new());
}

#[test]
fn a_rule_in_a_list_counts_for_every_item() {
    let list = |max: Option<u64>| {
        let mut list = json!({"type": "array", "items": ruled(json!({"rule": "self.a.contains('xyz')"}))});
        if let Some(max) = max {
            list["maxItems"] = max.into();
        }
        json!({"type": "object", "properties": {"all": list}})
    };
    assert!(wrong(list(None)).iter().any(|e| e.contains("exceeds budget")));
    assert_eq!(wrong(list(Some(10))), Vec::<String>::new());
}

#[test]
fn what_a_rule_says_of_itself_is_checked() {
    let at = "SPEC.x-kubernetes-validations[0]";
    let found = wrong(ruled(json!({"rule": "true", "reason": "Other"})));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(&format!("{at}.reason: Unsupported value: \"Other\": supported values: \"FieldValueDuplicate\"")));
    assert_eq!(wrong(ruled(json!({"rule": "true", "fieldPath": ".b"}))), [format!("{at}.fieldPath: Invalid value: \".b\": must be a valid path")]);
    assert_eq!(wrong(ruled(json!({"rule": "true", "fieldPath": "['a']"}))), Vec::<String>::new());
    assert_eq!(wrong(ruled(json!({"rule": "true", "optionalOldSelf": true}))), [format!("{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule")]);
    let found = wrong(ruled(json!({"rule": "true", "messageExpression": "1"})));
    assert!(found[0].ends_with("messageExpression must evaluate to a string"), "{found:?}");
}

#[test]
fn the_old_self_needs_a_list_with_keys() {
    let list = |kind: &str| {
        let item = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}, "x-kubernetes-map-type": "atomic", "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n"}]});
        let mut list = json!({"type": "array", "maxItems": 3, "items": item, "x-kubernetes-list-type": kind});
        if kind == "map" {
            list["x-kubernetes-list-map-keys"] = json!(["n"]);
        }
        json!({"type": "object", "properties": {"list": list}})
    };
    assert_eq!(wrong(list("map")), Vec::<String>::new());
    assert!(wrong(list("set"))[0].ends_with("oldSelf cannot be used on the uncorrelatable portion of the schema within SPEC.properties[list]"));
}

#[test]
fn alternatives_only_narrow() {
    let found = wrong(json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"properties": {"a": {"type": "string"}}, "description": "d"}]}));
    assert_eq!(found, ["SPEC.anyOf[0].properties[a].type: Forbidden: must be empty to be structural", "SPEC.anyOf[0].description: Forbidden: must be empty to be structural"]);
    let either = json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}});
    assert_eq!(wrong(either), Vec::<String>::new());
}
