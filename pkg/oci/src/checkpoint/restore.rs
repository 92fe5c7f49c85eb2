//! A container from its images.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;

use knarr_sys::process::{self, ns};
use knarr_sys::{fs as sysfs, net};

use crate::api::{CreateRequest, Created, Runtime, Status};
use crate::checkpoint::criu::Criu;
use crate::checkpoint::fifos;
use crate::checkpoint::mounts::{self, BoundRoot};
use crate::checkpoint::rpc::{CgroupRoot, InheritFd, JoinNamespace, Opts, Request, kind};
use crate::checkpoint::{CriuOptions, DESCRIPTORS, Folders, joined, needed_for, root_key};
use crate::create::{Begun, enter_cgroup};
use crate::error::Error;
use crate::hooks;
use crate::plan::{Plan, Step};
use crate::state::{self, Record};

/// What [`Runtime::restore`] needs.
#[derive(Debug, Default)]
pub struct RestoreRequest {
    /// The container, as for [`Runtime::create`]. Its streams are those of the caller.
    pub container: CreateRequest,
    /// Where the images are, and how they were made.
    pub criu: CriuOptions,
    /// The label of the processes, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// The label of the mounts.
    pub lsm_mount_context: Option<String>,
}

impl Runtime {
    /// Makes a container from the images of a dump. It runs afterwards, or is paused as it was
    /// then; its init is a direct child of the calling process.
    ///
    /// # Errors
    /// As for [`Runtime::create`]; [`Error::Criu`].
    pub fn restore(&self, mut req: RestoreRequest) -> Result<Created, Error> {
        let criu = Criu::find(req.criu.program.as_deref())?;
        if req.lsm_profile.is_some() || req.lsm_mount_context.is_some() {
            criu.needs(3_16_00, "another label")?;
        }
        let streams = streams(&req.criu.images)?;
        let begun = self.begin(&mut req.container)?;
        let created = self.make_again(&criu, &req, streams, begun);
        created.map(|(created, begun)| {
            begun.rollback.disarm();
            created
        })
    }

    fn make_again(
        &self,
        criu: &Criu,
        req: &RestoreRequest,
        streams: Vec<InheritFd>,
        mut begun: Begun,
    ) -> Result<(Created, Begun), Error> {
        const LOG: &str = "restore.log";
        let folders = Folders::open(&req.criu)?;
        let Begun {
            plan,
            record,
            cgroup,
            folder,
            rollback,
        } = &mut begun;
        let root = BoundRoot::new(plan, &record.bundle, folder)?;
        let mut opts = folders.opts(&req.criu, record, LOG);
        opts.root = Some(root.path().to_string_lossy().into_owned());
        opts.evasive_devices = Some(true);
        opts.rst_sibling = Some(true);
        opts.lsm_profile.clone_from(&req.lsm_profile);
        opts.lsm_mount_context.clone_from(&req.lsm_mount_context);
        opts.inherit_fd = streams;
        let spaces = namespaces(criu, plan, &mut opts)?;
        opts.ext_mnt = mounts::for_restore(plan, &record.bundle, cgroup);
        let mut session = criu.start(Stdio::inherit(), &spaces)?;
        enter_cgroup(plan, session.pid(), cgroup, rollback)?;
        opts.cg_root = cgroup_roots(session.pid())?;
        let request = Request {
            kind: kind::RESTORE,
            opts: Some(opts),
            ..Request::default()
        };
        let mut console = None;
        let mut pid = 0;
        let answer = session.ask(&request, |said, fds| {
            let notify = said.notify.clone().unwrap_or_default();
            pid = notify.pid.filter(|p| *p > 0).unwrap_or(pid);
            match notify.script.as_deref().unwrap_or_default() {
                "setup-namespaces" => set_up(plan, record, pid),
                "orphan-pts-master" => {
                    console = fds.into_iter().next();
                    Ok(())
                }
                _ => Ok(()),
            }
        });
        let ended_well = session.end();
        let answer = answer.map_err(|e| folders.explain("restore", LOG, e))?;
        let pid = answer.restore.map_or(pid, |r| r.pid);
        rollback.pids.push(pid);
        if !ended_well {
            let cause = Error::Criu("it did not end well".into());
            return Err(folders.explain("restore", LOG, cause));
        }
        let pidfd = process::pidfd_open(pid).map_err(|e| Error::os("open pidfd", e))?;
        record.pid = pid;
        record.start_ticks = state::proc_stat(pid).map_or(0, |s| s.start_ticks);
        // Clocks go on from where they were, in a namespace of their own.
        if differs(pid, "time_for_children") {
            record.namespaces |= ns::TIME;
        }
        self.save(record)?;
        if let Some(file) = &req.container.pid_file {
            rollback.pid_file = Some(file.clone());
            state::write_pid(file, pid)?;
        }
        drop(root);
        let created = Created {
            pid,
            pidfd,
            console,
        };
        Ok((created, begun))
    }
}

/// What pipes the standard streams led to are now those of the caller.
fn streams(images: &std::path::Path) -> Result<Vec<InheritFd>, Error> {
    let path = images.join(DESCRIPTORS);
    let text = fs::read(&path).map_err(|e| Error::os(format!("read {path:?}"), e))?;
    let names: Vec<String> = serde_json::from_slice(&text).map_err(|e| Error::BadState {
        path,
        cause: e.to_string(),
    })?;
    let numbered = (0..).zip(names.into_iter().take(3));
    Ok(numbered
        .filter(|(_, name)| name.contains("pipe:") || fifos::is_outside(name))
        .map(|(fd, key)| InheritFd { key, fd })
        .collect())
}

/// Namespaces that are there already. The returned descriptors are CRIU's to inherit.
fn namespaces(criu: &Criu, plan: &Plan, opts: &mut Opts) -> Result<Vec<OwnedFd>, Error> {
    let mut open = Vec::new();
    for kind in [ns::NET, ns::PID] {
        let Some(path) = joined(plan, kind) else {
            continue;
        };
        criu.needs(needed_for(kind), "a joined namespace")?;
        let os = |e| Error::os(format!("open namespace {path:?}"), e);
        let fd = sysfs::open(path, sysfs::O_RDONLY).map_err(os)?;
        // Above the streams, which CRIU has under their own numbers.
        let fd = sysfs::dup_at_least(fd.as_fd(), 10).map_err(os)?;
        opts.inherit_fd.push(InheritFd {
            key: root_key(kind).into(),
            fd: fd.as_raw_fd(),
        });
        open.push(fd);
    }
    for (kind, path) in &plan.namespaces.join {
        let name = match *kind {
            ns::NET | ns::PID => continue,
            ns::IPC => "ipc",
            ns::UTS => "uts",
            ns::USER => "user",
            ns::MOUNT => "mnt",
            ns::TIME => "time",
            _ => {
                return Err(Error::Unsupported(
                    "restoring into a cgroup namespace that is joined".into(),
                ));
            }
        };
        opts.join_ns.push(JoinNamespace {
            ns: name.into(),
            ns_file: path.to_string_lossy().into_owned(),
        });
    }
    Ok(open)
}

/// Where the container's cgroups lie now.
fn cgroup_roots(pid: i32) -> Result<Vec<CgroupRoot>, Error> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file).map_err(|e| Error::os(format!("read {file}"), e))?;
    let mut all = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            all.extend(controllers.split(',').map(|c| CgroupRoot {
                ctrl: Some(c.into()),
                path: path.into(),
            }));
        }
    }
    Ok(all)
}

/// What is made for a new container's namespaces, once they are there.
fn set_up(plan: &Plan, record: &Record, pid: i32) -> Result<(), Error> {
    if plan.outside.contains(&Step::Loopback) {
        loopback(pid).map_err(|e| Error::os("bring up loopback", e))?;
    }
    let state = hooks::HookState {
        pid,
        ..record.hook_state(Status::Creating)
    };
    hooks::run_all("prestart", &plan.hooks.prestart, &state)?;
    hooks::run_all("createRuntime", &plan.hooks.create_runtime, &state)
}

fn loopback(pid: i32) -> Result<(), knarr_sys::Errno> {
    let own = sysfs::open("/proc/self/ns/net", sysfs::O_RDONLY)?;
    let theirs = sysfs::open(format!("/proc/{pid}/ns/net"), sysfs::O_RDONLY)?;
    process::setns(theirs.as_fd(), ns::NET)?;
    let done = net::loopback_up();
    process::setns(own.as_fd(), ns::NET)?;
    done
}

/// Whether a process is in another namespace than we are.
fn differs(pid: i32, name: &str) -> bool {
    let inode =
        |who: &str| fs::metadata(PathBuf::from(format!("/proc/{who}/ns/{name}"))).map(|m| m.ino());
    match (inode("self"), inode(&pid.to_string())) {
        (Ok(own), Ok(theirs)) => own != theirs,
        _ => false,
    }
}
