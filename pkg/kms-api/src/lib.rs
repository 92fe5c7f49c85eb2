//! KMS v2: the service that keys are kept by, and the objects that are stored with it, generated
//! from the descriptors in `api/kms` when the crate is built.
#![allow(missing_docs)] // generated: the descriptors hold no prose
#![allow(clippy::all)]

/// The service, package `v2`.
pub mod v2 {
    tonic::include_proto!("v2");
}

/// What is stored.
pub mod stored {
    tonic::include_proto!("stored.v2");
}
