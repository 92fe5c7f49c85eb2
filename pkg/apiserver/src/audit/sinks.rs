//! Where audit events go: a file that is begun anew when it is full, a service that takes lists.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use serde_json::{Value, json, value::RawValue};
use tokio::sync::mpsc as queue;

use crate::webhook::RemoteService;

/// Events that wait for the service; more are dropped.
const BUFFER: usize = 10_000;
/// The most events of one list.
const BATCH: usize = 400;
/// The longest an event waits for others.
const WAIT: Duration = Duration::from_secs(30);
/// How long the service may take, and how long it is left alone after a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(10);

/// A file of events, one a line.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Bytes from which on it is set aside and begun anew; 0: never.
    pub max_bytes: u64,
    /// How many that were set aside are kept; 0: all.
    pub max_backups: usize,
}

impl LogFile {
    /// A file that is set aside at 100 MB, with all that were before.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 100 << 20, max_backups: 0 }
    }

    fn is_stdout(&self) -> bool {
        self.path == Path::new("-")
    }

    fn open(&self) -> io::Result<(File, u64)> {
        let f = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let size = f.metadata()?.len();
        Ok((f, size))
    }

    /// `audit-<time>.log` for `audit.log`.
    fn aside(&self, name: &str) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let end = self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        self.path.with_file_name(format!("{stem}-{name}{end}"))
    }

    /// Sets the file aside and removes the oldest of those that are too many.
    fn rotate(&self) -> io::Result<()> {
        let now = chrono::Utc::now().format("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        fs::rename(&self.path, self.aside(&now))?;
        if self.max_backups == 0 {
            return Ok(());
        }
        let (first, last) = (self.aside("\0"), self.path.extension().map(|e| e.to_owned()));
        let first = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let begin = first.split('\0').next().unwrap_or("").to_owned();
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mine = |p: &PathBuf| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.strip_prefix(&begin).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) && p.extension().map(|e| e.to_owned()) == last
        };
        let mut old: Vec<PathBuf> = fs::read_dir(folder)?.filter_map(|e| e.ok().map(|e| e.path())).filter(mine).collect();
        old.sort();
        let many = old.len().saturating_sub(self.max_backups);
        for p in old.into_iter().take(many) {
            fs::remove_file(p)?;
        }
        Ok(())
    }

    fn write(&self, lines: &mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
        if self.is_stdout() {
            let mut out = io::stdout();
            while let Ok(line) = lines.recv() {
                out.write_all(&line)?;
                out.flush()?;
            }
            return Ok(());
        }
        let (mut out, mut size) = self.open()?;
        while let Ok(mut all) = lines.recv() {
            // What has come meanwhile goes in one write.
            while all.len() < 1 << 20
                && let Ok(more) = lines.try_recv()
            {
                all.extend_from_slice(&more);
            }
            if self.max_bytes > 0 && size > 0 && size + all.len() as u64 > self.max_bytes {
                self.rotate()?;
                (out, size) = self.open()?;
            }
            out.write_all(&all)?;
            size += all.len() as u64;
        }
        Ok(())
    }
}

/// Takes events.
pub struct Sinks {
    lines: Option<mpsc::Sender<Vec<u8>>>,
    service: Option<queue::Sender<Box<RawValue>>>,
}

impl Sinks {
    /// Opens the file and begins to serve both.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(log: Option<LogFile>, webhook: Option<RemoteService>) -> io::Result<Self> {
        let mut lines = None;
        if let Some(log) = log {
            if !log.is_stdout() {
                log.open()?;
            }
            let (send, taken) = mpsc::channel();
            std::thread::Builder::new().name("audit".into()).spawn(move || {
                if let Err(error) = log.write(&taken) {
                    tracing::error!(%error, path = %log.path.display(), "the audit log cannot be written");
                }
            })?;
            lines = Some(send);
        }
        let service = webhook.map(|w| {
            let (send, taken) = queue::channel(BUFFER);
            tokio::spawn(deliver(w, taken));
            send
        });
        Ok(Self { lines, service })
    }

    /// Takes one event, as JSON.
    pub fn take(&self, event: Vec<u8>) {
        if let Some(s) = &self.service
            && let Ok(raw) = String::from_utf8(event.clone()).map_err(|_| ()).and_then(|t| RawValue::from_string(t).map_err(|_| ()))
            && s.try_send(raw).is_err()
        {
            tracing::warn!("the audit service does not keep up: an event is lost");
        }
        if let Some(l) = &self.lines {
            let mut line = event;
            line.push(b'\n');
            let _ = l.send(line);
        }
    }
}

/// Sends events in lists; a list that cannot be delivered is tried again, then lost.
async fn deliver(service: RemoteService, mut events: queue::Receiver<Box<RawValue>>) {
    while let Some(first) = events.recv().await {
        let mut all = vec![first];
        let end = tokio::time::Instant::now() + WAIT;
        while all.len() < BATCH {
            match tokio::time::timeout_at(end, events.recv()).await {
                Ok(Some(e)) => all.push(e),
                Ok(None) | Err(_) => break,
            }
        }
        let items: Vec<Value> = all.iter().filter_map(|e| serde_json::from_str(e.get()).ok()).collect();
        let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items});
        for attempt in 0..4 {
            match service.post(&list, PATIENCE).await {
                Ok(_) => break,
                Err(why) => {
                    tracing::warn!(why, attempt, "audit events cannot be delivered");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
