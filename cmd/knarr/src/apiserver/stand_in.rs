//! `knarr etcd`: what stands in for etcd where a tool, such as controller-runtime's envtest, starts
//! etcd first whatever is to use it. It answers health checks and keeps nothing: an API server that
//! is pointed at it keeps everything in a store of its own, in the folder that this one was given.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

use crate::layout::Layout;

/// Where a stand-in says which folder is meant.
const PATH: &str = "/knarr";
/// How long an answer may take, and how long it may be.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST: u64 = 16 << 10;

/// Those of etcd's flags that are passed to it by tools.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where to answer
    #[arg(long, default_value = "http://127.0.0.1:2379", value_name = "URL")]
    pub listen_client_urls: String,
    /// Changes nothing
    #[arg(long, value_name = "URL")]
    pub advertise_client_urls: Option<String>,
    /// Changes nothing
    #[arg(long, value_name = "URL")]
    pub listen_peer_urls: Option<String>,
    /// Changes nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub unsafe_no_fsync: Option<bool>,
}

/// The host and port of a plain URL of this machine.
fn address(url: &str) -> Option<SocketAddr> {
    let rest = url.strip_prefix("http://")?.trim_end_matches('/').replace("localhost", "127.0.0.1");
    rest.parse().ok().filter(|a: &SocketAddr| a.ip().is_loopback())
}

/// Answers until it is told to stop.
///
/// # Errors
/// If it cannot listen.
pub fn run(layout: &Layout, options: &Options) -> Result<()> {
    crate::runtime(1)?.block_on(async {
        let Some(at) = address(&options.listen_client_urls) else {
            bail!("--listen-client-urls {:?} is no http URL of this machine", options.listen_client_urls);
        };
        let folder = std::path::absolute(&layout.data_dir)?;
        let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                got = listener.accept() => if let Ok((tcp, _)) = got {
                    let folder = folder.clone();
                    tokio::spawn(tokio::time::timeout(PATIENCE, answer(tcp, folder)));
                },
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    })
}

async fn answer(mut tcp: TcpStream, folder: PathBuf) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() as u64 > LONGEST || tcp.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let (code, body) = match head.split(' ').nth(1) {
        Some("/health") => ("200 OK", serde_json::json!({"health": "true"})),
        Some(PATH) => ("200 OK", serde_json::json!({"dataDir": folder})),
        _ => ("404 Not Found", serde_json::Value::Null),
    };
    let body = body.to_string();
    let reply = format!("HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    tcp.write_all(reply.as_bytes()).await?;
    tcp.shutdown().await
}

/// The folder that is meant, if what answers at `url` is a stand-in.
pub async fn folder(url: &str) -> Option<PathBuf> {
    let at = address(url)?;
    let ask = async {
        let mut tcp = TcpStream::connect(at).await?;
        tcp.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        tcp.take(LONGEST).read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = tokio::time::timeout(PATIENCE, ask).await.ok()?.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    head.starts_with("HTTP/1.1 200").then(|| body["dataDir"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn only_plain_urls_of_this_machine() {
        assert_eq!(address("http://127.0.0.1:2379/"), "127.0.0.1:2379".parse().ok());
        assert_eq!(address("http://localhost:1"), "127.0.0.1:1".parse().ok());
        assert_eq!(address("http://[::1]:1"), "[::1]:1".parse().ok());
        for other in ["https://127.0.0.1:2379", "http://192.0.2.1:2379", "127.0.0.1:2379", "http://127.0.0.1"] {
            assert_eq!(address(other), None, "{other}");
        }
    }
}
