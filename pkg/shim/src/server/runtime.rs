//! The OCI runtime: the built-in one as a library, or any by its command line.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use knarr_sys::supervise::{ExitStatus, pidfd_open, recv_with_fds, wait_for, with_default_signals};

use crate::error::{Error, Refusal};
use crate::proto::Launch;

/// The standard streams of a process. What is None is `/dev/null`.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// A process that a runtime has made.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// None when it is gone already.
    pub(super) pidfd: Option<OwnedFd>,
    /// The terminal's master, when one was asked for.
    pub(super) terminal: Option<OwnedFd>,
}

/// How a process's streams are to be.
#[derive(Debug)]
pub(super) enum Io {
    Streams(Streams),
    Terminal,
}

/// A runtime's program that was started and will end some time.
#[derive(Debug)]
pub(super) struct Pending {
    /// The program itself.
    pub(super) child: i32,
    console: Option<Console>,
    pid_file: PathBuf,
    process_file: PathBuf,
    log: PathBuf,
}

/// What came of asking for a process.
#[derive(Debug)]
pub(super) enum Begun {
    Now(Process),
    Later(Pending),
}

#[derive(Debug)]
pub(super) enum Oci {
    BuiltIn {
        runtime: knarr_oci::Runtime,
        id: String,
    },
    Program {
        program: PathBuf,
        root: PathBuf,
        id: String,
        dir: PathBuf,
        counter: u64,
    },
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::refused(Refusal::Runtime, e.to_string())
}

/// Runs library code that may start processes, which inherit the caller's signal state.
fn clean<T>(f: impl FnOnce() -> Result<T, knarr_oci::Error>) -> Result<T, Error> {
    with_default_signals(f)
        .map_err(Error::system("set the signal mask"))?
        .map_err(|e| failed(&e))
}

fn stdio(io: Io) -> knarr_oci::Stdio {
    match io {
        Io::Terminal => knarr_oci::Stdio::Terminal,
        Io::Streams(Streams {
            stdin,
            stdout,
            stderr,
        }) => knarr_oci::Stdio::Fds {
            stdin,
            stdout,
            stderr,
        },
    }
}

impl Oci {
    pub(super) fn new(launch: &Launch) -> Oci {
        match &launch.runtime {
            None => Oci::BuiltIn {
                runtime: knarr_oci::Runtime::new(&launch.runtime_root),
                id: launch.id.clone(),
            },
            Some(program) => Oci::Program {
                program: program.clone(),
                root: launch.runtime_root.clone(),
                id: launch.id.clone(),
                dir: launch.dir.clone(),
                counter: 0,
            },
        }
    }

    /// Creates the container. Waits until it is there.
    pub(super) fn create(&mut self, bundle: &Path, io: Io) -> Result<Process, Error> {
        match self {
            Oci::BuiltIn { runtime, id } => {
                let request = knarr_oci::CreateRequest {
                    id: id.clone(),
                    bundle: bundle.to_path_buf(),
                    stdio: stdio(io),
                    ..knarr_oci::CreateRequest::default()
                };
                let made = clean(|| runtime.create(request))?;
                Ok(Process {
                    pid: made.pid,
                    pidfd: Some(made.pidfd),
                    terminal: made.console,
                })
            }
            Oci::Program { id, .. } => {
                let id = id.clone();
                let words = [
                    OsStr::new("create"),
                    OsStr::new("--bundle"),
                    bundle.as_os_str(),
                ];
                let pending = self.begin(&words, OsStr::new(&id), None, io)?;
                let status = wait(pending.child)?;
                pending.finish(status)
            }
        }
    }

    /// Starts the container's program.
    pub(super) fn start(&mut self) -> Result<(), Error> {
        match self {
            Oci::BuiltIn { runtime, id } => clean(|| runtime.start(id)),
            Oci::Program { id, .. } => {
                let id = id.clone();
                self.call(&["start".as_ref(), id.as_ref()])
            }
        }
    }

    /// Runs a process in the container.
    pub(super) fn exec(&mut self, process: serde_json::Value, io: Io) -> Result<Begun, Error> {
        match self {
            Oci::BuiltIn { runtime, id } => {
                let process = serde_json::from_value(process).map_err(|source| Error::Json {
                    what: "process",
                    source,
                })?;
                let options = knarr_oci::ExecOptions {
                    stdio: stdio(io),
                    ..knarr_oci::ExecOptions::default()
                };
                let made = clean(|| runtime.exec(id, process, options))?;
                Ok(Begun::Now(Process {
                    pid: made.pid,
                    pidfd: Some(made.pidfd),
                    terminal: made.console,
                }))
            }
            Oci::Program { id, .. } => {
                let id = id.clone();
                let words = [OsStr::new("exec"), OsStr::new("--detach")];
                self.begin(&words, OsStr::new(&id), Some(process), io)
                    .map(Begun::Later)
            }
        }
    }

    /// Changes limits.
    pub(super) fn update(&mut self, resources: serde_json::Value) -> Result<(), Error> {
        match self {
            Oci::BuiltIn { runtime, id } => {
                let resources =
                    serde_json::from_value(resources).map_err(|source| Error::Json {
                        what: "resources",
                        source,
                    })?;
                clean(|| runtime.update(id, &resources))
            }
            Oci::Program { id, dir, .. } => {
                let (id, file) = (id.clone(), dir.join("resources.json"));
                crate::record::write_json(&file, &resources, false)?;
                let words: [&OsStr; 4] = [
                    "update".as_ref(),
                    "--resources".as_ref(),
                    file.as_os_str(),
                    id.as_ref(),
                ];
                let result = self.call(&words);
                let _ = fs::remove_file(&file);
                result
            }
        }
    }

    /// Deletes what the runtime holds of the container. Fine when there is nothing.
    pub(super) fn delete(&mut self) -> Result<(), Error> {
        match self {
            Oci::BuiltIn { runtime, id } => clean(|| runtime.delete(id, true)),
            Oci::Program { id, .. } => {
                let id = id.clone();
                self.call(&["delete".as_ref(), "--force".as_ref(), id.as_ref()])
            }
        }
    }

    /// A command line of the runtime's program with its own error log.
    fn command(&mut self) -> Result<(Command, PathBuf), Error> {
        let Oci::Program {
            program,
            root,
            dir,
            counter,
            ..
        } = self
        else {
            return Err(Error::Protocol("no runtime program"));
        };
        *counter += 1;
        let log = dir.join(format!("runtime-{counter}.log"));
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(root)
            .arg("--log")
            .arg(&log)
            .arg("--log-format")
            .arg("json");
        command.current_dir("/");
        Ok((command, log))
    }

    /// Runs the program to its end, with nothing on its streams.
    fn call(&mut self, words: &[&OsStr]) -> Result<(), Error> {
        let (mut command, log) = self.command()?;
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = spawn(&mut command)?;
        let status = wait(child)?;
        outcome(status, &log)
    }

    /// Starts the program for a process whose pid it will write to a file.
    fn begin(
        &mut self,
        words: &[&OsStr],
        id: &OsStr,
        process: Option<serde_json::Value>,
        io: Io,
    ) -> Result<Pending, Error> {
        let (mut command, log) = self.command()?;
        let pid_file = log.with_extension("pid");
        let process_file = log.with_extension("process");
        command.args(words).arg("--pid-file").arg(&pid_file);
        if let Some(process) = process {
            crate::record::write_json(&process_file, &process, false)?;
            command.arg("--process").arg(&process_file);
        }
        let mut console = None;
        match io {
            Io::Terminal => {
                let made = Console::new(log.with_extension("sock"))?;
                command.arg("--console-socket").arg(&made.address);
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                console = Some(made);
            }
            Io::Streams(Streams {
                stdin,
                stdout,
                stderr,
            }) => {
                let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
                command
                    .stdin(stdio(stdin))
                    .stdout(stdio(stdout))
                    .stderr(stdio(stderr));
            }
        }
        command.arg(id);
        let child = spawn(&mut command)?;
        Ok(Pending {
            child,
            console,
            pid_file,
            process_file,
            log,
        })
    }
}

/// Starts a program; its end is for [`wait_for`] or the event loop, not for the standard
/// library.
fn spawn(command: &mut Command) -> Result<i32, Error> {
    let program = PathBuf::from(command.get_program());
    let child = command.spawn().map_err(Error::io("start", program))?;
    i32::try_from(child.id()).map_err(|_| Error::Protocol("a pid out of range"))
}

fn wait(child: i32) -> Result<ExitStatus, Error> {
    wait_for(child)
        .map_err(Error::system("wait for the runtime"))?
        .map(|waited| waited.status)
        .ok_or(Error::Protocol("the runtime's end was missed"))
}

/// The runtime's own words for what went wrong: the last error in its log.
fn outcome(status: ExitStatus, log: &Path) -> Result<(), Error> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let _ = fs::remove_file(log);
    if status == ExitStatus::Code(0) {
        return Ok(());
    }
    let said = text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry.get("level")?.as_str()?;
        matches!(level, "error" | "fatal")
            .then(|| entry.get("msg").and_then(|m| m.as_str()).map(str::to_owned))
            .flatten()
    });
    let message = said.unwrap_or_else(|| match text.lines().last() {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => format!("the OCI runtime ended with {}", status.code()),
    });
    Err(Error::refused(Refusal::Runtime, message))
}

impl Pending {
    /// What came of it, once the program has ended.
    pub(super) fn finish(self, status: ExitStatus) -> Result<Process, Error> {
        let pid = fs::read_to_string(&self.pid_file);
        let _ = fs::remove_file(&self.pid_file);
        let _ = fs::remove_file(&self.process_file);
        outcome(status, &self.log)?;
        let pid = pid.map_err(Error::io("read", &self.pid_file))?;
        let pid: i32 = pid
            .trim()
            .parse()
            .map_err(|_| Error::Protocol("a pid file without a pid"))?;
        let pidfd = pidfd_open(pid).ok();
        let terminal = self.console.as_ref().map(Console::take).transpose()?;
        Ok(Process {
            pid,
            pidfd,
            terminal,
        })
    }
}

/// Where a runtime's program sends a terminal's master.
#[derive(Debug)]
struct Console {
    path: PathBuf,
    /// A name for it that is short enough for a socket's address, through `folder`.
    address: PathBuf,
    listener: UnixListener,
    _folder: File,
}

impl Console {
    fn new(path: PathBuf) -> Result<Console, Error> {
        let _ = fs::remove_file(&path);
        let (address, folder) = super::socket_address(&path).map_err(Error::io("open", &path))?;
        let listener = UnixListener::bind(&address).map_err(Error::io("listen on", &path))?;
        Ok(Console {
            path,
            address,
            listener,
            _folder: folder,
        })
    }

    fn take(&self) -> Result<OwnedFd, Error> {
        let broken = || Error::Protocol("the runtime sent no terminal");
        self.listener
            .set_nonblocking(true)
            .map_err(Error::system("listen"))?;
        let (stream, _) = self.listener.accept().map_err(|_| broken())?;
        stream
            .set_nonblocking(true)
            .map_err(Error::system("listen"))?;
        let mut name = [0; 256];
        let (_, fds) = recv_with_fds(stream.as_fd(), &mut name)
            .map_err(Error::system("receive the terminal"))?;
        fds.into_iter().next().ok_or_else(broken)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
