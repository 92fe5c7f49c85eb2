//! PodSecurity: namespaces say by labels which of the Pod Security Standards their pods keep.

mod checks;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use knarr_registry::{ApiError, FieldError, Object};
use serde_json::Value;

use super::{Attrs, Operation};

/// The levels, the laxest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level by the rules of a version, the newest if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    minor: Option<u32>,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(m) => write!(f, "{level}:v1.{m}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What a namespace wants done with pods that break a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policies {
    enforce: Policy,
    audit: Policy,
    warn: Policy,
}

fn level(text: &str) -> Option<Level> {
    Some(match text {
        "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        "restricted" => Level::Restricted,
        _ => return None,
    })
}

/// `Some(None)` is the newest.
fn version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok().map(Some) } else { None }
}

/// Reads a namespace's labels. Ones that make no sense count as the strictest for enforcing and
/// as nothing for the rest.
fn policies<'l>(of: impl Fn(&str) -> Option<&'l str>) -> (Policies, Vec<FieldError>) {
    let mut errors = Vec::new();
    let label = |name: &str| {
        let key = format!("pod-security.kubernetes.io/{name}");
        let value = of(&key).map(str::to_owned);
        (format!("metadata.labels[{key}]"), value)
    };
    let mut read = |mode: &str, fallback: Level| {
        let mut p = Policy { level: Level::Privileged, minor: None };
        let (field, value) = label(mode);
        let mut good = false;
        if let Some(v) = &value {
            good = level(v).is_some();
            p.level = level(v).unwrap_or(fallback);
            if !good {
                errors.push(FieldError::invalid(field, v.as_str(), "must be one of privileged, baseline, restricted"));
            }
        }
        let (field, text) = label(&format!("{mode}-version"));
        if let Some(v) = &text {
            p.minor = version(v).flatten();
            if version(v).is_none() {
                errors.push(FieldError::invalid(field, v.as_str(), "must be \"latest\" or \"v1.x\""));
            }
        }
        (p, value.is_some(), good, text.is_some())
    };
    let (enforce, _, enforces, _) = read("enforce", Level::Restricted);
    let (audit, ..) = read("audit", Level::Privileged);
    let (mut warn, warns, _, versioned) = read("warn", Level::Privileged);
    // What is refused in the end is warned about where it begins.
    if !warns && enforces && enforce.level > warn.level {
        warn.level = enforce.level;
        if !versioned {
            warn.minor = enforce.minor;
        }
    }
    (Policies { enforce, audit, warn }, errors)
}

/// The metadata and spec of the pods that an object makes; `None` if it makes none.
fn template<'o>(a: &Attrs<'_>, obj: &'o Value) -> Option<(&'o Value, &'o Value)> {
    let at = match (a.resource.group.as_ref(), a.resource.plural.as_ref()) {
        ("", "pods") => obj,
        ("", "podtemplates") => obj.at(&["template"])?,
        ("", "replicationcontrollers") | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") | ("batch", "jobs") => obj.at(&["spec", "template"])?,
        ("batch", "cronjobs") => obj.at(&["spec", "jobTemplate", "spec", "template"])?,
        _ => return None,
    };
    Some((at.at(&["metadata"]).unwrap_or(&Value::Null), at.at(&["spec"]).unwrap_or(&Value::Null)))
}

/// Which checks fail, with details: `hostPort (container "a" uses hostPort 80), …`.
fn details(p: Policy, meta: &Value, spec: &Value) -> Option<String> {
    let all: Vec<String> = checks::evaluate(p.level, p.minor, meta, spec)
        .into_iter()
        .map(|f| if f.detail.is_empty() { f.reason } else { format!("{} ({})", f.reason, f.detail) })
        .collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Whether an update of a pod changes what is checked: images, and containers added.
fn significant(new: &Value, old: &Value) -> bool {
    let images = |v: &Value, l: &str| -> Vec<String> { v.list_at(&["spec", l]).iter().map(|c| c.str_at(&["image"]).to_owned()).collect() };
    let late = |v: &Value| -> BTreeMap<String, String> {
        v.list_at(&["spec", "ephemeralContainers"]).iter().map(|c| (c.str_at(&["name"]).to_owned(), c.str_at(&["image"]).to_owned())).collect()
    };
    let before = late(old);
    ["containers", "initContainers"].iter().any(|l| images(new, l) != images(old, l)) || late(new).iter().any(|(n, i)| before.get(n) != Some(i))
}

/// The plugin.
///
/// # Errors
/// 403 for a pod that breaks the enforced policy, 422 for a namespace whose labels make no sense.
pub(super) fn validate(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if obj.is_null() || !matches!(a.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if a.is("", "namespaces") {
        return if a.subresource.is_empty() { namespace(a, obj, old) } else { Ok(()) };
    }
    let pod = a.is("", "pods");
    let aside = if pod { matches!(a.subresource, "exec" | "attach" | "binding" | "eviction" | "log" | "portforward" | "proxy" | "status") } else { !a.subresource.is_empty() };
    if aside {
        return Ok(());
    }
    let Some((meta, spec)) = template(a, obj) else { return Ok(()) };
    let ns = a.core.entry("namespaces", "", &a.namespace).ok_or_else(|| ApiError::internal(format!("failed to lookup namespace {:?}", a.namespace)))?;
    let (policies, errors) = policies(|key| ns.label(key));
    if !errors.is_empty() {
        let texts: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.body())).collect();
        a.ctx.annotate("pod-security.kubernetes.io/error", &format!("Failed to parse policy: {}", texts.join(", ")));
    }
    if pod {
        if a.operation == Operation::Update && old.is_some_and(|o| !significant(obj, o)) {
            return Ok(());
        }
        a.ctx.annotate("pod-security.kubernetes.io/enforce-policy", &policies.enforce.to_string());
        if let Some(found) = details(policies.audit, meta, spec) {
            a.ctx.annotate("pod-security.kubernetes.io/audit-violations", &format!("would violate PodSecurity \"{}\": {found}", policies.audit));
        }
        if let Some(found) = details(policies.enforce, meta, spec) {
            let name = if a.name.is_empty() { obj.name() } else { &a.name };
            return Err(ApiError::forbidden("", "pods", name, &format!("violates PodSecurity \"{}\": {found}", policies.enforce)));
        }
    }
    if !pod
        && let Some(found) = details(policies.audit, meta, spec)
    {
        a.ctx.annotate("pod-security.kubernetes.io/audit-violations", &format!("would violate PodSecurity \"{}\": {found}", policies.audit));
    }
    if let Some(found) = details(policies.warn, meta, spec) {
        a.ctx.warn(format!("would violate PodSecurity \"{}\": {found}", policies.warn));
    }
    Ok(())
}

fn namespace(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    fn labels<'v>(v: &'v Value) -> impl Fn(&str) -> Option<&'v str> {
        move |key| v.at(&["metadata", "labels", key]).and_then(Value::as_str)
    }
    let (new, errors) = policies(labels(obj));
    let before = old.filter(|_| a.operation == Operation::Update).map(|o| policies(labels(o)));
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, b)| *b != errors) {
        return Err(ApiError::invalid("", "Namespace", obj.name(), &errors));
    }
    let Some((before, _)) = before else { return Ok(()) };
    let (new, before) = (new.enforce, before.enforce);
    let looser = new.minor == before.minor && new.level <= before.level;
    if new == before || new.level == Level::Privileged || looser {
        return Ok(());
    }
    for w in existing(a, obj.name(), new)? {
        a.ctx.warn(w);
    }
    Ok(())
}

/// At most so many pods of a namespace are looked at, for at most so long.
const MOST_PODS: usize = 3000;
const LONGEST: Duration = Duration::from_secs(1);

/// Warnings about the pods that a namespace has and would no longer take.
fn existing(a: &Attrs<'_>, namespace: &str, policy: Policy) -> Result<Vec<String>, ApiError> {
    let begin = Instant::now();
    let kind = a.core.kind("pods")?;
    let snapshot = kind.cache.snapshot();
    let scope = kind.scope(namespace);
    // One pod of each owner first: the others are most likely alike.
    let (mut pods, mut alike, mut owners) = (Vec::new(), Vec::new(), HashSet::new());
    for e in snapshot.prefixed(&scope) {
        let v = e.value();
        let owner = v.list_at(&["metadata", "ownerReferences"]).iter().find(|r| r["controller"] == true).map(|r| r.str_at(&["uid"]).to_owned());
        let known = owner.is_some_and(|o| !owners.insert(o));
        if known { alike.push(v) } else { pods.push(v) }
    }
    pods.append(&mut alike);
    let total = pods.len();
    let mut checked = 0;
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods.iter().take(MOST_PODS) {
        let reasons: Vec<String> = checks::evaluate(policy.level, policy.minor, &pod["metadata"], &pod["spec"]).into_iter().map(|f| f.reason).collect();
        checked += 1;
        if !reasons.is_empty() {
            let (first, count) = found.entry(reasons.join(", ")).or_insert_with(|| (pod.name().to_owned(), 0));
            *count += 1;
            if pod.name() < first.as_str() {
                pod.name().clone_into(first);
            }
        }
        if begin.elapsed() > LONGEST {
            break;
        }
    }
    let mut out = Vec::new();
    if checked < total {
        out.push(format!("new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"));
    }
    if !found.is_empty() {
        out.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            n => format!("{first} (and {} other pods): {reasons}", n - 1),
        })
        .collect();
    lines.sort();
    out.extend(lines);
    Ok(out)
}
