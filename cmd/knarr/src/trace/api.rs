//! Layers 9 and 8: the objects, the scheduler's decision, the kubelet's view.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    control::{self, Request},
    layout::Layout,
};

/// A client of the cluster's API.
pub(super) struct Api(kube::Client);

impl Api {
    pub(super) async fn connect(layout: &Layout) -> Result<Self> {
        Ok(Api(crate::client::administrator(layout).await?))
    }

    async fn read(&self, path: &str) -> Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.0.request(request).await?)
    }

    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<Value> {
        self.read(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await
    }

    /// The chain of controllers above the pod, the nearest first.
    pub(super) async fn owners(&self, pod: &Value) -> Value {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let mut chain = Vec::new();
        let mut object = pod.clone();
        // Deeper chains than this exist only by mistake (a cycle).
        for _ in 0..8 {
            let Some(owner) = controller_of(&object) else { break };
            let text = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
            let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
            let base = if version.contains('/') { "apis" } else { "api" };
            let plural = format!("{}s", kind.to_lowercase());
            let path = if kind == "Node" {
                format!("/api/v1/nodes/{name}")
            } else {
                format!("/{base}/{version}/namespaces/{namespace}/{plural}/{name}")
            };
            let Ok(next) = self.read(&path).await else {
                chain.push(json!({ "kind": kind, "name": name, "error": "not found" }));
                break;
            };
            let revision = &next["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            chain.push(json!({
                "kind": kind,
                "name": name,
                "uid": next["metadata"]["uid"],
                "replicas": next["spec"]["replicas"],
                "readyReplicas": next["status"]["readyReplicas"],
                "revision": revision,
            }));
            object = next;
        }
        Value::Array(chain)
    }

    pub(super) async fn events(&self, namespace: &str, uid: &str) -> Vec<Value> {
        let path = format!(
            "/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}"
        );
        let list = self.read(&path).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// What the kubelet knows of the pod.
    pub(super) async fn kubelet(&self, pod: &Value, uid: &str) -> Value {
        let status = &pod["status"];
        let debug = match pod["spec"]["nodeName"].as_str() {
            Some(node) => {
                self.read(&format!("/api/v1/nodes/{node}/proxy/debug/pod/{uid}")).await.ok()
            }
            None => None,
        };
        json!({
            "phase": status["phase"],
            "qosClass": status["qosClass"],
            "conditions": status["conditions"],
            "containerStatuses": status["containerStatuses"],
            "initContainerStatuses": status["initContainerStatuses"],
            "state": debug,
        })
    }
}

fn controller_of(object: &Value) -> Option<&Value> {
    object["metadata"]["ownerReferences"].as_array()?.iter().find(|o| o["controller"] == true)
}

/// The pod's identity and what was asked for.
pub(super) fn summary(pod: &Value) -> Value {
    let meta = &pod["metadata"];
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    json!({
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        "resourceVersion": meta["resourceVersion"],
        "generation": meta["generation"],
        "created": meta["creationTimestamp"],
        "static": meta["annotations"]["kubernetes.io/config.source"],
        "podIP": pod["status"]["podIP"],
        "hostIP": pod["status"]["hostIP"],
        "containers": containers.iter().map(|c| json!({
            "name": c["name"], "image": c["image"], "resources": c["resources"],
        })).collect::<Vec<_>>(),
    })
}

/// Where the pod was placed and why.
pub(super) fn scheduling(layout: &Layout, pod: &Value, events: &[Value]) -> Value {
    let condition = pod["status"]["conditions"].as_array().and_then(|all| {
        all.iter().find(|c| c["type"] == "PodScheduled").cloned()
    });
    let event = events
        .iter()
        .rfind(|e| e["reason"] == "Scheduled" || e["reason"] == "FailedScheduling")
        .map(|e| json!({ "reason": e["reason"], "message": e["message"] }));
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let decision = control::ask(&layout.control_socket(), &Request::Decision { uid })
        .ok()
        .flatten()
        .unwrap_or_default();
    json!({
        "scheduler": pod["spec"]["schedulerName"],
        "node": pod["spec"]["nodeName"],
        "condition": condition,
        "event": event,
        "decision": decision,
    })
}
