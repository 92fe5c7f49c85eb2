//! The API server: one pipeline for every request.
//!
//! # Flow
//! [`pipeline`] takes a request through authentication, impersonation, priority and fairness, and
//! authorization; `serve` turns a row of the table and a verb into an answer; writes go
//! through `knarr_registry::rest`, which calls admission and the kind's strategy in their order.
//! There is no handler for any kind.

pub mod admission;
mod aggregator;
mod alloc;
mod audit;
pub mod auth;
pub mod authz;
mod bootstrap;
mod bridge;
mod config;
mod core;
mod custom;
mod discovery;
mod encryption;
mod flowcontrol;
mod openapi;
mod pipeline;
mod reload;
mod request;
mod respond;
mod runtime_config;
mod serve;
mod server;
mod trust;
mod webhook;

pub use audit::{AuditBatch, AuditConfig, AuditDelivery, AuditMode, AuditPolicy, LogFile};
pub use auth::{UserInfo, front_proxy::RequestHeaders, oidc::AuthenticationConfiguration};
pub use authz::webhook::{
    Options as AuthorizationWebhookOptions, Webhook as AuthorizationWebhook,
    configuration as authorization_configuration,
};
pub use config::{AuthorizationMode, Config};
pub use encryption::Encryption;
pub use knarr_schema::json::STACK_BYTES;
pub use knarr_schema::features::Gates as FeatureGates;
pub use request::duration;
pub use runtime_config::RuntimeConfig;
pub use server::{ApiServer, Error};
pub use webhook::RemoteService;
