//! The container's terminal.

use std::os::fd::{AsFd, OwnedFd};

use knarr_sys::{Errno, fs, mount as m, pty};

use crate::init::root::Root;
use crate::init::{During, Failure};

const DEVPTS: i64 = 0x1cd1;

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
    let real = st.is_char_device(5, 2)
        && matches!(fs::fs_magic(ptmx.as_fd()), Ok(DEVPTS | fs::magic::TMPFS));
    if !real && !st.is_char_device(5, 2) {
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

fn bind_console(root: &Root, slave: &OwnedFd) -> Result<(), Errno> {
    let target = root.make_file(std::path::Path::new("/dev/console"))?;
    let tree = m::clone_tree(slave.as_fd(), "", false)?;
    m::attach(tree.as_fd(), target.as_fd())
}
