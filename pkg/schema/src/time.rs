//! Times and durations in their canonical text.

use std::fmt::Write;

/// An instant: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Now, from the system's clock.
pub fn now() -> Instant {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Instant { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn digits(text: &[u8]) -> Option<i64> {
    (!text.is_empty() && text.iter().all(u8::is_ascii_digit)).then(|| text.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
}

/// Reads RFC 3339.
pub fn parse(text: &str) -> Option<Instant> {
    let b = text.as_bytes();
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || b[10] != b'T' || b[13] != b':' || b[16] != b':' {
        return None;
    }
    let (year, month, day) = (digits(&b[..4])?, digits(&b[5..7])?, digits(&b[8..10])?);
    let (hour, minute, second) = (digits(&b[11..13])?, digits(&b[14..16])?, digits(&b[17..19])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > last || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0u32;
    if b[at] == b'.' || b[at] == b',' {
        let start = at + 1;
        at = start;
        while at < b.len() && b[at].is_ascii_digit() {
            if at - start < 9 {
                nanos = nanos * 10 + u32::from(b[at] - b'0');
            }
            at += 1;
        }
        if at == start {
            return None;
        }
        for _ in (at - start)..9 {
            nanos *= 10;
        }
    }
    let offset = match b.get(at..)? {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 24 || minutes > 60 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    Some(Instant { seconds: days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos })
}

/// `2006-01-02T15:04:05Z`.
pub fn format(at: Instant) -> String {
    let (year, month, day) = civil_from_days(at.seconds.div_euclid(86_400));
    let s = at.seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// `2006-01-02T15:04:05.000000Z`.
pub fn format_micro(at: Instant) -> String {
    let mut text = format(at);
    text.pop();
    let _ = write!(text, ".{:06}Z", at.nanos / 1000);
    text
}

fn bad(text: &str, layout: &str) -> String {
    let text = crate::json::quote(text);
    let layout_quoted = crate::json::quote(layout);
    format!("parsing time {text} as {layout_quoted}: cannot parse {text} as \"2006\"")
}

/// The text in the form of `metav1.Time`.
///
/// # Errors
/// The message for a text that is no time.
pub fn canonical(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    parse(text).map(format).ok_or_else(|| bad(text, "2006-01-02T15:04:05Z07:00"))
}

/// The text in the form of `metav1.MicroTime`.
///
/// # Errors
/// The message for a text that is no time.
pub fn canonical_micro(text: &str) -> Result<String, String> {
    const LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
    let found = parse(text).ok_or_else(|| bad(text, LAYOUT))?;
    // Six digits, no more and no fewer.
    let rest = text.get(19..).unwrap_or_default();
    let micros = rest.strip_prefix(['.', ',']).and_then(|r| r.get(..6)).is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let after = rest.get(7..).unwrap_or_default();
    let (rest, part) = match micros {
        false => (rest, ".000000"),
        true if after.starts_with(|c: char| c.is_ascii_digit()) => (after, "Z07:00"),
        true => return Ok(format_micro(found)),
    };
    let quote = crate::json::quote;
    Err(format!("parsing time {} as {}: cannot parse {} as {}", quote(text), quote(LAYOUT), quote(rest), quote(part)))
}

/// Reads a Go duration such as `1h2m3.5s`; nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: f64 = 0.0;
    let mut exact: i128 = 0;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(split);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if !whole.is_empty() {
            exact = exact.checked_add(whole.parse::<i128>().ok()?.checked_mul(scale)?)?;
        }
        if !fraction.is_empty() {
            total += format!("0.{fraction}").parse::<f64>().ok()? * scale as f64;
        }
        rest = tail;
    }
    let nanos = i64::try_from(exact + total as i128).ok()?;
    Some(if negative { -nanos } else { nanos })
}

/// Writes a duration as Go does, e.g. `1h0m0s`, `1.5s`, `300ms`.
pub fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let (whole, fraction) = (value / unit, value % unit);
        if fraction == 0 {
            return whole.to_string();
        }
        let width = unit.to_string().len() - 1;
        format!("{whole}.{fraction:0width$}").trim_end_matches('0').to_owned()
    };
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", decimal(n, 1_000));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", decimal(n, 1_000_000));
    }
    let minutes = n / 60_000_000_000;
    let seconds = decimal(n % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// The duration in Go's form.
///
/// # Errors
/// The message for a text that is no duration.
pub fn canonical_duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(format_duration).ok_or_else(|| format!("time: invalid duration {}", crate::json::quote(text)))
}

/// An age as tables show it, e.g. `45s`, `3m20s`, `5h`, `12d`, `2y30d`; seconds.
pub fn human(seconds: i64) -> String {
    let s = seconds;
    if s < -1 {
        return "<invalid>".into();
    }
    if s < 0 {
        return "0s".into();
    }
    let two = |a: i64, au: &str, b: i64, bu: &str| if b == 0 { format!("{a}{au}") } else { format!("{a}{au}{b}{bu}") };
    let (minutes, hours) = (s / 60, s / 3600);
    match () {
        () if s < 120 => format!("{s}s"),
        () if minutes < 10 => two(minutes, "m", s % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(canonical("2026-02-28T23:59:59.9+01:00").unwrap(), "2026-02-28T22:59:59Z");
        assert_eq!(canonical_micro("2026-01-02T03:04:05.123456Z").unwrap(), "2026-01-02T03:04:05.123456Z");
        let odd = |text: &str| canonical_micro(text).unwrap_err();
        assert!(odd("2026-01-02T03:04:05Z").ends_with(r#"cannot parse "Z" as ".000000""#));
        assert!(odd("2026-01-02T03:04:05.1234567Z").ends_with(r#"cannot parse "7Z" as "Z07:00""#));
        assert!(canonical("2026-02-30T00:00:00Z").is_err());
        assert!(canonical("yesterday").is_err());
    }

    #[test]
    fn durations() {
        for (text, want) in [("90s", "1m30s"), ("1.5h", "1h30m0s"), ("300ms", "300ms"), ("1.5s", "1.5s"), ("0", "0s"), ("-2m", "-2m0s")] {
            assert_eq!(canonical_duration(text).unwrap(), want);
        }
        assert!(canonical_duration("5").is_err());
    }

    #[test]
    fn ages() {
        for (seconds, want) in [(0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (3600, "60m"), (10_800, "3h"), (90_000, "25h"), (200_000, "2d7h")] {
            assert_eq!(human(seconds), want);
        }
    }
}
