//! Frames. Payloads are handed on in pieces, so that a frame's length costs no memory.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use crate::error::Error;
use crate::streams::MAX_PIECE;

#[cfg(test)]
mod tests;

const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
const MAX_CONTROL: u64 = 125;

/// What comes out of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A piece of a message.
    Piece {
        /// It is the message's first.
        first: bool,
        /// It is the message's last.
        last: bool,
        bytes: Bytes,
    },
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// The client is done.
    Close,
}

/// Takes frames apart.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    inner: BufReader<R>,
    /// What is left of the current data frame.
    left: u64,
    last_frame: bool,
    mask: [u8; 4],
    in_message: bool,
    /// The next piece is a message's first.
    first: bool,
}

fn broken(what: &'static str) -> Error {
    Error::Protocol {
        protocol: "websocket",
        what,
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(inner: R) -> FrameReader<R> {
        FrameReader {
            inner: BufReader::with_capacity(MAX_PIECE, inner),
            left: 0,
            last_frame: false,
            mask: [0; 4],
            in_message: false,
            first: false,
        }
    }

    /// The next event; the connection's end is a [`Event::Close`] too.
    pub(crate) async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if self.left > 0 {
                return self.piece().await;
            }
            let Some(event) = self.frame().await? else {
                continue;
            };
            return Ok(event);
        }
    }

    async fn piece(&mut self) -> Result<Event, Error> {
        let length = usize::try_from(self.left)
            .unwrap_or(MAX_PIECE)
            .min(MAX_PIECE);
        let mut bytes = BytesMut::with_capacity(length);
        let mut limited = (&mut self.inner).take(length as u64);
        // Hand on what is there; waiting for the whole piece would delay what a user types.
        if limited
            .read_buf(&mut bytes)
            .await
            .map_err(Error::io("read"))?
            == 0
        {
            return Err(broken("the connection ended within a frame"));
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= self.mask[i % 4];
        }
        self.mask.rotate_left(bytes.len() % 4);
        self.left -= bytes.len() as u64;
        let last = self.left == 0 && self.last_frame;
        let first = std::mem::replace(&mut self.first, false);
        self.in_message = !last;
        Ok(Event::Piece {
            first,
            last,
            bytes: bytes.freeze(),
        })
    }

    /// Reads a frame's head, and all of a control frame.
    async fn frame(&mut self) -> Result<Option<Event>, Error> {
        let mut head = [0; 2];
        if self
            .inner
            .read(&mut head[..1])
            .await
            .map_err(Error::io("read"))?
            == 0
        {
            return Ok(Some(Event::Close));
        }
        self.inner
            .read_exact(&mut head[1..])
            .await
            .map_err(Error::io("read"))?;
        let (fin, opcode) = (head[0] & 0x80 != 0, head[0] & 0x0F);
        if head[0] & 0x70 != 0 {
            return Err(broken("reserved bits are set"));
        }
        if head[1] & 0x80 == 0 {
            return Err(broken("a client's frame must be masked"));
        }
        let length = match head[1] & 0x7F {
            126 => u64::from(self.inner.read_u16().await.map_err(Error::io("read"))?),
            127 => self.inner.read_u64().await.map_err(Error::io("read"))?,
            short => u64::from(short),
        };
        let mut mask = [0; 4];
        self.inner
            .read_exact(&mut mask)
            .await
            .map_err(Error::io("read"))?;
        if opcode >= CLOSE {
            if length > MAX_CONTROL || !fin {
                return Err(broken("a control frame that is too long"));
            }
            let mut payload = [0; MAX_CONTROL as usize];
            let payload = &mut payload[..length as usize];
            self.inner
                .read_exact(payload)
                .await
                .map_err(Error::io("read"))?;
            for (i, byte) in payload.iter_mut().enumerate() {
                *byte ^= mask[i % 4];
            }
            return match opcode {
                CLOSE => Ok(Some(Event::Close)),
                PING => Ok(Some(Event::Ping(Bytes::copy_from_slice(payload)))),
                PONG => Ok(None),
                _ => Err(broken("an unknown kind of frame")),
            };
        }
        match (opcode, self.in_message) {
            (CONTINUATION, true) => {}
            (TEXT | BINARY, false) => self.first = true,
            _ => return Err(broken("frames out of order")),
        }
        self.in_message = !fin;
        (self.left, self.last_frame, self.mask) = (length, fin, mask);
        if length > 0 {
            return Ok(None);
        }
        let first = if fin {
            std::mem::replace(&mut self.first, false)
        } else {
            false
        };
        // An empty frame in the middle says nothing.
        Ok(fin.then(|| Event::Piece {
            first,
            last: true,
            bytes: Bytes::new(),
        }))
    }
}

/// One whole message, or a control frame, as a server sends it. `prefix` goes before the payload.
pub(crate) fn encode(opcode: u8, prefix: &[u8], payload: &[u8]) -> Bytes {
    let length = prefix.len() + payload.len();
    let mut frame = BytesMut::with_capacity(length + 10);
    frame.put_u8(0x80 | opcode);
    match length {
        0..=125 => frame.put_u8(length as u8),
        126..=0xFFFF => {
            frame.put_u8(126);
            frame.put_u16(length as u16);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
    frame.put_slice(prefix);
    frame.put_slice(payload);
    frame.freeze()
}
