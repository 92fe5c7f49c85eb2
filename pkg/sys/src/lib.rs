//! Typed wrappers over the Linux system calls that Knarr needs; the one crate with unsafe code.
pub mod supervise;
