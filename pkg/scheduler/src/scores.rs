//! The score plugins: 0 to 100 each, weighted as upstream's defaults.

use crate::affinity::term_matches;
use crate::filters::Candidate;
use crate::model::{NodeInfo, PodInfo};
use knarr_runner::placement::tolerates;

/// Scores of one node by plugin, weighted, and their sum.
pub type Scored = (Vec<(String, i64)>, i64);

fn least_allocated(p: &PodInfo, n: &NodeInfo) -> i64 {
    let part = |want: i64, used: i64, cap: i64| {
        let after = used + want;
        if cap <= 0 || after > cap { 0 } else { (cap - after) * 100 / cap }
    };
    let cpu = part(p.nonzero.0, n.nonzero.0, n.allocatable.cpu);
    let mem = part(p.nonzero.1, n.nonzero.1, n.allocatable.memory);
    (cpu + mem) / 2
}

fn balanced(p: &PodInfo, n: &NodeInfo) -> i64 {
    let share = |want: i64, used: i64, cap: i64| {
        if cap <= 0 { 1.0 } else { ((used + want) as f64 / cap as f64).min(1.0) }
    };
    let cpu = share(p.requests.cpu, n.used.cpu, n.allocatable.cpu);
    let mem = share(p.requests.memory, n.used.memory, n.allocatable.memory);
    ((1.0 - (cpu - mem).abs() / 2.0) * 100.0) as i64
}

fn node_preference(p: &PodInfo, n: &NodeInfo) -> i64 {
    p.pod
        .spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref())
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
        .filter(|t| term_matches(&t.preference, n))
        .map(|t| i64::from(t.weight))
        .sum()
}

fn soft_taints(p: &PodInfo, n: &NodeInfo) -> i64 {
    let taints = n.node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    let bad = taints
        .iter()
        .filter(|t| {
            t.effect == "PreferNoSchedule" && !p.tolerations().iter().any(|x| tolerates(x, t))
        })
        .count();
    i64::try_from(bad).unwrap_or(i64::MAX)
}

const MB: i64 = 1024 * 1024;

fn normalized_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

fn images(p: &PodInfo, n: &NodeInfo, all: &[&NodeInfo]) -> i64 {
    let Some(spec) = &p.pod.spec else { return 0 };
    let mut sum = 0;
    let mut count = 0i64;
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        count += 1;
        let Some(i) = c.image.as_deref().map(normalized_image) else { continue };
        if let Some(size) = n.images.get(&i) {
            let with = all.iter().filter(|o| o.images.contains_key(&i)).count();
            sum += (*size as f64 * (with as f64 / all.len().max(1) as f64)) as i64;
        }
    }
    let (min, max) = (23 * MB, 1000 * MB * count.max(1));
    100 * (sum.clamp(min, max) - min) / (max - min).max(1)
}

/// Spreads raw values over 0 to 100; `reverse` where less is better.
fn normalize(raw: &[i64], reverse: bool) -> Vec<i64> {
    let max = raw.iter().copied().max().unwrap_or(0);
    raw.iter()
        .map(|v| {
            let s = if max == 0 { 0 } else { v * 100 / max };
            if reverse { 100 - s } else { s }
        })
        .collect()
}

/// Scores the nodes that passed the filters.
pub fn score(c: &Candidate<'_>, nodes: &[&NodeInfo]) -> Vec<Scored> {
    let p = c.info;
    let raw = |f: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|n| f(n)).collect::<Vec<_>>();
    let mut table: Vec<(&str, i64, Vec<i64>)> = vec![
        ("TaintToleration", 3, normalize(&raw(&|n| soft_taints(p, n)), true)),
        ("NodeAffinity", 2, normalize(&raw(&|n| node_preference(p, n)), false)),
        ("NodeResourcesFit", 1, raw(&|n| least_allocated(p, n))),
        ("NodeResourcesBalancedAllocation", 1, raw(&|n| balanced(p, n))),
        ("ImageLocality", 1, raw(&|n| images(p, n, nodes))),
    ];
    if c.spread.scores() {
        let raw: Vec<Option<f64>> = nodes.iter().map(|n| c.spread.score(n)).collect();
        let known = || raw.iter().flatten().copied();
        let (lo, hi) = (known().fold(f64::MAX, f64::min), known().fold(0.0, f64::max));
        let s = raw
            .iter()
            .map(|v| match v {
                None => 0,
                Some(_) if hi == 0.0 => 100,
                Some(v) => (100.0 * (hi + lo - v) / hi) as i64,
            })
            .collect();
        table.push(("PodTopologySpread", 2, s));
    }
    if !c.affinity.preferred.is_empty() {
        let raw = raw(&|n| c.affinity.score(n));
        let (lo, hi) =
            (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        let s = raw.iter().map(|v| if hi > lo { 100 * (v - lo) / (hi - lo) } else { 0 }).collect();
        table.push(("InterPodAffinity", 2, s));
    }
    (0..nodes.len())
        .map(|i| {
            let per: Vec<(String, i64)> =
                table.iter().map(|(n, w, s)| ((*n).to_owned(), w * s[i])).collect();
            let total = per.iter().map(|(_, s)| s).sum();
            (per, total)
        })
        .collect()
}
