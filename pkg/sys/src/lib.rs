//! Typed wrappers over the Linux system calls that Knarr needs; the one crate with unsafe code.
//!
//! Every descriptor is an `OwnedFd` or a `BorrowedFd`; every failure is an [`Errno`]. Functions
//! do one system call each (or a retry of it after a signal), so that a caller can reason about
//! what has happened when one fails. Those that a freshly cloned child uses allocate nothing
//! beyond the C strings of their arguments.

#![allow(unsafe_code)]

mod errno;

pub mod bpf;
pub mod caps;
pub mod fs;
pub mod memory;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod process;
pub mod pty;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod supervise;

pub use errno::{Errno, Result};
