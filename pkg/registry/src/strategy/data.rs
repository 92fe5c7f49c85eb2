//! Which kinds share which behaviour.

/// Whether `metadata.generation` counts the changes of a resource's spec.
pub(super) fn generation(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "pods" | "replicationcontrollers" | "podtemplates")
            | ("autoscaling", _)
            | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
            | ("batch", _)
            | ("policy", _)
            | ("networking.k8s.io", "ingresses" | "networkpolicies" | "ingressclasses")
            | ("discovery.k8s.io", _)
            | ("flowcontrol.apiserver.k8s.io", _)
            | ("admissionregistration.k8s.io", _)
            | ("apiextensions.k8s.io", _)
            | ("scheduling.k8s.io", "priorityclasses")
            | ("resource.k8s.io", "deviceclasses" | "resourceslices" | "devicetaintrules")
    )
}

/// Whether a client's status is dropped on create.
pub(super) fn resets_status(group: &str, resource: &str) -> bool {
    !matches!((group, resource), ("", "nodes"))
}

/// Whether a resource has a status that only its subresource writes.
pub(super) fn has_status(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "namespaces"
            | "nodes"
            | "persistentvolumeclaims"
            | "persistentvolumes"
            | "pods"
            | "replicationcontrollers"
            | "resourcequotas"
            | "services")
            | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
            | ("batch" | "autoscaling" | "policy", _)
            | ("networking.k8s.io", "ingresses" | "servicecidrs")
            | ("storage.k8s.io", "volumeattachments" | "csinodes")
            | ("certificates.k8s.io", "certificatesigningrequests" | "podcertificaterequests")
            | ("admissionregistration.k8s.io", "validatingadmissionpolicies")
            | ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io", _)
            | ("resource.k8s.io", "resourceclaims" | "devicetaintrules")
            | ("storagemigration.k8s.io", _)
    )
}

/// What of the metadata a writer of the status may not change, besides owners.
#[must_use]
pub fn status_keeps(group: &str, resource: &str) -> &'static [&'static str] {
    match (group, resource) {
        ("apps", "deployments") => &["labels"],
        ("networking.k8s.io", "servicecidrs")
        | ("storage.k8s.io", "volumeattachments" | "csinodes")
        | ("admissionregistration.k8s.io", "validatingadmissionpolicies")
        | ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io", _) => &["labels", "annotations"],
        _ => &[],
    }
}

/// Whether an update of a resource may name no version.
#[must_use]
pub fn unconditional(group: &str, resource: &str) -> bool {
    !matches!(
        (group, resource),
        ("coordination.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _)
            | ("admissionregistration.k8s.io", _)
            | ("storagemigration.k8s.io", _)
            | ("certificates.k8s.io", "clustertrustbundles" | "podcertificaterequests")
    )
}

/// Whether an update of a missing object creates it.
pub(super) fn create_on_update(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "endpoints" | "events" | "limitranges" | "services")
            | ("events.k8s.io" | "coordination.k8s.io" | "rbac.authorization.k8s.io", _)
    )
}

/// Whether a deletion answers with the deleted object.
#[must_use]
pub fn returns_deleted(group: &str, resource: &str) -> bool {
    // A namespace's document says otherwise, for it is only marked.
    (group, resource) == ("", "namespaces") || knarr_schema::Catalog::builtin().resources().iter().any(|r| r.group == group && r.plural == resource && r.returns_deleted())
}

/// Which names a resource allows.
pub(super) fn names(group: &str, resource: &str) -> crate::names::NameRule {
    use crate::names::NameRule::{Label, Label1035, PathSegment, Subdomain};
    match (group, resource) {
        ("", "namespaces") => Label,
        ("", "services") => Label1035,
        ("rbac.authorization.k8s.io" | "apiregistration.k8s.io", _) => PathSegment,
        ("certificates.k8s.io", "clustertrustbundles") | ("" | "events.k8s.io", "events") | ("policy", "poddisruptionbudgets") | ("networking.k8s.io", "ipaddresses") => PathSegment,
        _ => Subdomain,
    }
}
