//! Mounts: the classic call and the descriptor-based ones.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::errno::{Result, check, check_int, cpath, cstr};

pub use libc::{
    MNT_DETACH, MS_BIND, MS_DIRSYNC, MS_I_VERSION, MS_MANDLOCK, MS_MOVE, MS_NOATIME, MS_NODEV,
    MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT,
    MS_SHARED, MS_SILENT, MS_SLAVE, MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE, UMOUNT_NOFOLLOW,
};

/// Do not follow a symbolic link in the last component.
pub const MS_NOSYMFOLLOW: u64 = 256;
/// Write access and change times lazily.
pub const MS_LAZYTIME: u64 = 1 << 25;

/// Attributes of [`setattr`].
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x01;
    /// No set-user-id.
    pub const NOSUID: u64 = 0x02;
    /// No devices.
    pub const NODEV: u64 = 0x04;
    /// No programs.
    pub const NOEXEC: u64 = 0x08;
    /// Mask of the access time modes.
    pub const ATIME: u64 = 0x70;
    /// Relative access times.
    pub const RELATIME: u64 = 0x00;
    /// No access times.
    pub const NOATIME: u64 = 0x10;
    /// Exact access times.
    pub const STRICTATIME: u64 = 0x20;
    /// No access times of folders.
    pub const NODIRATIME: u64 = 0x80;
    /// Map ids through a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
    /// Follow no symbolic links.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: called with a descriptor the kernel has just made, that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// `mount(2)`. Empty texts are passed as null.
///
/// # Errors
/// Those of `mount(2)`.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    fstype: &str,
    flags: u64,
    data: &str,
) -> Result<()> {
    let (source, target) = (cpath(source)?, cpath(target)?);
    let (fstype, data) = (cstr(fstype)?, cstr(data)?);
    let or_null = |c: &CString| {
        if c.as_bytes().is_empty() {
            std::ptr::null()
        } else {
            c.as_ptr()
        }
    };
    // SAFETY: all pointers are null or C strings that outlive the call.
    check_int(unsafe {
        libc::mount(
            or_null(&source),
            target.as_ptr(),
            or_null(&fstype),
            flags,
            or_null(&data).cast(),
        )
    })?;
    Ok(())
}

/// `umount2(2)`.
///
/// # Errors
/// Those of `umount2(2)`.
pub fn umount(target: impl AsRef<Path>, flags: i32) -> Result<()> {
    let target = cpath(target)?;
    // SAFETY: the path is a C string that outlives the call.
    check_int(unsafe { libc::umount2(target.as_ptr(), flags) })?;
    Ok(())
}

/// `pivot_root(2)`.
///
/// # Errors
/// Those of `pivot_root(2)`.
pub fn pivot_root(new_root: impl AsRef<Path>, put_old: impl AsRef<Path>) -> Result<()> {
    let (new, old) = (cpath(new_root)?, cpath(put_old)?);
    // SAFETY: both are C strings that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) })?;
    Ok(())
}

/// Opens a detached copy of the mount at a path (an empty path: of `dir` itself).
///
/// # Errors
/// Those of `open_tree(2)`; `ENOSYS` before Linux 5.2.
pub fn clone_tree(dir: BorrowedFd<'_>, path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let path = cpath(path)?;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: the path is a C string that outlives the call.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags)
    })?;
    Ok(owned(fd))
}

/// Attaches a detached mount onto the file that `target` refers to (an `O_PATH` descriptor), so
/// that no path is walked again.
///
/// # Errors
/// Those of `move_mount(2)`.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    const F_EMPTY_PATH: libc::c_uint = 0x04;
    const T_EMPTY_PATH: libc::c_uint = 0x40;
    // SAFETY: both paths are the empty C string.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// A file system context of `fsopen(2)`.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Opens a context for a file system type.
    ///
    /// # Errors
    /// `ENODEV` for an unknown type.
    pub fn open(fstype: &str) -> Result<Self> {
        const FSOPEN_CLOEXEC: libc::c_uint = 1;
        let fstype = cstr(fstype)?;
        // SAFETY: a C string that outlives the call.
        let fd =
            check(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })?;
        Ok(Self(owned(fd)))
    }

    fn config(&self, cmd: libc::c_uint, key: Option<&str>, value: Option<&str>) -> Result<()> {
        let key = key.map(cstr).transpose()?;
        let value = value.map(cstr).transpose()?;
        let ptr = |c: &Option<CString>| c.as_ref().map_or(std::ptr::null(), |c| c.as_ptr());
        // SAFETY: pointers are null or C strings that outlive the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                cmd,
                ptr(&key),
                ptr(&value),
                0,
            )
        })?;
        Ok(())
    }

    /// Sets an option with a value.
    ///
    /// # Errors
    /// `EINVAL` for an unknown option.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.config(1, Some(key), Some(value))
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// `EINVAL` for an unknown option.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        self.config(0, Some(key), None)
    }

    /// Makes the file system and a detached mount of it with these [`attr`] bits.
    ///
    /// # Errors
    /// Those of `fsconfig(2)` and `fsmount(2)`.
    pub fn mount(self, attrs: u64) -> Result<OwnedFd> {
        const FSMOUNT_CLOEXEC: libc::c_uint = 1;
        self.config(6, None, None)?;
        // SAFETY: plain integers.
        let fd = check(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attrs as libc::c_uint,
            )
        })?;
        Ok(owned(fd))
    }
}

/// What [`setattr`] changes.
#[derive(Debug, Default, Clone, Copy)]
pub struct SetAttr<'a> {
    /// [`attr`] bits to set.
    pub set: u64,
    /// [`attr`] bits to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// The user namespace to map ids through, with [`attr::IDMAP`] in `set`.
    pub userns: Option<BorrowedFd<'a>>,
    /// Change all mounts below too.
    pub recursive: bool,
}

/// Changes the attributes of the mount that a descriptor refers to.
///
/// # Errors
/// Those of `mount_setattr(2)`; `ENOSYS` before Linux 5.12.
pub fn setattr(mount: BorrowedFd<'_>, change: SetAttr<'_>) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation,
        userns_fd: change.userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let mut flags = libc::AT_EMPTY_PATH as libc::c_uint;
    if change.recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: `attr` is valid for the call and the size is its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}
