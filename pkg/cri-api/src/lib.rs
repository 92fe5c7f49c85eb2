//! The Container Runtime Interface v1: messages, clients and servers, generated from the
//! descriptors in `api/cri` when the crate is built.
#![allow(missing_docs)] // generated: the descriptors hold no prose
#![allow(clippy::all)]

/// Package `runtime.v1`.
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
