//! One reader of a cache's events. It holds a position, not a queue: a slow one costs nothing and
//! ends alone once the events it has not read are forgotten.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Cache, Change, topics::Topic};

/// The events asked for are no longer all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events up to revision {oldest} are forgotten")]
pub struct Lag {
    /// Events up to this revision are forgotten.
    pub oldest: u64,
}

/// A position in a cache's stream of changes.
pub struct Watcher {
    cache: Arc<Cache>,
    next: u64,
    tail: watch::Receiver<u64>,
    topic: Option<Arc<Topic>>,
}

impl Watcher {
    pub(super) fn new(cache: Arc<Cache>, next: u64, tail: watch::Receiver<u64>, topic: Option<Arc<Topic>>) -> Self {
        Self { cache, next, tail, topic }
    }

    /// Takes the changes that are there without waiting.
    ///
    /// # Errors
    /// [`Lag`] if changes were forgotten before they were read.
    pub fn ready(&mut self) -> Result<Vec<Arc<Change>>, Lag> {
        let mut out = Vec::new();
        self.next = self.cache.since(self.next, self.topic.as_deref(), &mut out)?;
        Ok(out)
    }

    /// Waits for changes; never returns an empty list. Cancellation safe.
    ///
    /// # Errors
    /// [`Lag`] if changes were forgotten before they were read.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Lag> {
        loop {
            self.tail.borrow_and_update();
            let out = self.ready()?;
            if !out.is_empty() {
                return Ok(out);
            }
            if self.tail.changed().await.is_err() {
                return Err(Lag { oldest: u64::MAX });
            }
        }
    }
}
