//! How a shim comes to be: detached from its starter, with a new container or somebody's.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use knarr_sys::supervise::{
    Fork, become_subreaper, fork_single_threaded, pidfd_get_fd, pidfd_open, start_session,
};
use serde::{Deserialize, Serialize};

use super::cgroup::{Cgroup, leave_starters_cgroups};
use super::log::now;
use super::runtime::{Io, Oci, Process};
use super::streams::Streams;
use super::supervisor::{Init, Supervisor};
use super::{LAUNCH_FILE, SOCKET_FILE, note, socket_address};
use crate::error::{Error, Refusal};
use crate::proto::{Created, Launch, Reply};
use crate::record::{self, ExitRecord};

/// Where shims live that were started from within a cgroup.
const OWN_CGROUP: &str = "/knarr/shims";
const STATE_FILE: &str = "state.json";
const LOCK_FILE: &str = "shim.lock";
/// The exit code of a container whose end nobody saw.
const UNKNOWN_EXIT: i32 = 255;

/// What a shim that adopts needs to know. Replaced whenever it changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) pid: i32,
    /// The init's start time in clock ticks since boot, which tells it from a later process
    /// with the same pid.
    pub(super) pid_started: u64,
    pub(super) created_at: i64,
    pub(super) started_at: i64,
    pub(super) cgroup: Cgroup,
    pub(super) keeper: Option<SavedKeeper>,
}

/// The process that holds the terminal or the stdin.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct SavedKeeper {
    pub(super) pid: i32,
    pub(super) pid_started: u64,
    pub(super) fd: i32,
}

impl Saved {
    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        record::write_json(&dir.join(STATE_FILE), self, false)
    }
}

/// Detaches, creates the container that `shim.json` in `dir` describes, reports on stdout, and
/// serves until the container has ended. Answers the program's exit code.
pub fn run(dir: &Path) -> u8 {
    main(dir, create)
}

/// Detaches and takes over the container of a shim that was killed.
pub fn adopt(dir: &Path) -> u8 {
    main(dir, take_over)
}

/// What a way to begin makes of it: the report, and what to go on with.
type Begun = Result<(Reply, Option<Supervisor>), Error>;

fn main(dir: &Path, begin: fn(&Path, Launch) -> Begun) -> u8 {
    // The daemon starts it by a descriptor's number.
    let _ = knarr_sys::process::set_name(c"knarr-shim");
    match fork_single_threaded() {
        Ok(Fork::Parent(_)) => return 0,
        Ok(Fork::Child) => {}
        Err(e) => {
            note(&format!("fork: {e}"));
            return 1;
        }
    }
    // Held until the end, so that there is one shim for a folder.
    let lock = match begin_detached(dir) {
        Ok(Some(lock)) => lock,
        // Another is at it; whoever started us finds that one.
        Ok(None) => {
            report(&Reply::Done);
            return 0;
        }
        Err(e) => return fail(&e),
    };
    let path = dir.join(LAUNCH_FILE);
    let launch = match record::read_json(&path, "launch record") {
        Ok(Some(launch)) => launch,
        Ok(None) => {
            return fail(&Error::Gone {
                dir: dir.to_path_buf(),
            });
        }
        Err(e) => return fail(&e),
    };
    let code = match begin(dir, launch) {
        Ok((reply, supervisor)) => {
            report(&reply);
            supervisor.map_or(0, |supervisor| {
                leave_starters_cgroups(OWN_CGROUP);
                supervisor.run()
            })
        }
        Err(e) => fail(&e),
    };
    drop(lock);
    code
}

fn fail(error: &Error) -> u8 {
    note(&error.to_string());
    report(&Reply::Error {
        kind: error.refusal(),
        message: error.to_string(),
    });
    1
}

/// Says the one thing the starter waits for, and lets go of its pipe.
fn report(reply: &Reply) {
    let Ok(bytes) = serde_json::to_vec(reply) else {
        return;
    };
    let mut out = std::io::stdout();
    // A starter that died meanwhile does not matter.
    let _ = out.write_all(&bytes).and_then(|()| out.flush());
    if let Err(e) = knarr_sys::supervise::close_stdout() {
        note(&format!("close stdout: {e}"));
    }
}

fn begin_detached(dir: &Path) -> Result<Option<File>, Error> {
    start_session().map_err(Error::system("start a session"))?;
    become_subreaper().map_err(Error::system("become a subreaper"))?;
    let path = dir.join(LOCK_FILE);
    let lock = File::create(&path).map_err(Error::io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(e)) => Err(Error::io("lock", &path)(e)),
    }
}

fn listen(dir: &Path) -> Result<UnixListener, Error> {
    let path = dir.join(SOCKET_FILE);
    let _ = fs::remove_file(&path);
    let bind = || {
        let (address, _folder) = socket_address(&path)?;
        let listener = UnixListener::bind(address)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(Error::io("listen on", &path))
}

fn create(dir: &Path, launch: Launch) -> Begun {
    if record::read_exit(dir)?.is_some() {
        return Err(Error::refused(
            Refusal::State,
            "this run folder has had its container",
        ));
    }
    let mut streams = Streams::new(&launch)?;
    let io = if launch.terminal {
        Io::Terminal
    } else {
        Io::Streams(streams.make_fifos(dir, launch.stdin)?)
    };
    let mut oci = Oci::new(&launch);
    let made = oci
        .create(&launch.bundle, io)
        .and_then(|process| finish_create(dir, &launch, streams, process));
    let (listener, streams, init, saved) = match made {
        Ok(parts) => parts,
        Err(e) => {
            // What it may have left behind; the first error is the one to tell.
            if let Err(e) = oci.delete() {
                note(&format!("delete after a failed create: {e}"));
            }
            return Err(e);
        }
    };
    let created = Created {
        pid: init.pid,
        shim_pid: own_pid(),
    };
    let supervisor = Supervisor::new(launch, oci, streams, listener, init, saved)?;
    Ok((Reply::Created(created), Some(supervisor)))
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

fn finish_create(
    dir: &Path,
    launch: &Launch,
    mut streams: Streams,
    process: Process,
) -> Result<(UnixListener, Streams, Init, Saved), Error> {
    let Process {
        pid,
        pidfd,
        terminal,
    } = process;
    let pidfd = pidfd.ok_or(Error::Protocol("the container ended while it was made"))?;
    if launch.terminal {
        let master = terminal.ok_or(Error::Protocol("the runtime sent no terminal"))?;
        streams.use_terminal(master)?;
    }
    let saved = Saved {
        pid,
        pid_started: process_start(pid).unwrap_or(0),
        created_at: now(),
        started_at: 0,
        cgroup: Cgroup::of(pid),
        keeper: None,
    };
    // Without it an adopting shim would know nothing.
    saved.write(dir)?;
    Ok((
        listen(dir)?,
        streams,
        Init {
            pid,
            pidfd,
            child: true,
        },
        saved,
    ))
}

fn take_over(dir: &Path, launch: Launch) -> Begun {
    let mut oci = Oci::new(&launch);
    let saved: Option<Saved> = record::read_json(&dir.join(STATE_FILE), "shim state")?;
    let init = saved.as_ref().and_then(|s| open_same(s.pid, s.pid_started));
    let over = record::read_exit(dir)?.is_some();
    let (Some(saved), Some(pidfd), false) = (saved.as_ref(), init, over) else {
        return clean_up(dir, &launch, saved.as_ref(), &mut oci, over);
    };
    let mut streams = Streams::new(&launch)?;
    let kept = saved.keeper.and_then(kept_fd);
    match (launch.terminal, kept) {
        (true, Some(master)) => streams.use_terminal(master)?,
        (true, None) => note("the terminal was lost with its keeper"),
        (false, kept) => {
            streams.adopt_fifos(dir)?;
            if let Some(stdin) = kept {
                streams.use_input(stdin);
            }
        }
    }
    let init = Init {
        pid: saved.pid,
        pidfd,
        child: false,
    };
    let created = Created {
        pid: saved.pid,
        shim_pid: own_pid(),
    };
    let listener = listen(dir)?;
    let supervisor = Supervisor::new(launch, oci, streams, listener, init, saved.clone())?;
    note("adopted the container");
    Ok((Reply::Created(created), Some(supervisor)))
}

/// The container is gone (or was never whole): writes what is known of its end and removes the
/// rest.
fn clean_up(
    dir: &Path,
    launch: &Launch,
    saved: Option<&Saved>,
    oci: &mut Oci,
    over: bool,
) -> Begun {
    if !over {
        let record = ExitRecord {
            id: launch.id.clone(),
            exit_code: UNKNOWN_EXIT,
            signal: None,
            oom_killed: saved.is_some_and(|s| s.cgroup.oom_kills() > 0),
            started_at: saved.map_or(0, |s| s.started_at),
            finished_at: now(),
            lost: true,
        };
        record::write_exit(dir, &record)?;
    }
    if let Some(saved) = saved {
        saved.cgroup.signal_all(libc::SIGKILL);
    }
    oci.delete()?;
    remove_socket(dir)?;
    Ok((Reply::Done, None))
}

/// The sign of a good end.
pub(super) fn remove_socket(dir: &Path) -> Result<(), Error> {
    let path = dir.join(SOCKET_FILE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

fn kept_fd(keeper: SavedKeeper) -> Option<OwnedFd> {
    let pidfd = open_same(keeper.pid, keeper.pid_started)?;
    pidfd_get_fd(std::os::fd::AsFd::as_fd(&pidfd), keeper.fd).ok()
}

/// Opens a process if it still is the one that was meant and has not ended.
fn open_same(pid: i32, started: u64) -> Option<OwnedFd> {
    let pidfd = pidfd_open(pid).ok()?;
    (process_start(pid)? == started).then_some(pidfd)
}

/// A process's start time in clock ticks since boot.
pub(super) fn process_start(pid: i32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// A field of `/proc/PID/stat`, numbered from 1 as the manual does; the third or later.
pub(super) fn stat_field(pid: i32, number: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split_ascii_whitespace()
        .nth(number.checked_sub(3)?)
        .map(str::to_owned)
}
