//! The generic registry: objects, lists, watches and strategies over a store.
//!
//! [`Registry`] keeps a watch cache for each resource, all fed by one watch of the store, and makes
//! the conditional writes. [`rest`] is what create, update and delete mean for every kind; what is
//! special about one kind is its [`strategy::Strategy`].

pub mod cache;
pub mod error;
pub mod expressions;
pub mod list;
pub mod names;
pub mod object;
mod registry;
pub mod rest;
pub mod selector;
pub mod strategy;

pub use cache::{Cache, Change, Codec, Encoded, Entry, Interest, Lag, Snapshot, Watcher};
pub use error::{ApiError, FieldError, FieldErrorKind};
pub use object::Object;
pub use registry::{Put, ROOT, Registry, Write};
