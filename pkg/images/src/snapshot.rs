//! A container's root: an overlay of its image's layers and one thin writable layer.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use knarr_sys::mount::{self as sys, SetAttr, attr};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};

use crate::{Error, Image, Images};

/// Below the image folder: one folder for each unpacked layer.
const LAYERS: &str = "s";
/// Where all layers are seen with other ids while an overlay is mounted.
const VIEW: &str = "view";

/// Inspecting a container's writable layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, folders and so on.
    pub inodes: u64,
}

/// The user namespace that a root is for: the layers' files appear in it as they are in the
/// image, and what it writes is owned by its ids on the host.
#[derive(Debug, Clone, Copy)]
pub struct Remap<'a> {
    /// The namespace.
    pub userns: BorrowedFd<'a>,
    /// The host's user and group ids for its 0.
    pub first: (u32, u32),
    /// How many ids of both it has.
    pub size: u32,
}

impl Remap<'_> {
    /// Attaches a read-only view of a folder to another, with the namespace's ids.
    fn view(&self, from: &Path, at: &Path) -> Result<(), Error> {
        let attach = || {
            let tree = sys::clone_tree(knarr_sys::fs::CWD, from, false)?;
            let change = SetAttr {
                set: attr::IDMAP | attr::RDONLY,
                userns: Some(self.userns),
                ..SetAttr::default()
            };
            sys::setattr(tree.as_fd(), change)?;
            let place = knarr_sys::fs::open(at, knarr_sys::fs::O_PATH)?;
            sys::attach(tree.as_fd(), place.as_fd())
        };
        attach().map_err(|e: knarr_sys::Errno| Error::io("map ids at", at, e))
    }

    fn shift(&self, uid: u32, gid: u32) -> (u32, u32) {
        let one = |first: u32, id: u32| match id < self.size {
            true => first.saturating_add(id),
            false => id,
        };
        (one(self.first.0, uid), one(self.first.1, gid))
    }
}

impl Images {
    /// The folder of a container's writable layer.
    pub fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.root.join("rw").join(id)
    }

    /// Makes a writable layer on an image and mounts the whole at `target` (made if missing).
    /// Done again, it finds what is there. The layer is `volatile`: it dies with its container,
    /// so the kernel need not sync it. Blocking.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses.
    pub fn mount(
        &self,
        id: &str,
        image: &Image,
        target: &Path,
        remap: Option<Remap<'_>>,
    ) -> Result<(), Error> {
        let lowers = self.layer_dirs(image)?;
        let dir = self.snapshot_dir(id);
        fs::create_dir_all(target).map_err(|e| Error::io("create", target, e))?;
        if is_mounted(target) {
            return Ok(());
        }
        if dir.exists() {
            self.discard(id)?; // of an attempt that did not come this far
        }
        let (upper, work) = (dir.join("u"), dir.join("w"));
        for path in [&dir, &upper, &work] {
            fs::create_dir(path).map_err(|e| Error::io("create", path, e))?;
        }
        // Names the layers that this container keeps, should the image go.
        let chain = dir.join("chain");
        fs::write(&chain, image.chain.join("\n")).map_err(|e| Error::io("write", &chain, e))?;
        if let Some(top) = lowers.first() {
            copy_root_meta(top, &upper, remap)?;
        }
        let done = self.with_view(lowers, &dir.join(VIEW), remap, |lowers| {
            mount_overlay(lowers, Some((&upper, &work)), target)
        });
        if done.is_err() {
            let _ = self.discard(id); // the mount's error is the one that matters
        }
        done
    }

    /// Mounts an image read-only (an image volume). Blocking.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses.
    pub fn mount_read_only(
        &self,
        image: &Image,
        target: &Path,
        remap: Option<Remap<'_>>,
    ) -> Result<(), Error> {
        fs::create_dir_all(target).map_err(|e| Error::io("create", target, e))?;
        if is_mounted(target) {
            return Ok(());
        }
        let lowers = self.layer_dirs(image)?;
        match (lowers.as_slice(), remap) {
            // An overlay without an upper layer needs two lower ones.
            ([one], None) => mount_bind_read_only(one, target),
            ([one], Some(remap)) => remap.view(one, target),
            _ => {
                let view = target.with_extension(VIEW);
                let done = self.with_view(lowers, &view, remap, |lowers| {
                    mount_overlay(lowers, None, target)
                });
                let _ = fs::remove_dir(&view); // there only with mapped ids
                done
            }
        }
    }

    /// Gives the layers' folders to a mount: as they are, or through a view of all layers with
    /// other ids, which the mount does not need for longer than it takes to make it.
    fn with_view(
        &self,
        lowers: Vec<PathBuf>,
        view: &Path,
        remap: Option<Remap<'_>>,
        mount: impl FnOnce(&[PathBuf]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(remap) = remap else {
            return mount(&lowers);
        };
        fs::create_dir_all(view).map_err(|e| Error::io("create", view, e))?;
        remap.view(&self.root.join(LAYERS), view)?;
        let seen = |dir: PathBuf| dir.file_name().map(|name| view.join(name));
        let lowers: Vec<PathBuf> = lowers.into_iter().filter_map(seen).collect();
        let done = mount(&lowers);
        let gone = unmount(view);
        done.and(gone)
    }

    /// Unmounts and removes a container's root. No error if it is gone. Blocking.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unmount(&self, id: &str, target: &Path) -> Result<(), Error> {
        unmount(target)?;
        self.discard(id)
    }

    /// Removes a writable layer that is not mounted.
    fn discard(&self, id: &str) -> Result<(), Error> {
        let dir = self.snapshot_dir(id);
        // Of a mount that was interrupted; what it shows is not this container's.
        unmount(&dir.join(VIEW))?;
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &dir, e)),
            _ => Ok(()),
        }
    }

    /// Removes the writable layers of containers that `known` does not name. Blocking.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn retain_snapshots(&self, known: impl Fn(&str) -> bool) -> Result<(), Error> {
        let dir = self.root.join("rw");
        for entry in fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
            let entry = entry.map_err(|e| Error::io("read", &dir, e))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !known(&name) {
                self.discard(&name)?;
            }
        }
        Ok(())
    }

    /// What a container has written. Walks the layer; blocking.
    pub fn snapshot_usage(&self, id: &str) -> Usage {
        let mut usage = Usage::default();
        walk(&self.snapshot_dir(id).join("u"), &mut usage);
        usage
    }
}

fn walk(path: &Path, usage: &mut Usage) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    usage.inodes += 1;
    usage.bytes += meta.blocks() * 512;
    if meta.is_dir()
        && let Ok(entries) = fs::read_dir(path)
    {
        for entry in entries.flatten() {
            walk(&entry.path(), usage);
        }
    }
}

fn copy_root_meta(from: &Path, to: &Path, remap: Option<Remap<'_>>) -> Result<(), Error> {
    let meta = fs::metadata(from).map_err(|e| Error::io("stat", from, e))?;
    let own = (meta.uid(), meta.gid());
    let (uid, gid) = remap.map_or(own, |r| r.shift(own.0, own.1));
    std::os::unix::fs::chown(to, Some(uid), Some(gid))
        .and_then(|()| fs::set_permissions(to, meta.permissions()))
        .map_err(|e| Error::io("protect", to, e))
}

/// Whether something is mounted exactly there.
pub fn is_mounted(path: &Path) -> bool {
    let Some(parent) = path.parent() else {
        return true;
    };
    match (fs::metadata(path), fs::metadata(parent)) {
        (Ok(a), Ok(b)) => a.dev() != b.dev(),
        _ => false,
    }
}

/// Takes away all that is mounted at a place; no error if nothing is.
///
/// # Errors
/// When the kernel refuses.
pub fn unmount(path: &Path) -> Result<(), Error> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io("unmount", path, e)),
        }
    }
}

fn mount_bind_read_only(from: &Path, target: &Path) -> Result<(), Error> {
    rustix::mount::mount_bind(from, target)
        .and_then(|()| {
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(target, flags, c"")
        })
        .map_err(|e| Error::io("bind at", target, e))
}

fn mount_overlay(
    lowers: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    target: &Path,
) -> Result<(), Error> {
    match mount_layerwise(lowers, writable, target) {
        // Kernels before 6.8 know neither "lowerdir+" nor, earlier, the calls.
        Err(Errno::INVAL | Errno::NOSYS) => mount_at_once(lowers, writable, target),
        other => other,
    }
    .map_err(|e| Error::io("mount overlay at", target, e))
}

/// One call for each layer: no limit on their number but the kernel's 500.
fn mount_layerwise(
    lowers: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    target: &Path,
) -> Result<(), Errno> {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "source", "overlay")?;
    for lower in lowers {
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", lower)?;
    }
    if let Some((upper, work)) = writable {
        rustix::mount::fsconfig_set_string(&fs, "upperdir", upper)?;
        rustix::mount::fsconfig_set_string(&fs, "workdir", work)?;
        rustix::mount::fsconfig_set_flag(&fs, "volatile")?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let flags = match writable {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    rustix::mount::move_mount(
        &mount,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn mount_at_once(
    lowers: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    target: &Path,
) -> Result<(), Errno> {
    use std::os::unix::ffi::OsStrExt;
    let mut data = b"lowerdir=".to_vec();
    for (n, lower) in lowers.iter().enumerate() {
        if n > 0 {
            data.push(b':');
        }
        data.extend_from_slice(lower.as_os_str().as_bytes());
    }
    if let Some((upper, work)) = writable {
        for (key, path) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
            data.extend_from_slice(key);
            data.extend_from_slice(path.as_os_str().as_bytes());
        }
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = match writable {
        Some(_) => MountFlags::empty(),
        None => MountFlags::RDONLY,
    };
    rustix::mount::mount("overlay", target, "overlay", flags, data.as_c_str())
}
