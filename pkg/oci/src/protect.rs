//! Keeping the runtime's own binary out of a container's reach.
//!
//! Until its `execve` a container's init runs the runtime's binary, and `/proc/<pid>/exe` leads a
//! process of the container to that file on the host. So the program runs itself again from a
//! detached, read-only copy of the file's mount, or where it may not make one, from sealed memory.
//! Neither can be opened for writing by any path.

use std::os::fd::{AsFd, OwnedFd};

use knarr_sys::mount::{self, SetAttr, attr};
use knarr_sys::process::{self, ArgList};
use knarr_sys::{Errno, fs};

use crate::error::Error;

const ST_RDONLY: u64 = 1;

/// Makes sure that the running binary cannot be written through `/proc/<pid>/exe`; to be called
/// first in `main`, while there is one thread. Returns when it is so already, else the program
/// begins anew.
///
/// # Errors
/// [`Error::Os`] when neither way works.
pub fn protect_binary() -> Result<(), Error> {
    let os = |e: Errno| Error::os("protect own binary", e);
    let own = fs::open("/proc/self/exe", fs::O_RDONLY).map_err(os)?;
    let readonly = fs::mount_flags(own.as_fd()).is_ok_and(|f| f & ST_RDONLY != 0);
    if readonly || fs::is_sealed(own.as_fd()) {
        return Ok(());
    }
    let copy = readonly_mount().or_else(|_| sealed(own)).map_err(os)?;
    let argv = ArgList::from_os(std::env::args_os()).map_err(os)?;
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let envp = ArgList::from_os(environment).map_err(os)?;
    Err(os(process::fexecve(copy.as_fd(), &argv, &envp)))
}

fn readonly_mount() -> Result<OwnedFd, Errno> {
    let tree = mount::clone_tree(fs::CWD, "/proc/self/exe", false)?;
    let change = SetAttr {
        set: attr::RDONLY,
        ..SetAttr::default()
    };
    mount::setattr(tree.as_fd(), change)?;
    Ok(tree)
}

fn sealed(own: OwnedFd) -> Result<OwnedFd, Errno> {
    let memory = fs::memfd("knarr")?;
    let copy = memory.try_clone().map_err(|_| Errno::last())?;
    std::io::copy(
        &mut std::fs::File::from(own),
        &mut std::fs::File::from(copy),
    )
    .map_err(|e| Errno(e.raw_os_error().unwrap_or(5)))?;
    fs::seal_all(memory.as_fd())?;
    Ok(memory)
}
