//! How many pods each set may have: pure arithmetic.

use super::{DESIRED, MAX, View, available, spec_replicas};
use k8s_openapi::api::apps::v1::ReplicaSet;
use knarr_runner::meta;
use std::sync::Arc;

fn total(v: &View) -> i32 {
    v.all().map(|s| spec_replicas(s)).sum()
}

/// The size the new set may have now.
pub fn new_set_size(v: &View, have: i32) -> i32 {
    if !v.rolling() {
        return v.wanted();
    }
    if have > v.wanted() {
        return v.wanted();
    }
    let max = v.wanted() + v.bounds().0;
    let room = max - total(v);
    if room <= 0 {
        return have;
    }
    have + room.min(v.wanted() - have)
}

/// Old sets to be shrunk in a rolling update: unhealthy pods first, then as availability allows.
pub fn shrink_old(v: &View) -> Vec<(Arc<ReplicaSet>, i32)> {
    let old_total: i32 = v.old.iter().map(|s| spec_replicas(s)).sum();
    let Some(new) = &v.new else { return Vec::new() };
    if old_total == 0 {
        return Vec::new();
    }
    let min_available = v.wanted() - v.bounds().1;
    let new_unavailable = spec_replicas(new) - available(new);
    let mut budget = total(v) - min_available - new_unavailable;
    if budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(Arc<ReplicaSet>, i32)> =
        v.old.iter().map(|s| (s.clone(), spec_replicas(s))).collect();
    // Pods that do not serve cost nothing to take away.
    for (s, n) in &mut sizes {
        let unhealthy = *n - available(s);
        let take = unhealthy.min(budget).max(0);
        *n -= take;
        budget -= take;
    }
    let all_available: i32 = v.all().map(|s| available(s)).sum();
    let mut spare = all_available - min_available;
    for (_, n) in &mut sizes {
        let take = (*n).min(spare).max(0);
        *n -= take;
        spare -= take;
    }
    sizes.into_iter().filter(|(s, n)| *n != spec_replicas(s)).collect()
}

/// Whether the deployment's size was changed since its sets were sized.
pub fn scaling_event(v: &View) -> bool {
    v.all().filter(|s| spec_replicas(s) > 0).any(|s| {
        meta::annotation(&s.metadata, DESIRED)
            .and_then(|d| d.parse::<i32>().ok())
            .is_some_and(|d| d != v.wanted())
    })
}

/// Shares a change of size among the sets in proportion to theirs.
pub fn proportional(v: &View) -> Vec<(Arc<ReplicaSet>, i32)> {
    let mut active: Vec<Arc<ReplicaSet>> =
        v.all().filter(|s| spec_replicas(s) > 0).cloned().collect();
    if active.len() <= 1 {
        let only = active.pop().or_else(|| v.new.clone());
        let stale = |s: &ReplicaSet| {
            meta::annotation(&s.metadata, DESIRED) != Some(v.wanted().to_string().as_str())
        };
        return only
            .filter(|s| spec_replicas(s) != v.wanted() || (spec_replicas(s) > 0 && stale(s)))
            .map(|s| (s, v.wanted()))
            .into_iter()
            .collect();
    }
    // The new set is complete: only it matters.
    if let Some(new) = &v.new {
        if spec_replicas(new) == v.wanted() && available(new) == v.wanted() {
            return v.old.iter().filter(|s| spec_replicas(s) > 0).map(|s| (s.clone(), 0)).collect();
        }
    }
    if !v.rolling() {
        return Vec::new();
    }
    let have: i32 = active.iter().map(|s| spec_replicas(s)).sum();
    let allowed = if v.wanted() > 0 { v.wanted() + v.bounds().0 } else { 0 };
    let to_add = allowed - have;
    // Growing favours the largest and newest, shrinking the largest and oldest.
    active.sort_by(|a, b| {
        let (ca, cb) = (&a.metadata.creation_timestamp, &b.metadata.creation_timestamp);
        let age = ca.as_ref().map(|t| t.0).cmp(&cb.as_ref().map(|t| t.0));
        spec_replicas(b)
            .cmp(&spec_replicas(a))
            .then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut out: Vec<(Arc<ReplicaSet>, i32)> = Vec::new();
    for s in &active {
        let n = spec_replicas(s);
        let mut size = n;
        if to_add != 0 {
            let annotated = meta::annotation(&s.metadata, MAX)
                .and_then(|m| m.parse::<i32>().ok())
                .filter(|m| *m > 0)
                .or_else(|| v.d.status.as_ref().and_then(|s| s.replicas))
                .unwrap_or(have)
                .max(1);
            let fraction = if v.wanted() == 0 {
                -n
            } else {
                let exact = f64::from(n) * f64::from(allowed) / f64::from(annotated);
                exact.round() as i32 - n
            };
            let left = to_add - added;
            let share = if to_add > 0 { fraction.min(left).max(0) } else { fraction.max(left).min(0) };
            size += share;
            added += share;
        }
        out.push((s.clone(), size));
    }
    if let Some((_, n)) = out.first_mut() {
        *n = (*n + to_add - added).max(0);
    }
    out.into_iter()
        .filter(|(s, n)| {
            *n != spec_replicas(s)
                || meta::annotation(&s.metadata, DESIRED) != Some(v.wanted().to_string().as_str())
        })
        .collect()
}

#[cfg(test)]
mod tests;
