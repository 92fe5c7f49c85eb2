//! The Node authorizer in its first form: a kubelet reads what the pods bound to it use.

use knarr_registry::{Object, Registry};
use serde_json::Value;

use super::Attributes;

/// Whether `node`'s kubelet may, by what its pods refer to. What kubelets may do in general is in
/// the role `system:node`, given here without a binding.
pub fn allows(registry: &Registry, node: &str, a: &Attributes) -> bool {
    if !a.resource_request {
        return false;
    }
    let read = matches!(a.verb.as_str(), "get" | "list" | "watch");
    match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
        ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
            (a.verb == "get" || (read && !a.name.is_empty())) && refers(registry, node, a)
        }
        ("", "persistentvolumes", "") => a.verb == "get",
        ("", "serviceaccounts", "token") => a.verb == "create",
        ("", "serviceaccounts", "") => a.verb == "get",
        ("", "services", "")
        | ("node.k8s.io", "runtimeclasses", "")
        | ("storage.k8s.io", "csidrivers" | "volumeattachments", "")
        | ("certificates.k8s.io", "clustertrustbundles", "") => read,
        ("resource.k8s.io", "resourceclaims", "") => a.verb == "get",
        ("resource.k8s.io", "resourceslices", "") => true,
        ("storage.k8s.io", "csinodes", "") => a.name.is_empty() || a.name == node,
        ("certificates.k8s.io", "certificatesigningrequests", "") => read || a.verb == "create",
        ("certificates.k8s.io", "podcertificaterequests", "") => read || a.verb == "create",
        ("", "nodes", "" | "status") => {
            a.verb == "create" || (read && a.verb != "get") || a.name == node || (read && a.name.is_empty())
        }
        ("", "pods", "") => matches!(a.verb.as_str(), "get" | "list" | "watch" | "create" | "delete"),
        ("", "pods", "status") => matches!(a.verb.as_str(), "update" | "patch" | "get"),
        ("", "pods", "eviction") => a.verb == "create",
        ("", "persistentvolumeclaims" | "persistentvolumes", "status") => a.verb != "delete",
        ("" | "events.k8s.io", "events", "") => matches!(a.verb.as_str(), "create" | "update" | "patch"),
        ("coordination.k8s.io", "leases", "") => {
            a.namespace == "kube-node-lease" && (a.verb == "create" || a.name == node)
        }
        ("authentication.k8s.io", "tokenreviews", "")
        | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => a.verb == "create",
        _ => false,
    }
}

/// Whether a pod on the node uses the object.
fn refers(registry: &Registry, node: &str, a: &Attributes) -> bool {
    let Some(pods) = registry.cache("/registry/pods/") else { return false };
    let scope = format!("/registry/pods/{}/", a.namespace);
    let snapshot = pods.snapshot();
    snapshot
        .prefixed(&scope)
        .filter(|e| e.field("spec.nodeName") == Some(node))
        .any(|e| mentions(&e.value(), &a.resource, &a.name))
}

fn mentions(pod: &Value, resource: &str, name: &str) -> bool {
    let members: &[&str] = match resource {
        "secrets" => &["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets", "nodePublishSecretRef"],
        "configmaps" => &["configMap", "configMapRef", "configMapKeyRef"],
        _ => &["claimName"],
    };
    fn walk(v: &Value, members: &[&str], name: &str) -> bool {
        match v {
            Value::Object(m) => m.iter().any(|(k, v)| {
                if members.contains(&k.as_str()) {
                    let named = |v: &Value| v.as_str() == Some(name) || v.get("name").and_then(Value::as_str) == Some(name);
                    if named(v) || v.as_array().is_some_and(|a| a.iter().any(named)) {
                        return true;
                    }
                }
                walk(v, members, name)
            }),
            Value::Array(a) => a.iter().any(|v| walk(v, members, name)),
            _ => false,
        }
    }
    // A claim made for an ephemeral volume is named after pod and volume.
    walk(pod.get("spec").unwrap_or(&Value::Null), members, name)
        || (resource == "persistentvolumeclaims"
            && pod.list_at(&["spec", "volumes"]).iter().any(|v| {
                v.get("ephemeral").is_some() && format!("{}-{}", pod.name(), v.str_at(&["name"])) == name
            }))
}
