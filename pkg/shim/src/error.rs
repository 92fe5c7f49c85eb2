//! What can go wrong, on both sides of the socket.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a shim answered instead of doing what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The OCI runtime failed; the message is its own.
    Runtime,
    /// The container is in the wrong state for it.
    State,
    /// The process is gone.
    NotFound,
    /// The request makes no sense (attach of a stdin that the container does not have).
    Invalid,
    /// The operating system failed.
    Internal,
}

/// An operation on a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or socket of the run folder.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A system call without a file.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file or message that is not what it should be.
    #[error("{what}: {source}")]
    Json {
        /// Which one.
        what: &'static str,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// The other side broke the protocol.
    #[error("the shim's protocol: {0}")]
    Protocol(&'static str),
    /// No shim runs for this folder, and none can be started again.
    #[error("no shim in {}", dir.display())]
    Gone {
        /// The run folder.
        dir: PathBuf,
    },
    /// The shim refused or failed.
    #[error("{message}")]
    Refused {
        /// Why, in kind.
        kind: Refusal,
        /// Why, in words.
        message: String,
    },
}

impl Error {
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what, source }
    }

    pub(crate) fn refused(kind: Refusal, message: impl Into<String>) -> Error {
        Error::Refused {
            kind,
            message: message.into(),
        }
    }

    /// The kind of refusal this error stands for when it is sent over the socket.
    pub fn refusal(&self) -> Refusal {
        match self {
            Error::Refused { kind, .. } => *kind,
            Error::Gone { .. } => Refusal::NotFound,
            Error::Protocol(_) | Error::Json { .. } => Refusal::Invalid,
            Error::Io { .. } | Error::System { .. } => Refusal::Internal,
        }
    }
}
