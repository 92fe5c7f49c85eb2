//! Making, joining, identifying and ending processes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::errno::{Errno, Result, check, check_int};

/// Namespaces to make or join: a set of `CLONE_NEW*` bits.
pub mod ns {
    /// Mounts.
    pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    /// Control groups.
    pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// Host and domain name.
    pub const UTS: u64 = libc::CLONE_NEWUTS as u64;
    /// System V IPC and message queues.
    pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
    /// Users.
    pub const USER: u64 = libc::CLONE_NEWUSER as u64;
    /// Process ids.
    pub const PID: u64 = libc::CLONE_NEWPID as u64;
    /// Network.
    pub const NET: u64 = libc::CLONE_NEWNET as u64;
    /// Clocks.
    pub const TIME: u64 = 0x80;
}

const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;
const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Who we are after [`clone_process`].
#[derive(Debug)]
pub enum Cloned {
    /// The caller, with the child's pid and pidfd.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// Refers to the child.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// What [`clone_process`] is to make.
#[derive(Debug, Default)]
pub struct CloneArgs<'a> {
    /// Namespaces to make: bits of [`ns`].
    pub namespaces: u64,
    /// Make the child a child of the caller's parent.
    pub sibling: bool,
    /// Start the child in this cgroup (v2).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// `clone3` in the manner of `fork`: the child goes on behind this call in a copy of the memory.
///
/// The caller must have one thread only: in the child no other thread exists, and a lock one of
/// them held would stay held. [`thread_count`] tells.
///
/// # Errors
/// Those of `clone3(2)`.
pub fn clone_process(args: &CloneArgs<'_>) -> Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..RawCloneArgs::default()
    };
    if args.sibling {
        raw.flags |= CLONE_PARENT;
        raw.exit_signal = 0;
    }
    if let Some(fd) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: `raw` is a valid clone_args of the given size; without CLONE_VM and without a
    // stack the child runs on a copy of this stack, as after fork. The pidfd pointer outlives
    // the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut raw,
            std::mem::size_of::<RawCloneArgs>(),
        )
    };
    match check(ret)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: pid as i32,
            // SAFETY: CLONE_PIDFD stored a new descriptor that nothing else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

#[repr(C, align(8))]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// How many threads the calling process has.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn thread_count() -> std::io::Result<usize> {
    use std::os::unix::fs::MetadataExt;
    // The link count of the task folder is 2 plus one for each thread.
    let links = std::fs::metadata("/proc/self/task")?.nlink() as usize;
    Ok(links.saturating_sub(2).max(1))
}

/// Leaves the process at once, running no destructors or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// The caller's pid in its own namespace.
pub fn getpid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getpid() }
}

/// The parent's pid.
pub fn getppid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getppid() }
}

/// The effective user id.
pub fn geteuid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether the caller is without root's power over the machine: another user, or in a user
/// namespace.
pub fn is_rootless() -> bool {
    let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    geteuid() != 0 || !std::fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
}

/// The effective group id.
pub fn getegid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getegid() }
}

/// Opens a pidfd.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal through a pidfd.
///
/// # Errors
/// `ESRCH` when the process has ended.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Sends a signal to a process.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers.
    check_int(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code a shell reports: the exit code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(c) => c,
            Exit::Signal(s) => 128 + s,
        }
    }
}

/// Waits until the child with this pid has ended, and reaps it. Children of any exit signal
/// count.
///
/// # Errors
/// `ECHILD` when it is not a child.
pub fn wait(pid: i32) -> Result<Exit> {
    loop {
        if let Some((_, exit)) = wait_flags(pid, libc::__WALL)? {
            return Ok(exit);
        }
    }
}

/// Reaps a child that has ended (`-1`: any); `None` when none has.
///
/// # Errors
/// `ECHILD` when there is no child.
pub fn try_wait(pid: i32) -> Result<Option<(i32, Exit)>> {
    wait_flags(pid, libc::__WALL | libc::WNOHANG)
}

fn wait_flags(pid: i32, flags: i32) -> Result<Option<(i32, Exit)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place to write to.
        let got = unsafe { libc::waitpid(pid, &raw mut status, flags) };
        match check_int(got) {
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
            Ok(0) => return Ok(None),
            Ok(pid) if libc::WIFEXITED(status) => {
                return Ok(Some((pid, Exit::Code(libc::WEXITSTATUS(status)))));
            }
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some((pid, Exit::Signal(libc::WTERMSIG(status)))));
            }
            Ok(_) => return Ok(None),
        }
    }
}

/// Joins the namespace a descriptor refers to (`kind`: one bit of [`ns`], or 0 for any).
///
/// # Errors
/// Those of `setns(2)`.
pub fn setns(fd: BorrowedFd<'_>, kind: u64) -> Result<()> {
    // SAFETY: plain integers.
    check_int(unsafe { libc::setns(fd.as_raw_fd(), kind as i32) })?;
    Ok(())
}

/// Moves the caller into new namespaces (bits of [`ns`]).
///
/// # Errors
/// Those of `unshare(2)`.
pub fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: plain integers.
    check_int(unsafe { libc::unshare(namespaces as i32) })?;
    Ok(())
}

/// Starts a new session.
///
/// # Errors
/// `EPERM` for a group leader.
pub fn setsid() -> Result<()> {
    // SAFETY: no arguments.
    check_int(unsafe { libc::setsid() })?;
    Ok(())
}

/// Sets all three user ids of the calling thread.
///
/// # Errors
/// `EPERM`, `EINVAL` for an id with no mapping.
pub fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: the raw call acts on this thread only, which is the only one.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets all three group ids of the calling thread.
///
/// # Errors
/// `EPERM`, `EINVAL` for an id with no mapping.
pub fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: as in `setresuid`.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// Sets the supplementary groups of the calling thread.
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length describe the slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Sets the file mode mask and returns the former.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask) }
}

/// Changes the host name of the UTS namespace.
///
/// # Errors
/// `EPERM`, `EINVAL` when too long.
pub fn sethostname(name: &str) -> Result<()> {
    // SAFETY: pointer and length describe the text.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Changes the NIS domain name of the UTS namespace.
///
/// # Errors
/// `EPERM`, `EINVAL` when too long.
pub fn setdomainname(name: &str) -> Result<()> {
    // SAFETY: pointer and length describe the text.
    check_int(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// C strings with the null-terminated pointer list that `execve` wants, made ahead of time.
#[derive(Debug)]
pub struct ArgList {
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl ArgList {
    /// # Errors
    /// `EINVAL` when a text holds a NUL byte.
    pub fn new<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let strings = texts
            .iter()
            .map(|t| CString::new(t.as_ref()).map_err(|_| Errno::INVAL));
        Ok(Self::from_strings(strings.collect::<Result<_>>()?))
    }

    /// From texts of any bytes.
    ///
    /// # Errors
    /// `EINVAL` when one holds a NUL byte.
    pub fn from_os(texts: impl Iterator<Item = std::ffi::OsString>) -> Result<Self> {
        use std::os::unix::ffi::OsStringExt;
        let strings = texts.map(|t| CString::new(t.into_vec()).map_err(|_| Errno::INVAL));
        Ok(Self::from_strings(strings.collect::<Result<_>>()?))
    }

    fn from_strings(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

/// Replaces the program. Returns only on failure.
pub fn execve(path: &CStr, argv: &ArgList, envp: &ArgList) -> Errno {
    // SAFETY: both lists end with a null pointer and own their strings.
    unsafe {
        libc::execve(
            path.as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
        )
    };
    Errno::last()
}

/// Replaces the program by the file a descriptor refers to. Returns only on failure.
pub fn fexecve(fd: BorrowedFd<'_>, argv: &ArgList, envp: &ArgList) -> Errno {
    // SAFETY: both lists end with a null pointer; the empty path is a valid C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// Whether the process may be traced and its `/proc` entries read by its user.
///
/// # Errors
/// Does not fail with these arguments.
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on))
}

/// Forbids gaining privileges by `execve`, for good.
///
/// # Errors
/// Does not fail on current kernels.
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// The signal the caller gets when its parent ends (0: none).
///
/// # Errors
/// `EINVAL` for a bad signal.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64)
}

/// Makes the caller the reaper of its orphaned descendants.
///
/// # Errors
/// Does not fail with these arguments.
pub fn set_child_subreaper(on: bool) -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, u64::from(on))
}

/// Whether permitted capabilities outlive a change of user ids.
///
/// # Errors
/// `EPERM` when locked.
pub fn set_keep_caps(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on))
}

/// Names the calling thread (15 bytes at most are kept).
///
/// # Errors
/// Does not fail.
pub fn set_name(name: &CStr) -> Result<()> {
    // SAFETY: the pointer is to a C string that outlives the call.
    check_int(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) })?;
    Ok(())
}

pub(crate) fn prctl(option: i32, arg: u64) -> Result<()> {
    // SAFETY: integers only; unused arguments are zero.
    check_int(unsafe { libc::prctl(option, arg, 0u64, 0u64, 0u64) })?;
    Ok(())
}

/// Joins a new session keyring of this name, which processes of the same user may search.
///
/// # Errors
/// `ENOSYS` where the kernel has no keys, `EDQUOT`.
pub fn join_session_keyring(name: &str) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    const KEYCTL_SETPERM: libc::c_int = 5;
    // What a keyring has anyway (all to who holds it; view, read and link to its user), and search.
    const PERMISSIONS: libc::c_ulong = 0x3f1b_0000;
    let name = crate::errno::cstr(name)?;
    // SAFETY: the pointer is to a C string that outlives the call.
    let id = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
            0,
            0,
            0,
        )
    })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, id, PERMISSIONS, 0, 0) })?;
    Ok(())
}

/// Closes (with `cloexec_only`: marks close-on-exec) every descriptor from `first` on.
///
/// # Errors
/// `ENOSYS` before Linux 5.9 (5.11 for `cloexec_only`).
pub fn close_range(first: u32, cloexec_only: bool) -> Result<()> {
    let flags = if cloexec_only { 4 } else { 0 };
    // SAFETY: callers own no descriptors from `first` on that they use afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) })?;
    Ok(())
}
