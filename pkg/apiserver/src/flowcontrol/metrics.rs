//! What is counted of each flow schema and priority level, by kube-apiserver's names.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::queueset::Refusal;

const NANOSECOND: f64 = 1e-9;
/// Bounds of parts of the seats that are taken.
pub const SEAT_RATIOS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// Bounds of requests as parts of what there is place for.
pub const REQUEST_RATIOS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
/// Bounds of seats that could be used, as parts of the seats.
pub const DEMAND_RATIOS: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
/// Bounds of requests that read or write, as parts of what there is place for.
pub const KIND_RATIOS: &[f64] = &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHES: &[f64] = &[0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0];

/// Observations of a whole number of some unit.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    unit: f64,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64], unit: f64) -> Self {
        Self { bounds, unit, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
    /// One more observation.
    pub fn observe(&self, n: u64) {
        #[allow(clippy::cast_precision_loss)]
        let value = n as f64 * self.unit;
        let at = self.bounds.iter().position(|b| value <= *b).unwrap_or(self.bounds.len());
        if let Some(c) = self.counts.get(at) {
            c.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(n, Relaxed);
    }
    /// One more time.
    pub fn took(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
    fn read(&self) -> Vec<u64> {
        self.counts.iter().map(|c| c.load(Relaxed)).collect()
    }
}

/// What is counted of the requests of one flow schema at one priority level.
#[derive(Debug)]
pub struct Flow {
    /// The priority level.
    pub level: String,
    /// The flow schema.
    pub schema: String,
    rejected: [AtomicU64; 3],
    dispatched: AtomicU64,
    no_accommodation: AtomicU64,
    waiting: AtomicI64,
    seats_waiting: AtomicI64,
    executing: AtomicI64,
    seats: AtomicI64,
    /// How long queues are, with the request that has joined.
    pub queue_length: Histogram,
    /// Seats that requests were thought to take.
    pub estimated: Histogram,
    /// Watchers that writes were thought to tell.
    pub watches: Histogram,
    waited: [Histogram; 2],
    executed: [Histogram; 2],
}

impl Flow {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(level: &str, schema: &str) -> Self {
        let seconds = || Histogram::new(SECONDS, NANOSECOND);
        Self {
            level: level.to_owned(),
            schema: schema.to_owned(),
            rejected: Default::default(),
            dispatched: AtomicU64::new(0),
            no_accommodation: AtomicU64::new(0),
            waiting: AtomicI64::new(0),
            seats_waiting: AtomicI64::new(0),
            executing: AtomicI64::new(0),
            seats: AtomicI64::new(0),
            queue_length: Histogram::new(LENGTHS, 1.0),
            estimated: Histogram::new(SEATS, 1.0),
            watches: Histogram::new(WATCHES, 1.0),
            waited: [seconds(), seconds()],
            executed: [seconds(), seconds()],
        }
    }
    /// A request was refused.
    pub fn rejected(&self, why: Refusal) {
        self.rejected[why as usize].fetch_add(1, Relaxed);
    }
    /// A request was let in.
    pub fn dispatched(&self) {
        self.dispatched.fetch_add(1, Relaxed);
    }
    /// There were no seats for the request whose turn it was.
    pub fn no_accommodation(&self) {
        self.no_accommodation.fetch_add(1, Relaxed);
    }
    /// More or fewer requests wait.
    pub fn waits(&self, requests: i64, seats: i64) {
        self.waiting.fetch_add(requests, Relaxed);
        self.seats_waiting.fetch_add(seats, Relaxed);
    }
    /// More or fewer requests run, on more or fewer seats.
    pub fn runs(&self, requests: i64, seats: i64) {
        self.executing.fetch_add(requests, Relaxed);
        self.seats.fetch_add(seats, Relaxed);
    }
    /// How long a request waited, and whether it ran then.
    pub fn waited(&self, ran: bool, time: Duration) {
        self.waited[usize::from(ran)].took(time);
    }
    /// How long a request, or the beginning of a watch, took.
    pub fn executed(&self, watch: bool, time: Duration) {
        self.executed[usize::from(watch)].took(time);
    }
}

/// The text that metrics are answered in.
#[derive(Default)]
pub struct Page(pub String);

const PREFIX: &str = "apiserver_flowcontrol_";

impl Page {
    /// Begins a metric.
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    }
    /// One value of it; `labels` as they are written, without braces.
    pub fn value(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match labels {
            "" => writeln!(self.0, "{PREFIX}{name} {value}"),
            _ => writeln!(self.0, "{PREFIX}{name}{{{labels}}} {value}"),
        };
    }
    /// One histogram of it: how many were in each bucket, and the sum.
    pub fn buckets(&mut self, name: &str, labels: &str, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut below = 0;
        for (i, n) in counts.iter().enumerate() {
            below += n;
            let le = bounds.get(i).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let _ = writeln!(self.0, "{PREFIX}{name}_bucket{{{labels},le=\"{le}\"}} {below}");
        }
        let _ = writeln!(self.0, "{PREFIX}{name}_sum{{{labels}}} {sum}\n{PREFIX}{name}_count{{{labels}}} {below}");
    }
    fn histogram(&mut self, name: &str, labels: &str, h: &Histogram) {
        let counts = h.read();
        if counts.iter().any(|n| *n > 0) {
            #[allow(clippy::cast_precision_loss)]
            self.buckets(name, labels, h.bounds, &counts, h.sum.load(Relaxed) as f64 * h.unit);
        }
    }
}

/// Labels of a flow.
fn labels(f: &Flow) -> String {
    format!("flow_schema={:?},priority_level={:?}", f.schema, f.level)
}

/// Writes what is counted of flows.
#[allow(clippy::cast_precision_loss)]
pub fn flows(page: &mut Page, all: &[std::sync::Arc<Flow>]) {
    let counter = |page: &mut Page, name: &str, help: &str, of: fn(&Flow) -> u64| {
        page.metric(name, "counter", help);
        for f in all.iter().filter(|f| of(f) > 0) {
            page.value(name, &labels(f), of(f) as f64);
        }
    };
    counter(page, "dispatched_requests_total", "Requests that were let in.", |f| f.dispatched.load(Relaxed));
    counter(page, "request_dispatch_no_accommodation_total", "Requests whose turn it was while there were no seats for them.", |f| f.no_accommodation.load(Relaxed));
    page.metric("rejected_requests_total", "counter", "Requests that were refused, by the reason.");
    for f in all {
        for (n, reason) in f.rejected.iter().zip(["concurrency-limit", "queue-full", "time-out"]) {
            let n = n.load(Relaxed);
            if n > 0 {
                page.value("rejected_requests_total", &format!("{},reason={reason:?}", labels(f)), n as f64);
            }
        }
    }
    let gauge = |page: &mut Page, name: &str, help: &str, of: fn(&Flow) -> i64| {
        page.metric(name, "gauge", help);
        for f in all.iter().filter(|f| f.dispatched.load(Relaxed) > 0 || of(f) != 0) {
            page.value(name, &labels(f), of(f) as f64);
        }
    };
    gauge(page, "current_inqueue_requests", "Requests that wait.", |f| f.waiting.load(Relaxed));
    gauge(page, "current_inqueue_seats", "Seats that are waited for.", |f| f.seats_waiting.load(Relaxed));
    gauge(page, "current_executing_requests", "Requests that run; of watches their beginning.", |f| f.executing.load(Relaxed));
    gauge(page, "current_executing_seats", "Seats that are taken.", |f| f.seats.load(Relaxed));
    page.metric("request_queue_length_after_enqueue", "histogram", "How long the queue was that a request joined, with it.");
    all.iter().for_each(|f| page.histogram("request_queue_length_after_enqueue", &labels(f), &f.queue_length));
    page.metric("work_estimated_seats", "histogram", "The most seats that requests were thought to take.");
    all.iter().for_each(|f| page.histogram("work_estimated_seats", &labels(f), &f.estimated));
    page.metric("watch_count_samples", "histogram", "Watchers that may be told of a write.");
    all.iter().for_each(|f| page.histogram("watch_count_samples", &labels(f), &f.watches));
    page.metric("request_wait_duration_seconds", "histogram", "How long requests waited, and whether they ran then.");
    for f in all {
        for (h, ran) in f.waited.iter().zip([false, true]) {
            page.histogram("request_wait_duration_seconds", &format!("execute=\"{ran}\",{}", labels(f)), h);
        }
    }
    page.metric("request_execution_seconds", "histogram", "How long requests ran; of watches their beginning.");
    for f in all {
        for (h, kind) in f.executed.iter().zip(["regular", "watch"]) {
            page.histogram("request_execution_seconds", &format!("{},type={kind:?}", labels(f)), h);
        }
    }
}
