//! Subresources with bodies of their own.

use std::sync::Arc;

use bytes::Bytes;
use knarr_registry::{
    ApiError, FieldError, Object,
    object,
    rest::{self, DeleteOptions, Deleted, WriteOptions},
    selector::{Requirement, Selector},
    strategy,
};
use knarr_schema::Resource;
use serde_json::{Value, json};

use super::{Hooked, show, write};
use crate::{
    admission::Operation,
    bridge,
    core::Ctx,
    respond::Reply,
};

fn media(ctx: &Ctx) -> String {
    ctx.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json").split(';').next().unwrap_or("").trim().to_lowercase()
}

pub(super) async fn serve(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    match (ctx.resource.plural.as_ref(), ctx.info.subresource.as_str(), ctx.info.verb.as_str()) {
        (_, "scale", _) => scale(ctx, body).await,
        ("pods", "binding", "create") => bind(ctx, body, &ctx.info.name).await,
        ("pods", "eviction", "create") => evict(ctx, body).await,
        ("pods", "ephemeralcontainers" | "resize", "get") | ("certificatesigningrequests", "approval", "get") => {
            ctx.core.registry.current().await?;
            let kind = ctx.kind()?;
            let key = kind.key(&ctx.info.namespace_of(kind.namespaced), &ctx.info.name);
            let e = kind.cache.get(&key).ok_or_else(|| ApiError::not_found(&ctx.resource.group, &ctx.resource.plural, &ctx.info.name))?;
            show(ctx, 200, &e).await
        }
        ("pods", "ephemeralcontainers" | "resize", "update")
        | ("certificatesigningrequests", "approval", "update") => write::update(ctx, body).await,
        ("pods", "ephemeralcontainers" | "resize", "patch")
        | ("certificatesigningrequests", "approval", "patch") => write::patch(ctx, body).await,
        ("namespaces", "finalize", "update") => write::update(ctx, body).await,
        ("serviceaccounts", "token", "create") => token(ctx, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The scale of an object.
fn scale_of(v: &Value, ctx: &Ctx) -> Value {
    if let Some(paths) = &ctx.resource.scale {
        return custom_scale(v, paths);
    }
    let selector = v.at(&["spec", "selector"]);
    let text = match (ctx.resource.plural.as_ref(), selector) {
        (_, None) => String::new(),
        ("replicationcontrollers", Some(s)) => labels_text(Some(s), &[]),
        (_, Some(s)) => labels_text(s.get("matchLabels"), s.list_at(&["matchExpressions"])),
    };
    let mut meta = json!({"name": v.name(), "uid": v.uid(), "resourceVersion": v.resource_version(), "creationTimestamp": v["metadata"]["creationTimestamp"]});
    if !v.namespace().is_empty() {
        meta["namespace"] = json!(v.namespace());
    }
    let mut spec = json!({});
    if let Some(n) = v.at(&["spec", "replicas"]).filter(|n| n.as_i64() != Some(0)) {
        spec["replicas"] = n.clone();
    }
    let mut status = json!({"replicas": v.at(&["status", "replicas"]).cloned().unwrap_or(json!(0))});
    if !text.is_empty() {
        status["selector"] = json!(text);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status})
}

/// The members of a simple JSON path such as `.spec.replicas`.
fn members(paths: &Value, key: &str) -> Vec<String> {
    paths.str_at(&[key]).split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

fn reach<'v>(v: &'v Value, path: &[String]) -> Option<&'v Value> {
    v.at(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The scale of a custom resource, by the paths of its definition.
fn custom_scale(v: &Value, paths: &Value) -> Value {
    let mut meta = json!({});
    for f in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(x) = v.at(&["metadata", f]) {
            meta[f] = x.clone();
        }
    }
    let number = |key: &str| reach(v, &members(paths, key)).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = json!({});
    if number("specReplicasPath") != 0 {
        spec["replicas"] = json!(number("specReplicasPath"));
    }
    let mut status = json!({"replicas": number("statusReplicasPath")});
    let selector = members(paths, "labelSelectorPath");
    if let Some(s) = reach(v, &selector).and_then(Value::as_str).filter(|_| !selector.is_empty()) {
        status["selector"] = json!(s);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status})
}

fn labels_text(map: Option<&Value>, expressions: &[Value]) -> String {
    let mut parts: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    for e in expressions {
        let k = e.str_at(&["key"]);
        let values: Vec<&str> = e.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
        parts.push(match e.str_at(&["operator"]) {
            "In" => format!("{k} in ({})", values.join(",")),
            "NotIn" => format!("{k} notin ({})", values.join(",")),
            "Exists" => k.to_owned(),
            _ => format!("!{k}"),
        });
    }
    parts.sort();
    parts.join(",")
}

async fn scale(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?;
    let ns = ctx.info.namespace_of(kind.namespaced);
    let name = &ctx.info.name;
    if ctx.info.verb == "get" {
        ctx.core.registry.current().await?;
        let e = kind.cache.get(&kind.key(&ns, name)).ok_or_else(|| ApiError::not_found(&ctx.resource.group, &ctx.resource.plural, name))?;
        return show_scale(ctx, &scale_of(&e.value(), ctx));
    }
    let patch = if ctx.info.verb == "patch" { Some(bridge::Patch::parse_untyped(&media(ctx), &body)?) } else { None };
    let sent = if patch.is_none() { Some(bridge::decode_any(&media(ctx), &body, "autoscaling/v1", "Scale")?) } else { None };
    let o = WriteOptions { dry_run: ctx.dry_run()?, ..WriteOptions::default() };
    let hooks = Hooked::new(ctx, Operation::Update, "scale", o.dry_run);
    let u = rest::update(&ctx.core.registry, kind, &ns, name, &o, &hooks, |old| {
        let out = (|| {
            let mut old = old.ok_or_else(|| ApiError::not_found(&ctx.resource.group, &ctx.resource.plural, name))?;
            let now = scale_of(&old, ctx);
            let wanted = match (&patch, &sent) {
                (Some(p), _) => p.apply_untyped(&now)?,
                (_, Some(s)) => s.clone(),
                _ => now,
            };
            let rv = wanted.resource_version();
            if !rv.is_empty() && rv != old.resource_version() {
                return Err(ApiError::modified(&ctx.resource.group, &ctx.resource.plural, name));
            }
            let n = wanted.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
            if n < 0 {
                return Err(ApiError::invalid("autoscaling", "Scale", name, &[FieldError::invalid("spec.replicas", n, "must be greater than or equal to 0")]));
            }
            let path = ctx.resource.scale.as_ref().map_or_else(|| vec!["spec".to_owned(), "replicas".to_owned()], |p| members(p, "specReplicasPath"));
            old.set_at(&path.iter().map(String::as_str).collect::<Vec<_>>(), json!(n));
            Ok(old)
        })();
        std::future::ready(out)
    })
    .await?;
    show_scale(ctx, &scale_of(&u.entry.value(), ctx))
}

fn show_scale(ctx: &Ctx, v: &Value) -> Result<Reply, ApiError> {
    super::show_value_of(ctx, &scale_row(ctx), 200, v)
}

/// The row of scales: a custom resource's have columns of their own.
fn scale_row(ctx: &Ctx) -> Resource {
    let mut row = Resource { group: "autoscaling".into(), version: "v1".into(), plural: "scales".into(), kind: "Scale".into(), ..Resource::default() };
    let Some(paths) = &ctx.resource.scale else {
        row.ty = ctx.table.catalog.type_of("autoscaling", "v1", "Scale");
        return row;
    };
    let columns = [
        ("Desired", "integer", ".spec.replicas", "Number of desired replicas", "specReplicasPath"),
        ("Available", "integer", ".status.replicas", "Number of actual replicas", "statusReplicasPath"),
        ("Age", "date", ".metadata.creationTimestamp", "When it was made", ""),
    ];
    let given = columns.iter().filter(|(.., path)| path.is_empty() || !paths.str_at(&[path]).is_empty());
    row.printer_columns = given.map(|(name, kind, path, what, _)| json!({"name": name, "type": kind, "jsonPath": path, "description": what})).collect();
    row
}

/// Binds a pod to a node.
pub(super) async fn bind(ctx: &Arc<Ctx>, body: Bytes, name: &str) -> Result<Reply, ApiError> {
    let b = bridge::decode_any(&media(ctx), &body, "v1", "Binding")?;
    let name = if name.is_empty() { b.name().to_owned() } else { name.to_owned() };
    let node = b.str_at(&["target", "name"]).to_owned();
    let target = b.str_at(&["target", "kind"]);
    if !target.is_empty() && target != "Node" {
        return Err(ApiError::invalid("", "Binding", &name, &[FieldError::not_supported("target.kind", target, &["Node", ""])]));
    }
    if node.is_empty() {
        return Err(ApiError::invalid("", "Binding", &name, &[FieldError::required("target.name", "")]));
    }
    let kind = ctx.core.kind("pods")?;
    let o = WriteOptions { dry_run: ctx.dry_run()?, subresource: "binding".into(), ..WriteOptions::default() };
    let hooks = Hooked::new(ctx, Operation::Update, "binding", o.dry_run);
    rest::update(&ctx.core.registry, &kind, &ctx.info.namespace, &name, &o, &hooks, |old| {
        let out = (|| {
            let mut pod = old.ok_or_else(|| ApiError::not_found("", "pods", &name))?;
            let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", &name, &why));
            if !b.uid().is_empty() && b.uid() != pod.uid() {
                return conflict(format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", b.uid(), pod.uid()));
            }
            if pod.deleting() {
                return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let now = pod.str_at(&["spec", "nodeName"]);
            if !now.is_empty() {
                return conflict(format!("pod {name} is already assigned to node {now:?}"));
            }
            if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
                return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            pod.set_at(&["spec", "nodeName"], json!(node));
            for map in ["annotations", "labels"] {
                if let Some(m) = b.at(&["metadata", map]).and_then(Value::as_object) {
                    for (k, v) in m {
                        pod.set_at(&["metadata", map, k], v.clone());
                    }
                }
            }
            strategy::set_pod_condition(&mut pod, "PodScheduled", "True", "", "");
            pod.meta_mut().remove("resourceVersion");
            Ok(pod)
        })();
        std::future::ready(out)
    })
    .await?;
    let s = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(super::finish(ctx, crate::respond::object(201, &s, ctx.format)))
}

/// Whether a budget's selector (an object) selects labels.
fn selects(s: &Value, pod: &Value) -> bool {
    let mut all = Vec::new();
    for (k, v) in s.at(&["matchLabels"]).and_then(Value::as_object).into_iter().flatten() {
        all.push(Requirement::In(k.clone(), vec![v.as_str().unwrap_or("").to_owned()]));
    }
    for e in s.list_at(&["matchExpressions"]) {
        let k = e.str_at(&["key"]).to_owned();
        let v = e.list_at(&["values"]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        all.push(match e.str_at(&["operator"]) {
            "In" => Requirement::In(k, v),
            "NotIn" => Requirement::NotIn(k, v),
            "Exists" => Requirement::Exists(k),
            _ => Requirement::Absent(k),
        });
    }
    Selector { all }.holds(|k| pod.at(&["metadata", "labels", k]).and_then(Value::as_str))
}

async fn evict(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let e = bridge::decode_any(&media(ctx), &body, "policy/v1", "Eviction")?;
    let d = e.get("deleteOptions").cloned().unwrap_or_default();
    let name = ctx.info.name.clone();
    if !e.name().is_empty() && e.name() != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let pods = ctx.core.kind("pods")?;
    let pod = ctx.core.registry.get(&pods.cache, &pods.key(&ctx.info.namespace, &name), true).await?.ok_or_else(|| ApiError::not_found("", "pods", &name))?.value();
    let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || pod.deleting();
    let mut o = DeleteOptions {
        grace: d.at(&["gracePeriodSeconds"]).and_then(Value::as_i64),
        uid: d.at(&["preconditions", "uid"]).and_then(Value::as_str).map(str::to_owned),
        resource_version: d.at(&["preconditions", "resourceVersion"]).and_then(Value::as_str).map(str::to_owned),
        propagation: d.at(&["propagationPolicy"]).and_then(Value::as_str).map(str::to_owned),
        ..DeleteOptions::default()
    };
    o.dry_run = ctx.dry_run()? || d.list_at(&["dryRun"]).iter().any(|x| x == "All");
    o.check(&pods, &name, &pod)?;
    if !ended && let Ok(budgets) = ctx.core.kind("poddisruptionbudgets") {
        let scope = budgets.scope(&ctx.info.namespace);
        let snapshot = budgets.cache.snapshot();
        let found: Vec<_> = snapshot.prefixed(&scope).filter(|b| { let v = b.value(); v.at(&["spec", "selector"]).is_some_and(|s| selects(s, &pod)) }).cloned().collect();
        if found.len() > 1 {
            return Err(ApiError::new(500, "InternalError", "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."));
        }
        if let Some(b) = found.first().filter(|b| !may_go_unhealthy(&b.value(), &pod)) {
            let hooks = Hooked { manager: None, ..Hooked::new(ctx, Operation::Update, "status", o.dry_run) };
            let w = WriteOptions { dry_run: o.dry_run, subresource: "status".into(), ..WriteOptions::default() };
            let budget = b.name.to_string();
            rest::update(&ctx.core.registry, &budgets, &ctx.info.namespace, &budget, &w, &Internal(&hooks), |old| {
                let out = (|| {
                    let mut v = old.ok_or_else(|| ApiError::not_found("policy", "poddisruptionbudgets", &budget))?;
                    let allowed = v.at(&["status", "disruptionsAllowed"]).and_then(Value::as_i64).unwrap_or(0);
                    let seen = v.at(&["status", "observedGeneration"]).and_then(Value::as_i64).unwrap_or(0);
                    if seen < v.generation() {
                        return Err(ApiError::new(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
                            .with_cause("DisruptionBudget", &format!("The disruption budget {budget} is still being processed by the server."), "").retry_after(10));
                    }
                    if allowed <= 0 {
                        let healthy = v.at(&["status", "currentHealthy"]).and_then(Value::as_i64).unwrap_or(0);
                        let desired = v.at(&["status", "desiredHealthy"]).and_then(Value::as_i64).unwrap_or(0);
                        return Err(ApiError::new(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
                            .with_cause("DisruptionBudget", &format!("The disruption budget {budget} needs {desired} healthy pods and has {healthy} currently"), ""));
                    }
                    v.set_at(&["status", "disruptionsAllowed"], json!(allowed - 1));
                    v.set_at(&["status", "disruptedPods", &name], json!(object::now()));
                    Ok(v)
                })();
                std::future::ready(out)
            })
            .await?;
        }
    }
    if !o.dry_run {
        // What watches the pod's end learns that it was not the pod's own failure.
        let hooks = Hooked { manager: None, ..Hooked::new(ctx, Operation::Update, "status", false) };
        let w = WriteOptions { subresource: "status".into(), ..WriteOptions::default() };
        rest::update(&ctx.core.registry, &pods, &ctx.info.namespace, &name, &w, &Internal(&hooks), |old| {
            let out = old.ok_or_else(|| ApiError::not_found("", "pods", &name)).and_then(|mut v| {
                o.check(&pods, &name, &v)?;
                let mut conditions = v.list_at(&["status", "conditions"]).to_vec();
                conditions.retain(|c| c.str_at(&["type"]) != "DisruptionTarget");
                conditions.push(json!({
                    "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
                    "observedGeneration": v.generation(), "lastTransitionTime": object::now(),
                }));
                v.set_at(&["status", "conditions"], json!(conditions));
                Ok(v)
            });
            std::future::ready(out)
        })
        .await?;
        // That was ours; the client's wish was about the pod before it.
        o.resource_version = None;
    }
    let hooks = Hooked::new(ctx, Operation::Delete, "", o.dry_run);
    let (Deleted::Gone(_) | Deleted::Pending(_)) = rest::delete(&ctx.core.registry, &pods, &ctx.info.namespace, &name, &o, &hooks).await?;
    let s = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(super::finish(ctx, crate::respond::object(201, &s, ctx.format)))
}

/// Whether a budget lets a pod go that is not ready and so disrupts nothing.
fn may_go_unhealthy(budget: &Value, pod: &Value) -> bool {
    let ready = pod.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True");
    let count = |name| budget.at(&["status", name]).and_then(Value::as_i64).unwrap_or(0);
    let healthy = count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy");
    !ready && (healthy || budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow")
}

/// A write the server makes itself: no admission.
struct Internal<'a>(&'a Hooked<'a>);

#[async_trait::async_trait]
impl rest::Hooks for Internal<'_> {
    async fn mutate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn allocate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn validate(&self, _: &Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    fn warn(&self, text: String) {
        self.0.ctx.warn(text);
    }
}

/// Makes a token for a service account.
async fn token(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    let mut req = bridge::decode_any(&media(ctx), &body, "authentication.k8s.io/v1", "TokenRequest")?;
    let (ns, name) = (&ctx.info.namespace, &ctx.info.name);
    ctx.core.registry.current().await?;
    let sa = ctx.core.peek("serviceaccounts", ns, name).ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
    let mut seconds = req.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(3600);
    if seconds < 600 {
        return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", name, &[FieldError::invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")]));
    }
    seconds = seconds.min(1 << 32);
    let audiences: Vec<String> = match req.list_at(&["spec", "audiences"]) {
        [] => ctx.core.tokens.audiences.clone(),
        l => l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
    };
    let mut kube = json!({"namespace": ns, "serviceaccount": {"name": name, "uid": sa.uid()}});
    let node_user = ctx.user.node().map(str::to_owned);
    if let Some(r) = req.at(&["spec", "boundObjectRef"]).cloned() {
        let (prefix, member, group_kind) = match r.str_at(&["kind"]) {
            "Pod" => ("pods", "pod", ("", "pods")),
            "Secret" => ("secrets", "secret", ("", "secrets")),
            "Node" => ("minions", "node", ("", "nodes")),
            k => return Err(ApiError::bad_request(format!("cannot bind token for serviceaccount {name:?} to an object of type {k:?}"))),
        };
        let bound = ctx.core.peek(prefix, ns, r.str_at(&["name"])).ok_or_else(|| ApiError::not_found(group_kind.0, group_kind.1, r.str_at(&["name"])))?;
        let uid = r.str_at(&["uid"]);
        if !uid.is_empty() && uid != bound.uid() {
            return Err(ApiError::conflict(group_kind.0, group_kind.1, r.str_at(&["name"]), &format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")));
        }
        kube[member] = json!({"name": bound.name(), "uid": bound.uid()});
        if node_user.is_some() && member != "pod" {
            return Err(ApiError::forbidden("", "serviceaccounts", name, "node requested token not bound to a pod"));
        }
        if member == "pod" {
            let sa_of_pod = match bound.str_at(&["spec", "serviceAccountName"]) { "" => "default", s => s };
            if sa_of_pod != name {
                return Err(ApiError::bad_request(format!("cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name {:?}.", sa_of_pod)));
            }
            let node = bound.str_at(&["spec", "nodeName"]);
            if node_user.as_deref().is_some_and(|n| n != node) {
                return Err(ApiError::forbidden("", "serviceaccounts", name, "node requested token bound to a pod scheduled on a different node"));
            }
            if node_user.is_some() {
                if uid.is_empty() {
                    return Err(ApiError::forbidden("", "serviceaccounts", name, "node requested token with a pod binding without a uid"));
                }
                crate::admission::audience(ctx, &bound, req.list_at(&["spec", "audiences"]))?;
            }
            if let Some(n) = ctx.core.peek("minions", "", node) {
                kube["node"] = json!({"name": node, "uid": n.uid()});
            }
        }
    } else if node_user.is_some() {
        return Err(ApiError::forbidden("", "serviceaccounts", name, "node requested token not bound to a pod"));
    }
    let now = chrono::Utc::now().timestamp();
    // Tokens in pods are asked for an hour and may live longer while clients learn to reload them.
    let extended = audiences == ctx.core.tokens.audiences && seconds == 3607;
    let exp = if extended { now + 365 * 24 * 3600 } else { now + seconds };
    if extended {
        kube["warnafter"] = json!(now + seconds);
    }
    let claims = json!({"aud": audiences, "exp": exp, "iat": now, "iss": ctx.core.tokens.issuer,
        "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": kube, "nbf": now,
        "sub": format!("system:serviceaccount:{ns}:{name}")});
    let text = ctx.core.tokens.signer.sign(&claims).map_err(ApiError::internal)?;
    req.set_at(&["apiVersion"], json!("authentication.k8s.io/v1"));
    req.set_at(&["kind"], json!("TokenRequest"));
    req.set_at(&["spec", "audiences"], json!(audiences));
    req.set_at(&["spec", "expirationSeconds"], json!(seconds));
    req.set_at(&["status"], json!({"token": text, "expirationTimestamp": object::after(seconds)}));
    req.set_at(&["metadata"], json!({"name": name, "namespace": ns, "creationTimestamp": object::now()}));
    let mut r = crate::respond::object(201, &req, ctx.format);
    if let Ok(w) = ctx.warnings.lock() {
        crate::respond::warn(&mut r, &w);
    }
    Ok(r)
}
