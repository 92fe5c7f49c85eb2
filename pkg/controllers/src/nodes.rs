//! Nodes: whether they live, what they are tainted with, which networks they have, and which pods
//! must leave them.

mod evict;
mod ipam;
mod lifecycle;
mod podgc;

pub use evict::Evictions;
pub use ipam::Ipam;
pub use lifecycle::Lifecycle;
pub use podgc::PodGc;
