//! A deployment's status: counts, conditions, progress.

use super::{View, available, spec_replicas};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use knarr_runner::meta;
use std::time::Duration;

pub(crate) fn condition<'a>(s: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    s.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(kind))
}

/// Sets a condition; the transition time moves with the status, the update time with any change.
pub(crate) fn set_condition(
    s: &mut DeploymentStatus,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conds = s.conditions.get_or_insert_default();
    let old = conds.iter().position(|c| c.type_.as_deref() == Some(kind)).map(|i| conds.remove(i));
    let at = conds.len();
    if let Some(o) = &old {
        if o.status.as_deref() == Some(status) && o.reason.as_deref() == Some(reason) {
            conds.push(o.clone());
            conds.sort_by(|a, b| a.type_.cmp(&b.type_));
            return;
        }
    }
    let t = Some(meta::time(now));
    let kept = old.filter(|o| o.status.as_deref() == Some(status)).and_then(|o| o.last_transition_time);
    conds.insert(
        at,
        DeploymentCondition {
            type_: Some(kind.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: t.clone(),
            last_transition_time: kept.or(t),
        },
    );
    conds.sort_by(|a, b| a.type_.cmp(&b.type_));
}

fn counts(v: &View) -> DeploymentStatus {
    let old = v.d.status.clone().unwrap_or_default();
    let sum = |f: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        v.all().filter_map(|s| s.status.as_ref()).map(f).sum()
    };
    let total: i32 = v.all().map(|s| spec_replicas(s)).sum();
    let avail = sum(&|s| s.available_replicas.unwrap_or(0));
    let updated =
        v.new.as_ref().and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas);
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    DeploymentStatus {
        observed_generation: v.d.metadata.generation,
        replicas: some(sum(&|s| s.replicas)),
        updated_replicas: some(updated),
        ready_replicas: some(sum(&|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: some(avail),
        unavailable_replicas: some((total - avail).max(0)),
        terminating_replicas: Some(sum(&|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

fn n(v: Option<i32>) -> i32 {
    v.unwrap_or(0)
}

fn complete_with(v: &View, s: &DeploymentStatus) -> bool {
    n(s.updated_replicas) == v.wanted()
        && n(s.replicas) == v.wanted()
        && n(s.available_replicas) == v.wanted()
        && s.observed_generation >= v.d.metadata.generation
}

pub(crate) fn complete(v: &View) -> bool {
    complete_with(v, &counts(v))
}

fn progressing(v: &View, s: &DeploymentStatus) -> bool {
    let o = v.d.status.clone().unwrap_or_default();
    n(s.updated_replicas) > n(o.updated_replicas)
        || n(s.replicas) - n(s.updated_replicas) < n(o.replicas) - n(o.updated_replicas)
        || n(s.ready_replicas) > n(o.ready_replicas)
        || n(s.available_replicas) > n(o.available_replicas)
}

/// Seconds left until the progress deadline, counted from the Progressing condition.
fn time_left(v: &View, s: &DeploymentStatus) -> Option<f64> {
    let deadline = f64::from(v.has_deadline()?);
    let c = condition(s, "Progressing")?;
    if c.reason.as_deref() == Some("NewReplicaSetAvailable") {
        return None;
    }
    let from = c.last_update_time.as_ref().or(c.last_transition_time.as_ref())?.0;
    Some(deadline - meta::seconds_between(from, v.now))
}

/// When to look again whether the deadline has passed.
pub(crate) fn deadline_in(v: &View) -> Option<Duration> {
    let s = counts(v);
    if v.paused() || complete_with(v, &s) {
        return None;
    }
    time_left(v, &s).filter(|t| *t > 0.0).map(|t| Duration::from_secs_f64(t + 0.5))
}

/// The deployment with its new status, if it differs.
pub(crate) fn next(v: &View) -> Option<Deployment> {
    let mut s = counts(v);
    let name = meta::name(&v.d.metadata);
    let subject = match &v.new {
        Some(r) => format!("ReplicaSet {:?}", meta::name(&r.metadata)),
        None => format!("Deployment {name:?}"),
    };
    let enough = n(s.available_replicas) >= v.wanted() - v.max_unavailable();
    let (status, reason, text) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut s, "Available", status, reason, text, v.now);

    if v.has_deadline().is_none() {
        if let Some(c) = &mut s.conditions {
            c.retain(|c| c.type_.as_deref() != Some("Progressing"));
        }
    } else if v.paused() {
        let at = condition(&s, "Progressing").and_then(|c| c.reason.clone());
        if at.as_deref() != Some("ProgressDeadlineExceeded") {
            let text = "Deployment is paused";
            set_condition(&mut s, "Progressing", "Unknown", "DeploymentPaused", text, v.now);
        }
    } else {
        let current = condition(&s, "Progressing").cloned();
        let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
        if reason == "DeploymentPaused" {
            let text = "Deployment is resumed";
            set_condition(&mut s, "Progressing", "Unknown", "DeploymentResumed", text, v.now);
        }
        let already = n(s.replicas) == n(s.updated_replicas) && reason == "NewReplicaSetAvailable";
        if current.is_none() {
            if let Some(r) = &v.new {
                let text = format!("Created new replica set {:?}", meta::name(&r.metadata));
                set_condition(&mut s, "Progressing", "True", "NewReplicaSetCreated", &text, v.now);
            }
        }
        if !already {
            if complete_with(v, &s) {
                let text = format!("{subject} has successfully progressed.");
                set_condition(&mut s, "Progressing", "True", "NewReplicaSetAvailable", &text, v.now);
            } else if progressing(v, &s) {
                let text = format!("{subject} is progressing.");
                // Any progress moves the update time, so that the deadline counts from it.
                let since = condition(&s, "Progressing")
                    .filter(|c| c.status.as_deref() == Some("True"))
                    .and_then(|c| c.last_transition_time.clone());
                if let Some(c) = &mut s.conditions {
                    c.retain(|c| c.type_.as_deref() != Some("Progressing"));
                }
                set_condition(&mut s, "Progressing", "True", "ReplicaSetUpdated", &text, v.now);
                if let (Some(t), Some(cs)) = (since, &mut s.conditions) {
                    if let Some(c) = cs.iter_mut().find(|c| c.type_.as_deref() == Some("Progressing")) {
                        c.last_transition_time = Some(t);
                    }
                }
            } else if time_left(v, &s).is_some_and(|t| t <= 0.0) {
                let text = format!("{subject} has timed out progressing.");
                let reason = "ProgressDeadlineExceeded";
                set_condition(&mut s, "Progressing", "False", reason, &text, v.now);
            }
        }
    }

    let failure = v
        .new
        .iter()
        .chain(v.old.iter())
        .filter_map(|r| r.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|c| c.type_.as_deref() == Some("ReplicaFailure"))
        .cloned();
    match failure {
        Some(c) => set_condition(
            &mut s,
            "ReplicaFailure",
            c.status.as_deref().unwrap_or("True"),
            c.reason.as_deref().unwrap_or(""),
            c.message.as_deref().unwrap_or(""),
            v.now,
        ),
        None => {
            if let Some(c) = &mut s.conditions {
                c.retain(|c| c.type_.as_deref() != Some("ReplicaFailure"));
            }
        }
    }
    let _ = available;
    let old = v.d.status.clone().unwrap_or_default();
    let same = n(s.replicas) == n(old.replicas)
        && n(s.updated_replicas) == n(old.updated_replicas)
        && n(s.ready_replicas) == n(old.ready_replicas)
        && n(s.available_replicas) == n(old.available_replicas)
        && n(s.unavailable_replicas) == n(old.unavailable_replicas)
        && n(s.terminating_replicas) == n(old.terminating_replicas)
        && s.observed_generation == old.observed_generation
        && {
            let mut before = old.conditions.unwrap_or_default();
            before.sort_by(|a, b| a.type_.cmp(&b.type_));
            s.conditions.clone().unwrap_or_default() == before
        };
    (!same).then(|| {
        let mut d = v.d.as_ref().clone();
        d.status = Some(s);
        d
    })
}
