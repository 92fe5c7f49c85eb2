//! One connection: a loop that reads and one that writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use super::frames::{self, Head};
use super::headers::{Deflater, Inflater, MAX_BLOCK};
use crate::error::Error;
use crate::streams::{Flow, MAX_PIECE, Outgoing, Reader, Writer};

/// No client has more streams open at a time.
const MAX_STREAMS: usize = 4096;
/// The other side is told of its window after so many bytes.
const WINDOW_STEP: u32 = 32 << 10;
/// A client that went away silently is found out by writing to it this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// A stream that the client has opened.
#[derive(Debug)]
pub(crate) struct NewStream {
    pub(crate) id: u32,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) reader: Reader,
    flow: Arc<Flow>,
}

impl NewStream {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Both directions.
    pub(crate) fn split(self, outgoing: mpsc::Sender<Outgoing>) -> (Reader, Writer) {
        (self.reader, Writer::new(self.id, outgoing, Some(self.flow)))
    }
}

/// New streams, until the client is gone.
pub(crate) type Incoming = mpsc::Receiver<NewStream>;

#[derive(Debug)]
struct Inbound {
    sender: Option<mpsc::Sender<Bytes>>,
    flow: Arc<Flow>,
    unreported: u32,
}

fn broken(what: &'static str) -> Error {
    Error::Protocol {
        protocol: "spdy",
        what,
    }
}

struct Receiver<R> {
    inner: BufReader<R>,
    inflater: Inflater,
    streams: BTreeMap<u32, Inbound>,
    last: u32,
    window: i64,
    window_kept: bool,
    outgoing: mpsc::Sender<Outgoing>,
    incoming: mpsc::Sender<NewStream>,
}

/// Reads until the client is gone. New streams go to `incoming`, their bytes to their readers.
pub(crate) async fn receive<R: AsyncRead + Unpin>(
    reader: R,
    outgoing: mpsc::Sender<Outgoing>,
    incoming: mpsc::Sender<NewStream>,
) -> Result<(), Error> {
    let mut receiver = Receiver {
        inner: BufReader::with_capacity(MAX_PIECE, reader),
        inflater: Inflater::new(),
        streams: BTreeMap::new(),
        last: 0,
        window: frames::INITIAL_WINDOW,
        window_kept: false,
        outgoing,
        incoming,
    };
    let result = receiver.run().await;
    for stream in receiver.streams.values() {
        stream.flow.close();
    }
    result
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            let mut head = [0; 8];
            if self
                .inner
                .read(&mut head[..1])
                .await
                .map_err(Error::io("read"))?
                == 0
            {
                return Ok(());
            }
            self.inner
                .read_exact(&mut head[1..])
                .await
                .map_err(Error::io("read"))?;
            match Head::parse(head).ok_or(broken("another version"))? {
                Head::Data {
                    stream,
                    flags,
                    length,
                } => self.data(stream, flags, length).await?,
                Head::Control {
                    kind,
                    flags,
                    length,
                } => {
                    if length as usize > MAX_BLOCK {
                        return Err(broken("a control frame that is too long"));
                    }
                    let mut payload = vec![0; length as usize];
                    self.inner
                        .read_exact(&mut payload)
                        .await
                        .map_err(Error::io("read"))?;
                    self.control(kind, flags, &payload).await?;
                }
            }
        }
    }

    async fn data(&mut self, id: u32, flags: u8, mut left: u32) -> Result<(), Error> {
        while left > 0 {
            let length = (left as usize).min(MAX_PIECE);
            let mut bytes = BytesMut::with_capacity(length);
            let mut limited = (&mut self.inner).take(length as u64);
            let n = limited
                .read_buf(&mut bytes)
                .await
                .map_err(Error::io("read"))?;
            if n == 0 {
                return Err(broken("the connection ended within a frame"));
            }
            left -= n as u32;
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if let Some(sender) = &stream.sender
                && sender.send(bytes.freeze()).await.is_err()
            {
                // Nobody reads it; the bytes are thrown away.
                stream.sender = None;
            }
            stream.unreported += n as u32;
            if stream.unreported >= WINDOW_STEP {
                let by = std::mem::take(&mut stream.unreported);
                self.say(frames::window_update(id, by)).await;
            }
        }
        if flags & frames::FIN != 0
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.sender = None;
        }
        Ok(())
    }

    async fn say(&mut self, frame: Bytes) {
        // A writer that has ended takes the connection with it.
        let _ = self.outgoing.send(Outgoing::Raw(frame)).await;
    }

    async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<(), Error> {
        let number = |at: usize| -> Result<u32, Error> {
            let bytes = payload.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
            bytes
                .map(|b| u32::from_be_bytes(*b))
                .ok_or(broken("a control frame cut off"))
        };
        match kind {
            frames::SYN_STREAM => {
                let id = number(0)? & 0x7FFF_FFFF;
                let block = payload.get(10..).ok_or(broken("a control frame cut off"))?;
                let headers = self.inflater.block(block)?;
                self.open(id, flags, headers).await?;
            }
            // Their headers say nothing here, but belong to the shared compression.
            frames::SYN_REPLY | frames::HEADERS => {
                let block = payload.get(4..).ok_or(broken("a control frame cut off"))?;
                self.inflater.block(block)?;
                if flags & frames::FIN != 0
                    && let Some(stream) = self.streams.get_mut(&(number(0)? & 0x7FFF_FFFF))
                {
                    stream.sender = None;
                }
            }
            frames::RST_STREAM => {
                if let Some(stream) = self.streams.remove(&(number(0)? & 0x7FFF_FFFF)) {
                    stream.flow.close();
                }
            }
            frames::SETTINGS => self.settings(payload),
            frames::PING if number(0)? % 2 == 1 => self.say(frames::ping(number(0)?)).await,
            frames::WINDOW_UPDATE => {
                let (id, by) = (number(0)? & 0x7FFF_FFFF, number(4)? & 0x7FFF_FFFF);
                self.window_kept = true;
                if let Some(stream) = self.streams.get(&id) {
                    stream.flow.widen(i64::from(by));
                }
            }
            // A ping's answer, a goodbye (the end of the connection follows), the unknown.
            _ => {}
        }
        Ok(())
    }

    async fn open(
        &mut self,
        id: u32,
        flags: u8,
        headers: Vec<(String, String)>,
    ) -> Result<(), Error> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(broken("a stream number out of order"));
        }
        self.last = id;
        // A stream stays in the table while somebody may still write to it.
        self.streams
            .retain(|_, s| s.sender.is_some() || Arc::strong_count(&s.flow) > 1);
        if self.streams.len() >= MAX_STREAMS {
            self.say(frames::rst(id, frames::REFUSED)).await;
            return Ok(());
        }
        let (sender, reader) = Reader::new();
        let flow = Flow::new(self.window, self.window_kept);
        let sender = (flags & frames::FIN == 0).then_some(sender);
        let inbound = Inbound {
            sender,
            flow: Arc::clone(&flow),
            unreported: 0,
        };
        self.streams.insert(id, inbound);
        let _ = self.outgoing.send(Outgoing::Accept { stream: id }).await;
        let new = NewStream {
            id,
            headers,
            reader,
            flow,
        };
        if self.incoming.send(new).await.is_err() {
            self.say(frames::rst(id, frames::REFUSED)).await;
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        for entry in payload.get(4..).unwrap_or_default().chunks_exact(8) {
            let (Some(id), Some(value)) = (entry.first_chunk::<4>(), entry.last_chunk::<4>())
            else {
                continue;
            };
            let (id, value) = (u32::from_be_bytes(*id), u32::from_be_bytes(*value));
            if id & 0x00FF_FFFF == frames::SETTING_WINDOW {
                let window = i64::from(value & 0x7FFF_FFFF);
                for stream in self.streams.values() {
                    stream.flow.widen(window - self.window);
                }
                self.window = window;
                self.window_kept = true;
            }
        }
    }
}

/// Writes what is asked for until it is asked to close or the client is gone.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Result<(), Error> {
    let mut deflater = Deflater::new()?;
    let mut open = BTreeSet::new();
    let mut last = 0;
    // A server's pings have even numbers.
    let mut beat: u32 = 0;
    loop {
        let item = match tokio::time::timeout(HEARTBEAT, outgoing.recv()).await {
            Ok(Some(item)) => item,
            Ok(None) => Outgoing::Close,
            Err(_) => {
                beat = beat.wrapping_add(2);
                Outgoing::Raw(frames::ping(beat))
            }
        };
        let frame = match item {
            Outgoing::Accept { stream } => {
                open.insert(stream);
                last = stream;
                frames::syn_reply(stream, &deflater.block(&[])?)
            }
            Outgoing::Data { stream, bytes } if open.contains(&stream) => {
                frames::data(stream, false, &bytes)
            }
            Outgoing::End { stream } if open.remove(&stream) => frames::data(stream, true, &[]),
            Outgoing::Data { .. } | Outgoing::End { .. } => continue,
            Outgoing::Raw(frame) => frame,
            Outgoing::Close => {
                writer
                    .write_all(&frames::goaway(last))
                    .await
                    .map_err(Error::io("write"))?;
                break;
            }
        };
        writer.write_all(&frame).await.map_err(Error::io("write"))?;
    }
    writer.shutdown().await.map_err(Error::io("close"))
}
