//! Files, by descriptor and with `openat2`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::errno::{Errno, Result, check, check_int, cpath};

pub use libc::{
    O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY,
    O_RDWR, O_TRUNC, O_WRONLY,
};

/// How `openat2` resolves a path.
pub mod resolve {
    /// Treat the starting folder as the root: `..` and absolute links stay inside.
    pub const IN_ROOT: u64 = 0x10;
    /// Refuse to leave the starting folder.
    pub const BENEATH: u64 = 0x08;
    /// Refuse symbolic links.
    pub const NO_SYMLINKS: u64 = 0x04;
    /// Refuse magic links of procfs.
    pub const NO_MAGICLINKS: u64 = 0x02;
    /// Refuse to cross mounts.
    pub const NO_XDEV: u64 = 0x01;
}

/// The working folder as a starting point.
pub const CWD: BorrowedFd<'static> = {
    // SAFETY: AT_FDCWD is not -1 and is valid for every *at call for all time.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
};

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: called with a descriptor the kernel has just made, that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Opens a file relative to a folder; close-on-exec.
///
/// # Errors
/// Those of `openat(2)`.
pub fn openat(
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: i32,
    mode: u32,
) -> Result<OwnedFd> {
    let path = cpath(path)?;
    loop {
        // SAFETY: the path is a C string that outlives the call.
        let fd = unsafe {
            libc::openat(
                dir.as_raw_fd(),
                path.as_ptr(),
                flags | libc::O_CLOEXEC,
                mode,
            )
        };
        match check_int(fd) {
            Err(Errno::INTR) => {}
            other => return other.map(|fd| owned(fd.into())),
        }
    }
}

/// Opens a file by path; close-on-exec.
///
/// # Errors
/// Those of `open(2)`.
pub fn open(path: impl AsRef<Path>, flags: i32) -> Result<OwnedFd> {
    openat(CWD, path, flags, 0)
}

/// Opens a file with a resolution rule ([`resolve`]); close-on-exec.
///
/// # Errors
/// Those of `openat2(2)`; `EAGAIN` (a rename raced) is retried.
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let path = cpath(path)?;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve,
    };
    let mut tries = 0;
    loop {
        // SAFETY: path and `how` are valid for the call and the size is that of `how`.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                std::mem::size_of::<OpenHow>(),
            )
        };
        match check(fd) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            other => return other.map(owned),
        }
    }
}

/// Makes a folder.
///
/// # Errors
/// Those of `mkdirat(2)`.
pub fn mkdirat(dir: BorrowedFd<'_>, path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = cpath(path)?;
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), mode) })?;
    Ok(())
}

/// Makes a node. `kind`: `S_IFREG`, `S_IFCHR`, `S_IFBLK`, `S_IFIFO`.
///
/// # Errors
/// Those of `mknodat(2)`.
pub fn mknodat(
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    kind: u32,
    mode: u32,
    major: u32,
    minor: u32,
) -> Result<()> {
    let path = cpath(path)?;
    let dev = libc::makedev(major, minor);
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::mknodat(dir.as_raw_fd(), path.as_ptr(), kind | mode, dev) })?;
    Ok(())
}

/// Makes a symbolic link.
///
/// # Errors
/// Those of `symlinkat(2)`.
pub fn symlinkat(
    target: impl AsRef<Path>,
    dir: BorrowedFd<'_>,
    path: impl AsRef<Path>,
) -> Result<()> {
    let (target, path) = (cpath(target)?, cpath(path)?);
    // SAFETY: both are C strings that outlive the call.
    check_int(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), path.as_ptr()) })?;
    Ok(())
}

/// Removes a name; with `folder`, an empty folder.
///
/// # Errors
/// Those of `unlinkat(2)`.
pub fn unlinkat(dir: BorrowedFd<'_>, path: impl AsRef<Path>, folder: bool) -> Result<()> {
    let path = cpath(path)?;
    let flags = if folder { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::unlinkat(dir.as_raw_fd(), path.as_ptr(), flags) })?;
    Ok(())
}

/// Where a symbolic link leads.
///
/// # Errors
/// `EINVAL` when it is no link.
pub fn readlinkat(dir: BorrowedFd<'_>, path: impl AsRef<Path>) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let path = cpath(path)?;
    let mut buf = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is writable for its length.
    let n = check(unsafe {
        libc::readlinkat(
            dir.as_raw_fd(),
            path.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        ) as libc::c_long
    })?;
    buf.truncate(n as usize);
    Ok(PathBuf::from(std::ffi::OsString::from_vec(buf)))
}

/// Changes owner and group of the file itself (no link is followed). An empty path means `dir`.
///
/// # Errors
/// Those of `fchownat(2)`.
pub fn chownat(dir: BorrowedFd<'_>, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
    let path = cpath(path)?;
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::fchownat(dir.as_raw_fd(), path.as_ptr(), uid, gid, flags) })?;
    Ok(())
}

/// Changes the mode of an open file (not of an `O_PATH` one).
///
/// # Errors
/// Those of `fchmod(2)`.
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: plain integers.
    check_int(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
    Ok(())
}

/// What `fstat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device of the file system.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for a device node.
    pub rdev: u64,
    /// Size in bytes.
    pub size: i64,
}

impl Stat {
    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }
    /// Whether it is a character device with this number.
    pub fn is_char_device(&self, major: u32, minor: u32) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFCHR && self.rdev == libc::makedev(major, minor)
    }
    /// Major and minor of the device node.
    pub fn rdev_numbers(&self) -> (u32, u32) {
        (libc::major(self.rdev), libc::minor(self.rdev))
    }
}

/// About an open file.
///
/// # Errors
/// Those of `fstat(2)`.
pub fn fstat(fd: BorrowedFd<'_>) -> Result<Stat> {
    fstatat(fd, "")
}

/// About a file relative to a folder; links are not followed; an empty path means `dir`.
///
/// # Errors
/// Those of `fstatat(2)`.
pub fn fstatat(dir: BorrowedFd<'_>, path: impl AsRef<Path>) -> Result<Stat> {
    let path = cpath(path)?;
    let mut st = std::mem::MaybeUninit::<libc::stat>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `st` is a valid place for a stat.
    check_int(unsafe { libc::fstatat(dir.as_raw_fd(), path.as_ptr(), st.as_mut_ptr(), flags) })?;
    // SAFETY: the call succeeded, so it was filled.
    let st = unsafe { st.assume_init() };
    Ok(Stat {
        dev: st.st_dev,
        ino: st.st_ino,
        mode: st.st_mode,
        uid: st.st_uid,
        gid: st.st_gid,
        rdev: st.st_rdev,
        size: st.st_size,
    })
}

/// File system magic numbers of [`fs_magic`].
pub mod magic {
    /// procfs.
    pub const PROC: i64 = 0x9fa0;
    /// sysfs.
    pub const SYSFS: i64 = 0x6265_6572;
    /// cgroup v2.
    pub const CGROUP2: i64 = 0x6367_7270;
    /// cgroup v1.
    pub const CGROUP: i64 = 0x27_e0eb;
    /// tmpfs.
    pub const TMPFS: i64 = 0x0102_1994;
}

/// The `ST_*` flags of the mount an open file is on.
///
/// # Errors
/// Those of `fstatvfs(3)`.
pub fn mount_flags(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut st = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `st` is a valid place for a statvfs.
    check_int(unsafe { libc::fstatvfs(fd.as_raw_fd(), st.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it was filled.
    Ok(unsafe { st.assume_init() }.f_flag)
}

/// Which kind of file system an open file is on.
///
/// # Errors
/// Those of `fstatfs(2)`.
pub fn fs_magic(fd: BorrowedFd<'_>) -> Result<i64> {
    let mut st = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `st` is a valid place for a statfs.
    check_int(unsafe { libc::fstatfs(fd.as_raw_fd(), st.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it was filled.
    let st = unsafe { st.assume_init() };
    Ok(st.f_type)
}

/// Which kind of file system a path is on.
///
/// # Errors
/// Those of `open(2)` and `fstatfs(2)`.
pub fn fs_magic_at(path: impl AsRef<Path>) -> Result<i64> {
    let path = cpath(path)?;
    // SAFETY: all zeroes is a valid statfs to be filled.
    let mut st: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `st` a valid place; both outlive the call.
    check_int(unsafe { libc::statfs(path.as_ptr(), &raw mut st) })?;
    Ok(st.f_type as i64)
}

/// Reads a whole small file relative to a folder.
///
/// # Errors
/// Those of open and read.
pub fn read_at(dir: BorrowedFd<'_>, path: impl AsRef<Path>) -> std::io::Result<String> {
    use std::io::Read;
    let fd = openat(dir, path, libc::O_RDONLY, 0)?;
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes all bytes in one `write` call, as procfs, sysfs and cgroup files need.
///
/// # Errors
/// Those of `write(2)`; a short write is `EIO`.
pub fn write_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    loop {
        // SAFETY: pointer and length describe the slice.
        let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match check(n as libc::c_long) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(n) if n as usize == bytes.len() => return Ok(()),
            Ok(_) => return Err(Errno(libc::EIO)),
        }
    }
}

/// Opens an existing file relative to a folder and writes all bytes in one call.
///
/// # Errors
/// Those of open and write.
pub fn write_at(dir: BorrowedFd<'_>, path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let fd = openat(dir, path, libc::O_WRONLY, 0)?;
    write_once(fd.as_fd(), bytes)
}

/// Changes the working folder.
///
/// # Errors
/// Those of `fchdir(2)`.
pub fn fchdir(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain integer.
    check_int(unsafe { libc::fchdir(fd.as_raw_fd()) })?;
    Ok(())
}

/// Changes the working folder by path.
///
/// # Errors
/// Those of `chdir(2)`.
pub fn chdir(path: impl AsRef<Path>) -> Result<()> {
    let path = cpath(path)?;
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::chdir(path.as_ptr()) })?;
    Ok(())
}

/// The working folder; fails with `ENOENT` when it lies outside the root.
///
/// # Errors
/// Those of `getcwd(2)`.
pub fn getcwd_inside_root() -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut buf = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is writable for its length. The raw call, because libc's emulation
    // would walk the tree.
    let n = check(unsafe { libc::syscall(libc::SYS_getcwd, buf.as_mut_ptr(), buf.len()) })?;
    buf.truncate((n as usize).saturating_sub(1));
    if buf.first() != Some(&b'/') {
        return Err(Errno::NOENT);
    }
    Ok(PathBuf::from(std::ffi::OsString::from_vec(buf)))
}

/// Changes the root folder of the process.
///
/// # Errors
/// Those of `chroot(2)`.
pub fn chroot(path: impl AsRef<Path>) -> Result<()> {
    let path = cpath(path)?;
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::chroot(path.as_ptr()) })?;
    Ok(())
}

/// Whether the effective user may access a file in this way (`X_OK` and so on).
///
/// # Errors
/// `EACCES`, `ENOENT`.
pub fn access(path: impl AsRef<Path>, mode: i32) -> Result<()> {
    let path = cpath(path)?;
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) })?;
    Ok(())
}

/// Makes `target` (any number) refer to the same file as `fd`, without close-on-exec.
///
/// # Errors
/// Those of `dup2(2)`.
pub fn dup_onto(fd: BorrowedFd<'_>, target: i32) -> Result<()> {
    if fd.as_raw_fd() == target {
        return set_cloexec(fd, false);
    }
    // SAFETY: callers give a target they mean to replace; nothing in this program owns it as
    // an OwnedFd that it will use again.
    check_int(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
    Ok(())
}

/// A copy of a descriptor with a number of at least `least`; close-on-exec.
///
/// # Errors
/// `EMFILE`.
pub fn dup_at_least(fd: BorrowedFd<'_>, least: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    let new = check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })?;
    Ok(owned(new.into()))
}

/// Whether a descriptor closes on `execve`.
///
/// # Errors
/// Does not fail for an open descriptor.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: plain integers.
    check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) })?;
    Ok(())
}

/// Takes ownership of a descriptor that the process inherited under a known number.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn take_inherited(number: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers; tells whether the number is open.
    check_int(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    Ok(owned(number.into()))
}

/// Gives a descriptor up without closing it; the number stays open until exit or `execve`.
pub fn leak(fd: OwnedFd) -> i32 {
    fd.into_raw_fd()
}

/// A file in memory. Close-on-exec, sealable.
///
/// # Errors
/// `ENOSYS`, `ENOMEM`.
pub fn memfd(name: &str) -> Result<OwnedFd> {
    let name = crate::errno::cstr(name)?;
    // SAFETY: the name is a C string that outlives the call.
    let fd = check_int(unsafe {
        libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    })?;
    Ok(owned(fd.into()))
}

/// Forbids every further change of a [`memfd`].
///
/// # Errors
/// `EPERM` when it cannot be sealed.
pub fn seal_all(fd: BorrowedFd<'_>) -> Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: plain integers.
    check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(())
}

/// Whether a file is fully sealed memory.
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    let want = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: plain integers.
    let got = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    got >= 0 && got & want == want
}

/// Takes an exclusive lock on an open file, waiting for it; dropped with the last descriptor.
///
/// # Errors
/// Those of `flock(2)`.
pub fn lock_exclusive(fd: BorrowedFd<'_>) -> Result<()> {
    loop {
        // SAFETY: plain integers.
        match check_int(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) }) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Waits until a descriptor is readable, or is hung up. `timeout_ms` -1: for ever. Returns
/// whether it is.
///
/// # Errors
/// Those of `poll(2)`.
pub fn poll_readable(fd: BorrowedFd<'_>, timeout_ms: i32) -> Result<bool> {
    poll_events(fd, libc::POLLIN, timeout_ms).map(|e| e != 0)
}

/// Waits for `poll` events and returns those that came (0 after the timeout).
///
/// # Errors
/// Those of `poll(2)`.
pub fn poll_events(fd: BorrowedFd<'_>, events: i16, timeout_ms: i32) -> Result<i16> {
    let mut p = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    loop {
        // SAFETY: one valid pollfd.
        match check_int(unsafe { libc::poll(&raw mut p, 1, timeout_ms) }) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(p.revents),
        }
    }
}

/// Borrows a descriptor that the process was started with (0 to 2), when it is open.
///
/// # Errors
/// `EBADF` when it is not.
pub fn borrow_open(number: i32) -> Result<BorrowedFd<'static>> {
    // SAFETY: plain integers; tells whether the number is open.
    check_int(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and standard streams are never closed by this program.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Waits until one of several descriptors is readable or hung up, and tells which are.
///
/// # Errors
/// Those of `poll(2)`.
pub fn poll_many(fds: &[BorrowedFd<'_>], timeout_ms: i32) -> Result<Vec<bool>> {
    let mut polls: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    loop {
        // SAFETY: pointer and length describe the vector.
        let n = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
        match check_int(n) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(polls.iter().map(|p| p.revents != 0).collect()),
        }
    }
}

/// Has the kernel begin to write a part of a file to its disk, and does not wait for it: a later
/// sync finds less to do. `len` of 0 is all from `offset` on.
///
/// # Errors
/// Those of `sync_file_range(2)`.
pub fn start_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let number = |n: u64| i64::try_from(n).map_err(|_| Errno::INVAL);
    let (offset, len) = (number(offset)?, number(len)?);
    // SAFETY: plain integers and an open descriptor.
    let done = unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    check_int(done).map(drop)
}
