//! The one thread that writes.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use nix::fcntl::Flock;
use tokio::sync::oneshot;

use super::{
    Shared, State,
    log::{self, Log, Record, SnapshotWriter},
    log_path, remove_older, snapshot_path,
    state::{Change, Version},
};
use crate::{Error, Revision, Swap};

/// A log longer than this is replaced by a snapshot, in bytes.
const LOG_LIMIT: u64 = 32 << 20;
/// Keys written into a snapshot per hold of the read lock.
const SNAPSHOT_PAGE: usize = 256;
/// Requests decided in one batch.
const BATCH: usize = 1024;

type Answer<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Debug)]
pub(super) enum Request {
    Do(Operation),
    /// The snapshot at this revision is in place, or could not be written.
    Snapshot(Result<Revision, String>),
    Stop(mpsc::Sender<()>),
}

#[derive(Debug)]
pub(super) enum Operation {
    Put { key: Arc<str>, value: Bytes, expected: Revision, lease: i64, answer: Answer<Swap> },
    Delete { key: Arc<str>, expected: Revision, answer: Answer<Swap> },
    Grant { ttl: i64, answer: Answer<i64> },
}

/// What the writer needs of the disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) dir: PathBuf,
    pub(super) log: Log,
    pub(super) _lock: Flock<File>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Option<Disk>,
    queue: mpsc::Receiver<Request>,
    own: mpsc::Sender<Request>,
    snapshotting: bool,
    next_lease: i64,
}

/// A batch while it is decided: its changes on top of the visible state.
struct Batch<'a> {
    state: &'a State,
    revision: Revision,
    overlay: HashMap<Arc<str>, Version>,
    records: Vec<Record>,
    swaps: Vec<(Answer<Swap>, Swap)>,
    grants: Vec<(Answer<i64>, i64)>,
}

impl Batch<'_> {
    fn latest(&self, key: &str) -> Option<&Version> {
        self.overlay.get(key).or_else(|| self.state.latest(key)).filter(|v| v.value.is_some())
    }

    fn swap(
        &mut self,
        key: Arc<str>,
        expected: Revision,
        lease: i64,
        value: Option<Bytes>,
        answer: Answer<Swap>,
    ) {
        let now = self.latest(&key);
        let (found, created) = now.map_or((0, 0), |v| (v.revision, v.created));
        // A missing key cannot be deleted, whatever was expected.
        if found != expected || (value.is_none() && found == 0) {
            let current = now.and_then(|v| {
                Some(crate::KeyValue {
                    key: key.to_string(),
                    value: v.value.clone()?,
                    create_revision: v.created,
                    mod_revision: v.revision,
                    lease: v.lease,
                })
            });
            self.swaps.push((answer, Swap::Conflict(current)));
            return;
        }
        self.change(key, created, lease, value);
        self.swaps.push((answer, Swap::Done(self.revision)));
    }

    fn change(&mut self, key: Arc<str>, created: Revision, lease: i64, value: Option<Bytes>) {
        self.revision += 1;
        let revision = self.revision;
        let created = if created == 0 { revision } else { created };
        let version = Version { revision, created, lease, value };
        self.overlay.insert(key.clone(), version.clone());
        self.records.push(Record::Change(Change { key, version }));
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        disk: Option<Disk>,
        queue: mpsc::Receiver<Request>,
        own: mpsc::Sender<Request>,
    ) -> Self {
        // Lease ids must not repeat across restarts; the clock is finer than restarts are quick.
        let next_lease = i64::try_from(unix_now().as_micros()).unwrap_or(1);
        Writer { shared, disk, queue, own, snapshotting: false, next_lease }
    }

    pub(super) fn run(mut self) {
        loop {
            let first = match self.next_expiry() {
                None => self.queue.recv().ok(),
                Some(wait) => match self.queue.recv_timeout(wait) {
                    Ok(request) => Some(request),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        self.commit(Vec::new());
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => None,
                },
            };
            let Some(mut request) = first else { return };
            let mut operations = Vec::new();
            let mut stop = None;
            loop {
                match request {
                    Request::Do(operation) => operations.push(operation),
                    Request::Snapshot(result) => self.snapshot_done(result),
                    Request::Stop(done) => stop = Some(done),
                }
                if stop.is_some() || operations.len() >= BATCH {
                    break;
                }
                match self.queue.try_recv() {
                    Ok(next) => request = next,
                    Err(_) => break,
                }
            }
            if !operations.is_empty() {
                self.commit(operations);
            }
            if let Some(done) = stop {
                // The lock is let go before the caller goes on.
                self.disk = None;
                let _ = done.send(());
                return;
            }
            self.maybe_snapshot();
        }
    }

    /// Time until the next lease ends; `None` if there is none.
    fn next_expiry(&self) -> Option<Duration> {
        let ends = self.shared.read().leases.values().map(|l| l.expires).min()?;
        let now = unix_now();
        let ends = Duration::from_secs(u64::try_from(ends).unwrap_or(0));
        Some(ends.saturating_sub(now) + Duration::from_millis(1))
    }

    fn commit(&mut self, operations: Vec<Operation>) {
        let shared = self.shared.clone();
        let (records, swaps, grants) = {
            let state = shared.read();
            let mut batch = Batch {
                revision: state.revision,
                state: &state,
                overlay: HashMap::new(),
                records: Vec::new(),
                swaps: Vec::new(),
                grants: Vec::new(),
            };
            self.expire(&mut batch);
            for operation in operations {
                match operation {
                    Operation::Put { key, value, expected, lease, answer } => {
                        batch.swap(key, expected, lease, Some(value), answer);
                    }
                    Operation::Delete { key, expected, answer } => {
                        batch.swap(key, expected, 0, None, answer);
                    }
                    Operation::Grant { ttl, answer } => {
                        self.next_lease += 1;
                        let now = i64::try_from(unix_now().as_secs()).unwrap_or(0);
                        let expires = now + ttl.max(1);
                        batch.records.push(Record::Lease { id: self.next_lease, expires });
                        batch.grants.push((answer, self.next_lease));
                    }
                }
            }
            (batch.records, batch.swaps, batch.grants)
        };
        if let Err(error) = self.write(&records) {
            // Conflicts were decided on durable state only if nothing of the batch came first;
            // let every caller retry.
            for (answer, _) in swaps {
                let _ = answer.send(Err(error.clone()));
            }
            for (answer, _) in grants {
                let _ = answer.send(Err(error.clone()));
            }
            if !records.is_empty() {
                tracing::error!(%error, "the store cannot write");
                // An expiry that cannot be written must not spin.
                std::thread::sleep(Duration::from_millis(50));
            }
            return;
        }
        if !records.is_empty() {
            let mut state = shared.write();
            let mut keys = Vec::with_capacity(records.len());
            for record in records {
                match record {
                    Record::Change(change) => {
                        keys.push(change.key.clone());
                        state.apply(change);
                    }
                    Record::Lease { id, expires: 0 } => {
                        state.leases.remove(&id);
                    }
                    Record::Lease { id, expires } => {
                        state.leases.entry(id).or_default().expires = expires;
                    }
                    Record::End { .. } => {}
                }
            }
            state.ring(Some(&keys));
        }
        for (answer, swap) in swaps {
            let _ = answer.send(Ok(swap));
        }
        for (answer, id) in grants {
            let _ = answer.send(Ok(id));
        }
    }

    /// Adds the deletions of ended leases to a batch.
    fn expire(&self, batch: &mut Batch<'_>) {
        let now = i64::try_from(unix_now().as_secs()).unwrap_or(0);
        let state = batch.state;
        for (&id, lease) in state.leases.iter().filter(|(_, lease)| lease.expires <= now) {
            let mut keys: Vec<_> = lease.keys.iter().cloned().collect();
            keys.sort_unstable();
            for key in keys {
                if let Some(created) =
                    batch.latest(&key).filter(|v| v.lease == id).map(|v| v.created)
                {
                    batch.change(key, created, 0, None);
                }
            }
            batch.records.push(Record::Lease { id, expires: 0 });
        }
    }

    fn write(&mut self, records: &[Record]) -> Result<(), Error> {
        let Some(disk) = self.disk.as_mut().filter(|_| !records.is_empty()) else {
            return Ok(());
        };
        let mut body = Vec::new();
        for record in records {
            log::encode(record, &mut body);
        }
        disk.log.append(&body)
    }

    /// Starts a snapshot in a thread of its own when the log has grown long: the log goes on in a
    /// new file, and the old one is removed when the snapshot is in place.
    fn maybe_snapshot(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        if self.snapshotting || disk.log.len() < LOG_LIMIT {
            return;
        }
        let revision = self.shared.read().revision;
        match Log::open(&log_path(&disk.dir, revision), 0) {
            Ok(log) => disk.log = log,
            Err(error) => {
                tracing::error!(%error, "the store cannot start a new log");
                return;
            }
        }
        let (shared, own) = (self.shared.clone(), self.own.clone());
        let path = snapshot_path(&disk.dir, revision);
        let spawned = std::thread::Builder::new().name("store-snapshot".into()).spawn(move || {
            let result = snapshot(&shared, &path, revision).map_err(|e| e.to_string());
            let _ = own.send(Request::Snapshot(result.map(|()| revision)));
        });
        self.snapshotting = spawned.is_ok();
    }

    fn snapshot_done(&mut self, result: Result<Revision, String>) {
        self.snapshotting = false;
        match (result, &self.disk) {
            (Ok(revision), Some(disk)) => remove_older(&disk.dir, revision),
            (Err(error), _) => tracing::error!(%error, "the store's snapshot failed"),
            (Ok(_), None) => {}
        }
    }
}

fn snapshot(shared: &Shared, path: &std::path::Path, revision: Revision) -> std::io::Result<()> {
    let mut file = SnapshotWriter::create(path)?;
    let leases = shared.read().lease_ends();
    let leases: Vec<_> =
        leases.into_iter().map(|(id, expires)| Record::Lease { id, expires }).collect();
    file.write(&leases)?;
    let mut last = None;
    loop {
        let (changes, next) = {
            let state = shared.read();
            if state.compacted > revision {
                return Err(std::io::Error::other("compacted meanwhile"));
            }
            state.page(last.as_ref(), SNAPSHOT_PAGE, revision)
        };
        let records: Vec<_> = changes.into_iter().map(Record::Change).collect();
        file.write(&records)?;
        match next {
            Some(key) => last = Some(key),
            None => return file.finish(revision),
        }
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
