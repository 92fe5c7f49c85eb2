//! From watch events to transactions.

use crate::apply::{Applier, Change};
use crate::model::SERVICE_NAME;
use crate::{Config, Error};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_runner::{Event, Informers, meta};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs the proxy over caches of its own until shutdown. See [`run_with`].
///
/// # Errors
/// Those of [`run_with`].
pub async fn run(
    client: kube::Client,
    cfg: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let informers = Informers::with_cancel(client, shutdown.child_token());
    run_with(&informers, cfg, shutdown).await
}

/// Runs the proxy over shared caches until shutdown. The table of an earlier life stays until
/// Services and EndpointSlices are known, is then replaced in one transaction, and stays when
/// this ends: connections go on.
///
/// # Errors
/// A configuration that makes no sense, or a kernel without nftables. Later refusals of the
/// kernel are logged and tried again.
pub async fn run_with(
    informers: &Informers,
    cfg: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut applier = Applier::new(&cfg)?;
    let services = informers.get::<Service>();
    let slices = informers.get::<EndpointSlice>();
    let mut service_events = services.subscribe();
    let mut slice_events = slices.subscribe();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = async { services.synced().await; slices.synced().await } => {}
    }
    let mut state = State::default();
    let mut failures: u32 = 0;
    let mut first = true;
    loop {
        if !first && failures == 0 {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                e = service_events.next() => match e {
                    Some(e) => state.service(&e),
                    None => return Ok(()),
                },
                e = slice_events.next() => match e {
                    Some(e) => state.slice(&e),
                    None => return Ok(()),
                },
            }
        }
        first = false;
        while let Some(e) = service_events.try_next() {
            state.service(&e);
        }
        while let Some(e) = slice_events.try_next() {
            state.slice(&e);
        }
        let changes = state.take();
        let job = move || {
            let result = applier.apply(&changes);
            (applier, result)
        };
        let (back, result) = tokio::task::spawn_blocking(job)
            .await
            .map_err(|e| Error::Died(e.to_string()))?;
        applier = back;
        match result {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                let delay = Duration::from_millis(200 << failures.min(7));
                tracing::error!(%error, ?delay, "services could not be programmed");
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

/// What is known, and what of it has changed since it was last taken.
#[derive(Default)]
struct State {
    services: BTreeMap<String, Arc<Service>>,
    /// Slices by service, then by name.
    slices: BTreeMap<String, BTreeMap<String, Arc<EndpointSlice>>>,
    dirty: BTreeSet<String>,
}

fn service_of(s: &EndpointSlice) -> Option<String> {
    let name = meta::label(&s.metadata, SERVICE_NAME).filter(|n| !n.is_empty())?;
    Some(format!("{}/{name}", meta::ns(&s.metadata)))
}

impl State {
    fn service(&mut self, e: &Event<Service>) {
        let o = e.object();
        let key = format!("{}/{}", meta::ns(&o.metadata), meta::name(&o.metadata));
        match e {
            Event::Deleted(_) => self.services.remove(&key),
            _ => self.services.insert(key.clone(), o.clone()),
        };
        self.dirty.insert(key);
    }

    fn slice(&mut self, e: &Event<EndpointSlice>) {
        let new = e.object();
        let old = match e {
            Event::Added(_) => None,
            Event::Updated { old, .. } => Some(old),
            Event::Deleted(o) => Some(o),
        };
        let name = meta::name(&new.metadata);
        if let Some(key) = old.and_then(|o| service_of(o)) {
            if let Some(set) = self.slices.get_mut(&key) {
                set.remove(name);
                if set.is_empty() {
                    self.slices.remove(&key);
                }
            }
            self.dirty.insert(key);
        }
        if matches!(e, Event::Deleted(_)) {
            return;
        }
        if let Some(key) = service_of(new) {
            let set = self.slices.entry(key.clone()).or_default();
            set.insert(name.to_owned(), new.clone());
            self.dirty.insert(key);
        }
    }

    fn take(&mut self) -> Vec<Change> {
        let keys = std::mem::take(&mut self.dirty);
        let change = |key: String| {
            let slices = self.slices.get(&key);
            Change {
                service: self.services.get(&key).cloned(),
                slices: slices.map(|m| m.values().cloned().collect()).unwrap_or_default(),
                key,
            }
        };
        keys.into_iter().map(change).collect()
    }
}

#[cfg(test)]
mod tests;
