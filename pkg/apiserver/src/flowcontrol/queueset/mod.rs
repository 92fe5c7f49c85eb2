//! Fair queuing of the requests of one priority level.
//!
//! Every flow has a hand of queues; a request joins the one of them with the least work, and the
//! queue whose next request would be done first, were all served at once in equal parts (virtual
//! time), is served next. A request takes its estimated work from its queue's turn when it starts,
//! and the difference to what it took when it ends.
//!
//! # Guarantees
//! No clock and no task of its own: the caller says what time it is, and calls [`QueueSet::tick`]
//! when [`QueueSet::alarm`] asks for it. A [`Slot`] that was handed out is given back by
//! [`QueueSet::finish`] exactly once.

mod dealer;
mod parts;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    config::Distinguisher,
    demand::{Integrator, Observed, Ratio},
    metrics::{self, Flow},
    work::{EXPECTED, Estimate, Work, work},
};
use self::parts::{Gauges, Lingering, Queue, Running, Totals, Waiting};
pub use self::parts::{Shown, Virtual};
use crate::{auth::UserInfo, request::Info};

/// How a level treats requests beyond its seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queuing {
    /// There is no beyond.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait.
    Queue {
        /// In how many queues.
        queues: usize,
        /// How many of them one flow uses.
        hand: usize,
        /// How many requests wait in one.
        length: usize,
    },
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All seats are taken, and the level has no queues.
    ConcurrencyLimit,
    /// Its queue is full.
    QueueFull,
    /// It has waited too long.
    TimeOut,
}

/// One request, as it is shown and counted.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its flow schema and level.
    pub flow: Arc<Flow>,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// For what.
    pub info: Arc<Info>,
    /// What makes it one flow or another of its schema.
    pub by: Distinguisher,
    /// Its seats.
    pub estimate: Estimate,
    /// When it came.
    pub arrived: Instant,
}

/// Where a request that runs is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot(usize);

/// What became of a request that came.
#[derive(Debug)]
pub enum Start {
    /// It runs.
    Run(Slot),
    /// It waits; its slot is sent when its turn comes.
    Wait(Place),
    /// It is refused.
    Refused(Refusal),
}

/// Where a request waits.
#[derive(Debug)]
pub struct Place {
    queue: usize,
    ticket: u64,
    /// Its slot, when its turn comes.
    pub turn: oneshot::Receiver<Slot>,
}

/// The requests of one priority level.
pub struct QueueSet {
    queuing: Queuing,
    limit: u32,
    queues: Vec<Queue>,
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    lingering: BinaryHeap<Reverse<Lingering>>,
    at: Instant,
    r: Work,
    robin: usize,
    tickets: u64,
    enqueues: usize,
    /// Queues that have requests.
    active: usize,
    /// Seats of requests that came through a queue.
    queued_seats: u32,
    waiting: usize,
    executing: usize,
    seats: u32,
    seats_waiting: u32,
    alarmed: bool,
    /// How often what happened.
    pub totals: Totals,
    /// Figures over time.
    pub gauges: Gauges,
    /// Virtual times of the last dispatch.
    pub shown: Virtual,
}

impl QueueSet {
    /// Empty, without seats.
    #[must_use]
    pub fn new(now: Instant, queuing: Queuing) -> Self {
        let gauge = |bounds| Ratio::new(now, bounds);
        let mut this = Self {
            queuing,
            limit: 0,
            queues: Vec::new(),
            running: Vec::new(),
            free: Vec::new(),
            lingering: BinaryHeap::new(),
            at: now,
            r: 0,
            robin: 0,
            tickets: 0,
            enqueues: 0,
            active: 0,
            queued_seats: 0,
            waiting: 0,
            executing: 0,
            seats: 0,
            seats_waiting: 0,
            alarmed: false,
            totals: Totals::default(),
            gauges: Gauges {
                waiting: gauge(metrics::REQUEST_RATIOS),
                executing: gauge(metrics::REQUEST_RATIOS),
                seats: gauge(metrics::SEAT_RATIOS),
                demand: gauge(metrics::DEMAND_RATIOS),
                seat_demand: Integrator::new(now),
            },
            shown: Virtual::default(),
        };
        this.configure(now, queuing, 0, 1);
        this
    }

    /// Another way to treat requests, and another number of seats; `whole` is what gauges of seats
    /// are parts of. What waits may start by that.
    pub fn configure(&mut self, now: Instant, queuing: Queuing, limit: u32, whole: u32) {
        self.advance(now);
        (self.queuing, self.limit) = (queuing, limit);
        let places = match queuing {
            Queuing::Queue { queues, length, .. } => {
                while self.queues.len() < queues {
                    self.queues.push(Queue::default());
                }
                queues * length
            }
            _ => 1,
        };
        self.shrink();
        #[allow(clippy::cast_precision_loss)]
        self.gauges.waiting.of(now, places as f64);
        for g in [&mut self.gauges.executing, &mut self.gauges.seats, &mut self.gauges.demand] {
            g.of(now, f64::from(whole));
        }
        self.dispatch(now);
    }

    /// Queues beyond those wanted go when they are empty.
    fn shrink(&mut self) {
        let wanted = if let Queuing::Queue { queues, .. } = self.queuing { queues } else { 0 };
        while self.queues.len() > wanted && self.queues.last().is_some_and(|q| !q.active() && q.seats == 0) {
            self.queues.pop();
        }
        self.robin = if self.queues.is_empty() { 0 } else { self.robin.min(self.queues.len() - 1) };
    }

    /// Lets time pass: virtual time goes on, seats that were held long enough are free.
    fn advance(&mut self, now: Instant) {
        while let Some(Reverse(l)) = self.lingering.peek() {
            if l.until > now {
                break;
            }
            let until = l.until;
            self.flows(until);
            if let Some(Reverse(l)) = self.lingering.pop() {
                self.release(until, l.queue, l.seats, &l.flow);
                self.dispatch(until);
            }
        }
        self.flows(now);
    }

    /// Virtual time goes on.
    fn flows(&mut self, now: Instant) {
        let dt = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        if self.active > 0 && dt > Duration::ZERO {
            let seats = (self.queued_seats + self.seats_waiting).min(self.limit);
            #[allow(clippy::cast_precision_loss)]
            let rate = f64::from(seats) / self.active as f64;
            self.r += work(rate, dt);
        }
    }

    fn observe(&mut self, now: Instant) {
        let demand = f64::from(self.seats + self.seats_waiting);
        self.gauges.seat_demand.set(now, demand);
        self.gauges.demand.set(now, demand);
        self.gauges.seats.set(now, f64::from(self.seats));
        #[allow(clippy::cast_precision_loss)]
        self.gauges.executing.set(now, self.executing as f64);
        #[allow(clippy::cast_precision_loss)]
        self.gauges.waiting.set(now, self.waiting as f64);
    }

    /// Whether there are as many seats.
    fn fits(&self, seats: u32) -> bool {
        if self.queuing == Queuing::Exempt {
            return true;
        }
        // One that is wider than the level runs alone.
        if seats > self.limit { self.executing == 0 } else { self.seats + seats <= self.limit }
    }

    /// A request comes; `hash` is its flow's.
    pub fn start(&mut self, now: Instant, asked: Asked, hash: u64) -> Start {
        self.advance(now);
        let Queuing::Queue { queues, hand, length } = self.queuing else {
            if !self.fits(asked.estimate.seats()) {
                self.totals.rejected += 1;
                asked.flow.rejected(Refusal::ConcurrencyLimit);
                return Start::Refused(Refusal::ConcurrencyLimit);
            }
            let slot = self.run(now, asked, None);
            self.observe(now);
            return Start::Run(slot);
        };
        let at = self.choose(hash, queues, hand);
        let (r, alone) = (self.r, self.waiting == 0 && self.fits(asked.estimate.seats()));
        let Some(queue) = self.queues.get_mut(at) else { return Start::Refused(Refusal::QueueFull) };
        if self.seats >= self.limit && queue.waiting.len() >= length {
            self.totals.rejected += 1;
            asked.flow.rejected(Refusal::QueueFull);
            return Start::Refused(Refusal::QueueFull);
        }
        if !queue.active() {
            queue.next = r;
            self.active += 1;
        }
        let ahead = queue.waiting.len() as u64;
        asked.flow.queue_length.observe(ahead + 1);
        if alone {
            // Nobody is before it, so it need not wait.
            self.shown.bounds = (queue.next, queue.next);
            let held = work(f64::from(queue.seats), EXPECTED);
            self.shown.discounted = (queue.next - held, queue.next - held);
            let slot = self.leave(now, at, asked);
            self.observe(now);
            return Start::Run(slot);
        }
        let (turn, receiver) = oneshot::channel();
        self.tickets += 1;
        let ticket = self.tickets;
        let seats = asked.estimate.seats();
        asked.flow.waits(1, i64::from(seats));
        queue.work += asked.estimate.total();
        queue.seats_waiting += seats;
        queue.waiting.push_back(Waiting { ticket, asked, arrival: r, turn });
        queue.bound();
        self.waiting += 1;
        self.seats_waiting += seats;
        self.observe(now);
        self.dispatch(now);
        Start::Wait(Place { queue: at, ticket, turn: receiver })
    }

    /// Of a flow's queues the one with the least work waiting.
    fn choose(&mut self, hash: u64, deck: usize, hand: usize) -> usize {
        let mut cards = [0usize; 15];
        let mut n = 0;
        dealer::deal(hash, deck, hand, |c| {
            if let Some(slot) = cards.get_mut(n) {
                *slot = c;
                n += 1;
            }
        });
        let dealt = cards.get(..n).unwrap_or_default();
        // The order is another one each time, so that flows with common queues use them alike.
        let offset = self.enqueues.checked_rem(n).unwrap_or(0);
        self.enqueues = self.enqueues.wrapping_add(1);
        let (after, before) = dealt.split_at(offset);
        let order = after.iter().chain(before);
        order.copied().min_by_key(|i| self.queues.get(*i).map_or(Work::MAX, |q| q.work)).unwrap_or(0)
    }

    /// A request runs.
    fn run(&mut self, now: Instant, asked: Asked, queue: Option<usize>) -> Slot {
        let seats = asked.estimate.seats();
        self.executing += 1;
        self.seats += seats;
        self.totals.dispatched += 1;
        asked.flow.runs(1, i64::from(seats));
        if let Some(q) = queue.and_then(|i| self.queues.get_mut(i)) {
            q.running += 1;
            q.seats += seats;
            self.queued_seats += seats;
        }
        let running = Some(Running { asked, started: now, queue });
        match self.free.pop() {
            Some(i) => {
                self.running[i] = running;
                Slot(i)
            }
            None => {
                self.running.push(running);
                Slot(self.running.len() - 1)
            }
        }
    }

    /// A request leaves its queue to run.
    fn leave(&mut self, now: Instant, at: usize, mut asked: Asked) -> Slot {
        let total = asked.estimate.total();
        asked.estimate = asked.estimate.within(self.limit);
        self.robin = at;
        (self.shown.now, self.shown.dispatch) = (self.r, self.r);
        if let Some(q) = self.queues.get_mut(at) {
            self.shown.latest = q.next;
            q.next += total;
        }
        let slot = self.run(now, asked, Some(at));
        if let Some(q) = self.queues.get_mut(at) {
            q.bound();
        }
        slot
    }

    /// Lets in what there are seats for.
    fn dispatch(&mut self, now: Instant) {
        while self.waiting > 0 && self.seats < self.limit {
            let Some(at) = self.next_queue() else { return };
            let Some(queue) = self.queues.get_mut(at) else { return };
            let Some(w) = queue.waiting.pop_front() else { return };
            let seats = w.asked.estimate.seats();
            queue.work -= w.asked.estimate.total();
            queue.seats_waiting -= seats;
            self.waiting -= 1;
            self.seats_waiting -= seats;
            w.asked.flow.waits(-1, -i64::from(seats));
            let slot = self.leave(now, at, w.asked);
            if let Err(slot) = w.turn.send(slot) {
                // Nobody waits for it any more.
                self.end(now, slot, true);
            }
            self.observe(now);
        }
    }

    /// The queue whose next request would be done first, if there are seats for it.
    fn next_queue(&mut self) -> Option<usize> {
        let n = self.queues.len();
        let mut best: Option<(Work, usize)> = None;
        let (mut low, mut high) = (Work::MAX, Work::MIN);
        let (mut low_discounted, mut high_discounted) = (Work::MAX, Work::MIN);
        for step in 1..=n {
            let at = (self.robin + step) % n;
            let Some(q) = self.queues.get(at) else { continue };
            let Some(w) = q.waiting.front() else { continue };
            let discounted = q.next - work(f64::from(q.seats), EXPECTED);
            (low, high) = (low.min(q.next), high.max(q.next));
            (low_discounted, high_discounted) = (low_discounted.min(discounted), high_discounted.max(discounted));
            let done = q.next + w.asked.estimate.total();
            if best.is_none_or(|(b, _)| done < b) {
                best = Some((done, at));
            }
        }
        let (_, at) = best?;
        let asked = &self.queues.get(at)?.waiting.front()?.asked;
        if !self.fits(asked.estimate.seats()) {
            asked.flow.no_accommodation();
            return None;
        }
        self.shown.bounds = (low, high);
        self.shown.discounted = (low_discounted, high_discounted);
        Some(at)
    }

    /// A request ends, and gives its slot back.
    pub fn finish(&mut self, now: Instant, slot: Slot) {
        self.advance(now);
        self.end(now, slot, false);
        self.observe(now);
        self.dispatch(now);
    }

    fn end(&mut self, now: Instant, slot: Slot, never_ran: bool) {
        let Some(r) = self.running.get_mut(slot.0).and_then(Option::take) else { return };
        self.free.push(slot.0);
        self.executing -= 1;
        r.asked.flow.runs(-1, 0);
        let took = now.saturating_duration_since(r.started);
        let estimate = r.asked.estimate;
        if let Some(q) = r.queue.and_then(|i| self.queues.get_mut(i)) {
            q.running -= 1;
            let seats = f64::from(estimate.initial);
            q.next += work(seats, took) - work(seats, EXPECTED);
            q.bound();
            if !q.active() {
                self.active -= 1;
            }
        }
        if estimate.lingers == Duration::ZERO || never_ran {
            self.release(now, r.queue, estimate.seats(), &r.asked.flow);
        } else {
            let (until, queue, seats) = (now + estimate.lingers, r.queue, estimate.seats());
            self.lingering.push(Reverse(Lingering { until, queue, seats, flow: r.asked.flow }));
        }
    }

    fn release(&mut self, now: Instant, queue: Option<usize>, seats: u32, flow: &Flow) {
        self.seats -= seats;
        flow.runs(0, -i64::from(seats));
        if let Some(q) = queue.and_then(|i| self.queues.get_mut(i)) {
            q.seats -= seats;
            self.queued_seats -= seats;
            self.shrink();
        }
        self.observe(now);
    }

    /// A request waits no longer, because its time is over or its client is gone. If its turn had
    /// come before, its slot is given back.
    pub fn give_up(&mut self, now: Instant, mut place: Place) {
        self.advance(now);
        let ticket = place.ticket;
        let queue = self.queues.get_mut(place.queue);
        let found = queue.and_then(|q| q.waiting.iter().position(|w| w.ticket == ticket).and_then(|i| q.waiting.remove(i)).map(|w| (q, w)));
        match found {
            Some((q, w)) => {
                let seats = w.asked.estimate.seats();
                q.work -= w.asked.estimate.total();
                q.seats_waiting -= seats;
                q.bound();
                if !q.active() {
                    self.active -= 1;
                }
                self.waiting -= 1;
                self.seats_waiting -= seats;
                self.totals.rejected += 1;
                self.totals.cancelled += 1;
                w.asked.flow.waits(-1, -i64::from(seats));
                w.asked.flow.rejected(Refusal::TimeOut);
                self.shrink();
            }
            None => {
                if let Ok(slot) = place.turn.try_recv() {
                    self.end(now, slot, false);
                }
            }
        }
        self.observe(now);
        self.dispatch(now);
    }

    /// When [`Self::tick`] must be called because something waits for seats that are held until
    /// then; `None` if that is not so, or was answered before.
    pub fn alarm(&mut self) -> Option<Instant> {
        if self.alarmed || self.waiting == 0 {
            return None;
        }
        let at = self.lingering.peek().map(|Reverse(l)| l.until)?;
        self.alarmed = true;
        Some(at)
    }

    /// Time has passed; answers when to call again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        self.alarmed = false;
        self.advance(now);
        self.alarm()
    }

    /// What the level could have used since this was last asked.
    pub fn demand(&mut self, now: Instant) -> Observed {
        self.advance(now);
        self.gauges.seat_demand.take(now)
    }

    /// Whether nothing waits or runs.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.waiting == 0 && self.executing == 0
    }
    /// The virtual time.
    #[must_use]
    pub fn virtual_now(&self) -> Work {
        self.r
    }
    /// Requests that wait, and that run.
    #[must_use]
    pub fn requests(&self) -> (usize, usize) {
        (self.waiting, self.executing)
    }
    /// What is in each queue.
    pub fn queues(&self) -> impl Iterator<Item = Shown<'_>> {
        self.queues.iter().map(Shown)
    }
    /// What runs: its queue, the request, and since when.
    pub fn running(&self) -> impl Iterator<Item = (Option<usize>, &Asked, Instant)> {
        self.running.iter().flatten().map(|r| (r.queue, &r.asked, r.started))
    }
}
