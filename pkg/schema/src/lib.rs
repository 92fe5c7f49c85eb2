//! Kubernetes v1.37 as data: resources, types, codecs, defaults, patches, tables, OpenAPI.
//!
//! Everything derives from the tables under `api/`: [`Catalog`] is the list of served
//! resources, [`types`] the shape of every body. Objects in memory are [`serde_json::Value`].

pub mod apply;
pub mod catalog;
pub mod defaults;
pub mod discovery;
pub mod features;
pub mod json;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod structural;
pub mod table;
pub mod time;
pub mod types;
pub mod yaml;

pub use catalog::{Catalog, GroupVersion, Resource, Subresource};
pub use status::{Cause, Status};
pub use types::{Field, Shape, Type};

/// A Kubernetes object, or any part of one.
pub type Object = serde_json::Value;
