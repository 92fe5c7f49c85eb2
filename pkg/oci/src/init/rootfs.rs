//! Mounts, devices and the switch of the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use knarr_cgroups::Cgroup;
use knarr_sys::mount::{self as m, FsContext, SetAttr, attr};
use knarr_sys::process;
use knarr_sys::{Errno, fs};

use crate::init::attach::open_source;
use crate::init::root::{Root, fd_path};
use crate::init::{During, Failure, cgroupfs};
use crate::plan::{DevicePlan, MountPlan, MountSource, Plan, Propagation, Step};

/// The root file system while it is made.
pub struct Rootfs<'a> {
    plan: &'a Plan,
    bundle: &'a Path,
    cgroup: &'a Cgroup,
    /// The host's procfs.
    pub proc: OwnedFd,
    root: Option<Root>,
    /// Detached copies of bind sources, by the mounts' places among the steps.
    sources: Vec<Option<OwnedFd>>,
    /// Those that the parent has opened.
    premade: Vec<Option<OwnedFd>>,
    next_mount: usize,
    /// The empty folder that hides folders.
    empty: Option<OwnedFd>,
}

impl<'a> Rootfs<'a> {
    /// Touches nothing yet.
    pub fn new(
        plan: &'a Plan,
        bundle: &'a Path,
        cgroup: &'a Cgroup,
        proc: OwnedFd,
        premade: Vec<Option<OwnedFd>>,
    ) -> Self {
        Self {
            plan,
            bundle,
            cgroup,
            proc,
            root: None,
            sources: Vec::new(),
            premade,
            next_mount: 0,
            empty: None,
        }
    }

    /// Lets go of everything but the host's procfs.
    pub fn into_proc(self) -> OwnedFd {
        self.proc
    }

    /// The root, for the steps behind the mounts: the one being made, or the present one.
    pub fn root(&self) -> Result<Root, Failure> {
        let fd = match &self.root {
            Some(root) => root.0.try_clone().during("copy descriptor")?,
            None => fs::open("/", fs::O_PATH | fs::O_DIRECTORY).during("open /")?,
        };
        Ok(Root(fd))
    }

    /// Cuts the mounts off from the host, mounts the root onto itself, opens all bind sources.
    pub fn prepare(&mut self) -> Result<(), Failure> {
        let propagation = self
            .plan
            .outside
            .iter()
            .find_map(|s| match s {
                Step::PrepareRoot(p) => Some(*p),
                _ => None,
            })
            .unwrap_or_default();
        let flags = if propagation.is_set() {
            propagation.kind | if propagation.recursive { m::MS_REC } else { 0 }
        } else {
            m::MS_SLAVE | m::MS_REC
        };
        m::mount("", "/", "", flags, "").during("set propagation of /")?;
        let rootfs = &self.plan.rootfs;
        if propagation.kind == m::MS_SHARED {
            private_parent(rootfs)?;
        }
        m::mount(rootfs, rootfs, "", m::MS_BIND | m::MS_REC, "")
            .during(format!("bind rootfs {rootfs:?}"))?;
        let fd = fs::open(rootfs, fs::O_PATH | fs::O_DIRECTORY)
            .during(format!("open rootfs {rootfs:?}"))?;
        self.root = Some(Root(fd));
        for step in &self.plan.outside {
            if let Step::Mount(mount) = step {
                let place = self.sources.len();
                let premade = self.premade.get_mut(place).and_then(Option::take);
                let source = match &mount.source {
                    MountSource::Bind { .. } if premade.is_some() => premade,
                    MountSource::Bind { path, recursive } => Some(
                        open_source(&self.bundle.join(path), *recursive, mount.source_nofollow)
                            .during(step.name())?,
                    ),
                    _ => None,
                };
                self.sources.push(source);
            }
        }
        Ok(())
    }

    /// One step of the plan.
    pub fn run(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::PrepareRoot(_) | Step::Loopback | Step::TimeOffsets(_) => Ok(()),
            Step::Mount(mount) => {
                let source = self.sources.get_mut(self.next_mount).and_then(Option::take);
                self.next_mount += 1;
                self.mount(mount, source, &step.name())
            }
            Step::Device(d) => self.device(d).during(step.name()),
            Step::Link(target, path) => self.link(target, path).during(step.name()),
            Step::Ptmx => self.ptmx().during(step.name()),
            Step::Hostname(name) => process::sethostname(name).during(step.name()),
            Step::Domainname(name) => process::setdomainname(name).during(step.name()),
            Step::Sysctl { path, value } => {
                fs::write_at(self.proc.as_fd(), format!("sys/{path}"), value.as_bytes())
                    .during(step.name())
            }
            Step::RemountReadonly(path) => {
                let set = SetAttr {
                    set: attr::RDONLY,
                    ..SetAttr::default()
                };
                self.change(path, set).during(step.name())
            }
            Step::ReadonlyRoot => {
                let set = SetAttr {
                    set: attr::RDONLY,
                    ..SetAttr::default()
                };
                self.change(Path::new("/"), set).during(step.name())
            }
            Step::RootPropagation(p) => {
                let set = SetAttr {
                    propagation: p.kind,
                    recursive: p.recursive,
                    ..SetAttr::default()
                };
                self.change(Path::new("/"), set).during(step.name())
            }
            Step::ReadonlyPath(path) => self.readonly(path).during(step.name()),
            Step::MaskPath(path) => self.mask(path).during(step.name()),
        }
    }

    fn tree(&self) -> Result<&Root, Errno> {
        self.root.as_ref().ok_or(Errno::INVAL)
    }

    fn change(&self, path: &Path, change: SetAttr<'_>) -> Result<(), Errno> {
        let root = self.root().map_err(|f| Errno(f.errno))?;
        m::setattr(root.handle(path)?.as_fd(), change)
    }

    fn mount(
        &mut self,
        plan: &MountPlan,
        source: Option<OwnedFd>,
        name: &str,
    ) -> Result<(), Failure> {
        let root = self.tree().during(name)?;
        let at_proc = plan.target == Path::new("/proc") || plan.target == Path::new("/sys");
        if at_proc {
            // A link in place of these could lead the runtime to other files than it means.
            if let Ok(link) = root.open(&plan.target, fs::O_PATH | fs::O_NOFOLLOW)
                && !fs::fstat(link.as_fd()).during(name)?.is_dir()
            {
                return Err(Failure::new(name, "is not a folder"));
            }
        }
        match &plan.source {
            MountSource::Bind { .. } => {
                let tree = source.ok_or(Errno::INVAL).during(name)?;
                apply_attrs(&tree, plan).during(name)?;
                let is_dir = fs::fstat(tree.as_fd()).during(name)?.is_dir();
                let target = if is_dir {
                    root.make_dir(&plan.target)
                } else {
                    root.make_file(&plan.target)
                };
                let target = target.during(name)?;
                m::attach(tree.as_fd(), target.as_fd()).during(name)?;
                for p in &plan.propagations {
                    set_propagation(&tree, *p).during(name)?;
                }
            }
            MountSource::Filesystem {
                fstype,
                source,
                data,
            } => {
                let target = root.make_dir(&plan.target).during(name)?;
                let mut data = data.clone();
                if fstype == "tmpfs" && !data.split(',').any(|o| o.starts_with("mode=")) {
                    let mode = fs::fstat(target.as_fd()).during(name)?.mode & 0o7777;
                    if !data.is_empty() {
                        data.push(',');
                    }
                    data.push_str(&format!("mode={mode:o}"));
                }
                // Filled first, read-only then.
                let late = plan.copy_up && plan.flags & m::MS_RDONLY != 0;
                let flags = if late {
                    plan.flags & !m::MS_RDONLY
                } else {
                    plan.flags
                };
                let old = plan.copy_up.then(|| root.open(&plan.target, fs::O_RDONLY));
                m::mount(source, fd_path(&target), fstype, flags, &data).during(name)?;
                drop(target);
                if let Some(Ok(old)) = old {
                    let new = root.open(&plan.target, fs::O_RDONLY).during(name)?;
                    crate::init::attach::copy_up(&old, &new).during(name)?;
                }
                if late {
                    let set = SetAttr {
                        set: attr::RDONLY,
                        ..SetAttr::default()
                    };
                    self.change(&plan.target, set).during(name)?;
                }
                self.after(plan).during(name)?;
            }
            MountSource::Cgroup => {
                cgroupfs::mount(root, plan, self.plan, self.cgroup).map_err(|f| Failure {
                    step: format!("{name}: {}", f.step),
                    ..f
                })?;
                self.after(plan).during(name)?;
            }
            MountSource::Remount => {
                let target = root.handle(&plan.target).during(name)?;
                apply_attrs(&target, plan).during(name)?;
                for p in &plan.propagations {
                    set_propagation(&target, *p).during(name)?;
                }
            }
        }
        Ok(())
    }

    /// Recursive attributes and propagation of what was just mounted.
    fn after(&self, plan: &MountPlan) -> Result<(), Errno> {
        if plan.recursive_attrs == (0, 0) && plan.propagations.is_empty() {
            return Ok(());
        }
        let target = self.tree()?.handle(&plan.target)?;
        let (set, clear) = plan.recursive_attrs;
        if set | clear != 0 {
            let change = SetAttr {
                set,
                clear,
                recursive: true,
                ..SetAttr::default()
            };
            m::setattr(target.as_fd(), change)?;
        }
        plan.propagations
            .iter()
            .try_for_each(|p| set_propagation(&target, *p))
    }

    fn device(&self, d: &DevicePlan) -> Result<(), Errno> {
        let root = self.tree()?;
        let path = Path::new(&d.path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        if d.bind {
            let source = open_source(path, false, false)?;
            let target = root.make_file(path)?;
            return m::attach(source.as_fd(), target.as_fd());
        }
        let parent = root.make_dir(parent)?;
        let old = process::umask(0);
        let made = fs::mknodat(parent.as_fd(), name, d.kind, d.mode, d.major, d.minor);
        process::umask(old);
        match made {
            Err(Errno::EXIST) => {
                // Already there, from the image: fine when it is the same node.
                let st = fs::fstatat(parent.as_fd(), name)?;
                let same = st.mode & 0o170_000 == d.kind
                    && (d.kind == 0o010_000 || st.rdev_numbers() == (d.major, d.minor));
                if !same {
                    return Err(Errno::EXIST);
                }
                Ok(())
            }
            Err(Errno::PERM) => {
                let source = open_source(path, false, false)?;
                let target = root.make_file(path)?;
                m::attach(source.as_fd(), target.as_fd())
            }
            other => {
                other?;
                fs::chownat(parent.as_fd(), name, d.uid, d.gid)
            }
        }
    }

    fn link(&self, target: &str, path: &str) -> Result<(), Errno> {
        let path = Path::new(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        let parent = self.tree()?.make_dir(parent)?;
        match fs::symlinkat(target, parent.as_fd(), name) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    fn ptmx(&self) -> Result<(), Errno> {
        let dev = self.tree()?.make_dir(Path::new("/dev"))?;
        match fs::unlinkat(dev.as_fd(), "ptmx", false) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        fs::symlinkat("pts/ptmx", dev.as_fd(), "ptmx")
    }

    /// The program's working folder is made where the image lacks it.
    pub fn make_cwd(&self, cwd: &Path) -> Result<(), Failure> {
        if cwd == Path::new("/") {
            return Ok(());
        }
        let root = self.tree().during("open rootfs")?;
        match root.make_dir(cwd) {
            // The program's own user may still reach it, or get a clear error.
            Ok(_) | Err(Errno::ACCES | Errno::PERM | Errno::ROFS) => Ok(()),
            Err(e) => Err(e).during(format!("mkdir {cwd:?}")),
        }
    }

    /// Makes the new root the root; the host's mounts are gone from view afterwards.
    pub fn switch(&mut self, no_pivot: bool) -> Result<(), Failure> {
        let root = self.tree().during("switch root")?;
        if no_pivot {
            fs::fchdir(root.0.as_fd()).during("chdir rootfs")?;
            m::mount(".", "/", "", m::MS_MOVE, "").during("move rootfs to /")?;
            fs::chroot(".").during("chroot")?;
            fs::chdir("/").during("chdir /")?;
        } else {
            let old = fs::open("/", fs::O_PATH | fs::O_DIRECTORY).during("open /")?;
            fs::fchdir(root.0.as_fd()).during("chdir rootfs")?;
            // The old root lands on top of the new one; from there it is cut off and let go.
            m::pivot_root(".", ".").during("pivot_root")?;
            fs::fchdir(old.as_fd()).during("chdir old root")?;
            m::mount("", ".", "", m::MS_SLAVE | m::MS_REC, "").during("cut off old root")?;
            m::umount(".", m::MNT_DETACH).during("unmount old root")?;
            fs::chdir("/").during("chdir /")?;
        }
        let fd = fs::open("/", fs::O_PATH | fs::O_DIRECTORY).during("open /")?;
        self.root = Some(Root(fd));
        Ok(())
    }

    fn readonly(&self, path: &str) -> Result<(), Errno> {
        let root = self.root().map_err(|f| Errno(f.errno))?;
        let target = match root.handle(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let tree = m::clone_tree(target.as_fd(), "", true)?;
        let set = SetAttr {
            set: attr::RDONLY,
            recursive: true,
            ..SetAttr::default()
        };
        m::setattr(tree.as_fd(), set)?;
        m::attach(tree.as_fd(), target.as_fd())
    }

    fn mask(&mut self, path: &str) -> Result<(), Errno> {
        let root = self.root().map_err(|f| Errno(f.errno))?;
        let target = match root.handle(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let tree = if fs::fstat(target.as_fd())?.is_dir() {
            match &self.empty {
                Some(empty) => m::clone_tree(empty.as_fd(), "", false)?,
                None => {
                    let tmpfs = FsContext::open("tmpfs")?;
                    tmpfs.set("nr_blocks", "1")?;
                    tmpfs.set("nr_inodes", "1")?;
                    let quiet = attr::NOSUID | attr::NODEV | attr::NOEXEC;
                    let first = tmpfs.mount(attr::RDONLY | quiet)?;
                    m::attach(first.as_fd(), target.as_fd())?;
                    self.empty = Some(first);
                    return Ok(());
                }
            }
        } else {
            let null = root.open("/dev/null", fs::O_PATH | fs::O_NOFOLLOW)?;
            // An image may have put something else in its place.
            if !fs::fstat(null.as_fd())?.is_char_device(1, 3) {
                return Err(Errno(19));
            }
            m::clone_tree(null.as_fd(), "", false)?
        };
        m::attach(tree.as_fd(), target.as_fd())
    }
}

fn apply_attrs(tree: &OwnedFd, plan: &MountPlan) -> Result<(), Errno> {
    let atime = attr::NOATIME | attr::STRICTATIME;
    let set = plan.attrs();
    let mut clear = plan.cleared_attrs() & !atime;
    if set & atime != 0 || plan.flags & m::MS_RELATIME != 0 || plan.cleared_attrs() & atime != 0 {
        clear |= attr::ATIME;
    }
    if set | clear != 0 {
        let change = SetAttr {
            set,
            clear,
            ..SetAttr::default()
        };
        m::setattr(tree.as_fd(), change)?;
    }
    let (set, clear) = plan.recursive_attrs;
    if set | clear != 0 {
        let change = SetAttr {
            set,
            clear,
            recursive: true,
            ..SetAttr::default()
        };
        m::setattr(tree.as_fd(), change)?;
    }
    Ok(())
}

fn set_propagation(mount: &OwnedFd, p: Propagation) -> Result<(), Errno> {
    let change = SetAttr {
        propagation: p.kind,
        recursive: p.recursive,
        ..SetAttr::default()
    };
    m::setattr(mount.as_fd(), change)
}

/// `pivot_root` refuses a root whose parent mount is shared.
fn private_parent(rootfs: &Path) -> Result<(), Failure> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").during("read mountinfo")?;
    let rootfs = rootfs.canonicalize().during("resolve rootfs")?;
    let parent = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4).map(PathBuf::from))
        .filter(|p| rootfs.starts_with(p))
        .max_by_key(|p| p.components().count());
    match parent {
        Some(p) => m::mount("", &p, "", m::MS_PRIVATE, "").during(format!("make {p:?} private")),
        None => Ok(()),
    }
}
