//! Processes of the kernel: told apart by start time, watched by pidfd.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// When a process started, in clock ticks since boot; `None` if it is gone or a zombie.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A process that is certainly the one meant.
#[derive(Debug)]
pub(crate) struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// `None` if it is gone.
    pub(crate) fn find(pid: i32, start: u64) -> Option<Self> {
        let fd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Opened first, compared then: what is compared is what was opened.
        if start_time(pid)? != start {
            return None;
        }
        // The other constructor is for types that may swap their descriptor; this one cannot.
        #[allow(deprecated)]
        let watched = AsyncFd::with_interest(fd, Interest::READABLE);
        watched.ok().map(Self)
    }

    /// Resolves when it has ended. Cancellation-safe.
    pub(crate) async fn ended(&self) {
        if let Err(e) = self.0.readable().await {
            tracing::warn!(error = %e, "waiting for a process failed");
        }
    }

    pub(crate) fn kill(&self) {
        // The only failure is that it is gone.
        let _ = rustix::process::pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }
}
