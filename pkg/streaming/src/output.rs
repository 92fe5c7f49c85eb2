//! An answer that is read over a WebSocket: a watch, a log. The client sends nothing but control
//! frames.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tracing::debug;

use crate::error::Error;
use crate::websocket::{self, BINARY, CLOSE, Event, FrameReader, PONG, TEXT, encode};

/// The subprotocols that a client may ask for; without one, messages are plain.
const BASE64: &str = "base64.binary.k8s.io";
const PLAIN: &str = "binary.k8s.io";

/// A client that waits for its WebSocket to open.
#[derive(Debug)]
pub struct OutputSocket {
    connection: OnUpgrade,
    key: HeaderValue,
    protocol: Option<&'static str>,
}

impl OutputSocket {
    /// Takes the handshake out of a request; `None` if it asks for no WebSocket. What is left is
    /// an ordinary request.
    ///
    /// # Errors
    /// A handshake that is not valid.
    pub fn take<B>(request: &mut Request<B>) -> Option<Result<OutputSocket, Error>> {
        if !websocket::wanted(request.headers()) {
            return None;
        }
        let key = websocket::accept_key(request.headers()).and_then(|k| HeaderValue::try_from(k).ok());
        let Some(key) = key else {
            return Some(Err(Error::Protocol { protocol: "websocket", what: "a handshake that is not valid" }));
        };
        let offered = websocket::offered(request.headers());
        let protocol = offered.iter().find_map(|o| [PLAIN, BASE64].into_iter().find(|p| p == o));
        let connection = hyper::upgrade::on(&mut *request);
        remove_handshake(request.headers_mut());
        Some(Ok(OutputSocket { connection, key, protocol }))
    }

    /// The answer that opens the WebSocket, over which `body` is sent in the background. Each piece
    /// of it is a message; of `lines`, each line that a piece holds, as text.
    pub fn answer<R, B>(self, body: B, lines: bool, empty: R) -> Response<R>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display + Send,
    {
        let mut response = Response::new(empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.key);
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        let base64 = self.protocol == Some(BASE64);
        let text = base64 || (lines && self.protocol.is_none());
        let form = Form { opcode: if text { TEXT } else { BINARY }, lines, base64 };
        let connection = self.connection;
        tokio::spawn(async move {
            if let Err(error) = send(connection, body, form).await {
                debug!(%error, "a WebSocket ended early");
            }
        });
        response
    }
}

fn remove_handshake(headers: &mut HeaderMap) {
    for name in [
        header::UPGRADE,
        header::CONNECTION,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_EXTENSIONS,
    ] {
        headers.remove(name);
    }
}

/// How messages are made of an answer's pieces.
struct Form {
    opcode: u8,
    lines: bool,
    base64: bool,
}

impl Form {
    fn frames(&self, piece: &[u8]) -> Vec<u8> {
        let message = |bytes: &[u8]| {
            if self.base64 {
                encode(self.opcode, &[], STANDARD.encode(bytes).as_bytes())
            } else {
                encode(self.opcode, &[], bytes)
            }
        };
        if self.lines {
            piece.split_inclusive(|b| *b == b'\n').flat_map(|line| message(line).to_vec()).collect()
        } else {
            message(piece).to_vec()
        }
    }
}

async fn send<B>(connection: OnUpgrade, mut body: B, form: Form) -> Result<(), Error>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display,
{
    let upgraded = connection.await.map_err(|_| Error::Protocol { protocol: "websocket", what: "a connection that did not open" })?;
    let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    // Reading a frame must not be cut off by a piece that is to be sent.
    let (pongs, mut pong) = tokio::sync::mpsc::channel(4);
    let mut incoming = std::pin::pin!(async move {
        let mut frames = FrameReader::new(reader);
        loop {
            match frames.next().await? {
                Event::Close => return Ok::<_, Error>(()),
                Event::Ping(payload) => {
                    let _ = pongs.try_send(payload);
                }
                Event::Piece { .. } => {}
            }
        }
    });
    loop {
        let frames = tokio::select! {
            ended = &mut incoming => return ended,
            Some(payload) = pong.recv() => encode(PONG, &[], &payload).to_vec(),
            piece = body.frame() => match piece {
                None => break,
                Some(Err(error)) => {
                    debug!(%error, "an answer ended early");
                    break;
                }
                Some(Ok(piece)) => match piece.into_data() {
                    Ok(data) => form.frames(&data),
                    Err(_) => continue,
                },
            },
        };
        writer.write_all(&frames).await.map_err(Error::io("write"))?;
    }
    let normal = 1000_u16.to_be_bytes();
    writer.write_all(&encode(CLOSE, &normal, &[])).await.map_err(Error::io("write"))?;
    writer.shutdown().await.map_err(Error::io("close"))
}
