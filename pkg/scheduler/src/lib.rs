//! The scheduler: an incremental model of the cluster, queues that wake on what matters, and
//! filter and score plugins under upstream's names.
//!
//! One task owns the model and decides one pod at a time; bindings and status writes happen
//! beside it, so a decision never waits for the API.
#![forbid(unsafe_code)]

mod affinity;
mod decisions;
mod engine;
mod filters;
mod model;
mod preempt;
mod queue;
mod resources;
mod scores;
mod spread;
mod volumes;

#[cfg(test)]
mod tests;

pub use decisions::{Decision, Decisions, NodeVerdict};
pub use engine::{Config, run};
