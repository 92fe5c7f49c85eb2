//! A container's root: an overlay of its image's layers and one thin writable layer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};

use crate::{Error, Image, Images};

/// Inspecting a container's writable layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, folders and so on.
    pub inodes: u64,
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
    pub fn mount(&self, id: &str, image: &Image, target: &Path) -> Result<(), Error> {
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
            copy_root_meta(top, &upper)?;
        }
        let done = mount_overlay(&lowers, Some((&upper, &work)), target);
        if done.is_err() {
            let _ = self.discard(id); // the mount's error is the one that matters
        }
        done
    }

    /// Mounts an image read-only (an image volume). Blocking.
    ///
    /// # Errors
    /// When a layer is missing or the kernel refuses.
    pub fn mount_read_only(&self, image: &Image, target: &Path) -> Result<(), Error> {
        fs::create_dir_all(target).map_err(|e| Error::io("create", target, e))?;
        if is_mounted(target) {
            return Ok(());
        }
        let lowers = self.layer_dirs(image)?;
        match lowers.as_slice() {
            // An overlay without an upper layer needs two lower ones.
            [one] => mount_bind_read_only(one, target),
            _ => mount_overlay(&lowers, None, target),
        }
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

fn copy_root_meta(from: &Path, to: &Path) -> Result<(), Error> {
    let meta = fs::metadata(from).map_err(|e| Error::io("stat", from, e))?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))
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
