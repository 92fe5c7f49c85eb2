//! Forking, sessions, waiting.

use std::io;

/// Which side of a fork the caller is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The caller; the new process's pid.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks. Refused when the process has more than one thread, because locks held by the others
/// would stay held for ever in the child.
pub fn fork_single_threaded() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other("fork refused: more than one thread"));
    }
    // SAFETY: the process has one thread, so the child's memory is consistent and no lock is
    // held by a thread that does not exist there.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Makes the caller the leader of a new session and process group, without a terminal.
pub fn start_session() -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::setsid() } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes orphaned descendants children of the caller instead of init's.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a signal to a process by number. Prefer a pidfd where there is one.
pub fn kill_process(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(pid, signal) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A child that was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waited {
    /// Its pid, free for reuse from now on.
    pub pid: i32,
    /// Its status as `waitpid` gives it.
    pub status: super::ExitStatus,
}

fn wait(pid: i32, flags: i32) -> io::Result<Option<Waited>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for the call.
        let n = unsafe { libc::waitpid(pid, &mut status, flags) };
        if n > 0 {
            return Ok(Some(Waited {
                pid: n,
                status: super::ExitStatus::from_raw(status),
            }));
        }
        if n == 0 {
            return Ok(None);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Reaps one ended child of any kind, if there is one. Does not wait.
pub fn wait_any() -> io::Result<Option<Waited>> {
    wait(-1, libc::WNOHANG)
}

/// Waits for one child. None when it is not a child of the caller (any more).
pub fn wait_for(pid: i32) -> io::Result<Option<Waited>> {
    wait(pid, 0)
}

/// Gives freed heap memory back to the kernel.
pub fn trim_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only the allocator's own state, which locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
