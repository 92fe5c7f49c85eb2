//! Facts about pods that workload controllers share.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_runner::meta;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// The phase, `Pending` where none is told.
pub fn phase(p: &Pod) -> &str {
    p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether it has ended.
pub fn finished(p: &Pod) -> bool {
    matches!(phase(p), "Succeeded" | "Failed")
}

/// Neither ended nor being deleted.
pub fn active(p: &Pod) -> bool {
    !finished(p) && !meta::deleting(&p.metadata)
}

/// A condition's status (`True`, …).
pub fn condition<'a>(p: &'a Pod, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    p.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether the pod is ready.
pub fn ready(p: &Pod) -> bool {
    condition(p, "Ready").is_some_and(|c| c.status == "True")
}

/// When it became ready, if it is.
pub fn ready_since(p: &Pod) -> Option<Timestamp> {
    condition(p, "Ready")
        .filter(|c| c.status == "True")
        .and_then(|c| c.last_transition_time.as_ref())
        .map(|t| t.0)
}

/// Whether it has been ready for `min_ready` seconds.
pub fn available(p: &Pod, min_ready: i32, now: Timestamp) -> bool {
    ready(p)
        && (min_ready == 0
            || ready_since(p)
                .is_some_and(|t| meta::seconds_between(t, now) >= f64::from(min_ready)))
}

/// Seconds until the next ready pod becomes available.
pub fn next_available<'a>(
    pods: impl Iterator<Item = &'a Arc<Pod>>,
    min_ready: i32,
    now: Timestamp,
) -> Option<std::time::Duration> {
    if min_ready == 0 {
        return None;
    }
    pods.filter(|p| ready(p) && !available(p, min_ready, now))
        .filter_map(|p| ready_since(p))
        .map(|t| f64::from(min_ready) - meta::seconds_between(t, now))
        .filter(|s| *s > 0.0)
        .min_by(f64::total_cmp)
        .map(|s| std::time::Duration::from_secs_f64(s + 0.01))
}

/// The node it is bound to, or the empty string.
pub fn node(p: &Pod) -> &str {
    p.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// A pod made from a template for an owner; named by the server.
pub fn from_template(t: &PodTemplateSpec, ns: &str, owner_name: &str, owner: OwnerReference) -> Pod {
    let tm = t.metadata.clone().unwrap_or_default();
    // Room for the five random characters.
    let mut prefix = format!("{owner_name}-");
    if prefix.len() > 253 {
        prefix.clear();
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: Some(ns.to_owned()),
            labels: tm.labels,
            annotations: tm.annotations,
            finalizers: tm.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: t.spec.clone(),
        status: None,
    }
}

fn restarts(p: &Pod) -> i32 {
    p.status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .map_or(0, |cs| cs.iter().map(|c| c.restart_count).max().unwrap_or(0))
}

fn deletion_cost(p: &Pod) -> i32 {
    meta::annotation(&p.metadata, "controller.kubernetes.io/pod-deletion-cost")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// Younger first, by powers of two of the age; equals by UID, so that the choice is not biased.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let bucket = |t: Option<Timestamp>| {
        t.map(|t| meta::seconds_between(t, now).max(1.0).log2().floor() as i64)
    };
    match (bucket(a), bucket(b)) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(a), Some(b)) => a.cmp(&b),
    }
}

/// Sorts pods so that the ones to be deleted first stand first: unassigned, pending, not ready,
/// cheap, crowded on their node (`related` counts), recently ready, restarting, young.
pub fn rank_for_deletion(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for p in related.iter().filter(|p| active(p)) {
        *on_node.entry(node(p)).or_default() += 1;
    }
    let phase_rank = |p: &Pod| match phase(p) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let crowd = |p: &Pod| on_node.get(node(p)).copied().unwrap_or(0);
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    pods.sort_by(|a, b| {
        node(a)
            .is_empty()
            .cmp(&node(b).is_empty())
            .reverse()
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| ready(a).cmp(&ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| crowd(b).cmp(&crowd(a)))
            .then_with(|| {
                if ready(a) && ready(b) {
                    younger_first(ready_since(a), ready_since(b), now)
                } else {
                    Ordering::Equal
                }
            })
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| younger_first(created(a), created(b), now))
            .then_with(|| meta::uid(&a.metadata).cmp(meta::uid(&b.metadata)))
    });
}
