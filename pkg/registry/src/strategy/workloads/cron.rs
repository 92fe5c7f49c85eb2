//! Cron jobs.

use serde_json::Value;

use super::{job, not_negative};
use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{at::At, pod},
};

/// Everything wrong with a cron job.
pub(super) fn check(root: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let spec = root.get("spec");
    let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if schedule.text().is_empty() {
        schedule.required("", out);
    } else {
        if let Err(why) = parse(schedule.text()) {
            schedule.wrong(why, out);
        }
        let before = old.is_some_and(|o| o.str_at(&["spec", "schedule"]).contains("TZ"));
        match (schedule.text().contains("TZ"), before) {
            (true, true) if zone.there() => schedule.wrong("cannot use both timeZone field and TZ or CRON_TZ in schedule", out),
            (true, false) => schedule.wrong("cannot use TZ or CRON_TZ in schedule, use timeZone field instead", out),
            _ => {}
        }
    }
    not_negative(&spec, &["startingDeadlineSeconds"], out);
    if zone.there() && old.is_none_or(|o| o.at(&["spec", "timeZone"]) != Some(zone.value)) {
        time_zone(&zone, out);
    }
    pod::policy(&spec.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], out);
    let template = spec.get("jobTemplate.spec");
    job::spec(&template, old.and_then(|o| o.at(&["spec", "jobTemplate", "spec"])), out);
    if template.get("selector").there() {
        template.get("selector").wrong("`selector` will be auto-generated", out);
    }
    if template.get("manualSelector").yes() {
        template.get("manualSelector").unsupported(&["nil", "false"], out);
    }
    not_negative(&spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], out);
    let name = root.value.name();
    if old.is_none() && name.len() > 52 {
        out.push(FieldError::invalid("metadata.name", name, "must be no more than 52 characters"));
    }
}

fn time_zone(at: &At, out: &mut Vec<FieldError>) {
    let text = at.text();
    if text.is_empty() {
        return at.wrong("timeZone must be nil or non-empty string", out);
    }
    let unknown = format!("unknown time zone {text}");
    let good = |p: &str| !matches!(p, "." | "..") && !p.starts_with('-') && (1..=14).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b));
    if !text.split('/').all(good) {
        return at.wrong(unknown, out);
    }
    if text.eq_ignore_ascii_case("local") {
        at.wrong("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones", out);
    }
    // Names are told apart by case, though the data base would not.
    let known = matches!(text, "UTC" | "Local") || jiff::tz::db().get(text).is_ok_and(|z| z.iana_name() == Some(text));
    if !known {
        at.wrong(unknown, out);
    }
}

struct Field {
    least: u64,
    most: u64,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { least: 0, most: 59, names: &[] },
    Field { least: 0, most: 23, names: &[] },
    Field { least: 1, most: 31, names: &[] },
    Field { least: 1, most: 12, names: MONTHS },
    Field { least: 0, most: 6, names: DAYS },
];

/// Why a text is no schedule.
fn parse(text: &str) -> Result<(), String> {
    let mut text = text;
    if let Some(rest) = text.strip_prefix("CRON_TZ=").or(text.strip_prefix("TZ=")) {
        let Some((zone, schedule)) = rest.split_once(' ') else {
            return Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".into());
        };
        if jiff::tz::db().get(zone).is_err() {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        text = schedule.trim();
    }
    if let Some(every) = text.strip_prefix("@every ") {
        return match knarr_schema::time::parse_duration(every) {
            Some(_) => Ok(()),
            None => Err(format!("failed to parse duration {text}: time: invalid duration {every:?}")),
        };
    }
    if text.starts_with('@') {
        return match text {
            "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => Ok(()),
            other => Err(format!("unrecognized descriptor: {other}")),
        };
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        for range in part.split(',').filter(|r| !r.is_empty()) {
            field.range(range)?;
        }
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(n.unsigned_abs()),
        Err(e) => {
            let why = if matches!(e.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow) { "value out of range" } else { "invalid syntax" };
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"))
        }
    }
}

impl Field {
    fn value(&self, text: &str) -> Result<u64, String> {
        match self.names.iter().position(|n| n.eq_ignore_ascii_case(text)) {
            // The months begin with one, the days with zero.
            Some(i) => Ok(i as u64 + self.least),
            None => number(text),
        }
    }

    fn range(&self, text: &str) -> Result<(), String> {
        let parts: Vec<&str> = text.split('/').collect();
        let ends: Vec<&str> = parts[0].split('-').collect();
        let (start, mut end) = match ends.as_slice() {
            ["*" | "?", ..] => (self.least, self.most),
            [one] => (self.value(one)?, self.value(one)?),
            [first, last] => (self.value(first)?, self.value(last)?),
            [first, ..] => {
                self.value(first)?;
                return Err(format!("too many hyphens: {text}"));
            }
            [] => (self.least, self.most),
        };
        let step = match parts.as_slice() {
            [_] => 1,
            [_, step] => {
                if ends.len() == 1 {
                    end = self.most;
                }
                number(step)?
            }
            _ => return Err(format!("too many slashes: {text}")),
        };
        if start < self.least {
            return Err(format!("beginning of range ({start}) below minimum ({}): {text}", self.least));
        }
        if end > self.most {
            return Err(format!("end of range ({end}) above maximum ({}): {text}", self.most));
        }
        if start > end {
            return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        Ok(())
    }
}

/// What is odd about a cron job.
pub(super) fn warnings(root: &At, new: bool, out: &mut Vec<String>) {
    let wrong = names::label(root.value.name());
    if new && !wrong.is_empty() {
        out.push(format!("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" ")));
    }
    let spec = root.get("spec");
    let template = spec.get("jobTemplate");
    job::of_spec(&template.get("spec"), out);
    if !new && spec.get("schedule").text().contains("TZ") {
        out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for good in ["*/5 * * * *", "0 0 1 jan sun", "@daily", "@every 1h", "1-5,7 2/3 ? * MON-FRI"] {
            assert_eq!(parse(good), Ok(()), "{good}");
        }
        let said = |t: &str| parse(t).unwrap_err();
        assert_eq!(said("x"), "expected exactly 5 fields, found 1: [x]");
        assert_eq!(said("60 * * * *"), "end of range (60) above maximum (59): 60");
        assert_eq!(said("a * * * *"), "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax");
        assert_eq!(said("*/0 * * * *"), "step of range should be a positive number: */0");
        assert_eq!(said("@often"), "unrecognized descriptor: @often");
    }
}
