//! Seats of the priority levels: their nominal parts of the server's, and what they lend and borrow.

use super::demand::Observed;

/// How slowly an old demand is forgotten: half of it in five minutes.
const SMOOTHING: f64 = 0.977;
/// Targets below this are taken for this.
const LEAST: f64 = 0.001;
/// The part of a level's nominal seats that one request may take.
const ONE_REQUEST: f64 = 0.15;

/// What a level is configured to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Its shares of the server's seats.
    pub nominal: u32,
    /// How much of that may be lent, in percent.
    pub lendable: u32,
    /// How much may be borrowed, in percent of its own; `None` is no limit.
    pub borrowing: Option<u32>,
}

/// A level's seats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// What its shares are worth.
    pub nominal: u32,
    /// What it keeps whatever it lends.
    pub lower: u32,
    /// What it has at most, with what it borrows.
    pub upper: u32,
    /// What it has now.
    pub current: u32,
    /// What it seems to need.
    pub demand: Demand,
}

/// What a level could have used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// The most seats at a time, since seats were last divided.
    pub high: u32,
    /// The mean since then.
    pub mean: f64,
    /// The deviation since then.
    pub deviation: f64,
    /// The mean plus the deviation; falling slowly.
    pub smoothed: f64,
    /// What was aimed at when seats were last divided.
    pub target: f64,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(x: f64) -> u32 {
    x.clamp(0.0, f64::from(u32::MAX)) as u32
}

impl Demand {
    fn update(&mut self, seen: Observed) {
        self.high = whole(seen.max.round());
        if seen.seconds <= 0.0 {
            return;
        }
        (self.mean, self.deviation) = (seen.mean, seen.deviation);
        let envelope = seen.mean + seen.deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

impl Limits {
    /// The seats that `shares` of `sum` are worth on a server of `server` seats; `fresh` for a
    /// level that had none before.
    pub fn configure(&mut self, server: u32, shares: Shares, sum: f64, fresh: bool) {
        let part = if sum > 0.0 { f64::from(server) * f64::from(shares.nominal) / sum } else { 0.0 };
        let nominal = part.ceil();
        let percent = |p: u32| (nominal * f64::from(p) / 100.0).round();
        let lent = percent(shares.lendable);
        self.nominal = whole(nominal);
        self.lower = whole(nominal - lent);
        self.upper = whole(nominal + shares.borrowing.map_or(f64::from(server), percent));
        if fresh {
            self.current = self.nominal - whole(lent) / 2;
        }
    }

    /// The most seats that one request of a level gets whose flows have hands of this size.
    #[must_use]
    pub fn one_request(&self, hand: u32) -> u32 {
        let part = whole((f64::from(self.nominal) * ONE_REQUEST).ceil());
        part.min(self.nominal / hand.max(1)).max(1)
    }

    fn least(&self, exempt: bool) -> u32 {
        let high = if exempt { self.demand.high } else { self.demand.high.min(self.nominal) };
        high.max(self.lower)
    }
}

/// One part of what is divided.
struct Part {
    least: f64,
    most: f64,
    target: f64,
}

impl Part {
    fn at(&self, proportion: f64) -> f64 {
        (self.target * proportion).max(self.least).min(self.most)
    }
}

/// Gives each part the same proportion of its target, within its bounds, so that all together have
/// `sum`; also says the proportion. `None` if the bounds do not allow it.
fn divide(sum: f64, parts: &[Part]) -> Option<(f64, Vec<f64>)> {
    let total = |p: f64| parts.iter().map(|x| x.at(p)).sum::<f64>();
    // Between two neighbours of these nobody meets a bound, and the total is a straight line.
    let mut turns: Vec<f64> = parts.iter().flat_map(|x| [x.least / x.target, x.most / x.target]).collect();
    turns.sort_by(f64::total_cmp);
    let first = *turns.first()?;
    if sum < total(first) - 1e-7 {
        return None;
    }
    let mut low = (first, total(first));
    for turn in turns {
        let high = (turn, total(turn));
        if high.1 >= sum {
            let rise = high.1 - low.1;
            let proportion = if rise > 0.0 { low.0 + (sum - low.1) / rise * (high.0 - low.0) } else { high.0 };
            return Some((proportion, parts.iter().map(|x| x.at(proportion)).collect()));
        }
        low = high;
    }
    (sum - low.1 < 1e-7).then(|| (low.0, parts.iter().map(|x| x.at(low.0)).collect()))
}

/// A level that takes part when seats are divided.
pub struct Member<'a> {
    /// Whether it is never limited.
    pub exempt: bool,
    /// Its seats.
    pub limits: &'a mut Limits,
    /// What it could have used since the last time.
    pub seen: Observed,
}

/// Divides the seats of all levels anew, by what they could use of late. Answers the proportion
/// that each gets of its target, where no bound stands in the way.
#[allow(clippy::cast_precision_loss)]
pub fn rebalance(members: &mut [Member]) -> f64 {
    let whole_server: i64 = members.iter().map(|m| i64::from(m.limits.nominal)).sum();
    let (mut left, mut lower_sum, mut least_sum) = (whole_server, 0i64, 0i64);
    let mut parts = Vec::new();
    for m in members.iter_mut() {
        m.limits.demand.update(m.seen);
        let least = m.limits.least(m.exempt);
        let target = f64::from(least).max(m.limits.demand.smoothed);
        m.limits.demand.target = target;
        if m.exempt {
            left -= i64::from(least);
        } else {
            lower_sum += i64::from(m.limits.lower);
            least_sum += i64::from(least);
            let most = f64::from(m.limits.upper);
            parts.push(Part { least: f64::from(least), most, target: target.max(LEAST) });
        }
    }
    let scarce = left <= least_sum;
    let fraction = if left <= lower_sum { 0.0 } else { (left - lower_sum) as f64 / (least_sum - lower_sum).max(1) as f64 };
    let divided = if scarce { None } else { divide(whole_server as f64, &parts) };
    let mut given = divided.as_ref().map(|(_, all)| all.iter());
    for m in members.iter_mut() {
        let least = m.limits.least(m.exempt);
        m.limits.current = if m.exempt {
            least
        } else if scarce {
            m.limits.lower + whole((f64::from(least - m.limits.lower) * fraction).round())
        } else {
            given.as_mut().and_then(Iterator::next).map_or(m.limits.current, |x| whole(x.round()))
        };
    }
    divided.map_or(0.0, |(proportion, _)| proportion)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(max: f64, mean: f64) -> Observed {
        Observed { seconds: 10.0, mean, deviation: 0.0, max }
    }

    fn level(server: u32, nominal: u32, lendable: u32, borrowing: Option<u32>, sum: f64) -> Limits {
        let mut l = Limits::default();
        l.configure(server, Shares { nominal, lendable, borrowing }, sum, true);
        l
    }

    #[test]
    fn shares_are_parts_of_the_server() {
        // kube-apiserver's own levels on a server of 400 + 200.
        let system = level(600, 30, 33, None, 245.0);
        assert_eq!((system.nominal, system.lower, system.upper, system.current), (74, 50, 674, 62));
        let low = level(600, 100, 90, None, 245.0);
        assert_eq!((low.nominal, low.lower), (245, 24));
        assert_eq!(level(600, 5, 0, Some(50), 245.0).upper, 20);
        assert_eq!((low.one_request(6), level(600, 5, 0, None, 245.0).one_request(6)), (37, 2));
    }

    #[test]
    fn who_needs_seats_borrows_what_others_do_not_use() {
        let mut busy = level(100, 50, 50, None, 100.0);
        let mut idle = level(100, 50, 50, None, 100.0);
        let mut free = Limits::default();
        free.configure(100, Shares::default(), 100.0, true);
        let mut all = [
            Member { exempt: false, limits: &mut busy, seen: seen(90.0, 90.0) },
            Member { exempt: false, limits: &mut idle, seen: seen(0.0, 0.0) },
            Member { exempt: true, limits: &mut free, seen: seen(3.0, 1.0) },
        ];
        assert!(rebalance(&mut all) > 0.0);
        assert_eq!((busy.current, idle.current, free.current), (75, 25, 3));
    }

    #[test]
    fn nobody_has_less_than_it_used_up_to_its_own() {
        let mut a = level(100, 50, 100, None, 100.0);
        let mut b = level(100, 50, 100, None, 100.0);
        let mut all = [
            Member { exempt: false, limits: &mut a, seen: seen(500.0, 500.0) },
            Member { exempt: false, limits: &mut b, seen: seen(45.0, 2.0) },
        ];
        rebalance(&mut all);
        assert_eq!((a.current, b.current), (55, 45));
        // An exempt level that takes nearly all leaves the others their lower bounds.
        let mut greedy = Limits::default();
        let mut all = [
            Member { exempt: true, limits: &mut greedy, seen: seen(400.0, 400.0) },
            Member { exempt: false, limits: &mut a, seen: seen(50.0, 50.0) },
        ];
        assert!(rebalance(&mut all).abs() < 1e-9);
        assert_eq!((greedy.current, a.current), (400, 0));
    }

    #[test]
    fn a_demand_is_forgotten_slowly() {
        let mut d = Demand::default();
        d.update(seen(100.0, 100.0));
        for _ in 0..30 {
            d.update(seen(0.0, 0.0));
        }
        assert!((45.0..55.0).contains(&d.smoothed), "{d:?}");
    }
}
