//! The shim itself: one thread around `poll`.

mod cgroup;
mod connection;
mod launch;
mod log;
mod runtime;
mod streams;
mod supervisor;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

pub use knarr_oci::protect_binary;
pub use launch::{adopt, run};

/// The launch record in the run folder.
pub(crate) const LAUNCH_FILE: &str = "shim.json";
/// The socket in the run folder.
pub(crate) const SOCKET_FILE: &str = "shim.sock";

/// A message as it goes over the socket.
pub(crate) fn frame(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(|source| Error::Json {
        what: "encode a message",
        source,
    })?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// A name for a file that fits into a socket's address however long its path is. Valid, also
/// for other processes, as long as the folder is held.
fn socket_address(path: &Path) -> io::Result<(PathBuf, File)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    let link = format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd());
    Ok((Path::new(&link).join(name), folder))
}

/// A line for `shim.log`.
fn note(text: &str) {
    eprintln!("{} {text}", std::process::id());
}
