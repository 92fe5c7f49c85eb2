use std::collections::BTreeMap;

use crate::{
    proto::tests::{difference, golden, report},
    types::types,
};

#[test]
fn defaults_are_upstreams() {
    let (mut failures, mut checked) = (BTreeMap::new(), 0);
    for row in golden() {
        let Some(mut want) = row.defaulted else { continue };
        let ty = types().kind(&row.group, &row.version, &row.kind).unwrap();
        let mut got = row.object.clone();
        super::apply(&mut got, ty);
        checked += 1;
        // The moment of defaulting is in the result.
        for value in [&mut got, &mut want] {
            forget(value, "timeAdded");
            // Upstream merges stringData one step later, in its conversion.
            if row.kind == "Secret" {
                forget(value, "stringData");
                forget(value, "data");
            }
        }
        if let Some(d) = difference("", &got, &want) {
            failures.insert(format!("{}/{}", row.group, row.kind), d);
        }
    }
    report("defaults", checked, &failures);
}

fn forget(value: &mut serde_json::Value, key: &str) {
    match value {
        serde_json::Value::Object(map) => {
            map.remove(key);
            map.values_mut().for_each(|v| forget(v, key));
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|v| forget(v, key)),
        _ => {}
    }
}

#[test]
fn image_tags() {
    for (image, want) in [("a", "Always"), ("a:latest", "Always"), ("a:1", "IfNotPresent"), ("r:5000/a", "Always"), ("r:5000/a:1", "IfNotPresent"), ("a@sha256:0", "IfNotPresent"), ("", "IfNotPresent"), ("A B", "IfNotPresent")] {
        assert_eq!(super::rules::pull_policy(image), want, "{image}");
    }
}
