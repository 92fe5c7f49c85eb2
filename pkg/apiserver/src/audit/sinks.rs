//! How audit events come to where they go: at once, or in batches by the way.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::log::{Log, LogFile};
use crate::webhook::RemoteService;

/// How long the service may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a list is sent to a service that does not take it.
const ATTEMPTS: u32 = 5;
/// How long what is still waiting may take when the server ends.
const END: Duration = Duration::from_secs(5);

/// Whether requests wait for their events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// They do not.
    Batch,
    /// They do; what fails is lost.
    Blocking,
    /// They do; a request whose arrival cannot be recorded is refused.
    BlockingStrict,
}

/// How events come together, in [`AuditMode::Batch`].
#[derive(Clone, Debug)]
pub struct AuditBatch {
    /// How many may wait; more are lost.
    pub buffer: usize,
    /// The most at a time.
    pub max_size: usize,
    /// How long one waits for others.
    pub max_wait: Duration,
    /// The most batches a second in the long run, and at once.
    pub throttle: Option<(f64, u32)>,
}

/// How events come to a backend.
#[derive(Clone, Debug)]
pub struct AuditDelivery {
    /// Whether requests wait.
    pub mode: AuditMode,
    /// How events come together if not.
    pub batch: AuditBatch,
    /// Bytes above which an event goes without objects, or not at all; none is no limit.
    pub max_event_bytes: Option<usize>,
    /// How long a service is left alone after its first failure.
    pub initial_backoff: Duration,
}

impl AuditDelivery {
    /// As kube-apiserver writes its log: requests wait.
    #[must_use]
    pub fn log() -> Self {
        let batch = AuditBatch { buffer: 10_000, max_size: 1, max_wait: Duration::ZERO, throttle: None };
        Self { mode: AuditMode::Blocking, batch, max_event_bytes: None, initial_backoff: Duration::from_secs(10) }
    }
    /// As kube-apiserver tells a service: in batches.
    #[must_use]
    pub fn webhook() -> Self {
        let batch = AuditBatch { buffer: 10_000, max_size: 400, max_wait: Duration::from_secs(30), throttle: Some((10.0, 15)) };
        Self { mode: AuditMode::Batch, batch, ..Self::log() }
    }
}

/// What takes events.
enum Backend {
    Log(Mutex<Log>),
    Service(RemoteService, Duration),
}

impl Backend {
    async fn take(&self, events: &[Vec<u8>]) -> bool {
        match self {
            Self::Log(log) => {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                events.iter().fold(true, |well, e| match log.write(e) {
                    Ok(()) => well,
                    Err(error) => {
                        tracing::error!(%error, "an audit event cannot be written");
                        false
                    }
                })
            }
            Self::Service(service, first) => {
                let items: Vec<Value> = events.iter().filter_map(|e| serde_json::from_slice(e).ok()).collect();
                let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items});
                let mut pause = *first;
                for attempt in 1..=ATTEMPTS {
                    let Err(why) = service.post(&list, PATIENCE).await else { return true };
                    tracing::warn!(why, attempt, "audit events cannot be delivered");
                    if attempt < ATTEMPTS {
                        tokio::time::sleep(pause).await;
                        pause = pause.mul_f64(1.5);
                    }
                }
                false
            }
        }
    }
}

/// The turns of batches: as many at once as fit, then so many a second.
struct Turns {
    rate: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Turns {
    async fn next(&mut self) {
        loop {
            let now = Instant::now();
            self.left = (self.left + (now - self.at).as_secs_f64() * self.rate).min(self.most);
            self.at = now;
            if self.left >= 1.0 {
                self.left -= 1.0;
                return;
            }
            tokio::time::sleep(Duration::from_secs_f64((1.0 - self.left) / self.rate)).await;
        }
    }
}

/// Brings events to a backend, in batches.
async fn batches(backend: Arc<Backend>, how: AuditBatch, mut events: mpsc::Receiver<Vec<u8>>) {
    let mut turns = how.throttle.map(|(rate, most)| Turns { rate, most: f64::from(most), left: f64::from(most), at: Instant::now() });
    let mut running = tokio::task::JoinSet::new();
    while let Some(first) = events.recv().await {
        let mut all = vec![first];
        let end = Instant::now() + how.max_wait;
        while all.len() < how.max_size {
            match tokio::time::timeout_at(end, events.recv()).await {
                Ok(Some(e)) => all.push(e),
                Ok(None) | Err(_) => break,
            }
        }
        if let Some(t) = &mut turns {
            t.next().await;
        }
        while running.try_join_next().is_some() {}
        match *backend {
            Backend::Log(_) => {
                backend.take(&all).await;
            }
            // One that is slow must not hold up those that follow.
            Backend::Service(..) => {
                let backend = Arc::clone(&backend);
                running.spawn(async move { backend.take(&all).await });
            }
        }
    }
    while running.join_next().await.is_some() {}
}

/// Events that wait, and who delivers them.
struct Queue {
    send: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

/// One backend, and the way to it.
struct Sink {
    backend: Arc<Backend>,
    mode: AuditMode,
    limit: Option<usize>,
    /// In [`AuditMode::Batch`], until it is closed.
    queue: Mutex<Option<Queue>>,
}

impl Sink {
    fn new(backend: Backend, how: &AuditDelivery) -> Self {
        let backend = Arc::new(backend);
        let queue = (how.mode == AuditMode::Batch).then(|| {
            let (send, taken) = mpsc::channel(how.batch.buffer.max(1));
            Queue { send, task: tokio::spawn(batches(Arc::clone(&backend), how.batch.clone(), taken)) }
        });
        Self { backend, mode: how.mode, limit: how.max_event_bytes, queue: Mutex::new(queue) }
    }

    async fn take(&self, event: &[u8]) -> bool {
        let Some(event) = fit(event, self.limit) else {
            tracing::warn!("an audit event is too large even without its objects: it is lost");
            return true;
        };
        if self.mode != AuditMode::Batch {
            return self.backend.take(&[event]).await || self.mode == AuditMode::Blocking;
        }
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|q| q.send.try_send(event).is_err()) {
            tracing::warn!("the audit backend does not keep up: an event is lost");
        }
        true
    }

    async fn close(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Queue { send, task }) = queue {
            drop(send);
            let _ = tokio::time::timeout(END, task).await;
        }
    }
}

/// An event that is no longer than it may be: without its objects if it must, `None` if even so it is too long.
fn fit(event: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
    let Some(limit) = limit.filter(|l| event.len() >= *l) else { return Some(event.to_vec()) };
    let mut v: Value = serde_json::from_slice(event).ok()?;
    let m = v.as_object_mut().filter(|m| matches!(m.get("level").and_then(Value::as_str), Some("Request" | "RequestResponse")))?;
    m.remove("requestObject");
    m.remove("responseObject");
    let notes = m.entry("annotations").or_insert_with(|| json!({}));
    notes["audit.k8s.io/truncated"] = json!("true");
    serde_json::to_vec(&v).ok().filter(|e| e.len() < limit)
}

/// Everything that takes events.
pub struct Sinks(Vec<Sink>);

impl Sinks {
    /// Opens the file and begins to serve both.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(log: Option<(LogFile, AuditDelivery)>, webhook: Option<(RemoteService, AuditDelivery)>) -> io::Result<Self> {
        let mut all = Vec::new();
        if let Some((file, how)) = log {
            all.push(Sink::new(Backend::Log(Mutex::new(Log::open(file)?)), &how));
        }
        if let Some((service, how)) = webhook {
            all.push(Sink::new(Backend::Service(service, how.initial_backoff), &how));
        }
        Ok(Self(all))
    }

    /// Takes one event, as JSON; false if a backend had to have it and has not.
    pub async fn take(&self, event: Vec<u8>) -> bool {
        let mut well = true;
        for s in &self.0 {
            well &= s.take(&event).await;
        }
        well
    }

    /// Delivers what is still waiting; nothing more is taken in batches.
    pub async fn close(&self) {
        for s in &self.0 {
            s.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_goes_without_objects() {
        let long = json!({"level": "Request", "requestObject": {"a": "x".repeat(200)}}).to_string();
        let cut: Value = serde_json::from_slice(&fit(long.as_bytes(), Some(150)).expect("fits")).expect("JSON");
        assert_eq!(cut, json!({"level": "Request", "annotations": {"audit.k8s.io/truncated": "true"}}));
        assert_eq!(fit(long.as_bytes(), None).expect("all"), long.as_bytes());
        assert!(fit(long.as_bytes(), Some(10)).is_none());
        let bare = json!({"level": "Metadata", "requestURI": "x".repeat(200)}).to_string();
        assert!(fit(bare.as_bytes(), Some(150)).is_none());
    }

    #[tokio::test]
    async fn batches_have_their_turn() {
        let mut t = Turns { rate: 20.0, most: 3.0, left: 3.0, at: Instant::now() };
        let begin = Instant::now();
        for _ in 0..5 {
            t.next().await;
        }
        // Three at once, and two with a twentieth of a second for each.
        assert!(begin.elapsed() >= Duration::from_millis(99), "{:?}", begin.elapsed());
    }
}
