//! Sources of bind mounts, id mappings of mounts, and filling a tmpfs.

use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use knarr_sys::mount::{self as m, SetAttr, attr};
use knarr_sys::process::{self, CloneArgs, Cloned, ns};
use knarr_sys::{Errno, fs};

use crate::config::IdMapping;
use crate::init::root::{Root, fd_path};
use crate::plan::{MountSource, Plan, Step};

/// A detached copy of the mount at a path of the host.
///
/// # Errors
/// Those of `open(2)` and `open_tree(2)`.
pub fn open_source(path: &Path, recursive: bool, nofollow: bool) -> Result<OwnedFd, Errno> {
    if nofollow {
        let fd = fs::open(path, fs::O_PATH | fs::O_NOFOLLOW)?;
        return m::clone_tree(fd.as_fd(), "", recursive);
    }
    m::clone_tree(fs::CWD, path, recursive)
}

/// The sources of id-mapped binds, by the mounts' places among the steps. Made by the parent:
/// mapping takes privilege over the file system, which a new user namespace does not have.
///
/// # Errors
/// The mount's target and the error.
pub fn id_mapped_sources(
    plan: &Plan,
    bundle: &Path,
) -> Result<Vec<Option<OwnedFd>>, (std::path::PathBuf, Errno)> {
    let mounts = plan.outside.iter().filter_map(|s| match s {
        Step::Mount(m) => Some(m),
        _ => None,
    });
    let mut made = Made::new();
    mounts
        .map(|m| match (&m.source, &m.id_map) {
            (MountSource::Bind { path, recursive }, Some(map)) => {
                open_source(&bundle.join(path), *recursive, m.source_nofollow)
                    .and_then(|tree| id_map(&tree, map, plan, &mut made).map(|()| Some(tree)))
                    .map_err(|e| (m.target.clone(), e))
            }
            _ => Ok(None),
        })
        .collect()
}

/// User namespaces by their maps: most mounts of a container have the same.
type Made = std::collections::BTreeMap<(String, String), OwnedFd>;

/// Makes a detached mount map ids; with empty lists, as the container's user namespace does.
///
/// # Errors
/// `EPERM` and `EINVAL` where the file system or the caller cannot.
fn id_map(
    tree: &OwnedFd,
    map: &(Vec<IdMapping>, Vec<IdMapping>, bool),
    plan: &Plan,
    made: &mut Made,
) -> Result<(), Errno> {
    let lines = |maps: &[IdMapping]| {
        maps.iter()
            .map(|m| format!("{} {} {}\n", m.container, m.host, m.size))
            .collect::<String>()
    };
    let (uid, gid) = match (&plan.id_maps, map.0.is_empty() && map.1.is_empty()) {
        (Some(own), true) => (own.uid.clone(), own.gid.clone()),
        (None, true) => return Err(Errno::INVAL),
        (_, false) => (lines(&map.0), lines(&map.1)),
    };
    let userns = match made.entry((uid, gid)) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let (uid, gid) = new.key();
            let fd = user_namespace(uid, gid)?;
            new.insert(fd)
        }
    };
    let change = SetAttr {
        set: attr::IDMAP,
        userns: Some(userns.as_fd()),
        recursive: map.2,
        ..SetAttr::default()
    };
    m::setattr(tree.as_fd(), change)
}

/// A user namespace with these mappings that no process is in.
fn user_namespace(uid: &str, gid: &str) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = knarr_sys::socket::seqpacket_pair()?;
    let args = CloneArgs {
        namespaces: ns::USER,
        ..CloneArgs::default()
    };
    match process::clone_process(&args)? {
        Cloned::Child => {
            drop(ours);
            // Lives until the parent has taken the namespace.
            let _ = knarr_sys::socket::recv(theirs.as_fd(), &mut [0; 1]);
            process::exit_now(0)
        }
        Cloned::Parent { pid, .. } => {
            let folder = format!("/proc/{pid}");
            let write = |file: &str, text: &str| {
                fs::open(format!("{folder}/{file}"), fs::O_WRONLY)
                    .and_then(|fd| fs::write_once(fd.as_fd(), text.as_bytes()))
            };
            let done = write("uid_map", uid)
                .and_then(|()| write("gid_map", gid))
                .and_then(|()| fs::open(format!("{folder}/ns/user"), fs::O_RDONLY));
            drop(ours);
            let _ = process::wait(pid);
            done
        }
    }
}

/// Copies what lies under a new tmpfs into it. Both are folders that are open for reading.
///
/// # Errors
/// Those of reading and writing.
pub fn copy_up(from: &OwnedFd, to: &OwnedFd) -> std::io::Result<()> {
    let target = Root(to.try_clone()?);
    for entry in std::fs::read_dir(fd_path(from))? {
        let entry = entry?;
        let name = entry.file_name();
        let st = fs::fstatat(from.as_fd(), &name)?;
        let mode = st.mode & 0o7777;
        match st.mode & 0o170_000 {
            0o040_000 => {
                fs::mkdirat(to.as_fd(), &name, mode)?;
                let flags = fs::O_RDONLY | fs::O_DIRECTORY | fs::O_NOFOLLOW;
                let below = fs::openat(from.as_fd(), &name, flags, 0)?;
                let copy = fs::openat(to.as_fd(), &name, flags, 0)?;
                copy_up(&below, &copy)?;
                fs::fchmod(copy.as_fd(), mode)?;
            }
            0o100_000 => {
                let flags = fs::O_RDONLY | fs::O_NOFOLLOW;
                let source = fs::openat(from.as_fd(), &name, flags, 0)?;
                let flags = fs::O_WRONLY | fs::O_CREAT | fs::O_EXCL | fs::O_NOFOLLOW;
                let copy = fs::openat(to.as_fd(), &name, flags, mode)?;
                std::io::copy(
                    &mut std::fs::File::from(source),
                    &mut std::fs::File::from(copy.try_clone()?),
                )?;
                fs::fchmod(copy.as_fd(), mode)?;
            }
            0o120_000 => {
                let link = fs::readlinkat(from.as_fd(), &name)?;
                fs::symlinkat(link, to.as_fd(), &name)?;
            }
            kind => {
                let (major, minor) = st.rdev_numbers();
                fs::mknodat(to.as_fd(), &name, kind, mode, major, minor)?;
            }
        }
        fs::chownat(target.0.as_fd(), &name, st.uid, st.gid)?;
    }
    let st = fs::fstat(from.as_fd())?;
    fs::chownat(to.as_fd(), "", st.uid, st.gid)?;
    Ok(())
}
