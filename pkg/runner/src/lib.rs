//! What acts on a cluster stands on this crate: shared informers (one cache per kind for the
//! whole process), the keyed work queue, the one controller runner, events, leader election.
//!
//! # Read your own writes
//! Every write made through [`Informers`] (`create`, `update`, `patch`, `delete`) is put into the
//! kind's cache as soon as the server acknowledged it, before the watch delivers it. So a
//! controller that plans again at once sees what it did, and needs no expectations. The cache
//! knows up to which resource version the watch has told it everything: an acknowledged object
//! older than that is ignored, a newer one is kept until the watch catches up.
#![forbid(unsafe_code)]

mod action;
mod cache;
mod controller;
mod events;
mod informers;
mod leader;
pub mod meta;
pub mod metrics;
pub mod placement;
pub mod quantity;
pub mod volumes;
mod queue;
mod reflect;

pub use action::{Action, Outcome, Plan, Step};
pub use async_trait::async_trait;
pub use cache::{Cache, Event, Subscription};
pub use controller::{Controller, RunOptions, run_controller};
pub use events::{EventSpec, EventType, Recorder, reference};
pub use informers::{Informers, Kind, Propagation};
pub use leader::{LeaderConfig, lead};
pub use meta::Key;
pub use queue::Queue;
pub use reflect::{Delta, HasMeta, Source, reflect};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data stays valid when a holder panicked.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the server answered with this HTTP status code.
pub fn is_status(e: &kube::Error, code: u16) -> bool {
    matches!(e, kube::Error::Api(s) if s.code == code)
}

/// Whether the object named was not there.
pub fn is_not_found(e: &kube::Error) -> bool {
    is_status(e, 404)
}

/// Whether another writer was faster (or a precondition failed).
pub fn is_conflict(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.code == 409 && s.reason != "AlreadyExists")
}

/// Whether an object of that name exists already.
pub fn is_already_exists(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.code == 409 && s.reason == "AlreadyExists")
}

/// The message a client shows of an error: the server's own text where there is one.
pub fn message(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(s) => s.message.clone(),
        other => other.to_string(),
    }
}
