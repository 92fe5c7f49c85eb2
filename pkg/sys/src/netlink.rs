//! Netlink sockets: raw messages to and from the kernel.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::errno::{Errno, Result, check, check_int};

/// rtnetlink: links, addresses, routes, neighbours, queueing disciplines.
pub const ROUTE: i32 = libc::NETLINK_ROUTE;
/// netfilter: nftables, conntrack.
pub const NETFILTER: i32 = libc::NETLINK_NETFILTER;

fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> Result<()> {
    // SAFETY: the value is an int that outlives the call.
    check_int(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            std::mem::size_of::<i32>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Opens a netlink socket of the calling thread's network namespace (it stays there), bound to a
/// port of the kernel's choice, with extended error messages where the kernel has them.
///
/// # Errors
/// `EMFILE`, `EPROTONOSUPPORT`.
pub fn open(protocol: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check_int(unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol,
        )
    })?;
    // SAFETY: a new descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid sockaddr_nl.
    let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    // SAFETY: the address is a live sockaddr_nl of the length given.
    check_int(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const addr).cast(),
            std::mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        )
    })?;
    use std::os::fd::AsFd;
    // Without these, errors are only less telling.
    let _ = set(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
    let _ = set(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
    Ok(fd)
}

/// Lets the socket take messages of up to about `send` bytes and queue answers of `receive`
/// bytes, beyond the system's limit.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN.
pub fn set_buffers(socket: BorrowedFd<'_>, send: usize, receive: usize) -> Result<()> {
    let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX / 2);
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, int(send))?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, int(receive))
}

/// Sends one datagram to the kernel, which has acted on all of it when this returns.
///
/// # Errors
/// Those of `send(2)`; `EMSGSIZE` when larger than the send buffer.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    loop {
        // SAFETY: a live buffer of the length given.
        let n = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match check(n as libc::c_long) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Receives one datagram into `buf` (grown as needed) and gives its length. With `wait` false an
/// empty queue is `EAGAIN`.
///
/// # Errors
/// Those of `recv(2)`; `ENOBUFS` when answers were lost.
pub fn recv(socket: BorrowedFd<'_>, buf: &mut Vec<u8>, wait: bool) -> Result<usize> {
    if buf.len() < 32 * 1024 {
        buf.resize(32 * 1024, 0);
    }
    let base = if wait { 0 } else { libc::MSG_DONTWAIT };
    loop {
        // SAFETY: a live buffer of the length given.
        let n = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                base | libc::MSG_PEEK | libc::MSG_TRUNC,
            )
        };
        match check(n as libc::c_long) {
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
            Ok(n) if n as usize > buf.len() => buf.resize(n as usize, 0),
            Ok(_) => {}
        }
        // SAFETY: a live buffer of the length given.
        let n = unsafe { libc::recv(socket.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), base) };
        match check(n as libc::c_long) {
            Err(Errno::INTR) => {}
            other => return other.map(|n| n as usize),
        }
    }
}

/// The index of an interface of the calling thread's network namespace.
///
/// # Errors
/// `ENODEV`.
pub fn if_index(name: &str) -> Result<u32> {
    let name = crate::errno::cstr(name)?;
    // SAFETY: a live C string.
    let i = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if i == 0 { Err(Errno::last()) } else { Ok(i) }
}
