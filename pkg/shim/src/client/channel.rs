//! One connection to a shim.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_sys::supervise::recv_with_fds;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::error::Error;
use crate::proto::{MAX_FRAME, Reply, Request};
use crate::server::SOCKET_FILE;

/// The kernel's limit on a socket's path, less the final NUL.
const MAX_SOCKET_PATH: usize = 107;

#[derive(Debug)]
pub(super) struct Channel {
    stream: Arc<UnixStream>,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Channel {
    pub(super) async fn connect(dir: &Path) -> io::Result<Channel> {
        let path = dir.join(SOCKET_FILE);
        let stream = if path.as_os_str().len() <= MAX_SOCKET_PATH {
            UnixStream::connect(&path).await?
        } else {
            let folder = File::open(dir)?;
            let short = PathBuf::from(format!(
                "/proc/self/fd/{}/{SOCKET_FILE}",
                folder.as_raw_fd()
            ));
            UnixStream::connect(short).await?
        };
        Ok(Channel {
            stream: Arc::new(stream),
            buffer: Vec::new(),
            fds: Vec::new(),
        })
    }

    pub(super) fn stream(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }

    pub(super) async fn send(&self, request: &Request) -> Result<(), Error> {
        Channel::send_over(&self.stream, request).await
    }

    pub(super) async fn send_over(stream: &UnixStream, request: &Request) -> Result<(), Error> {
        let bytes = crate::server::frame(request)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            stream
                .writable()
                .await
                .map_err(Error::system("send to the shim"))?;
            match stream.try_write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Error::system("send to the shim")(e)),
            }
        }
        Ok(())
    }

    /// The next reply with its descriptors; None when the shim closed the connection.
    /// Cancellation-safe.
    pub(super) async fn receive(&mut self) -> Result<Option<(Reply, Vec<OwnedFd>)>, Error> {
        loop {
            if let Some(reply) = self.take_frame()? {
                return Ok(Some((reply, std::mem::take(&mut self.fds))));
            }
            self.stream
                .readable()
                .await
                .map_err(Error::system("receive from the shim"))?;
            let mut chunk = [0; 4096];
            let received = self.stream.try_io(Interest::READABLE, || {
                recv_with_fds(self.stream.as_fd(), &mut chunk)
            });
            match received {
                Ok((0, _)) => return Ok(None),
                Ok((n, fds)) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    self.fds.extend(fds);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Error::system("receive from the shim")(e)),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Reply>, Error> {
        let Some((head, _)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(Error::Protocol("a frame that is too long"));
        }
        let Some(body) = self.buffer.get(4..4 + length) else {
            return Ok(None);
        };
        let reply = serde_json::from_slice(body).map_err(|source| Error::Json {
            what: "shim's reply",
            source,
        })?;
        self.buffer.drain(..4 + length);
        Ok(Some(reply))
    }
}
