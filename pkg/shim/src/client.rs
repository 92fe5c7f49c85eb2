//! The async client. One connection per request; nothing is held between requests, so a
//! [`Shim`] costs a path, and dropping any future here is safe.

mod channel;
mod program;
mod session;
mod streams;

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncReadExt;

use crate::error::{Error, Refusal};
use crate::proto::{Created, ExecSpec, Launch, Reply, Request, ShimState, Stats, Status};
use crate::record::{self, ExitRecord, read_exit};
use channel::Channel;

pub use session::{AttachSession, ExecSession};
pub use streams::{Input, Output};

/// How long a shim that leaves needs from its last connection to the end.
const LEAVING: std::time::Duration = std::time::Duration::from_millis(5);

/// How often a request starts the shim again before it gives up.
const REVIVALS: usize = 3;

/// A container's shim, found by its run folder.
#[derive(Debug, Clone)]
pub struct Shim {
    dir: Arc<Path>,
}

impl Shim {
    /// Starts a shim, which creates the container. On an error nothing is left but files in the
    /// run folder; an OCI runtime's refusal is [`Error::Refused`] with the runtime's words.
    ///
    /// Not cancellation-safe: when the future is dropped, call [`Shim::connect`] and
    /// [`Shim::delete`].
    pub async fn launch(launch: Launch) -> Result<(Shim, Created), Error> {
        record::write_json(&launch.dir.join(crate::server::LAUNCH_FILE), &launch, false)?;
        let dir: Arc<Path> = Arc::from(launch.dir.as_path());
        match spawn(&launch.shim, "run", &dir).await? {
            Reply::Created(created) => Ok((Shim { dir }, created)),
            reply => Err(unexpected(reply)),
        }
    }

    /// Finds the shim of a run folder. When it was killed, starts one that adopts the container.
    /// Also succeeds when the container has ended and the shim has left.
    ///
    /// # Errors
    /// [`Error::Gone`] when the folder never had a shim.
    pub async fn connect(dir: &Path) -> Result<Shim, Error> {
        let shim = Shim {
            dir: Arc::from(dir),
        };
        if !dir.join(crate::server::LAUNCH_FILE).exists() {
            return Err(Error::Gone {
                dir: dir.to_path_buf(),
            });
        }
        match shim.channel().await {
            Ok(_) => Ok(shim),
            Err(Error::Gone { .. }) if read_exit(dir)?.is_some() => Ok(shim),
            Err(e) => Err(e),
        }
    }

    /// The run folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the program.
    pub async fn start(&self) -> Result<(), Error> {
        self.done(Request::Start).await
    }

    /// Sends a signal to the init, or to every process of the container. A process that is
    /// gone already is [`Refusal::NotFound`].
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), Error> {
        self.done(Request::Kill { signal, all }).await
    }

    /// Changes the cgroup's limits; `resources` is the OCI `linux.resources` object.
    pub async fn update(&self, resources: serde_json::Value) -> Result<(), Error> {
        self.done(Request::Update { resources }).await
    }

    /// Opens the log file again, after rotation renamed it.
    pub async fn reopen_log(&self) -> Result<(), Error> {
        self.done(Request::ReopenLog).await
    }

    /// What the shim knows. When it has left, what the exit record says.
    pub async fn state(&self) -> Result<ShimState, Error> {
        match self.ask(Request::State).await {
            Ok(Reply::State(state)) => Ok(state),
            Ok(reply) => Err(unexpected(reply)),
            Err(e @ Error::Gone { .. }) => match read_exit(&self.dir)? {
                Some(exit) => Ok(ShimState {
                    id: exit.id.clone(),
                    pid: 0,
                    shim_pid: 0,
                    status: Status::Exited,
                    created_at: exit.started_at,
                    started_at: exit.started_at,
                    execs: 0,
                    attached: 0,
                    log_dropped: 0,
                    exit: Some(exit),
                }),
                None => Err(e),
            },
            Err(e) => Err(e),
        }
    }

    /// Reads the container's cgroup.
    pub async fn stats(&self) -> Result<Stats, Error> {
        match self.ask(Request::Stats).await? {
            Reply::Stats(stats) => Ok(stats),
            reply => Err(unexpected(reply)),
        }
    }

    /// Runs a process in the container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, Error> {
        let mut channel = self.channel().await?;
        channel.send(&Request::Exec(spec)).await?;
        let (reply, fds) = channel.receive().await?.ok_or_else(|| self.gone())?;
        session::exec(channel, reply, fds)
    }

    /// Joins the container's streams. Output from before is in the log, not here.
    pub async fn attach(&self) -> Result<AttachSession, Error> {
        let mut channel = self.channel().await?;
        channel.send(&Request::Attach).await?;
        let (reply, fds) = channel.receive().await?.ok_or_else(|| self.gone())?;
        session::attach(channel, reply, fds)
    }

    /// Resolves when the container has ended and its log and exit record are complete. Survives
    /// the shim's death. Cancellation-safe.
    pub async fn wait(&self) -> Result<ExitRecord, Error> {
        let mut deaths = 0;
        loop {
            if let Some(exit) = read_exit(&self.dir)? {
                return Ok(exit);
            }
            let mut channel = match self.channel().await {
                Ok(channel) => channel,
                // It may have left in good order just now.
                Err(e @ Error::Gone { .. }) => return read_exit(&self.dir)?.ok_or(e),
                Err(e) => return Err(e),
            };
            if channel.send(&Request::Wait).await.is_ok() {
                match channel.receive().await {
                    Ok(Some((Reply::Exited(exit), _))) => return Ok(exit),
                    Ok(Some((reply, _))) => return Err(unexpected(reply)),
                    Ok(None) | Err(Error::System { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
            deaths += 1;
            if deaths > REVIVALS && read_exit(&self.dir)?.is_none() {
                return Err(self.gone());
            }
        }
    }

    /// Kills what is left of the container, deletes it from the OCI runtime and waits until the
    /// shim has left. Idempotent. The run folder itself is the caller's to remove.
    pub async fn delete(&self) -> Result<(), Error> {
        for _ in 0..=REVIVALS {
            let mut channel = match self.channel().await {
                Ok(channel) => channel,
                Err(Error::Gone { .. }) => return Ok(()),
                Err(e) => return Err(e),
            };
            if channel.send(&Request::Delete).await.is_err() {
                continue;
            }
            loop {
                match channel.receive().await {
                    Ok(Some((Reply::Done, _))) => {}
                    Ok(Some((reply, _))) => return Err(unexpected(reply)),
                    Ok(None) | Err(Error::System { .. }) => break,
                    Err(e) => return Err(e),
                }
            }
            if !self.dir.join(crate::server::SOCKET_FILE).exists() {
                return Ok(());
            }
        }
        Err(Error::refused(
            Refusal::Internal,
            "the shim dies again and again while deleting",
        ))
    }

    fn gone(&self) -> Error {
        Error::Gone {
            dir: self.dir.to_path_buf(),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let mut channel = self.channel().await?;
        channel.send(&request).await?;
        match channel.receive().await? {
            Some((reply, _)) => Ok(reply),
            None => Err(Error::Protocol(
                "the shim ended the connection without an answer",
            )),
        }
    }

    async fn done(&self, request: Request) -> Result<(), Error> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            reply => Err(unexpected(reply)),
        }
    }

    /// A connection to the shim, started again if it was killed. [`Error::Gone`] when it has
    /// left in good order.
    async fn channel(&self) -> Result<Channel, Error> {
        let mut last = None;
        for _ in 0..=REVIVALS {
            match Channel::connect(&self.dir).await {
                Ok(channel) => return Ok(channel),
                Err(e) => match e.kind() {
                    io::ErrorKind::NotFound if read_exit(&self.dir)?.is_some() => {
                        return Err(self.gone());
                    }
                    // It was just leaving, with this connection in its queue.
                    io::ErrorKind::ConnectionReset => {
                        last = Some(e);
                        tokio::time::sleep(LEAVING).await;
                        continue;
                    }
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => last = Some(e),
                    _ => {
                        return Err(Error::io(
                            "connect to",
                            self.dir.join(crate::server::SOCKET_FILE),
                        )(e));
                    }
                },
            }
            let path = self.dir.join(crate::server::LAUNCH_FILE);
            let launch: Launch =
                record::read_json(&path, "launch record")?.ok_or_else(|| self.gone())?;
            match spawn(&launch.shim, "adopt", &self.dir).await? {
                Reply::Done | Reply::Created(_) => {}
                reply => return Err(unexpected(reply)),
            }
        }
        match last {
            Some(e) => Err(Error::io(
                "connect to",
                self.dir.join(crate::server::SOCKET_FILE),
            )(e)),
            None => Err(self.gone()),
        }
    }
}

fn unexpected(reply: Reply) -> Error {
    match reply {
        Reply::Error { kind, message } => Error::Refused { kind, message },
        _ => Error::Protocol("an answer to another question"),
    }
}

/// Starts the shim's program, which detaches itself, and reads its one report.
async fn spawn(shim: &Path, mode: &str, dir: &Path) -> Result<Reply, Error> {
    let log = dir.join("shim.log");
    let stderr = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(Error::io("open", &log))?;
    let program = program::of(shim);
    let mut child = tokio::process::Command::new(&program.path)
        .arg0(shim)
        .arg(mode)
        .arg(dir)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(Error::io("start", shim))?;
    let mut report = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_end(&mut report)
            .await
            .map_err(Error::system("read the shim's report"))?;
    }
    child
        .wait()
        .await
        .map_err(Error::system("wait for the shim's launcher"))?;
    if report.is_empty() {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().last().unwrap_or("no reason given").to_owned();
        return Err(Error::refused(
            Refusal::Internal,
            format!("the shim did not start: {last}"),
        ));
    }
    serde_json::from_slice(&report).map_err(|source| Error::Json {
        what: "shim's report",
        source,
    })
}
