//! Small plugins.

use knarr_registry::{ApiError, Object};
use serde_json::{Value, json};

use super::{Attrs, Operation};

/// NamespaceLifecycle: nothing is made in a namespace that is absent or ends.
pub(super) async fn namespace_lifecycle(a: &Attrs<'_>, obj: &Value) -> Result<(), ApiError> {
    if a.operation != Operation::Create || a.namespace.is_empty() || !a.resource.namespaced {
        return Ok(());
    }
    if matches!(a.resource.plural.as_ref(), "localsubjectaccessreviews") {
        return Ok(());
    }
    let mut ns = a.core.peek("namespaces", "", &a.namespace);
    if ns.is_none() {
        // It may have been made a moment ago.
        a.core.registry.current().await?;
        ns = a.core.peek("namespaces", "", &a.namespace);
    }
    let Some(ns) = ns else { return Err(ApiError::not_found("", "namespaces", &a.namespace)) };
    if ns.str_at(&["status", "phase"]) == "Terminating" || ns.deleting() {
        let name = if a.name.is_empty() { obj.name() } else { &a.name };
        let mut e = ApiError::forbidden(
            &a.resource.group,
            &a.resource.plural,
            name,
            &format!("unable to create new content in namespace {} because it is being terminated", a.namespace),
        );
        e = e.with_cause("NamespaceTerminating", &format!("namespace {} is being terminated", a.namespace), "metadata.namespace");
        return Err(e);
    }
    Ok(())
}

/// The namespaces nobody may delete.
pub(super) fn protected_namespaces(a: &Attrs<'_>) -> Result<(), ApiError> {
    if a.is("", "namespaces") && matches!(a.name.as_str(), "default" | "kube-system" | "kube-public") {
        return Err(a.forbidden("this namespace may not be deleted"));
    }
    Ok(())
}

/// StorageObjectInUseProtection: volumes and claims end when nobody uses them any more.
pub(super) fn storage_object_in_use(a: &Attrs<'_>, obj: &mut Value) {
    let f = if a.creates("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if a.creates("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else if a.creates("storage.k8s.io", "volumeattributesclasses") {
        "kubernetes.io/vac-protection"
    } else {
        return;
    };
    let mut all = obj.finalizers();
    if !all.iter().any(|x| x == f) {
        all.push(f.into());
        obj.meta_mut().insert("finalizers".into(), json!(all));
    }
}

/// The newest object of a kind that carries an annotation that makes it the default.
fn default_of(a: &Attrs<'_>, prefix: &str, annotation: &str) -> Option<Value> {
    let kind = a.core.kind(prefix).ok()?;
    let snapshot = kind.cache.snapshot();
    let mut all: Vec<Value> = snapshot
        .range("")
        .map(|e| e.value())
        .filter(|v| v.str_at(&["metadata", "annotations", annotation]) == "true")
        .collect();
    all.sort_by(|x, y| {
        y.str_at(&["metadata", "creationTimestamp"])
            .cmp(x.str_at(&["metadata", "creationTimestamp"]))
            .then_with(|| x.name().cmp(y.name()))
    });
    all.into_iter().next()
}

/// DefaultStorageClass.
pub(super) fn default_storage_class(a: &Attrs<'_>, obj: &mut Value) {
    if !a.creates("", "persistentvolumeclaims")
        || obj.at(&["spec", "storageClassName"]).is_some()
        || obj.at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]).is_some()
    {
        return;
    }
    if let Some(c) = default_of(a, "storageclasses", "storageclass.kubernetes.io/is-default-class") {
        obj.set_at(&["spec", "storageClassName"], json!(c.name()));
    }
}

/// DefaultIngressClass.
pub(super) fn default_ingress_class(a: &Attrs<'_>, obj: &mut Value) {
    if !a.creates("networking.k8s.io", "ingresses")
        || obj.at(&["spec", "ingressClassName"]).is_some()
        || obj.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some()
    {
        return;
    }
    if let Some(c) = default_of(a, "ingressclasses", "ingressclass.kubernetes.io/is-default-class") {
        obj.set_at(&["spec", "ingressClassName"], json!(c.name()));
    }
}

/// PersistentVolumeClaimResize: only bound claims of classes that allow it grow.
pub(super) fn claim_resize(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(old) = old.filter(|_| a.operation == Operation::Update && a.subresource.is_empty() && a.is("", "persistentvolumeclaims")) else {
        return Ok(());
    };
    let size = |v: &Value| super::pods::milli(v.at(&["spec", "resources", "requests", "storage"]));
    if size(obj) <= size(old) {
        return Ok(());
    }
    if old.str_at(&["status", "phase"]) != "Bound" {
        return Err(a.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = |v: &Value| match v.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => v.str_at(&["spec", "storageClassName"]).to_owned(),
        c => c.to_owned(),
    };
    let name = class(obj);
    let allows = !name.is_empty() && name == class(old) && a.core.peek("storageclasses", "", &name).is_some_and(|c| c["allowVolumeExpansion"] == true);
    if allows {
        return Ok(());
    }
    Err(a.forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}

/// Priority: at most one global default.
pub(super) fn priority_class(a: &Attrs<'_>, obj: &Value) -> Result<(), ApiError> {
    if !a.is("scheduling.k8s.io", "priorityclasses") || a.operation == Operation::Delete || obj.get("globalDefault") != Some(&Value::Bool(true)) {
        return Ok(());
    }
    let kind = a.core.kind("priorityclasses")?;
    let snapshot = kind.cache.snapshot();
    let other = snapshot.range("").find(|e| &*e.name != obj.name() && e.value().get("globalDefault") == Some(&Value::Bool(true)));
    match other {
        Some(o) => Err(a.forbidden(&format!("PriorityClass {} is already marked as default. Only one default can exist", o.name))),
        None => Ok(()),
    }
}
