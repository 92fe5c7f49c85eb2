//! How much work a request is thought to be: seats it takes while it runs, and seats that its
//! consequences take after it.
//!
//! A seat is one plain request's share of the server. A list takes more of them the larger its
//! answer is, a write lingers on seats while watchers are told of it (KEP-1040).

use std::time::Duration;

/// Seats times time, in units of ten nanoseconds of one seat.
pub type Work = i128;

/// How long a request is thought to run before it has.
pub const EXPECTED: Duration = Duration::from_millis(3);
/// Bytes of an answer that one seat stands for.
const BYTES_PER_SEAT: u64 = 100_000;
/// What a list served from memory counts for at most, in bytes.
const CACHED_LIMIT: u64 = 1_000_000;
/// The most seats of a list.
const LIST_SEATS: u32 = 100;
/// The most seats of a write.
const WRITE_SEATS: u32 = 10;
/// Watchers that one seat stands for.
const WATCHES_PER_SEAT: u32 = 10;
/// How long the news of a write takes.
const NEWS: Duration = Duration::from_millis(5);

/// Seats that are held for some time.
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub fn work(seats: f64, time: Duration) -> Work {
    (seats * time.as_nanos() as f64 / 10.0).round() as Work
}

/// A unit of ten nanoseconds in seconds: `0.12345678ss`.
#[must_use]
pub fn show(work: Work) -> String {
    const SECOND: Work = 100_000_000;
    format!("{}.{:08}ss", work / SECOND, (work % SECOND).abs())
}

/// A request's seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Seats while it runs.
    pub initial: u32,
    /// Seats after that.
    pub last: u32,
    /// How long they are held.
    pub lingers: Duration,
}

impl Estimate {
    /// A request that takes this many seats while it runs, and none after that.
    #[must_use]
    pub const fn plain(seats: u32) -> Self {
        Self { initial: seats, last: 0, lingers: Duration::ZERO }
    }
    /// The seats it holds all the time.
    #[must_use]
    pub fn seats(&self) -> u32 {
        self.initial.max(self.last)
    }
    /// All of its work, were it to run as long as expected.
    #[must_use]
    pub fn total(&self) -> Work {
        work(f64::from(self.initial), EXPECTED) + work(f64::from(self.last), self.lingers)
    }
    /// The same work after its end on fewer seats, and for longer.
    #[must_use]
    pub fn within(self, limit: u32) -> Self {
        if self.last <= limit || limit == 0 {
            return self;
        }
        Self { last: limit, lingers: self.lingers.mul_f64(f64::from(self.last) / f64::from(limit)), ..self }
    }
}

/// What is known of the objects of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// How many there are.
    pub objects: u64,
    /// How large they are together.
    pub bytes: u64,
}

fn most(level: u32, all: u32) -> u32 {
    if level == 0 { all } else { level.min(all) }
}

/// The seats of a list of at most `limit` objects (0: all), or of a watch that begins with one;
/// `level` is the most the priority level gives to one request, 0 if it does not say.
#[must_use]
pub fn list(stored: Stored, single: bool, limit: u64, level: u32) -> Estimate {
    let objects = match (single, limit) {
        (true, _) => 1,
        (false, 0) => stored.objects,
        (false, n) => stored.objects.min(n),
    };
    let average = stored.bytes.checked_div(stored.objects).unwrap_or(0);
    let bytes = objects.saturating_mul(average).min(CACHED_LIMIT);
    let seats = u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(u32::MAX);
    Estimate::plain(seats.clamp(1, most(level, LIST_SEATS)))
}

/// The seats of a write that this many watchers may be told of.
#[must_use]
pub fn write(watchers: u32, level: u32) -> Estimate {
    if watchers < WATCHES_PER_SEAT {
        return Estimate::plain(1);
    }
    let last = watchers.div_ceil(WATCHES_PER_SEAT);
    Estimate { initial: 1, last, lingers: NEWS }.within(most(level, WRITE_SEATS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_takes_seats_by_the_bytes_of_its_answer() {
        let stored = Stored { objects: 3000, bytes: 10_600_000 };
        assert_eq!(list(stored, false, 0, 0).initial, 10);
        assert_eq!(list(stored, false, 100, 0).initial, 4);
        assert_eq!(list(stored, false, 0, 6).initial, 6);
        assert_eq!(list(stored, true, 0, 0), Estimate::plain(1));
        assert_eq!(list(Stored { objects: 0, bytes: 0 }, false, 500, 0), Estimate::plain(1));
    }

    #[test]
    fn a_write_lingers_while_watchers_are_told() {
        assert_eq!(write(9, 0), Estimate::plain(1));
        assert_eq!(write(25, 0), Estimate { initial: 1, last: 3, lingers: Duration::from_millis(5) });
        // The work stays the same on fewer seats.
        let wide = write(400, 0);
        assert_eq!((wide.last, wide.lingers), (10, Duration::from_millis(20)));
        assert_eq!(write(400, 4).lingers, Duration::from_millis(50));
    }

    #[test]
    fn work_is_shown_in_seat_seconds() {
        assert_eq!(show(work(2.0, Duration::from_millis(1500))), "3.00000000ss");
        assert_eq!(show(Estimate::plain(1).total()), "0.00300000ss");
    }
}
