//! Mounts whose sources lie outside the container, and where they are mounted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use knarr_cgroups::{Cgroup, Mode};
use knarr_sys::process::ns;
use knarr_sys::{Errno, fs, mount as m};

use crate::checkpoint::rpc::ExtMount;
use crate::error::Error;
use crate::init::attach::open_source;
use crate::init::root::Root;
use crate::plan::{DevicePlan, MountPlan, MountSource, Plan, Step};

/// The name that stands for what hides a file.
const NULL: &str = "/dev/null";

/// One mount: where in the container, and what of the host.
struct Outside {
    target: PathBuf,
    source: PathBuf,
}

/// Every mount of a plan that binds something of the host.
fn outside(plan: &Plan, bundle: &Path, cgroup: &Cgroup) -> Vec<Outside> {
    let own_cgroups = plan.namespaces.new & ns::CGROUP != 0;
    let mut all = Vec::new();
    for step in &plan.outside {
        match step {
            Step::Mount(mount) => match &mount.source {
                MountSource::Bind { path, .. } => all.push(Outside {
                    target: mount.target.clone(),
                    source: bundle.join(path),
                }),
                MountSource::Cgroup if !own_cgroups => cgroups(mount, cgroup, &mut all),
                _ => {}
            },
            // A node that could not be made was bound.
            Step::Device(DevicePlan { path, .. }) => all.push(Outside {
                target: path.into(),
                source: path.into(),
            }),
            _ => {}
        }
    }
    all
}

fn cgroups(mount: &MountPlan, own: &Cgroup, all: &mut Vec<Outside>) {
    if own.mode() == Mode::V2 {
        all.extend(own.path_of("").map(|source| Outside {
            target: mount.target.clone(),
            source: source.to_path_buf(),
        }));
        return;
    }
    for dir in own.dirs().iter().filter(|d| !d.controllers.is_empty()) {
        let name = dir.controllers.strip_prefix("name=");
        all.push(Outside {
            target: mount.target.join(name.unwrap_or(&dir.controllers)),
            source: dir.path.clone(),
        });
    }
}

fn named(key: &Path, val: &Path) -> ExtMount {
    ExtMount {
        key: key.to_string_lossy().into_owned(),
        val: val.to_string_lossy().into_owned(),
    }
}

/// What a dump says of them: the mountpoint, and that it stands for itself.
pub fn for_dump(plan: &Plan, bundle: &Path, cgroup: &Cgroup, pid: i32) -> Vec<ExtMount> {
    let root = fs::open(format!("/proc/{pid}/root"), fs::O_PATH | fs::O_DIRECTORY).map(Root);
    let Ok(root) = root else {
        return Vec::new();
    };
    let mut all: Vec<ExtMount> = outside(plan, bundle, cgroup)
        .iter()
        .filter_map(|o| {
            // The kernel names a mountpoint by where links led.
            let at = real_path(&root.handle(&o.target).ok()?)?;
            Some(named(&at, &o.target))
        })
        .collect();
    for step in &plan.inside {
        let Step::MaskPath(path) = step else { continue };
        let Ok(handle) = root.handle(path) else {
            continue;
        };
        if fs::fstat(handle.as_fd()).is_ok_and(|s| !s.is_dir())
            && let Some(at) = real_path(&handle)
        {
            all.push(named(&at, Path::new(NULL)));
        }
    }
    all
}

/// What a restore says of them: what stands for what.
pub fn for_restore(plan: &Plan, bundle: &Path, cgroup: &Cgroup) -> Vec<ExtMount> {
    let mut all: Vec<ExtMount> = outside(plan, bundle, cgroup)
        .iter()
        .map(|o| named(&o.target, &o.source))
        .collect();
    if !all.iter().any(|m| m.key == NULL) {
        all.push(named(Path::new(NULL), Path::new(NULL)));
    }
    all
}

/// Where a handle's file lies, below the root of its own mount namespace.
fn real_path(handle: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).ok()
}

/// A root folder bound to a place where CRIU takes it for one: a mount of its own, whose parent
/// nothing is mounted over. Unbound when dropped.
pub struct BoundRoot(PathBuf);

impl BoundRoot {
    /// Binds the root below a container's state folder, after every mountpoint was made in it that
    /// the plan's mounts need.
    ///
    /// # Errors
    /// [`Error::Os`].
    pub fn new(plan: &Plan, bundle: &Path, folder: &Path) -> Result<Self, Error> {
        let at = folder.join(NAME);
        std::fs::create_dir(&at).map_err(|e| Error::os(format!("make {at:?}"), e))?;
        let bound = Self(at);
        bound.bind(&plan.rootfs)?;
        mountpoints(plan, bundle, &bound.0)?;
        // What was mounted to get there goes with it.
        bound.unbind();
        bound.bind(&plan.rootfs)?;
        Ok(bound)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn bind(&self, rootfs: &Path) -> Result<(), Error> {
        m::mount(rootfs, &self.0, "", m::MS_BIND | m::MS_REC, "")
            .and_then(|()| m::mount("", &self.0, "", m::MS_PRIVATE | m::MS_REC, ""))
            .map_err(|e| Error::os(format!("bind {rootfs:?} to {:?}", self.0), e))
    }

    fn unbind(&self) {
        let _ = m::umount(&self.0, m::MNT_DETACH);
    }
}

impl Drop for BoundRoot {
    fn drop(&mut self) {
        self.unbind();
        let _ = std::fs::remove_dir(&self.0);
    }
}

const NAME: &str = "criu-root";

/// Unbinds what a killed restore left in a container's state folder, so that the folder may be
/// removed with all that is in it.
///
/// # Errors
/// [`Error::Os`] when something is mounted there still.
pub fn unbind_left(folder: &Path) -> Result<(), Error> {
    let at = folder.join(NAME);
    while m::umount(&at, m::MNT_DETACH).is_ok() {}
    match std::fs::remove_dir(&at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::os(format!("remove {at:?}"), e))
        }
        _ => Ok(()),
    }
}

fn mountpoints(plan: &Plan, bundle: &Path, root: &Path) -> Result<(), Error> {
    let root = fs::open(root, fs::O_PATH | fs::O_DIRECTORY)
        .map(Root)
        .map_err(|e| Error::os(format!("open {root:?}"), e))?;
    let mounts = || {
        plan.outside.iter().filter_map(|s| match s {
            Step::Mount(mount) => Some(mount),
            _ => None,
        })
    };
    let on_tmpfs = |target: &Path| {
        mounts().any(|other| {
            other.target != target
                && target.starts_with(&other.target)
                && matches!(&other.source, MountSource::Filesystem { fstype, .. } if fstype == "tmpfs")
        })
    };
    for mount in mounts() {
        // What lies on a tmpfs comes back with it; cgroups lie on one, or on sysfs.
        if matches!(mount.source, MountSource::Cgroup) || on_tmpfs(&mount.target) {
            continue;
        }
        mountpoint(mount, bundle, &root)
            .map_err(|e| Error::os(format!("make mountpoint {:?}", mount.target), e))?;
    }
    Ok(())
}

fn mountpoint(mount: &MountPlan, bundle: &Path, root: &Root) -> Result<(), Errno> {
    let MountSource::Bind { path, recursive } = &mount.source else {
        return root.make_dir(&mount.target).map(drop);
    };
    let tree = open_source(&bundle.join(path), *recursive, mount.source_nofollow)?;
    let target = if fs::fstat(tree.as_fd())?.is_dir() {
        root.make_dir(&mount.target)
    } else {
        root.make_file(&mount.target)
    }?;
    // A later mountpoint may lie in it.
    m::attach(tree.as_fd(), target.as_fd())
}
