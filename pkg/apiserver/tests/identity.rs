//! Who a joining machine is, and what a kubelet may then do.

mod common;

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount},
};
use knarr_apiserver::UserInfo;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

fn of<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).expect("shape")
}

/// A client over TLS with a bearer token, as a machine that joins is.
async fn bearer(h: &common::Harness, token: &str) -> Client {
    let mut file = Kubeconfig::from_yaml(&h.kubeconfig).expect("kubeconfig");
    for named in &mut file.auth_infos {
        named.auth_info = Some(of(json!({"token": token})));
    }
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    Client::try_from(config).expect("client")
}

fn code<T: std::fmt::Debug>(answer: kube::Result<T>) -> (u16, String) {
    match answer {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("an error of the API was expected: {other:?}"),
    }
}

async fn whoami(client: &Client) -> kube::Result<SelfSubjectReview> {
    Api::all(client.clone()).create(&PostParams::default(), &SelfSubjectReview::default()).await
}

const ID: &str = "07401b";
const TOKEN: &str = "07401b.f395accd246ae52d";

fn bootstrap_secret(more: Value) -> Secret {
    let mut data = json!({
        "token-id": ID,
        "token-secret": "f395accd246ae52d",
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:workers,not-allowed",
    });
    for (k, v) in more.as_object().expect("an object") {
        data[k] = v.clone();
    }
    of(json!({
        "metadata": {"name": format!("bootstrap-token-{ID}"), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }))
}

#[tokio::test]
async fn a_bootstrap_token_is_an_identity_while_its_secret_says_so() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let secrets: Api<Secret> = Api::namespaced(admin, "kube-system");
    let stranger = bearer(&h, TOKEN).await;
    assert_eq!(code(whoami(&stranger).await).0, 401, "no secret, no identity");

    secrets.create(&PostParams::default(), &bootstrap_secret(json!({}))).await.expect("created");
    let user = whoami(&stranger).await.expect("known").status.expect("status").user_info.expect("user");
    assert_eq!(user.username.as_deref(), Some("system:bootstrap:07401b"));
    let groups = user.groups.expect("groups");
    for group in ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"] {
        assert!(groups.iter().any(|g| g == group), "{group} in {groups:?}");
    }
    assert!(!groups.iter().any(|g| g == "not-allowed"), "{groups:?}");
    // An identity is no permission.
    let pods: Api<Pod> = Api::namespaced(stranger.clone(), "default");
    let (status, message) = code(pods.list(&ListParams::default()).await);
    assert_eq!(status, 403);
    assert!(message.contains("User \"system:bootstrap:07401b\" cannot list resource \"pods\""), "{message}");

    let wrong = bearer(&h, "07401b.0000000000000000").await;
    assert_eq!(code(whoami(&wrong).await).0, 401, "the secret part must match");
    for refused in [
        json!({"usage-bootstrap-authentication": "false"}),
        json!({"expiration": "2001-02-03T04:05:06Z"}),
        json!({"expiration": "soon"}),
        json!({"token-id": "aaaaaa"}),
    ] {
        let data = bootstrap_secret(refused.clone()).string_data;
        let patch = Patch::Merge(json!({"stringData": data}));
        secrets.patch(&format!("bootstrap-token-{ID}"), &PatchParams::default(), &patch).await.expect("patched");
        assert_eq!(code(whoami(&stranger).await).0, 401, "{refused}");
        let again = json!({"usage-bootstrap-authentication": "true", "expiration": "2999-01-01T00:00:00Z", "token-id": ID});
        let patch = Patch::Merge(json!({"stringData": again}));
        secrets.patch(&format!("bootstrap-token-{ID}"), &PatchParams::default(), &patch).await.expect("patched");
        whoami(&stranger).await.expect("known again");
    }
}

#[tokio::test]
async fn a_kubelet_reads_what_its_pods_use_and_nothing_else() {
    let h = common::start().await;
    let admin = h.server.client(UserInfo::admin());
    let one = h.server.client(UserInfo::new("system:node:one", ["system:nodes".to_owned()]));
    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin.clone());
    accounts.create(&PostParams::default(), &of(json!({"metadata": {"name": "default"}}))).await.expect("account");
    let create = PostParams::default();

    // Its own node, and no other.
    let nodes: Api<Node> = Api::all(one.clone());
    nodes.create(&create, &of(json!({"metadata": {"name": "one"}}))).await.expect("its own node");
    let (status, message) = code(nodes.create(&create, &of(json!({"metadata": {"name": "two"}}))).await);
    assert_eq!((status, message.contains("is not allowed to modify node \"two\"")), (403, true), "{message}");
    Api::<Node>::all(admin.clone()).create(&create, &of(json!({"metadata": {"name": "two"}}))).await.expect("node");

    for name in ["mounted", "in-env", "pulls", "other"] {
        let secret: Secret = of(json!({"metadata": {"name": name}, "stringData": {"k": name}}));
        Api::<Secret>::default_namespaced(admin.clone()).create(&create, &secret).await.expect("secret");
        let map: ConfigMap = of(json!({"metadata": {"name": name}, "data": {"k": name}}));
        Api::<ConfigMap>::default_namespaced(admin.clone()).create(&create, &map).await.expect("map");
    }
    let pods: Api<Pod> = Api::default_namespaced(admin.clone());
    let pod = |name: &str, node: &str, secret: &str| -> Pod {
        of(json!({"metadata": {"name": name}, "spec": {
            "nodeName": node,
            "imagePullSecrets": [{"name": "pulls"}],
            "volumes": [{"name": "v", "secret": {"secretName": secret}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "mounted"}}]}}],
            "containers": [{"name": "c", "image": "busybox",
                "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "in-env", "key": "k"}}}]}],
        }}))
    };
    let secrets: Api<Secret> = Api::default_namespaced(one.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(one.clone());
    let (status, message) = code(secrets.get("mounted").await);
    assert_eq!(status, 403);
    assert!(message.contains("User \"system:node:one\" cannot get resource \"secrets\""), "{message}");

    pods.create(&create, &pod("here", "one", "mounted")).await.expect("pod");
    pods.create(&create, &pod("there", "two", "other")).await.expect("pod");
    for name in ["mounted", "in-env", "pulls"] {
        assert_eq!(secrets.get(name).await.expect("used by its pod").name_any(), name);
    }
    maps.get("mounted").await.expect("used by its pod");
    assert_eq!(code(secrets.get("other").await).0, 403, "another node's pod uses it");
    assert_eq!(code(maps.get("other").await).0, 403);
    assert_eq!(code(secrets.list(&ListParams::default()).await).0, 403, "never all of them");
    let (status, _) = code(secrets.patch("mounted", &PatchParams::default(), &Patch::Merge(json!({"data": {}}))).await);
    assert_eq!(status, 403, "reading is not writing");

    // It tells how its own pods are, and may not say it of others'.
    let mine: Api<Pod> = Api::default_namespaced(one.clone());
    let phase = Patch::Strategic(json!({"status": {"phase": "Running"}}));
    mine.patch_status("here", &PatchParams::default(), &phase).await.expect("its own pod");
    assert_eq!(code(mine.patch_status("there", &PatchParams::default(), &phase).await).0, 403);
    assert_eq!(code(mine.delete("there", &kube::api::DeleteParams::default()).await).0, 403);
    // What a pod names, it may not make itself.
    let (status, message) = code(mine.create(&create, &pod("forged", "one", "other")).await);
    assert_eq!(status, 403);
    assert!(message.contains("can only create mirror pods"), "{message}");

    // Once no pod of its uses the secret any more, it is out of reach again.
    pods.delete("here", &kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await.expect("deleted");
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while secrets.get("mounted").await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "a deleted pod still gives access");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
