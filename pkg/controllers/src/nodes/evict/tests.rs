use super::*;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(tolerations: serde_json::Value) -> Pod {
    let p =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [], "tolerations": tolerations}});
    serde_json::from_value(p).unwrap()
}

fn taint() -> Taint {
    Taint {
        key: "bad".into(),
        effect: "NoExecute".into(),
        ..Taint::default()
    }
}

#[test]
fn who_goes_when() {
    let t = taint();
    let due = |p: &Pod, now: i64| due(p, &[&t], at(100), at(now));
    assert_eq!(due(&pod(json!([])), 100), Some(0.0));
    assert_eq!(due(&pod(json!([{"operator": "Exists"}])), 100), None);
    let some_time = pod(json!([{"key": "bad", "operator": "Exists", "tolerationSeconds": 5}]));
    assert_eq!(due(&some_time, 102), Some(3.0));
    assert_eq!(due(&some_time, 106), Some(-1.0));
    assert_eq!(super::due(&some_time, &[], at(100), at(106)), None);
}

#[test]
fn a_taint_says_when_it_began() {
    let mut t = taint();
    t.time_added = Some(meta::time(at(90)));
    let p = pod(json!([{"key": "bad", "operator": "Exists", "tolerationSeconds": 5}]));
    assert_eq!(due(&p, &[&t], at(100), at(91)), Some(4.0));
}
