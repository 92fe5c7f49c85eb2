//! NodeRestriction and the taint of new nodes.

use knarr_registry::{ApiError, Object};
use serde_json::{Value, json};

use super::{Attrs, Operation, certificates};
use crate::authz::Attributes;

/// TaintNodesByCondition: a new node takes no pods until it is known to be ready.
pub(super) fn taint_new(obj: &mut Value) {
    let t = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let mut all = obj.list_at(&["spec", "taints"]).to_vec();
    if !all.iter().any(|x| x.str_at(&["key"]) == "node.kubernetes.io/not-ready" && x.str_at(&["effect"]) == "NoSchedule") {
        all.push(t);
        obj.set_at(&["spec", "taints"], Value::Array(all));
    }
}

/// Labels that a kubelet may set on its node although they are Kubernetes' own.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Whether a kubelet must leave a label of its node alone.
fn forbidden_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let below = |d: &str| domain == d || domain.strip_suffix(d).is_some_and(|r| r.ends_with('.'));
    if below("node-restriction.kubernetes.io") {
        return true;
    }
    (below("kubernetes.io") || below("k8s.io")) && !OWN_LABELS.contains(&key) && !below("kubelet.kubernetes.io") && !below("node.kubernetes.io")
}

/// The labels a write changes that a kubelet must leave alone.
fn forbidden_labels(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let of = |v: &Value, k: &str| v.at(&["metadata", "labels", k]).cloned();
    let keys = |v: &Value| -> Vec<String> { v.at(&["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect() };
    let mut all: Vec<String> = keys(obj).into_iter().chain(old.map(keys).unwrap_or_default()).collect();
    all.retain(|k| forbidden_label(k) && of(obj, k) != old.and_then(|o| of(o, k)));
    all.sort();
    all.dedup();
    all
}

/// What of the API a pod refers to, in upstream's words.
fn api_reference(pod: &Value) -> Option<&'static str> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let env: Vec<&Value> = lists.iter().flat_map(|l| pod.list_at(&["spec", l])).flat_map(|c| c.list_at(&["env"]).iter().filter_map(|e| e.at(&["valueFrom"])).chain(c.list_at(&["envFrom"]))).collect();
    let names = |keys: [&str; 2]| env.iter().any(|e| keys.iter().any(|k| e.at(&[k]).is_some()));
    if !pod.list_at(&["spec", "imagePullSecrets"]).is_empty() || names(["secretKeyRef", "secretRef"]) {
        return Some("secrets");
    }
    if names(["configMapKeyRef", "configMapRef"]) {
        return Some("configmaps");
    }
    if !pod.list_at(&["spec", "resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    let of_source = |s: &Value| {
        let all = [
            ("configMap", "configmaps (via projected volumes)"),
            ("secret", "secrets (via projected volumes)"),
            ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
            ("clusterTrustBundle", "clustertrustbundles"),
            ("podCertificate", "podcertificates"),
        ];
        all.iter().find(|(k, _)| s.at(&[k]).is_some()).map(|(_, w)| *w)
    };
    pod.list_at(&["spec", "volumes"]).iter().find_map(|v| {
        let all = [
            ("configMap", "configmaps (via configmap volumes)"),
            ("secret", "secrets (via secret volumes)"),
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
            ("azureFile", "secrets (via azureFile volumes)"),
        ];
        let direct = all.iter().find(|(k, _)| v.at(&[k]).is_some()).map(|(_, w)| *w);
        direct.or_else(|| v.list_at(&["projected", "sources"]).iter().find_map(of_source))
    })
}

/// A mirror pod: what its kubelet runs by itself, with that node as its only owner.
fn mirror_pod(a: &Attrs<'_>, obj: &Value, node: &str) -> Result<(), ApiError> {
    let no = |why: String| Err(a.forbidden(&why));
    if obj.at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_none() {
        return no(format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"));
    }
    if obj.str_at(&["spec", "nodeName"]) != node {
        return no(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match obj.list_at(&["metadata", "ownerReferences"]) {
        [] => return no(format!("node {node:?} can only create pods with an owner reference set to itself")),
        [one] => one,
        _ => return no(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return no(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return no(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return no(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let Some(n) = a.core.peek("minions", "", node) else { return Err(ApiError::not_found("", "nodes", node)) };
    if owner.str_at(&["uid"]) != n.uid() {
        return no(format!("node {node} UID mismatch: expected {} got {}", owner.str_at(&["uid"]), n.uid()));
    }
    match api_reference(obj) {
        Some(what) => no(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

fn node_object(a: &Attrs<'_>, obj: &Value, old: Option<&Value>, node: &str) -> Result<(), ApiError> {
    let name = if a.name.is_empty() { obj.name() } else { &a.name };
    if a.operation != Operation::Connect && name != node {
        return Err(a.forbidden(&format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    if a.operation == Operation::Create {
        let bad = forbidden_labels(obj, None);
        if !bad.is_empty() {
            return Err(a.forbidden(&format!("node {node:?} is not allowed to set the following labels: {}", bad.join(", "))));
        }
    }
    let Some(o) = old.filter(|_| a.operation == Operation::Update) else { return Ok(()) };
    if obj.at(&["spec", "taints"]) != o.at(&["spec", "taints"]) {
        return Err(a.forbidden(&format!("node {node:?} is not allowed to modify taints")));
    }
    if obj.at(&["metadata", "ownerReferences"]) != o.at(&["metadata", "ownerReferences"]) {
        return Err(a.forbidden(&format!("node {node:?} is not allowed to modify ownerReferences")));
    }
    let bad = forbidden_labels(obj, Some(o));
    if bad.is_empty() { Ok(()) } else { Err(a.forbidden(&format!("is not allowed to modify labels: {}", bad.join(", ")))) }
}

fn pod(a: &Attrs<'_>, obj: &Value, old: Option<&Value>, node: &str) -> Result<(), ApiError> {
    let no = |why: String| Err(a.forbidden(&why));
    let mine = old.unwrap_or(obj).str_at(&["spec", "nodeName"]) == node;
    match (a.subresource, a.operation) {
        (_, Operation::Connect) => Ok(()),
        ("", Operation::Create) => mirror_pod(a, obj, node),
        ("", Operation::Delete) if mine => Ok(()),
        ("", Operation::Delete) => no(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        ("", Operation::Update) => no(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
        ("status", Operation::Update) => {
            let Some(o) = old.filter(|_| mine) else { return no(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")) };
            let differs = |path: &[&str]| obj.at(path) != o.at(path);
            if differs(&["metadata", "labels"]) {
                return no(format!("node {node:?} cannot update labels through pod status"));
            }
            if differs(&["status", "resourceClaimStatuses"]) {
                return no(format!("node {node:?} cannot update resource claim statues"));
            }
            if differs(&["status", "extendedResourceClaimStatus"]) {
                return no(format!("node {node:?} cannot update extended resource claim status"));
            }
            Ok(())
        }
        ("eviction", _) if mine => Ok(()),
        ("eviction", _) => no(format!("node {node} can only evict pods with spec.nodeName set to itself")),
        (sub, _) => no(format!("unexpected pod subresource {sub:?}, only 'status' and 'eviction' are allowed")),
    }
}

/// A claim's status: how large it is, and how growing goes.
fn claim(a: &Attrs<'_>, obj: &Value, old: Option<&Value>, node: &str) -> Result<(), ApiError> {
    if a.subresource != "status" {
        return Err(a.forbidden("may only update PVC status"));
    }
    let strip = |v: &Value| {
        let mut v = v.clone();
        for f in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
            v.take_at(&["status", f]);
        }
        for f in ["resourceVersion", "managedFields"] {
            v.meta_mut().remove(f);
        }
        v
    };
    if old.is_some_and(|o| strip(o) != strip(obj)) {
        return Err(a.forbidden(&format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions")));
    }
    Ok(())
}

/// NodeRestriction: a kubelet writes its own node and the pods bound to it.
pub(super) fn restrict(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(node) = a.user.node() else { return Ok(()) };
    let name = if a.name.is_empty() { obj.name() } else { &a.name };
    match (a.resource.group.as_ref(), a.resource.plural.as_ref()) {
        ("", "nodes") => node_object(a, obj, old, node),
        ("", "pods") => pod(a, obj, old, node),
        ("", "persistentvolumeclaims") => claim(a, obj, old, node),
        ("coordination.k8s.io", "leases") if a.namespace != "kube-node-lease" => Err(a.forbidden("can only access leases in the \"kube-node-lease\" system namespace")),
        ("coordination.k8s.io", "leases") if name != node => Err(a.forbidden("can only access node lease with the same name as the requesting node")),
        ("storage.k8s.io", "csinodes") if a.operation != Operation::Connect && name != node => Err(a.forbidden("can only access CSINode with the same name as the requesting node")),
        ("resource.k8s.io", "resourceslices") => {
            let verb = match a.operation {
                Operation::Create => "create",
                Operation::Delete => "delete",
                _ => return Ok(()),
            };
            if old.unwrap_or(obj).str_at(&["spec", "nodeName"]) == node {
                return Ok(());
            }
            Err(a.forbidden(&format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
        }
        ("certificates.k8s.io", "certificatesigningrequests") => certificates::of_node(a, obj, node),
        _ => Ok(()),
    }
}

/// Whether a kubelet may ask for a token of an audience: the pod must use one, or the node be
/// allowed to.
///
/// # Errors
/// 403.
pub fn audience(ctx: &crate::core::Ctx, pod: &Value, audiences: &[Value]) -> Result<(), ApiError> {
    let account = &ctx.info.name;
    let no = |why: String| Err(ApiError::forbidden("", "serviceaccounts", account, &why));
    let wanted = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return no("node may only request 0 or 1 audiences".into()),
    };
    let core = &ctx.core;
    let of_driver = |driver: &str| core.peek("csidrivers", "", driver).is_some_and(|d| d.list_at(&["spec", "tokenRequests"]).iter().any(|t| t.str_at(&["audience"]) == wanted));
    let of_claim = |claim: &str| {
        let volume = core.peek("persistentvolumeclaims", pod.namespace(), claim).map(|c| c.str_at(&["spec", "volumeName"]).to_owned());
        volume.and_then(|v| core.peek("persistentvolumes", "", &v)).is_some_and(|v| of_driver(v.str_at(&["spec", "csi", "driver"])))
    };
    let used = pod.list_at(&["spec", "volumes"]).iter().any(|v| {
        let token = |s: &Value| s.at(&["serviceAccountToken"]).is_some_and(|t| t.str_at(&["audience"]) == wanted);
        v.list_at(&["projected", "sources"]).iter().any(token)
            || v.at(&["csi"]).is_some_and(|c| of_driver(c.str_at(&["driver"])))
            || v.at(&["persistentVolumeClaim"]).is_some_and(|c| of_claim(c.str_at(&["claimName"])))
            || v.at(&["ephemeral"]).is_some() && of_claim(&format!("{}-{}", pod.name(), v.str_at(&["name"])))
    });
    let attributes = Attributes {
        verb: "request-serviceaccounts-token-audience".into(),
        resource_request: true,
        resource: wanted.to_owned(),
        namespace: pod.namespace().to_owned(),
        name: account.clone(),
        ..Attributes::default()
    };
    if used || core.authorizer.allows(&ctx.user, &attributes).0 {
        return Ok(());
    }
    no(format!("{} is not authorized to request tokens for audience {wanted:?}", ctx.user.name))
}
