//! Controllers that make pods.

pub mod daemonset;
pub mod deployment;
pub mod replicas;
pub mod statefulset;
