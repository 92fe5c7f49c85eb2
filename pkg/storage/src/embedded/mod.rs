//! The embedded engine: an ordered map in memory, made durable by a log with group commit.
//!
//! One writer thread takes everything that waits in its queue, decides each compare-and-swap,
//! writes one batch, syncs once, makes the changes visible, and answers. Readers take a read
//! lock. A watcher holds a revision and reads the log from there, so a slow one costs nothing and
//! ends with [`Error::Compacted`] if it falls behind the compaction.

mod log;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc},
};

use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Notify, oneshot};

use self::{
    log::{Log, Record, corrupt, unavailable},
    state::{Doorbell, State},
    writer::{Disk, Operation, Request, Writer},
};
use crate::{Error, Range, Revision, Store, Swap, Watch, WatchItem};

const VERSION: &str = "knarr-store 1\n";
/// Events handed to a watcher at once.
const WATCH_BATCH: usize = 512;

/// State shared by readers and the writer.
#[derive(Debug, Default)]
struct Shared(RwLock<State>);

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The embedded store; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

impl Engine {
    /// A store that lives as long as the process.
    pub(crate) fn memory() -> Result<Self, Error> {
        Self::run(State::default(), None)
    }

    /// Opens the store in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let io = |e: &std::io::Error| unavailable(dir, e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(&e))?;
        let lock = lock(dir)?;
        check_version(dir)?;

        let mut snapshots = revisions(dir, "snapshot-").map_err(|e| io(&e))?;
        let mut state = match snapshots.pop() {
            Some(revision) => load_snapshot(&snapshot_path(dir, revision), revision)?,
            None => State::default(),
        };
        let mut last = None;
        let logs = revisions(dir, "log-").map_err(|e| io(&e))?;
        for (i, &start) in logs.iter().enumerate() {
            let path = log_path(dir, start);
            if logs.get(i + 1).is_some_and(|&next| next <= state.compacted) {
                continue; // all of it is in the snapshot
            }
            let end = replay(&path, &mut state)?;
            last = Some((path, end));
        }
        let (path, end) = last.unwrap_or_else(|| (log_path(dir, state.revision), 0));
        let log = Log::open(&path, end)?;
        remove_older(dir, state.compacted);
        Self::run(state, Some(Disk { dir: dir.to_owned(), log, _lock: lock }))
    }

    fn run(state: State, disk: Option<Disk>) -> Result<Self, Error> {
        let shared = Arc::new(Shared(RwLock::new(state)));
        let (requests, queue) = mpsc::channel();
        let writer = Writer::new(shared.clone(), disk, queue, requests.clone());
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::Unavailable(format!("store thread: {e}")))?;
        Ok(Engine { shared, requests })
    }

    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Operation,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::Unavailable("the store has stopped".into());
        self.requests.send(Request::Do(make(answer))).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The writer holds a sender itself (for its snapshots), so it must be told.
        let (done, wait) = mpsc::channel();
        if self.requests.send(Request::Stop(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

#[async_trait::async_trait]
impl Store for Engine {
    async fn range(
        &self,
        start: &str,
        end: Option<&str>,
        limit: u64,
        revision: Revision,
    ) -> Result<Range, Error> {
        self.shared.read().range(start, end, limit, revision)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: i64,
    ) -> Result<Swap, Error> {
        let key = key.into();
        self.ask(|answer| Operation::Put { key, value, expected, lease, answer }).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, Error> {
        let key = key.into();
        self.ask(|answer| Operation::Delete { key, expected, answer }).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let notify = Arc::new(Notify::new());
        let bell = Arc::new(Doorbell { prefix: prefix.to_owned(), notify: notify.clone() });
        let next = {
            let mut state = self.shared.write();
            state.doorbells.push(Arc::downgrade(&bell));
            if from == 0 { state.revision + 1 } else { from }
        };
        if next <= self.shared.read().compacted {
            let compacted = self.shared.read().compacted;
            return Err(Error::Compacted { requested: next, compacted });
        }
        let shared = self.shared.clone();
        let start = Follower { shared, bell, next, first: true, ended: false };
        Ok(Box::pin(futures::stream::unfold(start, Follower::step)))
    }

    async fn lease(&self, ttl: i64) -> Result<i64, Error> {
        self.ask(|answer| Operation::Grant { ttl, answer }).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.shared.read().check(revision)?;
        self.shared.write().compact(revision);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.read().revision)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.shared.write().ring(None);
        Ok(())
    }
}

/// A watcher's place in the log.
struct Follower {
    shared: Arc<Shared>,
    bell: Arc<Doorbell>,
    next: Revision,
    first: bool,
    ended: bool,
}

impl Follower {
    async fn step(mut self) -> Option<(Result<WatchItem, Error>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if !std::mem::take(&mut self.first) {
                self.bell.notify.notified().await;
            }
            let read = self.shared.read().events(&self.bell.prefix, self.next, WATCH_BATCH);
            let item = match read {
                Ok((events, next)) if events.is_empty() && next == self.next => continue,
                Ok((events, next)) => {
                    self.next = next;
                    self.first = events.len() == WATCH_BATCH; // there may be more at once
                    if events.is_empty() {
                        Ok(WatchItem::Progress(next - 1))
                    } else {
                        Ok(WatchItem::Events(events))
                    }
                }
                Err(error) => {
                    self.ended = true;
                    Err(error)
                }
            };
            return Some((item, self));
        }
    }
}

fn lock(dir: &Path) -> Result<Flock<File>, Error> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| unavailable(&path, &e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => {
            Error::Unavailable(format!("{}: another process uses this data folder", dir.display()))
        }
        errno => unavailable(&path, &errno.into()),
    })
}

fn check_version(dir: &Path) -> Result<(), Error> {
    let path = dir.join("VERSION");
    match log::read_text(&path) {
        Ok(text) if text == VERSION => Ok(()),
        Ok(text) => Err(corrupt(
            &path,
            &format!(
                "format {:?} is not {:?}: made by a newer knarr, or not a data folder",
                text.trim_end(),
                VERSION.trim_end()
            ),
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if revisions(dir, "log-").is_ok_and(|logs| !logs.is_empty()) {
                return Err(corrupt(&path, "is missing though there is data"));
            }
            let write = || -> std::io::Result<()> {
                let temporary = dir.join("VERSION.tmp");
                fs::write(&temporary, VERSION)?;
                File::open(&temporary)?.sync_all()?;
                fs::rename(&temporary, &path)?;
                log::sync_dir(&path)
            };
            write().map_err(|e| unavailable(&path, &e))
        }
        Err(e) => Err(unavailable(&path, &e)),
    }
}

fn snapshot_path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("snapshot-{revision:020}"))
}

fn log_path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("log-{revision:020}"))
}

/// The revisions in the names of the files with `prefix`, ascending.
fn revisions(dir: &Path, prefix: &str) -> std::io::Result<Vec<Revision>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let revision: Option<Revision> = name.to_str().and_then(|n| n.strip_prefix(prefix)?.parse().ok());
        found.extend(revision);
    }
    found.sort_unstable();
    Ok(found)
}

fn load_snapshot(path: &Path, revision: Revision) -> Result<State, Error> {
    let (records, _) = log::read(path)?;
    let mut state = State::at(revision);
    let mut pairs = 0;
    let mut whole = false;
    for record in records {
        match record {
            Record::Change(change) => {
                pairs += 1;
                state.restore(change);
            }
            Record::Lease { id, expires } => {
                state.leases.entry(id).or_default().expires = expires;
            }
            Record::End { revision: r, pairs: n } => whole = r == revision && n == pairs,
        }
    }
    if whole { Ok(state) } else { Err(corrupt(path, "the snapshot is incomplete")) }
}

/// Applies the changes of a log that the state does not have; returns where the log ends.
fn replay(path: &Path, state: &mut State) -> Result<u64, Error> {
    let (records, end) = log::read(path)?;
    for record in records {
        match record {
            Record::Change(change) if change.version.revision <= state.revision => {}
            Record::Change(change) if change.version.revision == state.revision + 1 => {
                state.apply(change);
            }
            Record::Change(change) => {
                return Err(corrupt(
                    path,
                    &format!(
                        "revisions {} to {} are missing",
                        state.revision + 1,
                        change.version.revision - 1
                    ),
                ));
            }
            Record::Lease { id, expires: 0 } => {
                state.leases.remove(&id);
            }
            Record::Lease { id, expires } => {
                state.leases.entry(id).or_default().expires = expires;
            }
            Record::End { .. } => return Err(corrupt(path, "a snapshot's end in a log")),
        }
    }
    Ok(end)
}

/// Removes what a snapshot at `revision` has made superfluous.
fn remove_older(dir: &Path, revision: Revision) {
    let remove = |path: PathBuf| {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "old store file stays");
        }
    };
    for old in revisions(dir, "snapshot-").unwrap_or_default() {
        if old < revision {
            remove(snapshot_path(dir, old));
        }
    }
    let logs = revisions(dir, "log-").unwrap_or_default();
    for pair in logs.windows(2) {
        if pair[1] <= revision {
            remove(log_path(dir, pair[0]));
        }
    }
}
