//! Active, backing-off and unschedulable pods.

use crate::model::PodInfo;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened that may make a rejected pod schedulable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A node was added, or changed in labels, taints, room or readiness to be scheduled on.
    Node,
    /// A bound pod is gone or needs less.
    PodGone,
    /// A pod was bound or changed its labels.
    PodPlaced,
    /// A volume, claim or storage class changed.
    Volume,
}

impl Hint {
    /// Whether a rejection by this plugin may be over.
    fn helps(self, plugin: &str) -> bool {
        match self {
            Self::Node => !matches!(plugin, "SchedulingGates"),
            Self::PodGone => matches!(
                plugin,
                "NodeResourcesFit"
                    | "NodePorts"
                    | "InterPodAffinity"
                    | "PodTopologySpread"
                    | "VolumeRestrictions"
            ),
            Self::PodPlaced => matches!(plugin, "InterPodAffinity" | "PodTopologySpread"),
            Self::Volume => plugin.starts_with("Volume"),
        }
    }
}

/// A pod waiting to be scheduled.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub info: Arc<PodInfo>,
    pub attempts: u32,
    pub queued: Instant,
    pub last_try: Option<Instant>,
    pub rejected_by: HashSet<&'static str>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Rank(Reverse<i32>, Instant, u64, String);

#[derive(Clone, PartialEq)]
enum Place {
    Active(Rank),
    Backoff(Instant),
    Unschedulable(Instant),
    Gated,
    /// Being decided or bound.
    InFlight,
}

/// The queues.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, (Waiting, Place)>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Instant, String)>,
    sequence: u64,
    /// Counts events, so that a pod rejected while the world changed is tried again.
    pub cycle: u64,
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);
const GIVE_ANOTHER_TRY: Duration = Duration::from_secs(300);

fn gated(i: &PodInfo) -> bool {
    i.pod
        .spec
        .as_ref()
        .and_then(|s| s.scheduling_gates.as_ref())
        .is_some_and(|g| !g.is_empty())
}

impl Queue {
    fn detach(&mut self, uid: &str) {
        match self.pods.get(uid).map(|(_, p)| p.clone()) {
            Some(Place::Active(r)) => {
                self.active.remove(&r);
            }
            Some(Place::Backoff(t)) => {
                self.backoff.remove(&(t, uid.to_owned()));
            }
            _ => {}
        }
    }
    fn activate(&mut self, uid: &str) {
        self.detach(uid);
        self.sequence += 1;
        let seq = self.sequence;
        if let Some((w, place)) = self.pods.get_mut(uid) {
            let r = Rank(Reverse(w.info.priority), w.queued, seq, uid.to_owned());
            *place = Place::Active(r.clone());
            self.active.insert(r);
        }
    }
    /// A pod to be scheduled appeared or changed. A change lets a rejected pod try again.
    pub fn put(&mut self, info: Arc<PodInfo>, now: Instant, changed: bool) {
        let uid = info.uid().to_owned();
        match self.pods.get_mut(&uid) {
            Some((w, place)) => {
                w.info = info.clone();
                match place {
                    Place::InFlight => {}
                    Place::Gated if !gated(&info) => self.activate(&uid),
                    Place::Unschedulable(_) if changed => self.wake(&uid, now),
                    _ => {}
                }
            }
            None => {
                let w = Waiting {
                    info: info.clone(),
                    attempts: 0,
                    queued: now,
                    last_try: None,
                    rejected_by: HashSet::new(),
                };
                self.pods.insert(uid.clone(), (w, Place::Gated));
                if !gated(&info) {
                    self.activate(&uid);
                }
            }
        }
    }
    /// The pod needs no scheduling any more.
    pub fn remove(&mut self, uid: &str) {
        self.detach(uid);
        self.pods.remove(uid);
    }
    /// Takes the next pod; it stays known as in flight until removed or given back.
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        while let Some((t, uid)) = self.backoff.first().cloned() {
            if t > now {
                break;
            }
            self.activate(&uid);
        }
        let r = self.active.pop_first()?;
        let (w, place) = self.pods.get_mut(&r.3)?;
        *place = Place::InFlight;
        w.attempts += 1;
        w.last_try = Some(now);
        Some(w.clone())
    }
    fn wake(&mut self, uid: &str, now: Instant) {
        let Some((w, _)) = self.pods.get(uid) else { return };
        let wait = FIRST.saturating_mul(1 << (w.attempts.max(1) - 1).min(10)).min(LONGEST);
        let ready = w.last_try.map_or(now, |t| t + wait);
        self.detach(uid);
        if ready <= now {
            self.activate(uid);
        } else {
            if let Some((_, place)) = self.pods.get_mut(uid) {
                *place = Place::Backoff(ready);
            }
            self.backoff.insert((ready, uid.to_owned()));
        }
    }
    /// Gives a pod back that found no node. `since` is the event cycle at which it was decided:
    /// if anything happened meanwhile it is tried again after its backoff.
    pub fn reject(&mut self, uid: &str, by: HashSet<&'static str>, since: u64, now: Instant) {
        let changed = self.cycle != since;
        if let Some((w, place)) = self.pods.get_mut(uid) {
            w.rejected_by = by;
            *place = Place::Unschedulable(now);
        }
        if changed {
            self.wake(uid, now);
        }
    }
    /// Gives a pod back whose binding failed.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if let Some((_, p)) = self.pods.get_mut(uid) {
            *p = Place::Unschedulable(now);
        }
        self.wake(uid, now);
    }
    /// Something happened: wakes the pods it may help.
    pub fn hint(&mut self, h: Hint, now: Instant) {
        self.cycle += 1;
        let woken: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, (w, p))| {
                matches!(p, Place::Unschedulable(_))
                    && (w.rejected_by.is_empty() || w.rejected_by.iter().any(|b| h.helps(b)))
            })
            .map(|(u, _)| u.clone())
            .collect();
        for u in woken {
            self.wake(&u, now);
        }
    }
    /// When to look again, if nothing happens.
    pub fn next_timer(&self) -> Option<Instant> {
        let b = self.backoff.first().map(|(t, _)| *t);
        let u = self
            .pods
            .values()
            .filter_map(|(_, p)| match p {
                Place::Unschedulable(t) => Some(*t + GIVE_ANOTHER_TRY),
                _ => None,
            })
            .min();
        match (b, u) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
    /// Pods rejected five minutes ago are tried again, whatever happened.
    pub fn flush_old(&mut self, now: Instant) {
        let old: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, (_, p))| {
                matches!(p, Place::Unschedulable(t) if *t + GIVE_ANOTHER_TRY <= now)
            })
            .map(|(u, _)| u.clone())
            .collect();
        for u in old {
            self.wake(&u, now);
        }
    }
}
