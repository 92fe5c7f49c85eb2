//! A process that does nothing but hold descriptors open.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::process::{Fork, fork_single_threaded};

/// Forks a process that holds `kept` open, under the same numbers, until `until` becomes
/// readable (a pidfd: until that process has ended) or it is killed. All its other descriptors
/// are closed and all signals that can be are blocked. Answers its pid.
pub fn keep_open(kept: &[BorrowedFd<'_>], until: BorrowedFd<'_>) -> io::Result<i32> {
    let mut numbers: Vec<u32> = kept
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .collect();
    numbers.push(until.as_raw_fd().unsigned_abs());
    numbers.sort_unstable();
    if let Fork::Parent(pid) = fork_single_threaded()? {
        return Ok(pid);
    }
    // SAFETY: this is the only thread of a process that never returns to code which owns the
    // descriptors closed here, and leaves by `_exit` without running destructors. All pointers
    // are to locals that live as long as the process.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"knarr-keeper".as_ptr());
        let mut first = 0;
        for &number in &numbers {
            if number > first {
                libc::syscall(libc::SYS_close_range, first, number - 1, 0);
            }
            first = number + 1;
        }
        libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
        let mut entry = libc::pollfd {
            fd: until.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        while libc::poll(&mut entry, 1, -1) < 1 {}
        libc::_exit(0)
    }
}
