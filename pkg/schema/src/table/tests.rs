use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::*;
use crate::{
    proto::tests::{golden, report},
    time,
};

/// Ages move with the clock between the making of the golden rows and the test.
fn same(got: &Value, want: &Value) -> bool {
    let age = |v: &Value| {
        v.as_str().is_some_and(|t| {
            let t = t.rsplit('(').next().unwrap_or(t).trim_end_matches(')').trim_end_matches(" ago");
            !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit() || b"smhdy".contains(&b)) && t.bytes().any(|b| b.is_ascii_alphabetic())
        })
    };
    got == want || (age(got) && age(want))
}

#[test]
fn cells_are_upstreams() {
    let (mut failures, mut checked) = (BTreeMap::new(), 0);
    let catalog = crate::Catalog::builtin();
    for row in golden() {
        let (Some(want), Some(mut object)) = (row.cells, row.defaulted) else { continue };
        let Some(resource) = catalog.of_kind(&row.group, &row.version, &row.kind) else { continue };
        // The old version's metrics print as its conversion to the new one does.
        if row.group == "autoscaling" && row.version == "v1" {
            continue;
        }
        crate::defaults::apply(&mut object, resource.ty.unwrap());
        let got = cells(resource, &object, time::now());
        checked += 1;
        let want = &want[0];
        if got.len() != want.len() || !got.iter().zip(want).all(|(g, w)| same(g, w)) {
            failures.insert(format!("{}/{}", row.group, row.kind), format!("\n  got  {}\n  want {}", json!(got), json!(want)));
        }
    }
    report("table cells", checked, &failures);
}

#[test]
fn whole_tables() {
    let pods = crate::Catalog::builtin().lookup("", "v1", "pods").unwrap();
    let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}});
    let got = table(pods, &[&pod], json!({"resourceVersion": "5"}), IncludeObject::Metadata, true, time::now());
    assert_eq!(got["columnDefinitions"][0]["name"], "Name");
    assert_eq!(got["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(got["rows"][0]["conditions"][0]["reason"], "Succeeded");
}

#[test]
fn custom_columns() {
    let row = Resource {
        kind: "Widget".into(),
        printer_columns: vec![json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}), json!({"name": "N", "type": "integer", "jsonPath": ".spec.n"})],
        ..Resource::default()
    };
    let row = Arc::new(row);
    let object = json!({"metadata": {"name": "w"}, "spec": {"n": 3}, "status": {"conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]}});
    assert_eq!(cells(&row, &object, time::now()), [json!("w"), json!("True"), json!(3)]);
}
