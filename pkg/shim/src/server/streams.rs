//! The container's standard streams: fifos or a terminal on one side, the log and attached
//! clients on the other.
//!
//! The container's ends of the output fifos are open for reading too, so that the container
//! gets no SIGPIPE when the shim dies: its writes wait for the shim that adopts it. A terminal's
//! master and the writing end of stdin cannot be kept that way; [`super::keeper`] holds them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use knarr_sys::supervise::{Events, PollSet, mkfifo, set_blocking, set_pipe_size, set_window_size};

use super::log::{Lines, Log, Stream};
use super::runtime;
use crate::error::{Error, Refusal};

/// How long an attached client may take nothing before it is dropped. Until then it holds the
/// container back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Read and forwarded at a time.
const CHUNK: usize = 32 << 10;
/// The capacity of the pipes to attached clients.
const CLIENT_PIPE: i32 = 256 << 10;

/// One of the container's outputs.
#[derive(Debug)]
struct Source {
    stream: Stream,
    file: Option<File>,
    lines: Lines,
}

/// A pipe to an attached client, with what it has not taken yet.
#[derive(Debug)]
struct Sink {
    stream: Stream,
    file: Option<File>,
    backlog: Vec<u8>,
    stalled: Option<Instant>,
}

/// An attached client.
#[derive(Debug)]
struct Client {
    connection: u64,
    sinks: Vec<Sink>,
    stdin: Option<File>,
}

/// Descriptors for a new client.
#[derive(Debug)]
pub(super) struct ClientEnds {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: Option<OwnedFd>,
}

/// All streams of one container.
#[derive(Debug)]
pub(super) struct Streams {
    terminal: bool,
    stdin_once: bool,
    sources: Vec<Source>,
    /// Where input goes: the fifo's writing end, or the terminal's master.
    input: Option<File>,
    /// Input that the container has not taken yet.
    unread: Vec<u8>,
    /// Close the input once `unread` is empty.
    input_ends: bool,
    clients: Vec<Client>,
    pub(super) log: Log,
    chunk: Vec<u8>,
    /// The container has ended: nothing waits for clients any more.
    draining: bool,
}

/// What the event loop polls for the streams, in the order of [`Streams::watch`].
#[derive(Debug, Default)]
pub(super) struct Watched {
    sources: Vec<(usize, usize)>,
    sinks: Vec<(usize, usize, usize)>,
    stdins: Vec<(usize, usize)>,
    input: Option<usize>,
}

fn open_fifo(path: &Path, read: bool, write: bool, wait: bool) -> Result<File, Error> {
    // CRIU opens what a restored container gets in place of its ends with the same flags, by a link.
    let flags = if wait { 0 } else { libc::O_NONBLOCK | libc::O_NOFOLLOW };
    OpenOptions::new()
        .read(read)
        .write(write)
        .custom_flags(flags)
        .open(path)
        .map_err(Error::io("open", path))
}

const OUTPUTS: [(&str, Stream); 2] = [("stdout", Stream::Stdout), ("stderr", Stream::Stderr)];

impl Streams {
    pub(super) fn new(launch: &crate::proto::Launch) -> Result<Streams, Error> {
        let path = launch.log_path.as_deref();
        let log = Log::open(path).map_err(Error::io(
            "open the log",
            path.unwrap_or(Path::new("/dev/null")),
        ))?;
        Ok(Streams {
            terminal: launch.terminal,
            stdin_once: launch.stdin_once,
            sources: Vec::new(),
            input: None,
            unread: Vec::new(),
            input_ends: false,
            clients: Vec::new(),
            log,
            chunk: vec![0; CHUNK],
            draining: false,
        })
    }

    /// Makes the fifos and answers the container's ends of them.
    pub(super) fn make_fifos(
        &mut self,
        dir: &Path,
        stdin: bool,
    ) -> Result<runtime::Streams, Error> {
        let make = |name: &str| {
            let path = dir.join(name);
            let _ = std::fs::remove_file(&path);
            mkfifo(&path, 0o600).map_err(Error::io("make", &path))?;
            Ok::<_, Error>(path)
        };
        let mut ends = runtime::Streams::default();
        for (name, stream) in OUTPUTS {
            let path = make(name)?;
            self.add_source(stream, open_fifo(&path, true, false, false)?);
            let end = Some(open_fifo(&path, true, true, true)?.into());
            match stream {
                Stream::Stdout => ends.stdout = end,
                Stream::Stderr => ends.stderr = end,
            }
        }
        if stdin {
            let path = make("stdin")?;
            // Opening one end alone waits for the other; this is both for a moment.
            let both = open_fifo(&path, true, true, true)?;
            let reading = open_fifo(&path, true, false, true)?;
            self.input = Some(open_fifo(&path, false, true, false)?);
            drop(both);
            ends.stdin = Some(reading.into());
        }
        Ok(ends)
    }

    /// Opens the fifos of a container that another shim made.
    pub(super) fn adopt_fifos(&mut self, dir: &Path) -> Result<(), Error> {
        for (name, stream) in OUTPUTS {
            self.add_source(stream, open_fifo(&dir.join(name), true, false, false)?);
        }
        Ok(())
    }

    fn add_source(&mut self, stream: Stream, file: File) {
        self.sources.push(Source {
            stream,
            file: Some(file),
            lines: Lines::new(stream),
        });
    }

    /// Uses this terminal for everything.
    pub(super) fn use_terminal(&mut self, master: OwnedFd) -> Result<(), Error> {
        set_blocking(master.as_fd(), false).map_err(Error::system("use the terminal"))?;
        let input = master
            .try_clone()
            .map_err(Error::system("use the terminal"))?;
        self.input = Some(input.into());
        self.add_source(Stream::Stdout, master.into());
        Ok(())
    }

    /// Uses this for input (adoption).
    pub(super) fn use_input(&mut self, input: OwnedFd) {
        self.input = Some(input.into());
    }

    /// What must be kept open when the shim dies.
    pub(super) fn precious(&self) -> Option<&File> {
        self.input.as_ref()
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) {
        if self.terminal
            && let Some(master) = &self.input
            && let Err(e) = set_window_size(master.as_fd(), columns, rows)
        {
            super::note(&format!("resize: {e}"));
        }
    }

    /// Lets a client in.
    pub(super) fn attach(&mut self, connection: u64) -> Result<ClientEnds, Error> {
        let pipe = || {
            let (reader, writer) = io::pipe().map_err(Error::system("make a pipe"))?;
            Ok::<_, Error>((OwnedFd::from(reader), OwnedFd::from(writer)))
        };
        let sink = |stream: Stream| -> Result<(OwnedFd, Sink), Error> {
            let (theirs, ours) = pipe()?;
            set_blocking(ours.as_fd(), false).map_err(Error::system("make a pipe"))?;
            // More room is welcome, not needed.
            let _ = set_pipe_size(ours.as_fd(), CLIENT_PIPE);
            let file = Some(File::from(ours));
            Ok((
                theirs,
                Sink {
                    stream,
                    file,
                    backlog: Vec::new(),
                    stalled: None,
                },
            ))
        };
        if self.draining {
            return Err(Error::refused(Refusal::State, "the container has ended"));
        }
        let (stdout, first) = sink(Stream::Stdout)?;
        let mut sinks = vec![first];
        let mut stderr = None;
        if !self.terminal {
            let (theirs, second) = sink(Stream::Stderr)?;
            sinks.push(second);
            stderr = Some(theirs);
        }
        let mut client = Client {
            connection,
            sinks,
            stdin: None,
        };
        let mut stdin = None;
        if self.input.is_some() && !self.input_ends {
            let (ours, theirs) = pipe()?;
            set_blocking(ours.as_fd(), false).map_err(Error::system("make a pipe"))?;
            client.stdin = Some(ours.into());
            stdin = Some(theirs);
        }
        self.clients.push(client);
        Ok(ClientEnds {
            stdin,
            stdout,
            stderr,
        })
    }

    /// A client's connection has ended.
    pub(super) fn detach(&mut self, connection: u64) {
        let Some(index) = self.clients.iter().position(|c| c.connection == connection) else {
            return;
        };
        let mut client = self.clients.swap_remove(index);
        // What it sent before it left still counts.
        if let Some(mut stdin) = client.stdin.take() {
            self.pull_input(&mut stdin);
            self.client_input_ended();
        }
    }

    pub(super) fn attached(&self) -> usize {
        self.clients.len()
    }

    /// Whether clients still wait for bytes.
    pub(super) fn owes(&self) -> bool {
        self.clients
            .iter()
            .flat_map(|c| &c.sinks)
            .any(|s| !s.backlog.is_empty())
    }

    /// When the most patient wait for a client is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sinks = self.clients.iter().flat_map(|c| &c.sinks);
        sinks
            .filter_map(|s| s.stalled)
            .min()
            .map(|since| since + PATIENCE)
    }

    /// Adds what matters now to the set.
    pub(super) fn watch(&self, poll: &mut PollSet, watched: &mut Watched) {
        watched.sources.clear();
        watched.sinks.clear();
        watched.stdins.clear();
        watched.input = None;
        for (i, source) in self.sources.iter().enumerate() {
            if let Some(file) = &source.file
                && (self.draining || !self.held_back(source.stream))
            {
                watched
                    .sources
                    .push((poll.add(file.as_fd(), Events::READ), i));
            }
        }
        for (i, client) in self.clients.iter().enumerate() {
            for (j, sink) in client.sinks.iter().enumerate() {
                if let Some(file) = &sink.file {
                    let events = if sink.backlog.is_empty() {
                        Events::HANGUP
                    } else {
                        Events::WRITE
                    };
                    watched.sinks.push((poll.add(file.as_fd(), events), i, j));
                }
            }
            if let Some(stdin) = &client.stdin
                && self.unread.is_empty()
            {
                watched
                    .stdins
                    .push((poll.add(stdin.as_fd(), Events::READ), i));
            }
        }
        if let Some(input) = &self.input
            && !self.unread.is_empty()
        {
            watched.input = Some(poll.add(input.as_fd(), Events::WRITE));
        }
    }

    fn held_back(&self, stream: Stream) -> bool {
        let sinks = self.clients.iter().flat_map(|c| &c.sinks);
        sinks
            .filter(|s| s.stream == stream)
            .any(|s| !s.backlog.is_empty())
    }

    /// Does what the set says can be done.
    pub(super) fn serve(&mut self, poll: &PollSet, watched: &Watched) {
        for &(index, client, sink) in &watched.sinks {
            let events = poll.events(index);
            if !events.any() {
                continue;
            }
            if let Some(sink) = self
                .clients
                .get_mut(client)
                .and_then(|c| c.sinks.get_mut(sink))
            {
                if events.writable() && !sink.backlog.is_empty() {
                    sink.flush();
                } else if events.hung_up() {
                    sink.close();
                }
            }
        }
        if let Some(index) = watched.input
            && poll.events(index).writable()
        {
            self.push_input();
        }
        for &(index, client) in &watched.stdins {
            if poll.events(index).readable() && self.unread.is_empty() {
                self.take_input(client);
            }
        }
        for &(index, source) in &watched.sources {
            if poll.events(index).readable() {
                self.take_output(source);
            }
        }
        self.drop_stalled();
    }

    fn drop_stalled(&mut self) {
        for client in &mut self.clients {
            let late = |s: &Sink| s.stalled.is_some_and(|since| since.elapsed() >= PATIENCE);
            if client.sinks.iter().any(late) {
                client.sinks.iter_mut().for_each(Sink::close);
            }
        }
    }

    /// Reads once from an output and hands the bytes on. Answers whether there was any.
    fn take_output(&mut self, index: usize) -> bool {
        let Some(source) = self.sources.get_mut(index) else {
            return false;
        };
        let Some(file) = &mut source.file else {
            return false;
        };
        let read = loop {
            match file.read(&mut self.chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match read {
            Ok(n) if n > 0 => {
                let bytes = &self.chunk[..n];
                source.lines.feed(bytes, &mut self.log);
                let sinks = self.clients.iter_mut().flat_map(|c| &mut c.sinks);
                for sink in sinks.filter(|s| s.stream == source.stream) {
                    sink.put(bytes);
                }
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            // The end; a terminal says it with an error.
            _ => {
                source.file = None;
                source.lines.finish(&mut self.log);
                false
            }
        }
    }

    /// The container has ended: takes everything that is left in its outputs. What others still
    /// hold open is given up.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        for index in 0..self.sources.len() {
            while self.take_output(index) {}
            if let Some(source) = self.sources.get_mut(index)
                && source.file.take().is_some()
            {
                source.lines.finish(&mut self.log);
            }
        }
        self.input = None;
        self.unread = Vec::new();
        for client in &mut self.clients {
            client.stdin = None;
            for sink in &mut client.sinks {
                if sink.backlog.is_empty() {
                    sink.close();
                }
            }
        }
    }

    /// Reads from a client's stdin.
    fn take_input(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        let Some(mut stdin) = client.stdin.take() else {
            return;
        };
        if self.pull_input(&mut stdin) {
            if let Some(client) = self.clients.get_mut(index) {
                client.stdin = Some(stdin);
            }
        } else {
            self.client_input_ended();
        }
        self.push_input();
    }

    /// Moves what a client has sent into `unread`. Answers false at its end.
    fn pull_input(&mut self, stdin: &mut File) -> bool {
        match stdin.read(&mut self.chunk) {
            Ok(0) => false,
            Ok(n) => {
                if self.input.is_some() && !self.input_ends {
                    self.unread.extend_from_slice(&self.chunk[..n]);
                }
                true
            }
            Err(e) => matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        }
    }

    fn client_input_ended(&mut self) {
        if self.stdin_once && !self.terminal {
            self.input_ends = true;
            self.push_input();
        }
    }

    /// Gives the container what it takes of `unread`.
    fn push_input(&mut self) {
        let Some(input) = &mut self.input else {
            self.unread.clear();
            return;
        };
        let mut done = 0;
        let mut broken = false;
        while done < self.unread.len() {
            match input.write(&self.unread[done..]) {
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.unread.drain(..done);
        if broken {
            self.unread.clear();
        }
        let finished = self.input_ends && self.unread.is_empty();
        if finished || (broken && !self.terminal) {
            self.input = None;
        }
    }

    /// Whether the container's input was open and has been closed, so that nothing needs keeping.
    pub(super) fn input_closed(&self) -> bool {
        self.input.is_none()
    }
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        self.backlog.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        let mut done = 0;
        let mut broken = false;
        while done < self.backlog.len() {
            match file.write(&self.backlog[done..]) {
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.backlog.drain(..done);
        if broken {
            self.close();
        } else if self.backlog.is_empty() {
            self.stalled = None;
        } else if done > 0 || self.stalled.is_none() {
            self.stalled = Some(Instant::now());
        }
    }

    fn close(&mut self) {
        self.file = None;
        self.backlog = Vec::new();
        self.stalled = None;
    }
}
