//! Node selectors and inter-pod affinity.

use crate::model::{Cluster, NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::{Namespace, NodeSelectorTerm, PodAffinityTerm};
use knarr_runner::{Cache, meta, placement};
use std::collections::HashMap;

/// Whether one term matches the node.
pub fn term_matches(t: &NodeSelectorTerm, n: &NodeInfo) -> bool {
    placement::term_matches(t, &n.node)
}

/// Whether a pod's nodeSelector and required node affinity accept the node.
pub fn node_accepted(p: &PodInfo, n: &NodeInfo) -> bool {
    p.pod.spec.as_ref().is_none_or(|s| placement::node_accepted(s, &n.node))
}

/// Whether a term of `owner` selects `other`.
pub fn term_selects(
    t: &PodAffinityTerm,
    owner: &PodInfo,
    other: &PodInfo,
    namespaces: &Cache<Namespace>,
) -> bool {
    let listed = t.namespaces.as_deref().unwrap_or(&[]);
    let by_name = if listed.is_empty() && t.namespace_selector.is_none() {
        other.ns() == owner.ns()
    } else {
        listed.iter().any(|n| n == other.ns())
    };
    let in_ns = by_name
        || t.namespace_selector.as_ref().is_some_and(|s| {
            meta::selector_is_empty(s)
                || namespaces
                    .get("", other.ns())
                    .is_some_and(|n| meta::selects(s, n.metadata.labels.as_ref()))
        });
    if !in_ns {
        return false;
    }
    let Some(sel) = &t.label_selector else { return false };
    if !meta::selects(sel, other.labels()) {
        return false;
    }
    let value = |p: &PodInfo, k: &str| p.labels().and_then(|l| l.get(k)).cloned();
    t.match_label_keys.iter().flatten().all(|k| {
        value(owner, k).is_none_or(|v| value(other, k).as_ref() == Some(&v))
    }) && t.mismatch_label_keys.iter().flatten().all(|k| {
        value(owner, k).is_none_or(|v| value(other, k).as_ref() != Some(&v))
    })
}

/// Topology key and value.
type Domain = (String, String);

/// What inter-pod affinity needs, computed once for a pod.
#[derive(Default, Clone)]
pub struct Affinity {
    required: Vec<PodAffinityTerm>,
    required_anti: Vec<PodAffinityTerm>,
    /// Per required term: in which domains a matching pod is.
    have: Vec<HashMap<Domain, i64>>,
    have_anti: Vec<HashMap<Domain, i64>>,
    /// Domains in which an existing pod repels this one.
    repelled: HashMap<Domain, i64>,
    matches_itself: bool,
    /// Score per domain.
    pub preferred: HashMap<Domain, i64>,
    /// Whether nothing here can matter.
    pub idle: bool,
}

fn anti_terms(p: &PodInfo) -> &[PodAffinityTerm] {
    p.pod
        .spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref())
        .and_then(|a| a.pod_anti_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or(&[])
}

impl Affinity {
    /// Computes it over all placed pods.
    pub fn new(p: &PodInfo, c: &Cluster, namespaces: &Cache<Namespace>) -> Self {
        let mut a = Self::default();
        if !p.affine && c.affine.is_empty() {
            a.idle = true;
            return a;
        }
        let aff = p.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let pod_aff = aff.and_then(|x| x.pod_affinity.as_ref());
        let pod_anti = aff.and_then(|x| x.pod_anti_affinity.as_ref());
        a.required = pod_aff
            .and_then(|x| x.required_during_scheduling_ignored_during_execution.clone())
            .unwrap_or_default();
        a.required_anti = anti_terms(p).to_vec();
        a.have = vec![HashMap::new(); a.required.len()];
        a.have_anti = vec![HashMap::new(); a.required_anti.len()];
        a.matches_itself =
            a.required.iter().all(|t| term_selects(t, p, p, namespaces));
        let preferred: Vec<(i64, PodAffinityTerm)> = pod_aff
            .and_then(|x| x.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|w| (i64::from(w.weight), w.pod_affinity_term.clone()))
            .chain(
                pod_anti
                    .and_then(|x| x.preferred_during_scheduling_ignored_during_execution.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|w| (-i64::from(w.weight), w.pod_affinity_term.clone())),
            )
            .collect();
        // Without terms of its own only pods with affinity matter.
        for n in c.known() {
            let affine_here = n.pods.values().any(|o| o.affine);
            if !p.affine && !affine_here {
                continue;
            }
            for o in n.pods.values() {
                if o.uid() != p.uid() {
                    a.count(p, o, n, &preferred, namespaces);
                }
            }
        }
        a
    }

    fn count(
        &mut self,
        p: &PodInfo,
        o: &PodInfo,
        n: &NodeInfo,
        preferred: &[(i64, PodAffinityTerm)],
        namespaces: &Cache<Namespace>,
    ) {
        let dom = |k: &str| n.label(k).map(|v| (k.to_owned(), v.to_owned()));
        // All required terms must select the pod for it to count.
        if !self.required.is_empty()
            && self.required.iter().all(|t| term_selects(t, p, o, namespaces))
        {
            for (i, t) in self.required.iter().enumerate() {
                if let Some(d) = dom(&t.topology_key) {
                    *self.have[i].entry(d).or_default() += 1;
                }
            }
        }
        for (i, t) in self.required_anti.iter().enumerate() {
            if term_selects(t, p, o, namespaces) {
                if let Some(d) = dom(&t.topology_key) {
                    *self.have_anti[i].entry(d).or_default() += 1;
                }
            }
        }
        if o.repels {
            for t in anti_terms(o) {
                if term_selects(t, o, p, namespaces) {
                    if let Some(d) = dom(&t.topology_key) {
                        *self.repelled.entry(d).or_default() += 1;
                    }
                }
            }
        }
        for (w, t) in preferred {
            if term_selects(t, p, o, namespaces) {
                if let Some(d) = dom(&t.topology_key) {
                    *self.preferred.entry(d).or_default() += w;
                }
            }
        }
        if !o.affine {
            return;
        }
        let aff = o.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let pa = aff.and_then(|x| x.pod_affinity.as_ref());
        for t in pa
            .and_then(|x| x.required_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
        {
            // The hard affinity of an existing pod counts as a weight of one.
            if term_selects(t, o, p, namespaces) {
                if let Some(d) = dom(&t.topology_key) {
                    *self.preferred.entry(d).or_default() += 1;
                }
            }
        }
        let soft = pa
            .and_then(|x| x.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|w| (i64::from(w.weight), &w.pod_affinity_term));
        let anti = aff
            .and_then(|x| x.pod_anti_affinity.as_ref())
            .and_then(|x| x.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|w| (-i64::from(w.weight), &w.pod_affinity_term));
        for (w, t) in soft.chain(anti) {
            if term_selects(t, o, p, namespaces) {
                if let Some(d) = dom(&t.topology_key) {
                    *self.preferred.entry(d).or_default() += w;
                }
            }
        }
    }

    /// The reason a node is refused, and whether removing pods could change it.
    pub fn check(&self, n: &NodeInfo) -> Option<(&'static str, bool)> {
        if self.idle {
            return None;
        }
        let dom = |k: &str| n.label(k).map(|v| (k.to_owned(), v.to_owned()));
        if !self.required.is_empty() {
            let mut ok = true;
            for (i, t) in self.required.iter().enumerate() {
                match dom(&t.topology_key) {
                    None => return Some(("node(s) didn't match pod affinity rules", false)),
                    Some(d) => ok &= self.have[i].get(&d).is_some_and(|c| *c > 0),
                }
            }
            // The first pod of a group that wants to be with itself.
            let first = self.have.iter().all(HashMap::is_empty) && self.matches_itself;
            if !ok && !first {
                return Some(("node(s) didn't match pod affinity rules", false));
            }
        }
        for (i, t) in self.required_anti.iter().enumerate() {
            if dom(&t.topology_key)
                .is_some_and(|d| self.have_anti[i].get(&d).is_some_and(|c| *c > 0))
            {
                return Some(("node(s) didn't match pod anti-affinity rules", true));
            }
        }
        let repelled = self
            .repelled
            .iter()
            .any(|((k, v), c)| *c > 0 && n.label(k) == Some(v.as_str()));
        repelled.then_some(("node(s) didn't satisfy existing pods anti-affinity rules", true))
    }

    /// The raw score of a node.
    pub fn score(&self, n: &NodeInfo) -> i64 {
        self.preferred
            .iter()
            .filter(|((k, v), _)| n.label(k) == Some(v.as_str()))
            .map(|(_, w)| w)
            .sum()
    }
}
