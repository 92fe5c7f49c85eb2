//! The kubelet: a state machine per pod, driven by events.
//!
//! News comes from the API server's watch, the manifests' folder (inotify), the runtime's event
//! stream, probes and timers. Each pod has one task ([`worker`]) that owns its state; it decides
//! with a pure function ([`plan::plan`]), lets operations run beside it, and writes the pod's
//! status ([`status::status`], pure too) the moment it changes. Everything that touches a
//! container goes through CRI v1. Idle costs nothing: no loop looks for work.
//!
//! [`run`] is the whole kubelet; [`Config`] says how.
mod admit;
mod cgroup;
mod config;
mod credentials;
mod cri;
mod cri_config;
pub mod downward;
mod env;
mod events;
pub mod expand;
mod hook;
mod inotify;
mod last_words;
pub mod logs;
mod manager;
mod manifests;
pub mod model;
mod net;
mod node;
pub mod plan;
mod probe;
pub mod quantity;
mod resources;
mod server;
mod sources;
pub mod spec;
pub mod status;
mod upkeep;
mod userns;
mod volumes;
mod worker;

pub use config::{Config, Error, Tls};
pub use manager::run;
