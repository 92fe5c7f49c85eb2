//! Configuration files that are read again while the server runs.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// What is written in several steps is read when it is complete.
const SETTLE: Duration = Duration::from_millis(50);

/// The folder of a file, which tells of changes: also when the file is replaced by another one, or by
/// way of a link, as in mounted volumes.
struct Folder(Option<Receiver>);

impl Folder {
    fn of(file: &Path) -> Self {
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let open = || -> std::io::Result<Receiver> {
            let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let what = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY | WatchFlags::DELETE;
            add_watch(&fd, folder, what)?;
            // It is read as a pipe is.
            Receiver::from_owned_fd_unchecked(fd)
        };
        Self(open().inspect_err(|error| tracing::warn!(%error, folder = %folder.display(), "changes are not told of; they are looked for")).ok())
    }

    /// Waits for a change; for ever if nobody tells.
    async fn changed(&mut self) {
        let Some(told) = &mut self.0 else { return std::future::pending().await };
        let mut events = [0; 4096];
        if told.read(&mut events).await.is_err() {
            self.0 = None;
            return;
        }
        tokio::time::sleep(SETTLE).await;
        while told.try_read(&mut events).is_ok_and(|n| n > 0) {}
    }
}

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

/// Looks at a file when its folder changes, and every `every`, and gives it to `take` when it has changed; ends when that says
/// `None`, for who takes it is gone. A file that is wrong is tried again when it changes again.
pub fn follow<F>(name: &'static str, path: PathBuf, every: Duration, reloads: Arc<Reloads>, take: F)
where
    F: Fn(String) -> BoxFuture<'static, Option<Result<(), String>>> + Send + 'static,
{
    tokio::spawn(async move {
        let mut folder = Folder::of(&path);
        let mut known = tokio::fs::read_to_string(&path).await.unwrap_or_default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = folder.changed() => {}
            }
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
