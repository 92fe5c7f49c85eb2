use std::collections::BTreeMap;

use serde_json::json;

use super::strategic;
use crate::{
    proto::tests::{difference, golden, report},
    types::types,
};

#[test]
fn patches_are_upstreams() {
    let (mut failures, mut checked) = (BTreeMap::new(), 0);
    for row in golden() {
        let Some(patch) = row.patch else { continue };
        let ty = types().kind(&row.group, &row.version, &row.kind).unwrap();
        let mut got = row.object.clone();
        let result = strategic(&mut got, patch.clone(), ty);
        checked += 1;
        let key = format!("{}/{}", row.group, row.kind);
        match (result, &row.patched, row.patch_error) {
            (Ok(()), Some(want), _) => {
                if let Some(d) = difference("", &got, want) {
                    failures.insert(key, d);
                }
            }
            (Err(e), Some(_), _) => {
                failures.insert(key, format!("refused: {e}"));
            }
            // Upstream cannot look into raw values and maps of lists; we merge them.
            (Ok(()), None, Some(e)) if e.contains("RawExtension") || e.contains("instead is: map") => {}
            (Ok(()), None, Some(e)) => {
                failures.insert(key, format!("accepted, want {e}"));
            }
            _ => {}
        }
    }
    report("strategic merge", checked, &failures);
}

#[test]
fn directives() {
    let ty = types().kind("", "v1", "Pod").unwrap();
    let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
        "containers": [{"name": "c", "image": "3"}, {"name": "b", "$patch": "delete"}],
        "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]
    }});
    strategic(&mut pod, patch, ty).unwrap();
    assert_eq!(
        pod,
        json!({"spec": {"containers": [{"name": "c", "image": "3"}, {"name": "a", "image": "1"}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    );
}
