//! Checkpoint and restore, which CRIU does: this tells it what of the container lies outside.
//!
//! A dump writes CRIU's images and `descriptors.json`, what the standard streams led to when the
//! container was made, so that a restore can put others in the place of pipes.

mod criu;
mod fifos;
mod mounts;
mod restore;
mod rpc;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use knarr_cgroups::Mode;
use knarr_sys::fs as sysfs;
use knarr_sys::process::ns;

pub(crate) use mounts::unbind_left;
pub use restore::RestoreRequest;
pub use rpc::CgroupMode;

use crate::api::{Runtime, Status};
use crate::error::Error;
use crate::plan::{self, Options, Plan};
use crate::state::{self, Record};
use criu::Criu;
use rpc::{Features, Opts, PageServer, Request, kind};

/// What a dump and a restore have in common.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// The CRIU program; unset: `criu` of `$PATH`.
    pub program: Option<PathBuf>,
    /// The folder of CRIU's images.
    pub images: PathBuf,
    /// The folder of CRIU's logs; unset: that of the images.
    pub work: Option<PathBuf>,
    /// Dump and restore TCP connections.
    pub tcp_established: bool,
    /// Unix sockets may lead outside of the container.
    pub ext_unix_sk: bool,
    /// The session or the terminal may be from outside.
    pub shell_job: bool,
    /// Dump and restore locks of files.
    pub file_locks: bool,
    /// What happens to the container's cgroups; unset: CRIU's own choice.
    pub cgroups: Option<CgroupMode>,
    /// Drop memory from the parent image that this one holds.
    pub auto_dedup: bool,
    /// Let memory come when it is touched.
    pub lazy_pages: bool,
}

/// What a dump needs besides.
#[derive(Debug, Default)]
pub struct CheckpointOptions {
    /// The part that a restore has, too.
    pub criu: CriuOptions,
    /// The images of the dump before, relative to the image folder.
    pub parent: Option<PathBuf>,
    /// Do not end the container.
    pub leave_running: bool,
    /// Write memory only; the container goes on.
    pub pre_dump: bool,
    /// Leave out connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Link back files that were unlinked.
    pub link_remap: bool,
    /// Host and port of a page server that takes the memory.
    pub page_server: Option<(String, u16)>,
    /// Where a zero byte tells that lazy pages are ready.
    pub status_fd: Option<OwnedFd>,
}

/// The file beside CRIU's images that says where the standard streams led.
const DESCRIPTORS: &str = "descriptors.json";
/// CRIU's options for containers, unless an annotation names others.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";
/// The annotation that names them; empty for none.
const CONFIG_ANNOTATION: &str = "org.criu.config";

impl Runtime {
    /// Writes a running container's state to a folder. The container has ended afterwards unless
    /// it is to go on; it is not deleted.
    ///
    /// # Errors
    /// [`Error::State`] unless it runs or is paused; [`Error::Criu`].
    pub fn checkpoint(&self, id: &str, options: CheckpointOptions) -> Result<(), Error> {
        const LOG: &str = "dump.log";
        let record = self.load(id)?;
        match self.status(&record) {
            Status::Running | Status::Paused => {}
            status => {
                return Err(Error::State {
                    action: "checkpoint",
                    status,
                });
            }
        }
        let criu = Criu::find(options.criu.program.as_deref())?;
        let plan = recorded_plan(&record)?;
        let folders = Folders::open(&options.criu)?;
        let mut opts = folders.opts(&options.criu, &record, LOG);
        opts.root = Some(plan.rootfs.to_string_lossy().into_owned());
        opts.pid = Some(record.pid);
        opts.leave_running = Some(options.leave_running);
        opts.tcp_skip_in_flight = Some(options.tcp_skip_in_flight);
        opts.link_remap = Some(options.link_remap);
        for (kind, name) in [(ns::NET, "net"), (ns::PID, "pid")] {
            let Some(path) = joined(&plan, kind) else {
                continue;
            };
            criu.needs(needed_for(kind), "a joined namespace")?;
            let inode = fs::metadata(path).map_err(|e| Error::os(format!("stat {path:?}"), e))?;
            opts.external
                .push(format!("{name}[{}]:{}", inode.ino(), root_key(kind)));
        }
        if record.cgroup.mode() != Mode::V2 || criu.is(3_14_00) {
            opts.freeze_cgroup = freezer(&record).map(|p| p.to_string_lossy().into_owned());
        }
        if let Some((address, port)) = &options.page_server {
            opts.ps = Some(PageServer {
                address: Some(address.clone()),
                port: Some(i32::from(*port)),
            });
        }
        if let Some(parent) = &options.parent {
            opts.parent_img = Some(parent.to_string_lossy().into_owned());
            opts.track_mem = Some(true);
        }
        criu.check_features_of(options.pre_dump, options.criu.lazy_pages)?;
        if options.criu.lazy_pages && !criu.is(3_15_00) {
            opts.status_fd = options.status_fd.as_ref().map(AsRawFd::as_raw_fd);
        }
        if !options.pre_dump {
            opts.ext_mnt = mounts::for_dump(&plan, &record.bundle, &record.cgroup, record.pid);
            let descriptors = fifos::name_outside(&record);
            let outside = descriptors.iter().filter(|d| fifos::is_outside(d));
            opts.external.extend(outside.cloned());
            let text = serde_json::to_vec(&descriptors)
                .map_err(|e| Error::os("write descriptors", std::io::Error::other(e)))?;
            state::write_whole(&options.criu.images.join(DESCRIPTORS), &text)?;
        }
        let mut session = criu.start(Stdio::null(), &[])?;
        let request = Request {
            kind: if options.pre_dump {
                kind::PRE_DUMP
            } else {
                kind::DUMP
            },
            opts: Some(opts),
            ..Request::default()
        };
        let answer = session.ask(&request, |said, _| {
            if said.notify.as_ref().and_then(|n| n.script.as_deref()) == Some("status-ready")
                && let Some(fd) = &options.status_fd
            {
                sysfs::write_once(fd.as_fd(), &[0])
                    .map_err(|e| Error::os("write to the status descriptor", e))?;
            }
            Ok(())
        });
        let ended_well = session.end();
        answer.map_err(|e| folders.explain("dump", LOG, e))?;
        // After a dump before the dump it waits for the next, and we do not come.
        if !ended_well && !options.pre_dump {
            return Err(folders.explain("dump", LOG, Error::Criu("it did not end well".into())));
        }
        Ok(())
    }
}

impl Criu {
    fn check_features_of(&self, pre_dump: bool, lazy_pages: bool) -> Result<(), Error> {
        if !pre_dump && !lazy_pages {
            return Ok(());
        }
        self.check_features(&Features {
            mem_track: pre_dump.then_some(true),
            lazy_pages: lazy_pages.then_some(true),
        })
    }
}

/// The plan a container was made by.
fn recorded_plan(record: &Record) -> Result<Plan, Error> {
    let process = record.config.process.as_ref();
    let options = Options {
        id: &record.id,
        bundle: &record.bundle,
        systemd_cgroup: record.unit.is_some(),
        terminal: process.is_some_and(|p| p.terminal),
    };
    let mut plan = plan::build(&record.config, options)?;
    plan.rootfs.clone_from(&record.rootfs);
    Ok(plan)
}

/// The path of a namespace that is joined.
fn joined(plan: &Plan, kind: u64) -> Option<&Path> {
    let found = plan.namespaces.join.iter().find(|(k, _)| *k == kind);
    found.map(|(_, path)| path.as_path())
}

/// What a namespace of the container that is not its own is called between dump and restore.
fn root_key(kind: u64) -> &'static str {
    if kind == ns::NET {
        "extRootNetNS"
    } else {
        "extRootPidNS"
    }
}

/// The version that knows such namespaces from outside.
fn needed_for(kind: u64) -> i32 {
    if kind == ns::NET { 3_11_00 } else { 3_15_00 }
}

/// The folder in which writing freezes the container.
fn freezer(record: &Record) -> Option<&Path> {
    match record.cgroup.mode() {
        Mode::V2 => record.cgroup.path_of(""),
        _ => record.cgroup.path_of("freezer"),
    }
}

/// The folders that CRIU works in, open.
struct Folders {
    images: OwnedFd,
    work: Option<OwnedFd>,
    logs: PathBuf,
}

impl Folders {
    /// Opens them; makes them where they are missing.
    fn open(options: &CriuOptions) -> Result<Self, Error> {
        Ok(Self {
            images: folder(&options.images)?,
            work: options.work.as_deref().map(folder).transpose()?,
            logs: options
                .work
                .clone()
                .unwrap_or_else(|| options.images.clone()),
        })
    }

    /// The options that every request has.
    fn opts(&self, options: &CriuOptions, record: &Record, log: &str) -> Opts {
        let config = match record.config.annotations.get(CONFIG_ANNOTATION) {
            None => Some(CONFIG_FILE.into()),
            Some(none) if none.is_empty() => None,
            Some(file) => Some(file.clone()),
        };
        Opts {
            images_dir_fd: self.images.as_raw_fd(),
            work_dir_fd: self.work.as_ref().map(AsRawFd::as_raw_fd),
            log_level: Some(4),
            log_file: Some(log.into()),
            notify_scripts: Some(true),
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(options.cgroups.unwrap_or(CgroupMode::Default) as i32),
            shell_job: Some(options.shell_job),
            tcp_established: Some(options.tcp_established),
            ext_unix_sk: Some(options.ext_unix_sk),
            file_locks: Some(options.file_locks),
            orphan_pts_master: Some(true),
            auto_dedup: Some(options.auto_dedup),
            lazy_pages: Some(options.lazy_pages),
            // What is in a network namespace is its maker's.
            empty_ns: Some(ns::NET as u32),
            config_file: config,
            ..Opts::default()
        }
    }

    /// Says what CRIU's log tells of its failure.
    fn explain(&self, action: &str, log: &str, error: Error) -> Error {
        let Error::Criu(cause) = error else {
            return error;
        };
        let log = self.logs.join(log);
        let said = criu::errors_of(&log).map_or(String::new(), |l| format!(": {l}"));
        Error::Criu(format!("{action} failed: {cause}, see {log:?}{said}"))
    }
}

fn folder(path: &Path) -> Result<OwnedFd, Error> {
    let made = fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path);
    made.map_err(|e| Error::os(format!("make {path:?}"), e))?;
    sysfs::open(path, sysfs::O_RDONLY | sysfs::O_DIRECTORY)
        .map_err(|e| Error::os(format!("open {path:?}"), e))
}
