//! Topology spread constraints.

use crate::affinity::node_accepted;
use crate::filters::tolerated;
use crate::model::{Cluster, NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use knarr_runner::meta;
use std::collections::HashMap;

#[derive(Clone)]
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    hard: bool,
    selector: LabelSelector,
    matches_self: bool,
    /// Matching pods per domain that counts.
    counts: HashMap<String, i64>,
}

/// What spreading needs, computed once for a pod.
#[derive(Clone, Default)]
pub struct Spread {
    constraints: Vec<Constraint>,
}

fn selector_of(c: &TopologySpreadConstraint, p: &PodInfo) -> LabelSelector {
    let mut s = c.label_selector.clone().unwrap_or_default();
    for k in c.match_label_keys.iter().flatten() {
        if let Some(v) = p.labels().and_then(|l| l.get(k)) {
            s.match_labels.get_or_insert_default().insert(k.clone(), v.clone());
        }
    }
    s
}

impl Spread {
    /// Computes it over all nodes that count.
    pub fn new(p: &PodInfo, c: &Cluster) -> Self {
        let all = p
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.topology_spread_constraints.as_deref())
            .unwrap_or(&[]);
        let mut out = Self::default();
        for t in all {
            let selector = selector_of(t, p);
            let has_selector = t.label_selector.is_some();
            let hard = t.when_unsatisfiable == "DoNotSchedule";
            let mut x = Constraint {
                key: t.topology_key.clone(),
                max_skew: i64::from(t.max_skew),
                min_domains: i64::from(t.min_domains.unwrap_or(1)),
                hard,
                matches_self: has_selector && meta::selects(&selector, p.labels()),
                selector,
                counts: HashMap::new(),
            };
            let affinity = t.node_affinity_policy.as_deref() != Some("Ignore");
            let taints = t.node_taints_policy.as_deref() == Some("Honor");
            for n in c.known() {
                let Some(v) = n.label(&x.key) else { continue };
                if affinity && !node_accepted(p, n) {
                    continue;
                }
                if taints && tolerated(p, n).is_err() {
                    continue;
                }
                let matching = n
                    .pods
                    .values()
                    .filter(|o| {
                        has_selector
                            && o.ns() == p.ns()
                            && !meta::deleting(&o.pod.metadata)
                            && meta::selects(&x.selector, o.labels())
                    })
                    .count();
                *x.counts.entry(v.to_owned()).or_default() +=
                    i64::try_from(matching).unwrap_or(i64::MAX);
            }
            out.constraints.push(x);
        }
        out
    }

    /// The reason a node is refused, and whether removing pods could change it.
    pub fn check(&self, n: &NodeInfo) -> Option<(&'static str, bool)> {
        for c in self.constraints.iter().filter(|c| c.hard) {
            let Some(v) = n.label(&c.key) else {
                return Some((
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                    false,
                ));
            };
            let domains = i64::try_from(c.counts.len()).unwrap_or(i64::MAX);
            let min = if domains < c.min_domains {
                0
            } else {
                c.counts.values().copied().min().unwrap_or(0)
            };
            let here = c.counts.get(v).copied().unwrap_or(0);
            if here + i64::from(c.matches_self) - min > c.max_skew {
                return Some(("node(s) didn't match pod topology spread constraints", true));
            }
        }
        None
    }

    /// Whether there is anything to score.
    pub fn scores(&self) -> bool {
        self.constraints.iter().any(|c| !c.hard)
    }

    /// The raw score: fewer matching pods in the node's domains is better (lower).
    pub fn score(&self, n: &NodeInfo) -> Option<f64> {
        let mut sum = 0.0;
        for c in self.constraints.iter().filter(|c| !c.hard) {
            let v = n.label(&c.key)?;
            let weight = ((c.counts.len() + 2) as f64).ln();
            let here = c.counts.get(v).copied().unwrap_or(0);
            sum += here as f64 * weight + (c.max_skew - 1) as f64;
        }
        Some(sum.round())
    }
}
