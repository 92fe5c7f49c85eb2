//! Connections that go through to kubelets, pods and services: logs, exec, attach, port-forward,
//! proxies. Upgraded connections are tunnelled byte for byte.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use knarr_registry::{ApiError, Object};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    admission::{self, Attrs, Operation},
    core::Ctx,
    respond::{Body, Reply, full},
    trust,
};

/// How long a connection may take to be made: a machine that is off does not answer.
const DIAL: Duration = Duration::from_secs(30);
/// How long its TLS handshake may take: a process that stands still does not answer either.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How kubelets are reached.
#[derive(Clone)]
pub struct Kubelets {
    tls: Arc<ClientConfig>,
    open: Arc<ClientConfig>,
}

impl Kubelets {
    /// From PEM: a client certificate and key, and the authorities of kubelets.
    ///
    /// # Errors
    /// What is wrong with the PEM.
    pub fn new(client: Option<&(String, String)>, ca: Option<&str>) -> Result<Self, String> {
        use rustls_pki_types::pem::PemObject;
        let builder = match ca {
            // As kube-apiserver does.
            None => trust::anybody()?,
            Some(ca) => trust::by(ca.as_bytes())?,
        };
        let tls = match client {
            Some((cert, key)) => {
                let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
                let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
                builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Self { tls: Arc::new(tls), open: Arc::new(trust::anybody()?.with_no_client_auth()) })
    }
}

fn unavailable(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
}

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    /// `Some(verified)` for TLS.
    tls: Option<bool>,
    path: String,
    /// Whether credentials of the client are taken out.
    strip: bool,
}

fn node_target(ctx: &Ctx, node: &str, path: String) -> Result<Target, ApiError> {
    let n = ctx.core.peek("minions", "", node).ok_or_else(|| ApiError::not_found("", "nodes", node))?;
    let addresses = n.list_at(&["status", "addresses"]);
    let host = ctx.core.settings.kubelet_address_types
        .iter()
        .find_map(|t| addresses.iter().find(|a| a.str_at(&["type"]) == *t))
        .map(|a| a.str_at(&["address"]).to_owned())
        .ok_or_else(|| ApiError::internal(format!("no preferred addresses found; known addresses: {addresses:?}")))?;
    let port = n.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(10250);
    Ok(Target { host, port, tls: Some(true), path, strip: true })
}

/// The container a request means.
fn container(ctx: &Ctx, pod: &Value, running_only: bool) -> Result<String, ApiError> {
    let asked = ctx.query.get("container");
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    if !asked.is_empty() {
        let known = lists.iter().flat_map(|l| pod.list_at(&["spec", l])).any(|c| c.str_at(&["name"]) == asked);
        if !known {
            return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", pod.name())));
        }
        return Ok(asked.to_owned());
    }
    let _ = running_only;
    let names: Vec<&str> = pod.list_at(&["spec", "containers"]).iter().map(|c| c.str_at(&["name"])).collect();
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {}", pod.name()))),
        many => {
            let init: Vec<&str> = pod.list_at(&["spec", "initContainers"]).iter().map(|c| c.str_at(&["name"])).collect();
            let tail = if init.is_empty() { String::new() } else { format!(" or one of the init containers: [{}]", init.join(" ")) };
            Err(ApiError::bad_request(format!("a container name must be specified for pod {}, choose one of: [{}]{tail}", pod.name(), many.join(" "))))
        }
    }
}

fn escape(s: &str) -> String {
    s.bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn target(ctx: &Ctx, raw_query: &str) -> Result<Target, ApiError> {
    let (ns, name) = (&ctx.info.namespace, &ctx.info.name);
    let sub = ctx.info.subresource.as_str();
    let with_query = |p: String, q: String| if q.is_empty() { p } else { format!("{p}?{q}") };
    match (ctx.resource.plural.as_ref(), sub) {
        ("nodes", _) => {
            let (node, port) = name.split_once(':').unwrap_or((name, ""));
            let mut t = node_target(ctx, node, with_query(format!("/{}", ctx.info.rest), raw_query.to_owned()))?;
            if let Ok(p) = port.parse() {
                t.port = p;
                t.tls = (p == 10250).then_some(true);
            }
            Ok(t)
        }
        ("services", "proxy") => service_target(ctx, raw_query),
        ("pods", "proxy") => {
            let (scheme, pod_name, port) = split_proxy(name);
            let pod = ctx.core.peek("pods", ns, &pod_name).ok_or_else(|| ApiError::not_found("", "pods", &pod_name))?;
            let ip = pod.str_at(&["status", "podIP"]);
            if ip.is_empty() {
                return Err(unavailable("address not allowed"));
            }
            let ports: Vec<&Value> = pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"])).collect();
            let port = match port.parse::<u16>() {
                Ok(p) => p,
                Err(_) => ports
                    .iter()
                    .find(|p| port.is_empty() || p.str_at(&["name"]) == port)
                    .and_then(|p| p.at(&["containerPort"]).and_then(Value::as_u64))
                    .and_then(|p| u16::try_from(p).ok())
                    .unwrap_or(if scheme == "https" { 443 } else { 80 }),
            };
            Ok(Target { host: ip.to_owned(), port, tls: (scheme == "https").then_some(false), path: with_query(format!("/{}", ctx.info.rest), raw_query.to_owned()), strip: true })
        }
        _ => {
            let pod = ctx.core.peek("pods", ns, name).ok_or_else(|| ApiError::not_found("", "pods", name))?;
            let node = pod.str_at(&["spec", "nodeName"]);
            if node.is_empty() {
                return if sub == "log" {
                    // Nothing runs yet, so there is nothing to read.
                    Ok(Target { host: String::new(), port: 0, tls: None, path: String::new(), strip: true })
                } else {
                    Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")))
                };
            }
            let q = &ctx.query;
            let mut parts: Vec<String> = Vec::new();
            let path = match sub {
                "log" => {
                    let c = container(ctx, &pod, false)?;
                    for k in ["follow", "previous", "timestamps", "tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream"] {
                        if q.has(k) {
                            parts.push(format!("{k}={}", escape(q.get(k))));
                        }
                    }
                    format!("/containerLogs/{ns}/{name}/{c}")
                }
                "portforward" => {
                    for p in q.all("ports") {
                        parts.extend(p.split(',').map(|p| format!("port={}", escape(p))));
                    }
                    format!("/portForward/{ns}/{name}")
                }
                _ => {
                    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
                        return Err(ApiError::bad_request(format!("cannot exec into a container in a completed pod; current phase is {}", pod.str_at(&["status", "phase"]))));
                    }
                    let c = container(ctx, &pod, true)?;
                    for (k, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                        if q.flag(k) {
                            parts.push(format!("{to}=1"));
                        }
                    }
                    for c in q.all("command") {
                        parts.push(format!("command={}", escape(c)));
                    }
                    format!("/{sub}/{ns}/{name}/{c}")
                }
            };
            node_target(ctx, node, with_query(path, parts.join("&")))
        }
    }
}

/// `[scheme:]name[:port]`.
fn split_proxy(s: &str) -> (String, String, String) {
    let parts: Vec<&str> = s.split(':').collect();
    match parts.as_slice() {
        [scheme, name, port] => ((*scheme).into(), (*name).into(), (*port).into()),
        [name, port] => (String::new(), (*name).into(), (*port).into()),
        _ => (String::new(), s.into(), String::new()),
    }
}

/// A ready endpoint of a service's port, so that no service address need be routed here.
fn service_target(ctx: &Ctx, raw_query: &str) -> Result<Target, ApiError> {
    let (scheme, name, port) = split_proxy(&ctx.info.name);
    let ns = &ctx.info.namespace;
    let svc = ctx.core.peek("services/specs", ns, &name).ok_or_else(|| ApiError::not_found("", "services", &name))?;
    let ports = svc.list_at(&["spec", "ports"]);
    let chosen = if port.is_empty() && ports.len() == 1 {
        ports.first()
    } else {
        ports.iter().find(|p| p.str_at(&["name"]) == port || p.at(&["port"]).and_then(Value::as_u64) == port.parse().ok() && !port.is_empty())
    };
    let Some(chosen) = chosen else {
        return Err(unavailable(format!("no service port {port:?} found for service {name:?}")));
    };
    let slices = ctx.core.kind("endpointslices")?;
    let scope = slices.scope(ns);
    let mut found: Vec<(String, u16)> = Vec::new();
    for e in slices.cache.snapshot().prefixed(&scope) {
        if e.label("kubernetes.io/service-name") != Some(&name) {
            continue;
        }
        let v = e.value();
        let p = v.list_at(&["ports"]).iter().find(|p| p.str_at(&["name"]) == chosen.str_at(&["name"])).and_then(|p| p.at(&["port"]).and_then(Value::as_u64)).and_then(|p| u16::try_from(p).ok());
        let Some(p) = p else { continue };
        for end in v.list_at(&["endpoints"]) {
            if end.at(&["conditions", "ready"]) != Some(&Value::Bool(false))
                && let Some(a) = end.list_at(&["addresses"]).first().and_then(Value::as_str)
            {
                found.push((a.to_owned(), p));
            }
        }
    }
    if found.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {name:?}")));
    }
    let i = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % found.len();
    let (host, port) = found.swap_remove(i);
    let path = format!("/{}", ctx.info.rest);
    let path = if raw_query.is_empty() { path } else { format!("{path}?{raw_query}") };
    Ok(Target { host, port, tls: (scheme == "https").then_some(false), path, strip: true })
}

/// Serves a connection.
///
/// # Errors
/// The answer for the client.
pub async fn serve(ctx: &Arc<Ctx>, mut request: Request<Body>) -> Result<Reply, ApiError> {
    let raw_query = request.uri().query().unwrap_or("").to_owned();
    ctx.core.registry.current().await?;
    if ctx.info.subresource != "log" {
        let attrs = Attrs {
            ctx,
            core: &ctx.core, user: &ctx.user, operation: Operation::Connect, resource: &ctx.resource,
            subresource: &ctx.info.subresource, namespace: ctx.info.namespace.clone(), name: ctx.info.name.clone(), dry_run: false,
        };
        admission::validate(&attrs, &Value::Null, None).await?;
    }
    // A proxied folder is a folder.
    if ctx.info.subresource == "proxy" && ctx.info.rest.is_empty() && !ctx.info.path.ends_with('/') && matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut r = Response::new(Body::default());
        *r.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
        let to = format!("{}/{}", ctx.info.path, if raw_query.is_empty() { String::new() } else { format!("?{raw_query}") });
        if let Ok(v) = HeaderValue::from_str(&to) {
            r.headers_mut().insert(header::LOCATION, v);
        }
        return Ok(r);
    }
    let t = target(ctx, &raw_query)?;
    if t.host.is_empty() {
        return Ok(crate::respond::text(200, ""));
    }
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let on_client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let config = match t.tls {
        Some(true) => Some(Arc::clone(&ctx.core.kubelets.tls)),
        Some(false) => Some(Arc::clone(&ctx.core.kubelets.open)),
        None => None,
    };
    let dial = |why: &dyn std::fmt::Display| unavailable(format!("dial tcp {}:{}: {why}", t.host, t.port));
    let tcp = tokio::time::timeout(DIAL, TcpStream::connect((t.host.trim_matches(['[', ']']), t.port)))
        .await
        .map_err(|_| dial(&"i/o timeout"))?
        .map_err(|e| dial(&e))?;
    let _ = tcp.set_nodelay(true);
    let authority = if t.host.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) { format!("[{}]:{}", t.host, t.port) } else { format!("{}:{}", t.host, t.port) };
    let (parts, body) = request.into_parts();
    let proxied = (ctx.info.subresource == "proxy").then(|| super::links::Proxied {
        prefix: ctx.info.path.strip_suffix(&ctx.info.rest).unwrap_or(&ctx.info.path).trim_end_matches('/').to_owned(),
        inside: authority.clone(),
        outside: parts.uri.authority().map(ToString::to_string).or_else(|| parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).map(ToOwned::to_owned)).unwrap_or_default(),
    });
    let mut out = Request::builder().method(parts.method.clone()).uri(&t.path);
    if let Some(h) = out.headers_mut() {
        copy_headers(&parts.headers, h, upgrade, t.strip);
        if let Ok(v) = HeaderValue::from_str(&authority) {
            h.insert(header::HOST, v);
        }
        if let Some(p) = &proxied {
            p.forwarded(h, &t.path);
        }
    }
    let out = out.body(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let response = match config {
        Some(c) => {
            let name = ServerName::try_from(t.host.clone()).map_err(unavailable)?;
            let io = tokio::time::timeout(HANDSHAKE, tokio_rustls::TlsConnector::from(c).connect(name, tcp))
                .await
                .map_err(|_| unavailable("net/http: TLS handshake timeout"))?
                .map_err(unavailable)?;
            send(TokioIo::new(io), out).await?
        }
        None => send(TokioIo::new(tcp), out).await?,
    };
    relay(response, on_client, proxied.as_ref()).await
}

/// Copies what is not about the connection; `strip` leaves the client's credentials out.
pub fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrade: bool, strip: bool) {
    for (k, v) in from {
        let hop = matches!(k.as_str(), "host" | "transfer-encoding" | "keep-alive" | "te" | "trailer");
        let conn = matches!(k.as_str(), "connection" | "upgrade");
        let secret = matches!(k.as_str(), "authorization") || k.as_str().starts_with("impersonate-");
        if hop || (conn && !upgrade) || (secret && strip) {
            continue;
        }
        to.append(k.clone(), v.clone());
    }
}

async fn send<I>(io: TokioIo<I>, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, ApiError>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await.map_err(unavailable)?;
    tokio::spawn(async move {
        if let Err(error) = conn.with_upgrades().await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    sender.send_request(request).await.map_err(unavailable)
}

/// Turns the answer of the other side into ours, tunnelling an upgraded connection.
///
/// # Errors
/// If a page cannot be read.
pub async fn relay(mut response: Response<hyper::body::Incoming>, on_client: Option<hyper::upgrade::OnUpgrade>, proxied: Option<&super::links::Proxied>) -> Result<Reply, ApiError> {
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = on_client
    {
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            match tokio::try_join!(client, server) {
                Ok((a, b)) => {
                    let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
                    if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                        tracing::debug!(%error, "tunnel ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "upgrade failed"),
            }
        });
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, full("")));
    }
    let (mut parts, body) = response.into_parts();
    for h in [header::CONNECTION, header::TRANSFER_ENCODING] {
        parts.headers.remove(h);
    }
    if let Some(p) = proxied {
        p.redirect(&mut parts.headers);
        let known = http_body::Body::size_hint(&body).upper().is_none_or(|n| n <= super::links::MAX_PAGE as u64);
        if known && super::links::Proxied::is_page(&parts.headers) {
            let limited = http_body_util::Limited::new(body, super::links::MAX_PAGE);
            let page = limited.collect().await.map_err(unavailable)?.to_bytes();
            let shown = p.page(&mut parts.headers, &page).unwrap_or(page);
            return Ok(Response::from_parts(parts, full(shown)));
        }
    }
    Ok(Response::from_parts(parts, body.map_err(|e| crate::respond::BodyError(e.to_string())).boxed_unsync()))
}
