//! Claims that live and die with a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Event, EventType, Informers, Plan, Queue};
use std::sync::Arc;

const COMPONENT: &str = "ephemeral_volume";

/// The ephemeral-volume controller; its keys are pods.
pub struct Ephemeral {
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
}

impl Ephemeral {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self {
            pods: i.get(),
            claims: i.get(),
        }
    }
}

fn has_any(p: &Pod) -> bool {
    p.spec
        .iter()
        .flat_map(|s| s.volumes.iter().flatten())
        .any(|v| v.ephemeral.is_some())
}

/// The claims a pod wants of its own.
fn wanted(p: &Pod) -> Vec<PersistentVolumeClaim> {
    let pod = meta::name(&p.metadata);
    let volumes = p.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| {
            let t = v.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
            let tm = t.metadata.clone().unwrap_or_default();
            Some(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(format!("{pod}-{}", v.name)),
                    namespace: p.metadata.namespace.clone(),
                    labels: tm.labels,
                    annotations: tm.annotations,
                    owner_references: Some(vec![meta::owner_ref(p)]),
                    ..ObjectMeta::default()
                },
                spec: Some(t.spec.clone()),
                status: None,
            })
        })
        .collect()
}

impl Controller for Ephemeral {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.pods.on_event(move |e| {
            if let Event::Added(p) = e {
                if has_any(p) {
                    q.add(Key::of(&p.metadata));
                }
            }
        });
        let (q, pods) = (queue.clone(), self.pods.clone());
        self.claims.on_event(move |e| {
            let (Event::Deleted(c), m) = (e, &e.object().metadata) else {
                return;
            };
            if let Some(o) = meta::controller_of(&c.metadata).filter(|o| o.kind == "Pod") {
                if pods.get(meta::ns(m), &o.name).is_some() {
                    q.add(Key::new(meta::ns(m), &o.name));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.pods.has_synced() && self.claims.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(p) = self
            .pods
            .by_key(key)
            .filter(|p| !meta::deleting(&p.metadata))
        else {
            return plan;
        };
        for c in wanted(&p) {
            let name = meta::name(&c.metadata);
            match self.claims.get(&key.namespace, name) {
                None => plan.push(Action::create(c)),
                Some(have) if meta::controlled_by(&have.metadata, meta::uid(&p.metadata)) => {}
                Some(_) => {
                    let text = format!(
                        "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                        key.namespace, key.namespace, key.name
                    );
                    let reason = "EphemeralVolumeClaimConflict";
                    plan.push(Action::event(
                        COMPONENT,
                        p.as_ref(),
                        EventType::Warning,
                        reason,
                        text,
                    ));
                }
            }
        }
        plan
    }
}
