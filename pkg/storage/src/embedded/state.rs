//! The map in memory: every key's versions since the last compaction, and the log of changes.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{Error, Event, KeyValue, Range, Revision};

/// One version of a key; `value` `None` is its deletion.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) revision: Revision,
    pub(super) created: Revision,
    pub(super) lease: i64,
    pub(super) value: Option<Bytes>,
}

/// One change, as it is logged and replayed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: Arc<str>,
    pub(super) version: Version,
}

/// A lease: when it ends and the keys that end with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// Unix time in seconds.
    pub(super) expires: i64,
    pub(super) keys: HashSet<Arc<str>>,
}

/// A watcher's doorbell; what it missed it reads from the log itself.
#[derive(Debug)]
pub(super) struct Doorbell {
    pub(super) prefix: String,
    pub(super) notify: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    keys: BTreeMap<Arc<str>, Vec<Version>>,
    /// Changes in revision order; the first has revision `log_start`.
    log: VecDeque<Change>,
    pub(super) leases: HashMap<i64, Lease>,
    pub(super) doorbells: Vec<std::sync::Weak<Doorbell>>,
}

impl State {
    /// A state that has everything before and at `revision` forgotten but the live pairs.
    pub(super) fn at(revision: Revision) -> Self {
        State { revision, compacted: revision, ..State::default() }
    }

    /// Puts a live pair of a snapshot in place, without a log entry.
    pub(super) fn restore(&mut self, change: Change) {
        self.bind(&change);
        self.keys.insert(change.key, vec![change.version]);
    }

    /// Applies a change whose revision is the next one.
    pub(super) fn apply(&mut self, change: Change) {
        self.revision = change.version.revision;
        self.bind(&change);
        self.keys.entry(change.key.clone()).or_default().push(change.version.clone());
        self.log.push_back(change);
    }

    fn bind(&mut self, change: &Change) {
        let old = self.keys.get(&change.key).and_then(|v| v.last()).map_or(0, |v| v.lease);
        if old != change.version.lease
            && let Some(lease) = self.leases.get_mut(&old)
        {
            lease.keys.remove(&change.key);
        }
        if change.version.lease != 0 && change.version.value.is_some() {
            self.leases
                .entry(change.version.lease)
                .or_default()
                .keys
                .insert(change.key.clone());
        }
    }

    /// Rings every watcher that a change under `keys` concerns; all of them if `keys` is `None`.
    pub(super) fn ring(&mut self, keys: Option<&[Arc<str>]>) {
        self.doorbells.retain(|bell| {
            let Some(bell) = bell.upgrade() else { return false };
            if keys.is_none_or(|keys| keys.iter().any(|k| k.starts_with(&bell.prefix))) {
                bell.notify.notify_one();
            }
            true
        });
    }

    /// The latest version of a key, deletions included.
    pub(super) fn latest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last()
    }

    fn visible(key: &Arc<str>, versions: &[Version], at: Revision) -> Option<KeyValue> {
        let version = versions.iter().rev().find(|v| v.revision <= at)?;
        Some(pair(key, version)?)
    }

    pub(super) fn check(&self, revision: Revision) -> Result<Revision, Error> {
        if revision == 0 {
            return Ok(self.revision);
        }
        if revision > self.revision {
            return Err(Error::Future { requested: revision, current: self.revision });
        }
        if revision < self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: self.compacted });
        }
        Ok(revision)
    }

    pub(super) fn range(
        &self,
        start: &str,
        end: Option<&str>,
        limit: u64,
        revision: Revision,
    ) -> Result<Range, Error> {
        let at = self.check(revision)?;
        let mut range = Range { revision: self.revision, ..Range::default() };
        let Some(end) = end else {
            if let Some((key, versions)) = self.keys.get_key_value(start)
                && let Some(pair) = Self::visible(key, versions, at)
            {
                range.items.push(pair);
                range.count = 1;
            }
            return Ok(range);
        };
        if end <= start {
            return Ok(range);
        }
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        for (key, versions) in self.keys.range::<str, _>(bounds) {
            let Some(pair) = Self::visible(key, versions, at) else { continue };
            range.count += 1;
            if limit == 0 || (range.items.len() as u64) < limit {
                range.items.push(pair);
            } else {
                range.more = true;
            }
        }
        Ok(range)
    }

    /// Live pairs at `revision` from after `last` on, at most `limit` keys looked at; and the
    /// last key looked at, `None` at the end.
    pub(super) fn page(
        &self,
        last: Option<&Arc<str>>,
        limit: usize,
        revision: Revision,
    ) -> (Vec<Change>, Option<Arc<str>>) {
        let from = last.map_or(Bound::Unbounded, |k| Bound::Excluded(&**k));
        let mut changes = Vec::new();
        let mut seen = 0;
        for (key, versions) in self.keys.range::<str, _>((from, Bound::Unbounded)) {
            seen += 1;
            if let Some(version) = versions.iter().rev().find(|v| v.revision <= revision)
                && version.value.is_some()
            {
                changes.push(Change { key: key.clone(), version: version.clone() });
            }
            if seen == limit {
                return (changes, Some(key.clone()));
            }
        }
        (changes, None)
    }

    /// Events under `prefix` from revision `from` on, at most `limit`, and the next revision to
    /// read from.
    pub(super) fn events(
        &self,
        prefix: &str,
        from: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Revision), Error> {
        if from <= self.compacted {
            return Err(Error::Compacted { requested: from, compacted: self.compacted });
        }
        let Some(first) = self.log.front().map(|c| c.version.revision) else {
            return Ok((Vec::new(), from.max(self.revision + 1)));
        };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut events = Vec::new();
        for change in self.log.iter().skip(skip) {
            if !change.key.starts_with(prefix) {
                continue;
            }
            if events.len() == limit {
                return Ok((events, change.version.revision));
            }
            events.push(self.event(change));
        }
        Ok((events, from.max(self.revision + 1)))
    }

    fn event(&self, change: &Change) -> Event {
        let revision = change.version.revision;
        let previous = self.keys.get(&change.key).and_then(|versions| {
            let before = versions.iter().rev().find(|v| v.revision < revision)?;
            pair(&change.key, before)
        });
        Event {
            key: change.key.to_string(),
            current: pair(&change.key, &change.version),
            previous,
            revision,
        }
    }

    /// Forgets what only reads at revisions up to and including `revision` could see. Versions
    /// that an event after it calls its previous pair are kept.
    pub(super) fn compact(&mut self, revision: Revision) {
        if revision <= self.compacted {
            return;
        }
        self.compacted = revision.min(self.revision);
        let mut touched = HashSet::new();
        while let Some(change) = self.log.front() {
            if change.version.revision > self.compacted {
                break;
            }
            touched.insert(change.key.clone());
            self.log.pop_front();
        }
        for key in touched {
            let Some(versions) = self.keys.get_mut(&key) else { continue };
            let keep = versions.iter().rposition(|v| v.revision <= self.compacted).unwrap_or(0);
            versions.drain(..keep);
            let gone = versions.len() == 1 && versions[0].value.is_none();
            if versions.len() < versions.capacity() / 2 {
                versions.shrink_to_fit();
            }
            if gone && versions[0].revision <= self.compacted {
                self.keys.remove(&key);
            } else if versions.first().is_some_and(|v| v.value.is_none()) && versions.len() > 1 {
                versions.remove(0);
            }
        }
    }

    /// Every lease id with its end, for a snapshot.
    pub(super) fn lease_ends(&self) -> Vec<(i64, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.expires)).collect()
    }
}

fn pair(key: &Arc<str>, version: &Version) -> Option<KeyValue> {
    Some(KeyValue {
        key: key.to_string(),
        value: version.value.clone()?,
        create_revision: version.created,
        mod_revision: version.revision,
        lease: version.lease,
    })
}
