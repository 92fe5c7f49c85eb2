use super::*;
use serde_json::json;

fn pair() -> (PersistentVolumeClaim, PersistentVolume) {
    let c = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {
        "resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]}});
    let v = json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/x"}}});
    (
        serde_json::from_value(c).unwrap(),
        serde_json::from_value(v).unwrap(),
    )
}

#[test]
fn a_bound_pair_needs_nothing() {
    let (mut c, mut v) = pair();
    assert_eq!(bind(&c, &v).steps.len(), 2, "volume first, then claim");
    v.spec.as_mut().unwrap().claim_ref = Some(ObjectReference {
        namespace: Some("n".into()),
        name: Some("c".into()),
        uid: Some("u".into()),
        ..ObjectReference::default()
    });
    assert_eq!(bind(&c, &v).steps.len(), 1);
    c.spec.as_mut().unwrap().volume_name = Some("v".into());
    c.metadata.annotations = Some([(COMPLETED.to_owned(), "yes".to_owned())].into());
    c.status = Some(PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        ..PersistentVolumeClaimStatus::default()
    });
    assert!(bind(&c, &v).steps.is_empty());
}
