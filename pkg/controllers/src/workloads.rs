//! Controllers that make pods.

pub mod deployment;
pub mod replicas;
