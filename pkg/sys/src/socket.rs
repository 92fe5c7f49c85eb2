//! Socket pairs and descriptors passed over them.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::errno::{Errno, Result, check, check_int};

/// A pair of connected sockets that keep message boundaries; close-on-exec.
///
/// # Errors
/// `EMFILE`.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: an array of two ints.
    check_int(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    // SAFETY: two new descriptors that nothing else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// The most descriptors [`recv`] takes at once.
const MAX_FDS: usize = 16;

/// Sends one message with descriptors; no SIGPIPE.
///
/// # Errors
/// Those of `sendmsg(2)`.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    if fds.len() > MAX_FDS {
        return Err(Errno::INVAL);
    }
    let iov = [IoSlice::new(bytes)];
    let raw: Vec<RawFd> = fds.iter().map(|f| f.as_raw_fd()).collect();
    let mut control = [0u64; 16];
    // SAFETY: all zeroes is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_ptr().cast_mut().cast();
    msg.msg_iovlen = 1;
    if !raw.is_empty() {
        let len = std::mem::size_of_val(raw.as_slice());
        msg.msg_control = control.as_mut_ptr().cast();
        // SAFETY: pure arithmetic; 16 descriptors fit the buffer.
        msg.msg_controllen = unsafe { libc::CMSG_SPACE(len as u32) } as _;
        // SAFETY: the control buffer is aligned and large enough for one header with `len` bytes.
        unsafe {
            let head = libc::CMSG_FIRSTHDR(&raw const msg);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(len as u32) as _;
            std::ptr::copy_nonoverlapping(raw.as_ptr().cast(), libc::CMSG_DATA(head), len);
        }
    }
    loop {
        // SAFETY: `msg` points at live buffers.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL) };
        match check(n as libc::c_long) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Receives one message with its descriptors (close-on-exec). Zero bytes mean the other end is
/// closed.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub fn recv(socket: BorrowedFd<'_>, buf: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut iov = [IoSliceMut::new(buf)];
    let mut control = [0u64; 16];
    // SAFETY: all zeroes is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr().cast();
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = std::mem::size_of_val(&control) as _;
    let n = loop {
        // SAFETY: `msg` points at live buffers.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC) };
        match check(n as libc::c_long) {
            Err(Errno::INTR) => {}
            other => break other? as usize,
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer with whole headers; each SCM_RIGHTS one holds
    // new descriptors that nothing else owns.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&raw const msg);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*head).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                for i in 0..bytes / std::mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(&raw const msg, head);
        }
    }
    Ok((n, fds))
}

fn unix_address(path: &std::path::Path) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(Errno::NAMETOOLONG);
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = std::mem::size_of::<libc::sa_family_t>() + bytes.len() + 1;
    Ok((address, length as libc::socklen_t))
}

fn seqpacket() -> Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check_int(unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Listens on a path for connections that keep message boundaries.
///
/// # Errors
/// Those of `bind(2)`; `ENAMETOOLONG` above 107 bytes.
pub fn listen_seqpacket(path: impl AsRef<std::path::Path>) -> Result<OwnedFd> {
    let (address, length) = unix_address(path.as_ref())?;
    let fd = seqpacket()?;
    // SAFETY: the address is valid for the given length.
    check_int(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: plain integers.
    check_int(unsafe { libc::listen(fd.as_raw_fd(), 8) })?;
    Ok(fd)
}

/// Connects to a listener of [`listen_seqpacket`].
///
/// # Errors
/// `ECONNREFUSED` when nobody listens any more; `ENAMETOOLONG` above 107 bytes.
pub fn connect_seqpacket(path: impl AsRef<std::path::Path>) -> Result<OwnedFd> {
    let (address, length) = unix_address(path.as_ref())?;
    let fd = seqpacket()?;
    // SAFETY: the address is valid for the given length.
    check_int(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(fd)
}

/// Takes the next connection of a listener.
///
/// # Errors
/// Those of `accept4(2)`.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    loop {
        // SAFETY: no address is asked for.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        match check_int(fd) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            // SAFETY: a new descriptor that nothing else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}
