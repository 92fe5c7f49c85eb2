//! NodeRestriction and the taint of new nodes.

use knarr_registry::{ApiError, Object};
use serde_json::{Value, json};

use super::{Attrs, Operation};

/// TaintNodesByCondition: a new node takes no pods until it is known to be ready.
pub(super) fn taint_new(obj: &mut Value) {
    let t = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let mut all = obj.list_at(&["spec", "taints"]).to_vec();
    if !all.iter().any(|x| x.str_at(&["key"]) == "node.kubernetes.io/not-ready" && x.str_at(&["effect"]) == "NoSchedule") {
        all.push(t);
        obj.set_at(&["spec", "taints"], Value::Array(all));
    }
}

/// NodeRestriction: a kubelet writes its own node and the pods bound to it.
pub(super) fn restrict(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(node) = a.user.node() else { return Ok(()) };
    let core = a.resource.group.is_empty();
    match (core, a.resource.plural.as_ref()) {
        (true, "nodes") => {
            if a.operation == Operation::Delete || (a.operation != Operation::Connect && !a.name.is_empty() && a.name != node) {
                return Err(a.forbidden(&format!("node {node:?} is not allowed to modify node {:?}", a.name)));
            }
            if a.operation == Operation::Create && a.name.is_empty() && obj.name() != node {
                return Err(a.forbidden(&format!("node {node:?} is not allowed to modify node {:?}", obj.name())));
            }
            if let Some(o) = old
                && a.operation == Operation::Update
            {
                if obj.at(&["spec", "taints"]) != o.at(&["spec", "taints"]) && a.subresource.is_empty() {
                    return Err(a.forbidden(&format!("node {node:?} is not allowed to modify taints")));
                }
                if obj.at(&["metadata", "ownerReferences"]) != o.at(&["metadata", "ownerReferences"]) {
                    return Err(a.forbidden(&format!("node {node:?} is not allowed to modify ownerReferences")));
                }
            }
            Ok(())
        }
        (true, "pods") => {
            let target = old.unwrap_or(obj);
            match (a.operation, a.subresource) {
                (Operation::Create, "") => {
                    if obj.str_at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_empty() {
                        return Err(a.forbidden(&format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods")));
                    }
                    if obj.str_at(&["spec", "nodeName"]) != node {
                        return Err(a.forbidden(&format!("node {node:?} can only create pods with spec.nodeName set to itself")));
                    }
                    for v in obj.list_at(&["spec", "volumes"]) {
                        if ["secret", "configMap", "persistentVolumeClaim", "projected"].iter().any(|k| v.get(*k).is_some()) {
                            return Err(a.forbidden(&format!("node {node:?} can not create pods that reference secrets, configmaps, claims or projected volumes")));
                        }
                    }
                    Ok(())
                }
                (Operation::Update, "") => Err(a.forbidden(&format!("node {node:?} can only update pod status"))),
                (Operation::Update | Operation::Delete, _) if target.str_at(&["spec", "nodeName"]) != node => {
                    Err(a.forbidden(&format!("node {node:?} can only {} pods with spec.nodeName set to itself", if a.operation == Operation::Delete { "delete" } else { "update pod status for" })))
                }
                _ => Ok(()),
            }
        }
        _ => {
            let group = a.resource.group.as_ref();
            if group == "coordination.k8s.io" && a.resource.plural == "leases" {
                let name = if a.name.is_empty() { obj.name() } else { &a.name };
                if a.namespace != "kube-node-lease" {
                    return Err(a.forbidden(&format!("can only access leases in the {:?} system namespace", "kube-node-lease")));
                }
                if name != node {
                    return Err(a.forbidden("can only access node lease with the same name as the requesting node"));
                }
            }
            if group == "storage.k8s.io" && a.resource.plural == "csinodes" && a.operation != Operation::Connect {
                let name = if a.name.is_empty() { obj.name() } else { &a.name };
                if name != node {
                    return Err(a.forbidden("can only access CSINode with the same name as the requesting node"));
                }
            }
            Ok(())
        }
    }
}
