//! The event loop of one container.

mod execs;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use knarr_sys::supervise::{
    Events, ExitStatus, PollSet, SignalFd, keep_open, kill_process, pidfd_exit_status,
    pidfd_signal, poll_one, trim_allocator, wait_any,
};

use super::connection::{Connection, Role};
use super::launch::{Saved, SavedKeeper, process_start, remove_socket, stat_field};
use super::log::now;
use super::note;
use super::runtime::Oci;
use super::streams::{Streams, Watched};
use crate::error::{Error, Refusal};
use crate::proto::{Launch, Reply, Request, ShimState, Status};
use crate::record::{self, ExitRecord};
use execs::{Exec, Starting};

/// How long bytes for attached clients are kept after the container has ended.
const LINGER: Duration = Duration::from_secs(5);
/// How long the true status of an adopted container's end is waited for.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// No more connections than this at a time.
const MAX_CONNECTIONS: usize = 1024;

/// The container's first process.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// It is this process's child, which must reap it.
    pub(super) child: bool,
}

#[derive(Debug)]
pub(super) struct Supervisor {
    launch: Launch,
    dir: PathBuf,
    oci: Oci,
    streams: Streams,
    listener: UnixListener,
    signals: SignalFd,
    init: Init,
    saved: Saved,
    keeper_is_child: bool,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    execs: BTreeMap<i32, Exec>,
    starting: Vec<Starting>,
    /// Ends of processes that a runtime program may still tell us of.
    strays: BTreeMap<i32, ExitStatus>,
    exit: Option<ExitRecord>,
}

/// Indices into one round's poll set.
#[derive(Debug, Default)]
struct Round {
    signals: usize,
    listener: Option<usize>,
    init: Option<usize>,
    connections: Vec<(usize, u64)>,
    streams: Watched,
}

impl Supervisor {
    pub(super) fn new(
        launch: Launch,
        oci: Oci,
        streams: Streams,
        listener: UnixListener,
        init: Init,
        saved: Saved,
    ) -> Result<Supervisor, Error> {
        let signals = SignalFd::new(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(Error::system("listen for signals"))?;
        let mut supervisor = Supervisor {
            dir: launch.dir.clone(),
            launch,
            oci,
            streams,
            listener,
            signals,
            init,
            saved,
            keeper_is_child: false,
            connections: BTreeMap::new(),
            next_connection: 0,
            execs: BTreeMap::new(),
            starting: Vec::new(),
            strays: BTreeMap::new(),
            exit: None,
        };
        supervisor.keep_precious();
        Ok(supervisor)
    }

    /// Sees to it that the terminal or the stdin outlives this process.
    fn keep_precious(&mut self) {
        use std::os::fd::AsRawFd;
        if self.saved.keeper.is_some() {
            return;
        }
        let Some(file) = self.streams.precious() else {
            return;
        };
        match keep_open(&[file.as_fd()], self.init.pidfd.as_fd()) {
            Ok(pid) => {
                self.keeper_is_child = true;
                self.saved.keeper = Some(SavedKeeper {
                    pid,
                    pid_started: process_start(pid).unwrap_or(0),
                    fd: file.as_raw_fd(),
                });
                self.save();
            }
            Err(e) => note(&format!("no keeper: {e}")),
        }
    }

    fn save(&self) {
        if let Err(e) = self.saved.write(&self.dir) {
            note(&e.to_string());
        }
    }

    /// Serves until the container has ended and all is told. Answers the program's exit code.
    pub(super) fn run(mut self) -> u8 {
        let mut poll = PollSet::default();
        let mut round = Round::default();
        trim_allocator();
        let mut ended_at = None;
        loop {
            self.release_keeper();
            if self.exit.is_some() {
                let since = *ended_at.get_or_insert_with(Instant::now);
                if self.all_told() || since.elapsed() > LINGER {
                    break;
                }
            }
            self.watch(&mut poll, &mut round);
            let deadline = ended_at
                .map(|t| t + LINGER)
                .into_iter()
                .chain(self.streams.deadline());
            let timeout = deadline
                .min()
                .map(|t| t.saturating_duration_since(Instant::now()));
            if let Err(e) = poll.wait(timeout) {
                note(&format!("poll: {e}"));
                return 1;
            }
            // In this order a resize takes effect before input that was sent after it.
            self.serve_connections(&poll, &round);
            self.streams.serve(&poll, &round.streams);
            self.change_connections(&poll, &round);
            if poll.events(round.signals).any() {
                while let Ok(Some(_)) = self.signals.take() {}
            }
            self.reap();
            if round.init.is_some_and(|i| poll.events(i).any()) && self.exit.is_none() {
                let status = self.adopted_status();
                self.container_ended(status);
            }
        }
        0
    }

    fn all_told(&self) -> bool {
        !self.streams.owes() && self.connections.values().all(Connection::idle)
    }

    /// Lets the keeper go once what it keeps is closed on purpose.
    fn release_keeper(&mut self) {
        if self.streams.input_closed()
            && let Some(keeper) = self.saved.keeper.take()
        {
            if process_start(keeper.pid) == Some(keeper.pid_started) {
                let _ = kill_process(keeper.pid, libc::SIGKILL);
            }
            self.save();
        }
    }

    fn watch(&mut self, poll: &mut PollSet, round: &mut Round) {
        poll.clear();
        // First, so that whoever's input is seen has its earlier resize seen too.
        self.streams.watch(poll, &mut round.streams);
        round.signals = poll.add(self.signals.as_fd(), Events::READ);
        round.listener = (self.connections.len() < MAX_CONNECTIONS)
            .then(|| poll.add(self.listener.as_fd(), Events::READ));
        round.init = (!self.init.child && self.exit.is_none())
            .then(|| poll.add(self.init.pidfd.as_fd(), Events::READ));
        round.connections.clear();
        for (&id, connection) in &self.connections {
            round
                .connections
                .push((poll.add(connection.fd(), connection.events()), id));
        }
    }

    fn serve_connections(&mut self, poll: &PollSet, round: &Round) {
        for &(index, id) in &round.connections {
            let events = poll.events(index);
            if !events.any() {
                continue;
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            if events.writable() {
                connection.flush();
            }
            if events.readable() {
                connection.fill();
            }
            self.requests(id);
        }
    }

    /// Lets clients in and out. After the streams, which know clients by their place in a list.
    fn change_connections(&mut self, poll: &PollSet, round: &Round) {
        if round.listener.is_some_and(|i| poll.events(i).any()) {
            self.accept();
        }
        let ended: Vec<u64> = self
            .connections
            .values()
            .filter(|c| c.ended)
            .map(|c| c.id)
            .collect();
        for id in ended {
            self.disconnect(id);
        }
    }

    fn accept(&mut self) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let id = self.next_connection;
            self.next_connection += 1;
            match Connection::new(id, stream) {
                Ok(connection) => {
                    self.connections.insert(id, connection);
                }
                Err(e) => note(&format!("accept: {e}")),
            }
        }
    }

    fn disconnect(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        match connection.role {
            Role::Attached => self.streams.detach(id),
            Role::Exec { pid, kill: true } => self.signal_exec(pid, libc::SIGKILL),
            _ => {}
        }
    }

    fn requests(&mut self, id: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            match connection.request() {
                Ok(None) => return,
                Ok(Some(request)) => self.request(id, request),
                Err(e) => {
                    connection.refuse(&e);
                    connection.ended = true;
                    return;
                }
            }
        }
    }

    fn request(&mut self, id: u64, request: Request) {
        match self.answer(id, request) {
            Ok(Some((reply, fds))) => self.reply(id, &reply, fds),
            Ok(None) => {}
            Err(e) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.refuse(&e);
                }
            }
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply, fds: Vec<OwnedFd>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.reply(reply, fds);
        }
    }

    fn set_role(&mut self, id: u64, role: Role) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.role = role;
        }
    }

    fn answer(
        &mut self,
        id: u64,
        request: Request,
    ) -> Result<Option<(Reply, Vec<OwnedFd>)>, Error> {
        let done = Ok(Some((Reply::Done, Vec::new())));
        match request {
            Request::Start => {
                self.start()?;
                done
            }
            Request::Kill { signal, all } => {
                self.kill(signal, all)?;
                done
            }
            Request::Update { resources } => {
                self.alive()?;
                self.oci.update(resources)?;
                done
            }
            Request::ReopenLog => {
                self.streams
                    .log
                    .reopen()
                    .map_err(Error::system("open the log again"))?;
                done
            }
            Request::State => Ok(Some((Reply::State(self.state()), Vec::new()))),
            Request::Stats => {
                self.alive()?;
                Ok(Some((Reply::Stats(self.saved.cgroup.stats()), Vec::new())))
            }
            Request::Wait => match &self.exit {
                Some(exit) => Ok(Some((Reply::Exited(exit.clone()), Vec::new()))),
                None => {
                    self.set_role(id, Role::Waiter);
                    Ok(None)
                }
            },
            Request::Exec(spec) => self.exec(id, spec),
            Request::Attach => {
                self.alive()?;
                let ends = self.streams.attach(id)?;
                self.set_role(id, Role::Attached);
                let reply = Reply::Streams {
                    pid: self.init.pid,
                    terminal: false,
                    stdin: ends.stdin.is_some(),
                    stderr: ends.stderr.is_some(),
                };
                let fds = ends
                    .stdin
                    .into_iter()
                    .chain([ends.stdout])
                    .chain(ends.stderr);
                Ok(Some((reply, fds.collect())))
            }
            Request::Resize { columns, rows } => {
                self.streams.resize(columns, rows);
                Ok(None)
            }
            Request::Signal { signal } => {
                if let Some(Role::Exec { pid, .. }) = self.connections.get(&id).map(|c| c.role) {
                    self.signal_exec(pid, signal);
                }
                Ok(None)
            }
            Request::Delete => {
                self.set_role(id, Role::Deleter);
                if self.exit.is_none() {
                    self.kill_everything();
                }
                Ok(None)
            }
        }
    }

    fn alive(&self) -> Result<(), Error> {
        match self.exit {
            None => Ok(()),
            Some(_) => Err(Error::refused(Refusal::State, "the container has ended")),
        }
    }

    fn start(&mut self) -> Result<(), Error> {
        self.alive()?;
        if self.saved.started_at != 0 {
            return Ok(());
        }
        let at = now();
        self.oci.start()?;
        self.saved.started_at = at;
        self.save();
        Ok(())
    }

    fn kill(&mut self, signal: i32, all: bool) -> Result<(), Error> {
        if self.exit.is_some() {
            return Err(Error::refused(Refusal::NotFound, "the container has ended"));
        }
        if all && self.saved.cgroup.signal_all(signal) > 0 {
            return Ok(());
        }
        pidfd_signal(self.init.pidfd.as_fd(), signal).map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH) => Error::refused(Refusal::NotFound, "the container has ended"),
            _ => Error::system("signal the container")(e),
        })
    }

    fn kill_everything(&mut self) {
        if let Err(e) = pidfd_signal(self.init.pidfd.as_fd(), libc::SIGKILL) {
            note(&format!("kill: {e}"));
        }
        self.saved.cgroup.signal_all(libc::SIGKILL);
    }

    fn state(&self) -> ShimState {
        let status = match (&self.exit, self.saved.started_at) {
            (Some(_), _) => Status::Exited,
            (None, 0) => Status::Created,
            (None, _) => Status::Running,
        };
        ShimState {
            id: self.launch.id.clone(),
            pid: if self.exit.is_none() {
                self.init.pid
            } else {
                0
            },
            shim_pid: i32::try_from(std::process::id()).unwrap_or(0),
            status,
            created_at: self.saved.created_at,
            started_at: self.saved.started_at,
            execs: self.execs.len(),
            attached: self.streams.attached(),
            log_dropped: self.streams.log.dropped,
            exit: self.exit.clone(),
        }
    }

    /// Collects every child that has ended.
    fn reap(&mut self) {
        loop {
            let waited = match wait_any() {
                Ok(Some(waited)) => waited,
                Ok(None) => break,
                Err(e) => {
                    note(&format!("wait: {e}"));
                    break;
                }
            };
            if self.init.child && waited.pid == self.init.pid {
                self.container_ended(Some(waited.status));
            } else if let Some(at) = self
                .starting
                .iter()
                .position(|s| s.pending.child == waited.pid)
            {
                let starting = self.starting.swap_remove(at);
                self.runtime_ended(starting, waited.status);
            } else if self.execs.contains_key(&waited.pid) {
                self.exec_ended(waited.pid, waited.status);
            } else if !self.starting.is_empty() {
                self.strays.insert(waited.pid, waited.status);
            }
        }
        if self.starting.is_empty() {
            self.strays.clear();
        }
    }

    /// How a container ended that is somebody else's child.
    fn adopted_status(&self) -> Option<ExitStatus> {
        const EXIT_CODE: usize = 52;
        let zombie = || -> Option<ExitStatus> {
            if stat_field(self.init.pid, 3)? != "Z" {
                return None;
            }
            Some(ExitStatus::from_raw(
                stat_field(self.init.pid, EXIT_CODE)?.parse().ok()?,
            ))
        };
        let known = || pidfd_exit_status(self.init.pidfd.as_fd());
        zombie().or_else(known).or_else(|| {
            // It is being reaped just now.
            let fd = self.init.pidfd.as_fd();
            let _ = poll_one(fd, Events::HANGUP, Some(STATUS_PATIENCE));
            known()
        })
    }

    /// The init has ended: brings everything to its end, in the order that loses nothing.
    fn container_ended(&mut self, status: Option<ExitStatus>) {
        const UNKNOWN_EXIT: i32 = 255;
        if self.exit.is_some() {
            return;
        }
        let finished_at = now();
        // Without a pid namespace of its own others of the container may live on.
        self.saved.cgroup.signal_all(libc::SIGKILL);
        self.streams.drain();
        let record = ExitRecord {
            id: self.launch.id.clone(),
            exit_code: status.map_or(UNKNOWN_EXIT, ExitStatus::code),
            signal: status.and_then(ExitStatus::signal),
            oom_killed: self.saved.cgroup.oom_kills() > 0,
            started_at: self.saved.started_at,
            finished_at,
            lost: status.is_none(),
        };
        if let Err(e) = record::write_exit(&self.dir, &record) {
            note(&e.to_string());
        }
        let waiters: Vec<u64> = self
            .connections
            .values()
            .filter(|c| c.role == Role::Waiter)
            .map(|c| c.id)
            .collect();
        for id in waiters {
            self.set_role(id, Role::Plain);
            self.reply(id, &Reply::Exited(record.clone()), Vec::new());
        }
        self.exit = Some(record);
        if let Err(e) = self.oci.delete() {
            note(&format!("delete: {e}"));
        }
        if let Err(e) = remove_socket(&self.dir) {
            note(&e.to_string());
        }
    }
}
