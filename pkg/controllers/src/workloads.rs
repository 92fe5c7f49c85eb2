//! Controllers that make pods.

pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod job;
pub mod replicas;
pub mod statefulset;
