//! The operating system's error numbers.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// What every wrapper returns.
pub type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    /// Not permitted.
    pub const PERM: Errno = Errno(libc::EPERM);
    /// No such file.
    pub const NOENT: Errno = Errno(libc::ENOENT);
    /// No such process.
    pub const SRCH: Errno = Errno(libc::ESRCH);
    /// Interrupted.
    pub const INTR: Errno = Errno(libc::EINTR);
    /// Try again.
    pub const AGAIN: Errno = Errno(libc::EAGAIN);
    /// Access denied.
    pub const ACCES: Errno = Errno(libc::EACCES);
    /// Busy.
    pub const BUSY: Errno = Errno(libc::EBUSY);
    /// Exists.
    pub const EXIST: Errno = Errno(libc::EEXIST);
    /// Not a folder.
    pub const NOTDIR: Errno = Errno(libc::ENOTDIR);
    /// Invalid argument.
    pub const INVAL: Errno = Errno(libc::EINVAL);
    /// Read-only file system.
    pub const ROFS: Errno = Errno(libc::EROFS);
    /// No such system call.
    pub const NOSYS: Errno = Errno(libc::ENOSYS);
    /// Name too long.
    pub const NAMETOOLONG: Errno = Errno(libc::ENAMETOOLONG);

    /// The calling thread's last error.
    pub fn last() -> Errno {
        Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "No such file or directory (os error 2)" without the part in brackets, in lower case
        // at its start, as runtimes print it.
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_ascii_lowercase(), chars.as_str()),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        std::io::Error::from_raw_os_error(e.0)
    }
}

/// The result of a call that returns -1 for failure.
pub(crate) fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

/// The same for calls that return an `int`.
pub(crate) fn check_int(ret: libc::c_int) -> Result<libc::c_int> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

/// A path as a C string. A path with a NUL byte is `EINVAL`.
pub(crate) fn cpath(path: impl AsRef<Path>) -> Result<CString> {
    CString::new(path.as_ref().as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

/// A text as a C string.
pub(crate) fn cstr(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Errno::INVAL)
}
