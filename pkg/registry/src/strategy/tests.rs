use serde_json::json;

use super::{of, qos_class};
use crate::object::Object;

#[test]
fn qos_classes() {
    let c = |r: serde_json::Value| json!({"containers": [{"name": "a", "resources": r}]});
    assert_eq!(qos_class(&c(json!({}))), "BestEffort");
    assert_eq!(
        qos_class(&c(json!({"requests": {"cpu": "100m"}}))),
        "Burstable"
    );
    let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
    assert_eq!(qos_class(&c(full)), "Guaranteed");
}

#[test]
fn a_status_write_keeps_the_spec_and_a_spec_write_keeps_the_status() {
    let s = of("apps", "deployments");
    let old = json!({"metadata": {"name": "d", "generation": 1}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let mut new = json!({"metadata": {"name": "d", "generation": 1}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
    s.prepare_update(&mut new, &old);
    assert_eq!(new["status"]["replicas"], 1);
    assert_eq!(new.generation(), 2);
    let mut new = json!({"metadata": {"name": "d", "generation": 1}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
    s.prepare_subresource("status", &mut new, &old);
    assert_eq!(new["spec"]["replicas"], 1);
    assert_eq!(new["status"]["replicas"], 9);
    assert_eq!(new.generation(), 1);
}

#[test]
fn a_pod_without_containers_is_refused_with_upstreams_words() {
    let s = of("", "pods");
    let e = s.validate(&json!({"spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "containers": [{"name": "A", "image": ""}]}}));
    let texts: Vec<String> = e.iter().map(ToString::to_string).collect();
    assert!(
        texts
            .iter()
            .any(|t| t == "spec.containers[0].image: Required value"),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(|t| t.starts_with(
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"
        )),
        "{texts:?}"
    );
}

#[test]
fn a_pod_with_users_of_its_own_shares_nothing_else_with_the_host() {
    let s = of("", "pods");
    let said = |mut spec: serde_json::Value| {
        for (key, value) in [("restartPolicy", "Always"), ("dnsPolicy", "ClusterFirst")] {
            spec[key] = json!(value);
        }
        spec["terminationGracePeriodSeconds"] = json!(30);
        s.validate(&json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let c = |more: serde_json::Value| {
        let mut c = json!({"name": "a", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        for (k, v) in more.as_object().into_iter().flatten() {
            c[k] = v.clone();
        }
        json!([c])
    };
    let unmasked = json!({"securityContext": {"procMount": "Unmasked"}});
    assert_eq!(
        said(json!({"hostUsers": false, "containers": c(unmasked.clone())})),
        [""; 0]
    );
    assert_eq!(
        said(json!({"containers": c(unmasked)})),
        [
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"
        ]
    );
    let devices = json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/v"}]});
    let all = json!({"hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": c(devices)});
    let told = said(all);
    for field in [
        "hostNetwork",
        "HostPID",
        "HostIPC",
        "containers[0].volumeDevices",
    ] {
        let text = format!("spec.{field}: Forbidden: when `hostUsers` is false");
        assert!(told.contains(&text), "{text} is missing in {told:?}");
    }
}

#[test]
fn grace_is_zero_for_pods_that_no_node_runs() {
    let s = of("", "pods");
    assert_eq!(s.grace(&json!({"spec": {}}), None), Some(0));
    assert_eq!(
        s.grace(
            &json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}}),
            None
        ),
        Some(7)
    );
    assert_eq!(
        s.grace(&json!({"spec": {"nodeName": "n"}}), Some(0)),
        Some(0)
    );
}

#[test]
fn rules_of_custom_resources() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [{"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is more than max'", "fieldPath": ".min"}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}]}}}}});
    let s = super::custom(false, Some(std::sync::Arc::new(schema)));
    let object = |min: i64, fixed: &str| json!({"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": {"min": min, "max": 5, "fixed": fixed}});
    assert!(s.validate(&object(1, "a")).is_empty());
    let say = |e: Vec<crate::FieldError>| e.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        say(s.validate(&object(7, "a"))),
        [r#"spec.min: Invalid value: "object": min 7 is more than max"#]
    );
    assert_eq!(
        say(s.validate_update(&object(1, "b"), &object(1, "a"))),
        [r#"spec.fixed: Invalid value: "string": fixed is immutable"#]
    );
    assert!(
        s.validate_update(&object(7, "a"), &object(7, "a"))
            .is_empty()
    );
}
