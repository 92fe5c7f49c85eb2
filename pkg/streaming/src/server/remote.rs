//! Exec and attach over either wire.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;

use super::{ExecResult, status};
use crate::error::Error;
use crate::spdy;
use crate::streams::{Outgoing, Reader, Streams, TerminalSize, Writer};
use crate::websocket::FrameReader;
use crate::websocket::channels::{self, Dialect};

/// A client that opens fewer streams than it announced is given up after this.
const OPENING: Duration = Duration::from_secs(30);
/// How long a client may take to hang up after all is said.
const GOODBYE: Duration = Duration::from_secs(5);
/// A resize message is short.
const MAX_RESIZE: usize = 1 << 10;
/// What waits for the writer before the streams wait.
pub(super) const QUEUE: usize = 8;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// What carries the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Spdy,
    Channels(Dialect),
    /// SPDY inside a WebSocket.
    Tunnel,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) wire: Wire,
    pub(super) json_status: bool,
}

/// Which streams there are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wants {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) resize: bool,
}

/// Serves one session. `call` is dropped when the client is gone.
pub(super) async fn run<T, F, R>(socket: T, kind: Kind, wants: Wants, call: F) -> Result<(), Error>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
    F: FnOnce(Streams) -> R,
    R: Future<Output = ExecResult>,
{
    let (reader, writer) = tokio::io::split(socket);
    let (outgoing, queue) = mpsc::channel(QUEUE);
    match kind.wire {
        Wire::Channels(dialect) => {
            let (streams, channels) = open_channels(wants, &outgoing);
            greet(&outgoing, dialect, wants).await;
            let receive = channels::receive(
                FrameReader::new(reader),
                dialect,
                channels,
                outgoing.clone(),
            );
            let send = channels::send(writer, dialect, queue);
            let ids = Ids {
                streams: Vec::new(),
                error: u32::from(ERROR),
            };
            let work = work(async { Ok((streams, ids)) }, call, kind, outgoing);
            drive(receive, send, work).await
        }
        Wire::Spdy => {
            let (incoming_sender, incoming) = mpsc::channel(QUEUE);
            let receive = spdy::receive(reader, outgoing.clone(), incoming_sender);
            let send = spdy::send(writer, queue);
            let opening = open_spdy(incoming, wants, outgoing.clone());
            drive(receive, send, work(opening, call, kind, outgoing)).await
        }
        Wire::Tunnel => Err(Error::Protocol {
            protocol: "websocket",
            what: "a tunnel for exec",
        }),
    }
}

/// Runs a connection's three parts: whichever way it ends, all of them end.
pub(super) async fn drive(
    receive: impl Future<Output = Result<(), Error>>,
    send: impl Future<Output = Result<(), Error>>,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    tokio::pin!(receive, send, work);
    let mut worked = false;
    // The writer ends after the work did, or when the client takes nothing any more.
    let sent = loop {
        tokio::select! {
            result = &mut work, if !worked => {
                worked = true;
                // Streams that never came to be are no reason to keep the client waiting.
                result?;
            }
            result = &mut send => break result,
            // The client is gone: what it asked for is dropped.
            result = &mut receive => return result,
        }
    };
    sent?;
    // Closing with unread bytes would take back what the client has not read yet.
    match tokio::time::timeout(GOODBYE, receive).await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

/// The streams' numbers on the wire, for ending them.
#[derive(Debug)]
struct Ids {
    streams: Vec<u32>,
    error: u32,
}

async fn work<F, R>(
    opening: impl Future<Output = Result<(Streams, Ids), Error>>,
    call: F,
    kind: Kind,
    outgoing: mpsc::Sender<Outgoing>,
) -> Result<(), Error>
where
    F: FnOnce(Streams) -> R,
    R: Future<Output = ExecResult>,
{
    let (streams, ids) = opening.await?;
    let result = call(streams).await;
    let text = status::text(&result, kind.json_status);
    let mut last = Vec::new();
    last.extend(ids.streams.iter().map(|&stream| Outgoing::End { stream }));
    if !text.is_empty() {
        last.push(Outgoing::Data {
            stream: ids.error,
            bytes: Bytes::from(text),
        });
    }
    last.push(Outgoing::End { stream: ids.error });
    last.push(Outgoing::Close);
    for item in last {
        if outgoing.send(item).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn open_channels(
    wants: Wants,
    outgoing: &mpsc::Sender<Outgoing>,
) -> (Streams, BTreeMap<u8, mpsc::Sender<Bytes>>) {
    let mut channels = BTreeMap::new();
    let mut inward = |number| {
        let (sender, reader) = Reader::new();
        channels.insert(number, sender);
        reader
    };
    let stdin = wants.stdin.then(|| inward(STDIN));
    let resize = wants.resize.then(|| resizes(inward(RESIZE)));
    let outward = |number: u8| Writer::new(u32::from(number), outgoing.clone(), None);
    let stdout = wants.stdout.then(|| outward(STDOUT));
    let stderr = wants.stderr.then(|| outward(STDERR));
    (
        Streams {
            stdin,
            stdout,
            stderr,
            resize,
        },
        channels,
    )
}

/// An empty message tells the client that the streams are open.
async fn greet(outgoing: &mpsc::Sender<Outgoing>, dialect: Dialect, wants: Wants) {
    let channel = match wants {
        Wants { stdout: true, .. } => STDOUT,
        Wants { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    let _ = outgoing
        .send(Outgoing::Raw(channels::message(dialect, channel, &[])))
        .await;
}

async fn open_spdy(
    mut incoming: spdy::Incoming,
    wants: Wants,
    outgoing: mpsc::Sender<Outgoing>,
) -> Result<(Streams, Ids), Error> {
    let mut streams = Streams {
        stdin: None,
        stdout: None,
        stderr: None,
        resize: None,
    };
    let (mut ids, mut error) = (Vec::new(), None);
    let deadline = tokio::time::Instant::now() + OPENING;
    // A resize stream comes from the third version on, after the others or not at all.
    let open = |s: &Streams, error: Option<u32>| {
        error.is_some()
            && s.stdin.is_some() == wants.stdin
            && s.stdout.is_some() == wants.stdout
            && s.stderr.is_some() == wants.stderr
    };
    let mut resize = wants.resize;
    loop {
        if open(&streams, error) && !resize {
            break;
        }
        let until = if open(&streams, error) {
            tokio::time::Instant::now() + Duration::from_millis(500)
        } else {
            deadline
        };
        let new = match tokio::time::timeout_at(until, incoming.recv()).await {
            Ok(Some(new)) => new,
            Ok(None) => return Err(Error::Timeout),
            // An old client with a terminal but without resizing.
            Err(_) if open(&streams, error) => break,
            Err(_) => return Err(Error::Timeout),
        };
        let kind = new.header("streamtype").unwrap_or_default().to_owned();
        let id = new.id;
        let (reader, writer) = new.split(outgoing.clone());
        match kind.as_str() {
            "error" => {
                error = Some(id);
                // The status is written by number; the stream stays open until then.
                keep(writer);
                continue;
            }
            "stdin" if wants.stdin => {
                streams.stdin = Some(reader);
                keep(writer);
            }
            "stdout" if wants.stdout => streams.stdout = Some(writer),
            "stderr" if wants.stderr => streams.stderr = Some(writer),
            "resize" if wants.resize => {
                streams.resize = Some(resizes(reader));
                resize = false;
                keep(writer);
            }
            _ => {
                return Err(Error::Protocol {
                    protocol: "spdy",
                    what: "an unexpected stream",
                });
            }
        }
        ids.push(id);
    }
    let error = error.ok_or(Error::Timeout)?;
    // Later streams are refused.
    drop(incoming);
    Ok((
        streams,
        Ids {
            streams: ids,
            error,
        },
    ))
}

/// Lets go of a writer without ending its stream; the end of the session does that.
fn keep(mut writer: Writer) {
    writer.disarm();
}

/// Turns a stream of JSON objects into sizes. The newest counts; a slow reader misses others.
fn resizes(mut reader: Reader) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        while let Ok(n @ 1..) = reader.read(&mut chunk).await {
            text.extend_from_slice(&chunk[..n]);
            let mut values = serde_json::Deserializer::from_slice(&text).into_iter();
            let mut used = 0;
            while let Some(Ok(value)) = values.next() {
                used = values.byte_offset();
                if let Some(size) = TerminalSize::parse(&value)
                    && sender.send(size).await.is_err()
                {
                    return;
                }
            }
            text.drain(..used);
            if text.len() > MAX_RESIZE {
                return;
            }
        }
    });
    receiver
}
