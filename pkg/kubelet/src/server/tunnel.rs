//! An upgrade request carried on to the runtime's streaming server, byte for byte.
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Answer, Refusal, full};

/// Sends `req` on to `url`; after 101, both sides talk to each other.
pub(super) async fn to(mut req: Request<Incoming>, url: &str) -> Result<Answer, Refusal> {
    let uri: Uri = url
        .parse()
        .map_err(|e| Refusal::internal(format!("streaming address {url}: {e}")))?;
    let authority = uri
        .authority()
        .ok_or_else(|| Refusal::internal(format!("streaming address {url} has no host")))?
        .to_string();
    let tcp = TcpStream::connect(&authority)
        .await
        .map_err(|e| Refusal::internal(format!("dialing {authority}: {e}")))?;
    let _ = tcp.set_nodelay(true);
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|e| Refusal::internal(e.to_string()))?;
    tokio::spawn(conn.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut out = Request::builder().method(req.method()).uri(path);
    for (name, value) in req.headers() {
        if name != http::header::HOST && name != http::header::AUTHORIZATION {
            out = out.header(name, value);
        }
    }
    let out = out
        .header(http::header::HOST, &authority)
        .body(Empty::<Bytes>::new())
        .map_err(|e| Refusal::internal(e.to_string()))?;
    let mut answer = sender
        .send_request(out)
        .await
        .map_err(|e| Refusal::internal(e.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(|b| b.map_err(std::io::Error::other).boxed()));
    }
    let (ours, theirs) = (hyper::upgrade::on(&mut req), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        match tokio::try_join!(ours, theirs) {
            Ok((a, b)) => {
                let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
                if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                    tracing::debug!(%error, "a stream broke off");
                }
            }
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(http::Response::from_parts(parts, full(Bytes::new())))
}
