//! The pages below `/debug/api_priority_and_fairness`.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::Instant;

use super::{
    FlowControl,
    config::Level,
    locked,
    queueset::Asked,
    work::show,
};
use crate::request::Query;

/// Rows in columns, as Go's tabwriter makes them: cells end with a comma, columns are at least
/// eight wide.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for r in rows {
        for (i, cell) in r.iter().enumerate() {
            if i + 1 == r.len() {
                out.push_str(cell);
            } else {
                let w = widths.get(i).copied().unwrap_or(0);
                out.push_str(&format!("{:<w$}", format!("{cell},")));
            }
        }
        out.push('\n');
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// `0s`, `5ms`, `1.5s`, as Go writes durations of this size.
fn duration(d: Duration) -> String {
    if d.is_zero() {
        "0s".into()
    } else if d < Duration::from_secs(1) {
        format!("{}ms", d.as_secs_f64() * 1000.0)
    } else {
        format!("{}s", d.as_secs_f64())
    }
}

/// When something was, by the calendar.
fn date(at: Option<Instant>) -> String {
    match at {
        None => "0001-01-01T00:00:00Z".into(),
        Some(at) => {
            let when: DateTime<Utc> = Utc::now() - at.elapsed();
            when.to_rfc3339_opts(SecondsFormat::Nanos, true)
        }
    }
}

impl FlowControl {
    /// One of the pages, by the last part of its path.
    #[must_use]
    pub fn dump(&self, page: &str, query: &Query) -> Option<String> {
        let levels: Vec<(Arc<Level>, bool)> = locked(&self.books).levels().map(|(l, _, q)| (Arc::clone(l), q)).collect();
        Some(table(&match page {
            "dump_priority_levels" => priority_levels(&levels),
            "dump_queues" => queues(&levels),
            "dump_requests" => self.dump_requests(&levels, !query.get("includeRequestDetails").is_empty()),
            _ => return None,
        }))
    }

    fn dump_requests(&self, levels: &[(Arc<Level>, bool)], details: bool) -> Vec<Vec<String>> {
        let mut head = row(["PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime", "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"]);
        if details {
            head.extend(row(["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]));
        }
        let mut rows = vec![head];
        for (level, _) in levels {
            let set = level.set();
            let mut add = |queue: Option<usize>, place: Option<usize>, a: &Asked, started: Option<Instant>| {
                let index = |i: Option<usize>| i.map_or_else(|| "-1".to_owned(), |i| i.to_string());
                let mut cells = vec![
                    level.name.clone(),
                    a.flow.schema.clone(),
                    index(queue),
                    index(place),
                    if queue.is_some() { a.by.of(&a.user, &a.info).to_owned() } else { String::new() },
                    date(Some(a.arrived)),
                    a.estimate.initial.to_string(),
                    a.estimate.last.to_string(),
                    duration(a.estimate.lingers),
                    date(started),
                ];
                if details {
                    let i = &a.info;
                    let version = if i.group.is_empty() { i.version.clone() } else { format!("{}/{}", i.group, i.version) };
                    cells.extend([&a.user.name, &i.verb, &i.path, &i.namespace, &i.name, &version, &i.resource, &i.subresource].map(String::clone));
                }
                rows.push(cells);
            };
            for (q, queue) in set.queues().enumerate() {
                for (p, a) in queue.waiting().enumerate() {
                    add(Some(q), Some(p), a, None);
                }
            }
            let mut running: Vec<_> = set.running().collect();
            running.sort_by_key(|(q, _, since)| (*q, *since));
            for (q, a, since) in running {
                add(q, None, a, Some(since));
            }
        }
        rows
    }
}

fn priority_levels(levels: &[(Arc<Level>, bool)]) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests", "DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests",
    ])];
    for (level, quiescing) in levels {
        let set = level.set();
        let (waiting, executing) = set.requests();
        let active = set.queues().filter(|q| q.waiting().next().is_some()).count();
        let t = set.totals;
        rows.push(vec![
            level.name.clone(),
            active.to_string(),
            set.idle().to_string(),
            quiescing.to_string(),
            waiting.to_string(),
            executing.to_string(),
            t.dispatched.to_string(),
            t.rejected.to_string(),
            "0".to_owned(),
            t.cancelled.to_string(),
        ]);
    }
    rows
}

fn queues(levels: &[(Arc<Level>, bool)]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR", "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"])];
    for (level, _) in levels {
        for (i, q) in level.set().queues().enumerate() {
            let (seats, work) = q.sums();
            let initial: u32 = q.waiting().map(|a| a.estimate.initial).sum();
            rows.push(vec![
                level.name.clone(),
                i.to_string(),
                q.waiting().count().to_string(),
                q.running().to_string(),
                q.seats().to_string(),
                show(q.next()),
                initial.to_string(),
                seats.to_string(),
                show(work),
            ]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{super::config::Distinguisher, *};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let t = table(&[row(["PriorityLevelName", "Index", "X"]), row(["system", "0", "12"])]);
        assert_eq!(t, "PriorityLevelName, Index,  X\nsystem,            0,      12\n");
        assert_eq!((duration(Duration::from_millis(5)).as_str(), duration(Duration::ZERO).as_str()), ("5ms", "0s"));
        assert_eq!(Distinguisher::None.of(&crate::UserInfo::anonymous(), &crate::request::Info::default()), "");
    }
}
