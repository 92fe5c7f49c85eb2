//! Configuration files that are read again while the server runs.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;

/// How often a configuration was read again, and when last: with failure, and with success.
#[derive(Debug, Default)]
pub struct Reloads {
    times: [AtomicU64; 2],
    last: [AtomicU64; 2],
}

impl Reloads {
    fn count(&self, success: bool) {
        let i = usize::from(success);
        self.times[i].fetch_add(1, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.last[i].store(now, Relaxed);
    }

    /// As metrics of a controller, `authentication_config` say.
    #[must_use]
    pub fn metrics(&self, controller: &str) -> String {
        let prefix = format!("apiserver_{controller}_controller_automatic_reload");
        let mut s = String::new();
        for (name, kind, help, of) in [
            ("s_total", "counter", "How often the configuration was read again.", &self.times),
            ("_last_timestamp_seconds", "gauge", "When the configuration was last read again.", &self.last),
        ] {
            s.push_str(&format!("# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}\n"));
            for (n, status) in of.iter().zip(["failure", "success"]) {
                let n = n.load(Relaxed);
                if n > 0 {
                    s.push_str(&format!("{prefix}{name}{{status=\"{status}\"}} {n}\n"));
                }
            }
        }
        s
    }
}

/// Looks at a file every `every`, and gives it to `take` when it has changed; ends when that says
/// `None`, for who takes it is gone. A file that is wrong is tried again when it changes again.
pub fn follow<F>(name: &'static str, path: PathBuf, every: Duration, reloads: Arc<Reloads>, take: F)
where
    F: Fn(String) -> BoxFuture<'static, Option<Result<(), String>>> + Send + 'static,
{
    tokio::spawn(async move {
        let mut known = tokio::fs::read_to_string(&path).await.unwrap_or_default();
        loop {
            tokio::time::sleep(every).await;
            let done = match tokio::fs::read_to_string(&path).await {
                Ok(text) if text == known => continue,
                Ok(text) => {
                    known.clone_from(&text);
                    take(text).await
                }
                Err(error) => Some(Err(error.to_string())),
            };
            let Some(done) = done else { return };
            reloads.count(done.is_ok());
            match done {
                Ok(()) => tracing::info!(path = %path.display(), "reloaded {name} config"),
                Err(error) => tracing::error!(error, path = %path.display(), "reloading {name} config; the one before stays in force"),
            }
        }
    });
}
