//! A layer archive becomes a folder that overlayfs can use as a lower layer.
//!
//! Archives are hostile: every path is walked below the target by the kernel
//! (`openat2` with `RESOLVE_IN_ROOT`), the last component is never followed.
//!
//! Layers are unpacked without knowing what lies below them, so that they can be unpacked at the
//! same time. What depends on lower layers (folders that the archive implies but does not hold,
//! hard links to files of lower layers) is noted, and put right by [`settle`] in order. If a
//! folder so implied is a symbolic link below, the layer must be unpacked again with
//! [`Options::lowers`].

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use tar::EntryType;

use crate::Error;

mod settle;
#[cfg(test)]
mod tests;
pub(crate) use settle::{Settled, settle};

/// How to unpack.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The unpacked layers below, topmost first; empty if they are not there yet.
    pub lowers: Vec<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, folders and so on.
    pub inodes: u64,
    /// Folders that had no entry of their own.
    pub implied: BTreeSet<PathBuf>,
    /// Hard links whose target is not in this layer: (target, link).
    pub links: Vec<(PathBuf, PathBuf)>,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Unpacks one uncompressed archive into an empty folder. Blocking.
pub(crate) fn unpack(
    reader: impl Read,
    target: &Path,
    options: &Options,
) -> Result<Unpacked, Error> {
    let root = rustix::fs::open(
        target,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::io("open", target, e))?;
    let mut unpacker = Unpacker {
        root: Rc::new(root),
        target: target.to_path_buf(),
        options,
        parent: None,
        dir_times: Vec::new(),
        out: Unpacked::default(),
    };
    let mut archive = tar::Archive::new(reader);
    let broken = |e: io::Error| match e.raw_os_error() {
        Some(_) => Error::io("read layer for", target, e),
        None => Error::malformed("layer archive", e),
    };
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        unpacker
            .entry(&mut entry)
            .map_err(|e| Error::io("unpack", target.join(clean(&name)), e))?;
    }
    unpacker.finish()
}

/// A tar name as a relative path without `.` and `..`, clamped to the root.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

struct Unpacker<'a> {
    root: Rc<OwnedFd>,
    target: PathBuf,
    options: &'a Options,
    /// The folder of the entry before this one.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Set last, as every entry in a folder changes them.
    dir_times: Vec<(PathBuf, Timespec)>,
    out: Unpacked,
}

/// What every kind of entry has.
struct Meta {
    mode: Mode,
    uid: u64,
    gid: u64,
    mtime: Timespec,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let path = clean(Path::new(OsStr::from_bytes(&entry.path_bytes())));
        let meta = meta(entry)?;
        let Some(name) = path.file_name().map(OsStr::to_os_string) else {
            if kind.is_dir() {
                apply(&*self.root, &meta)?;
                self.dir_times.push((path, meta.mtime));
            }
            return Ok(());
        };
        let parent_path = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let parent = self.parent(&parent_path)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&parent, name.as_bytes());
        }
        self.out.inodes += 1;
        match kind {
            EntryType::Directory => {
                self.directory(&parent, &name, &meta)?;
                self.out.implied.remove(&path);
                self.dir_times.push((path, meta.mtime));
            }
            EntryType::Symlink => {
                let link = entry.link_name_bytes().ok_or(Errno::INVAL)?.into_owned();
                let link = OsStr::from_bytes(&link);
                self.place(&parent, &name, || {
                    rustix::fs::symlinkat(link, &*parent, name.as_os_str())
                })?;
                apply_at(&parent, &name, &meta, false)?;
            }
            EntryType::Link => {
                let link = entry.link_name_bytes().ok_or(Errno::INVAL)?.into_owned();
                let link = clean(Path::new(OsStr::from_bytes(&link)));
                self.hard_link(&parent, &name, &link, &path)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (kind, dev) = match kind {
                    EntryType::Fifo => (FileType::Fifo, 0),
                    kind => {
                        let major = entry.header().device_major()?.unwrap_or(0);
                        let minor = entry.header().device_minor()?.unwrap_or(0);
                        let kind = match kind {
                            EntryType::Char => FileType::CharacterDevice,
                            _ => FileType::BlockDevice,
                        };
                        (kind, rustix::fs::makedev(major, minor))
                    }
                };
                self.place(&parent, &name, || {
                    rustix::fs::mknodat(&*parent, name.as_os_str(), kind, Mode::RUSR, dev)
                })?;
                apply_at(&parent, &name, &meta, true)?;
            }
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse => {
                let fd = self.place(&parent, &name, || {
                    rustix::fs::openat(
                        &*parent,
                        name.as_os_str(),
                        OFlags::WRONLY
                            | OFlags::CREATE
                            | OFlags::EXCL
                            | OFlags::NOFOLLOW
                            | OFlags::CLOEXEC,
                        Mode::RUSR | Mode::WUSR,
                    )
                })?;
                let mut file = std::fs::File::from(fd);
                self.out.bytes += copy(entry, &mut file)?;
                apply(&file, &meta)?;
                rustix::fs::futimens(&file, &times(meta.mtime))?;
            }
            other => {
                tracing::warn!(path = %path.display(), kind = ?other, "skipped an entry of unknown kind");
                self.out.inodes -= 1;
            }
        }
        Ok(())
    }

    /// Opens the folder, making what is missing on the way.
    fn parent(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if path.as_os_str().is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(fd.clone());
        }
        let fd = Rc::new(match open_dir(&*self.root, path) {
            Err(Errno::NOENT) => self.make_dirs(path)?,
            other => other?,
        });
        self.parent = Some((path.to_path_buf(), fd.clone()));
        Ok(fd)
    }

    /// Makes a chain of folders, following links within the root, also to places not made yet.
    fn make_dirs(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let mut todo: Vec<OsString> = path.components().rev().map(|c| c.as_os_str().into()).collect();
        let mut done = PathBuf::new();
        let mut hops = 0;
        while let Some(part) = todo.pop() {
            match part.as_bytes() {
                b"/" => {
                    done = PathBuf::new();
                    continue;
                }
                b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            let dir = if done.as_os_str().is_empty() {
                self.root.try_clone()?
            } else {
                open_dir(&*self.root, &done)?
            };
            let next = done.join(&part);
            let link = match rustix::fs::statat(&dir, part.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => None,
                    FileType::Symlink => Some(PathBuf::from(OsString::from_vec(
                        rustix::fs::readlinkat(&dir, part.as_os_str(), Vec::new())?.into_bytes(),
                    ))),
                    _ if is_whiteout(&stat) => {
                        // Hidden below, and used again by this very layer.
                        rustix::fs::unlinkat(&dir, part.as_os_str(), AtFlags::empty())?;
                        rustix::fs::mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                        set_opaque(&open_dir(&dir, Path::new(&part))?)?;
                        None
                    }
                    _ => return Err(Errno::NOTDIR.into()),
                },
                Err(Errno::NOENT) => match settle::lower_link(&self.options.lowers, &next) {
                    Some(link) => Some(link),
                    None => {
                        rustix::fs::mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                        self.out.implied.insert(next.clone());
                        None
                    }
                },
                Err(e) => return Err(e.into()),
            };
            match link {
                Some(link) => {
                    hops += 1;
                    if hops > 40 {
                        return Err(Errno::LOOP.into());
                    }
                    todo.extend(link.components().rev().map(|c| c.as_os_str().to_os_string()));
                }
                None => done = next,
            }
        }
        if done.as_os_str().is_empty() {
            return self.root.try_clone();
        }
        Ok(open_dir(&*self.root, &done)?)
    }

    fn whiteout(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        if name == OPAQUE {
            return set_opaque(parent);
        }
        let name = &name[WHITEOUT.len()..];
        if name.is_empty() || name.starts_with(WHITEOUT) || matches!(name, b"." | b"..") {
            return Ok(()); // aufs's own book-keeping
        }
        let name = OsStr::from_bytes(name);
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                set_opaque(&open_dir(parent, Path::new(name))?)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => Ok(rustix::fs::mknodat(
                parent,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?),
            Err(e) => Err(e.into()),
        }
    }

    fn directory(&mut self, parent: &OwnedFd, name: &OsStr, meta: &Meta) -> io::Result<()> {
        let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
        let mut opaque = false;
        match make() {
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                    opaque = is_whiteout(&stat);
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    self.parent = None;
                    make()?;
                }
            }
            other => other?,
        }
        let dir = open_dir(parent, Path::new(name))?;
        if opaque {
            set_opaque(&dir)?;
        }
        apply(&dir, meta)
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        link: &Path,
        path: &Path,
    ) -> io::Result<()> {
        let Some(from) = link.file_name() else {
            return Err(Errno::PERM.into());
        };
        if link == path {
            return Ok(());
        }
        let dir = match link.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => open_dir(&*self.root, dir),
            _ => self.root.try_clone().map_err(|_| Errno::MFILE),
        };
        let dir = match dir {
            Ok(dir) => dir,
            Err(Errno::NOENT) => {
                self.out.links.push((link.into(), path.into()));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let made = self.place(parent, name, || {
            rustix::fs::linkat(&dir, from, parent, name, AtFlags::empty())
        });
        match made {
            Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                self.out.links.push((link.into(), path.into()));
                Ok(())
            }
            other => other,
        }
    }

    /// Makes something; what is in its place goes first.
    fn place<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                remove_at(parent, name)?;
                self.parent = None;
                Ok(make()?)
            }
            other => Ok(other?),
        }
    }

    fn finish(mut self) -> Result<Unpacked, Error> {
        for (path, mtime) in self.dir_times.drain(..).rev() {
            let dir = if path.as_os_str().is_empty() {
                self.root.try_clone().map_err(|e| Error::io("open", &path, e))?
            } else {
                match open_dir(&*self.root, &path) {
                    Ok(dir) => dir,
                    Err(_) => continue, // replaced by a later entry
                }
            };
            rustix::fs::futimens(&dir, &times(mtime))
                .map_err(|e| Error::io("set times of", self.target.join(&path), e))?;
        }
        Ok(self.out)
    }
}

fn meta<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Meta> {
    let mut mtime = Timespec {
        tv_sec: i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0),
        tv_nsec: 0,
    };
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let key = extension.key_bytes();
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
                    let name = OsStr::from_bytes(name).to_os_string();
                    xattrs.push((name, extension.value_bytes().to_vec()));
                }
            } else if key == b"mtime"
                && let Some(time) = extension.value().ok().and_then(parse_time)
            {
                mtime = time;
            }
        }
    }
    let header = entry.header();
    // A field that was left out counts as zero, as other readers take it.
    let (fields, blank) = (header.as_old(), |raw: &[u8]| raw.iter().all(|b| matches!(b, 0 | b' ')));
    Ok(Meta {
        mode: Mode::from_raw_mode(if blank(&fields.mode) { 0 } else { header.mode()? } & 0o7777),
        uid: if blank(&fields.uid) { 0 } else { header.uid()? },
        gid: if blank(&fields.gid) { 0 } else { header.gid()? },
        mtime,
        xattrs,
    })
}

/// `seconds[.fraction]`, possibly negative.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    let negative = whole.starts_with('-') && nanos > 0;
    Some(Timespec {
        tv_sec: if negative { seconds.checked_sub(1)? } else { seconds },
        tv_nsec: if negative { 1_000_000_000 - nanos } else { nanos },
    })
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

fn id(value: u64) -> io::Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|v| *v != u32::MAX)
        .ok_or_else(|| Errno::INVAL.into())
}

fn ids(meta: &Meta) -> io::Result<(Option<Uid>, Option<Gid>)> {
    Ok((
        Some(Uid::from_raw(id(meta.uid)?)),
        Some(Gid::from_raw(id(meta.gid)?)),
    ))
}

/// Owner, mode (after the owner: a change of owner clears setuid), attributes.
fn apply(fd: impl AsFd, meta: &Meta) -> io::Result<()> {
    let (uid, gid) = ids(meta)?;
    rustix::fs::fchown(&fd, uid, gid)?;
    rustix::fs::fchmod(&fd, meta.mode)?;
    for (name, value) in &meta.xattrs {
        tolerate(rustix::fs::fsetxattr(&fd, name.as_os_str(), value, XattrFlags::empty()), name)?;
    }
    Ok(())
}

/// The same for what cannot be opened.
fn apply_at(parent: &OwnedFd, name: &OsStr, meta: &Meta, chmod: bool) -> io::Result<()> {
    let (uid, gid) = ids(meta)?;
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if chmod {
        // Not a link: it was just made, in a folder nobody else writes to.
        rustix::fs::chmodat(parent, name, meta.mode, AtFlags::empty())?;
    }
    for (key, value) in &meta.xattrs {
        let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        tolerate(rustix::fs::lsetxattr(&path, key.as_os_str(), value, XattrFlags::empty()), key)?;
    }
    rustix::fs::utimensat(parent, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// A file system without such attributes is no reason to fail.
fn tolerate(result: rustix::io::Result<()>, name: &OsStr) -> io::Result<()> {
    match result {
        Err(Errno::NOTSUP) => {
            tracing::debug!(name = %name.display(), "extended attribute not supported");
            Ok(())
        }
        Err(Errno::PERM) if !name.as_bytes().starts_with(b"security.capability") => Ok(()),
        other => Ok(other?),
    }
}

fn set_opaque(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())?)
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == 0
}

/// Opens a folder below another; links are followed but never lead out.
pub(crate) fn open_dir(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Removes a file, or a folder with all it holds.
fn remove_at(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {
            // std's removal never follows links.
            let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
            std::fs::remove_dir_all(path)
        }
        other => Ok(other?),
    }
}

fn copy(from: &mut impl Read, to: &mut std::fs::File) -> io::Result<u64> {
    // Goes through a buffer of the reader's own size; large enough to keep system calls few.
    let mut buffer = vec![0u8; 128 << 10];
    let mut total = 0u64;
    let mut ahead = Writeback::default();
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => {
                ahead.end(to, total);
                return Ok(total);
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        io::Write::write_all(to, &buffer[..n])?;
        total += n as u64;
        ahead.at(to, total);
    }
}

/// Sends what is written on to the disk early, so that the sync at the end is short.
#[derive(Default)]
pub(crate) struct Writeback(u64);

impl Writeback {
    /// At a time.
    const PART: u64 = 8 << 20;
    /// What is less is left to the kernel.
    const LEAST: u64 = 64 << 10;

    /// The file is written up to here.
    pub(crate) fn at(&mut self, file: &std::fs::File, at: u64) {
        if at >= self.0 + Self::PART {
            self.send(file, at);
        }
    }

    /// The file is written whole.
    pub(crate) fn end(&mut self, file: &std::fs::File, at: u64) {
        if at >= self.0 + Self::LEAST {
            self.send(file, at);
        }
    }

    fn send(&mut self, file: &std::fs::File, at: u64) {
        // Only a hint: file systems that cannot do it sync all at the end.
        let _ = knarr_sys::fs::start_writeback(file.as_fd(), self.0, at - self.0);
        self.0 = at;
    }
}

/// The folder itself; for callers that need a place to start.
pub(crate) fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
