//! Each rule of a schema, with the words that users of upstream know.

use super::*;

fn texts(value: Value, schema: Value) -> Vec<(Reason, String, String)> {
    let schema = json!({"type": "object", "properties": {"spec": schema}});
    validate(&json!({"apiVersion": "e/v1", "spec": value}), &schema).into_iter().map(|v| (v.reason, v.field, v.detail)).collect()
}

fn one(value: Value, schema: Value) -> (Reason, String, String) {
    let mut all = texts(value, schema);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn types_and_numbers() {
    let s = |t: &str| t.to_owned();
    assert_eq!(one(json!("x"), json!({"type": "integer"})), (Reason::Type, s("spec"), s(r#"spec in body must be of type integer: "string""#)));
    assert_eq!(one(json!(0), json!({"type": "integer", "minimum": 1})), (Reason::Invalid, s("spec"), s("spec in body should be greater than or equal to 1")));
    assert_eq!(one(json!(3), json!({"type": "integer", "maximum": 3, "exclusiveMaximum": true})), (Reason::Invalid, s("spec"), s("spec in body should be less than 3")));
    assert_eq!(one(json!(5), json!({"type": "integer", "multipleOf": 2})).2, "spec in body should be a multiple of 2");
    assert!(texts(json!(1.0), json!({"type": "integer"})).is_empty());
    assert!(texts(json!("80%"), json!({"x-kubernetes-int-or-string": true})).is_empty());
    assert_eq!(one(json!(true), json!({"x-kubernetes-int-or-string": true})).2, r#"spec in body must be of type integer,string: "boolean""#);
    assert!(texts(json!(null), json!({"type": "string", "nullable": true})).is_empty());
    assert_eq!(one(json!(null), json!({"type": "string"})).2, r#"spec in body must be of type string: "null""#);
}

#[test]
fn texts_and_lists() {
    assert_eq!(one(json!("b"), json!({"type": "string", "enum": ["a", "c"]})).2, r#"supported values: "a", "c""#);
    assert_eq!(one(json!("abc"), json!({"type": "string", "maxLength": 2})).2, "may not be more than 2 bytes");
    assert_eq!(one(json!(""), json!({"type": "string", "minLength": 1})).2, "spec in body should be at least 1 chars long");
    assert_eq!(one(json!("x y"), json!({"type": "string", "pattern": "^\\S+$"})).2, "spec in body should match '^\\S+$'");
    assert_eq!(one(json!("x"), json!({"type": "string", "format": "date-time"})).2, r#"spec in body must be of type date-time: "x""#);
    assert_eq!(one(json!([1, 2]), json!({"type": "array", "maxItems": 1})).2, "must have at most 1 item");
    assert_eq!(one(json!([]), json!({"type": "array", "minItems": 1})).2, "spec in body should have at least 1 items");
    assert_eq!(one(json!(["a", "a"]), json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"})), (Reason::Duplicate, "spec[1]".into(), String::new()));
    let keyed = json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]});
    assert_eq!(one(json!([{"n": 1}, {"n": 1, "m": 2}]), keyed).1, "spec[1]");
}

#[test]
fn objects_and_alternatives() {
    let shape = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}});
    assert_eq!(one(json!({}), shape.clone()), (Reason::Required, "spec.a".into(), String::new()));
    assert_eq!(one(json!([{}]), json!({"type": "array", "items": shape})).1, "spec[0].a");
    let one_of = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert!(texts(json!({"a": 1}), one_of.clone()).is_empty());
    assert_eq!(one(json!({"a": 1, "b": 1}), one_of.clone()), (Reason::Invalid, "<nil>".into(), r#""spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#.into()));
    let none = texts(json!({}), one_of);
    assert_eq!(none[0].2, r#""spec" must validate one and only one schema (oneOf). Found none valid"#);
    assert_eq!(none[1].1, "spec.a");
    assert_eq!(one(json!({"a": 1}), json!({"type": "object", "not": {"required": ["a"]}})).2, r#""spec" must not validate the schema (not)"#);
}

#[test]
fn odd_schemas_do_no_harm() {
    for schema in [json!(true), json!({"properties": 1, "items": [], "enum": 2, "required": [1], "pattern": "(", "anyOf": {}}), json!(null), json!("x")] {
        let _ = validate(&json!({"spec": {"a": [1, "x", null]}}), &json!({"properties": {"spec": schema}}));
        let _ = validate(&json!([1]), &schema);
    }
}
