//! What an unpacked layer takes from the layers below it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Unpacked, is_whiteout, open_dir, open_root};
use crate::Error;

/// Whether a layer is right as it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It fits.
    Done,
    /// A folder it implies is something else below; unpack it again, knowing the lower layers.
    Again,
}

/// Gives implied folders the metadata they have below, and makes the hard links whose targets
/// are below. `lowers` has the topmost first.
pub(crate) fn settle(layer: &Path, what: &Unpacked, lowers: &[PathBuf]) -> Result<Settled, Error> {
    let root = open_root(layer).map_err(|e| Error::io("open", layer, e))?;
    for path in &what.implied {
        match find(lowers, path) {
            Some((_, stat)) if FileType::from_raw_mode(stat.st_mode).is_dir() => {}
            Some(_) => return Ok(Settled::Again),
            None => continue,
        }
    }
    // Deepest first, so that the times set are not touched again.
    for path in what.implied.iter().rev() {
        if let Some((lower, stat)) = find(lowers, path) {
            let done = open_dir(&root, path)
                .map_err(io::Error::from)
                .and_then(|to| Ok((to, open_dir(open_root(lower)?, path)?)))
                .and_then(|(to, from)| copy_meta(&from, &to, &stat));
            done.map_err(|e| Error::io("settle", layer.join(path), e))?;
        }
    }
    for (from, to) in &what.links {
        link_up(&root, layer, from, to, lowers)
            .map_err(|e| Error::io("link", layer.join(to), e))?;
    }
    Ok(Settled::Done)
}

/// The topmost thing of that name below, unless it is hidden. Links are not followed.
fn find<'a>(lowers: &'a [PathBuf], path: &Path) -> Option<(&'a Path, rustix::fs::Stat)> {
    for lower in lowers {
        match stat_beneath(lower, path) {
            Ok(stat) if is_whiteout(&stat) => return None,
            Ok(stat) => return Some((lower, stat)),
            Err(Errno::NOTDIR | Errno::LOOP) => return None,
            Err(_) => {}
        }
    }
    None
}

fn open_path(lower: &Path, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        open_root(lower)?,
        path,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

fn stat_beneath(lower: &Path, path: &Path) -> rustix::io::Result<rustix::fs::Stat> {
    // The last component may be a link, which NO_SYMLINKS allows only with O_PATH|O_NOFOLLOW.
    let name = path.file_name().ok_or(Errno::INVAL)?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(dir) => {
            let dir = open_path(lower, dir, OFlags::PATH | OFlags::DIRECTORY)?;
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        }
        None => rustix::fs::statat(open_root(lower)?, name, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// Where the link of that name leads, if there is one below.
pub(super) fn lower_link(lowers: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let (lower, stat) = find(lowers, path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return None;
    }
    std::fs::read_link(lower.join(path)).ok()
}

fn copy_meta(from: &OwnedFd, to: impl AsFd, stat: &rustix::fs::Stat) -> io::Result<()> {
    rustix::fs::fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0u8; 64 << 10];
    let n = match rustix::fs::flistxattr(from, &mut names) {
        Ok(n) => n,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        use std::os::unix::ffi::OsStrExt;
        let name = OsStr::from_bytes(name);
        let mut value = vec![0u8; 64 << 10];
        let n = rustix::fs::fgetxattr(from, name, &mut value)?;
        match rustix::fs::fsetxattr(&to, name, &value[..n], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let time = rustix::fs::Timespec {
        tv_sec: stat.st_mtime as i64,
        tv_nsec: stat.st_mtime_nsec as i64,
    };
    rustix::fs::futimens(
        &to,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
    )?;
    Ok(())
}

/// Copies a lower file up under the link's name (as overlayfs would on a link to it).
fn link_up(
    root: &OwnedFd,
    layer: &Path,
    from: &Path,
    to: &Path,
    lowers: &[PathBuf],
) -> io::Result<()> {
    let name = to.file_name().ok_or(Errno::INVAL)?;
    let parent = match to.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(dir) => open_dir(root, dir)?,
        None => root.try_clone()?,
    };
    // It may have come later in the same archive.
    if let Ok(dir) = match from.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(dir) => open_dir(root, dir),
        None => root.try_clone().map_err(|_| Errno::MFILE),
    } && let Some(from) = from.file_name()
        && rustix::fs::linkat(dir, from, &parent, name, AtFlags::empty()).is_ok()
    {
        return Ok(());
    }
    let Some((lower, stat)) = find(lowers, from) else {
        tracing::warn!(layer = %layer.display(), target = %from.display(), "hard link without a target");
        return Err(Errno::NOENT.into());
    };
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Errno::PERM.into());
    }
    let source = open_path(lower, from, OFlags::RDONLY)?;
    let target = rustix::fs::openat(
        &parent,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?;
    let mut reader = std::fs::File::from(source.try_clone()?);
    let mut writer = std::fs::File::from(target.try_clone()?);
    io::copy(&mut reader, &mut writer)?;
    copy_meta(&source, &target, &stat)
}
