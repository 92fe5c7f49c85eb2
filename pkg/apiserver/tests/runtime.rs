//! Which of the built-in APIs are served.

mod common;

use http::Request;
use knarr_apiserver::{FeatureGates, RuntimeConfig, UserInfo};
use serde_json::Value;

#[tokio::test]
async fn what_is_turned_off_is_not_there() {
    let h = common::start_with(|c| {
        c.runtime = RuntimeConfig::parse(&["policy/v1=false,flowcontrol.apiserver.k8s.io/v1=false,batch/v1/cronjobs=false,rbac.authorization.k8s.io/v1=false"]).expect("good");
        c.gates = FeatureGates::parse(&["APIResponseCompression=false"]).expect("good");
    })
    .await;
    let c = h.server.client(UserInfo::admin());
    let get = async |path: &str| {
        let r = Request::get(path).body(Vec::new()).expect("request");
        match c.request_text(r).await {
            Ok(text) => (200, text),
            Err(kube::Error::Api(s)) => (s.code, s.message.clone()),
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(get("/apis/policy/v1/poddisruptionbudgets").await, (404, "the server could not find the requested resource".into()));
    assert_eq!(get("/apis/policy").await.0, 404);
    assert_eq!(get("/apis/batch/v1/cronjobs").await.0, 404);
    assert_eq!(get("/apis/batch/v1/jobs").await.0, 200);
    let groups: Value = serde_json::from_str(&get("/apis").await.1).expect("JSON");
    let names: Vec<&str> = groups["groups"].as_array().expect("groups").iter().filter_map(|g| g["name"].as_str()).collect();
    assert!(names.contains(&"batch") && !names.contains(&"policy") && !names.contains(&"rbac.authorization.k8s.io"), "{names:?}");
    let batch = get("/apis/batch/v1").await.1;
    assert!(batch.contains("\"jobs\"") && !batch.contains("cronjobs"));
    assert!(!get("/openapi/v2").await.1.contains("/apis/policy/v1"));
    // No service is announced for it.
    let services = get("/apis/apiregistration.k8s.io/v1/apiservices").await.1;
    assert!(services.contains("v1.batch") && !services.contains("v1.policy"));
    let metrics = get("/metrics").await.1;
    assert!(metrics.contains("kubernetes_feature_enabled{name=\"APIResponseCompression\",stage=\"BETA\"} 0"));
    // The roles that every cluster has are there all the same: they decide.
    let view = UserInfo { name: "viewer".into(), ..UserInfo::default() };
    let r = Request::get("/healthz").body(Vec::new()).expect("request");
    let seen = h.server.client(view).request_text(r).await;
    assert!(matches!(seen, Err(kube::Error::Api(ref s)) if s.code == 403), "{seen:?}");
}
