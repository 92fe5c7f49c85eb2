//! The stream of events that drives the kubelet.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use knarr_cri_api::v1::{ContainerEventResponse, ContainerEventType};
use tokio_stream::wrappers::BroadcastStream;
use tonic::Status;

use crate::Cri;
use crate::record::now;
use crate::sandbox::Sandbox;

/// Events for one client.
pub(crate) type Events =
    Pin<Box<dyn Stream<Item = Result<ContainerEventResponse, Status>> + Send>>;

impl Cri {
    /// Tells of a change, with the state of the whole pod after it.
    pub(crate) fn emit(&self, kind: ContainerEventType, sandbox: &str, id: &str) {
        if let Ok(sandbox) = self.sandbox(sandbox) {
            self.emit_for(kind, id, &sandbox);
        }
    }

    pub(crate) fn emit_for(&self, kind: ContainerEventType, id: &str, sandbox: &Sandbox) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: Some(sandbox.status()),
            containers_statuses: self
                .containers_of(&sandbox.id)
                .iter()
                .map(|c| c.status())
                .collect(),
        };
        // Nobody listening is no error.
        let _ = self.events.send(event);
    }

    /// Events from now on. A client that is too slow is told so and must list again.
    pub(crate) fn events(self: &Arc<Self>) -> Events {
        let stream = BroadcastStream::new(self.events.subscribe());
        Box::pin(stream.map(|event| {
            event.map_err(|e| Status::data_loss(format!("events were lost: {e}")))
        }))
    }
}
