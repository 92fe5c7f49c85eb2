//! Exec, attach and port-forward streams over SPDY/3.1 and WebSocket.
//!
//! [`tunnel`] hands an upgrade request on to an upstream byte for byte: the API server to the
//! kubelet, the kubelet to the CRI. [`Server`] is the CRI's end: it speaks the protocols and gives
//! a [`Handler`] plain byte streams. [`OutputSocket`] gives an answer's body over a WebSocket.

mod error;
mod output;
mod server;
mod spdy;
mod streams;
#[cfg(test)]
mod testing;
mod tunnel;
mod websocket;

pub use error::Error;
pub use output::OutputSocket;
pub use server::{
    AttachParams, ExecParams, ExecResult, Handler, PortForwardParams, PortStream, Server,
};
pub use streams::{Reader, Streams, TerminalSize, Writer};
pub use tunnel::{Body, Upstream, tunnel};
