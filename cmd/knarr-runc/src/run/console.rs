//! Terminals: handing the master over, or relaying it to our own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use knarr_sys::pty::{self, RawMode};
use knarr_sys::{fs, socket};

use crate::args::Problem;

/// Sends a terminal's master to the socket of whoever wants it.
pub fn send_console(path: &str, master: &OwnedFd) -> Result<(), Problem> {
    let failed = |e: std::io::Error| Problem::new(format!("console socket {path:?}: {e}"));
    let stream = UnixStream::connect(path).map_err(failed)?;
    socket::send(stream.as_fd(), b"/dev/ptmx", &[master.as_fd()]).map_err(|e| failed(e.into()))
}

/// Passes data between our standard streams and a terminal.
pub struct Relay {
    master: File,
    stdin: Option<File>,
    _raw: Option<RawMode>,
}

impl Relay {
    /// Puts our own terminal, when there is one, into raw mode.
    pub fn new(master: OwnedFd) -> Result<Self, Problem> {
        let own = std::io::stdin().as_fd().try_clone_to_owned()?;
        let raw = pty::raw_mode(own.try_clone()?).ok();
        let relay = Self {
            master: master.into(),
            stdin: Some(own.into()),
            _raw: raw,
        };
        relay.resize();
        Ok(relay)
    }

    /// Takes over the size of our own terminal.
    pub fn resize(&self) {
        if let Ok((rows, columns)) = pty::size(std::io::stdin().as_fd()) {
            let _ = pty::set_size(self.master.as_fd(), rows, columns);
        }
    }

    /// Moves data until `signals` is readable.
    pub fn pump(&mut self, signals: BorrowedFd<'_>) -> Result<(), Problem> {
        loop {
            let mut watched = vec![signals, self.master.as_fd()];
            if let Some(stdin) = &self.stdin {
                watched.push(stdin.as_fd());
            }
            let ready = fs::poll_many(&watched, -1)?;
            let is_ready = |n: usize| ready.get(n).copied().unwrap_or(false);
            if is_ready(1) && !self.output() {
                // The other end is closed; only signals are left to wait for.
                fs::poll_readable(signals, -1)?;
                return Ok(());
            }
            if is_ready(2) {
                self.input();
            }
            if is_ready(0) {
                return Ok(());
            }
        }
    }

    fn output(&mut self) -> bool {
        let mut buf = [0u8; 16 * 1024];
        match self.master.read(&mut buf) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                let mut out = std::io::stdout();
                out.write_all(&buf[..n]).and_then(|()| out.flush()).is_ok()
            }
        }
    }

    fn input(&mut self) {
        let mut buf = [0u8; 4096];
        let n = self
            .stdin
            .as_mut()
            .map_or(0, |f| f.read(&mut buf).unwrap_or(0));
        if n == 0 {
            // Our input has ended: tell the terminal as a user would.
            let _ = self.master.write_all(&[4]);
            self.stdin = None;
        } else {
            let _ = self.master.write_all(&buf[..n]);
        }
    }

    /// What the program wrote last.
    pub fn drain(&mut self) {
        while fs::poll_readable(self.master.as_fd(), 0).unwrap_or(false) && self.output() {}
    }
}
