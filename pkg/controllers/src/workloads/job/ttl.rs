//! Finished jobs go when their time is over.

use super::finished;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Propagation, Queue};
use std::sync::Arc;
use std::time::Duration;

/// The TTL-after-finished controller.
pub struct TtlAfterFinished {
    jobs: Arc<Cache<Job>>,
}

impl TtlAfterFinished {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { jobs: i.get() }
    }
}

impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.jobs.on_event(move |e| q.add(Key::of(&e.object().metadata)));
    }
    fn synced(&self) -> bool {
        self.jobs.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(j) = self.jobs.by_key(key) else { return Plan::none() };
        let ttl = j.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished);
        let end = finished(&j).and_then(|c| c.last_transition_time.as_ref());
        let (Some(ttl), Some(end), false) = (ttl, end, meta::deleting(&j.metadata)) else {
            return Plan::none();
        };
        let left = f64::from(ttl) - meta::seconds_between(end.0, now);
        if left > 0.0 {
            return Plan {
                requeue_after: Some(Duration::from_secs_f64(left + 0.01)),
                ..Plan::default()
            };
        }
        Plan::one(Action::delete(j.as_ref(), Some(Propagation::Foreground), None))
    }
}
