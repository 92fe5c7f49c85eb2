//! SPDY/3.1, the server's side, as far as Kubernetes uses it: the client opens streams, the
//! server accepts them, both send data.

mod connection;
mod dictionary;
mod frames;
#[cfg(test)]
mod fuzz;
mod headers;

pub(crate) use connection::{Incoming, NewStream, receive, send};

/// The name of the protocol in an upgrade.
pub(crate) const UPGRADE: &str = "SPDY/3.1";
