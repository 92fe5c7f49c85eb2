use super::*;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

fn set(
    name: &str,
    replicas: i32,
    available: i32,
    desired: i32,
    max: i32,
    at: i64,
) -> Arc<ReplicaSet> {
    let created = jiff::Timestamp::from_second(at).unwrap().to_string();
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": created, "annotations": {
                DESIRED: desired.to_string(), MAX: max.to_string()}},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "availableReplicas": available}}))
        .unwrap(),
    )
}

fn view(
    wanted: i32,
    strategy: Value,
    new: Option<Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
) -> View {
    let d: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": wanted, "selector": {}, "template": {}, "strategy": strategy}}))
    .unwrap();
    View {
        d: Arc::new(d),
        new,
        old: old.to_vec(),
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn sizes(list: Vec<(Arc<ReplicaSet>, i32)>) -> Vec<(String, i32)> {
    let mut v: Vec<_> = list
        .into_iter()
        .map(|(s, n)| (s.metadata.name.clone().unwrap(), n))
        .collect();
    v.sort();
    v
}

fn pairs(list: &[(&str, i32)]) -> Vec<(String, i32)> {
    list.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect()
}

#[test]
fn a_change_of_size_is_shared_in_proportion() {
    // Kubernetes' documentation's own example: 10 → 15 amid a rollout that is stuck.
    let (new, old) = (set("new", 5, 0, 10, 13, 2), set("old", 8, 8, 10, 13, 1));
    let v = view(15, rolling(json!(3), json!(2)), Some(new), &[old]);
    assert!(scaling_event(&v));
    assert_eq!(sizes(proportional(&v)), pairs(&[("new", 7), ("old", 11)]));
}

#[test]
fn scaling_to_nothing_empties_all() {
    let (new, old) = (set("new", 2, 0, 4, 5, 2), set("old", 3, 3, 4, 5, 1));
    let v = view(0, rolling(json!(1), json!(1)), Some(new), &[old]);
    assert_eq!(sizes(proportional(&v)), pairs(&[("new", 0), ("old", 0)]));
}

#[test]
fn the_new_set_grows_into_the_surge() {
    let old = set("old", 10, 10, 10, 13, 1);
    let v = view(
        10,
        rolling(json!("25%"), json!("25%")),
        None,
        &[old.clone()],
    );
    assert_eq!(v.bounds(), (3, 2));
    assert_eq!(new_set_size(&v, 0), 3);
    // Two of the old may go at once; the new ones that do not serve yet count against it.
    let v = view(
        10,
        rolling(json!("25%"), json!("25%")),
        Some(set("new", 3, 0, 10, 13, 2)),
        &[old],
    );
    assert_eq!(sizes(shrink_old(&v)), pairs(&[("old", 8)]));
}

#[test]
fn unhealthy_old_pods_go_first() {
    let (sick, well) = (set("sick", 2, 0, 4, 5, 1), set("well", 3, 3, 4, 5, 2));
    let v = view(
        4,
        rolling(json!(1), json!(1)),
        Some(set("new", 0, 0, 4, 5, 3)),
        &[sick, well],
    );
    assert_eq!(sizes(shrink_old(&v)), pairs(&[("sick", 0)]));
}

#[test]
fn never_both_bounds_zero() {
    let v = view(3, rolling(json!(0), json!("10%")), None, &[]);
    assert_eq!(v.bounds(), (0, 1));
    let v = view(3, json!({"type": "Recreate"}), None, &[]);
    assert_eq!(v.bounds(), (0, 0));
}
