//! The cgroup file systems as a container sees them.

use std::os::fd::AsFd;
use std::path::Path;

use knarr_cgroups::{Cgroup, Mode};
use knarr_sys::mount::{self as m, SetAttr, attr};
use knarr_sys::process::ns;

use crate::init::root::{Root, fd_path};
use crate::init::{During, Failure};
use crate::plan::{MountPlan, Plan};

/// Mounts the container's own part of every hierarchy at the target. On version 1 each
/// hierarchy gets a folder, and the hybrid's version 2 hierarchy is left out.
pub fn mount(root: &Root, mount: &MountPlan, plan: &Plan, own: &Cgroup) -> Result<(), Failure> {
    let target = root.make_dir(&mount.target).during("make target")?;
    let own_space = plan.namespaces.new & ns::CGROUP != 0;
    let attrs = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let readonly = mount.attrs() & attr::RDONLY;
    if own.mode() == Mode::V2 {
        if own_space {
            let flags = m::MS_NOSUID | m::MS_NODEV | m::MS_NOEXEC | mount.flags;
            if m::mount("cgroup", fd_path(&target), "cgroup2", flags, "").is_ok() {
                return Ok(());
            }
        }
        let source = own.path_of("").unwrap_or(Path::new("/sys/fs/cgroup"));
        let tree = m::clone_tree(knarr_sys::fs::CWD, source, true).during("open own cgroup")?;
        let change = SetAttr {
            set: attrs | readonly,
            recursive: true,
            ..SetAttr::default()
        };
        m::setattr(tree.as_fd(), change).during("set attributes")?;
        return m::attach(tree.as_fd(), target.as_fd()).during("attach");
    }
    let flags = m::MS_NOSUID | m::MS_NODEV | m::MS_NOEXEC;
    m::mount("tmpfs", fd_path(&target), "tmpfs", flags, "mode=755").during("mount tmpfs")?;
    drop(target);
    for dir in own.dirs().iter().filter(|d| !d.controllers.is_empty()) {
        let name = dir
            .controllers
            .strip_prefix("name=")
            .unwrap_or(&dir.controllers);
        let at = mount.target.join(name);
        let target = root.make_dir(&at).during(format!("make {at:?}"))?;
        if own_space {
            let options = match dir.controllers.strip_prefix("name=") {
                Some(_) => format!("none,{}", dir.controllers),
                None => dir.controllers.clone(),
            };
            let made = m::mount(
                "cgroup",
                fd_path(&target),
                "cgroup",
                flags | mount.flags,
                &options,
            );
            if made.is_ok() {
                links(root, mount, &dir.controllers)?;
                continue;
            }
        }
        let tree = m::clone_tree(knarr_sys::fs::CWD, &dir.path, false)
            .during(format!("open {:?}", dir.path))?;
        let change = SetAttr {
            set: attrs | readonly,
            ..SetAttr::default()
        };
        m::setattr(tree.as_fd(), change).during("set attributes")?;
        m::attach(tree.as_fd(), target.as_fd()).during(format!("attach {at:?}"))?;
        links(root, mount, &dir.controllers)?;
    }
    if readonly != 0 {
        let top = root.handle(&mount.target).during("open target")?;
        let change = SetAttr {
            set: readonly,
            ..SetAttr::default()
        };
        m::setattr(top.as_fd(), change).during("set read-only")?;
    }
    Ok(())
}

/// `cpu,cpuacct` is also reached as `cpu` and as `cpuacct`.
fn links(root: &Root, mount: &MountPlan, controllers: &str) -> Result<(), Failure> {
    if !controllers.contains(',') {
        return Ok(());
    }
    let top = root.handle(&mount.target).during("open target")?;
    for one in controllers.split(',') {
        knarr_sys::fs::symlinkat(controllers, top.as_fd(), one).during("link controller")?;
    }
    Ok(())
}
