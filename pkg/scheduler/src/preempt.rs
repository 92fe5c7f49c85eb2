//! DefaultPreemption: which pods must go so that a more important one fits.

use crate::affinity::Affinity;
use crate::filters::{Candidate, Rejection, filter};
use crate::model::{Cluster, NodeInfo, PodInfo};
use crate::spread::Spread;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use knarr_runner::{Cache, meta};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// A node and whom to evict there.
pub struct Victims {
    pub node: String,
    pub pods: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// Whether the pod may preempt at all; an error says why not.
pub fn eligible(p: &PodInfo, c: &Cluster) -> Result<(), &'static str> {
    let spec = p.pod.spec.as_ref();
    if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    if let Some(n) = c.nominated.get(p.uid()).and_then(|(n, _)| c.nodes.get(n)) {
        let leaving = n
            .pods
            .values()
            .any(|o| o.priority < p.priority && meta::deleting(&o.pod.metadata));
        if leaving {
            return Err("not eligible due to a terminating pod on the nominated node.");
        }
    }
    Ok(())
}

fn fits(
    p: &Candidate<'_>,
    node: &NodeInfo,
    cluster: &Cluster,
    namespaces: &Cache<Namespace>,
    simulated: bool,
) -> bool {
    if !simulated {
        return filter(p, node, &[]).is_ok();
    }
    // Pods were taken away: what depends on other pods is computed anew.
    let mut c = Cluster::default();
    let needs = p.info.affine || !cluster.affine.is_empty() || p.spread.check(node).is_some();
    let (affinity, spread) = if needs {
        c.nodes = cluster.nodes.clone();
        c.affine = cluster.affine.clone();
        c.nodes.insert(node.name().to_owned(), node.clone());
        (Affinity::new(p.info, &c, namespaces), Spread::new(p.info, &c))
    } else {
        (p.affinity.clone(), p.spread.clone())
    };
    let q = Candidate { info: p.info, affinity, spread, claims: p.claims.clone() };
    filter(&q, node, &[]).is_ok()
}

/// Looks for the cheapest node to make room on.
pub fn find(
    p: &Candidate<'_>,
    cluster: &Cluster,
    rejections: &[(String, Rejection)],
    budgets: &Cache<PodDisruptionBudget>,
    namespaces: &Cache<Namespace>,
) -> Option<Victims> {
    let pdbs = budgets.list();
    let mut best: Option<(Victims, Cost)> = None;
    for (name, r) in rejections {
        if !r.preemptible {
            continue;
        }
        let Some(node) = cluster.nodes.get(name) else { continue };
        let Some(v) = victims_on(p, node, cluster, &pdbs, namespaces) else { continue };
        let cost = cost(&v);
        if best.as_ref().is_none_or(|(_, c)| cost < *c) {
            best = Some((v, cost));
        }
    }
    best.map(|(v, _)| v)
}

type Cost = (usize, i32, i64, usize, Reverse<Option<i64>>);

/// Violated budgets, highest priority, sum of priorities, number; then the youngest victims.
fn cost(v: &Victims) -> Cost {
    let highest = v.pods.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    let sum = v.pods.iter().map(|p| i64::from(p.priority) + (1i64 << 31)).sum();
    let start = v
        .pods
        .iter()
        .filter(|p| p.priority == highest)
        .filter_map(|p| p.pod.status.as_ref()?.start_time.as_ref().map(|t| t.0.as_second()))
        .min();
    (v.violations, highest, sum, v.pods.len(), Reverse(start))
}

fn victims_on(
    p: &Candidate<'_>,
    node: &NodeInfo,
    cluster: &Cluster,
    pdbs: &[Arc<PodDisruptionBudget>],
    namespaces: &Cache<Namespace>,
) -> Option<Victims> {
    let mut sim = node.clone();
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.values().filter(|o| o.priority < p.info.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    for o in &lower {
        sim.remove(o.uid());
    }
    if !fits(p, &sim, cluster, namespaces, true) {
        return None;
    }
    // Whom to spare first: the most important and the longest running.
    let start = |o: &PodInfo| {
        o.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second())
    };
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then(start(a).cmp(&start(b))));
    let mut left: HashMap<String, i32> = pdbs
        .iter()
        .map(|b| {
            let allowed = b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
            (meta::uid(&b.metadata).to_owned(), allowed)
        })
        .collect();
    let (mut violating, mut others) = (Vec::new(), Vec::new());
    for o in lower {
        let mut violates = false;
        for b in pdbs.iter().filter(|b| meta::ns(&b.metadata) == o.ns()) {
            let hit = b
                .spec
                .as_ref()
                .and_then(|s| s.selector.as_ref())
                .is_some_and(|s| !meta::selector_is_empty(s) && meta::selects(s, o.labels()));
            if hit {
                let n = left.entry(meta::uid(&b.metadata).to_owned()).or_default();
                *n -= 1;
                violates |= *n < 0;
            }
        }
        if violates { violating.push(o) } else { others.push(o) }
    }
    let mut v = Victims { node: node.name().to_owned(), pods: Vec::new(), violations: 0 };
    for (bad, o) in
        violating.into_iter().map(|o| (true, o)).chain(others.into_iter().map(|o| (false, o)))
    {
        sim.add(o.clone());
        if !fits(p, &sim, cluster, namespaces, true) {
            sim.remove(o.uid());
            v.violations += usize::from(bad);
            v.pods.push(o);
        }
    }
    (!v.pods.is_empty()).then_some(v)
}
