//! What can go wrong with a streaming connection.

use std::io;

/// A streaming connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection itself.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The other side broke the protocol, or used a part of it that is not spoken here.
    #[error("{protocol}: {what}")]
    Protocol {
        /// Which protocol.
        protocol: &'static str,
        /// How.
        what: &'static str,
    },
    /// The client asked for no protocol that is spoken here.
    #[error("none of the requested protocols is supported: {requested}")]
    NoProtocol {
        /// What it asked for.
        requested: String,
    },
    /// The client did not open its streams in time.
    #[error("the client did not open its streams in time")]
    Timeout,
    /// An upstream could not be reached.
    #[error("{url}: {source}")]
    Upstream {
        /// The upstream.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}
