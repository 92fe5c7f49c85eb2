//! The one runner of all controllers.

use crate::meta::Key;
use crate::metrics::counter;
use crate::{Informers, Plan, Queue};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A controller: says what wakes it, and plans from the caches.
pub trait Controller: Send + Sync + 'static {
    /// Its name in logs, metrics and events.
    fn name(&self) -> &'static str;
    /// Adds handlers to caches that put keys into the queue. Called once.
    fn watch(&self, informers: &Informers, queue: &Queue<Key>);
    /// Whether the caches it reads have synced; planning begins then.
    fn synced(&self) -> bool;
    /// What to do for this key now: no input or output besides the caches. Called for one key by
    /// one worker at a time; called again when a key failed, with backoff.
    fn plan(&self, key: &Key, now: Timestamp) -> Plan;
}

/// How a controller is run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Keys worked on at the same time.
    pub workers: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { workers: 4 }
    }
}

/// Runs a controller until cancelled.
pub async fn run_controller<C: Controller>(
    c: Arc<C>,
    informers: Informers,
    opts: RunOptions,
    cancel: CancellationToken,
) {
    let queue = Queue::new(c.name());
    c.watch(&informers, &queue);
    let mut pause = Duration::from_millis(2);
    while !c.synced() {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_millis(250));
    }
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..opts.workers.max(1) {
        workers.spawn(work(c.clone(), informers.clone(), queue.clone(), cancel.clone()));
    }
    while workers.join_next().await.is_some() {}
}

async fn work<C: Controller>(
    c: Arc<C>,
    informers: Informers,
    queue: Queue<Key>,
    cancel: CancellationToken,
) {
    let (total, errors) = (
        counter("controller_runtime_reconcile_total", c.name()),
        counter("controller_runtime_reconcile_errors_total", c.name()),
    );
    loop {
        let key = tokio::select! {
            () = cancel.cancelled() => return,
            k = queue.get() => k,
        };
        total.inc();
        let plan = c.plan(&key, Timestamp::now());
        let again = plan.requeue_after;
        let result = plan.execute(&informers).await;
        match result {
            Ok(()) => {
                queue.forget(&key);
                if let Some(d) = again {
                    queue.add_after(key.clone(), d);
                }
            }
            Err(e) => {
                if crate::is_conflict(&e) || crate::is_not_found(&e) {
                    tracing::trace!(controller = c.name(), %key, error = %e, "planning again");
                } else {
                    errors.inc();
                    tracing::debug!(controller = c.name(), %key, error = %e, "failed");
                }
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}
