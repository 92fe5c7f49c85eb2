//! Timestamps and durations.

use chrono::{DateTime, Datelike, FixedOffset, SecondsFormat, TimeDelta, Timelike, Utc};

use super::no_overload;
use crate::{error::EvalError, eval::Outcome, value::Value};

/// RFC 3339, or a date alone.
pub(crate) fn parse_timestamp(s: &str) -> Option<DateTime<Utc>> {
    if s.len() == 10 {
        return DateTime::parse_from_rfc3339(&format!("{s}T00:00:00Z")).ok().map(|t| t.to_utc());
    }
    DateTime::parse_from_rfc3339(s).ok().map(|t| t.to_utc())
}

/// Go's durations.
pub(crate) fn parse_duration(s: &str) -> Option<TimeDelta> {
    knarr_schema::time::parse_duration(s).map(TimeDelta::nanoseconds)
}

/// A timestamp as text.
pub(crate) fn rfc3339(t: &DateTime<Utc>) -> String {
    let nanos = t.timestamp_subsec_nanos();
    let mut s = t.to_rfc3339_opts(if nanos == 0 { SecondsFormat::Secs } else { SecondsFormat::Nanos }, true);
    if nanos != 0
        && let Some(head) = s.strip_suffix('Z')
    {
        s = format!("{}Z", head.trim_end_matches('0'));
    }
    s
}

/// A duration as text: seconds.
pub(crate) fn seconds(d: &TimeDelta) -> String {
    let (s, n) = (d.num_seconds(), d.subsec_nanos());
    if n == 0 {
        return format!("{s}s");
    }
    let sign = if s < 0 || n < 0 { "-" } else { "" };
    format!("{sign}{}.{}s", s.abs(), format!("{:09}", n.abs()).trim_end_matches('0'))
}

/// The offset of a zone: `+02:00` or a name of the time zone database.
fn zone(name: &str, at: &DateTime<Utc>) -> Result<FixedOffset, EvalError> {
    let bad = || EvalError::new(format!("unknown time zone {name}"));
    if let Some((hours, minutes)) = name.split_once(':') {
        let negative = hours.starts_with('-');
        let h: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| bad())?;
        let m: i32 = minutes.parse().map_err(|_| bad())?;
        let s = h * 3600 + m * 60;
        return FixedOffset::east_opt(if negative { -s } else { s }).ok_or_else(bad);
    }
    if name.is_empty() || name == "UTC" {
        return FixedOffset::east_opt(0).ok_or_else(bad);
    }
    let tz = jiff::tz::TimeZone::get(name).map_err(|_| bad())?;
    let t = jiff::Timestamp::from_second(at.timestamp()).map_err(|_| bad())?;
    FixedOffset::east_opt(tz.to_offset(t).seconds()).ok_or_else(bad)
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    if let [Value::Duration(d)] = args {
        return Ok(Value::Int(match name {
            "getHours" => d.num_hours(),
            "getMinutes" => d.num_minutes(),
            "getSeconds" => d.num_seconds(),
            "getMilliseconds" => d.num_milliseconds(),
            _ => return no_overload(),
        }));
    }
    let (t, tz) = match args {
        [Value::Timestamp(t)] => (t, "UTC"),
        [Value::Timestamp(t), Value::String(z)] => (t, z.as_str()),
        _ => return no_overload(),
    };
    let at = t.with_timezone(&zone(tz, t)?);
    Ok(Value::Int(match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month0()),
        "getDayOfYear" => i64::from(at.ordinal0()),
        "getDayOfMonth" => i64::from(at.day0()),
        "getDate" => i64::from(at.day()),
        "getDayOfWeek" => i64::from(at.weekday().num_days_from_sunday()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        _ => i64::from(at.timestamp_subsec_millis()),
    }))
}
