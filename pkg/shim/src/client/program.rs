//! The shim's program, by a way through which no container can write to it.
//!
//! A shim makes sure of that by itself, but then it has to begin anew for each container and waits
//! while the kernel takes a mount apart. A read-only mount that the daemon holds, attached
//! nowhere, serves every shim and is gone with the daemon.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use knarr_sys::fs::CWD;
use knarr_sys::mount::{self, SetAttr, attr};

/// Which file a mount is of, and the mount.
type Held = ((u64, u64), Arc<OwnedFd>);

static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// What to execute; the path is valid as long as this is held.
pub(super) struct Program {
    pub(super) path: PathBuf,
    _mount: Option<Arc<OwnedFd>>,
}

/// The best way there is to a shim's program.
pub(super) fn of(shim: &Path) -> Program {
    match readonly(shim) {
        Some(mount) => Program {
            path: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            _mount: Some(mount),
        },
        // It protects itself then.
        None => Program {
            path: shim.to_path_buf(),
            _mount: None,
        },
    }
}

fn readonly(shim: &Path) -> Option<Arc<OwnedFd>> {
    let file = File::open(shim).ok()?.metadata().ok()?;
    let which = (file.dev(), file.ino());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, mount)) = held.as_ref()
        && *known == which
    {
        return Some(Arc::clone(mount));
    }
    let tree = mount::clone_tree(CWD, shim, false).ok()?;
    let change = SetAttr {
        set: attr::RDONLY,
        ..SetAttr::default()
    };
    mount::setattr(tree.as_fd(), change).ok()?;
    let tree = Arc::new(tree);
    *held = Some((which, Arc::clone(&tree)));
    Some(tree)
}
