//! One client's connection, without waiting.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use knarr_sys::supervise::{Events, send_with_fds};

use crate::error::Error;
use crate::proto::{MAX_FRAME, Reply, Request};

/// What a connection is for, once its first request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing asked yet, or a question that was answered.
    Plain,
    /// Waits for the container's end.
    Waiter,
    /// Waits for a runtime program that makes its process.
    Starting,
    /// Controls this process.
    Exec { pid: i32, kill: bool },
    /// An attached client.
    Attached,
    /// Wants the container gone.
    Deleter,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) role: Role,
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    pub(super) ended: bool,
}

impl Connection {
    pub(super) fn new(id: u64, stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            id,
            role: Role::Plain,
            stream,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            ended: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn events(&self) -> Events {
        if self.outgoing.is_empty() {
            Events::READ
        } else {
            Events::WRITE
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Reads what has come. The end or an error sets `ended`.
    pub(super) fn fill(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    self.incoming.extend_from_slice(&chunk[..n]);
                    if n == chunk.len() && self.incoming.len() <= MAX_FRAME {
                        continue;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
            return;
        }
    }

    /// The next complete request.
    pub(super) fn request(&mut self) -> Result<Option<Request>, Error> {
        let Some((head, _)) = self.incoming.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(Error::Protocol("a frame that is too long"));
        }
        let Some(body) = self.incoming.get(4..4 + length) else {
            return Ok(None);
        };
        let request = serde_json::from_slice(body).map_err(|source| Error::Json {
            what: "request",
            source,
        })?;
        self.incoming.drain(..4 + length);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        Ok(Some(request))
    }

    /// Sends a reply, now or when there is room.
    pub(super) fn reply(&mut self, reply: &Reply, fds: Vec<OwnedFd>) {
        match super::frame(reply) {
            Ok(bytes) => self.outgoing.push_back((bytes, fds)),
            Err(e) => {
                super::note(&e.to_string());
                self.ended = true;
            }
        }
        self.flush();
    }

    pub(super) fn refuse(&mut self, error: &Error) {
        let reply = Reply::Error {
            kind: error.refusal(),
            message: error.to_string(),
        };
        self.reply(&reply, Vec::new());
    }

    pub(super) fn flush(&mut self) {
        while let Some((bytes, fds)) = self.outgoing.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match send_with_fds(self.stream.as_fd(), bytes, &borrowed) {
                Ok(n) => {
                    bytes.drain(..n);
                    fds.clear();
                    if bytes.is_empty() {
                        self.outgoing.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.outgoing.clear();
                    self.ended = true;
                }
            }
        }
    }
}
