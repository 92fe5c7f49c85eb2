//! Questions in, answers out, over UDP and TCP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    forward::Forwarder,
    zone::{Lookup, Zone},
};

/// The largest answer over UDP that we offer, in bytes.
const UDP_LIMIT: u16 = 1232;
/// Questions for other resolvers under way at once.
const FORWARDS: usize = 1024;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) zone: Zone,
    pub(crate) forward: Forwarder,
}

/// What to do with a question.
enum Reply {
    Answer(Message),
    /// Ask the node's resolvers.
    Forward(Message),
    /// An alias whose target the node's resolvers may know.
    Chase(Message, Name, RecordType),
    /// Not a question: stay silent.
    Ignore,
}

impl Server {
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let forwards = Arc::new(Semaphore::new(FORWARDS));
        let mut buffer = vec![0; 4096];
        loop {
            let (n, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // A port-unreachable of an earlier answer, or memory pressure.
                    tracing::debug!(%error, "DNS over UDP");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let query = &buffer[..n];
            match self.reply(query) {
                Reply::Ignore => {}
                Reply::Answer(message) => send_udp(&socket, peer, message, query).await,
                pending => {
                    // Over the limit a question is dropped; the client asks again.
                    let Ok(permit) = forwards.clone().try_acquire_owned() else { continue };
                    let (server, socket) = (self.clone(), socket.clone());
                    let query = query.to_vec();
                    tokio::spawn(async move {
                        match server.resolve(pending, &query, false).await {
                            Resolved::Raw(answer) => {
                                let _ = socket.send_to(&answer, peer).await;
                            }
                            Resolved::Message(m) => send_udp(&socket, peer, m, &query).await,
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let limit = Arc::new(Semaphore::new(FORWARDS));
        loop {
            let Ok(permit) = limit.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        let _ = server.converse(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "DNS over TCP");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                _ => return Ok(()),
            };
            let mut query = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut query)).await??;
            let answer = match self.reply(&query) {
                Reply::Ignore => return Ok(()),
                Reply::Answer(message) => encode(&message),
                pending => match self.resolve(pending, &query, true).await {
                    Resolved::Raw(answer) => answer,
                    Resolved::Message(message) => encode(&message),
                },
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
        }
    }

    fn reply(&self, query: &[u8]) -> Reply {
        let Ok(request) = Message::from_vec(query) else {
            // The header may still be readable.
            let Some(&[a, b]) = query.first_chunk::<2>() else { return Reply::Ignore };
            if query.get(2).is_none_or(|flags| flags & 0x80 != 0) {
                return Reply::Ignore;
            }
            let id = u16::from_be_bytes([a, b]);
            return Reply::Answer(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
        };
        if request.metadata.message_type != MessageType::Query {
            return Reply::Ignore;
        }
        let op_code = request.metadata.op_code;
        let mut response = Message::response(request.metadata.id, op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LIMIT);
            response.set_edns(edns);
        }
        let [question] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return Reply::Answer(response);
        };
        if op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return Reply::Answer(response);
        }
        let (name, kind) = (question.name(), question.query_type());
        match self.zone.lookup(name, kind) {
            Lookup::Foreign => Reply::Forward(response),
            Lookup::Missing => {
                response.metadata.authoritative = true;
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(self.zone.soa());
                Reply::Answer(response)
            }
            Lookup::Found(answer) => {
                response.metadata.authoritative = true;
                if answer.records.is_empty() {
                    response.add_authority(self.zone.soa());
                }
                response.add_answers(answer.records);
                response.add_additionals(answer.additional);
                match answer.chase {
                    Some(target) => Reply::Chase(response, target, kind),
                    None => Reply::Answer(response),
                }
            }
        }
    }

    async fn resolve(&self, pending: Reply, query: &[u8], stream: bool) -> Resolved {
        match pending {
            Reply::Chase(mut response, target, kind) => {
                let mut ask = Message::query();
                ask.metadata.id = response.metadata.id;
                ask.metadata.recursion_desired = true;
                ask.add_query(hickory_proto::op::Query::query(target, kind));
                // The alias is an answer by itself if nobody knows the target.
                if let Some(answer) = self.forward.ask(&encode(&ask), stream).await
                    && let Ok(answer) = Message::from_vec(&answer)
                {
                    response.add_answers(answer.answers);
                }
                Resolved::Message(response)
            }
            Reply::Forward(mut response) => match self.forward.ask(query, stream).await {
                Some(answer) => Resolved::Raw(answer),
                None => {
                    response.metadata.response_code = ResponseCode::ServFail;
                    Resolved::Message(response)
                }
            },
            Reply::Answer(message) => Resolved::Message(message),
            Reply::Ignore => Resolved::Raw(Vec::new()),
        }
    }
}

enum Resolved {
    Raw(Vec<u8>),
    Message(Message),
}

fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_else(|error| {
        tracing::warn!(%error, "an answer cannot be encoded");
        let id = message.metadata.id;
        let failure = Message::error_msg(id, message.metadata.op_code, ResponseCode::ServFail);
        failure.to_vec().unwrap_or_default()
    })
}

async fn send_udp(socket: &UdpSocket, peer: SocketAddr, message: Message, query: &[u8]) {
    let offered = Message::from_vec(query).map_or(512, |q| q.max_payload()).clamp(512, 4096);
    let mut answer = encode(&message);
    if answer.len() > usize::from(offered) {
        answer = encode(&message.truncate());
    }
    if let Err(error) = socket.send_to(&answer, peer).await {
        tracing::debug!(%error, %peer, "DNS answer");
    }
}
