//! The way to an aggregated API server: its service's endpoint, TLS, one HTTP/2 connection for
//! everything but upgrades.

use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use knarr_registry::Object;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{
    auth::UserInfo,
    core::Core,
    respond::{Body, full},
    trust,
    webhook,
};

/// The most a document of an aggregated server may be.
const DOCUMENT_LIMIT: usize = 32 * 1024 * 1024;

/// The front proxy's client certificate and key.
pub struct ProxyClient {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ProxyClient {
    /// From PEM.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(certificate: &str, key: &str) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
        Ok(Self { chain, key })
    }
}

/// A service that serves a group version.
pub struct Backend {
    namespace: String,
    service: String,
    port: u64,
    tls: Result<(Arc<ClientConfig>, Arc<ClientConfig>), String>,
    shared: Mutex<Option<conn::http2::SendRequest<Body>>>,
}

fn tls(spec: &Value, client: Option<&ProxyClient>) -> Result<ClientConfig, String> {
    let builder = if spec.at(&["insecureSkipTLSVerify"]) == Some(&Value::Bool(true)) {
        trust::anybody()?
    } else {
        trust::by(&STANDARD.decode(spec.str_at(&["caBundle"])).map_err(|e| e.to_string())?)?
    };
    match client {
        Some(c) => builder.with_client_auth_cert(c.chain.clone(), c.key.clone_key()).map_err(|e| e.to_string()),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Who asks, as headers; what a client sent under these names is taken out.
pub fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let forged: Vec<HeaderName> = headers.keys().filter(|k| k.as_str().starts_with("x-remote-")).cloned().collect();
    for k in forged {
        headers.remove(k);
    }
    let mut add = |k: &str, v: &str| {
        if let (Ok(k), Ok(v)) = (HeaderName::from_bytes(k.as_bytes()), HeaderValue::from_bytes(v.as_bytes())) {
            headers.append(k, v);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for g in &user.groups {
        add("x-remote-group", g);
    }
    for (k, values) in &user.extra {
        let key = format!("x-remote-extra-{}", escape(k));
        for v in values {
            add(&key, v);
        }
    }
}

/// A key as a part of a header's name: percent signs for what may not stand there.
fn escape(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes().map(|b| if plain(b) { char::from(b.to_ascii_lowercase()).to_string() } else { format!("%{b:02X}") }).collect()
}

/// An error with what caused it.
fn chain(e: &dyn std::error::Error) -> String {
    let mut s = e.to_string();
    let mut at = e.source();
    while let Some(e) = at {
        s = format!("{s}: {e}");
        at = e.source();
    }
    s
}

impl Backend {
    /// From the `spec` of an APIService with a service.
    pub fn new(spec: &Value, client: Option<&ProxyClient>) -> Self {
        let tls = tls(spec, client).map(|c| {
            let (mut multiplexed, mut plain) = (c.clone(), c);
            multiplexed.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            plain.alpn_protocols = vec![b"http/1.1".to_vec()];
            (Arc::new(multiplexed), Arc::new(plain))
        });
        Self {
            namespace: spec.str_at(&["service", "namespace"]).to_owned(),
            service: spec.str_at(&["service", "name"]).to_owned(),
            port: spec.at(&["service", "port"]).and_then(Value::as_u64).unwrap_or(443),
            tls,
            shared: Mutex::new(None),
        }
    }

    /// The service: namespace, name, port.
    pub fn service(&self) -> (&str, &str, u64) {
        (&self.namespace, &self.service, self.port)
    }

    /// Forgets the open connection.
    pub fn hang_up(&self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Where a connection goes: an endpoint, or the name the service stands for.
    ///
    /// # Errors
    /// Why there is nowhere to go.
    pub fn address(&self, core: &Core) -> Result<(String, u16), String> {
        let s = core.peek("services/specs", &self.namespace, &self.service).ok_or_else(|| format!("service {:?} not found", self.service))?;
        if s.str_at(&["spec", "type"]) == "ExternalName" {
            return Ok((s.str_at(&["spec", "externalName"]).to_owned(), u16::try_from(self.port).unwrap_or(443)));
        }
        webhook::endpoint(core, &self.namespace, &self.service, self.port)
    }

    async fn dial(&self, address: &(String, u16), upgrade: bool) -> Result<TlsStream<TcpStream>, String> {
        let (multiplexed, plain) = self.tls.as_ref().map_err(Clone::clone)?;
        let (host, port) = address;
        let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::ConnectionRefused { "connection refused".to_owned() } else { e.to_string() };
            format!("dial tcp {host}:{port}: connect: {why}")
        })?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(format!("{}.{}.svc", self.service, self.namespace)).map_err(|e| e.to_string())?;
        let config = if upgrade { plain } else { multiplexed };
        tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.map_err(|e| format!("tls: failed to verify certificate: {e}"))
    }

    /// Sends a request whose URI is a path and query; its headers must already say who asks.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(&self, core: &Core, mut request: Request<Body>, upgrade: bool) -> Result<Response<Incoming>, String> {
        self.tls.as_ref().map_err(Clone::clone)?;
        let address = self.address(core)?;
        let authority = format!("{}.{}.svc:{}", self.service, self.namespace, self.port);
        if !upgrade {
            let open = self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let sender = match open {
                Some(s) if !s.is_closed() => Some(s),
                _ => None,
            };
            if let Some(mut sender) = sender
                && sender.ready().await.is_ok()
            {
                multiplexed(&mut request, &authority)?;
                return sender.send_request(request).await.map_err(|e| chain(&e));
            }
        }
        let io = self.dial(&address, upgrade).await?;
        if io.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut builder = conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(Some(std::time::Duration::from_secs(30)));
            let (mut sender, conn) = builder.handshake(TokioIo::new(io)).await.map_err(|e| chain(&e))?;
            tokio::spawn(async move {
                if let Err(error) = conn.await {
                    tracing::debug!(%error, "the connection to an aggregated server ended");
                }
            });
            *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
            multiplexed(&mut request, &authority)?;
            return sender.send_request(request).await.map_err(|e| chain(&e));
        }
        if let Ok(v) = HeaderValue::from_str(&authority) {
            request.headers_mut().insert(header::HOST, v);
        }
        let (mut sender, conn) = conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| chain(&e))?;
        tokio::spawn(async move {
            if let Err(error) = conn.with_upgrades().await {
                tracing::debug!(%error, "the connection to an aggregated server ended");
            }
        });
        sender.send_request(request).await.map_err(|e| chain(&e))
    }

    /// Reads a document as `user`: status, headers, body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn get(&self, core: &Core, path: &str, accept: &str, etag: Option<&str>, user: &UserInfo) -> Result<(u16, HeaderMap, Bytes), String> {
        let mut request = Request::get(path).header(header::ACCEPT, accept).body(full("")).map_err(|e| e.to_string())?;
        if let Some(v) = etag.and_then(|e| HeaderValue::from_str(e).ok()) {
            request.headers_mut().insert(header::IF_NONE_MATCH, v);
        }
        identify(request.headers_mut(), user);
        let work = async {
            let answer = self.send(core, request, false).await?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, DOCUMENT_LIMIT).collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok((parts.status.as_u16(), parts.headers, body))
        };
        let late = || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
        tokio::time::timeout(std::time::Duration::from_secs(5), work).await.map_err(|_| late())?
    }
}

/// Makes a request one of HTTP/2.
fn multiplexed(request: &mut Request<Body>, authority: &str) -> Result<(), String> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let uri = format!("https://{authority}{path}").parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    for h in [header::HOST, header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
        request.headers_mut().remove(h);
    }
    Ok(())
}
