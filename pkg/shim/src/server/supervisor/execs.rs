//! Processes of `exec`.

use std::os::fd::{AsFd, OwnedFd};

use knarr_sys::supervise::{ExitStatus, pidfd_signal};

use super::super::connection::Role;
use super::super::note;
use super::super::runtime::{Begun, Io, Pending, Process, Streams as ProcessStreams};
use super::Supervisor;
use crate::error::{Error, Refusal};
use crate::proto::{ExecSpec, Reply};

/// A process of `exec`.
#[derive(Debug)]
pub(super) struct Exec {
    /// None when it ended before it could be opened.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) connection: u64,
}

/// A runtime program at work on an exec.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) pending: Pending,
    connection: u64,
    spec: ExecAsk,
    /// The client's ends of the pipes.
    ends: Vec<OwnedFd>,
}

#[derive(Debug, Clone, Copy)]
struct ExecAsk {
    tty: bool,
    stdin: bool,
    kill: bool,
}

impl Supervisor {
    pub(super) fn exec(
        &mut self,
        id: u64,
        spec: ExecSpec,
    ) -> Result<Option<(Reply, Vec<OwnedFd>)>, Error> {
        self.alive()?;
        let ExecSpec {
            mut process,
            tty,
            stdin,
            kill_on_disconnect,
        } = spec;
        let ask = ExecAsk {
            tty,
            stdin,
            kill: kill_on_disconnect,
        };
        match process.as_object_mut() {
            Some(fields) => fields.insert("terminal".to_owned(), tty.into()),
            None => {
                return Err(Error::refused(
                    Refusal::Invalid,
                    "process must be an object",
                ));
            }
        };
        let (io, ends) = if tty {
            (Io::Terminal, Vec::new())
        } else {
            pipes(stdin)?
        };
        match self.oci.exec(process, io)? {
            Begun::Now(made) => self.exec_made(id, made, ask, ends).map(Some),
            Begun::Later(pending) => {
                self.set_role(id, Role::Starting);
                self.starting.push(Starting {
                    pending,
                    connection: id,
                    spec: ask,
                    ends,
                });
                Ok(None)
            }
        }
    }

    fn exec_made(
        &mut self,
        id: u64,
        made: Process,
        ask: ExecAsk,
        mut ends: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let Process {
            pid,
            pidfd,
            terminal,
        } = made;
        if ask.tty {
            ends = vec![terminal.ok_or(Error::Protocol("the runtime sent no terminal"))?];
        }
        self.set_role(
            id,
            Role::Exec {
                pid,
                kill: ask.kill,
            },
        );
        self.execs.insert(
            pid,
            Exec {
                pidfd,
                connection: id,
            },
        );
        if ask.kill && !self.connections.contains_key(&id) {
            self.signal_exec(pid, libc::SIGKILL);
        }
        let reply = Reply::Streams {
            pid,
            terminal: ask.tty,
            stdin: ask.stdin,
            stderr: !ask.tty,
        };
        Ok((reply, ends))
    }

    pub(super) fn exec_ended(&mut self, pid: i32, status: ExitStatus) {
        if let Some(exec) = self.execs.remove(&pid) {
            self.set_role(exec.connection, Role::Plain);
            self.reply(
                exec.connection,
                &Reply::ExecExited {
                    code: status.code(),
                },
                Vec::new(),
            );
        }
    }

    pub(super) fn runtime_ended(&mut self, starting: Starting, status: ExitStatus) {
        let Starting {
            pending,
            connection,
            spec,
            ends,
        } = starting;
        self.set_role(connection, Role::Plain);
        let made = pending.finish(status).and_then(|made| {
            let pid = made.pid;
            self.exec_made(connection, made, spec, ends)
                .map(|reply| (pid, reply))
        });
        match made {
            Ok((pid, (reply, fds))) => {
                self.reply(connection, &reply, fds);
                if let Some(status) = self.strays.remove(&pid) {
                    self.exec_ended(pid, status);
                }
            }
            Err(e) => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.refuse(&e);
                }
            }
        }
    }

    pub(super) fn signal_exec(&self, pid: i32, signal: i32) {
        let pidfd = self.execs.get(&pid).and_then(|exec| exec.pidfd.as_ref());
        if let Some(pidfd) = pidfd
            && let Err(e) = pidfd_signal(pidfd.as_fd(), signal)
        {
            note(&format!("signal {signal} to {pid}: {e}"));
        }
    }
}

/// Pipes for a process, and the client's ends of them.
fn pipes(stdin: bool) -> Result<(Io, Vec<OwnedFd>), Error> {
    let pipe = || std::io::pipe().map_err(Error::system("make a pipe"));
    let mut theirs = Vec::new();
    let mut streams = ProcessStreams::default();
    if stdin {
        let (reader, writer) = pipe()?;
        streams.stdin = Some(reader.into());
        theirs.push(writer.into());
    }
    let (reader, writer) = pipe()?;
    streams.stdout = Some(writer.into());
    theirs.push(reader.into());
    let (reader, writer) = pipe()?;
    streams.stderr = Some(writer.into());
    theirs.push(reader.into());
    Ok((Io::Streams(streams), theirs))
}
