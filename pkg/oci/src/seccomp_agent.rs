//! Handing the descriptor of system call notifications to its agent.

use std::os::fd::{AsFd, OwnedFd};

use crate::error::Error;
use crate::hooks::HookState;
use crate::plan::ProcessPlan;

/// Sends the state that the specification asks for, with the descriptor, to the agent's socket.
///
/// # Errors
/// [`Error::Os`] when the agent cannot be reached.
pub(crate) fn hand_over(
    process: &ProcessPlan,
    state: &HookState,
    pid: i32,
    fd: &OwnedFd,
) -> Result<(), Error> {
    let Some((path, metadata)) = process.seccomp.as_ref().and_then(|f| f.listener.as_ref()) else {
        return Ok(());
    };
    let text = serde_json::json!({
        "ociVersion": crate::OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state,
    })
    .to_string();
    let failed = |e: std::io::Error| Error::os(format!("seccomp agent {path:?}"), e);
    let socket = std::os::unix::net::UnixStream::connect(path).map_err(failed)?;
    knarr_sys::socket::send(socket.as_fd(), text.as_bytes(), &[fd.as_fd()])
        .map_err(|e| failed(e.into()))
}
