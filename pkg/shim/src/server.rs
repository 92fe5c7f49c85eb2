//! The shim itself: one thread around `poll`.

use serde::Serialize;

use crate::error::Error;

/// The launch record in the run folder.
pub(crate) const LAUNCH_FILE: &str = "shim.json";
/// The socket in the run folder.
pub(crate) const SOCKET_FILE: &str = "shim.sock";

/// A message as it goes over the socket.
pub(crate) fn frame(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)
        .map_err(|source| Error::Json { what: "encode a message", source })?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}
