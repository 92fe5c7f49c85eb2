use super::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
    let mut v = json!({"metadata": {"name": name}, "spec": {
        "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/x"}}});
    for (k, x) in more.as_object().unwrap() {
        v["spec"][k] = x.clone();
    }
    Arc::new(serde_json::from_value(v).unwrap())
}

fn claim(size: &str, more: Value) -> PersistentVolumeClaim {
    let mut c = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {
        "resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"]}});
    for (k, x) in more.as_object().unwrap() {
        c["spec"][k] = x.clone();
    }
    serde_json::from_value(c).unwrap()
}

fn chosen(volumes: &[Arc<PersistentVolume>], c: &PersistentVolumeClaim) -> Option<String> {
    choose(volumes, c, None, false).and_then(|v| v.metadata.name.clone())
}

#[test]
fn the_smallest_that_serves() {
    let all = [
        volume("big", "10Gi", json!({})),
        volume("fits", "2Gi", json!({})),
        volume("small", "500Mi", json!({})),
        volume("other-class", "1Gi", json!({"storageClassName": "fast"})),
        volume("block", "1Gi", json!({"volumeMode": "Block"})),
    ];
    assert_eq!(
        chosen(&all, &claim("1Gi", json!({}))).as_deref(),
        Some("fits")
    );
    assert_eq!(
        chosen(&all, &claim("3Gi", json!({}))).as_deref(),
        Some("big")
    );
    assert_eq!(chosen(&all, &claim("11Gi", json!({}))), None);
    let fast = claim("1Gi", json!({"storageClassName": "fast"}));
    assert_eq!(chosen(&all, &fast).as_deref(), Some("other-class"));
    let many = claim("1Gi", json!({"accessModes": ["ReadWriteMany"]}));
    assert_eq!(chosen(&all, &many), None);
}

#[test]
fn promises_come_first() {
    let to = |uid: &str| json!({"claimRef": {"name": "c", "namespace": "n", "uid": uid}});
    let all = [
        volume("fits", "1Gi", json!({})),
        volume("mine", "5Gi", to("u")),
    ];
    let c = claim("1Gi", json!({}));
    assert_eq!(chosen(&all, &c).as_deref(), Some("mine"));
    let all = [
        volume("fits", "1Gi", json!({})),
        volume("another's", "1Gi", to("v")),
    ];
    assert_eq!(chosen(&all, &c).as_deref(), Some("fits"));
    assert!(choose(&all, &c, None, true).is_none());
}

#[test]
fn selectors_and_nodes() {
    let near = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}});
    let all = [volume("near", "1Gi", near)];
    let node = |zone: &str| -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": zone}}}))
            .unwrap()
    };
    let c = claim("1Gi", json!({}));
    assert!(choose(&all, &c, Some(&node("a")), false).is_some());
    assert!(choose(&all, &c, Some(&node("b")), false).is_none());
    let picky = claim(
        "1Gi",
        json!({"selector": {"matchLabels": {"tier": "gold"}}}),
    );
    assert!(choose(&all, &picky, None, false).is_none());
}
