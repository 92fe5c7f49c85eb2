//! The keyed work queue: a key is worked on by one worker at a time, and added twice is done once.

use crate::metrics::{Counter, counter};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

struct State<K> {
    ready: VecDeque<K>,
    dirty: HashSet<K>,
    processing: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, K>,
    /// The earliest moment each key waits for.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    next_id: u64,
}

/// A work queue; clones share it.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    notify: Arc<Notify>,
    adds: Arc<Counter>,
    retries: Arc<Counter>,
    max_backoff: Duration,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            notify: self.notify.clone(),
            adds: self.adds.clone(),
            retries: self.retries.clone(),
            max_backoff: self.max_backoff,
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// A new queue; `name` labels its metrics.
    pub fn new(name: &str) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                delayed: BinaryHeap::new(),
                delayed_keys: HashMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                next_id: 0,
            })),
            notify: Arc::new(Notify::new()),
            adds: counter("workqueue_adds_total", name),
            retries: counter("workqueue_retries_total", name),
            max_backoff: Duration::from_secs(60),
        }
    }

    fn push(s: &mut State<K>, k: K) -> bool {
        if !s.dirty.insert(k.clone()) || s.processing.contains(&k) {
            return false;
        }
        s.ready.push_back(k);
        true
    }

    /// Adds a key to be worked on now.
    pub fn add(&self, k: K) {
        self.adds.inc();
        if Self::push(&mut crate::lock(&self.state), k) {
            self.notify.notify_one();
        }
    }

    /// Adds a key to be worked on after `d`; an earlier pending moment wins.
    pub fn add_after(&self, k: K, d: Duration) {
        if d.is_zero() {
            return self.add(k);
        }
        let at = Instant::now() + d;
        let mut s = crate::lock(&self.state);
        if let Some((old, id)) = s.due.get(&k).copied() {
            if old <= at {
                return;
            }
            s.delayed_keys.remove(&id);
        }
        let id = s.next_id;
        s.next_id += 1;
        s.due.insert(k.clone(), (at, id));
        s.delayed_keys.insert(id, k);
        s.delayed.push(Reverse((at, id)));
        drop(s);
        self.notify.notify_one();
    }

    /// Adds a failed key after its backoff: 5 ms doubling up to a minute.
    pub fn add_rate_limited(&self, k: K) {
        self.retries.inc();
        let n = {
            let mut s = crate::lock(&self.state);
            let n = s.failures.entry(k.clone()).or_insert(0);
            *n += 1;
            *n
        };
        let d = Duration::from_millis(5).saturating_mul(1 << (n - 1).min(20)).min(self.max_backoff);
        self.add_after(k, d);
    }

    /// How often this key failed in a row.
    pub fn failures(&self, k: &K) -> u32 {
        crate::lock(&self.state).failures.get(k).copied().unwrap_or(0)
    }

    /// Ends a key's backoff.
    pub fn forget(&self, k: &K) {
        crate::lock(&self.state).failures.remove(k);
    }

    /// Keys ready to be worked on.
    pub fn len(&self) -> usize {
        crate::lock(&self.state).ready.len()
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next key; it must be given back by [`Queue::done`]. Cancellation safe.
    pub async fn get(&self) -> K {
        loop {
            let wait = {
                let mut s = crate::lock(&self.state);
                let now = Instant::now();
                while let Some(Reverse((at, id))) = s.delayed.peek().copied() {
                    if at > now && s.delayed_keys.contains_key(&id) {
                        break;
                    }
                    s.delayed.pop();
                    if let Some(k) = s.delayed_keys.remove(&id) {
                        s.due.remove(&k);
                        Self::push(&mut s, k);
                    }
                }
                if let Some(k) = s.ready.pop_front() {
                    s.dirty.remove(&k);
                    s.processing.insert(k.clone());
                    if !s.ready.is_empty() {
                        self.notify.notify_one();
                    }
                    return k;
                }
                s.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match wait {
                None => self.notify.notified().await,
                Some(at) => tokio::select! {
                    () = self.notify.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// Gives a key back; it is queued again if it was added meanwhile.
    pub fn done(&self, k: &K) {
        let mut s = crate::lock(&self.state);
        s.processing.remove(k);
        if s.dirty.contains(k) {
            s.ready.push_back(k.clone());
            drop(s);
            self.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
