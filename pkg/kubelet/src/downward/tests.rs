use super::*;

fn pod() -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u",
            "labels": {"b": "2", "a": "say \"hi\""}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "resources":
            {"requests": {"cpu": "1250m"}, "limits": {"memory": "64Mi"}}}]}
    }))
    .expect("a pod")
}

fn at(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector { field_path: path.into(), ..Default::default() }
}

#[test]
fn fields_have_the_api_text() {
    let a = Addresses { pod: vec!["10.0.0.1".into()], host: vec!["1.2.3.4".into()] };
    let get = |p: &str| field(&pod(), &at(p), &a);
    assert_eq!(get("metadata.labels").as_deref(), Ok("a=\"say \\\"hi\\\"\"\nb=\"2\""));
    assert_eq!(get("metadata.labels['b']").as_deref(), Ok("2"));
    assert_eq!(get("status.podIP").as_deref(), Ok("10.0.0.1"));
    assert_eq!(get("status.hostIP").as_deref(), Ok("1.2.3.4"));
    assert!(get("spec.other").is_err());
}

#[test]
fn resources_are_divided_and_fall_back_to_the_node() {
    let node = BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]);
    let get = |r: &str, d: Option<&str>| {
        resource(
            &pod(),
            "c",
            &ResourceFieldSelector {
                resource: r.into(),
                divisor: d.map(|d| Quantity(d.into())),
                container_name: None,
            },
            &node,
        )
    };
    assert_eq!(get("requests.cpu", None).as_deref(), Ok("2"));
    assert_eq!(get("requests.cpu", Some("1m")).as_deref(), Ok("1250"));
    assert_eq!(get("limits.memory", Some("1Mi")).as_deref(), Ok("64"));
    assert_eq!(get("limits.cpu", None).as_deref(), Ok("2"));
    assert_eq!(get("requests.memory", None).as_deref(), Ok("67108864"));
    assert!(get("limits.gpu", None).is_err());
}
