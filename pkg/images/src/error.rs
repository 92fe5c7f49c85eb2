//! What can go wrong with images, worded as container users know it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused something.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// An image name that cannot be parsed.
    #[error("couldn't parse image name {text:?}: invalid reference format: {reason}")]
    Reference {
        /// The text given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No such image, locally or in the registry.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry refused.
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    Status {
        /// The request's method.
        method: &'static str,
        /// The request's address.
        url: String,
        /// Code and reason.
        status: String,
        /// What the registry said, with a separator before it; may be empty.
        detail: String,
    },
    /// The registry wants credentials that were not given or are not enough.
    #[error(
        "pull access denied, repository does not exist or may require authorization: {0}"
    )]
    Denied(String),
    /// The registry could not be reached.
    #[error("failed to do request: {method} {url:?}: {reason}")]
    Connect {
        /// The request's method.
        method: &'static str,
        /// The request's address.
        url: String,
        /// Why it failed.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error("{what}: digest mismatch: expected {expected}, got {actual}")]
    Digest {
        /// Which content.
        what: String,
        /// The digest asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// Content that does not follow its format.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which content.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image has no variant for this machine.
    #[error("no match for platform in manifest: {0}: not found")]
    Platform(String),
    /// The state on disk was written by a newer program.
    #[error(
        "{} has version {version}, this program knows up to {known}; use a newer knarr or another data folder",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version known.
        known: u32,
    },
    /// An error with the step it happened in.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: Box<Error>,
    },
    /// The error of work that several callers waited for.
    #[error(transparent)]
    Shared(Arc<Error>),
}

impl Error {
    pub(crate) fn io(
        what: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Error::Io {
            what,
            path: path.as_ref().to_path_buf(),
            source: source.into(),
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Self {
        Error::Malformed {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn step(self, step: impl Into<String>) -> Self {
        Error::Step {
            step: step.into(),
            source: Box::new(self),
        }
    }

    /// The error without the steps around it.
    pub fn root(&self) -> &Error {
        match self {
            Error::Step { source, .. } => source.root(),
            Error::Shared(source) => source.root(),
            other => other,
        }
    }

    /// Whether the image does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.root(), Error::NotFound(_) | Error::Platform(_))
    }
}
