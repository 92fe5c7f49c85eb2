//! Pipes and terminals as async streams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use knarr_sys::supervise::{set_blocking, set_window_size};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::Error;

/// One descriptor, shared by the reading and the writing side of a terminal.
#[derive(Debug, Clone)]
pub(super) struct Terminal(Arc<AsyncFd<File>>);

impl Terminal {
    pub(super) fn new(fd: OwnedFd) -> Result<Terminal, Error> {
        set_blocking(fd.as_fd(), false).map_err(Error::system("make a stream non-blocking"))?;
        // Its unsafe successor exists for types whose descriptor may change; a file's does not.
        #[allow(deprecated)]
        let fd = AsyncFd::new(File::from(fd)).map_err(Error::system("register a stream"))?;
        Ok(Terminal(Arc::new(fd)))
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        set_window_size(self.0.as_fd(), columns, rows).map_err(Error::system("resize the terminal"))
    }

    pub(super) fn input(&self) -> Input {
        Input(self.clone())
    }

    pub(super) fn output(&self) -> Output {
        Output(self.clone())
    }
}

/// A stream into a container. Dropping it closes it.
#[derive(Debug)]
pub struct Input(Terminal);

/// A stream out of a container.
#[derive(Debug)]
pub struct Output(Terminal);

/// What a terminal's master answers once nobody has the other side open.
fn is_hangup(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

impl AsyncRead for Output {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let fd = &self.0.0;
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|fd| fd.get_ref().read(unfilled)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(e)) if is_hangup(&e) => return Poll::Ready(Ok(())),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let fd = &self.0.0;
        loop {
            let mut guard = ready!(fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| fd.get_ref().write(bytes)) {
                Ok(Err(e)) if is_hangup(&e) => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing by itself: drop the stream to close it.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
