//! What is odd about a pod, though it is allowed.

use std::collections::{HashMap, HashSet};

use knarr_schema::quantity::Quantity;
use serde_json::Value;

use super::spec::each;
use crate::{object::Object, strategy::{at::At, names_of_nodes}};

/// The volumes that do nothing any more.
const OLD_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// Everything odd about a pod or a template at `root`; a template's path is not empty.
pub(in crate::strategy) fn of(root: &At, out: &mut Vec<String>) {
    let (spec, meta) = (root.get("spec"), root.get("metadata"));
    placement(&spec, out);
    let annotations = meta.get("annotations");
    let annotated = |key: &str| annotations.value.get(key).is_some();
    for (key, why) in OLD_ANNOTATIONS {
        if annotated(key) {
            out.push(format!("{}: {why}", annotations.key(key)));
        }
    }
    for v in spec.get("volumes").items() {
        for (field, shown, why) in OLD_VOLUMES {
            if v.get(field).there() {
                out.push(format!("{}: {why}", v.get(shown)));
            }
        }
        let claim = v.get("ephemeral.volumeClaimTemplate.spec");
        if claim.there() {
            super::super::claims::warnings(&claim, out);
        }
    }
    paths(spec.value, out);
    twice(&spec.get("hostAliases"), "ip", "ip", out);
    twice(&spec.get("imagePullSecrets"), "name", "name", out);
    for s in spec.get("imagePullSecrets").items() {
        if s.get("name").text().is_empty() {
            out.push(format!("{}: invalid empty name \"\"", s.get("name")));
        }
    }
    let overhead = spec.get("overhead");
    fractions(&overhead, out);
    if !spec.get("securityContext.seccompProfile").there() && annotated("seccomp.security.alpha.kubernetes.io/pod") {
        out.push(format!("{}: {SECCOMP}", annotations.key("seccomp.security.alpha.kubernetes.io/pod")));
    }
    each(&spec, &mut |c| {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", c.get("name").text());
        if !c.get("securityContext.seccompProfile").there() && annotated(&key) {
            out.push(format!("{}: {SECCOMP}", annotations.key(&key)));
        }
        if root.is_unnamed() {
            fractions(&c.get("resources.limits"), out);
            fractions(&c.get("resources.requests"), out);
            return environment(&c.get("env"), out);
        }
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", c.get("name").text());
        if !c.get("securityContext.appArmorProfile").there() && annotated(&key) {
            let place = annotations.key(&key);
            out.push(format!("{place}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
        fractions(&c.get("resources.limits"), out);
        fractions(&c.get("resources.requests"), out);
        environment(&c.get("env"), out);
    });
    ports(&spec, out);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n < 0) {
        out.push(format!("{grace}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for kind in ["affinity.podAffinity", "affinity.podAntiAffinity"] {
        let pods = spec.get(kind);
        let required = pods.get("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = pods.get("preferredDuringSchedulingIgnoredDuringExecution");
        for (all, selector) in [(required, "labelSelector"), (preferred, "podAffinityTerm.labelSelector")] {
            for term in all.items() {
                if !term.get(selector).there() {
                    out.push(format!("{}: {NO_SELECTOR}", term.get(selector)));
                }
            }
        }
    }
    for server in spec.get("dnsConfig.nameservers").items() {
        super::odd_address(&server, out);
    }
    for alias in spec.get("hostAliases").items() {
        super::odd_address(&alias.get("ip"), out);
    }
}

fn placement(spec: &At, out: &mut Vec<String>) {
    for (label, at) in spec.get("nodeSelector").entries() {
        if let Some(why) = names_of_nodes::deprecated(label) {
            out.push(format!("{at}: {why}"));
        }
    }
    let node = spec.get("affinity.nodeAffinity");
    for term in node.get("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms").items() {
        names_of_nodes::in_term(&term, false, out);
    }
    for term in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        names_of_nodes::in_term(&term.get("preference"), true, out);
    }
    for c in spec.get("topologySpreadConstraints").items() {
        let key = c.get("topologyKey");
        if let Some(why) = names_of_nodes::deprecated(key.text()) {
            out.push(format!("{key}: {} is {why}", key.text()));
        }
        if !c.get("labelSelector").there() {
            out.push(format!("{}: {NO_SELECTOR}", c.get("labelSelector")));
        }
    }
}

fn twice(all: &At, member: &str, what: &str, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for item in all.items() {
        let at = item.get(member);
        if !seen.insert(at.text()) {
            out.push(format!("{at}: duplicate {what} {:?}", at.text()));
        }
    }
}

/// Bytes are not divided.
fn fractions(map: &At, out: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        let at = map.key(resource);
        if Quantity::parse(at.text()).is_ok_and(|q| q.milli_value() % 1000 != 0) {
            out.push(format!("{at}: fractional byte value {:?} is invalid, must be an integer", at.text()));
        }
    }
}

/// A variable that hides an earlier one without using it.
fn environment(all: &At, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for e in all.items() {
        let name = e.get("name").text();
        let (value, own) = (e.get("value").text(), format!("$({name})"));
        if !seen.insert(name) && (e.get("valueFrom").there() || value == own || !value.contains(&own)) {
            out.push(format!("{e}: hides previous definition of {name:?}, which may be dropped when using apply"));
        }
    }
}

fn ports(spec: &At, out: &mut Vec<String>) {
    type Port = (String, String, i64);
    let mut by_number: HashMap<(i64, String), Vec<Port>> = HashMap::new();
    each(spec, &mut |c| {
        for p in c.get("ports").items() {
            let (ip, host) = (p.get("hostIP").text(), p.get("hostPort").int().unwrap_or(0));
            let (number, protocol) = (p.get("containerPort").int().unwrap_or(0), p.get("protocol").text());
            if !ip.is_empty() && host == 0 {
                let name = p.get("name").text();
                out.push(format!("{p}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"));
            }
            let others = by_number.entry((number, protocol.to_owned())).or_default();
            for (place, other_ip, other_host) in others.iter() {
                if ip == other_ip && host == *other_host {
                    out.push(format!("{p}: duplicate port definition with {place}"));
                } else if host == 0 || *other_host == 0 {
                    out.push(format!("{p}: overlapping port definition with {place}"));
                } else if host == *other_host && ip.is_empty() != other_ip.is_empty() {
                    out.push(format!("{p}: dangerously ambiguous port definition with {place}"));
                }
            }
            others.push((p.to_string(), ip.to_owned(), host));
        }
    });
    let mut names: HashMap<String, String> = HashMap::new();
    each(spec, &mut |c| {
        for p in c.get("ports").items() {
            let name = p.get("name").text();
            if name.is_empty() {
                continue;
            }
            match names.get(name) {
                Some(other) => out.push(format!("{p}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}")),
                None => {
                    names.insert(name.to_owned(), p.to_string());
                }
            }
        }
    });
}

/// A path in a volume and, in projected ones, whose it is.
#[derive(Clone, PartialEq)]
struct Place(String, String);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.1.is_empty() { write!(f, "{:?}", self.0) } else { write!(f, "{:?} ({})", self.0, self.1) }
    }
}

/// Files of one volume whose paths are the same or inside each other.
fn paths(spec: &Value, out: &mut Vec<String>) {
    let files = |v: &Value, of: &str| -> Vec<Place> { v.list_at(&["items"]).iter().map(|i| Place(i.str_at(&["path"]).to_owned(), of.to_owned())).collect() };
    for v in spec.list_at(&["volumes"]) {
        let name = v.str_at(&["name"]);
        let mut tell = |what: &str, all: Vec<Place>| {
            let mut seen: Vec<Place> = Vec::new();
            for mut p in all {
                p.0.truncate(p.0.trim_end_matches('/').len());
                let inside = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
                for other in seen.iter().filter(|o| !p.0.is_empty() && !o.0.is_empty() && (inside(&o.0, &p.0) || inside(&p.0, &o.0))) {
                    out.push(format!("volume {name:?} ({what}): overlapping paths: {p} with {other}"));
                }
                seen.push(p);
            }
        };
        if let Some(m) = v.at(&["configMap"]) {
            tell(&format!("ConfigMap {:?}", m.str_at(&["name"])), files(m, ""));
        }
        if let Some(s) = v.at(&["secret"]) {
            tell(&format!("Secret {:?}", s.str_at(&["secretName"])), files(s, ""));
        }
        if let Some(d) = v.at(&["downwardAPI"]) {
            tell("DownwardAPI", files(d, ""));
        }
        let mut all = Vec::new();
        let mut empty = 0;
        for s in v.list_at(&["projected", "sources"]) {
            let one = |path: &str, of: String| vec![Place(path.to_owned(), of)];
            if s.as_object().is_none_or(|m| m.values().all(Value::is_null)) {
                empty += 1;
            }
            all.extend(match () {
                () if s.at(&["configMap", "items"]).is_some() => files(&s["configMap"], &format!("ConfigMap {:?}", s.str_at(&["configMap", "name"]))),
                () if s.at(&["secret", "items"]).is_some() => files(&s["secret"], &format!("Secret {:?}", s.str_at(&["secret", "name"]))),
                () if s.at(&["downwardAPI", "items"]).is_some() => files(&s["downwardAPI"], "DownwardAPI"),
                () if s.at(&["serviceAccountToken"]).is_some() => one(s.str_at(&["serviceAccountToken", "path"]), "ServiceAccountToken".into()),
                () if s.at(&["clusterTrustBundle"]).is_some() => {
                    let b = &s["clusterTrustBundle"];
                    let whose = b.at(&["name"]).or(b.at(&["signerName"])).and_then(Value::as_str).unwrap_or("");
                    one(b.str_at(&["path"]), format!("ClusterTrustBundle {whose:?}"))
                }
                () => {
                    let c = s.at(&["podCertificate"]).unwrap_or(&Value::Null);
                    let kinds = [("certificateChainPath", "PodCertificate chain"), ("keyPath", "PodCertificate key"), ("credentialBundlePath", "PodCertificate credential bundle")];
                    kinds.iter().filter(|(f, _)| !c.str_at(&[f]).is_empty()).map(|(f, of)| Place(c.str_at(&[f]).to_owned(), (*of).to_owned())).collect()
                }
            });
        }
        tell("Projected", all);
        (0..empty).for_each(|_| out.push(format!("volume {name:?} (Projected) has no sources provided")));
    }
}
