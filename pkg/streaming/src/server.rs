//! The CRI's streaming server: one-time URLs, and the protocols behind them.

mod port_forward;
mod remote;
mod status;
mod tokens;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::streams::{Reader, Streams, Writer};
use crate::tunnel::Body;
use crate::{spdy, websocket};
use remote::{Kind, Wire};
use tokens::{Session, Tokens};

/// What an exec was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecParams {
    /// The container.
    pub container_id: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// With a terminal; then there is no stderr.
    pub tty: bool,
    /// The client sends a stdin.
    pub stdin: bool,
    /// The client wants the stdout.
    pub stdout: bool,
    /// The client wants the stderr.
    pub stderr: bool,
}

/// What an attach was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachParams {
    /// The container.
    pub container_id: String,
    /// The container has a terminal; then there is no stderr.
    pub tty: bool,
    /// The client sends a stdin.
    pub stdin: bool,
    /// The client wants the stdout.
    pub stdout: bool,
    /// The client wants the stderr.
    pub stderr: bool,
}

/// What a port-forward was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortForwardParams {
    /// The pod's sandbox.
    pub pod_sandbox_id: String,
    /// The ports. Only the old WebSocket protocols need them; others name a port per stream.
    pub ports: Vec<u16>,
}

/// How an exec or attach ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecResult {
    /// The process left with this code.
    Exited(i32),
    /// It could not be run or watched; the client is told why.
    Failed(String),
}

/// A forwarded connection. Shutting it down ends the sending direction only.
pub type PortStream = tokio::io::Join<Reader, Writer>;

/// What stands behind the streams. A call is dropped when its client is gone, so a call must be
/// cancellation-safe: it frees what it holds.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs a process with these streams until it ends and its output is written.
    async fn exec(&self, params: ExecParams, streams: Streams) -> ExecResult;
    /// Joins a container's streams until it ends or detaches. `Exited(0)` is a good end.
    async fn attach(&self, params: AttachParams, streams: Streams) -> ExecResult;
    /// Carries one connection to a port of a sandbox until both directions have ended. The
    /// error is told to the client.
    async fn port_forward(
        &self,
        pod_sandbox_id: &str,
        port: u16,
        stream: PortStream,
    ) -> Result<(), String>;
}

/// A running streaming server. Ends when dropped; connections that are up go on.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tokens: Arc<Tokens>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// Listens (on `127.0.0.1:0`, usually) and serves in the background.
    pub async fn bind(address: SocketAddr, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let tokens = Arc::new(Tokens::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&tokens), handler));
        Ok(Server {
            address,
            tokens,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that runs this exec, once, within a minute.
    pub fn exec_url(&self, params: ExecParams) -> String {
        self.url("exec", Session::Exec(params))
    }

    /// A URL that attaches, once, within a minute.
    pub fn attach_url(&self, params: AttachParams) -> String {
        self.url("attach", Session::Attach(params))
    }

    /// A URL that forwards ports, once, within a minute.
    pub fn port_forward_url(&self, params: PortForwardParams) -> String {
        self.url("portforward", Session::PortForward(params))
    }

    fn url(&self, what: &str, session: Session) -> String {
        format!(
            "http://{}/{what}/{}",
            self.address,
            self.tokens.put(session)
        )
    }
}

async fn accept(listener: TcpListener, tokens: Arc<Tokens>, handler: Arc<dyn Handler>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!("accept: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        // Typing must not wait for a packet to fill.
        let _ = stream.set_nodelay(true);
        let (tokens, handler) = (Arc::clone(&tokens), Arc::clone(&handler));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = serve(request, &tokens, &handler);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(e) = connection.await {
                debug!("streaming connection: {e}");
            }
        });
    }
}

fn answer(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(text.into()))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// What the client and we agree on.
struct Agreed {
    headers: HeaderMap,
    kind: Kind,
}

fn serve(
    mut request: Request<Incoming>,
    tokens: &Tokens,
    handler: &Arc<dyn Handler>,
) -> Response<Body> {
    let method = request.method();
    if method != Method::GET && method != Method::POST {
        return answer(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST");
    }
    let mut path = request.uri().path().split('/').skip(1);
    let (what, token) = (
        path.next().unwrap_or_default(),
        path.next().unwrap_or_default(),
    );
    // Protocol first: a client that offers the wrong one may come again.
    let agreed = match agree(request.headers(), what == "portforward") {
        Ok(agreed) => agreed,
        Err(response) => return *response,
    };
    let Some(session) = tokens.take(what, token) else {
        return answer(
            StatusCode::NOT_FOUND,
            "the streaming URL is not known, used or expired",
        );
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let handler = Arc::clone(handler);
    let kind = agreed.kind;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => run(TokioIo::new(upgraded), kind, session, handler).await,
            Err(e) => debug!("upgrade: {e}"),
        }
    });
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    *response.headers_mut() = agreed.headers;
    response
}

async fn run<T: AsyncRead + AsyncWrite + Send + 'static>(
    socket: T,
    kind: Kind,
    session: Session,
    handler: Arc<dyn Handler>,
) {
    let result = match session {
        Session::Exec(params) => {
            let wants = remote::Wants {
                stdin: params.stdin,
                stdout: params.stdout,
                stderr: params.stderr && !params.tty,
                resize: params.tty,
            };
            let call = move |streams| async move { handler.exec(params, streams).await };
            remote::run(socket, kind, wants, call).await
        }
        Session::Attach(params) => {
            let wants = remote::Wants {
                stdin: params.stdin,
                stdout: params.stdout,
                stderr: params.stderr && !params.tty,
                resize: params.tty,
            };
            let call = move |streams| async move { handler.attach(params, streams).await };
            remote::run(socket, kind, wants, call).await
        }
        Session::PortForward(params) => port_forward::run(socket, kind, params, handler).await,
    };
    if let Err(e) = result {
        debug!("streaming session: {e}");
    }
}

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_FORWARD_PROTOCOL: &str = "portforward.k8s.io";
const REMOTE_SPDY: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// Picks the protocol: the client's first choice that is spoken here.
fn agree(headers: &HeaderMap, port_forward: bool) -> Result<Agreed, Box<Response<Body>>> {
    let refuse = |status, text: String| Box::new(answer(status, text));
    let mut reply = HeaderMap::new();
    reply.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if websocket::wanted(headers) {
        let key = websocket::accept_key(headers)
            .and_then(|key| HeaderValue::from_str(&key).ok())
            .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "bad WebSocket handshake".into()))?;
        let offered = websocket::offered(headers);
        let pick = |name: &String| Some((name.clone(), websocket_kind(name, port_forward)?));
        let (name, kind) = match offered.iter().find_map(pick) {
            Some((name, kind)) => (Some(name), kind),
            None if offered.is_empty() => match websocket_kind("", port_forward) {
                Some(kind) => (None, kind),
                None => return Err(refuse(StatusCode::FORBIDDEN, "no subprotocol".into())),
            },
            None => {
                let text = format!("none of the subprotocols is supported: {offered:?}");
                return Err(refuse(StatusCode::FORBIDDEN, text));
            }
        };
        reply.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        reply.insert(header::SEC_WEBSOCKET_ACCEPT, key);
        if let Some(name) = name.and_then(|name| HeaderValue::from_str(&name).ok()) {
            reply.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
        return Ok(Agreed {
            headers: reply,
            kind,
        });
    }
    let upgrade = headers
        .get(header::UPGRADE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case(spdy::UPGRADE) {
        let text = "the request must upgrade to a WebSocket or to SPDY/3.1".to_owned();
        return Err(refuse(StatusCode::BAD_REQUEST, text));
    }
    let offered: Vec<&str> = headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    let known: &[&'static str] = if port_forward {
        &[PORT_FORWARD_PROTOCOL]
    } else {
        &REMOTE_SPDY
    };
    // The oldest clients offer nothing and mean the first version.
    let default = if port_forward {
        PORT_FORWARD_PROTOCOL
    } else {
        "channel.k8s.io"
    };
    let picked = offered
        .iter()
        .find_map(|o| known.iter().find(|k| *k == o).copied());
    let name = match picked {
        Some(name) => name,
        None if offered.is_empty() => default,
        None => {
            let mut response = answer(
                StatusCode::FORBIDDEN,
                format!("none of the stream protocols is supported: {offered:?}"),
            );
            let known = HeaderValue::from_str(&known.join(", "));
            if let Ok(known) = known {
                response
                    .headers_mut()
                    .insert("x-accepted-stream-protocol-versions", known);
            }
            return Err(Box::new(response));
        }
    };
    reply.insert(header::UPGRADE, HeaderValue::from_static(spdy::UPGRADE));
    reply.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    let kind = Kind {
        wire: Wire::Spdy,
        json_status: name == "v4.channel.k8s.io",
    };
    Ok(Agreed {
        headers: reply,
        kind,
    })
}

fn websocket_kind(name: &str, port_forward: bool) -> Option<Kind> {
    let channels = |base64, closes, json_status| {
        let dialect = websocket::channels::Dialect { base64, closes };
        Some(Kind {
            wire: Wire::Channels(dialect),
            json_status,
        })
    };
    match (name, port_forward) {
        (TUNNEL_PROTOCOL, true) => Some(Kind {
            wire: Wire::Tunnel,
            json_status: false,
        }),
        ("v5.channel.k8s.io", false) => channels(false, true, true),
        ("v4.channel.k8s.io", _) => channels(false, false, true),
        ("v4.base64.channel.k8s.io", _) => channels(true, false, true),
        ("channel.k8s.io" | "", _) => channels(false, false, false),
        ("base64.channel.k8s.io", _) => channels(true, false, false),
        _ => None,
    }
}
