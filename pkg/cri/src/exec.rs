//! Processes in running containers.

use std::time::Duration;

use bytes::Bytes;
use knarr_cri_api::v1::ExecSyncResponse;
use knarr_shim::{ExecSession, ExecSpec};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::container::Container;
use crate::{Cri, Error};

/// No more output is kept of one synchronous exec.
const MAX_OUTPUT: usize = 16 << 20;
/// How long output may come after the process has ended (from what it left running).
const DRAIN: Duration = Duration::from_secs(1);

impl Container {
    /// Starts a process in the container.
    pub(crate) async fn exec(
        &self,
        args: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<ExecSession, Error> {
        if args.is_empty() {
            return Err(Error::Invalid("exec needs a command".to_owned()));
        }
        let shim = self.running().await?;
        let path = self.dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let spec: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Error::Record {
            path,
            reason: e.to_string(),
        })?;
        let mut process = spec["process"].clone();
        process["args"] = serde_json::json!(args);
        process["terminal"] = serde_json::json!(tty);
        if tty
            && let Some(env) = process["env"].as_array_mut()
            && !env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
        {
            env.push(serde_json::json!("TERM=xterm"));
        }
        let spec = ExecSpec {
            process,
            tty,
            stdin,
            kill_on_disconnect: true,
        };
        shim.exec(spec).await.map_err(|e| Error::Runtime {
            what: "failed to exec in container",
            message: e.to_string(),
        })
    }
}

impl Cri {
    /// Runs a process to its end; `timeout` in seconds, 0 is none.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        args: Vec<String>,
        timeout: i64,
    ) -> Result<ExecSyncResponse, Error> {
        let container = self.container(id)?;
        let run = async {
            let mut session = container.exec(args, false, false).await?;
            let (out, err) = (session.stdout.take(), session.stderr.take());
            let mut reading = std::pin::pin!(futures::future::join(collect(out), collect(err)));
            let mut ending = std::pin::pin!(session.wait());
            // Both, and once the process has ended the output only for a while.
            let (output, code) = tokio::select! {
                output = &mut reading => (output, ending.await?),
                code = &mut ending => {
                    let code = code?;
                    match tokio::time::timeout(DRAIN, &mut reading).await {
                        Ok(output) => (output, code),
                        Err(_) => (Default::default(), code),
                    }
                }
            };
            Ok(ExecSyncResponse {
                stdout: output.0,
                stderr: output.1,
                exit_code: code,
            })
        };
        match u64::try_from(timeout) {
            Ok(seconds) if seconds > 0 => {
                match tokio::time::timeout(Duration::from_secs(seconds), run).await {
                    Ok(done) => done,
                    Err(_) => Err(Error::Deadline(format!(
                        "failed to exec in container: timeout {seconds}s exceeded: context deadline exceeded"
                    ))),
                }
            }
            _ => run.await,
        }
    }
}

/// Reads to the end; what is too much is read and dropped.
async fn collect(from: Option<impl AsyncRead + Unpin>) -> Bytes {
    let Some(mut from) = from else { return Bytes::new() };
    let mut all = Vec::new();
    let mut buffer = vec![0u8; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return all.into(),
            Ok(n) => {
                let room = MAX_OUTPUT - all.len();
                all.extend_from_slice(&buffer[..n.min(room)]);
            }
        }
    }
}
