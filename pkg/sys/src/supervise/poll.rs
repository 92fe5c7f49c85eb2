//! `poll(2)` over borrowed descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What to wait for, or what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events(i16);

impl Events {
    /// Data can be read, or the end of it.
    pub const READ: Events = Events(libc::POLLIN);
    /// Data can be written.
    pub const WRITE: Events = Events(libc::POLLOUT);
    /// Only a hang-up or an error is of interest.
    pub const HANGUP: Events = Events(0);

    /// Whether a read would not block (data, end of data, or an error to be collected).
    pub fn readable(self) -> bool {
        self.0 & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Whether a write would not block (room, or an error to be collected).
    pub fn writable(self) -> bool {
        self.0 & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Whether the other side is gone.
    pub fn hung_up(self) -> bool {
        self.0 & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Whether anything happened at all.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// A list of descriptors to wait on, filled anew for each wait. Keeps its memory.
#[derive(Debug, Default)]
pub struct PollSet {
    entries: Vec<libc::pollfd>,
}

impl PollSet {
    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Adds a descriptor and returns its index for [`PollSet::events`].
    pub fn add(&mut self, fd: BorrowedFd<'_>, events: Events) -> usize {
        self.entries.push(libc::pollfd {
            fd: fd.as_raw_fd(),
            events: events.0,
            revents: 0,
        });
        self.entries.len() - 1
    }

    /// Waits until something happens, a signal handler ran (answers 0), or the time is over.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let millis = match timeout {
            None => -1,
            // Rounded up, so that a deadline has passed when poll says so.
            Some(t) => i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        let count = libc::nfds_t::try_from(self.entries.len()).unwrap_or(libc::nfds_t::MAX);
        // SAFETY: the pointer and length describe `entries`, which outlives the call; a stale
        // descriptor number is answered by POLLNVAL.
        let n = unsafe { libc::poll(self.entries.as_mut_ptr(), count, millis) };
        if n < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                for entry in &mut self.entries {
                    entry.revents = 0;
                }
                return Ok(0);
            }
            return Err(error);
        }
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// What happened to the entry with this index.
    pub fn events(&self, index: usize) -> Events {
        Events(self.entries.get(index).map_or(0, |e| e.revents))
    }
}

/// Waits for one descriptor. Answers whether something happened before the time was over.
pub fn poll_one(fd: BorrowedFd<'_>, events: Events, timeout: Option<Duration>) -> io::Result<bool> {
    let mut set = PollSet::default();
    set.add(fd, events);
    Ok(set.wait(timeout)? > 0)
}
