//! PodSecurity: namespaces that keep the Pod Security Standards.

mod common;

use http::Request;
use http_body_util::BodyExt;
use knarr_apiserver::UserInfo;
use kube::Client;
use serde_json::{Value, json};

/// Status, body, warnings.
async fn call(c: &Client, method: &str, path: &str, body: &Value) -> (u16, Value, Vec<String>) {
    let media = if method == "PATCH" { "application/strategic-merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let r = Request::builder().method(method).uri(path).header("content-type", media).body(kube::client::Body::from(bytes)).expect("request");
    let answer = c.send(r).await.expect("an answer");
    let code = answer.status().as_u16();
    let warnings = answer.headers().get_all("warning").iter().map(|w| w.to_str().expect("text").strip_prefix("299 - \"").and_then(|w| w.strip_suffix('"')).expect("a warning").replace("\\\"", "\"")).collect();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).expect("json"), warnings)
}

async fn namespace(c: &Client, name: &str, labels: &[(&str, &str)]) -> (u16, Value, Vec<String>) {
    let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), json!(v))).collect();
    let r = call(c, "POST", "/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})).await;
    if r.0 == 201 {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        assert_eq!(call(c, "POST", &format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await.0, 201);
    }
    r
}

fn pod(name: &str, spec: &Value) -> Value {
    let mut v = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (k, x) in spec.as_object().expect("a spec") {
        v["spec"][k] = x.clone();
    }
    v
}

/// The message about a pod without what it begins with; `""` if it is taken.
async fn verdict(c: &Client, ns: &str, spec: Value) -> String {
    let (code, v, warnings) = call(c, "POST", &format!("/api/v1/namespaces/{ns}/pods?dryRun=All"), &pod("p", &spec)).await;
    if code == 201 {
        assert!(warnings.iter().all(|w| !w.contains("PodSecurity")), "{warnings:?}");
        return String::new();
    }
    assert_eq!((code, &v["reason"]), (403, &json!("Forbidden")), "{v}");
    let message = v["message"].as_str().expect("a message");
    let begin = r#"pods "p" is forbidden: violates PodSecurity ""#;
    assert!(message.starts_with(begin), "{message}");
    message[begin.len()..].to_owned()
}

/// A container that keeps `restricted`, with changes to its security context.
fn tame(name: &str, more: Value) -> Value {
    let mut context = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    for (k, v) in more.as_object().expect("an object") {
        context[k] = v.clone();
    }
    json!({"name": name, "image": "i", "securityContext": context})
}

#[tokio::test]
async fn baseline_is_enforced() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    namespace(&c, "b", &[("enforce", "baseline")]).await;
    namespace(&c, "old", &[("enforce", "baseline"), ("enforce-version", "v1.18")]).await;
    assert_eq!(verdict(&c, "b", json!({})).await, "");
    let with = |context: Value| json!({"containers": [{"name": "c", "image": "i", "securityContext": context}, {"name": "d", "image": "i"}]});
    let two = |context: Value| json!({"initContainers": [{"name": "a", "image": "i", "securityContext": context}], "containers": [{"name": "c", "image": "i", "securityContext": context}]});
    for (spec, message) in [
        (with(json!({"privileged": true})), r#"privileged (container "c" must not set securityContext.privileged=true)"#),
        (two(json!({"privileged": true})), r#"privileged (containers "a", "c" must not set securityContext.privileged=true)"#),
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {"path": "/"}}]}), r#"hostPath volumes (volumes "v", "w")"#),
        (json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 9000}, {"containerPort": 81, "hostPort": 80}]}]}), r#"hostPort (container "c" uses hostPorts 80, 9000)"#),
        (with(json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}})), r#"non-default capabilities (container "c" must not include "BPF", "NET_RAW" in securityContext.capabilities.add)"#),
        (json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}), r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#),
        (json!({"securityContext": {"seLinuxOptions": {"type": "t", "user": "u"}}}), r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "t"; user may not be set)"#),
        (with(json!({"seccompProfile": {"type": "Unconfined"}})), r#"seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")"#),
        (json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}]}}), "forbidden sysctls (kernel.msgmax)"),
        (json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"httpGet": {"port": 80, "host": "h"}}}]}), r#"probe or lifecycle host (container "c" uses probe or lifecycle host "h")"#),
    ] {
        assert_eq!(verdict(&c, "b", spec.clone()).await, format!("baseline:latest\": {message}"), "{spec}");
    }
    // The rules are those of the version.
    let spec = json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"httpGet": {"port": 80, "host": "h"}}}]});
    assert_eq!(verdict(&c, "old", spec).await, "");
    let spec = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}, "hostIPC": true});
    assert_eq!(verdict(&c, "old", spec).await, r#"baseline:v1.18": host namespaces (hostIPC=true), forbidden sysctls (net.ipv4.tcp_rmem)"#);
}

#[tokio::test]
async fn restricted_is_enforced() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    namespace(&c, "r", &[("enforce", "restricted"), ("enforce-version", "latest")]).await;
    namespace(&c, "r20", &[("enforce", "restricted"), ("enforce-version", "v1.20")]).await;
    assert_eq!(
        verdict(&c, "r", json!({})).await,
        concat!(
            r#"restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), "#,
            r#"unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), "#,
            r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), "#,
            r#"seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        )
    );
    assert_eq!(verdict(&c, "r", json!({"containers": [tame("c", json!({}))], "volumes": [{"name": "v", "emptyDir": {}}]})).await, "");
    let spec = json!({"containers": [tame("c", json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})), tame("d", json!({"capabilities": {"drop": ["CHOWN"], "add": ["CHOWN"]}}))]});
    assert_eq!(verdict(&c, "r", spec.clone()).await, r#"restricted:latest": unrestricted capabilities (container "d" must set securityContext.capabilities.drop=["ALL"]; container "d" must not include "CHOWN" in securityContext.capabilities.add)"#);
    // Before 1.22 only additions beyond the usual ones mattered.
    assert_eq!(verdict(&c, "r20", spec).await, "");
    let spec = json!({"containers": [tame("c", json!({"runAsNonRoot": false, "runAsUser": 0}))], "securityContext": {"runAsUser": 0}});
    assert_eq!(verdict(&c, "r", spec).await, r#"restricted:latest": runAsNonRoot != true (container "c" must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod and container "c" must not set runAsUser=0)"#);
    let spec = json!({"containers": [tame("c", json!({}))], "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {"server": "s", "path": "/"}}]});
    assert_eq!(verdict(&c, "r", spec).await, r#"restricted:latest": restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs")"#);
}

#[tokio::test]
async fn warnings_come_with_pods_and_templates() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    namespace(&c, "w", &[("warn", "baseline"), ("warn-version", "v1.30")]).await;
    namespace(&c, "e", &[("enforce", "baseline")]).await;
    let privileged = json!({"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]});
    let text = |version: &str| format!(r#"would violate PodSecurity "baseline:{version}": privileged (container "c" must not set securityContext.privileged=true)"#);
    let (code, _, warnings) = call(&c, "POST", "/api/v1/namespaces/w/pods", &pod("a", &privileged)).await;
    assert_eq!((code, warnings), (201, vec![text("v1.30")]));
    // What is enforced is warned about in templates, which are not refused.
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": privileged});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, _, warnings) = call(&c, "POST", "/apis/apps/v1/namespaces/e/deployments", &deployment).await;
    assert_eq!((code, warnings), (201, vec![text("latest")]));
    let mut job = template.clone();
    job["spec"]["restartPolicy"] = json!("Never");
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "d"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": job}}}});
    let (code, _, warnings) = call(&c, "POST", "/apis/batch/v1/namespaces/e/cronjobs", &cron).await;
    assert_eq!((code, warnings), (201, vec![text("latest")]));
    let (code, _, _) = call(&c, "POST", "/api/v1/namespaces/e/pods", &pod("a", &privileged)).await;
    assert_eq!(code, 403);

    // Stricter labels: existing pods stay, with a warning; and what does not touch their
    // containers may still be changed.
    for (name, owner) in [("x", "1"), ("y", "1"), ("z", "2")] {
        let mut p = pod(name, &privileged);
        p["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Thing", "name": "t", "uid": owner, "controller": true}]);
        assert_eq!(call(&c, "POST", "/api/v1/namespaces/w/pods", &p).await.0, 201);
    }
    let (code, _, warnings) = call(&c, "PATCH", "/api/v1/namespaces/w", &json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}})).await;
    assert_eq!(code, 200);
    assert_eq!(warnings, [r#"existing pods in namespace "w" violate the new PodSecurity enforce level "baseline:latest""#, "a (and 3 other pods): privileged"]);
    let one = "/api/v1/namespaces/w/pods/a";
    let (code, v, _) = call(&c, "PATCH", one, &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(code, 200, "{v}");
    let (code, v, _) = call(&c, "PATCH", one, &json!({"spec": {"containers": [{"name": "c", "image": "other"}]}})).await;
    assert_eq!(code, 403, "{v}");
    let (code, _, warnings) = call(&c, "PATCH", "/api/v1/namespaces/w", &json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})).await;
    assert_eq!((code, warnings), (200, vec![]));
}

#[tokio::test]
async fn labels_that_make_no_sense_are_refused() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let (code, v, _) = namespace(&c, "n", &[("enforce", "strict"), ("audit-version", "v1.01"), ("warn", "")]).await;
    assert_eq!((code, &v["reason"]), (422, &json!("Invalid")), "{v}");
    let causes: Vec<(&str, &str)> = v["details"]["causes"].as_array().expect("causes").iter().map(|c| (c["field"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or(""))).collect();
    assert_eq!(causes, [
        ("metadata.labels[pod-security.kubernetes.io/enforce]", r#"Invalid value: "strict": must be one of privileged, baseline, restricted"#),
        ("metadata.labels[pod-security.kubernetes.io/audit-version]", r#"Invalid value: "v1.01": must be "latest" or "v1.x""#),
        ("metadata.labels[pod-security.kubernetes.io/warn]", r#"Invalid value: "": must be one of privileged, baseline, restricted"#),
    ]);
    assert_eq!(v["details"]["kind"], "Namespace");
    namespace(&c, "ok", &[]).await;
    let (code, _, _) = call(&c, "PATCH", "/api/v1/namespaces/ok", &json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce-version": "1.2"}}})).await;
    assert_eq!(code, 422);
}
