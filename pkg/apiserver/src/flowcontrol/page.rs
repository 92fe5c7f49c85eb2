//! Priority and fairness in `/metrics`.

use tokio::time::Instant;

use super::{
    FlowControl,
    demand::Ratio,
    limits::Limits,
    locked,
    metrics::{self, Page},
    queueset::{QueueSet, Virtual},
    work::Work,
};

#[allow(clippy::cast_precision_loss)]
fn seconds(w: Work) -> f64 {
    w as f64 / 1e8
}

impl FlowControl {
    /// The part of `/metrics` that is about it.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut page = Page::default();
        let books = locked(&self.books);
        metrics::flows(&mut page, &books.flows());
        let gauge = |page: &mut Page, name: &str, help: &str, of: fn(&Limits) -> f64| {
            page.metric(name, "gauge", help);
            for (level, limits, _) in books.levels() {
                page.value(name, &format!("priority_level={:?}", level.name), of(limits));
            }
        };
        gauge(&mut page, "nominal_limit_seats", "Seats that a level's shares are worth.", |l| f64::from(l.nominal));
        gauge(&mut page, "lower_limit_seats", "Seats that a level keeps whatever it lends.", |l| f64::from(l.lower));
        gauge(&mut page, "upper_limit_seats", "Seats that a level has at most.", |l| f64::from(l.upper));
        gauge(&mut page, "current_limit_seats", "Seats that a level has now.", |l| f64::from(l.current));
        gauge(&mut page, "demand_seats_high_watermark", "The most seats a level could have used at a time, since seats were last divided.", |l| f64::from(l.demand.high));
        gauge(&mut page, "demand_seats_average", "The mean of the seats a level could have used since then.", |l| l.demand.mean);
        gauge(&mut page, "demand_seats_stdev", "The deviation of it.", |l| l.demand.deviation);
        gauge(&mut page, "demand_seats_smoothed", "The seats a level could have used, falling slowly.", |l| l.demand.smoothed);
        gauge(&mut page, "target_seats", "Seats that were aimed at when they were last divided.", |l| l.demand.target);
        page.metric("seat_fair_frac", "gauge", "The part of its target that each level got then.");
        page.value("seat_fair_frac", "", books.fair);
        let levels: Vec<_> = books.levels().map(|(l, ..)| std::sync::Arc::clone(l)).collect();
        drop(books);

        let each = |page: &mut Page, write: &mut dyn FnMut(&mut Page, &str, &mut QueueSet)| {
            for l in &levels {
                write(page, &format!("priority_level={:?}", l.name), &mut l.set());
            }
        };
        page.metric("current_r", "gauge", "Virtual time.");
        each(&mut page, &mut |p, labels, set| p.value("current_r", labels, seconds(set.virtual_now())));
        let shown = |page: &mut Page, name: &str, help: &str, of: fn(&Virtual) -> Work| {
            page.metric(name, "gauge", help);
            each(page, &mut |p, labels, set| p.value(name, labels, seconds(of(&set.shown))));
        };
        shown(&mut page, "dispatch_r", "Virtual time when a request was last let in.", |v| v.dispatch);
        shown(&mut page, "latest_s", "Virtual time at which that request starts.", |v| v.latest);
        let bounds = |page: &mut Page, name: &str, help: &str, of: fn(&Virtual) -> (Work, Work)| {
            page.metric(name, "gauge", help);
            each(page, &mut |p, labels, set| {
                let (min, max) = of(&set.shown);
                p.value(name, &format!("bound=\"max\",{labels}"), seconds(max));
                p.value(name, &format!("bound=\"min\",{labels}"), seconds(min));
            });
        };
        bounds(&mut page, "next_s_bounds", "Virtual times at which the queues' next requests started then.", |v| v.bounds);
        bounds(&mut page, "next_discounted_s_bounds", "The same, less the work that was running.", |v| v.discounted);

        let now = Instant::now();
        let ratio = |page: &mut Page, name: &str, labels: &str, r: &mut Ratio| {
            let (bounds, counts, sum) = r.read(now);
            page.buckets(name, labels, bounds, &counts, sum);
        };
        page.metric("demand_seats", "histogram", "At every nanosecond, the seats a level could use as a part of those it has.");
        each(&mut page, &mut |p, labels, set| ratio(p, "demand_seats", labels, &mut set.gauges.demand));
        page.metric("priority_level_seat_utilization", "histogram", "At every nanosecond, the part of a level's seats that is taken.");
        each(&mut page, &mut |p, labels, set| ratio(p, "priority_level_seat_utilization", &format!("phase=\"executing\",{labels}"), &mut set.gauges.seats));
        page.metric("priority_level_request_utilization", "histogram", "At every nanosecond, a level's requests as a part of those it has place for.");
        each(&mut page, &mut |p, labels, set| {
            ratio(p, "priority_level_request_utilization", &format!("phase=\"executing\",{labels}"), &mut set.gauges.executing);
            ratio(p, "priority_level_request_utilization", &format!("phase=\"waiting\",{labels}"), &mut set.gauges.waiting);
        });
        page.metric("read_vs_write_current_requests", "histogram", "At every nanosecond, requests that read or write as a part of all there is place for.");
        for (k, kind) in locked(&self.kinds).iter_mut().zip(["readOnly", "mutating"]) {
            ratio(&mut page, "read_vs_write_current_requests", &format!("phase=\"executing\",request_kind={kind:?}"), &mut k.executing.ratio);
            ratio(&mut page, "read_vs_write_current_requests", &format!("phase=\"waiting\",request_kind={kind:?}"), &mut k.waiting.ratio);
        }
        page.0
    }
}
