//! Resolving paths inside a root that may be hostile.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use knarr_sys::Errno;
use knarr_sys::fs::{self, resolve};

/// A root folder. Every path is resolved inside it by the kernel: links and `..` cannot leave it,
/// nor can a renaming race.
#[derive(Debug)]
pub struct Root(pub OwnedFd);

const INSIDE: u64 = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
const LINKS: u32 = 40;

impl Root {
    /// Opens an existing file inside.
    ///
    /// # Errors
    /// Those of `openat2(2)`.
    pub fn open(&self, path: impl AsRef<Path>, flags: i32) -> Result<OwnedFd, Errno> {
        fs::openat2(self.0.as_fd(), path, flags, 0, INSIDE)
    }

    /// A handle of an existing file inside, for mounting on.
    ///
    /// # Errors
    /// Those of `openat2(2)`.
    pub fn handle(&self, path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
        self.open(path, fs::O_PATH)
    }

    /// A handle of a folder, made with its parents where it is missing.
    ///
    /// # Errors
    /// Those of `openat2(2)` and `mkdirat(2)`.
    pub fn make_dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.make(path, true, LINKS)
    }

    /// A handle of a file, made empty with its parent folders where it is missing.
    ///
    /// # Errors
    /// Those of `openat2(2)` and `mknodat(2)`.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.make(path, false, LINKS)
    }

    fn make(&self, path: &Path, dir: bool, links: u32) -> Result<OwnedFd, Errno> {
        match self.handle(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOENT);
        };
        let parent_fd = self.make(parent, true, links)?;
        let made = if dir {
            fs::mkdirat(parent_fd.as_fd(), name, 0o755)
        } else {
            fs::mknodat(parent_fd.as_fd(), name, 0o100_000, 0o644, 0, 0)
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // A link into nothing: make what it points to, as seen from inside.
                if let Ok(to) = fs::readlinkat(parent_fd.as_fd(), name) {
                    if links == 0 {
                        return Err(Errno(40));
                    }
                    let to: PathBuf = if to.is_absolute() {
                        to
                    } else {
                        parent.join(to)
                    };
                    return self.make(&to, dir, links - 1);
                }
            }
            Err(e) => return Err(e),
        }
        // Not through the name's path again: what was made is right below the parent we hold.
        fs::openat2(
            parent_fd.as_fd(),
            Path::new(name),
            fs::O_PATH | fs::O_NOFOLLOW,
            0,
            resolve::BENEATH,
        )
    }
}

/// A path by which `mount(2)` reaches a descriptor's file; the host's procfs must be in view.
pub fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
