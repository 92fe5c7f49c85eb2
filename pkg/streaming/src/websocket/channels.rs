//! Channels over a WebSocket: each message begins with its channel's number.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frames::{BINARY, CLOSE, Event, FrameReader, PONG, TEXT, encode};
use crate::error::Error;
use crate::streams::Outgoing;

/// Base64 messages are put together before they are decoded; no longer than this.
const MAX_TEXT: usize = 1 << 20;
/// In version 5 a message on this channel closes the channel it names.
const CLOSE_CHANNEL: u8 = 255;
/// Close frame with code 1000, a normal end.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// Text messages, base64, the channel as a digit.
    pub(crate) base64: bool,
    /// Channels can be closed one by one.
    pub(crate) closes: bool,
}

/// Hands what the client sends to its channels until the client is gone. A channel ends when its
/// sender is removed.
pub(crate) async fn receive<R: AsyncRead + Unpin>(
    mut frames: FrameReader<R>,
    dialect: Dialect,
    mut channels: BTreeMap<u8, mpsc::Sender<Bytes>>,
    outgoing: mpsc::Sender<Outgoing>,
) -> Result<(), Error> {
    let mut channel = None;
    let mut text = BytesMut::new();
    loop {
        let (first, last, mut bytes) = match frames.next().await? {
            Event::Close => return Ok(()),
            Event::Ping(payload) => {
                // When the client reads nothing, it does not miss the answer either.
                let _ = outgoing.try_send(Outgoing::Raw(encode(PONG, &[], &payload)));
                continue;
            }
            Event::Piece { first, last, bytes } => (first, last, bytes),
        };
        if first {
            channel = None;
            text.clear();
        }
        if dialect.base64 {
            if text.len() + bytes.len() > MAX_TEXT {
                return Err(Error::Protocol {
                    protocol: "websocket",
                    what: "a text too long",
                });
            }
            text.extend_from_slice(&bytes);
            if !last {
                continue;
            }
            let Some((&digit, body)) = text.split_first() else {
                continue;
            };
            channel = Some(digit.wrapping_sub(b'0'));
            bytes = STANDARD
                .decode(body)
                .map(Bytes::from)
                .map_err(|_| Error::Protocol {
                    protocol: "websocket",
                    what: "a text that is not base64",
                })?;
        } else if channel.is_none() {
            if bytes.is_empty() {
                continue;
            }
            channel = Some(bytes.get_u8());
        }
        match channel {
            Some(CLOSE_CHANNEL) if dialect.closes => {
                if let Some(&closed) = bytes.first() {
                    channels.remove(&closed);
                }
            }
            Some(number) if !bytes.is_empty() => {
                if let Some(sender) = channels.get(&number)
                    && sender.send(bytes).await.is_err()
                {
                    channels.remove(&number);
                }
            }
            _ => {}
        }
    }
}

/// Sends what the streams give until one asks to close or the client is gone.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    mut writer: W,
    dialect: Dialect,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Result<(), Error> {
    while let Some(item) = outgoing.recv().await {
        let frame = match item {
            Outgoing::Data { stream, bytes } => message(dialect, stream as u8, &bytes),
            Outgoing::Raw(frame) => frame,
            // The end of a channel shows as the end of the connection.
            Outgoing::End { .. } | Outgoing::Accept { .. } => continue,
            Outgoing::Close => {
                writer
                    .write_all(&encode(CLOSE, &NORMAL, &[]))
                    .await
                    .map_err(Error::io("write"))?;
                break;
            }
        };
        writer.write_all(&frame).await.map_err(Error::io("write"))?;
    }
    writer.shutdown().await.map_err(Error::io("write"))
}

/// A message on a channel.
pub(crate) fn message(dialect: Dialect, channel: u8, bytes: &[u8]) -> Bytes {
    if dialect.base64 {
        encode(TEXT, &[b'0' + channel], STANDARD.encode(bytes).as_bytes())
    } else {
        encode(BINARY, &[channel], bytes)
    }
}

#[cfg(test)]
mod fuzz;
