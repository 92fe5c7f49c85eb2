//! ResourceQuota: what a namespace may hold. Usage is raised before the object is stored.

use std::collections::BTreeMap;

use knarr_registry::{ApiError, Object, Put};
use serde_json::{Value, json};

use super::{Attrs, Operation, pods::{milli, sum}};

/// What an object uses, in thousandths.
fn usage(a: &Attrs<'_>, obj: &Value) -> BTreeMap<String, i128> {
    let mut u = BTreeMap::new();
    let r = a.resource;
    let count = if r.group.is_empty() { format!("count/{}", r.plural) } else { format!("count/{}.{}", r.plural, r.group) };
    u.insert(count, 1000);
    if !r.group.is_empty() {
        return u;
    }
    match r.plural.as_ref() {
        "pods" => {
            if matches!(obj.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
                return u;
            }
            u.insert("pods".into(), 1000);
            for (member, prefix) in [("requests", "requests."), ("limits", "limits.")] {
                for (k, v) in sum(obj, member).as_object().into_iter().flatten() {
                    let n = milli(Some(v));
                    if member == "requests" && matches!(k.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                        u.insert(k.clone(), n);
                    }
                    u.insert(format!("{prefix}{k}"), n);
                }
            }
        }
        "services" => {
            u.insert("services".into(), 1000);
            let t = obj.str_at(&["spec", "type"]);
            let ports = i128::try_from(obj.list_at(&["spec", "ports"]).len()).unwrap_or(0) * 1000;
            if t == "NodePort" {
                u.insert("services.nodeports".into(), ports);
            }
            if t == "LoadBalancer" {
                u.insert("services.loadbalancers".into(), 1000);
                if obj.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)) {
                    u.insert("services.nodeports".into(), ports);
                }
            }
        }
        "persistentvolumeclaims" => {
            u.insert("persistentvolumeclaims".into(), 1000);
            let n = milli(obj.at(&["spec", "resources", "requests", "storage"]));
            u.insert("requests.storage".into(), n);
            let class = obj.str_at(&["spec", "storageClassName"]);
            if !class.is_empty() {
                u.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), n);
                u.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), 1000);
            }
        }
        p @ ("secrets" | "configmaps" | "replicationcontrollers" | "resourcequotas") => {
            u.insert(p.to_owned(), 1000);
        }
        _ => {}
    }
    u
}

/// Whether a quota's scopes include a pod.
fn in_scope(q: &Value, a: &Attrs<'_>, obj: &Value) -> bool {
    let mut all: Vec<(String, String, Vec<Value>)> = q
        .list_at(&["spec", "scopes"])
        .iter()
        .filter_map(|s| s.as_str().map(|s| (s.to_owned(), "Exists".to_owned(), Vec::new())))
        .collect();
    for e in q.list_at(&["spec", "scopeSelector", "matchExpressions"]) {
        all.push((e.str_at(&["scopeName"]).into(), e.str_at(&["operator"]).into(), e.list_at(&["values"]).to_vec()));
    }
    if all.is_empty() {
        return true;
    }
    if !a.is("", "pods") {
        return false;
    }
    let terminating = obj.at(&["spec", "activeDeadlineSeconds"]).is_some();
    let best = knarr_registry::strategy::qos_class(&obj["spec"]) == "BestEffort";
    all.iter().all(|(s, op, values)| match s.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best,
        "NotBestEffort" => !best,
        "PriorityClass" => {
            let c = obj.str_at(&["spec", "priorityClassName"]);
            match op.as_str() {
                "In" => values.iter().any(|v| v == c),
                "NotIn" => !values.iter().any(|v| v == c),
                "Exists" => !c.is_empty(),
                _ => c.is_empty(),
            }
        }
        _ => false,
    })
}

fn text(n: i128, like: &str) -> String {
    let units = [("Ki", 1024i128), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40)];
    if let Some((u, f)) = units.iter().rev().find(|(u, f)| like.ends_with('i') && n % (f * 1000) == 0 && n != 0 && !u.is_empty()) {
        return format!("{}{u}", n / (f * 1000));
    }
    if n % 1000 == 0 { (n / 1000).to_string() } else { format!("{n}m") }
}

pub(super) async fn check(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if !matches!(a.operation, Operation::Create | Operation::Update) || !a.subresource.is_empty() || a.namespace.is_empty() || a.is("", "namespaces") {
        return Ok(());
    }
    let Ok(kind) = a.core.kind("resourcequotas") else { return Ok(()) };
    let scope = kind.scope(&a.namespace);
    let snapshot = kind.cache.snapshot();
    if snapshot.prefixed(&scope).next().is_none() {
        return Ok(());
    }
    let mut delta = usage(a, obj);
    if let Some(o) = old {
        for (k, v) in usage(a, o) {
            *delta.entry(k).or_default() -= v;
        }
        delta.retain(|_, v| *v > 0);
    }
    let quotas: Vec<_> = snapshot.prefixed(&scope).cloned().collect();
    for entry in quotas {
        let mut current = Some(entry);
        while let Some(e) = current {
            let mut q = e.value();
            if !in_scope(&q, a, obj) {
                break;
            }
            let hard = q.at(&["status", "hard"]).or_else(|| q.at(&["spec", "hard"])).cloned().unwrap_or_default();
            let mut changed = false;
            let (mut over, mut requested, mut used, mut limited, mut missing) = (vec![], vec![], vec![], vec![], vec![]);
            for (k, h) in hard.as_object().into_iter().flatten() {
                if a.creates("", "pods") && matches!(k.as_str(), "cpu" | "memory" | "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory" | "ephemeral-storage" | "requests.ephemeral-storage" | "limits.ephemeral-storage") && !delta.contains_key(k) {
                    missing.push(k.clone());
                    continue;
                }
                let Some(d) = delta.get(k) else { continue };
                let like = h.as_str().unwrap_or("");
                let now = milli(q.at(&["status", "used", k]));
                let next = now + d;
                if next > milli(Some(h)) {
                    over.push(k.clone());
                    requested.push(format!("{k}={}", text(*d, like)));
                    used.push(format!("{k}={}", text(now, like)));
                    limited.push(format!("{k}={like}"));
                } else {
                    q.set_at(&["status", "used", k], json!(text(next, like)));
                    changed = true;
                }
            }
            if !missing.is_empty() {
                let list = missing.iter().map(|k| format!("{k} for: {}", obj.list_at(&["spec", "containers"]).iter().map(|c| c.str_at(&["name"])).collect::<Vec<_>>().join(","))).collect::<Vec<_>>().join("; ");
                return Err(a.forbidden(&format!("failed quota: {}: must specify {list}", e.name)));
            }
            if !over.is_empty() {
                return Err(a.forbidden(&format!("exceeded quota: {}, requested: {}, used: {}, limited: {}", e.name, requested.join(","), used.join(","), limited.join(","))));
            }
            if !changed || a.dry_run {
                break;
            }
            if q.at(&["status", "hard"]).is_none() {
                q.set_at(&["status", "hard"], hard);
            }
            current = match a.core.registry.put(&kind.cache, &e.key, q, e.revision, None).await? {
                Put::Done(_) => None,
                Put::Conflict(now, _) => now,
            };
        }
    }
    Ok(())
}
