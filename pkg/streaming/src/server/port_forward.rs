//! Port-forward: many connections to a sandbox's ports over one client connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::remote::{Kind, QUEUE, Wire, drive};
use super::{Handler, PortForwardParams};
use crate::error::Error;
use crate::spdy::{self, NewStream};
use crate::streams::{Outgoing, Reader, Writer};
use crate::websocket::channels::{self, Dialect};
use crate::websocket::{FrameReader, raw};

/// Half a pair is forgotten after this.
const PAIRING: Duration = Duration::from_secs(30);
/// Between a tunnel's WebSocket and its SPDY.
const TUNNEL_BUFFER: usize = 64 << 10;
/// No client forwards more ports over one old WebSocket.
const MAX_PORTS: usize = 64;

pub(super) async fn run<T: AsyncRead + AsyncWrite + Send + 'static>(
    socket: T,
    kind: Kind,
    params: PortForwardParams,
    handler: Arc<dyn Handler>,
) -> Result<(), Error> {
    match kind.wire {
        Wire::Spdy => over_spdy(socket, params, handler).await,
        Wire::Tunnel => {
            let (inside, outside) = tokio::io::duplex(TUNNEL_BUFFER);
            let spdy = over_spdy(inside, params, handler);
            let (pumped, served) = tokio::join!(raw::pump(socket, outside), spdy);
            pumped.and(served)
        }
        Wire::Channels(dialect) => over_channels(socket, dialect, params, handler).await,
    }
}

async fn over_spdy<T: AsyncRead + AsyncWrite + Send + 'static>(
    socket: T,
    params: PortForwardParams,
    handler: Arc<dyn Handler>,
) -> Result<(), Error> {
    let (reader, writer) = tokio::io::split(socket);
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let (incoming_sender, incoming) = mpsc::channel(QUEUE);
    let receive = spdy::receive(reader, outgoing.clone(), incoming_sender);
    let send = spdy::send(writer, queue);
    drive(
        receive,
        send,
        connections(incoming, params.pod_sandbox_id, handler, outgoing),
    )
    .await
}

/// One half of a connection that waits for the other.
struct Half {
    stream: NewStream,
    since: Instant,
}

/// Pairs the streams up and carries each pair. Ends (and takes all pairs along) with the client.
async fn connections(
    mut incoming: spdy::Incoming,
    sandbox: String,
    handler: Arc<dyn Handler>,
    outgoing: mpsc::Sender<Outgoing>,
) -> Result<(), Error> {
    let mut waiting: BTreeMap<String, Half> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        let new = tokio::select! {
            new = incoming.recv() => new,
            Some(_) = running.join_next() => continue,
        };
        let Some(new) = new else { return Ok(()) };
        waiting.retain(|_, half| half.since.elapsed() < PAIRING);
        let kind = new.header("streamtype").unwrap_or_default().to_owned();
        if kind != "data" && kind != "error" {
            return Err(Error::Protocol {
                protocol: "spdy",
                what: "an unexpected stream",
            });
        }
        // Clients before request ids open the error stream right before its data stream.
        let request = match new.header("requestid") {
            Some(id) => id.to_owned(),
            None if kind == "error" => new.id.to_string(),
            None => new.id.saturating_sub(2).to_string(),
        };
        let Some(other) = waiting.remove(&request) else {
            waiting.insert(
                request,
                Half {
                    stream: new,
                    since: Instant::now(),
                },
            );
            continue;
        };
        let (data, error) = if kind == "data" {
            (new, other.stream)
        } else {
            (other.stream, new)
        };
        if data.header("streamtype") == error.header("streamtype") {
            return Err(Error::Protocol {
                protocol: "spdy",
                what: "two streams of a kind",
            });
        }
        let pair = Pair {
            sandbox: sandbox.clone(),
            handler: Arc::clone(&handler),
            outgoing: outgoing.clone(),
        };
        running.spawn(pair.carry(data, error));
    }
}

struct Pair {
    sandbox: String,
    handler: Arc<dyn Handler>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Pair {
    async fn carry(self, data: NewStream, error: NewStream) {
        let error_id = error.id;
        let port = data
            .header("port")
            .and_then(|p| p.parse::<u16>().ok())
            .filter(|&p| p > 0);
        let (reader, writer) = data.split(self.outgoing.clone());
        // Its own writer ends the error stream once this is over, after what is written below.
        let (_unread, _error_writer) = error.split(self.outgoing.clone());
        let result = match port {
            None => Err("the stream names no port".to_owned()),
            Some(port) => {
                let stream = tokio::io::join(reader, writer);
                let result = self.handler.port_forward(&self.sandbox, port, stream).await;
                result.map_err(|e| {
                    format!("error forwarding port {port} to pod {}: {e}", self.sandbox)
                })
            }
        };
        if let Err(e) = result {
            let bytes = Bytes::from(e);
            let _ = self
                .outgoing
                .send(Outgoing::Data {
                    stream: error_id,
                    bytes,
                })
                .await;
        }
    }
}

/// The old way: for the n-th port, channel 2n carries data and 2n+1 errors; the first message on
/// each is the port, little-endian.
async fn over_channels<T: AsyncRead + AsyncWrite + Send + 'static>(
    socket: T,
    dialect: Dialect,
    params: PortForwardParams,
    handler: Arc<dyn Handler>,
) -> Result<(), Error> {
    let PortForwardParams {
        pod_sandbox_id,
        ports,
    } = params;
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return Err(Error::Protocol {
            protocol: "websocket",
            what: "no ports, or too many",
        });
    }
    let (reader, writer) = tokio::io::split(socket);
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let mut channels = BTreeMap::new();
    let mut pairs = Vec::new();
    for (port, number) in ports.into_iter().zip((0_u8..).step_by(2)) {
        let (sender, reader) = Reader::new();
        channels.insert(number, sender);
        pairs.push((port, number, reader));
    }
    let sender = outgoing.clone();
    let work = async move {
        let mut running = JoinSet::new();
        for (port, number, reader) in pairs {
            for channel in [number, number + 1] {
                let bytes = Bytes::copy_from_slice(&port.to_le_bytes());
                let _ = sender
                    .send(Outgoing::Data {
                        stream: u32::from(channel),
                        bytes,
                    })
                    .await;
            }
            let (handler, sandbox) = (Arc::clone(&handler), pod_sandbox_id.clone());
            let sender = sender.clone();
            running.spawn(async move {
                let writer = Writer::new(u32::from(number), sender.clone(), None);
                let stream = tokio::io::join(reader, writer);
                if let Err(e) = handler.port_forward(&sandbox, port, stream).await {
                    let (stream, bytes) = (u32::from(number) + 1, Bytes::from(e));
                    let _ = sender.send(Outgoing::Data { stream, bytes }).await;
                }
            });
        }
        while running.join_next().await.is_some() {}
        let _ = sender.send(Outgoing::Close).await;
        Ok(())
    };
    let receive = channels::receive(FrameReader::new(reader), dialect, channels, outgoing);
    drive(receive, channels::send(writer, dialect, queue), work).await
}
