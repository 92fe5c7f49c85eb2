//! Writing a pod's status: at once, one write under way at a time, the newest wins.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{Msg, Worker};
use crate::spec;

/// Conditions that the kubelet owns.
pub const OWN_CONDITIONS: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// Fields that are put to null when they are no longer there.
const CLEARABLE: &[&str] = &[
    "reason",
    "message",
    "podIP",
    "podIPs",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "resize",
];

/// How a write ended.
pub enum Outcome {
    /// The server has this.
    Stored(Box<PodStatus>),
    /// There is no such pod any more.
    NoPod,
    /// To be tried again.
    Failed(String),
}

/// The strategic merge patch from `old` to `new`.
pub fn patch(uid: &str, old: Option<&PodStatus>, new: &PodStatus) -> Value {
    let mut status = serde_json::to_value(new).unwrap_or_default();
    let before = old
        .and_then(|o| serde_json::to_value(o).ok())
        .unwrap_or_default();
    if let Some(map) = status.as_object_mut() {
        for field in CLEARABLE {
            if before.get(field).is_some_and(|v| !v.is_null()) && !map.contains_key(*field) {
                map.insert((*field).to_owned(), Value::Null);
            }
        }
        if let (Some(now), Some(then)) = (map.get("podIPs"), before.get("podIPs"))
            && now != then
            && let Some(list) = now.as_array()
        {
            let mut list = list.clone();
            list.insert(0, json!({"$patch": "replace"}));
            map.insert("podIPs".into(), Value::Array(list));
        }
        if let Some(list) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            list.retain(|c| {
                c.get("type")
                    .and_then(Value::as_str)
                    .is_some_and(|t| OWN_CONDITIONS.contains(&t))
            });
            for old in before.get("conditions").and_then(Value::as_array).into_iter().flatten() {
                let t = old.get("type").and_then(Value::as_str).unwrap_or_default();
                let now = list
                    .iter_mut()
                    .find(|c| c.get("type").and_then(Value::as_str) == Some(t))
                    .and_then(Value::as_object_mut);
                match now {
                    // conditions are merged field by field: what no longer holds must be said
                    Some(now) => {
                        for field in ["reason", "message"] {
                            if old.get(field).is_some_and(|v| !v.is_null()) {
                                now.entry(field).or_insert(Value::Null);
                            }
                        }
                    }
                    None if t.starts_with("PodResize") => {
                        list.push(json!({"$patch": "delete", "type": t}));
                    }
                    None => {}
                }
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

/// Writes a status; `NoPod` when the object is gone or another one has its name.
pub async fn store(
    client: Client,
    ns: &str,
    name: &str,
    uid: &str,
    old: Option<&PodStatus>,
    new: PodStatus,
) -> Outcome {
    let api = Api::<Pod>::namespaced(client, ns);
    let body = Patch::Strategic(patch(uid, old, &new));
    match api.patch_status(name, &PatchParams::default(), &body).await {
        Ok(_) => Outcome::Stored(Box::new(new)),
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Outcome::NoPod,
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

/// Removes the object for good; fine when it is gone already.
pub async fn delete(client: Client, ns: &str, name: &str, uid: &str) -> Result<(), kube::Error> {
    let api = Api::<Pod>::namespaced(client, ns);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}

impl Worker {
    /// The object that the API server has for this pod: name and uid.
    pub(super) fn api_object(&self) -> Option<(&Pod, &str)> {
        if self.object_gone {
            return None;
        }
        let pod: &Pod = if spec::is_static(&self.pod) {
            self.mirror.as_deref()?
        } else {
            &self.pod
        };
        Some((pod, pod.metadata.uid.as_deref()?))
    }

    /// Writes the status if the server does not have it and no write is under way.
    pub(super) fn write_status(&mut self, now: Timestamp) {
        if self.writing || self.write_again.is_some_and(|at| at > now) {
            return;
        }
        let Some(new) = self.status.clone() else {
            return;
        };
        if self.written.as_ref() == Some(&new) {
            return;
        }
        let Some(client) = self.sh.client.clone() else {
            return;
        };
        let Some((object, uid)) = self.api_object() else {
            return;
        };
        let (ns, name, uid) = (
            spec::namespace(object).to_owned(),
            spec::name(object).to_owned(),
            uid.to_owned(),
        );
        let old = self.written.clone().or_else(|| object.status.clone());
        self.write_again = None;
        self.writing = true;
        let tx = self.tx.clone();
        tokio::spawn(async move {
            let outcome = store(client, &ns, &name, &uid, old.as_ref(), new).await;
            let _ = tx.send(Msg::Written(outcome));
        });
    }

    pub(super) fn was_written(&mut self, outcome: Outcome) {
        self.writing = false;
        match outcome {
            Outcome::Stored(s) => {
                self.note("status written");
                self.written = Some(*s);
            }
            Outcome::NoPod => {
                self.written = self.status.clone();
            }
            Outcome::Failed(error) => {
                tracing::warn!(error, pod = spec::name(&self.pod), "writing a pod's status");
                self.write_again = Timestamp::now()
                    .checked_add(SignedDuration::from_secs(1))
                    .ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodIP;

    #[test]
    fn clears_what_is_gone_and_leaves_foreign_conditions() {
        let old = PodStatus {
            reason: Some("X".into()),
            pod_ips: Some(vec![PodIP { ip: "1.1.1.1".into() }]),
            ..PodStatus::default()
        };
        let new: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIPs": [{"ip": "2.2.2.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "their.own/x", "status": "True"}]
        }))
        .expect("a status");
        let p = patch("u", Some(&old), &new);
        assert_eq!(p["metadata"]["uid"], "u");
        assert_eq!(p["status"]["reason"], Value::Null);
        assert!(p["status"].as_object().expect("a map").contains_key("reason"));
        assert_eq!(p["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "2.2.2.2"}]));
        assert_eq!(p["status"]["conditions"].as_array().map(Vec::len), Some(1));
    }
}
