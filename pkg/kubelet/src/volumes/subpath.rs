//! Sub paths of volumes, bound to a place that a container cannot redirect.
//!
//! The path is opened below the volume with no step leading out of it (links included), and the
//! opened file itself, not its name, is bound to `<pod>/volume-subpaths/<volume>/<container>/<n>`.
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, mkdirat},
};

fn open_below(dir: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(dir, path, how)
}

/// Opens `sub` below `volume`, making missing folders.
fn open_or_make(volume: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let root: OwnedFd = File::open(volume)?.into();
    match open_below(&root, sub) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let mut at = open_below(&root, Path::new("."))?;
    for part in sub.components() {
        let Component::Normal(part) = part else {
            continue;
        };
        match mkdirat(&at, Path::new(part), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(ResolveFlag::RESOLVE_BENEATH);
        at = openat2(&at, Path::new(part), how)?;
    }
    open_below(&root, sub).map_err(Into::into)
}

/// Binds `sub` of `volume` to `target` and gives `target` back. Idempotent: an older binding at
/// the same place is replaced.
///
/// # Errors
/// When the path leads out of the volume (`EXDEV`) or cannot be made.
pub fn bind(volume: &Path, sub: &Path, target: &Path) -> io::Result<PathBuf> {
    let fd = open_or_make(volume, sub)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()));
    let is_dir = fs::metadata(&source)?.is_dir();
    while umount2(target, MntFlags::MNT_DETACH).is_ok() {}
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(m) if m.is_dir() != is_dir => {
            if m.is_dir() {
                fs::remove_dir(target)?;
            } else {
                fs::remove_file(target)?;
            }
        }
        _ => {}
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        File::create(target)?;
    }
    mount(
        Some(&source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    Ok(target.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let v = dir.path().join("v");
        fs::create_dir_all(v.join("in")).expect("made");
        std::os::unix::fs::symlink("/etc", v.join("out")).expect("a link");
        std::os::unix::fs::symlink("in", v.join("ok")).expect("a link");
        assert!(open_or_make(&v, Path::new("out/passwd")).is_err());
        assert!(open_or_make(&v, Path::new("out/new")).is_err());
        assert!(open_or_make(&v, Path::new("../x")).is_err());
        open_or_make(&v, Path::new("ok")).expect("inside");
        open_or_make(&v, Path::new("new/deep")).expect("made");
        assert!(v.join("new/deep").is_dir());
    }
}
