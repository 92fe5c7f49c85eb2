//! The container's terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use knarr_sys::fs::{self, resolve};
use knarr_sys::{Errno, mount as m, pty};

use crate::init::root::Root;
use crate::init::{During, Failure};

const ELOOP: i32 = 40;

/// Opens a new terminal of the container's devpts, makes it the controlling one and the three
/// standard streams, and (with `console`) binds it to `/dev/console`. Returns the master.
pub fn attach(root: &Root, size: Option<(u16, u16)>, console: bool) -> Result<OwnedFd, Failure> {
    const O_NOCTTY: i32 = 0o400;
    let step = "open terminal";
    let ptmx = root
        .open("/dev/pts/ptmx", fs::O_RDWR | O_NOCTTY)
        .or_else(|_| root.open("/dev/ptmx", fs::O_RDWR | O_NOCTTY))
        .during(step)?;
    // Only the kernel's own multiplexer will do.
    let st = fs::fstat(ptmx.as_fd()).during(step)?;
    if !st.is_char_device(5, 2) {
        return Err(Failure::new(
            step,
            "/dev/ptmx is not a terminal multiplexer",
        ));
    }
    pty::unlock(ptmx.as_fd()).during(step)?;
    let slave = pty::open_slave(ptmx.as_fd()).during(step)?;
    if let Some((rows, columns)) = size {
        pty::set_size(ptmx.as_fd(), rows, columns).during("set terminal size")?;
    }
    if console {
        bind_console(root, &slave).during("bind /dev/console")?;
    }
    for n in 0..3 {
        fs::dup_onto(slave.as_fd(), n).during("set standard streams")?;
    }
    pty::set_controlling(slave.as_fd()).during("set controlling terminal")?;
    Ok(ptmx)
}

/// Over a file that is in `/dev` itself: a link there could lead the mount over a file of procfs.
fn bind_console(root: &Root, slave: &OwnedFd) -> Result<(), Errno> {
    let dev = root.make_dir(Path::new("/dev"))?;
    match fs::mknodat(dev.as_fd(), "console", 0o100_000, 0o600, 0, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let flags = fs::O_PATH | fs::O_NOFOLLOW;
    let within = resolve::BENEATH | resolve::NO_SYMLINKS;
    let target = fs::openat2(dev.as_fd(), Path::new("console"), flags, 0, within)?;
    let st = fs::fstat(target.as_fd())?;
    if st.is_link() || fs::fs_magic(target.as_fd())? == fs::magic::PROC {
        return Err(Errno(ELOOP));
    }
    let tree = m::clone_tree(slave.as_fd(), "", false)?;
    m::attach(tree.as_fd(), target.as_fd())
}
