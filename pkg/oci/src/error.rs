//! What can go wrong, with the fields a caller may want to look at.

use std::path::PathBuf;

use crate::api::Status;

/// An error of the runtime. Its text is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container of this name.
    #[error("container {id:?} does not exist")]
    NotFound {
        /// The name asked for.
        id: String,
    },
    /// The name is taken.
    #[error("container with given ID already exists: {id}")]
    Exists {
        /// The name asked for.
        id: String,
    },
    /// The name has characters that may not stand in a container's name.
    #[error("invalid container ID format: {id:?}")]
    InvalidId {
        /// The name asked for.
        id: String,
    },
    /// The container is not in a state that allows this.
    #[error("cannot {action} a container in the {} state", status.as_str())]
    State {
        /// The verb that was refused.
        action: &'static str,
        /// The state the container is in.
        status: Status,
    },
    /// The configuration is not valid; nothing was touched.
    #[error("invalid configuration: {field}: {cause}")]
    Config {
        /// The path of the field in `config.json`.
        field: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The init failed at a step.
    #[error("{step}: {cause}")]
    Init {
        /// The step that failed.
        step: String,
        /// The cause.
        cause: String,
        /// The operating system's error number; 0 where there is none.
        errno: i32,
    },
    /// A hook failed.
    #[error("error running {kind} hook {path:?}: {cause}")]
    Hook {
        /// The list the hook stands in.
        kind: &'static str,
        /// Its program.
        path: PathBuf,
        /// What happened.
        cause: String,
    },
    /// The calling process has more than one thread.
    #[error("the caller has {threads} threads; a container can only be made by one")]
    Threads {
        /// How many threads there are.
        threads: usize,
    },
    /// A cgroup operation failed.
    #[error(transparent)]
    Cgroup(#[from] knarr_cgroups::Error),
    /// Something of the operating system failed.
    #[error("{action}: {source}")]
    Os {
        /// What was tried.
        action: String,
        /// The error.
        source: std::io::Error,
    },
    /// A state file is not readable.
    #[error("state file {path:?}: {cause}")]
    BadState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// CRIU is missing, too old, or failed.
    #[error("criu: {0}")]
    Criu(String),
    /// Neither the configuration nor this machine allows what was asked.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl Error {
    /// An [`Error::Os`] from anything that turns into an I/O error.
    pub fn os(action: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Error::Os {
            action: action.into(),
            source: source.into(),
        }
    }

    /// An [`Error::Config`].
    pub fn config(field: impl Into<String>, cause: impl Into<String>) -> Self {
        Error::Config {
            field: field.into(),
            cause: cause.into(),
        }
    }
}
