//! Lifecycle hooks: exec, httpGet, sleep.
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::{probe::http, worker::Shared};

/// Runs a handler to its end.
///
/// # Errors
/// A line that says what went wrong.
pub async fn run(
    sh: &Shared,
    _pod: &Pod,
    c: &Container,
    id: &str,
    ip: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(e) = &handler.exec {
        let cmd = e.command.clone().unwrap_or_default();
        let out = sh
            .cri
            .exec_sync(id, cmd, Duration::ZERO)
            .await
            .map_err(|e| e.message().to_owned())?;
        if out.exit_code != 0 {
            return Err(format!(
                "command exited with {}: {}{}",
                out.exit_code,
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            ));
        }
        return Ok(());
    }
    if let Some(h) = &handler.http_get {
        let target = http::Target::of_action(h, c, ip)?;
        // any answer is a success; an HTTPS hook may meet a plain server
        let first = http::get(&target, "kube-lifecycle/1.37", Duration::from_secs(3600)).await;
        return match first {
            Ok(_) => Ok(()),
            Err(e) if target.tls && e.not_tls => {
                let plain = http::Target {
                    tls: false,
                    ..target
                };
                http::get(&plain, "kube-lifecycle/1.37", Duration::from_secs(3600))
                    .await
                    .map(|_| ())
                    .map_err(|e| e.text)
            }
            Err(e) => Err(e.text),
        };
    }
    if let Some(s) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler".into())
}
