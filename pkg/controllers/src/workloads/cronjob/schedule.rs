//! Cron expressions: five fields, names, steps, and the `@` shorthands.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A parsed expression.
#[derive(Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Every(i64),
    Fields { minute: u64, hour: u64, day: u64, month: u64, weekday: u64, any_day: bool, any_weekday: bool },
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn value(s: &str, names: &[&str], base: u32) -> Option<u32> {
    let lower = s.to_ascii_lowercase();
    match names.iter().position(|n| *n == lower) {
        Some(i) => Some(u32::try_from(i).ok()? + base),
        None => s.parse().ok(),
    }
}

/// The bits of a field, and whether it was a star.
fn field(s: &str, min: u32, max: u32, names: &[&str]) -> Option<(u64, bool)> {
    let (mut bits, mut star) = (0u64, false);
    for part in s.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((r, s)) => (r, Some(s.parse::<u32>().ok().filter(|s| *s > 0)?)),
            None => (part, None),
        };
        let (from, to) = if range == "*" || range == "?" {
            star |= step.is_none_or(|s| s == 1);
            (min, max)
        } else if let Some((a, b)) = range.split_once('-') {
            (value(a, names, min)?, value(b, names, min)?)
        } else {
            let v = value(range, names, min)?;
            (v, if step.is_some() { max } else { v })
        };
        // Sunday may be written 7 as well.
        let top = if max == 6 { 7 } else { max };
        if from < min || to > top || from > to {
            return None;
        }
        let mut v = from;
        while v <= to {
            bits |= 1 << if max == 6 { v % 7 } else { v };
            v += step.unwrap_or(1);
        }
    }
    Some((bits, star))
}

/// Whole seconds of a duration such as `1h30m`.
fn seconds(s: &str) -> Option<i64> {
    let (mut total, mut n) = (0i64, String::new());
    for c in s.chars() {
        if c.is_ascii_digit() {
            n.push(c);
            continue;
        }
        let v: i64 = n.parse().ok()?;
        n.clear();
        total += v * match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
    }
    (n.is_empty() && total > 0).then_some(total)
}

impl Schedule {
    /// Parses an expression.
    pub fn parse(s: &str) -> Option<Self> {
        let s = match s.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(d) = s.strip_prefix("@every ") {
            return Some(Self { kind: Kind::Every(seconds(d.trim())?) });
        }
        let f: Vec<&str> = s.split_whitespace().collect();
        let [mi, h, d, mo, w] = f.as_slice() else { return None };
        let (day, any_day) = field(d, 1, 31, &[])?;
        let (weekday, any_weekday) = field(w, 0, 6, &DAYS)?;
        Some(Self {
            kind: Kind::Fields {
                minute: field(mi, 0, 59, &[])?.0,
                hour: field(h, 0, 23, &[])?.0,
                day,
                month: field(mo, 1, 12, &MONTHS)?.0,
                weekday,
                any_day,
                any_weekday,
            },
        })
    }

    /// The first moment after `t`; `None` where there is none within five years.
    pub fn next(&self, t: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let (minute, hour, day, month, weekday, any_day, any_weekday) = match &self.kind {
            Kind::Every(s) => return Timestamp::from_second(t.as_second() + s).ok(),
            Kind::Fields { minute, hour, day, month, weekday, any_day, any_weekday } => {
                (*minute, *hour, *day, *month, *weekday, *any_day, *any_weekday)
            }
        };
        let has = |bits: u64, v: i8| u8::try_from(v).is_ok_and(|v| bits >> v & 1 == 1);
        let start = t.to_zoned(zone.clone()).datetime();
        let mut d = start.date();
        let last = d.checked_add(5.years()).ok()?;
        while d <= last {
            let weekday_ok = has(weekday, d.weekday().to_sunday_zero_offset());
            let day_ok = has(day, d.day());
            // Where both days are given, either will do.
            let fits = has(month, d.month())
                && if any_day || any_weekday { day_ok && weekday_ok } else { day_ok || weekday_ok };
            if fits {
                for h in (0..24i8).filter(|h| has(hour, *h)) {
                    for m in (0..60i8).filter(|m| has(minute, *m)) {
                        let at = d.at(h, m, 0, 0);
                        if at <= start {
                            continue;
                        }
                        let z = at.to_zoned(zone.clone()).ok()?;
                        // An hour that the clock skipped is not there.
                        if z.datetime() == at && z.timestamp() > t {
                            return Some(z.timestamp());
                        }
                    }
                }
            }
            d = d.tomorrow().ok()?;
        }
        None
    }

    /// The last moment in `(from, now]`, and how many there were (counted up to a thousand).
    pub fn last_due(&self, from: Timestamp, now: Timestamp, zone: &TimeZone) -> (Option<Timestamp>, u32) {
        let (mut last, mut n, mut at) = (None, 0, from);
        while let Some(t) = self.next(at, zone) {
            if t > now {
                break;
            }
            last = Some(t);
            n += 1;
            at = t;
            if n >= 1000 {
                // Long ago: begin again an hour before now.
                let near = Timestamp::from_second(now.as_second() - 3600).unwrap_or(t);
                if near <= at {
                    break;
                }
                at = near;
                n = 900;
            }
        }
        (last, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expr: &str, from: &str) -> String {
        let t: Timestamp = from.parse().expect("time");
        let s = Schedule::parse(expr).expect("expression");
        s.next(t, &TimeZone::UTC).map(|t| t.to_string()).unwrap_or_default()
    }

    #[test]
    fn moments() {
        assert_eq!(next("*/5 * * * *", "2026-01-01T00:01:00Z"), "2026-01-01T00:05:00Z");
        assert_eq!(next("0 0 31 * *", "2026-02-01T00:00:00Z"), "2026-03-31T00:00:00Z");
        assert_eq!(next("30 8 * * mon-fri", "2026-01-02T09:00:00Z"), "2026-01-05T08:30:00Z");
        assert_eq!(next("0 0 13 * 5", "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
        assert_eq!(next("@hourly", "2026-01-01T00:30:00Z"), "2026-01-01T01:00:00Z");
        assert_eq!(next("@every 1h30m", "2026-01-01T00:00:00Z"), "2026-01-01T01:30:00Z");
        assert_eq!(next("0 0 * * 7", "2026-01-01T00:00:00Z"), "2026-01-04T00:00:00Z");
    }

    #[test]
    fn malformed_is_refused() {
        for e in ["", "* * * *", "61 * * * *", "*/0 * * * *", "a * * * *", "5-1 * * * *"] {
            assert_eq!(Schedule::parse(e), None, "{e}");
        }
    }
}
