//! Exec and attach sessions.

use std::os::fd::OwnedFd;

use tokio::sync::Mutex;

use super::channel::Channel;
use super::streams::{Input, Output, Terminal};
use super::unexpected;
use crate::error::Error;
use crate::proto::{Reply, Request};

/// A process that runs in a container. Its streams do not pass through the shim.
#[derive(Debug)]
pub struct ExecSession {
    /// Its pid on the host.
    pub pid: i32,
    /// Its stdin. Dropping it is the end of input (not with a terminal).
    pub stdin: Option<Input>,
    /// Its stdout, or all output of its terminal.
    pub stdout: Option<Output>,
    /// Its stderr; None with a terminal.
    pub stderr: Option<Output>,
    terminal: Option<Terminal>,
    control: Control,
}

/// A client of a container's streams.
#[derive(Debug)]
pub struct AttachSession {
    /// The container's stdin, when it has one.
    pub stdin: Option<Input>,
    /// The container's stdout, or all output of its terminal.
    pub stdout: Option<Output>,
    /// The container's stderr; None with a terminal.
    pub stderr: Option<Output>,
    control: Control,
}

/// Requests go out and replies come in independently, so that a resize need not wait for a wait.
#[derive(Debug)]
struct Control {
    writer: std::sync::Arc<tokio::net::UnixStream>,
    reader: Mutex<Channel>,
}

impl Control {
    fn new(channel: Channel) -> Control {
        Control {
            writer: channel.stream(),
            reader: Mutex::new(channel),
        }
    }

    async fn send(&self, request: Request) -> Result<(), Error> {
        Channel::send_over(&self.writer, &request).await
    }
}

impl ExecSession {
    /// Sets the terminal's size. Without a terminal it does nothing.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        match &self.terminal {
            Some(terminal) => terminal.resize(columns, rows),
            None => Ok(()),
        }
    }

    /// Resolves with the exit code (128 + the number for a signal) when the process has ended.
    /// Output may still be in the pipes. Cancellation-safe; call it once to the end.
    pub async fn wait(&self) -> Result<i32, Error> {
        match self.control.reader.lock().await.receive().await? {
            Some((Reply::ExecExited { code }, _)) => Ok(code),
            Some((reply, _)) => Err(unexpected(reply)),
            None => Err(Error::Protocol("the shim left before the process did")),
        }
    }

    /// Sends a signal to the process.
    pub async fn kill(&self, signal: i32) -> Result<(), Error> {
        self.control.send(Request::Signal { signal }).await
    }
}

impl AttachSession {
    /// Sets the size of the container's terminal. Without a terminal it does nothing.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        self.control.send(Request::Resize { columns, rows }).await
    }

    /// Resolves when the container has ended or the shim has dropped this client (too slow).
    /// Cancellation-safe.
    pub async fn closed(&self) {
        while let Ok(Some(_)) = self.control.reader.lock().await.receive().await {}
    }
}

struct Streams {
    pid: i32,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<Terminal>,
}

fn streams(reply: Reply, fds: Vec<OwnedFd>) -> Result<Streams, Error> {
    let Reply::Streams {
        pid,
        terminal,
        stdin,
        stderr,
    } = reply
    else {
        return Err(unexpected(reply));
    };
    let missing = || Error::Protocol("fewer descriptors than announced");
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(missing).and_then(Terminal::new);
    if terminal {
        let master = next()?;
        return Ok(Streams {
            pid,
            stdin: stdin.then(|| master.input()),
            stdout: Some(master.output()),
            stderr: None,
            terminal: Some(master),
        });
    }
    let stdin = if stdin { Some(next()?.input()) } else { None };
    let stdout = Some(next()?.output());
    let stderr = if stderr { Some(next()?.output()) } else { None };
    Ok(Streams {
        pid,
        stdin,
        stdout,
        stderr,
        terminal: None,
    })
}

pub(super) fn exec(
    channel: Channel,
    reply: Reply,
    fds: Vec<OwnedFd>,
) -> Result<ExecSession, Error> {
    let Streams {
        pid,
        stdin,
        stdout,
        stderr,
        terminal,
    } = streams(reply, fds)?;
    Ok(ExecSession {
        pid,
        stdin,
        stdout,
        stderr,
        terminal,
        control: Control::new(channel),
    })
}

pub(super) fn attach(
    channel: Channel,
    reply: Reply,
    fds: Vec<OwnedFd>,
) -> Result<AttachSession, Error> {
    let Streams {
        stdin,
        stdout,
        stderr,
        ..
    } = streams(reply, fds)?;
    Ok(AttachSession {
        stdin,
        stdout,
        stderr,
        control: Control::new(channel),
    })
}
