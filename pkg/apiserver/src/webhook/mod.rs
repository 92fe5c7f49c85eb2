//! Calling webhooks: where they are, whom to trust, and what went wrong in Go's words.

mod remote;

use std::{sync::Arc, time::Duration};

pub use remote::RemoteService;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use knarr_registry::Object;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::{io::{AsyncRead, AsyncWrite}, net::TcpStream};

use crate::{core::Core, trust};

/// The most a webhook's answer may be.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// Where a webhook is.
#[derive(Debug)]
pub struct Address {
    /// The URL as errors show it, without the timeout.
    pub url: String,
    /// The name in its certificate.
    name: String,
    /// Where to connect to.
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

/// The endpoint of a service's port, taken at random among the ready ones.
///
/// # Errors
/// The reason there is none.
pub fn endpoint(core: &Core, namespace: &str, service: &str, port: u64) -> Result<(String, u16), String> {
    let svc = core.peek("services/specs", namespace, service).ok_or_else(|| format!("service {service:?} not found"))?;
    let Some(chosen) = svc.list_at(&["spec", "ports"]).iter().find(|p| p.at(&["port"]).and_then(Value::as_u64) == Some(port)) else {
        return Err(format!("no service port {port} found for service {service:?}"));
    };
    let slices = core.kind("endpointslices").map_err(|e| e.message)?;
    let mut found: Vec<(String, u16)> = Vec::new();
    for e in slices.cache.snapshot().prefixed(&slices.scope(namespace)) {
        if e.label("kubernetes.io/service-name") != Some(service) {
            continue;
        }
        let v = e.value();
        let of = v.list_at(&["ports"]).iter().find(|p| p.str_at(&["name"]) == chosen.str_at(&["name"]));
        let Some(p) = of.and_then(|p| p.at(&["port"]).and_then(Value::as_u64)).and_then(|p| u16::try_from(p).ok()) else { continue };
        for end in v.list_at(&["endpoints"]) {
            if end.at(&["conditions", "ready"]) != Some(&Value::Bool(false))
                && let Some(a) = end.list_at(&["addresses"]).first().and_then(Value::as_str)
            {
                found.push((a.to_owned(), p));
            }
        }
    }
    if found.is_empty() {
        return Err(format!("no endpoints available for service {service:?}"));
    }
    let i = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % found.len();
    Ok(found.swap_remove(i))
}

/// A path as upstream's clients send it: without empty parts and dots.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Reads a `clientConfig`.
///
/// # Errors
/// The URL, and the reason it cannot be reached.
pub fn address(core: &Core, config: &Value) -> Result<Address, (String, String)> {
    if let Some(s) = config.at(&["service"]) {
        let (ns, service) = (s.str_at(&["namespace"]), s.str_at(&["name"]));
        let port = s.at(&["port"]).and_then(Value::as_u64).unwrap_or(443);
        let path = clean(s.str_at(&["path"]));
        let name = format!("{service}.{ns}.svc");
        let url = format!("https://{name}:{port}{path}");
        let (host, port) = endpoint(core, ns, service, port).map_err(|why| (url.clone(), why))?;
        return Ok(Address { url, name, host, port, path });
    }
    let url = config.str_at(&["url"]).to_owned();
    let bad = |why: &str| (url.clone(), why.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| bad("invalid URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad("the URL is no https URL"));
    }
    let host = uri.host().ok_or_else(|| bad("no host in request URL"))?.trim_matches(['[', ']']).to_owned();
    let path = clean(uri.path());
    let url = format!("https://{}{path}", uri.authority().map_or("", |a| a.as_str()));
    Ok(Address { name: host.clone(), port: uri.port_u16().unwrap_or(443), host, path, url })
}

/// How a webhook's certificate is checked.
fn tls(config: &Value) -> Result<ClientConfig, String> {
    let bundle = STANDARD.decode(config.str_at(&["caBundle"])).map_err(|e| e.to_string())?;
    Ok(trust::by(&bundle)?.with_no_client_auth())
}

/// Posts JSON to a webhook and reads its answer.
///
/// # Errors
/// The sentence that upstream shows after `failed to call webhook: `.
pub async fn post(core: &Core, config: &Value, body: &Value, timeout: Duration) -> Result<Value, String> {
    let go = |url: &str, why: &str| {
        let mark = if url.contains('?') { '&' } else { '?' };
        format!("Post \"{url}{mark}timeout={}s\": {why}", timeout.as_secs())
    };
    let to = address(core, config).map_err(|(url, why)| go(&url, &why))?;
    match tokio::time::timeout(timeout, send(&to, config, body, timeout)).await {
        Ok(Ok((code, bytes))) if (200..300).contains(&code) => serde_json::from_slice(&bytes).map_err(|e| format!("couldn't parse the webhook's answer: {e}")),
        Ok(Ok((404, _))) => Err("the server could not find the requested resource".into()),
        Ok(Ok((_, bytes))) => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).trim().to_owned();
            Err(format!("an error on the server ({text:?}) has prevented the request from succeeding"))
        }
        Ok(Err(why)) => Err(go(&to.url, &why)),
        Err(_) => Err(go(&to.url, "context deadline exceeded")),
    }
}

async fn send(to: &Address, config: &Value, body: &Value, timeout: Duration) -> Result<(u16, Bytes), String> {
    let tls = tls(config)?;
    let tcp = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(|e| {
        let why = if e.kind() == std::io::ErrorKind::ConnectionRefused { "connection refused".to_owned() } else { e.to_string() };
        format!("dial tcp {}:{}: connect: {why}", to.host, to.port)
    })?;
    let _ = tcp.set_nodelay(true);
    let name = ServerName::try_from(to.name.clone()).map_err(|e| e.to_string())?;
    let io = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(|e| format!("tls: failed to verify certificate: {e}"))?;
    let mark = if to.path.contains('?') { '&' } else { '?' };
    let request = Request::post(format!("{}{mark}timeout={}s", to.path, timeout.as_secs()))
        .header(header::HOST, if to.port == 443 { to.name.clone() } else { format!("{}:{}", to.name, to.port) })
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|e| e.to_string())?;
    exchange(TokioIo::new(io), request).await
}

async fn exchange<I>(io: TokioIo<I>, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), String>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    // The connection lives as long as the question, also when that is given up.
    let work = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status().as_u16();
        let bytes = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok((code, bytes))
    };
    tokio::pin!(conn);
    tokio::pin!(work);
    let mut open = true;
    loop {
        tokio::select! {
            r = &mut work => return r,
            r = &mut conn, if open => {
                open = false;
                if let Err(error) = r {
                    tracing::debug!(%error, "a webhook's connection ended");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_cleaned() {
        for (given, sent) in [("", "/"), ("//mutate", "/mutate"), ("/a//b/", "/a/b"), ("/a/./b/../c", "/a/c"), ("../x", "/x")] {
            assert_eq!(super::clean(given), sent, "{given}");
        }
    }
}
