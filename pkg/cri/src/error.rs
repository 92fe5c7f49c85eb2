//! What can go wrong, and the gRPC status each becomes.

use std::path::{Path, PathBuf};

use tonic::{Code, Status};

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox, container or image.
    #[error("an error occurred when try to find {kind} {id:?}: not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The object is in the wrong state for it.
    #[error("{0}")]
    State(String),
    /// Not done here.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// It took too long.
    #[error("{0}")]
    Deadline(String),
    /// The OCI runtime refused.
    #[error("{what}: {message}")]
    Runtime {
        /// What was asked of it.
        what: &'static str,
        /// Its words.
        message: String,
    },
    /// The pod network refused.
    #[error("failed to setup network for sandbox {id:?}: {message}")]
    Network {
        /// The sandbox.
        id: String,
        /// Its words.
        message: String,
    },
    /// A file, folder or mount.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// State on disk that cannot be understood.
    #[error("{}: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// State on disk of a newer version.
    #[error("{}: version {version} is newer than this program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The image store.
    #[error(transparent)]
    Image(#[from] knarr_images::Error),
    /// The shim.
    #[error(transparent)]
    Shim(#[from] knarr_shim::Error),
    /// The answer of work that several callers waited for.
    #[error("{}", .0.message())]
    Status(Box<Status>),
}

impl Error {
    pub(crate) fn io(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { what, path, source }
    }

    pub(crate) fn errno(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(rustix::io::Errno) -> Error {
        let make = Error::io(what, path);
        move |e| make(e.into())
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound { .. } => Code::NotFound,
            Error::Invalid(_) => Code::InvalidArgument,
            Error::State(_) => Code::FailedPrecondition,
            Error::Unsupported(_) => Code::Unimplemented,
            Error::Deadline(_) => Code::DeadlineExceeded,
            Error::Image(e) if e.is_not_found() => Code::NotFound,
            Error::Image(e) if matches!(e.root(), knarr_images::Error::Reference { .. }) => {
                Code::InvalidArgument
            }
            Error::Status(status) => return (**status).clone(),
            _ => Code::Unknown,
        };
        Status::new(code, error.to_string())
    }
}
