//! What can go wrong.

use std::path::PathBuf;

/// An error of the pod network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{what}: {source}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Netlink {
        /// What was asked.
        what: String,
        /// The kernel's own words, or empty.
        detail: String,
        /// The error number.
        source: knarr_sys::Errno,
    },
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A value of the configuration or of a request makes no sense.
    #[error("{field} {value:?}: {reason}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Every address of the pod range is taken.
    #[error("no free address in {cidr}: {used} in use")]
    Exhausted {
        /// The node's pod range.
        cidr: String,
        /// Leases held.
        used: usize,
    },
    /// A host port is another pod's.
    #[error("host port {port}/{protocol} on {host_ip} is in use by sandbox {owner}")]
    PortTaken {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: &'static str,
        /// The host address, 0.0.0.0 for all.
        host_ip: String,
        /// Who has it.
        owner: String,
    },
}

impl Error {
    /// The error number, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { source, .. } => Some(source.0),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
