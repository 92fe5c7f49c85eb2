//! Byte streams cut out of one connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// No piece handed to a connection's writer is longer.
pub(crate) const MAX_PIECE: usize = 32 << 10;
/// So many pieces wait in one stream before the whole connection waits.
pub(crate) const PIECES: usize = 4;

/// What a connection's writer is asked to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Bytes of a stream.
    Data { stream: u32, bytes: Bytes },
    /// The end of a stream.
    End { stream: u32 },
    /// A frame that is ready to go.
    Raw(Bytes),
    /// SPDY: accept a stream.
    Accept { stream: u32 },
    /// Nothing comes any more: say goodbye and close the sending side.
    Close,
}

/// A terminal's size in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl TerminalSize {
    /// Reads `{"Width":80,"Height":24}`.
    pub(crate) fn parse(json: &serde_json::Value) -> Option<TerminalSize> {
        let side = |name| json.get(name)?.as_u64()?.try_into().ok();
        Some(TerminalSize {
            width: side("Width")?,
            height: side("Height")?,
        })
    }
}

/// What a client has opened. What it did not ask for is None.
#[derive(Debug)]
pub struct Streams {
    /// From the client; ends when the client ends it or is gone.
    pub stdin: Option<Reader>,
    /// To the client. Shutting it down or dropping it ends it.
    pub stdout: Option<Writer>,
    /// To the client.
    pub stderr: Option<Writer>,
    /// The client's terminal was resized. Only with a terminal.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// A stream from the other side.
#[derive(Debug)]
pub struct Reader {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Reader {
    pub(crate) fn new() -> (mpsc::Sender<Bytes>, Reader) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (
            sender,
            Reader {
                pieces,
                current: Bytes::new(),
            },
        )
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => self.current = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..n]);
        self.current.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// How much the other side takes of one stream. Most SPDY clients of Kubernetes neither announce
/// nor update windows, so a window counts only once the other side has shown that it keeps one.
#[derive(Debug)]
pub(crate) struct Flow(Mutex<FlowState>);

#[derive(Debug)]
struct FlowState {
    window: i64,
    kept: bool,
    closed: bool,
    waker: Option<Waker>,
}

impl Flow {
    pub(crate) fn new(window: i64, kept: bool) -> Arc<Flow> {
        Arc::new(Flow(Mutex::new(FlowState {
            window,
            kept,
            closed: false,
            waker: None,
        })))
    }

    fn change(&self, change: impl FnOnce(&mut FlowState)) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The other side takes so many bytes more (or fewer).
    pub(crate) fn widen(&self, by: i64) {
        self.change(|state| {
            state.window = state.window.saturating_add(by);
            state.kept = true;
        });
    }

    /// The other side takes nothing more at all.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Waits for room and takes up to `wanted` bytes of it.
    fn poll_take(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Poll::Ready(Err(gone()));
        }
        let room = if state.kept {
            usize::try_from(state.window).unwrap_or(0)
        } else {
            wanted
        };
        if room == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = room.min(wanted);
        state.window = state.window.saturating_sub(taken as i64);
        Poll::Ready(Ok(taken))
    }
}

/// A stream to the other side. Dropping it ends it.
#[derive(Debug)]
pub struct Writer {
    stream: u32,
    flow: Option<Arc<Flow>>,
    sender: PollSender<Outgoing>,
    ended: bool,
}

impl Writer {
    pub(crate) fn new(
        stream: u32,
        sender: mpsc::Sender<Outgoing>,
        flow: Option<Arc<Flow>>,
    ) -> Writer {
        Writer {
            stream,
            flow,
            sender: PollSender::new(sender),
            ended: false,
        }
    }
}

impl Writer {
    /// Dropping it no longer ends the stream.
    pub(crate) fn disarm(&mut self) {
        self.ended = true;
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(gone()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.sender.poll_reserve(cx)).map_err(|_| gone())?;
        let mut length = bytes.len().min(MAX_PIECE);
        if let Some(flow) = &self.flow {
            length = ready!(flow.poll_take(cx, length))?;
        }
        let piece = &bytes[..length];
        let data = Outgoing::Data {
            stream: self.stream,
            bytes: Bytes::copy_from_slice(piece),
        };
        self.sender.send_item(data).map_err(|_| gone())?;
        Poll::Ready(Ok(piece.len()))
    }

    /// Bytes are on their way once they are written.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            ready!(self.sender.poll_reserve(cx)).map_err(|_| gone())?;
            let end = Outgoing::End {
                stream: self.stream,
            };
            self.sender.send_item(end).map_err(|_| gone())?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Some(sender) = self.sender.get_ref() else {
            return;
        };
        let end = Outgoing::End {
            stream: self.stream,
        };
        if let Err(mpsc::error::TrySendError::Full(end)) = sender.try_send(end)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let sender = sender.clone();
            runtime.spawn(async move {
                // The connection may end first.
                let _ = sender.send(end).await;
            });
        }
    }
}
