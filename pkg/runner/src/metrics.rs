//! Counters of queues and controllers, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// One counter.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Table = Mutex<BTreeMap<(&'static str, String), Arc<Counter>>>;

fn table() -> &'static Table {
    static T: OnceLock<Table> = OnceLock::new();
    T.get_or_init(Table::default)
}

/// The process-wide counter of that metric name and `name` label.
pub fn counter(metric: &'static str, name: &str) -> Arc<Counter> {
    crate::lock(table()).entry((metric, name.to_owned())).or_default().clone()
}

/// All counters in the Prometheus text format.
pub fn render() -> String {
    let mut out = String::new();
    let mut last = "";
    for ((metric, name), c) in crate::lock(table()).iter() {
        if *metric != last {
            let _ = writeln!(out, "# TYPE {metric} counter");
            last = metric;
        }
        let _ = writeln!(out, "{metric}{{name=\"{name}\"}} {}", c.get());
    }
    out
}
