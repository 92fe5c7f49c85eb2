use std::collections::HashMap;

use super::*;

/// A level under a clock of the test's own.
struct Bench {
    set: QueueSet,
    begin: Instant,
    now: Instant,
    flow: Arc<Flow>,
    /// Slots, when they are given back, and whose they are.
    running: Vec<(Instant, Slot, &'static str)>,
    waiting: Vec<(Place, &'static str, Duration)>,
    served: HashMap<&'static str, u32>,
}

const QUEUES: Queuing = Queuing::Queue { queues: 16, hand: 4, length: 50 };

fn hash(flow: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    flow.hash(&mut h);
    h.finish()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Bench {
    fn new(queuing: Queuing, seats: u32) -> Self {
        let now = Instant::now();
        let mut set = QueueSet::new(now, queuing);
        set.configure(now, queuing, seats, seats);
        Self { set, begin: now, now, flow: Arc::new(Flow::new("l", "s")), running: Vec::new(), waiting: Vec::new(), served: HashMap::new() }
    }
    fn asked(&self, estimate: Estimate) -> Asked {
        Asked { flow: Arc::clone(&self.flow), user: Arc::default(), info: Arc::default(), by: Distinguisher::None, estimate, arrived: self.now }
    }
    /// A request of a flow that will take some time; `false` if it is refused.
    fn come(&mut self, flow: &'static str, estimate: Estimate, takes: Duration) -> bool {
        match self.set.start(self.now, self.asked(estimate), hash(flow)) {
            Start::Run(slot) => self.running.push((self.now + takes, slot, flow)),
            Start::Wait(place) => self.waiting.push((place, flow, takes)),
            Start::Refused(_) => return false,
        }
        self.turns();
        true
    }
    fn turns(&mut self) {
        for (mut place, flow, takes) in std::mem::take(&mut self.waiting) {
            match place.turn.try_recv() {
                Ok(slot) => self.running.push((self.now + takes, slot, flow)),
                Err(_) => self.waiting.push((place, flow, takes)),
            }
        }
    }
    /// Ends what ends first.
    fn step(&mut self) -> bool {
        let Some(i) = (0..self.running.len()).min_by_key(|i| self.running[*i].0) else { return false };
        let (end, slot, flow) = self.running.remove(i);
        self.now = self.now.max(end);
        self.set.finish(self.now, slot);
        *self.served.entry(flow).or_default() += 1;
        self.turns();
        true
    }
    fn served(&self, flow: &str) -> u32 {
        self.served.get(flow).copied().unwrap_or(0)
    }
}

const ONE: Estimate = Estimate::plain(1);

#[test]
fn a_flood_does_not_drown_the_other_flow() {
    let mut b = Bench::new(QUEUES, 4);
    // One flow has fifty requests at all times, the other two.
    let mut came: HashMap<&str, u32> = HashMap::new();
    while b.served("flood") + b.served("calm") < 400 {
        for (flow, many) in [("flood", 50), ("calm", 4)] {
            while came.get(flow).copied().unwrap_or(0) - b.served(flow) < many {
                assert!(b.come(flow, ONE, ms(10)));
                *came.entry(flow).or_default() += 1;
            }
        }
        b.step();
    }
    // One after the other it would have had 4 of 54; it may share queues with the flood.
    assert!(b.served("calm") >= 100, "{:?}", b.served);
    assert!(b.served("flood") >= 150, "{:?}", b.served);
}

#[test]
fn equal_flows_are_served_alike_whatever_their_requests_cost() {
    let one_queue = Queuing::Queue { queues: 64, hand: 1, length: 200 };
    let mut b = Bench::new(one_queue, 2);
    for _ in 0..120 {
        b.come("slow", ONE, ms(30));
        b.come("fast", ONE, ms(10));
    }
    while b.now < b.begin + ms(900) {
        b.step();
    }
    // Time is divided, not requests: one seat each, 900 ms.
    let (slow, fast) = (b.served("slow"), b.served("fast"));
    assert!((27..=33).contains(&slow) && (81..=99).contains(&fast), "slow {slow}, fast {fast}");
}

#[test]
fn a_full_queue_refuses_and_an_empty_one_does_not() {
    let mut b = Bench::new(Queuing::Queue { queues: 64, hand: 1, length: 3 }, 1);
    for n in 0..4 {
        assert!(b.come("a", ONE, ms(10)), "request {n}");
    }
    assert!(!b.come("a", ONE, ms(10)));
    assert!(b.come("b", ONE, ms(10)));
    assert_eq!((b.set.totals.rejected, b.set.requests()), (1, (4, 1)));
    while b.step() {}
    assert_eq!((b.served("a"), b.served("b"), b.set.idle()), (4, 1, true));
}

#[test]
fn without_queues_the_seats_are_the_limit() {
    let mut b = Bench::new(Queuing::Reject, 2);
    assert!(b.come("a", ONE, ms(1)) && b.come("a", ONE, ms(1)) && !b.come("b", ONE, ms(1)));
    b.step();
    assert!(b.come("b", ONE, ms(1)));
    let mut free = Bench::new(Queuing::Exempt, 0);
    assert!((0..1000).all(|_| free.come("a", ONE, ms(1))));
}

#[test]
fn a_wide_request_waits_for_its_seats_and_one_wider_than_all_runs_alone() {
    let mut b = Bench::new(Queuing::Queue { queues: 64, hand: 1, length: 100 }, 10);
    assert!(b.come("a", ONE, ms(3)) && b.come("wide", Estimate::plain(10), ms(3)));
    for _ in 0..50 {
        assert!(b.come("narrow", ONE, ms(3)));
    }
    while b.served("wide") == 0 {
        assert!(b.step());
    }
    // It has its turn after as much work of the other flow as its own is, not after all of it.
    assert!((5..=25).contains(&b.served("narrow")), "{:?}", b.served);
    while b.step() {}
    assert!(b.set.idle());
    assert!(b.come("wider", Estimate::plain(20), ms(10)) && b.come("c", ONE, ms(10)));
    assert_eq!(b.set.requests(), (1, 1));
}

#[test]
fn seats_are_held_for_what_follows_a_write() {
    let mut b = Bench::new(QUEUES, 3);
    let write = Estimate { initial: 1, last: 3, lingers: ms(5) };
    assert!(b.come("w", write, ms(2)) && b.come("r", ONE, ms(2)));
    assert_eq!(b.set.alarm(), None);
    b.step();
    // The write has ended, its seats have not.
    assert_eq!((b.set.requests(), b.running.len()), ((1, 0), 0));
    assert_eq!(b.set.alarm(), Some(b.begin + ms(7)));
    assert_eq!(b.set.tick(b.begin + ms(7)), None);
    b.now = b.begin + ms(7);
    b.turns();
    assert_eq!((b.set.requests(), b.running[0].2), ((0, 1), "r"));
    b.step();
    assert!(b.set.idle());
}

#[test]
fn who_gives_up_leaves_no_trace() {
    let mut b = Bench::new(Queuing::Queue { queues: 1, hand: 1, length: 10 }, 1);
    for flow in ["a", "b", "c"] {
        assert!(b.come(flow, ONE, ms(10)));
    }
    let (place, ..) = b.waiting.remove(0);
    b.set.give_up(b.now, place);
    assert_eq!((b.set.requests(), b.set.totals.cancelled), ((1, 1), 1));
    // One whose turn comes in the same moment gives its seat to the next.
    assert!(b.come("d", ONE, ms(10)));
    let (end, slot, _) = b.running.remove(0);
    b.now = end;
    b.set.finish(b.now, slot);
    let (place, flow, _) = b.waiting.remove(0);
    assert_eq!(flow, "c");
    b.set.give_up(b.now, place);
    b.turns();
    assert_eq!((b.set.requests(), b.running[0].2), ((0, 1), "d"));
    b.step();
    assert!(b.set.idle());
    assert_eq!(b.set.queues().map(|q| (q.running(), q.seats(), q.sums())).collect::<Vec<_>>(), [(0, 0, (0, 0))]);
}

#[test]
fn a_client_that_is_gone_gives_its_turn_to_the_next() {
    let mut b = Bench::new(Queuing::Queue { queues: 1, hand: 1, length: 10 }, 1);
    assert!(b.come("a", ONE, ms(10)) && b.come("b", ONE, ms(10)) && b.come("c", ONE, ms(10)));
    drop(b.waiting.remove(0));
    b.step();
    assert_eq!(b.running[0].2, "c");
}

#[test]
fn more_seats_let_in_what_waits_and_fewer_queues_drain() {
    let mut b = Bench::new(QUEUES, 1);
    for flow in ["a", "b", "c", "d", "e", "f"] {
        assert!(b.come(flow, ONE, ms(10)));
    }
    b.set.configure(b.now, Queuing::Queue { queues: 2, hand: 1, length: 50 }, 3, 3);
    b.turns();
    assert_eq!(b.set.requests(), (3, 3));
    while b.step() {}
    assert_eq!((b.set.idle(), b.set.queues().count()), (true, 2));
    b.set.configure(b.now, Queuing::Reject, 3, 3);
    assert_eq!(b.set.queues().count(), 0);
    assert!(b.come("a", ONE, ms(1)) && b.step() && b.set.idle());
}

#[test]
fn what_could_be_used_is_seen() {
    let mut b = Bench::new(QUEUES, 2);
    for _ in 0..6 {
        assert!(b.come("a", ONE, ms(1000)));
    }
    while b.step() {}
    let seen = b.set.demand(b.now);
    // Six, four, two seats for a second each.
    assert!((seen.seconds - 3.0).abs() < 0.01 && (seen.mean - 4.0).abs() < 0.01 && (seen.max - 6.0).abs() < 0.01, "{seen:?}");
}
