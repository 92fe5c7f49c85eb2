//! What the runtime and a container's init say to each other while the container is made.
//!
//! ```text
//!  caller (create)                                init (the child)
//!  ───────────────                                ─────────────────────────────────
//!  plan, cgroup, state, start socket
//!  clone3 ───────────────────────────────────────▶ joins cgroup v1, closes what is not its own
//!                                                  joins namespaces given by path
//!  [writes uid_map, gid_map, oom_score_adj]
//!  Proceed ──────────────────────────────────────▶ becomes root of its user namespace
//!                                                  makes mounts and devices
//!         ◀─────────────────────────────────────── Hooks            (only with such hooks)
//!  runs prestart and createRuntime hooks
//!  Proceed ──────────────────────────────────────▶ runs createContainer hooks, switches root
//!         ◀─────────────────────────────────────── Console + fd     (only with a terminal)
//!                                                  masks, limits, sysctl; finds the program
//!         ◀─────────────────────────────────────── Ready
//!  state = created; returns                        waits on the start socket
//!
//!  caller (start), maybe another process
//!  connect, Start ───────────────────────────────▶ runs startContainer hooks, drops privileges,
//!                                                  loads seccomp, execve
//!         ◀─────────────────────────────────────── end of file: the program runs
//!  At any point: ◀──────────────────────────────── Failed, and the init leaves with code 1
//! ```
//!
//! When a namespace must be entered before the init can be made (a user or pid namespace by
//! path, and every `exec`), the caller's child is a *usher*: it enters the namespaces, clones
//! the real init as its sibling (a child of the caller), says `Usher(pid)` and leaves.
//!
//! Each message is one packet: a tag byte, then its fields. End of file before `Ready` means
//! that the child died.

use std::os::fd::{BorrowedFd, OwnedFd};

use knarr_sys::{Errno, socket};

/// A message in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// To the init: go on.
    Proceed,
    /// From the init: run the hooks of the runtime's namespace now.
    Hooks,
    /// From the init: the terminal's master comes along.
    Console,
    /// From the init: the descriptor of seccomp notifications comes along.
    SeccompListener,
    /// From the init: set up, waiting.
    Ready,
    /// From the usher: the pid of the real init, as the caller sees it.
    Usher(i32),
    /// To a waiting init: run the program.
    Start,
    /// From the init: a step failed.
    Failed {
        /// The step.
        step: String,
        /// Why.
        cause: String,
        /// The operating system's error number, or 0.
        errno: i32,
    },
}

const MAX: usize = 8192;

impl Message {
    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Message::Proceed => out.push(1),
            Message::Hooks => out.push(2),
            Message::Console => out.push(3),
            Message::SeccompListener => out.push(4),
            Message::Ready => out.push(5),
            Message::Usher(pid) => {
                out.push(6);
                out.extend_from_slice(&pid.to_le_bytes());
            }
            Message::Start => out.push(7),
            Message::Failed { step, cause, errno } => {
                out.push(8);
                out.extend_from_slice(&errno.to_le_bytes());
                let step = step.get(..step.len().min(1024)).unwrap_or_default();
                out.extend_from_slice(&(step.len() as u32).to_le_bytes());
                out.extend_from_slice(step.as_bytes());
                out.extend_from_slice(cause.as_bytes());
                out.truncate(MAX);
            }
        }
        out
    }

    /// The message of a packet; `None` when it is not one.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (tag, rest) = packet.split_first()?;
        let int = |at: usize| -> Option<i32> {
            Some(i32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?))
        };
        Some(match tag {
            1 => Message::Proceed,
            2 => Message::Hooks,
            3 => Message::Console,
            4 => Message::SeccompListener,
            5 => Message::Ready,
            6 => Message::Usher(int(0)?),
            7 => Message::Start,
            8 => {
                let errno = int(0)?;
                let length = usize::try_from(int(4)?).ok()?;
                let step = rest.get(8..8usize.checked_add(length)?)?;
                let cause = rest.get(8 + length..)?;
                Message::Failed {
                    step: String::from_utf8_lossy(step).into_owned(),
                    cause: String::from_utf8_lossy(cause).into_owned(),
                    errno,
                }
            }
            _ => return None,
        })
    }
}

/// Sends a message, maybe with a descriptor.
///
/// # Errors
/// `EPIPE` when the other side is gone.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &Message,
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    socket::send(socket, &message.encode(), &fds)
}

/// Receives a message; `None` at the end.
///
/// # Errors
/// Those of `recvmsg(2)`; `EINVAL` for a packet that is no message.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    let mut buf = [0u8; MAX];
    let (n, fds) = match socket::recv(socket, &mut buf) {
        Err(Errno(104)) => return Ok(None),
        other => other?,
    };
    if n == 0 {
        return Ok(None);
    }
    let message = Message::decode(&buf[..n]).ok_or(Errno::INVAL)?;
    Ok(Some((message, fds.into_iter().next())))
}

#[cfg(test)]
mod tests;
