//! Namespaces: content is deleted, then the namespace.

use crate::discovery::{Resource, discover};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Event, Informers, Plan, Queue, message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The namespace controller.
pub struct Namespaces {
    namespaces: Arc<Cache<Namespace>>,
    pods: Arc<Cache<Pod>>,
}

impl Namespaces {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { namespaces: i.get(), pods: i.get() }
    }
}

#[derive(Default)]
struct Progress {
    discovery: Option<String>,
    failures: Vec<String>,
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    /// Seconds until what remains should be gone.
    estimate: i64,
}

async fn list(i: &Informers, r: &Resource, ns: &str) -> Result<Vec<Value>, kube::Error> {
    let req = http::Request::get(r.path(ns))
        .header(
            "accept",
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
        )
        .body(Vec::new())
        .map_err(|e| kube::Error::Service(Box::new(e)))?;
    let v: Value = i.client().request(req).await?;
    Ok(v.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
}

async fn delete(i: &Informers, path: &str) -> Result<(), kube::Error> {
    let body = br#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}"#;
    let req = http::Request::delete(path)
        .header("content-type", "application/json")
        .body(body.to_vec())
        .map_err(|e| kube::Error::Service(Box::new(e)))?;
    i.client().request_text(req).await.map(drop)
}

async fn clear(i: &Informers, r: &Resource, ns: &str, p: &mut Progress) {
    let label = format!("{}.{}", r.plural, r.group);
    let result: Result<Vec<Value>, kube::Error> = async {
        if r.can("deletecollection") {
            match delete(i, &r.path(ns)).await {
                Err(e) if knarr_runner::is_status(&e, 405) || knarr_runner::is_not_found(&e) => {}
                other => other?,
            }
        }
        let mut items = list(i, r, ns).await?;
        if !items.is_empty() && !r.can("deletecollection") {
            for o in &items {
                let name = o["metadata"]["name"].as_str().unwrap_or("");
                match delete(i, &format!("{}/{name}", r.path(ns))).await {
                    Err(e) if knarr_runner::is_not_found(&e) => {}
                    other => other?,
                }
            }
            items = list(i, r, ns).await?;
        }
        Ok(items)
    }
    .await;
    match result {
        Err(e) if knarr_runner::is_not_found(&e) || knarr_runner::is_status(&e, 405) => {}
        Err(e) => p.failures.push(message(&e)),
        Ok(items) if items.is_empty() => {}
        Ok(items) => {
            let mut held = false;
            for o in &items {
                for f in o["metadata"]["finalizers"].as_array().into_iter().flatten() {
                    *p.finalizers.entry(f.as_str().unwrap_or("").to_owned()).or_default() += 1;
                    held = true;
                }
                let grace = o["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
                p.estimate = p.estimate.max(grace);
            }
            p.estimate = p.estimate.max(if held { 15 } else { 1 });
            p.remaining.insert(label, items.len());
        }
    }
}

async fn clear_all(i: &Informers, ns: &str) -> Result<Progress, kube::Error> {
    let (resources, failed) = discover(i).await?;
    let mut p = Progress::default();
    if !failed.is_empty() {
        let list: Vec<String> = failed.iter().map(|(g, e)| format!("{g}: {e}")).collect();
        p.discovery = Some(format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            failed.len(),
            list.join(", ")
        ));
    }
    let mut wanted: Vec<&Resource> =
        resources.iter().filter(|r| r.namespaced && r.can("delete") && r.can("list")).collect();
    // Pods first and alone: what they need to end in order must outlive them.
    wanted.sort_by_key(|r| !(r.group.is_empty() && r.plural == "pods"));
    for r in wanted {
        clear(i, r, ns, &mut p).await;
        if r.group.is_empty() && r.plural == "pods" && !p.remaining.is_empty() {
            break;
        }
    }
    Ok(p)
}

fn set(conds: &mut Vec<NamespaceCondition>, kind: &str, bad: Option<(&str, String)>, good: (&str, &str), now: Timestamp) {
    let (status, reason, text) = match bad {
        Some((r, t)) => ("True", r, t),
        None => ("False", good.0, good.1.to_owned()),
    };
    let old = conds.iter().position(|c| c.type_ == kind).map(|i| (i, conds[i].clone()));
    let keep = old.as_ref().filter(|(_, o)| o.status == status);
    let c = NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(text),
        last_transition_time: keep
            .and_then(|(_, o)| o.last_transition_time.clone())
            .or_else(|| Some(meta::time(now))),
    };
    match old {
        Some((i, _)) => conds[i] = c,
        None => conds.push(c),
    }
}

fn conditions(ns: &Namespace, p: &Progress, now: Timestamp) -> Vec<NamespaceCondition> {
    let mut c = ns.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let list = |m: &BTreeMap<String, usize>, word: &str| {
        m.iter().map(|(k, n)| format!("{k} {word} {n} resource instances")).collect::<Vec<_>>().join(", ")
    };
    set(
        &mut c,
        "NamespaceDeletionDiscoveryFailure",
        p.discovery.clone().map(|t| ("DiscoveryFailed", t)),
        ("ResourcesDiscovered", "All resources successfully discovered"),
        now,
    );
    set(
        &mut c,
        "NamespaceDeletionGroupVersionParsingFailure",
        None,
        ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        now,
    );
    let failed = (!p.failures.is_empty()).then(|| {
        (
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                p.failures.len(),
                p.failures.join(", ")
            ),
        )
    });
    set(
        &mut c,
        "NamespaceDeletionContentFailure",
        failed,
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        now,
    );
    let remain = (!p.remaining.is_empty()).then(|| {
        ("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&p.remaining, "has")))
    });
    set(
        &mut c,
        "NamespaceContentRemaining",
        remain,
        ("ContentRemoved", "All content successfully removed"),
        now,
    );
    let held = (!p.finalizers.is_empty()).then(|| {
        (
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                list(&p.finalizers, "in")
            ),
        )
    });
    set(
        &mut c,
        "NamespaceFinalizersRemaining",
        held,
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        now,
    );
    c
}

async fn finalize(i: Informers, ns: Arc<Namespace>, q: Arc<Cache<Namespace>>) -> Result<(), kube::Error> {
    let name = meta::name(&ns.metadata).to_owned();
    let mut ns = ns.as_ref().clone();
    if ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
        ns.status.get_or_insert_default().phase = Some("Terminating".into());
        ns = i.update_status(&ns).await?.as_ref().clone();
    }
    let p = clear_all(&i, &name).await?;
    let conds = conditions(&ns, &p, Timestamp::now());
    if ns.status.as_ref().and_then(|s| s.conditions.as_ref()) != Some(&conds) {
        let done = p.remaining.is_empty() && p.failures.is_empty() && p.discovery.is_none();
        let had = ns.status.as_ref().is_some_and(|s| s.conditions.is_some());
        // A namespace that is gone in a moment needs no report.
        if !done || had {
            ns.status.get_or_insert_default().conditions = Some(conds);
            ns = i.update_status(&ns).await?.as_ref().clone();
        }
    }
    if !p.failures.is_empty() || p.discovery.is_some() {
        return Err(kube::Error::Service(p.failures.join(", ").into()));
    }
    if !p.remaining.is_empty() {
        return Err(kube::Error::Service("content remains".into()));
    }
    if let Some(s) = &mut ns.spec {
        if let Some(f) = &mut s.finalizers {
            f.retain(|f| f != "kubernetes");
        }
    }
    match i.update_subresource(&ns, "finalize").await {
        Err(e) if knarr_runner::is_not_found(&e) => {}
        Err(e) => return Err(e),
        Ok(o) => {
            let gone = o.spec.as_ref().is_none_or(|s| s.finalizers.as_ref().is_none_or(Vec::is_empty))
                && o.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
            if gone {
                q.observe_deleted("", &name, meta::uid(&o.metadata));
            }
        }
    }
    Ok(())
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.namespaces.on_event(move |e| {
            if !matches!(e, Event::Deleted(_)) && meta::deleting(&e.object().metadata) {
                q.add(Key::of(&e.object().metadata));
            }
        });
        let (q, all) = (queue.clone(), self.namespaces.clone());
        self.pods.on_event(move |e| {
            if let Event::Deleted(p) = e {
                let ns = meta::ns(&p.metadata);
                if all.get("", ns).is_some_and(|n| meta::deleting(&n.metadata)) {
                    q.add(Key::new("", ns));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.namespaces.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(ns) = self.namespaces.by_key(key) else { return Plan::none() };
        let finalizing = ns
            .spec
            .as_ref()
            .and_then(|s| s.finalizers.as_ref())
            .is_some_and(|f| f.iter().any(|f| f == "kubernetes"));
        if !meta::deleting(&ns.metadata) || !finalizing {
            return Plan::none();
        }
        // While pods take their time to end, their events tell when to go on.
        let busy = self.pods.in_namespace(&key.name);
        if !busy.is_empty()
            && busy.iter().all(|p| meta::deleting(&p.metadata))
            && ns.status.as_ref().is_some_and(|s| s.conditions.is_some())
        {
            return Plan { requeue_after: Some(Duration::from_secs(5)), ..Plan::default() };
        }
        let all = self.namespaces.clone();
        let what = format!("finalize Namespace {}", key.name);
        Plan::one(Action::call(what, move |i| finalize(i, ns, all)))
    }
}
