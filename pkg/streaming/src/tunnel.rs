//! A request handed on to an upstream, with whatever protocol it upgrades to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::error::Error;

/// The body of an answer.
pub type Body = BoxBody<Bytes, hyper::Error>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const BUFFER: usize = 32 << 10;

/// Where a request is handed on to.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The whole URL, `http` or `https`, with path and query.
    pub url: Uri,
    /// For `https`: whom to trust, and the client certificate to show.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Set on the request that is handed on, over what the client sent.
    pub headers: HeaderMap,
}

impl Upstream {
    /// An upstream without TLS and extra headers.
    pub fn plain(url: Uri) -> Upstream {
        Upstream {
            url,
            tls: None,
            headers: HeaderMap::new(),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Hands a request on and answers what the upstream answers. After a 101 the two connections are
/// joined in the background, byte for byte, until both directions have ended or one side is gone.
/// The request must come from an HTTP/1.1 connection that is served with upgrades.
///
/// The client's credentials (`Authorization`, cookies) and hop-by-hop headers other than the
/// upgrade's own are not handed on.
pub async fn tunnel<B>(
    mut request: Request<B>,
    upstream: &Upstream,
) -> Result<Response<Body>, Error>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Upstream {
        url: upstream.url.to_string(),
        source,
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(upstream))
        .await
        .map_err(|e| failed(e.into()))?
        .map_err(failed)?;
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(body.map_err(Into::into).boxed_unsync());
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = origin_form(&upstream.url);
    *onward.headers_mut() = onward_headers(&parts.headers, upstream)
        .ok_or_else(|| failed("a URL without a host".into()))?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake::<_, http_body_util::combinators::UnsyncBoxBody<Bytes, _>>(TokioIo::new(stream))
        .await
        .map_err(|e| failed(e.into()))?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            debug!("upstream connection: {e}");
        }
    });
    let mut response = sender
        .send_request(onward)
        .await
        .map_err(|e| failed(e.into()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let mut response = response.map(|body| body.boxed());
        for name in [
            header::CONNECTION,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ] {
            response.headers_mut().remove(name);
        }
        return Ok(response);
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(both) => both,
            Err(e) => return debug!("upgrade: {e}"),
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let joined = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER);
        if let Err(e) = joined.await {
            debug!("tunnel: {e}");
        }
    });
    let empty = Empty::new().map_err(|never| match never {}).boxed();
    Ok(response.map(|_| empty))
}

fn origin_form(url: &Uri) -> Uri {
    let path = url.path_and_query().map_or("/", |p| p.as_str());
    path.parse().unwrap_or_default()
}

fn onward_headers(from: &HeaderMap, upstream: &Upstream) -> Option<HeaderMap> {
    let upgrade = from.get(header::UPGRADE).cloned();
    let mut headers = from.clone();
    let dropped: [HeaderName; 9] = [
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::PROXY_AUTHORIZATION,
        header::AUTHORIZATION,
        header::COOKIE,
        header::HOST,
        HeaderName::from_static("keep-alive"),
    ];
    for name in dropped {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    let host = upstream.url.authority()?.as_str();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    headers.insert(header::HOST, HeaderValue::from_str(host).ok()?);
    for (name, value) in &upstream.headers {
        headers.insert(name, value.clone());
    }
    Some(headers)
}

async fn connect(
    upstream: &Upstream,
) -> Result<Box<dyn Stream>, Box<dyn std::error::Error + Send + Sync>> {
    let url = &upstream.url;
    let secure = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("only http and https URLs can be reached".into()),
    };
    let host = url.host().ok_or("a URL without a host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    if !secure {
        return Ok(Box::new(stream));
    }
    let config = upstream
        .tls
        .clone()
        .ok_or("https without a TLS configuration")?;
    let name = ServerName::try_from(host.to_owned())?;
    Ok(Box::new(
        TlsConnector::from(config).connect(name, stream).await?,
    ))
}
