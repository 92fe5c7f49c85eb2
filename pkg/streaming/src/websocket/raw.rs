//! A byte stream inside binary messages: what `SPDY/3.1+portforward.k8s.io` tunnels.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::frames::{BINARY, CLOSE, Event, FrameReader, PONG, encode};
use crate::error::Error;
use crate::streams::MAX_PIECE;

const GOODBYE: Duration = Duration::from_secs(5);

/// Moves bytes between a WebSocket and `inside` until either ends.
pub(crate) async fn pump<T: AsyncRead + AsyncWrite>(
    socket: T,
    inside: DuplexStream,
) -> Result<(), Error> {
    let (reader, mut writer) = tokio::io::split(socket);
    let (mut from_inside, mut to_inside) = tokio::io::split(inside);
    let (pongs, mut pong) = tokio::sync::mpsc::channel(4);
    let inward = async move {
        let mut frames = FrameReader::new(reader);
        loop {
            match frames.next().await? {
                Event::Close => {
                    to_inside.shutdown().await.map_err(Error::io("close"))?;
                    return Ok::<_, Error>(());
                }
                Event::Ping(payload) => {
                    let _ = pongs.try_send(payload);
                }
                Event::Piece { bytes, .. } => {
                    to_inside
                        .write_all(&bytes)
                        .await
                        .map_err(Error::io("write"))?;
                }
            }
        }
    };
    let outward = async move {
        let mut buffer = vec![0; MAX_PIECE];
        loop {
            let frame = tokio::select! {
                n = from_inside.read(&mut buffer) => match n.map_err(Error::io("read"))? {
                    0 => break,
                    n => encode(BINARY, &[], &buffer[..n]),
                },
                Some(payload) = pong.recv() => encode(PONG, &[], &payload),
            };
            writer.write_all(&frame).await.map_err(Error::io("write"))?;
        }
        let normal = 1000_u16.to_be_bytes();
        writer
            .write_all(&encode(CLOSE, &normal, &[]))
            .await
            .map_err(Error::io("write"))?;
        writer.shutdown().await.map_err(Error::io("close"))
    };
    tokio::pin!(inward, outward);
    // Once one side has ended, the other gets a moment to say goodbye.
    tokio::select! {
        result = &mut inward => match tokio::time::timeout(GOODBYE, outward).await {
            Ok(other) => result.and(other),
            Err(_) => result,
        },
        result = &mut outward => match tokio::time::timeout(GOODBYE, inward).await {
            Ok(other) => result.and(other),
            Err(_) => result,
        },
    }
}
