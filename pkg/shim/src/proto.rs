//! What client and shim say to each other.
//!
//! One connection per request: a frame (length as four little-endian bytes, then JSON) with the
//! request, then one or more frames with replies. Descriptors travel with the first byte of the
//! reply that announces them. `Wait`, `Exec` and `Attach` keep their connection; closing it
//! forgets the wait, leaves the exec alone (unless it was asked to die with it), detaches.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::record::ExitRecord;

/// No frame is longer than this.
pub const MAX_FRAME: usize = 4 << 20;

/// What a shim is started with. Stays in the run folder for a shim that adopts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The shim's program.
    pub shim: PathBuf,
    /// The container's name for the OCI runtime.
    pub id: String,
    /// The folder with `config.json`.
    pub bundle: PathBuf,
    /// The run folder of this container; must exist and belong to it alone.
    pub dir: PathBuf,
    /// The OCI runtime's state folder (`--root`).
    pub runtime_root: PathBuf,
    /// An OCI runtime's program; None is the built-in one.
    pub runtime: Option<PathBuf>,
    /// Where the log goes, in CRI format. None drops it.
    pub log_path: Option<PathBuf>,
    /// The container has a terminal (`process.terminal` of the configuration must agree).
    pub terminal: bool,
    /// The container's stdin is open for attaching clients; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// The container's stdin ends when the first attached client's ends.
    pub stdin_once: bool,
}

/// A container that was created and waits for start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The container's init.
    pub pid: i32,
    /// The shim.
    pub shim_pid: i32,
}

/// A process to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The OCI `process` object: args, env, cwd, user, capabilities, …
    pub process: serde_json::Value,
    /// Give it a terminal of its own.
    #[serde(default)]
    pub tty: bool,
    /// Give it a stdin; otherwise `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Kill it when the caller's connection ends (the session is dropped or the daemon dies).
    #[serde(default)]
    pub kill_on_disconnect: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Made, waits for start.
    Created,
    /// Its program runs.
    Running,
    /// It has ended; the exit record is there.
    Exited,
}

/// What a shim knows of its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The container.
    pub id: String,
    /// The container's init.
    pub pid: i32,
    /// The shim.
    pub shim_pid: i32,
    /// Where the container is in its life.
    pub status: Status,
    /// When it was created, in nanoseconds since 1970.
    pub created_at: i64,
    /// When its program was started; 0 before.
    pub started_at: i64,
    /// Running exec processes.
    pub execs: usize,
    /// Attached clients.
    pub attached: usize,
    /// Log bytes that could not be written (a full disk).
    pub log_dropped: u64,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}

/// What the container's cgroup says right now. What the kernel does not offer is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When it was read, in nanoseconds since 1970.
    pub timestamp: i64,
    /// CPU time used, in nanoseconds.
    pub cpu_usage: u64,
    /// CPU periods in which the quota was used up.
    pub cpu_throttled_periods: u64,
    /// Time spent throttled, in nanoseconds.
    pub cpu_throttled: u64,
    /// All memory charged, in bytes.
    pub memory_usage: u64,
    /// Memory that cannot be given back at once: usage less inactive file pages.
    pub memory_working_set: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss: u64,
    /// The limit, in bytes; 0 is none.
    pub memory_limit: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed a disk.
    pub major_page_faults: u64,
    /// Swap used, in bytes.
    pub swap_usage: u64,
    /// Tasks.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// A request. The first frame of a connection; on `Exec` and `Attach` also later ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start the program.
    Start,
    /// Send a signal to the init, or to all processes of the container.
    Kill {
        /// The signal's number.
        signal: i32,
        /// Every process, not only the init.
        all: bool,
    },
    /// Change the cgroup's limits (OCI `linux.resources`).
    Update {
        /// The new limits.
        resources: serde_json::Value,
    },
    /// Open the log again after it was renamed.
    ReopenLog,
    /// Tell the state.
    State,
    /// Read the cgroup.
    Stats,
    /// Answer when the container has ended.
    Wait,
    /// Run a process.
    Exec(ExecSpec),
    /// Join the container's streams.
    Attach,
    /// On an exec or attach connection: the terminal's new size.
    Resize {
        /// In character cells.
        columns: u16,
        /// In character cells.
        rows: u16,
    },
    /// On an exec connection: a signal for the process.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Kill what is left, delete the container from the runtime, leave.
    Delete,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// Not done.
    Error {
        /// Why, in kind.
        kind: Refusal,
        /// Why, in words.
        message: String,
    },
    /// To launch: the container is there.
    Created(Created),
    /// To `State`.
    State(ShimState),
    /// To `Stats`.
    Stats(Stats),
    /// To `Wait`.
    Exited(ExitRecord),
    /// To `Exec` and `Attach`: the descriptors come along in this order: the terminal alone, or
    /// stdin (if any), stdout, stderr.
    Streams {
        /// The process's pid (exec).
        pid: i32,
        /// There is one descriptor, a terminal, for everything.
        terminal: bool,
        /// The first descriptor is the stdin.
        stdin: bool,
        /// The last descriptor is the stderr.
        stderr: bool,
    },
    /// To `Exec`, later: the process has ended.
    ExecExited {
        /// The exit code, or 128 + the signal's number.
        code: i32,
    },
}
