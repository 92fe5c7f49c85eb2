//! Structural schemas of custom resources: pruning, defaults and nulls.

use serde_json::{Map, Value};

mod validate;

pub use validate::{Reason, Violation, pattern, validate};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Removes what the schema (`openAPIV3Schema`) does not know. Returns `unknown field "…"` for
/// each field that went, for strict and warning field validation.
pub fn prune(object: &mut Value, schema: &Value) -> Vec<String> {
    let mut gone = Vec::new();
    walk(object, schema, true, &mut String::new(), &mut gone);
    gone
}

fn walk(value: &mut Value, schema: &Value, resource: bool, path: &mut String, gone: &mut Vec<String>) {
    match value {
        Value::Object(map) => members(map, schema, resource || flag(schema, EMBEDDED), path, gone),
        Value::Array(items) => {
            let Some(inner) = schema.get("items") else { return };
            let length = path.len();
            for (i, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(item, inner, false, path, gone);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn members(map: &mut Map<String, Value>, schema: &Value, resource: bool, path: &mut String, gone: &mut Vec<String>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    let keep_unknown = flag(schema, PRESERVE) || others.and_then(Value::as_bool).unwrap_or(false);
    let length = path.len();
    map.retain(|key, value| {
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        let keep = if resource && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            true
        } else if let Some(inner) = properties.and_then(|p| p.get(key)) {
            walk(value, inner, false, path, gone);
            true
        } else if let Some(inner) = others.filter(|o| o.is_object()) {
            walk(value, inner, false, path, gone);
            true
        } else {
            if !keep_unknown {
                gone.push(format!("unknown field \"{path}\""));
            }
            keep_unknown
        };
        path.truncate(length);
        keep
    });
}

/// Fills in the schema's defaults and removes nulls where the schema allows none.
pub fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            for (key, inner) in properties.into_iter().flatten() {
                let given = inner.get("default");
                if map.get(key).is_some_and(Value::is_null) && !flag(inner, "nullable") {
                    map.remove(key);
                }
                if let (None, Some(given)) = (map.get(key), given) {
                    map.insert(key.clone(), given.clone());
                }
                if let Some(member) = map.get_mut(key) {
                    default(member, inner);
                }
            }
            if let Some(inner) = schema.get("additionalProperties").filter(|o| o.is_object()) {
                let given = inner.get("default");
                map.retain(|key, member| {
                    if properties.is_some_and(|p| p.contains_key(key)) {
                        return true;
                    }
                    if member.is_null() && !flag(inner, "nullable") {
                        match given {
                            Some(given) => *member = given.clone(),
                            None => return false,
                        }
                    }
                    default(member, inner);
                    true
                });
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for item in items {
                    if item.is_null()
                        && !flag(inner, "nullable")
                        && let Some(given) = inner.get("default")
                    {
                        *item = given.clone();
                    }
                    default(item, inner);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "n": {"type": "integer", "default": 3},
                "inner": {"type": "object", "default": {}, "properties": {"m": {"type": "string", "default": "x"}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "object"}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"k": {"type": "string"}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string", "nullable": true}}}}
            }}
        }})
    }

    #[test]
    fn pruning() {
        let mut object = json!({"apiVersion": "e/v1", "kind": "W", "metadata": {"name": "w"}, "x": 1, "spec": {
            "y": 1, "free": {"b": {"c": 1}, "a": {"z": 1}}, "map": {"one": {"k": "v", "q": 1}}, "list": [{"k": "v", "q": 1}]
        }});
        let gone = prune(&mut object, &schema());
        assert_eq!(
            gone,
            [r#"unknown field "spec.free.a.z""#, r#"unknown field "spec.list[0].q""#, r#"unknown field "spec.map.one.q""#, r#"unknown field "spec.y""#, r#"unknown field "x""#]
        );
        assert_eq!(
            object,
            json!({"apiVersion": "e/v1", "kind": "W", "metadata": {"name": "w"}, "spec": {"free": {"b": {"c": 1}, "a": {}}, "map": {"one": {"k": "v"}}, "list": [{"k": "v"}]}})
        );
    }

    #[test]
    fn defaulting() {
        let mut object = json!({"spec": {"n": null, "map": {"a": null}, "list": [{"k": null}]}});
        default(&mut object, &schema());
        assert_eq!(object, json!({"spec": {"n": 3, "inner": {"m": "x"}, "map": {}, "list": [{"k": null}]}}));
        let mut none = json!({});
        default(&mut none, &schema());
        assert_eq!(none, json!({}));
    }
}
