//! Events about pods and the node, written in the background; repeated ones are counted.
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

use crate::{spec, status::whole};

/// Whether something went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it should.
    Normal,
    /// Not.
    Warning,
}

#[derive(Debug)]
struct Entry {
    about: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events; cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Recorder {
    tx: Option<mpsc::Sender<Entry>>,
    node: String,
}

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 1000;
/// Remembered events, for counting.
const REMEMBERED: usize = 2000;

impl Recorder {
    /// A recorder that writes through `client`, or to the log without one.
    pub fn new(client: Option<Client>, node: &str) -> Self {
        let tx = client.map(|client| {
            let (tx, rx) = mpsc::channel(QUEUE);
            tokio::spawn(write_all(client, node.to_owned(), rx));
            tx
        });
        Recorder {
            tx,
            node: node.to_owned(),
        }
    }

    /// About a pod, or one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let uid = match spec::annotation(pod, spec::CONFIG_HASH) {
            // events of static pods are about their mirror
            Some(hash) if spec::is_static(pod) => hash.to_owned(),
            _ => spec::uid(pod).to_owned(),
        };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: Some(uid),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|c| spec::field_path(pod, c)),
        };
        self.send(about, kind, reason, message.into());
    }

    /// About the node.
    pub fn node(&self, kind: Kind, reason: &'static str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.send(about, kind, reason, message.into());
    }

    fn send(&self, about: ObjectReference, kind: Kind, reason: &'static str, message: String) {
        let name = about.name.clone().unwrap_or_default();
        tracing::debug!(object = name, reason, message, "event");
        if let Some(tx) = &self.tx {
            let _ = tx.try_send(Entry {
                about,
                kind,
                reason,
                message,
                at: Timestamp::now(),
            });
        }
    }
}

async fn write_all(client: Client, node: String, mut rx: mpsc::Receiver<Entry>) {
    let mut seen: HashMap<String, (String, i32)> = HashMap::new();
    while let Some(e) = rx.recv().await {
        let ns = e.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api = Api::<Event>::namespaced(client.clone(), &ns);
        let key = format!(
            "{:?}/{:?}/{:?}/{}/{}",
            e.about.uid, e.about.name, e.about.field_path, e.reason, e.message
        );
        if let Some((name, count)) = seen.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({
                "count": *count, "lastTimestamp": whole(e.at),
            });
            let done = api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            match done {
                Err(kube::Error::Api(s)) if s.code == 404 => {}
                _ => continue,
            }
        }
        let name = format!(
            "{}.{:x}",
            e.about.name.as_deref().unwrap_or_default(),
            e.at.as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(ns),
                ..ObjectMeta::default()
            },
            involved_object: e.about,
            reason: Some(e.reason.into()),
            message: Some(e.message),
            type_: Some(format!("{:?}", e.kind)),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node.clone()),
            first_timestamp: Some(whole(e.at)),
            last_timestamp: Some(whole(e.at)),
            count: Some(1),
            ..Event::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if seen.len() > REMEMBERED {
                    seen.clear();
                }
                seen.insert(key, (name, 1));
            }
            Err(error) => tracing::debug!(%error, "writing an event"),
        }
    }
}
