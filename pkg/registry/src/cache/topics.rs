//! Watchers of few objects are woken for those alone: of thousands of kubelets one watches the pods of
//! a node, and the others have nothing to do when one of those changes.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch;

use super::{Change, Lag, Ring};

/// What the changes that a watcher asks for have in common: an object had or has this value in that
/// selectable field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Such as `metadata.name` or `spec.nodeName`.
    pub field: Box<str>,
    /// Its value.
    pub value: Box<str>,
}

impl Interest {
    fn concerns(&self, change: &Change) -> bool {
        let has = |entry: &super::Entry| entry.field(&self.field).unwrap_or("") == &*self.value;
        has(&change.entry) || change.previous.as_deref().is_some_and(has)
    }
}

/// The changes of one interest.
pub(super) struct Topic {
    interest: Interest,
    /// The sequence number after the newest.
    tail: watch::Sender<u64>,
    hits: Mutex<Hits>,
}

#[derive(Default)]
struct Hits {
    /// Sequence numbers of those that the ring has, ascending.
    known: VecDeque<u64>,
    /// The sequence number after the newest that it has no more.
    gone: u64,
}

impl Topic {
    fn hits(&self) -> MutexGuard<'_, Hits> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.tail.subscribe()
    }

    /// Makes up for what the topic was not told of, from `next` on.
    fn catch_up(&self, ring: &Ring, next: u64) {
        let begin = next.max(ring.first);
        let skip = usize::try_from(begin - ring.first).unwrap_or(usize::MAX);
        let late = (begin..).zip(ring.events.iter().skip(skip)).filter(|(_, change)| self.interest.concerns(change)).map(|(at, _)| at);
        let mut hits = self.hits();
        let all: BTreeSet<u64> = hits.known.iter().copied().chain(late).collect();
        hits.known = all.into_iter().collect();
    }

    fn add(&self, sequence: u64, first: u64) {
        let mut hits = self.hits();
        while let Some(old) = hits.known.front().copied().filter(|old| *old < first) {
            hits.gone = old + 1;
            hits.known.pop_front();
        }
        if hits.known.back() != Some(&sequence) {
            hits.known.push_back(sequence);
        }
        drop(hits);
        self.tail.send_replace(sequence + 1);
    }

    /// Adds the changes from `next` on, some hundreds at most; gives where to go on.
    pub(super) fn since(&self, ring: &Ring, next: u64, out: &mut Vec<Arc<Change>>) -> Result<u64, Lag> {
        let hits = self.hits();
        let unread = hits.known.partition_point(|at| *at < next);
        if hits.gone > next || hits.known.get(unread).is_some_and(|at| *at < ring.first) {
            return Err(ring.lag());
        }
        for at in hits.known.range(unread..) {
            if out.len() == 512 {
                return Ok(*at);
            }
            let place = usize::try_from(at - ring.first).unwrap_or(usize::MAX);
            out.extend(ring.events.get(place).cloned());
        }
        Ok(ring.end())
    }
}

/// All interests of one cache that somebody has.
#[derive(Default)]
pub(super) struct Topics {
    fields: HashMap<Box<str>, HashMap<Box<str>, Weak<Topic>>>,
    count: usize,
    /// With so many those that nobody has any more are looked for.
    tidy_at: usize,
}

impl Topics {
    /// The topic of an interest, with all that the ring has of it from `next` on.
    pub(super) fn topic(&mut self, interest: Interest, ring: &Ring, next: u64) -> Arc<Topic> {
        let topic = self.find(interest);
        topic.catch_up(ring, next);
        topic
    }

    fn find(&mut self, interest: Interest) -> Arc<Topic> {
        if self.count >= self.tidy_at {
            self.fields.retain(|_, values| {
                values.retain(|_, topic| topic.strong_count() > 0);
                !values.is_empty()
            });
            self.count = self.fields.values().map(HashMap::len).sum();
            self.tidy_at = (self.count * 2).max(64);
        }
        let values = self.fields.entry(interest.field.clone()).or_default();
        if let Some(topic) = values.get(&interest.value).and_then(Weak::upgrade) {
            return topic;
        }
        let value = interest.value.clone();
        let topic = Arc::new(Topic { interest, tail: watch::Sender::new(0), hits: Mutex::default() });
        if values.insert(value, Arc::downgrade(&topic)).is_none() {
            self.count += 1;
        }
        topic
    }

    /// Tells of a change with this sequence number; the ring begins with `first`.
    pub(super) fn tell(&self, change: &Change, sequence: u64, first: u64) {
        for (field, values) in &self.fields {
            let now = change.entry.field(field).unwrap_or("");
            let before = change.previous.as_ref().map(|p| p.field(field).unwrap_or("")).filter(|v| *v != now);
            for topic in std::iter::once(now).chain(before).filter_map(|v| values.get(v)?.upgrade()) {
                topic.add(sequence, first);
            }
        }
    }

    /// Everything before `first` is forgotten, and more may have changed than is known.
    pub(super) fn forget(&self, first: u64) {
        for topic in self.fields.values().flat_map(HashMap::values).filter_map(Weak::upgrade) {
            let mut hits = topic.hits();
            hits.known.clear();
            hits.gone = first;
            drop(hits);
            topic.tail.send_replace(first);
        }
    }
}
