//! What a queue set is made of.

use std::{collections::VecDeque, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        demand::{Integrator, Ratio},
        metrics::Flow,
        work::Work,
    },
    Asked, Slot,
};

/// A request that waits.
pub(super) struct Waiting {
    pub(super) ticket: u64,
    pub(super) asked: Asked,
    pub(super) arrival: Work,
    pub(super) turn: oneshot::Sender<Slot>,
}

/// A request that runs, since when, and through which queue.
pub(super) struct Running {
    pub(super) asked: Asked,
    pub(super) started: Instant,
    pub(super) queue: Option<usize>,
}

/// One queue: what waits, and what of it runs.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Waiting>,
    /// The virtual time at which the next request starts.
    pub(super) next: Work,
    pub(super) running: usize,
    pub(super) seats: u32,
    /// All work and all seats of what waits.
    pub(super) work: Work,
    pub(super) seats_waiting: u32,
}

impl Queue {
    pub(super) fn active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }
    /// Nothing starts in virtual time before it has come.
    pub(super) fn bound(&mut self) {
        if let Some(w) = self.waiting.front() {
            self.next = self.next.max(w.arrival);
        }
    }
}

/// Seats that are held after a request's end.
pub(super) struct Lingering {
    pub(super) until: Instant,
    pub(super) queue: Option<usize>,
    pub(super) seats: u32,
    pub(super) flow: Arc<Flow>,
}

impl PartialEq for Lingering {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}
impl Eq for Lingering {}
impl PartialOrd for Lingering {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Lingering {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.until.cmp(&other.until)
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that waited or ran and were let in.
    pub dispatched: u64,
    /// Requests that were refused.
    pub rejected: u64,
    /// Requests whose time to wait was over, or whose client went away.
    pub cancelled: u64,
}

/// Figures over time.
pub struct Gauges {
    /// Requests that wait, of all places.
    pub waiting: Ratio,
    /// Requests that run, of the seats.
    pub executing: Ratio,
    /// Seats taken, of the seats.
    pub seats: Ratio,
    /// Seats taken and waited for, of the seats.
    pub demand: Ratio,
    pub(super) seat_demand: Integrator,
}

/// Virtual times of the last dispatch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Virtual {
    /// The level's.
    pub now: Work,
    /// That of the last dispatch.
    pub dispatch: Work,
    /// That of the request that was let in.
    pub latest: Work,
    /// Lowest and highest of the queues then.
    pub bounds: (Work, Work),
    /// The same, less the work that was running.
    pub discounted: (Work, Work),
}

/// One queue, to be shown.
pub struct Shown<'a>(pub(super) &'a Queue);

impl<'a> Shown<'a> {
    /// What waits, the first first.
    pub fn waiting(&self) -> impl Iterator<Item = &'a Asked> + use<'a> {
        self.0.waiting.iter().map(|w| &w.asked)
    }
    /// How many requests run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running
    }
    /// How many seats they have.
    #[must_use]
    pub fn seats(&self) -> u32 {
        self.0.seats
    }
    /// The virtual time of the next.
    #[must_use]
    pub fn next(&self) -> Work {
        self.0.next
    }
    /// Seats and work of what waits.
    #[must_use]
    pub fn sums(&self) -> (u32, Work) {
        (self.0.seats_waiting, self.0.work)
    }
}
