//! HTTP and HTTPS requests of probes and hooks. Certificates are not verified: the address is
//! the pod's own, and the probe asks only whether something answers.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{io::{AsyncRead, AsyncWrite}, net::TcpStream};

/// Most of an answer that is read, in bytes.
const BODY_MAX: usize = 10 * 1024;
/// Redirects followed to the same host.
const REDIRECTS: usize = 10;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Host or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Over TLS.
    pub tls: bool,
}

/// Why there was no answer.
#[derive(Debug)]
pub struct GetError {
    /// In words.
    pub text: String,
    /// TLS was spoken to something that does not speak it.
    pub not_tls: bool,
}

impl Target {
    /// The target of an `httpGet`, at `ip` unless it names a host.
    pub fn of_action(h: &HTTPGetAction, c: &Container, ip: &str) -> Result<Target, String> {
        let path = h.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
        Ok(Target {
            host: h.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.into()),
            port: super::port(&h.port, c)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: h
                .http_headers
                .iter()
                .flatten()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect(),
            tls: h.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        })
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", super::join(&self.host, self.port), self.path)
    }
}

/// Probes once: 2xx and 3xx to elsewhere are healthy.
pub async fn probe(target: &Target, timeout: Duration) -> Result<(), String> {
    let mut at = target.clone();
    for _ in 0..=REDIRECTS {
        let (status, location, body) =
            get(&at, "kube-probe/1.37", timeout).await.map_err(|e| e.text)?;
        if let (300..400, Some(next)) = (status, location.and_then(|l| redirect(&at, &l))) {
            match next {
                Some(next) => {
                    at = next;
                    continue;
                }
                // another host: not followed, and healthy
                None => return Ok(()),
            }
        }
        if (200..400).contains(&status) {
            return Ok(());
        }
        tracing::trace!(status, body, "probe");
        return Err(format!("HTTP probe failed with statuscode: {status}"));
    }
    Err(format!("Get \"{}\": stopped after {REDIRECTS} redirects", target.url()))
}

/// The target of a redirect: `Some(None)` when it leaves the host.
fn redirect(at: &Target, location: &str) -> Option<Option<Target>> {
    let uri: http::Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    match uri.host() {
        None if location.starts_with('/') => Some(Some(Target { path, ..at.clone() })),
        None => None,
        Some(h) if h.trim_matches(['[', ']']) != at.host => Some(None),
        Some(_) => {
            let tls = uri.scheme_str() == Some("https");
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            Some(Some(Target {
                port,
                path,
                tls,
                ..at.clone()
            }))
        }
    }
}

/// One GET: status, location, the beginning of the body.
pub async fn get(
    t: &Target,
    agent: &str,
    timeout: Duration,
) -> Result<(u16, Option<String>, String), GetError> {
    let url = t.url();
    let fail = |text: String| GetError {
        text: format!("Get \"{url}\": {text}"),
        not_tls: false,
    };
    let work = async {
        let addr = super::join(&t.host, t.port);
        let tcp = TcpStream::connect(&addr)
            .await
            .map_err(|e| fail(format!("dial tcp {addr}: connect: {}", super::short(&e))))?;
        let _ = tcp.set_nodelay(true);
        if t.tls {
            let name = ServerName::try_from(t.host.clone())
                .map_err(|e| fail(e.to_string()))?;
            let tls = tokio_rustls::TlsConnector::from(client_config())
                .connect(name, tcp)
                .await
                .map_err(|e| GetError {
                    not_tls: true,
                    ..fail(e.to_string())
                })?;
            talk(tls, t, agent).await.map_err(fail)
        } else {
            talk(tcp, t, agent).await.map_err(fail)
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(r) => r,
        Err(_) => Err(fail(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
        )),
    }
}

async fn talk<S>(io: S, t: &Target, agent: &str) -> Result<(u16, Option<String>, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(|e| e.to_string())?;
    let conn = tokio::spawn(conn);
    let mut req = http::Request::get(&t.path).header("connection", "close");
    let has = |n: &str| t.headers.iter().any(|(h, _)| h.eq_ignore_ascii_case(n));
    if !has("host") {
        req = req.header("host", super::join(&t.host, t.port));
    }
    if !has("user-agent") {
        req = req.header("user-agent", agent);
    }
    if !has("accept") {
        req = req.header("accept", "*/*");
    }
    for (name, value) in &t.headers {
        if !value.is_empty() {
            req = req.header(name, value);
        }
    }
    let req = req.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = sender.send_request(req).await.map_err(|e| e.to_string());
    let answer = match answer {
        Ok(a) => a,
        Err(e) => {
            conn.abort();
            return Err(e);
        }
    };
    let status = answer.status().as_u16();
    let location = answer
        .headers()
        .get(http::header::LOCATION)
        .and_then(|l| l.to_str().ok())
        .map(str::to_owned);
    let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
    let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
    conn.abort();
    Ok((status, location, body.unwrap_or_default()))
}

fn client_config() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(NoVerification(Arc::clone(&provider)));
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS);
        let config = match builder {
            Ok(b) => b
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth(),
            Err(_) => unreachable!("ring supports every version of rustls"),
        };
        Arc::new(config)
    }))
}

#[derive(Debug)]
struct NoVerification(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
