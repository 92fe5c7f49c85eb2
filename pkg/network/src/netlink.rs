//! Netlink messages: building, sending, reading the answers. Synchronous: the kernel has acted
//! when a send returns, and its answers are waiting then.

pub mod route;

use crate::Error;
use knarr_sys::{Errno, netlink};
use std::os::fd::{AsFd, OwnedFd};

const HEADER: usize = 16;
const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;
const ACK_TLVS: u16 = 0x200;
const NESTED: u16 = 0x8000;

/// A buffer of netlink messages with their attributes.
#[derive(Debug, Default, Clone)]
pub struct Buf {
    bytes: Vec<u8>,
    /// Where the open message begins.
    start: usize,
    count: u32,
}

impl Buf {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The encoded messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many messages there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds a message: its type, flags (REQUEST is implied), fixed part, and attributes.
    pub fn message(&mut self, kind: u16, flags: u16, body: &[u8], attrs: impl FnOnce(&mut Self)) {
        self.start = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(body);
        self.pad();
        let start = self.start;
        attrs(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Sets the ACK flag of the message added last.
    pub(crate) fn acknowledge_last(&mut self) {
        if let Some(b) = self.bytes.get_mut(self.start + 6) {
            *b |= 4;
        }
    }

    /// Appends fixed bytes inside a nested attribute (such as a peer's ifinfomsg).
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// An attribute of bytes.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A 32-bit attribute in the machine's order (rtnetlink).
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// A 32-bit attribute in network order (nfnetlink).
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// An attribute that is a text with its final NUL.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut b = Vec::with_capacity(value.len() + 1);
        b.extend_from_slice(value.as_bytes());
        b.push(0);
        self.attr(kind, &b);
    }

    /// An attribute made of attributes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inner(self);
        let len = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

/// One answer of the kernel: its type and what follows the header.
pub struct Answer {
    /// The message's type.
    pub kind: u16,
    /// Fixed part and attributes.
    pub body: Vec<u8>,
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).and_then(|s| s.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The attributes in these bytes: type without flags, and value.
pub fn attrs(mut b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(b, 0));
        if b.len() < 4 || len < 4 || len > b.len() {
            return None;
        }
        let item = (u16_at(b, 2) & 0x3fff, &b[4..len]);
        b = b.get((len + 3) & !3..).unwrap_or(&[]);
        Some(item)
    })
}

/// The value of one attribute.
pub fn attr(b: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(b).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A socket to one of the kernel's netlink families, in the network namespace of the thread that
/// opened it. Not for use by several threads at once.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buf: Vec<u8>,
    send_limit: usize,
}

impl Socket {
    /// A socket to rtnetlink.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn route() -> Result<Self, Error> {
        Self::open(netlink::ROUTE)
    }

    /// A socket to netfilter.
    ///
    /// # Errors
    /// `EMFILE`, `EPROTONOSUPPORT` where the kernel has no netfilter.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(netlink::NETFILTER)
    }

    fn open(protocol: i32) -> Result<Self, Error> {
        let fd = netlink::open(protocol).map_err(|e| failed("open netlink socket", "", e))?;
        Ok(Self { fd, buf: Vec::new(), send_limit: 128 * 1024 })
    }

    fn send(&mut self, bytes: &[u8], what: &str) -> Result<(), Error> {
        if bytes.len() * 2 > self.send_limit {
            self.send_limit = bytes.len() * 2;
            netlink::set_buffers(self.fd.as_fd(), self.send_limit, self.send_limit)
                .map_err(|e| failed(what, "socket buffer", e))?;
        }
        netlink::send(self.fd.as_fd(), bytes).map_err(|e| failed(what, "send", e))
    }

    /// Sends the messages (each with the ACK flag, or the last) and gives the first error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn request(&mut self, messages: &Buf, what: &str) -> Result<Vec<Answer>, Error> {
        self.send(messages.bytes(), what)?;
        let mut first: Option<Error> = None;
        let mut out = Vec::new();
        loop {
            let n = match netlink::recv(self.fd.as_fd(), &mut self.buf, false) {
                Ok(n) => n,
                Err(Errno::AGAIN) => break,
                Err(e) => {
                    first.get_or_insert(failed(what, "receive", e));
                    if e.0 == 105 {
                        continue; // ENOBUFS is told once; what did arrive is still queued.
                    }
                    break;
                }
            };
            for (kind, flags, body) in split(&self.buf[..n]) {
                if kind == MSG_ERROR {
                    let code = u32_at(body, 0).cast_signed();
                    if code != 0 && first.is_none() {
                        first = Some(failed(what, &detail(flags, body), Errno(-code)));
                    }
                } else {
                    out.push(Answer { kind, body: body.to_vec() });
                }
            }
        }
        first.map_or(Ok(out), Err)
    }

    /// Asks for a listing and calls `each` with the type and body of its messages.
    ///
    /// # Errors
    /// The kernel's. A listing that changed while it was read is read to its end all the same.
    pub fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        attrs: impl FnOnce(&mut Buf),
        what: &str,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(kind, DUMP, body, attrs);
        self.send(b.bytes(), what)?;
        loop {
            let n = netlink::recv(self.fd.as_fd(), &mut self.buf, true)
                .map_err(|e| failed(what, "receive", e))?;
            for (kind, flags, body) in split(&self.buf[..n]) {
                match kind {
                    MSG_DONE => return Ok(()),
                    MSG_ERROR => {
                        let code = u32_at(body, 0).cast_signed();
                        if code == 0 {
                            return Ok(());
                        }
                        return Err(failed(what, &detail(flags, body), Errno(-code)));
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

fn split(mut b: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32_at(b, 0) as usize;
        if b.len() < HEADER || len < HEADER || len > b.len() {
            return None;
        }
        let item = (u16_at(b, 4), u16_at(b, 6), &b[HEADER..len]);
        b = b.get((len + 3) & !3..).unwrap_or(&[]);
        Some(item)
    })
}

fn detail(flags: u16, body: &[u8]) -> String {
    if flags & ACK_TLVS == 0 {
        return String::new();
    }
    // Error number, then the header of the message it is about (capped to that).
    let text = body.get(4 + HEADER..).and_then(|b| attr(b, 1)).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
}

pub(crate) fn failed(what: &str, detail: &str, source: Errno) -> Error {
    Error::Netlink { what: what.to_owned(), detail: detail.to_owned(), source }
}
