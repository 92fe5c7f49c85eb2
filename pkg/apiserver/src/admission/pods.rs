//! What is filled into new pods: limits, service account, priority, runtime class, tolerations.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use knarr_registry::{ApiError, Object};
use knarr_schema::quantity::Quantity;
use serde_json::{Value, json};

use super::{Attrs, Operation, accounts};

const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn each_container(obj: &mut Value, lists: &[&str], mut f: impl FnMut(&mut Value)) {
    for l in lists {
        for c in obj.pointer_mut(&format!("/spec/{l}")).and_then(Value::as_array_mut).into_iter().flatten() {
            f(c);
        }
    }
}

/// ServiceAccount: the account, its pull secrets, and the volume with its token.
pub(super) fn service_account(a: &Attrs<'_>, obj: &mut Value) -> Result<(), ApiError> {
    if !obj.str_at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_empty() {
        return accounts::mirror(obj).map_or(Ok(()), |why| Err(a.forbidden(why)));
    }
    if obj.str_at(&["spec", "serviceAccountName"]).is_empty() {
        obj.set_at(&["spec", "serviceAccountName"], json!("default"));
    }
    let name = obj.str_at(&["spec", "serviceAccountName"]).to_owned();
    obj.set_at(&["spec", "serviceAccount"], json!(name));
    let Some(sa) = a.core.peek("serviceaccounts", &a.namespace, &name) else {
        return Err(a.forbidden(&format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", a.namespace)));
    };
    if obj.list_at(&["spec", "imagePullSecrets"]).is_empty()
        && let Some(s) = sa.at(&["imagePullSecrets"])
    {
        obj.set_at(&["spec", "imagePullSecrets"], s.clone());
    }
    if let Some(why) = accounts::secrets(&sa, obj) {
        return Err(a.forbidden(&why));
    }
    let mount = obj
        .at(&["spec", "automountServiceAccountToken"])
        .or_else(|| sa.at(&["automountServiceAccountToken"]))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if !mount {
        return Ok(());
    }
    let existing = obj
        .list_at(&["spec", "volumes"])
        .iter()
        .map(|v| v.str_at(&["name"]))
        .find(|n| n.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", knarr_registry::object::suffix()));
    let mut used = false;
    each_container(obj, &["initContainers", "containers"], |c| {
        if c.list_at(&["volumeMounts"]).iter().any(|m| m.str_at(&["mountPath"]) == TOKEN_DIR) {
            return;
        }
        used = true;
        let mut mounts = c.list_at(&["volumeMounts"]).to_vec();
        mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_DIR}));
        c["volumeMounts"] = Value::Array(mounts);
    });
    if used && existing.is_none() {
        let mut volumes = obj.list_at(&["spec", "volumes"]).to_vec();
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
        obj.set_at(&["spec", "volumes"], Value::Array(volumes));
    }
    Ok(())
}

/// Priority: the class' number and preemption policy.
pub(super) fn priority(a: &Attrs<'_>, obj: &mut Value) -> Result<(), ApiError> {
    let name = obj.str_at(&["spec", "priorityClassName"]).to_owned();
    let kind = a.core.kind("priorityclasses")?;
    let class = if name.is_empty() {
        let snapshot = kind.cache.snapshot();
        snapshot.range("").map(|e| Arc::clone(e.shared())).filter(|v| v.get("globalDefault") == Some(&Value::Bool(true))).min_by_key(|v| v.at(&["value"]).and_then(Value::as_i64))
    } else {
        match kind.cache.get(&kind.key("", &name)) {
            Some(e) => Some(Arc::clone(e.shared())),
            None => return Err(a.forbidden(&format!("no PriorityClass with name {name} was found"))),
        }
    };
    let (value, policy) = match &class {
        Some(c) => (c.at(&["value"]).and_then(Value::as_i64).unwrap_or(0), c.str_at(&["preemptionPolicy"]).to_owned()),
        None => (0, String::new()),
    };
    if let Some(c) = &class
        && name.is_empty()
    {
        obj.set_at(&["spec", "priorityClassName"], json!(c.name()));
    }
    let policy = if policy.is_empty() { "PreemptLowerPriority".to_owned() } else { policy };
    if let Some(p) = obj.at(&["spec", "priority"]).and_then(Value::as_i64)
        && p != value
    {
        return Err(a.forbidden(&format!("the integer value of priority ({p}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name")));
    }
    let given = obj.str_at(&["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        return Err(a.forbidden(&format!("the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name")));
    }
    obj.set_at(&["spec", "priority"], json!(value));
    obj.set_at(&["spec", "preemptionPolicy"], json!(policy));
    Ok(())
}

/// RuntimeClass: overhead and scheduling of the class.
pub(super) fn runtime_class(a: &Attrs<'_>, obj: &mut Value) -> Result<(), ApiError> {
    let name = obj.str_at(&["spec", "runtimeClassName"]).to_owned();
    if name.is_empty() {
        if obj.at(&["spec", "overhead"]).is_some() {
            return Err(a.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
        }
        return Ok(());
    }
    let Some(class) = a.core.peek("runtimeclasses", "", &name) else {
        return Err(a.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    if let Some(o) = class.at(&["overhead", "podFixed"]) {
        if let Some(own) = obj.at(&["spec", "overhead"])
            && own != o
        {
            return Err(a.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        obj.set_at(&["spec", "overhead"], o.clone());
    }
    for (k, v) in class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten() {
        let now = obj.str_at(&["spec", "nodeSelector", k]);
        if !now.is_empty() && v.as_str() != Some(now) {
            return Err(a.forbidden(&format!("conflict: runtimeClass.scheduling.nodeSelector[{k}] = {}; pod.spec.nodeSelector[{k}] = {now}", v.as_str().unwrap_or(""))));
        }
        obj.set_at(&["spec", "nodeSelector", k], v.clone());
    }
    for t in class.list_at(&["scheduling", "tolerations"]) {
        add_toleration(obj, t.clone());
    }
    Ok(())
}

fn add_toleration(obj: &mut Value, t: Value) {
    let mut all = obj.list_at(&["spec", "tolerations"]).to_vec();
    if !all.contains(&t) {
        all.push(t);
        obj.set_at(&["spec", "tolerations"], Value::Array(all));
    }
}

/// DefaultTolerationSeconds: five minutes on nodes that are lost.
pub(super) fn default_tolerations(obj: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let has = obj.list_at(&["spec", "tolerations"]).iter().any(|t| {
            (t.str_at(&["key"]) == key || t.str_at(&["key"]).is_empty())
                && matches!(t.str_at(&["effect"]), "NoExecute" | "")
        });
        if !has {
            add_toleration(obj, json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// Priority: an update that does not name the priority keeps it.
pub(super) fn keep_priority(obj: &mut Value, old: Option<&Value>) {
    for f in ["priority", "preemptionPolicy"] {
        if obj.at(&["spec", f]).is_none()
            && let Some(v) = old.and_then(|o| o.at(&["spec", f]))
        {
            obj.set_at(&["spec", f], v.clone());
        }
    }
}

/// PodTopologyLabels: a pod says in which zone and region its node is.
pub(super) fn topology_labels(a: &Attrs<'_>, obj: &mut Value) {
    let node = obj.str_at(&["spec", "nodeName"]).to_owned();
    let placed = a.creates("", "pods") || a.is("", "pods") && a.subresource == "binding";
    if !placed || node.is_empty() {
        return;
    }
    let Some(node) = a.core.entry("minions", "", &node) else { return };
    for key in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
        if let Some(v) = node.label(key) {
            obj.set_at(&["metadata", "labels", key], json!(v));
        }
    }
}

/// PodResizeValidator: what a pod asks for must fit its node at all.
pub(super) fn resize(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let node = obj.str_at(&["spec", "nodeName"]);
    if a.subresource != "resize" || !a.is("", "pods") || node.is_empty() || old.is_none_or(|o| o.generation() == obj.generation()) {
        return Ok(());
    }
    let Some(node) = a.core.peek("minions", "", node) else { return Err(a.forbidden(&format!("node {node:?} not found"))) };
    let os = node.str_at(&["metadata", "labels", "kubernetes.io/os"]);
    if !matches!(os, "" | "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {:?} is {os:?}", node.name());
        return Err(a.forbidden(&why).with_cause("UnsupportedPlatform", "", ""));
    }
    let requests = sum(obj, "requests");
    let mut short = Vec::new();
    for (k, unit) in [("cpu", 1), ("memory", 1000)] {
        let (wanted, there) = (milli(requests.get(k)), milli(node.at(&["status", "allocatable", k])));
        if wanted > there {
            short.push(format!("{k}, requested: {}, allocatable: {}", wanted / unit, there / unit));
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(a.forbidden(&format!("node didn't have enough allocatable resources: {}", short.join("; "))).with_cause("NodeCapacity", "", ""))
}

fn ranges(a: &Attrs<'_>) -> Vec<Value> {
    let Ok(kind) = a.core.kind("limitranges") else { return Vec::new() };
    let scope = kind.scope(&a.namespace);
    kind.cache.snapshot().prefixed(&scope).flat_map(|e| e.shared().list_at(&["spec", "limits"]).to_vec()).collect()
}

/// LimitRanger: defaults for containers that say nothing.
pub(super) fn limit_ranger(a: &Attrs<'_>, obj: &mut Value) -> Result<(), ApiError> {
    let all = ranges(a);
    let mut notes: Vec<String> = Vec::new();
    for item in all.iter().filter(|i| i.str_at(&["type"]) == "Container") {
        for list in ["containers", "initContainers"] {
            each_container(obj, &[list], |c| {
                let name = c.str_at(&["name"]).to_owned();
                for (member, from) in [("limits", "default"), ("requests", "defaultRequest")] {
                    let mut set = Vec::new();
                    for (k, v) in item.at(&[from]).and_then(Value::as_object).into_iter().flatten() {
                        let given = c.at(&["resources", member, k]).is_some()
                            || (member == "requests" && c.at(&["resources", "limits", k]).is_some() && !notes.iter().any(|n| n.ends_with(&format!("limit for container {name}"))));
                        if !given {
                            c.set_at(&["resources", member, k], v.clone());
                            set.push(k.as_str());
                        }
                    }
                    if !set.is_empty() {
                        let what = if list == "containers" { "container" } else { "init container" };
                        notes.push(format!("{} {} for {what} {name}", set.join(", "), member.trim_end_matches('s')));
                    }
                }
            });
        }
    }
    // A limit alone is a request too.
    each_container(obj, &["containers", "initContainers"], |c| {
        let limits: Vec<(String, Value)> = c.at(&["resources", "limits"]).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        for (k, v) in limits {
            if c.at(&["resources", "requests", &k]).is_none() {
                c.set_at(&["resources", "requests", &k], v);
            }
        }
    });
    if !notes.is_empty() {
        obj.set_at(&["metadata", "annotations", "kubernetes.io/limit-ranger"], json!(format!("LimitRanger plugin set: {}", notes.join("; "))));
    }
    Ok(())
}

/// A quantity in thousandths; 0 if it cannot be read.
pub(super) fn milli(v: Option<&Value>) -> i128 {
    let text = match v {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => return 0,
    };
    Quantity::parse(&text).map_or(0, |q| i128::from(q.milli_value()))
}

/// LimitRanger: minimum, maximum, and how far limits may be above requests.
pub(super) fn limits(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let pod = a.creates("", "pods") || a.is("", "pods") && a.subresource == "resize";
    let claim = a.is("", "persistentvolumeclaims") && a.subresource.is_empty();
    if !matches!(a.operation, Operation::Create | Operation::Update) || !(pod || claim) || old.is_some_and(Object::deleting) {
        return Ok(());
    }
    let mut out: Vec<String> = Vec::new();
    for item in ranges(a) {
        let kind = item.str_at(&["type"]);
        let targets: Vec<Value> = match kind {
            "Container" if pod => ["containers", "initContainers"].iter().flat_map(|l| obj.list_at(&["spec", l])).map(|c| c["resources"].clone()).collect(),
            "Pod" if pod => vec![json!({"requests": sum(obj, "requests"), "limits": sum(obj, "limits")})],
            "PersistentVolumeClaim" if claim => {
                let requests = &obj["spec"]["resources"]["requests"];
                // A claim has no limits: its requests are what must be within both bounds.
                outside(&json!({"min": item["min"]}), kind, &json!({"requests": requests}), &mut out);
                too_much(&item, kind, requests, &mut out);
                continue;
            }
            _ => continue,
        };
        for t in &targets {
            outside(&item, kind, t, &mut out);
            ratios(&item, kind, t, &mut out);
        }
    }
    match out.len() {
        0 => Ok(()),
        1 => Err(a.forbidden(&out[0])),
        _ => Err(a.forbidden(&format!("[{}]", out.join(", ")))),
    }
}

fn bounds<'i>(item: &'i Value, which: &str) -> impl Iterator<Item = (&'i String, &'i Value)> {
    item.at(&[which]).and_then(Value::as_object).into_iter().flatten()
}

/// What of a claim's requests is above the maximum.
fn too_much(item: &Value, kind: &str, requests: &Value, out: &mut Vec<String>) {
    for (k, v) in bounds(item, "max") {
        let text = v.as_str().unwrap_or("");
        match requests.at(&[k]) {
            None => out.push(format!("maximum {k} usage per {kind} is {text}.  No request is specified")),
            Some(r) if milli(Some(r)) > milli(Some(v)) => out.push(format!("maximum {k} usage per {kind} is {text}, but request is {}", r.as_str().unwrap_or(""))),
            Some(_) => {}
        }
    }
}

/// Limits that are too far above requests.
fn ratios(item: &Value, kind: &str, t: &Value, out: &mut Vec<String>) {
    for (k, v) in bounds(item, "maxLimitRequestRatio") {
        let text = v.as_str().unwrap_or("");
        let (request, limit) = (milli(t.at(&["requests", k])), milli(t.at(&["limits", k])));
        let begin = format!("{k} max limit to request ratio per {kind} is {text}, but");
        if request == 0 {
            out.push(format!("{begin} no request is specified or request is 0"));
        } else if limit == 0 {
            out.push(format!("{begin} no limit is specified or limit is 0"));
        } else if limit * 1000 > request * milli(Some(v)) {
            out.push(format!("{begin} provided ratio is {:.6}", limit as f64 / request as f64));
        }
    }
}

/// What of a container's or pod's resources is outside a LimitRange item, in upstream's words.
fn outside(item: &Value, kind: &str, t: &Value, out: &mut Vec<String>) {
    let shown = |q: Option<&Value>| q.and_then(Value::as_str).unwrap_or("").to_owned();
    for (k, v) in item.at(&["min"]).and_then(Value::as_object).into_iter().flatten() {
        let (text, least) = (v.as_str().unwrap_or(""), milli(Some(v)));
        let (request, limit) = (t.at(&["requests", k]), t.at(&["limits", k]));
        if request.is_none() {
            out.push(format!("minimum {k} usage per {kind} is {text}.  No request is specified"));
        } else if milli(request) < least {
            out.push(format!("minimum {k} usage per {kind} is {text}, but request is {}", shown(request)));
        } else if limit.is_some() && milli(limit) < least {
            out.push(format!("minimum {k} usage per {kind} is {text}, but limit is {}", shown(limit)));
        }
    }
    for (k, v) in item.at(&["max"]).and_then(Value::as_object).into_iter().flatten() {
        let (text, most) = (v.as_str().unwrap_or(""), milli(Some(v)));
        let (request, limit) = (t.at(&["requests", k]), t.at(&["limits", k]));
        if limit.is_none() {
            out.push(format!("maximum {k} usage per {kind} is {text}.  No limit is specified"));
        } else if milli(limit) > most {
            out.push(format!("maximum {k} usage per {kind} is {text}, but limit is {}", shown(limit)));
        } else if milli(request) > most {
            out.push(format!("maximum {k} usage per {kind} is {text}, but request is {}", shown(request)));
        }
    }
}

/// The sum of a pod's requests or limits by resource, in `m` or whole units.
pub(super) fn sum(obj: &Value, member: &str) -> Value {
    let mut out = serde_json::Map::new();
    let mut add = |k: &str, v: i128, max: bool| {
        let now = milli(out.get(k));
        let n = if max { now.max(v) } else { now + v };
        let text = if n % 1000 == 0 { (n / 1000).to_string() } else { format!("{n}m") };
        out.insert(k.to_owned(), json!(text));
    };
    for c in obj.list_at(&["spec", "containers"]) {
        for (k, v) in c.at(&["resources", member]).and_then(Value::as_object).into_iter().flatten() {
            add(k, milli(Some(v)), false);
        }
    }
    for c in obj.list_at(&["spec", "initContainers"]) {
        for (k, v) in c.at(&["resources", member]).and_then(Value::as_object).into_iter().flatten() {
            add(k, milli(Some(v)), c.str_at(&["restartPolicy"]) != "Always");
        }
    }
    for (k, v) in obj.at(&["spec", "overhead"]).and_then(Value::as_object).into_iter().flatten() {
        add(k, milli(Some(v)), false);
    }
    Value::Object(out)
}
