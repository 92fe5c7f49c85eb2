//! Figures that are observed over time: how many seats a level could use, and how full it was.

use std::time::Duration;

use tokio::time::Instant;

/// Mean, deviation and maximum over time of a figure that changes in steps.
#[derive(Debug)]
pub struct Integrator {
    since: Instant,
    value: f64,
    seconds: f64,
    sum: f64,
    squares: f64,
    max: f64,
}

/// What an [`Integrator`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// For how long.
    pub seconds: f64,
    /// The mean over that time.
    pub mean: f64,
    /// The standard deviation over that time.
    pub deviation: f64,
    /// The highest value.
    pub max: f64,
}

impl Integrator {
    /// Zero from now on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, value: 0.0, seconds: 0.0, sum: 0.0, squares: 0.0, max: 0.0 }
    }
    fn advance(&mut self, now: Instant) {
        let dt = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.seconds += dt;
        self.sum += self.value * dt;
        self.squares += self.value * self.value * dt;
    }
    /// Another value from now on.
    pub fn set(&mut self, now: Instant, value: f64) {
        self.advance(now);
        self.value = value;
        self.max = self.max.max(value);
    }
    /// What was seen; begins anew.
    pub fn take(&mut self, now: Instant) -> Observed {
        self.advance(now);
        let mut seen = Observed { seconds: self.seconds, max: self.max, ..Observed::default() };
        if self.seconds > 0.0 {
            seen.mean = self.sum / self.seconds;
            seen.deviation = (self.squares / self.seconds - seen.mean * seen.mean).max(0.0).sqrt();
        }
        (self.seconds, self.sum, self.squares, self.max) = (0.0, 0.0, 0.0, self.value);
        seen
    }
}

/// How long a figure, as a part of another, was at most each of the bounds: a histogram with one
/// observation a nanosecond.
#[derive(Debug)]
pub struct Ratio {
    bounds: &'static [f64],
    since: Instant,
    value: f64,
    whole: f64,
    counts: Vec<u64>,
    sum: f64,
}

impl Ratio {
    /// Zero from now on.
    #[must_use]
    pub fn new(now: Instant, bounds: &'static [f64]) -> Self {
        Self { bounds, since: now, value: 0.0, whole: 1.0, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }
    fn advance(&mut self, now: Instant) {
        let dt = now.saturating_duration_since(self.since);
        if dt == Duration::ZERO {
            return;
        }
        self.since = now;
        let ratio = self.value / self.whole;
        let at = self.bounds.iter().position(|b| ratio <= *b).unwrap_or(self.bounds.len());
        if let Some(n) = self.counts.get_mut(at) {
            *n += u64::try_from(dt.as_nanos()).unwrap_or(u64::MAX);
        }
        self.sum += ratio * dt.as_secs_f64() * 1e9;
    }
    /// Another value from now on.
    pub fn set(&mut self, now: Instant, value: f64) {
        self.advance(now);
        self.value = value;
    }
    /// What it is a part of, from now on.
    pub fn of(&mut self, now: Instant, whole: f64) {
        self.advance(now);
        self.whole = if whole > 0.0 { whole } else { 1.0 };
    }
    /// The bounds, how many nanoseconds were at or below each and above all, and the sum.
    pub fn read(&mut self, now: Instant) -> (&'static [f64], Vec<u64>, f64) {
        self.advance(now);
        (self.bounds, self.counts.clone(), self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_its_mean_and_deviation() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let mut i = Integrator::new(begin);
        i.set(at(0), 4.0);
        i.set(at(5), 0.0);
        let seen = i.take(at(10));
        assert!((seen.mean - 2.0).abs() < 1e-9 && (seen.deviation - 2.0).abs() < 1e-9 && (seen.max - 4.0).abs() < 1e-9, "{seen:?}");
        // Anew: what counts is the value now.
        assert_eq!(i.take(at(12)), Observed { seconds: 2.0, ..Observed::default() });
    }

    #[test]
    fn a_ratio_counts_time() {
        let begin = Instant::now();
        let mut r = Ratio::new(begin, &[0.0, 0.5, 1.0]);
        r.of(begin, 10.0);
        r.set(begin + Duration::from_nanos(7), 5.0);
        r.set(begin + Duration::from_nanos(10), 20.0);
        let (_, counts, sum) = r.read(begin + Duration::from_nanos(15));
        assert_eq!(counts, [7, 3, 0, 5]);
        assert!((sum - 11.5).abs() < 1e-6, "{sum}");
    }
}
