//! Loading a seccomp filter.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::errno::{Errno, Result, check};

/// One instruction of classic BPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Flags of [`load`].
pub mod flag {
    /// Apply to all threads.
    pub const TSYNC: u64 = 1;
    /// Log every action but allow.
    pub const LOG: u64 = 2;
    /// Leave speculation unmitigated.
    pub const SPEC_ALLOW: u64 = 4;
    /// Return a descriptor for notifications.
    pub const NEW_LISTENER: u64 = 8;
    /// Wait killably for a notification's answer.
    pub const WAIT_KILLABLE_RECV: u64 = 32;
}

/// Installs a filter on the calling thread. With [`flag::NEW_LISTENER`] a descriptor comes back.
///
/// # Errors
/// `EACCES` without no-new-privileges or `CAP_SYS_ADMIN`, `EINVAL` for a bad program.
pub fn load(program: &[Insn], flags: u64) -> Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Prog {
        len: u16,
        filter: *const Insn,
    }
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let prog = Prog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr(),
    };
    // SAFETY: `prog` describes the slice, whose layout is that of sock_filter.
    let ret = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const prog,
        )
    })?;
    if flags & flag::NEW_LISTENER != 0 {
        // SAFETY: with this flag the result is a new descriptor.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as i32) }));
    }
    Ok(None)
}

/// Whether the kernel knows an action (a `SECCOMP_RET_*` value).
pub fn action_available(action: u32) -> bool {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    // SAFETY: the argument is a pointer to a u32.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        ) == 0
    }
}
