//! Jobs.

use serde_json::{Value, json};

use super::{IMMUTABLE, NEGATIVE, UNMATCHED, matches_labels, not_negative};
use crate::{
    error::{FieldError, FieldErrorKind},
    names,
    object::Object,
    strategy::{
        at::At,
        fields::Check::{Bytes, Selector},
        pod,
    },
};

/// The most completions for which everything is allowed.
const MANY: i64 = 100_000;
/// The most that is allowed at once beyond.
const FEW: i64 = 10_000;
const NAMES: [(&str, &str); 4] = [
    ("controller-uid", "uid"),
    ("job-name", "name"),
    ("batch.kubernetes.io/controller-uid", "uid"),
    ("batch.kubernetes.io/job-name", "name"),
];

/// Makes the selector of a new job, and the labels that it selects.
pub(super) fn select(obj: &mut Value) {
    if obj.at(&["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
        return;
    }
    // Labels that the job has from its template stay those of its template.
    const LABELS: &[&str] = &["metadata", "labels"];
    let shared = obj.at(LABELS).is_some_and(|l| obj.at(&["spec", "template", "metadata", "labels"]) == Some(l));
    for (label, of) in NAMES {
        let value = obj.str_at(&["metadata", of]).to_owned();
        obj.set_at(&["spec", "template", "metadata", "labels", label], json!(value));
        if shared {
            obj.set_at(&["metadata", "labels", label], json!(value));
        }
    }
    let uid = obj.uid().to_owned();
    obj.set_at(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"], json!(uid));
}

/// Everything wrong with a job.
pub(super) fn check(obj: &Value, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let root = At::top(obj, "");
    let at = root.get("spec");
    let selector = at.get("selector");
    let labels = at.get("template.metadata.labels");
    if old.is_none() && !at.get("manualSelector").yes() && selector.there() {
        let place = at.get("template.metadata");
        for (label, of) in NAMES {
            let wanted = obj.str_at(&["metadata", of]);
            let found = labels.value.get(label).and_then(Value::as_str);
            if found != Some(wanted) {
                let all = place.get("labels");
                match found {
                    None => all.key(label).required(format!("must be '{wanted}'"), out),
                    Some(_) => all.key(label).wrong(format!("must be '{wanted}'"), out),
                }
            }
        }
        let expected: serde_json::Map<String, Value> = NAMES.iter().map(|(l, of)| ((*l).to_owned(), json!(obj.str_at(&["metadata", of])))).collect();
        if !matches_labels(selector.value, Some(&Value::Object(expected))) {
            selector.wrong("`selector` not auto-generated", out);
        }
    }
    spec(&at, old.and_then(|o| o.get("spec")), out);
    if selector.there() {
        let before = out.len();
        selector.check(&[Selector], out);
        if out.len() == before && !matches_labels(selector.value, Some(labels.value)) {
            labels.wrong(UNMATCHED, out);
        }
    } else {
        selector.required("", out);
        labels.wrong(UNMATCHED, out);
    }
    let completions = at.get("completions").int().unwrap_or(0);
    if at.get("completionMode").text() == "Indexed" && completions > 0 {
        let last = format!("{}-{}", obj.name(), completions - 1);
        if !names::label(&last).is_empty() {
            out.push(FieldError::invalid("metadata.name", obj.name(), format!("will not able to create pod with invalid DNS label: {last}")));
        }
    }
}

/// The spec of a job, also of one that a cron job makes.
pub(super) fn spec(at: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    not_negative(at, &["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "backoffLimitPerIndex", "maxFailedIndexes"], out);
    let (failed, per_index) = (at.get("maxFailedIndexes"), at.get("backoffLimitPerIndex"));
    if failed.there() && !per_index.there() {
        per_index.required("when maxFailedIndexes is specified", out);
    }
    let manager = at.get("managedBy");
    if manager.there() {
        crate::strategy::fields::domain_prefixed(manager.value, &manager.to_string(), out);
        manager.check(&[Bytes(63)], out);
    }
    mode(at, out);
    let failure = at.get("podFailurePolicy");
    if failure.there() {
        failure_policy(at, out);
    }
    let success = at.get("successPolicy");
    if success.there() {
        if at.get("completionMode").text() == "Indexed" {
            success_policy(at, out);
        } else {
            success.wrong("requires indexed completion mode", out);
        }
    }
    let replacement = at.get("podReplacementPolicy");
    if replacement.there() {
        replacement.one_of(if failure.there() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] }, out);
    }
    pod::template(&at.get("template"), old.and_then(|o| o.get("template")), out);
    let policy = at.get("template.spec.restartPolicy");
    match policy.text() {
        "Always" | "" => policy.required("valid values: \"OnFailure\", \"Never\"", out),
        "OnFailure" if failure.there() => policy.wrong("only \"Never\" is supported when podFailurePolicy is specified", out),
        "OnFailure" | "Never" => {}
        _ => policy.unsupported_as_is(&["OnFailure", "Never"], out),
    }
}

fn mode(at: &At, out: &mut Vec<FieldError>) {
    let mode = at.get("completionMode");
    let number = |f: &str| at.get(f).int();
    let at_most = |f: &str, most: i64, why: String, out: &mut Vec<FieldError>| {
        if number(f).is_some_and(|n| n > most) {
            at.get(f).wrong(why, out);
        }
    };
    match mode.text() {
        "Indexed" => {
            if !at.get("completions").there() {
                at.get("completions").required("when completion mode is Indexed", out);
            }
            at_most("parallelism", MANY, format!("must be less than or equal to {MANY} when completion mode is Indexed"), out);
            if let Some(all) = number("completions") {
                at_most("maxFailedIndexes", all, "must be less than or equal to completions".into(), out);
            }
            at_most("maxFailedIndexes", MANY, format!("must be less than or equal to {MANY}"), out);
            if number("completions").is_some_and(|n| n > MANY) && at.get("backoffLimitPerIndex").there() {
                if !at.get("maxFailedIndexes").there() {
                    at.get("maxFailedIndexes").required(format!("must be specified when completions is above {MANY}"), out);
                }
                let why = || format!("must be less than or equal to {FEW} when completions are above {MANY} and used with backoff limit per index");
                at_most("parallelism", FEW, why(), out);
                at_most("maxFailedIndexes", FEW, why(), out);
            }
        }
        "NonIndexed" | "" if mode.text() == "NonIndexed" || !mode.there() => {
            for f in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if at.get(f).there() {
                    at.get(f).wrong("requires indexed completion mode", out);
                }
            }
        }
        _ => mode.unsupported_as_is(&["NonIndexed", "Indexed"], out),
    }
}

/// An error about a value that is too large to be shown.
fn unshown(at: &At, why: &str, out: &mut Vec<FieldError>) {
    out.push(FieldError { kind: FieldErrorKind::Invalid, field: at.to_string(), value: None, detail: why.to_owned() });
}

/// One of these, and not nothing; what is said then names them.
fn choice(at: &At, all: &[&str], out: &mut Vec<FieldError>) {
    match at.text() {
        "" => at.required(format!("valid values: [{}]", all.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(" ")), out),
        _ => at.one_of(all, out),
    }
}

fn failure_policy(spec: &At, out: &mut Vec<FieldError>) {
    let rules = spec.get("podFailurePolicy.rules");
    rules.too_many(20, out);
    let containers: Vec<&str> =
        ["containers", "initContainers"].iter().flat_map(|l| spec.value.list_at(&["template", "spec", l])).map(|c| c.str_at(&["name"])).collect();
    for rule in rules.items() {
        let action = rule.get("action");
        match action.text() {
            "FailIndex" => {
                if !spec.get("backoffLimitPerIndex").there() {
                    action.wrong("requires the backoffLimitPerIndex to be set", out);
                }
            }
            _ => choice(&action, &["Count", "FailIndex", "FailJob", "Ignore"], out),
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.there() {
            exit_codes(&codes, &containers, out);
        }
        conditions.too_many(20, out);
        for c in conditions.items() {
            c.get("type").wrongs(names::qualified(c.get("type").text()), out);
            choice(&c.get("status"), &["False", "True", "Unknown"], out);
        }
        match (codes.there(), !conditions.list().is_empty()) {
            (true, true) => unshown(&rule, "specifying both OnExitCodes and OnPodConditions is not supported", out),
            (false, false) => unshown(&rule, "specifying one of OnExitCodes and OnPodConditions is required", out),
            _ => {}
        }
    }
}

fn exit_codes(at: &At, containers: &[&str], out: &mut Vec<FieldError>) {
    let (operator, name, values) = (at.get("operator"), at.get("containerName"), at.get("values"));
    choice(&operator, &["In", "NotIn"], out);
    if name.there() && !containers.contains(&name.text()) {
        name.wrong("must be one of the container or initContainer names in the pod template", out);
    }
    if values.list().is_empty() {
        values.wrong("at least one value is required", out);
    }
    values.too_many(255, out);
    let numbers: Vec<i64> = values.list().iter().filter_map(Value::as_i64).collect();
    for (i, (v, n)) in values.items().zip(&numbers).enumerate() {
        if operator.text() == "In" && *n == 0 {
            v.wrong("must not be 0 for the In operator", out);
        }
        if numbers.iter().take(i).any(|before| before == n) {
            v.duplicate(*n, out);
        }
    }
    if !numbers.is_sorted() {
        values.wrong("must be ordered", out);
    }
}

fn success_policy(spec: &At, out: &mut Vec<FieldError>) {
    let rules = spec.get("successPolicy.rules");
    if rules.list().is_empty() {
        rules.required("at least one rules must be specified when the successPolicy is specified", out);
    }
    rules.too_many(20, out);
    // Without completions the mode is wrong already.
    let all = spec.get("completions").int().unwrap_or(i64::MAX);
    for rule in rules.items() {
        let (count, list) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.there() && !list.there() {
            rule.required("at least one of succeededCount or succeededIndexes must be specified", out);
        }
        let mut total = 0;
        if list.there() {
            list.check(&[Bytes(64 * 1024)], out);
            match indexes(list.text(), all) {
                Ok(n) => total = n,
                Err(why) => list.wrong(format!("error parsing succeededIndexes: {why}"), out),
            }
        }
        let Some(n) = count.int() else { continue };
        if n < 0 {
            count.wrong(NEGATIVE, out);
        }
        if n > all {
            count.wrong(format!("must be less than or equal to {all} (the number of specified completions)"), out);
        }
        if list.there() && n > total {
            count.wrong(format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"), out);
        }
    }
}

/// How many indexes `1,3-5` names; they rise and stay below `all`.
fn indexes(text: &str, all: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None::<i64>, 0);
    if text.is_empty() {
        return Ok(0);
    }
    let number = |t: &str| -> Result<i64, String> {
        let n: i64 = t.parse().map_err(|_| format!("cannot convert string to integer for index: {t:?}"))?;
        if n >= all { Err(format!("too large index: {t:?}")) } else { Ok(n) }
    };
    for part in text.split(',') {
        let (x, y) = match part.split('-').collect::<Vec<_>>()[..] {
            [x] => (number(x)?, None),
            [x, y] => (number(x)?, Some(number(y)?)),
            _ => return Err(format!("the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'")),
        };
        if let Some(y) = y.filter(|y| x >= *y) {
            return Err(format!("non-increasing order, previous: {x}, current: {y}"));
        }
        if let Some(last) = last.filter(|l| *l >= x) {
            return Err(format!("non-increasing order, previous: {last}, current: {x}"));
        }
        let y = y.unwrap_or(x);
        total += y - x + 1;
        last = Some(y);
    }
    Ok(total)
}

/// What of a job may not change.
pub(super) fn update(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let (new, before) = (&obj["spec"], &old["spec"]);
    let mut fix = |path: &str, now: Option<&Value>, was: Option<&Value>| {
        if now != was {
            out.push(FieldError::invalid(path, now.cloned().unwrap_or_default(), IMMUTABLE));
        }
    };
    let completions = (new.at(&["completions"]), before.at(&["completions"]));
    let elastic = new.str_at(&["completionMode"]) == "Indexed" && completions.0.is_some() && completions.1.is_some();
    if !elastic {
        fix("spec.completions", completions.0, completions.1);
    }
    fix("spec.selector", new.at(&["selector"]), before.at(&["selector"]));
    let suspended = before.at(&["suspend"]) == Some(&Value::Bool(true));
    let condition = old.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == "Suspended" && c.str_at(&["status"]) == "True");
    let open = suspended && (old.at(&["status", "startTime"]).is_none() || condition) && old.at(&["status", "active"]).and_then(Value::as_i64).unwrap_or(0) == 0;
    let (now, mut was) = (new.get("template").cloned().unwrap_or_default(), before.get("template").cloned().unwrap_or_default());
    if open {
        for path in [&["spec", "nodeSelector"][..], &["spec", "tolerations"], &["metadata", "annotations"], &["metadata", "labels"], &["spec", "schedulingGates"], &["spec", "affinity", "nodeAffinity"]] {
            match now.at(path) {
                Some(v) => was.set_at(path, v.clone()),
                None => {
                    was.take_at(path);
                }
            }
        }
        if now.at(&["spec", "affinity"]).is_none() && was.at(&["spec", "affinity"]).is_some_and(|a| a == &json!({})) {
            was.take_at(&["spec", "affinity"]);
        }
        for list in ["containers", "initContainers"] {
            let wanted = now.list_at(&["spec", list]).to_vec();
            for (c, n) in was.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut).into_iter().flatten().zip(wanted) {
                if c.get("name") == n.get("name") {
                    crate::strategy::generic::keep(c, &n, "resources");
                }
            }
        }
        fix("spec.template.spec", now.get("spec"), was.get("spec"));
    } else {
        fix("spec.template", Some(&now), Some(&was));
    }
    for f in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        fix(&format!("spec.{f}"), new.at(&[f]), before.at(&[f]));
    }
    if elastic && completions.0 != completions.1 {
        let parallel = new.at(&["parallelism"]);
        if parallel != completions.0 {
            out.push(FieldError::invalid("spec.completions", completions.0.cloned().unwrap_or_default(), "can only be modified in tandem with spec.parallelism"));
        }
    }
}

/// What is odd about a job.
pub(super) fn warnings(root: &At, new: bool, out: &mut Vec<String>) {
    let wrong = names::label(root.value.name());
    if new && !wrong.is_empty() {
        out.push(format!("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" ")));
    }
    of_spec(&root.get("spec"), out);
}

/// What is odd about the spec of a job.
pub(super) fn of_spec(spec: &At, out: &mut Vec<String>) {
    let number = |f: &str| spec.get(f).int().unwrap_or(0);
    if spec.get("completionMode").text() == "Indexed" && number("completions") > MANY && number("parallelism") > FEW {
        out.push(format!("{spec}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    pod::template_warnings(&spec.get("template"), out);
}

#[cfg(test)]
mod tests {
    use super::indexes;

    #[test]
    fn indexes_rise() {
        assert_eq!(indexes("1,3-5", 10), Ok(4));
        assert_eq!(indexes("3,2", 10), Err("non-increasing order, previous: 3, current: 2".into()));
        assert_eq!(indexes("10", 10), Err("too large index: \"10\"".into()));
        assert_eq!(indexes("x", 10), Err("cannot convert string to integer for index: \"x\"".into()));
    }
}
