//! The control socket: how `knarr status`, `stop` and `trace` reach the running program.
//!
//! One JSON request a line, one JSON answer a line. The socket is in the run folder with mode
//! 0600, so only root speaks to it.

use std::{
    fs::Permissions,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// What is running.
    Status,
    /// End the program; containers go on.
    Stop,
    /// What the scheduler decided for a pod.
    Decision {
        /// The pod's UID.
        uid: String,
    },
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// The answer to one request.
    fn handle(&self, request: Request) -> Value;
}

/// Serves the socket until `shutdown`.
///
/// # Errors
/// If the socket cannot be bound.
pub fn serve(path: &Path, handler: Arc<dyn Handler>, shutdown: CancellationToken) -> Result<()> {
    let _ = std::fs::remove_file(path);
    let listener = tokio::net::UnixListener::bind(path)
        .with_context(|| format!("cannot bind {}", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let path = path.to_owned();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "control socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            tokio::spawn(answer(stream, handler.clone()));
        }
        let _ = std::fs::remove_file(path);
    });
    Ok(())
}

async fn answer(stream: tokio::net::UnixStream, handler: Arc<dyn Handler>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match serde_json::from_str(&line) {
            Ok(request) => handler.handle(request),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        let mut text = answer.to_string();
        text.push('\n');
        if writer.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// How long a program that is on its way out is waited for.
const LEAVING: Duration = Duration::from_secs(10);

/// Asks the running program; `None` if none is running. One that is being killed is waited for.
///
/// # Errors
/// If it runs but does not answer within ten seconds, or answers with an error.
pub fn ask(path: &Path, request: &Request) -> Result<Option<Value>> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    let begin = Instant::now();
    let answer = loop {
        let Ok(mut stream) = UnixStream::connect(path) else { return Ok(None) };
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = String::new();
        let asked = stream
            .write_all(line.as_bytes())
            .and_then(|()| BufReader::new(stream).read_line(&mut answer));
        match asked {
            Ok(n) if n > 0 => break answer,
            // Its end of the socket is gone, its name is not yet.
            Ok(_) if begin.elapsed() < LEAVING => {}
            Err(error) if left(&error) && begin.elapsed() < LEAVING => {}
            Ok(_) => bail!("knarr is ending, and does not end"),
            Err(error) => return Err(error).context("knarr does not answer"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let value: Value = serde_json::from_str(&answer).context("knarr's answer is cut short")?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    Ok(Some(value))
}

fn left(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
