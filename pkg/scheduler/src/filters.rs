//! The filter plugins, in upstream's order and with upstream's reasons.

use crate::affinity::{Affinity, node_accepted};
use crate::model::{NodeInfo, PodInfo};
use crate::resources::Resources;
use crate::spread::Spread;
use crate::volumes::Claims;
use k8s_openapi::api::core::v1::Taint;
use knarr_runner::placement::{tolerates, untolerated};
use std::collections::HashSet;

/// Why a node was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    pub plugin: &'static str,
    pub reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub preemptible: bool,
}

fn refuse(plugin: &'static str, reason: &str, preemptible: bool) -> Rejection {
    Rejection { plugin, reasons: vec![reason.to_owned()], preemptible }
}

/// A pod with what its plugins computed beforehand.
pub struct Candidate<'a> {
    pub info: &'a PodInfo,
    pub affinity: Affinity,
    pub spread: Spread,
    pub claims: Claims,
}

/// The first taint that keeps the pod away.
pub fn tolerated<'n>(p: &PodInfo, n: &'n NodeInfo) -> Result<(), &'n Taint> {
    match untolerated(p.tolerations(), &n.node, &["NoSchedule", "NoExecute"]) {
        Some(t) => Err(t),
        None => Ok(()),
    }
}

fn ports_conflict(p: &PodInfo, n: &NodeInfo, extra: &[&PodInfo]) -> bool {
    let clash = |(proto, ip, port): &(String, String, i32), o: &(String, String, i32)| {
        *proto == o.0 && *port == o.2 && (*ip == o.1 || ip == "0.0.0.0" || o.1 == "0.0.0.0")
    };
    p.ports.iter().any(|w| {
        n.ports.keys().any(|o| clash(w, o))
            || extra.iter().any(|e| e.ports.iter().any(|o| clash(w, o)))
    })
}

fn fit(p: &PodInfo, n: &NodeInfo, extra: &[&PodInfo]) -> Vec<String> {
    let mut out = Vec::new();
    let count = i64::try_from(n.pods.len() + extra.len()).unwrap_or(i64::MAX);
    if count + 1 > n.max_pods {
        out.push("Too many pods".to_owned());
    }
    let mut used = Resources::default();
    let used = if extra.is_empty() {
        &n.used
    } else {
        used.add(&n.used);
        for e in extra {
            used.add(&e.requests);
        }
        &used
    };
    let (r, a) = (&p.requests, &n.allocatable);
    if r.cpu > 0 && r.cpu > a.cpu - used.cpu {
        out.push("Insufficient cpu".into());
    }
    if r.memory > 0 && r.memory > a.memory - used.memory {
        out.push("Insufficient memory".into());
    }
    if r.ephemeral > 0 && r.ephemeral > a.ephemeral - used.ephemeral {
        out.push("Insufficient ephemeral-storage".into());
    }
    for (k, v) in r.scalar.iter().filter(|(_, v)| **v > 0) {
        let have = a.scalar.get(k).copied().unwrap_or(0);
        if *v > have - used.scalar.get(k).copied().unwrap_or(0) {
            out.push(format!("Insufficient {k}"));
        }
    }
    out
}

/// Whether what the pod asks for exceeds even the empty node.
fn too_big(p: &PodInfo, n: &NodeInfo) -> bool {
    let (r, a) = (&p.requests, &n.allocatable);
    r.cpu > a.cpu
        || r.memory > a.memory
        || r.ephemeral > a.ephemeral
        || r.scalar.iter().any(|(k, v)| *v > a.scalar.get(k).copied().unwrap_or(0))
}

/// Runs all filters for one node; `extra` are pods nominated there that come first.
pub fn filter(c: &Candidate<'_>, n: &NodeInfo, extra: &[&PodInfo]) -> Result<(), Rejection> {
    let p = c.info;
    let spec = p.pod.spec.as_ref();
    if n.node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if !p.tolerations().iter().any(|t| tolerates(t, &taint)) {
            return Err(refuse("NodeUnschedulable", "node(s) were unschedulable", false));
        }
    }
    if let Some(want) = spec.and_then(|s| s.node_name.as_deref()).filter(|w| !w.is_empty()) {
        if want != n.name() {
            let text = "node(s) didn't match the requested node name";
            return Err(refuse("NodeName", text, false));
        }
    }
    if tolerated(p, n).is_err() {
        return Err(refuse("TaintToleration", "node(s) had untolerated taint(s)", false));
    }
    if !node_accepted(p, n) {
        let text = "node(s) didn't match Pod's node affinity/selector";
        return Err(refuse("NodeAffinity", text, false));
    }
    if !p.ports.is_empty() && ports_conflict(p, n, extra) {
        let text = "node(s) didn't have free ports for the requested pod ports";
        return Err(refuse("NodePorts", text, true));
    }
    let reasons = fit(p, n, extra);
    if !reasons.is_empty() {
        return Err(Rejection {
            plugin: "NodeResourcesFit",
            reasons,
            preemptible: !too_big(p, n),
        });
    }
    if let Some(text) = c.claims.check(n) {
        return Err(refuse("VolumeBinding", text, false));
    }
    if let Some((text, pre)) = c.spread.check(n) {
        return Err(refuse("PodTopologySpread", text, pre));
    }
    if let Some((text, pre)) = c.affinity.check(n) {
        return Err(refuse("InterPodAffinity", text, pre));
    }
    Ok(())
}

/// The message of a pod that fits nowhere.
pub fn unfit_message(
    total: usize,
    rejections: &[(String, Rejection)],
    prefilter: Option<&str>,
    post: &str,
) -> String {
    let mut out = format!("0/{total} nodes are available:");
    if let Some(p) = prefilter {
        out.push_str(&format!(" {p}."));
    } else {
        let mut reasons: Vec<&str> = Vec::new();
        for (_, r) in rejections {
            reasons.extend(r.reasons.iter().map(String::as_str));
        }
        let distinct: HashSet<&str> = reasons.iter().copied().collect();
        let mut parts: Vec<String> = distinct
            .into_iter()
            .map(|d| format!("{} {d}", reasons.iter().filter(|r| **r == d).count()))
            .collect();
        parts.sort();
        if !parts.is_empty() {
            out.push_str(&format!(" {}.", parts.join(", ")));
        }
    }
    if !post.is_empty() {
        out.push_str(&format!(" {post}"));
    }
    out
}
