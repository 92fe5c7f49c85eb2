//! Pseudo-terminals.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::errno::{Result, check_int};
use crate::fs;

/// Opens a master of the devpts whose multiplexer lies at `ptmx`, and unlocks its slave. Returns
/// the master and the slave's number.
///
/// # Errors
/// Those of open and of the terminal ioctls.
pub fn open_master(ptmx: impl AsRef<Path>) -> Result<(OwnedFd, u32)> {
    let master = fs::open(ptmx, libc::O_RDWR | libc::O_NOCTTY)?;
    let unlock: libc::c_int = 0;
    let mut number: libc::c_uint = 0;
    // SAFETY: the argument is a pointer to an int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    // SAFETY: the argument is a pointer to an unsigned int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    Ok((master, number))
}

/// Lets a master's slave be opened.
///
/// # Errors
/// `ENOTTY` when it is no master.
pub fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: the argument is a pointer to an int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    Ok(())
}

/// Opens the slave of a master, without a path (so that no other file can be in its place).
///
/// # Errors
/// `ENOTTY` when it is no master.
pub fn open_slave(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    const TIOCGPTPEER: libc::c_ulong = 0x5441;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an int by value.
    let fd = check_int(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER as _, flags) })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a terminal the controlling one of the caller's session.
///
/// # Errors
/// `EPERM` when the caller leads no session.
pub fn set_controlling(tty: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the argument is an int by value.
    check_int(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// Sets a terminal's size in character cells.
///
/// # Errors
/// `ENOTTY`.
pub fn set_size(tty: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the argument is a pointer to a winsize.
    check_int(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// A terminal's size in character cells: rows, columns.
///
/// # Errors
/// `ENOTTY`.
pub fn size(tty: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the argument is a pointer to a winsize.
    check_int(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Switches a terminal to raw mode; the former settings come back when the guard is dropped.
///
/// # Errors
/// `ENOTTY`.
pub fn raw_mode(tty: OwnedFd) -> Result<RawMode> {
    let mut old = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: a valid place for a termios.
    check_int(unsafe { libc::tcgetattr(tty.as_raw_fd(), old.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it was filled.
    let old = unsafe { old.assume_init() };
    let mut new = old;
    // SAFETY: a valid termios.
    unsafe { libc::cfmakeraw(&raw mut new) };
    // SAFETY: a valid termios.
    check_int(unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw const new) })?;
    Ok(RawMode { tty, old })
}

/// Restores a terminal's settings when dropped.
pub struct RawMode {
    tty: OwnedFd,
    old: libc::termios,
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let fd = self.tty.as_fd().as_raw_fd();
        // SAFETY: a valid termios, from tcgetattr.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const self.old) };
    }
}

/// Turns off the translation of newlines on output, as log readers of a terminal expect.
///
/// # Errors
/// `ENOTTY`.
pub fn clear_onlcr(tty: BorrowedFd<'_>) -> Result<()> {
    let mut t = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: a valid place for a termios.
    check_int(unsafe { libc::tcgetattr(tty.as_raw_fd(), t.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it was filled.
    let mut t = unsafe { t.assume_init() };
    t.c_oflag &= !libc::ONLCR;
    // SAFETY: a valid termios.
    check_int(unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw const t) })?;
    Ok(())
}
