//! Upstream's default admission plugins: certificates, claims, nodes, resizing.

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Request;
use http_body_util::BodyExt;
use knarr_apiserver::UserInfo;
use kube::Client;
use serde_json::{Value, json};

async fn call(c: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let r = Request::builder().method(method).uri(path).header("content-type", media).body(kube::client::Body::from(bytes)).expect("request");
    let answer = c.send(r).await.expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).expect("json"))
}

async fn made(c: &Client, path: &str, body: Value) -> Value {
    let (code, v) = call(c, "POST", path, &body).await;
    assert_eq!(code, 201, "{path}: {v}");
    v
}

/// The message of a refusal.
async fn refused(c: &Client, method: &str, path: &str, body: Value) -> String {
    let (code, v) = call(c, method, path, &body).await;
    assert_eq!(code, 403, "{v}");
    v["message"].as_str().expect("a message").to_owned()
}

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn csr(name: &str, signer: &str, common_name: &str, organization: &str) -> Value {
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    let pem = params.serialize_request(&key).expect("request").pem().expect("pem");
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"], "username": "root", "groups": ["system:masters"]}})
}

/// Lets a user do everything with some resources.
async fn allow(admin: &Client, user: &str, name: &str, rule: Value) {
    let api = "/apis/rbac.authorization.k8s.io/v1";
    made(admin, &format!("{api}/clusterroles"), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": [rule]})).await;
    made(admin, &format!("{api}/clusterrolebindings"), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})).await;
}

#[tokio::test]
async fn certificates_are_approved_and_signed_by_those_who_may() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let jane = h.server.client(UserInfo::new("jane", ["devs"]));
    allow(&admin, "jane", "requests", json!({"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "certificatesigningrequests/status", "certificatesigningrequests/approval", "clustertrustbundles"], "verbs": ["*"]})).await;
    // Who asks is who asks, whatever the request says.
    let v = made(&jane, CSRS, csr("a", "example.com/one", "jane", "devs")).await;
    assert_eq!((&v["spec"]["username"], &v["spec"]["groups"]), (&json!("jane"), &json!(["devs", "system:authenticated"])));
    let (code, v) = call(&jane, "PATCH", &format!("{CSRS}/a"), &json!({"spec": {"username": "root"}})).await;
    assert_eq!((code, &v["spec"]["username"]), (200, &json!("jane")));

    let mut approved = v.clone();
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "R", "message": "M"}]);
    let begin = r#"certificatesigningrequests.certificates.k8s.io "a" is forbidden: user not permitted to"#;
    assert_eq!(refused(&jane, "PUT", &format!("{CSRS}/a/approval"), approved.clone()).await, format!(r#"{begin} approve requests with signerName "example.com/one""#));
    allow(&admin, "jane", "approve", json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["approve"]})).await;
    approved["spec"]["usages"] = json!(["any"]);
    let (code, v) = call(&jane, "PUT", &format!("{CSRS}/a/approval"), &approved).await;
    assert_eq!((code, &v["spec"]["usages"]), (200, &json!(["client auth"])), "{v}");
    let condition = &v["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string(), "{v}");
    let (code, e) = call(&jane, "PATCH", &format!("{CSRS}/a/approval"), &json!({"status": {"conditions": null}})).await;
    assert_eq!((code, e["details"]["causes"][0]["message"].as_str()), (422, Some(r#"Forbidden: updates may not remove a condition of type "Approved""#)), "{e}");

    let signed = json!({"status": {"certificate": STANDARD.encode(&h.ca)}});
    assert_eq!(refused(&jane, "PATCH", &format!("{CSRS}/a/status"), signed.clone()).await, format!(r#"{begin} sign requests with signerName "example.com/one""#));
    allow(&admin, "jane", "sign", json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/one"], "verbs": ["sign"]})).await;
    assert_eq!(call(&jane, "PATCH", &format!("{CSRS}/a/status"), &signed).await.0, 200);
    let (code, e) = call(&jane, "PATCH", &format!("{CSRS}/a/status"), &json!({"status": {"certificate": STANDARD.encode(&h.front_ca)}})).await;
    assert_eq!((code, e["details"]["causes"][0]["message"].as_str()), (422, Some("Forbidden: updates may not modify existing certificate content")));

    let message = refused(&admin, "POST", CSRS, csr("b", "kubernetes.io/kube-apiserver-client", "x", "system:masters")).await;
    assert!(message.ends_with("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"), "{message}");
    let mut bad = csr("c", "nonsense", "x", "y");
    bad["spec"]["usages"] = json!(["walking"]);
    bad["spec"]["expirationSeconds"] = json!(5);
    let (code, e) = call(&admin, "POST", CSRS, &bad).await;
    let fields: Vec<&str> = e["details"]["causes"].as_array().expect("causes").iter().filter_map(|c| c["field"].as_str()).collect();
    assert_eq!((code, fields), (422, vec!["spec.usages[0]", "spec.signerName", "spec.expirationSeconds"]));
    let mut bad = csr("c", "example.com/one", "x", "y");
    bad["spec"]["request"] = json!(STANDARD.encode("nothing"));
    let (code, e) = call(&admin, "POST", CSRS, &bad).await;
    assert!(code == 422 && e["message"].as_str().is_some_and(|m| m.contains("spec.request") && m.ends_with("PEM block type must be CERTIFICATE REQUEST")), "{e}");

    let bundle = json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": {"name": "example.com:one:x"}, "spec": {"signerName": "example.com/one", "trustBundle": h.ca}});
    let path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    if call(&admin, "GET", path, &Value::Null).await.0 == 200 {
        let message = refused(&jane, "POST", path, bundle).await;
        assert!(message.ends_with(r#"user not permitted to attest for signerName "example.com/one""#), "{message}");
    }
}

#[tokio::test]
async fn claims_grow_where_their_class_allows_it() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for (class, grows) in [("fixed", false), ("elastic", true)] {
        made(&c, "/apis/storage.k8s.io/v1/storageclasses", json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class}, "provisioner": "example.com/x", "allowVolumeExpansion": grows})).await;
        made(&c, claims, json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": class}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": "v", "resources": {"requests": {"storage": "1Gi"}}}})).await;
    }
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let elastic = format!("{claims}/elastic");
    let (code, v) = call(&c, "PATCH", &elastic, &grow).await;
    assert_eq!(code, 422, "only claims that are bound grow: {v}");
    for class in ["fixed", "elastic"] {
        assert_eq!(call(&c, "PATCH", &format!("{claims}/{class}/status"), &json!({"status": {"phase": "Bound"}})).await.0, 200);
    }
    let message = refused(&c, "PATCH", &format!("{claims}/fixed"), grow.clone()).await;
    assert_eq!(message, r#"persistentvolumeclaims "fixed" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"#);
    let (code, v) = call(&c, "PATCH", &elastic, &grow).await;
    assert_eq!((code, &v["spec"]["resources"]["requests"]["storage"]), (200, &json!("2Gi")), "{v}");
}

#[tokio::test]
async fn pods_know_their_zone_and_fit_their_node() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    made(&c, "/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    made(&c, "/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, more: Value| {
        let mut v = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "mine"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}});
        for (k, x) in more.as_object().expect("an object") {
            v["spec"][k] = x.clone();
        }
        v
    };
    let wanted = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    assert_eq!(made(&c, pods, pod("placed", json!({"nodeName": "n"}))).await["metadata"]["labels"], wanted);
    made(&c, pods, pod("free", json!({}))).await;
    made(&c, &format!("{pods}/free/binding"), json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "free"}, "target": {"kind": "Node", "name": "n"}})).await;
    assert_eq!(call(&c, "GET", &format!("{pods}/free"), &Value::Null).await.1["metadata"]["labels"], wanted);

    let (_, mut large) = call(&c, "GET", &format!("{pods}/free"), &Value::Null).await;
    large["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "3", "memory": "2Gi"});
    let (code, v) = call(&c, "PUT", &format!("{pods}/free/resize"), &large).await;
    assert_eq!(code, 403, "{v}");
    assert!(v["message"].as_str().is_some_and(|m| m.ends_with("node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824")), "{v}");
    assert_eq!(v["details"]["causes"][0]["reason"], "NodeCapacity");
}

#[tokio::test]
async fn kubelets_stay_in_their_place() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let one = h.server.client(UserInfo::new("system:node:one", ["system:nodes"]));
    made(&admin, "/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let node = |labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one", "labels": labels}});
    let message = refused(&one, "POST", "/api/v1/nodes", node(json!({"node-role.kubernetes.io/master": "", "x.node-restriction.kubernetes.io/y": "1", "kubernetes.io/os": "linux", "mine": "1"}))).await;
    assert_eq!(message, r#"nodes "one" is forbidden: node "one" is not allowed to set the following labels: node-role.kubernetes.io/master, x.node-restriction.kubernetes.io/y"#);
    let uid = made(&one, "/api/v1/nodes", node(json!({"kubernetes.io/hostname": "one", "node.kubernetes.io/kind": "small"}))).await["metadata"]["uid"].clone();
    let message = refused(&one, "PATCH", "/api/v1/nodes/one", json!({"metadata": {"labels": {"node-restriction.kubernetes.io/trust": "high"}}})).await;
    assert!(message.ends_with("is not allowed to modify labels: node-restriction.kubernetes.io/trust"), "{message}");
    assert_eq!(call(&one, "PATCH", "/api/v1/nodes/one", &json!({"metadata": {"labels": {"mine": "2"}}})).await.0, 200);

    let pods = "/api/v1/namespaces/default/pods";
    let mirror = |owner: Value, volumes: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences": [owner]},
            "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}], "volumes": volumes}})
    };
    let owner = |uid: &Value| json!({"apiVersion": "v1", "kind": "Node", "name": "one", "uid": uid, "controller": true});
    for (pod, why) in [
        (mirror(json!({"apiVersion": "v1", "kind": "Node", "name": "two", "uid": uid, "controller": true}), json!([])), r#"node "one" can only create pods with an owner reference set to itself"#.to_owned()),
        (mirror(json!({"apiVersion": "v1", "kind": "Node", "name": "one", "uid": uid}), json!([])), r#"node "one" can only create pods with a controller owner reference set to itself"#.to_owned()),
        (mirror(owner(&json!("other")), json!([])), format!("node one UID mismatch: expected other got {}", uid.as_str().expect("uid"))),
        (mirror(owner(&uid), json!([{"name": "v", "projected": {"sources": [{"configMap": {"name": "s"}}]}}])), r#"node "one" can not create pods that reference configmaps (via projected volumes)"#.to_owned()),
    ] {
        assert_eq!(refused(&one, "POST", pods, pod).await, format!(r#"pods "m" is forbidden: {why}"#));
    }
    made(&one, pods, mirror(owner(&uid), json!([]))).await;

    // Tokens are for pods of the node, and for audiences that they use.
    let own = made(&admin, pods, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault", "path": "token"}}]}}]}})).await;
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = |audience: &str| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [audience], "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": own["metadata"]["uid"]}}})
    };
    made(&one, tokens, ask("vault")).await;
    assert!(refused(&one, "POST", tokens, ask("bank")).await.ends_with(r#"system:node:one is not authorized to request tokens for audience "bank""#));

    let message = refused(&one, "POST", CSRS, csr("theirs", "kubernetes.io/kubelet-serving", "system:node:two", "system:nodes")).await;
    assert!(message.ends_with("can only create a node CSR with CN=system:node:one"), "{message}");
}

#[tokio::test]
async fn limit_ranges_bound_claims_and_ratios() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    made(&c, "/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let limits = json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}, {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]);
    made(&c, "/api/v1/namespaces/default/limitranges", json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": limits}})).await;
    let claim = |size: &str| json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let begin = r#"persistentvolumeclaims "c" is forbidden:"#;
    assert_eq!(refused(&c, "POST", claims, claim("3Gi")).await, format!("{begin} maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"));
    assert_eq!(refused(&c, "POST", claims, claim("1Mi")).await, format!("{begin} minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"));
    made(&c, claims, claim("1Gi")).await;
    let pod = |resources: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let begin = r#"pods "p" is forbidden: cpu max limit to request ratio per Container is 2, but"#;
    assert_eq!(refused(&c, "POST", pods, pod(json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "500m"}}))).await, format!("{begin} provided ratio is 2.500000"));
    assert_eq!(refused(&c, "POST", pods, pod(json!({}))).await, format!("{begin} no request is specified or request is 0"));
    made(&c, pods, pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}))).await;
}

#[tokio::test]
async fn accounts_may_keep_to_their_secrets() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    made(&c, "/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "mine"}], "imagePullSecrets": [{"name": "pull"}]})).await;
    let pod = |container: Value, volumes: Value, pulls: Value| {
        let mut c = json!({"name": "c", "image": "i"});
        c.as_object_mut().expect("map").extend(container.as_object().expect("map").clone());
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [c], "volumes": volumes, "imagePullSecrets": pulls}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let env = |secret: &str| json!({"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]});
    let end = "is not allowed because service account default does not reference that";
    for (pod, why) in [
        (pod(json!({}), json!([{"name": "v", "secret": {"secretName": "other"}}]), json!([])), format!("volume with secret.secretName=\"other\" {end} secret")),
        (pod(env("other"), json!([]), json!([])), format!("container c with envVar E referencing secret.secretName=\"other\" {end} secret")),
        (pod(json!({}), json!([]), json!([{"name": "pull"}, {"name": "x"}])), format!("imagePullSecrets[1].name=\"x\" {end} imagePullSecret")),
    ] {
        assert_eq!(refused(&c, "POST", pods, pod).await, format!(r#"pods "p" is forbidden: {why}"#));
    }
    made(&c, pods, pod(env("mine"), json!([{"name": "v", "secret": {"secretName": "mine"}}]), json!([]))).await;
    let mirror = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}});
    assert_eq!(refused(&c, "POST", pods, mirror).await, r#"pods "m" is forbidden: a mirror pod may not reference secrets"#);
}

#[tokio::test]
async fn projected_volumes_are_checked() {
    let h = common::start().await;
    let c = h.server.client(UserInfo::admin());
    made(&c, "/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let pod = |sources: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "projected": {"sources": sources}}]}});
    let certificate = |more: Value| {
        let mut v = json!({"signerName": "example.com/spiffe", "keyType": "ED25519", "credentialBundlePath": "bundle.pem"});
        v.as_object_mut().expect("map").extend(more.as_object().expect("map").clone());
        json!([{"podCertificate": v}])
    };
    let at = "spec.volumes[0].projected";
    for (sources, field, message) in [
        (certificate(json!({"maxExpirationSeconds": 3599})), format!("{at}.sources[0].podCertificate.maxExpirationSeconds"), "Invalid value: 3599: if provided, maxExpirationSeconds must be >= 3600"),
        (certificate(json!({"maxExpirationSeconds": 7862401})), format!("{at}.sources[0].podCertificate.maxExpirationSeconds"), "Invalid value: 7862401: if provided, maxExpirationSeconds must be <= 7862400"),
        (certificate(json!({"signerName": "example.com"})), format!("{at}.sources[0].podCertificate.signerName"), r#"Invalid value: "example.com": must be a fully qualified domain and path of the form 'example.com/signer-name'"#),
        (certificate(json!({"keyType": "DSA"})), format!("{at}.sources[0].podCertificate.keyType"), r#"Unsupported value: "DSA": supported values: "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096""#),
        (certificate(json!({"keyPath": "../x"})), format!("{at}.sources[0].podCertificate.keyPath"), r#"Invalid value: "../x": must not contain '..'"#),
        (json!([{"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]), format!("{at}.sources[0].serviceAccountToken.expirationSeconds"), "Invalid value: 60: may not specify a duration less than 10 minutes"),
        (json!([{"clusterTrustBundle": {"path": "b"}}]), format!("{at}.sources[0].clusterTrustBundle"), "Required value: either name or signerName must be specified"),
        (json!([{"configMap": {"name": "a", "items": [{"key": "k", "path": "x"}]}}, {"secret": {"name": "b", "items": [{"key": "k", "path": "x"}]}}]), at.to_owned(), r#"Invalid value: "b": conflicting duplicate paths"#),
    ] {
        let (code, v) = call(&c, "POST", "/api/v1/namespaces/default/pods", &pod(sources)).await;
        let causes: Vec<(&str, &str)> = v["details"]["causes"].as_array().expect("causes").iter().map(|c| (c["field"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or(""))).collect();
        assert_eq!((code, causes), (422, vec![(field.as_str(), message)]));
    }
    made(&c, "/api/v1/namespaces/default/pods", pod(certificate(json!({"maxExpirationSeconds": 3600})))).await;
}
