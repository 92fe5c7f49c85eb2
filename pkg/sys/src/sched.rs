//! Resource limits, scheduling, I/O priority, personality.

use crate::errno::{Result, check, check_int};

/// Sets a resource limit of the calling process (`resource`: an `RLIMIT_*` number).
///
/// # Errors
/// `EPERM` when the hard limit would be raised without privilege.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a valid rlimit. The kernel checks the resource number.
    check_int(unsafe { libc::setrlimit(resource as _, &raw const limit) })?;
    Ok(())
}

/// The soft and hard limit of a resource of the calling process.
///
/// # Errors
/// `EINVAL`.
pub fn get_rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place for an rlimit.
    check_int(unsafe { libc::getrlimit(resource as _, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// The `RLIMIT_*` number of its name.
pub fn rlimit_number(name: &str) -> Option<u32> {
    Some(match name {
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        _ => return None,
    })
}

/// Scheduling settings of [`set_scheduler`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Niceness.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Deadline runtime in nanoseconds.
    pub runtime: u64,
    /// Deadline in nanoseconds.
    pub deadline: u64,
    /// Deadline period in nanoseconds.
    pub period: u64,
}

/// Sets the calling thread's scheduling.
///
/// # Errors
/// Those of `sched_setattr(2)`.
pub fn set_scheduler(s: &Scheduler) -> Result<()> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let mut attr = SchedAttr {
        size: std::mem::size_of::<SchedAttr>() as u32,
        policy: s.policy,
        flags: s.flags,
        nice: s.nice,
        priority: s.priority,
        runtime: s.runtime,
        deadline: s.deadline,
        period: s.period,
    };
    // SAFETY: `attr` is valid and tells its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attr, 0) })?;
    Ok(())
}

/// Binds the calling thread to these CPUs.
///
/// # Errors
/// `EINVAL` when none of them exists.
pub fn set_affinity(cpus: &[usize]) -> Result<()> {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.iter().filter(|c| **c < libc::CPU_SETSIZE as usize) {
        // SAFETY: the number was checked against the set's size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: a valid set of the given size.
    check_int(unsafe {
        libc::sched_setaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &raw const set)
    })?;
    Ok(())
}

/// Sets the I/O priority of the calling process: class 1 real-time, 2 best-effort, 3 idle.
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = class << 13 | priority;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// Sets the execution domain.
///
/// # Errors
/// `EINVAL`.
pub fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: plain integer.
    check_int(unsafe { libc::personality(persona) })?;
    Ok(())
}

/// Sets the NUMA memory policy of the calling thread (`mode`: an `MPOL_*` number with its flags).
///
/// # Errors
/// `EINVAL` for nodes that are not there, or that do not go with the mode.
pub fn set_memory_policy(mode: u32, nodes: &[usize]) -> Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let highest = nodes.iter().max().map_or(0, |n| n + 1);
    let mut mask: Vec<libc::c_ulong> = vec![0; highest.div_ceil(BITS)];
    for node in nodes {
        if let Some(word) = mask.get_mut(node / BITS) {
            *word |= 1 << (node % BITS);
        }
    }
    // The kernel reads one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { highest + 1 };
    mask.push(0);
    // SAFETY: the mask has at least the number of bits given.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask.as_ptr(), bits) })?;
    Ok(())
}
