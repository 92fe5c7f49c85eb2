//! The conversation with `criu swrk`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use knarr_sys::{fs, socket};
use prost::Message;

use crate::checkpoint::rpc::{Features, Request, Response, kind};
use crate::error::Error;

/// The oldest version that answers the question for its version.
const OLDEST: i32 = 3_00_00;

/// How long it may take to undo what it has begun.
const PATIENCE_MS: i32 = 10_000;

/// A program that speaks CRIU's RPC protocol.
#[derive(Debug, Clone)]
pub struct Criu {
    program: PathBuf,
    /// 31701 for 3.17.1.
    version: i32,
}

/// A running `criu swrk`, which answers one request.
pub struct Session {
    child: Child,
    socket: Option<OwnedFd>,
    ended: bool,
}

impl Criu {
    /// Finds the program and asks for its version.
    ///
    /// # Errors
    /// [`Error::Criu`] when there is none, or one that is too old or does not start.
    pub fn find(program: Option<&Path>) -> Result<Self, Error> {
        let program = program.unwrap_or(Path::new("criu")).to_path_buf();
        let mut criu = Self {
            program,
            version: 0,
        };
        let mut session = criu.start(Stdio::null(), &[])?;
        let request = Request {
            kind: kind::VERSION,
            ..Request::default()
        };
        let answer = session.ask(&request, |_, _| Ok(()));
        session.end();
        let version = answer?.version.unwrap_or_default();
        criu.version =
            version.major * 10_000 + version.minor * 100 + version.sublevel.unwrap_or_default();
        if version.gitid.as_ref().is_some_and(|g| !g.is_empty()) {
            // A build after this version has what the next one has.
            criu.version = version.major * 10_000 + (version.minor + 1) * 100;
        }
        criu.needs(OLDEST, "checkpoint and restore")?;
        Ok(criu)
    }

    /// Refuses what a version does not have yet.
    ///
    /// # Errors
    /// [`Error::Criu`].
    pub fn needs(&self, version: i32, what: &str) -> Result<(), Error> {
        if self.version >= version {
            return Ok(());
        }
        Err(Error::Criu(format!(
            "{what} needs version {}.{} or later, this is {}.{}",
            version / 10_000,
            version / 100 % 100,
            self.version / 10_000,
            self.version / 100 % 100
        )))
    }

    /// Whether it is of this version (31500 for 3.15) or later.
    pub fn is(&self, version: i32) -> bool {
        self.version >= version
    }

    /// Refuses what this kernel cannot do.
    ///
    /// # Errors
    /// [`Error::Criu`].
    pub fn check_features(&self, wanted: &Features) -> Result<(), Error> {
        let mut session = self.start(Stdio::null(), &[])?;
        let request = Request {
            kind: kind::FEATURE_CHECK,
            features: Some(wanted.clone()),
            ..Request::default()
        };
        let answer = session.ask(&request, |_, _| Ok(()));
        session.end();
        let has = answer?.features.unwrap_or_default();
        let lacks =
            |wanted: Option<bool>, has: Option<bool>| wanted == Some(true) && has == Some(false);
        for (name, wanted, has) in [
            ("memory tracking", wanted.mem_track, has.mem_track),
            ("lazy pages", wanted.lazy_pages, has.lazy_pages),
        ] {
            if lacks(wanted, has) {
                return Err(Error::Criu(format!("this kernel has no {name}")));
            }
        }
        Ok(())
    }

    /// Starts it with our standard output and error, and with descriptors that it inherits under
    /// their numbers.
    ///
    /// # Errors
    /// [`Error::Criu`] when there is no such program.
    pub fn start(&self, stdin: Stdio, inherited: &[OwnedFd]) -> Result<Session, Error> {
        let os = |e: knarr_sys::Errno| Error::os("start criu", e);
        let (ours, theirs) = socket::seqpacket_pair().map_err(os)?;
        // Out of the way of the streams, and of what a caller hands on.
        let theirs = fs::dup_at_least(theirs.as_fd(), 10).map_err(os)?;
        for fd in inherited.iter().chain([&theirs]) {
            fs::set_cloexec(fd.as_fd(), false).map_err(os)?;
        }
        let started = Command::new(&self.program)
            .arg("swrk")
            .arg(theirs.as_raw_fd().to_string())
            .stdin(stdin)
            .spawn();
        let child = started.map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                return Error::Criu(format!(
                    "{:?} is not installed, or not in $PATH",
                    self.program
                ));
            }
            Error::os(format!("start {:?}", self.program), e)
        })?;
        Ok(Session {
            child,
            socket: Some(ours),
            ended: false,
        })
    }
}

impl Session {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Sends a request and returns the answer; `notified` does what each step on the way asks for.
    ///
    /// # Errors
    /// [`Error::Criu`] when it fails or ends early; the errors of `notified`.
    pub fn ask(
        &mut self,
        request: &Request,
        mut notified: impl FnMut(&Response, Vec<OwnedFd>) -> Result<(), Error>,
    ) -> Result<Response, Error> {
        let os = |e: knarr_sys::Errno| Error::os("talk to criu", e);
        let gone = || Error::Criu("it ended without an answer".into());
        let socket = self.socket.as_ref().ok_or_else(gone)?;
        socket::send(socket.as_fd(), &request.encode_to_vec(), &[]).map_err(os)?;
        let mut buf = vec![0u8; 64 * 1024];
        loop {
            let (n, fds) = socket::recv(socket.as_fd(), &mut buf).map_err(os)?;
            if n == 0 {
                return Err(gone());
            }
            let answer = Response::decode(&buf[..n])
                .map_err(|e| Error::Criu(format!("an answer that is none: {e}")))?;
            if !answer.success {
                let mut cause = format!("errno {}", answer.errno.unwrap_or_default());
                if let Some(said) = &answer.message {
                    cause.push_str(": ");
                    cause.push_str(said.trim());
                }
                return Err(Error::Criu(cause));
            }
            if answer.kind != kind::NOTIFY {
                return Ok(answer);
            }
            let done = notified(&answer, fds);
            let reply = Request {
                kind: kind::NOTIFY,
                notify_success: Some(done.is_ok()),
                ..Request::default()
            };
            socket::send(socket.as_fd(), &reply.encode_to_vec(), &[]).map_err(os)?;
            done?;
        }
    }

    /// Waits for its end; whether that was a good one.
    pub fn end(&mut self) -> bool {
        // What waits for more requests ends when there are none.
        self.socket = None;
        self.ended = true;
        self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            // Cut off, it undoes what it has begun; killed, it could not.
            self.socket = None;
            let ended = knarr_sys::process::pidfd_open(self.pid())
                .and_then(|fd| fs::poll_readable(fd.as_fd(), PATIENCE_MS));
            if ended != Ok(true) {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

/// The last errors of a log, for a message.
pub fn errors_of(log: &Path) -> Option<String> {
    let lines = BufReader::new(File::open(log).ok()?).lines();
    let found: Vec<String> = lines
        .map_while(Result::ok)
        .filter(|l| l.contains("Error ("))
        .collect();
    let last = found.len().saturating_sub(3);
    let text = found.get(last..)?.join("; ");
    (!text.is_empty()).then_some(text)
}
