//! events: statistics and OOM notices as JSON lines.

use std::time::{Duration, Instant};

use knarr_oci::{Stats, Status};
use serde_json::{Value, json};

use crate::args::Problem;
use crate::help::print;
use crate::{Call, Done};

/// `events`.
pub fn events(call: &Call) -> Done {
    let id = call.id()?;
    let state = call.runtime.state(id)?;
    if state.status == Status::Stopped {
        return Err(Problem::new(format!(
            "container with id {id} is not running"
        )));
    }
    if call.parsed.has("stats") {
        print(&line("stats", id, Some(stats(&call.runtime.stats(id)?))));
        return Ok(0);
    }
    let interval = interval(call.parsed.value("interval").unwrap_or("5s"))?;
    let pidfd = knarr_sys::process::pidfd_open(state.pid)?;
    let mut seen = call.runtime.stats(id)?.memory.oom_kill;
    let mut next = Instant::now();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let wait = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let ended = knarr_sys::fs::poll_readable(std::os::fd::AsFd::as_fd(&pidfd), wait)?;
        let Ok(now) = call.runtime.stats(id) else {
            return Ok(0);
        };
        while seen < now.memory.oom_kill {
            seen += 1;
            print(&line("oom", id, None));
        }
        if ended {
            return Ok(0);
        }
        print(&line("stats", id, Some(stats(&now))));
        next = Instant::now() + interval;
    }
}

fn line(kind: &str, id: &str, data: Option<Value>) -> String {
    let mut value = json!({"type": kind, "id": id});
    if let (Some(data), Some(map)) = (data, value.as_object_mut()) {
        map.insert("data".into(), data);
    }
    format!("{value}\n")
}

/// `5s`, `500ms`, `1m`.
fn interval(text: &str) -> Result<Duration, Problem> {
    let bad = || Problem::new(format!("invalid duration {text:?}"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| bad())?;
    let factor = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let seconds = number * factor;
    if !(seconds > 0.0 && seconds < 1e9) {
        return Err(Problem::new("duration interval must be greater than 0"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// In runc's field names.
fn stats(s: &Stats) -> Value {
    let io = |read: fn(&knarr_cgroups::IoEntry) -> u64,
              write: fn(&knarr_cgroups::IoEntry) -> u64| {
        s.io.iter()
            .flat_map(|e| {
                [
                    json!({"major": e.major, "minor": e.minor, "op": "Read", "value": read(e)}),
                    json!({"major": e.major, "minor": e.minor, "op": "Write", "value": write(e)}),
                ]
            })
            .collect::<Vec<_>>()
    };
    let unlimited = u64::MAX >> 1;
    json!({
        "cpu": {
            "usage": {
                "total": s.cpu.usage_ns,
                "percpu": s.cpu.per_cpu_ns,
                "kernel": s.cpu.system_ns,
                "user": s.cpu.user_ns,
            },
            "throttling": {
                "periods": s.cpu.periods,
                "throttledPeriods": s.cpu.throttled_periods,
                "throttledTime": s.cpu.throttled_ns,
            },
        },
        "cpuset": {},
        "memory": {
            "cache": s.memory.cache,
            "usage": {
                "limit": s.memory.limit.unwrap_or(unlimited),
                "usage": s.memory.usage,
                "max": s.memory.max_usage,
                "failcnt": s.memory.failcnt,
            },
            "swap": {
                "limit": s.memory.swap_limit.unwrap_or(unlimited),
                "usage": s.memory.swap_usage,
                "failcnt": 0,
            },
            "kernel": {"limit": unlimited, "usage": s.memory.kernel, "failcnt": 0},
            "raw": s.memory.stat,
        },
        "pids": {"current": s.pids.current, "limit": s.pids.limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": io(|e| e.read_bytes, |e| e.write_bytes),
            "ioServicedRecursive": io(|e| e.reads, |e| e.writes),
        },
        "hugetlb": s.hugetlb.iter().map(|(size, h)| (size.clone(), json!({
            "usage": h.usage, "max": h.max_usage, "failcnt": h.failcnt,
        }))).collect::<serde_json::Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}
