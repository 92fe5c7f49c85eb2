//! Signals as a descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A descriptor that becomes readable when one of its signals is pending. Those signals stay
/// blocked in the calling thread from then on.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset is then given an initialised one and
    // refuses unknown numbers with EINVAL, which leaves the set as it was.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn set_mask(set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both pointers are valid for the call; `old` is filled on success.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, old.as_mut_ptr()) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    // SAFETY: filled by the successful call above.
    Ok(unsafe { old.assume_init() })
}

impl SignalFd {
    /// Blocks the signals and makes a non-blocking descriptor for them.
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let set = set_of(signals);
        set_mask(&set)?;
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(SignalFd {
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    /// Takes the next pending signal's number, if there is one.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has `size` bytes.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: zeroed and then filled by the kernel; any bit pattern is valid.
        let info = unsafe { info.assume_init() };
        Ok(i32::try_from(info.ssi_signo).ok())
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `f` with no signal blocked and SIGPIPE at its default, and puts both back afterwards.
/// For starting processes: they inherit the mask and ignored signals.
pub fn with_default_signals<T>(f: impl FnOnce() -> T) -> io::Result<T> {
    let old = set_mask(&set_of(&[]))?;
    // SAFETY: setting a disposition to SIG_DFL or back to what it was runs no code of ours.
    let handler = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let result = f();
    if handler != libc::SIG_ERR {
        // SAFETY: as above; `handler` is what the kernel reported as the former disposition.
        unsafe { libc::signal(libc::SIGPIPE, handler) };
    }
    set_mask(&old)?;
    Ok(result)
}
