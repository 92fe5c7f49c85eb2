//! Capabilities of the calling thread, as bit sets.

use crate::errno::{Errno, Result, check, check_int};

/// A set of capabilities: bit n is capability number n.
pub type CapSet = u64;

/// The three sets that `capset` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// In force.
    pub effective: CapSet,
    /// May be put in force.
    pub permitted: CapSet,
    /// Kept by programs that allow it.
    pub inheritable: CapSet,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// The calling thread's sets.
///
/// # Errors
/// Does not fail on current kernels.
pub fn get() -> Result<Caps> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 writes two data elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(Caps {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Replaces the calling thread's sets.
///
/// # Errors
/// `EPERM` when something would be gained.
pub fn set(caps: Caps) -> Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (caps.effective >> shift) as u32,
        permitted: (caps.permitted >> shift) as u32,
        inheritable: (caps.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Whether a capability is in the bounding set; `EINVAL` for one the kernel does not know.
///
/// # Errors
/// `EINVAL`.
pub fn in_bounding(cap: u32) -> Result<bool> {
    // SAFETY: integers only.
    let got = check_int(unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(cap), 0, 0, 0) })?;
    Ok(got == 1)
}

/// The highest capability number this kernel knows.
pub fn last() -> u32 {
    (0..64).rev().find(|c| in_bounding(*c).is_ok()).unwrap_or(0)
}

/// Drops everything outside `keep` from the bounding set.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn limit_bounding(keep: CapSet) -> Result<()> {
    for cap in 0..64u32 {
        match in_bounding(cap) {
            Err(_) => break,
            Ok(true) if keep & (1 << cap) == 0 => {
                crate::process::prctl(libc::PR_CAPBSET_DROP, u64::from(cap))?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Replaces the ambient set. A capability that cannot be raised is reported by the returned set
/// of those that were refused.
///
/// # Errors
/// `EINVAL` where the kernel has no ambient set.
pub fn set_ambient(caps: CapSet) -> Result<CapSet> {
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    let mut refused = 0;
    for cap in (0..64u32).filter(|c| caps & (1 << c) != 0) {
        if ambient(libc::PR_CAP_AMBIENT_RAISE, cap).is_err() {
            refused |= 1 << cap;
        }
    }
    Ok(refused)
}

fn ambient(op: i32, cap: u32) -> Result<()> {
    // SAFETY: integers only; unused arguments are zero.
    let ret = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, op as u64, u64::from(cap), 0u64, 0u64) };
    match check_int(ret) {
        Ok(_) => Ok(()),
        Err(Errno(e)) => Err(Errno(e)),
    }
}
