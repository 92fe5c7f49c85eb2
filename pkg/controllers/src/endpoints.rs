//! Where services lead: EndpointSlices and Endpoints.

mod legacy;
mod mirror;
mod slices;

pub use legacy::EndpointsController;
pub use mirror::Mirror;
pub use slices::Slices;

use crate::pods;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{Cache, Event, Queue};
use std::sync::Arc;

/// Adds to the queue every service that a pod's change concerns.
fn watch_pods(pods: &Cache<Pod>, services: &Arc<Cache<Service>>, queue: &Queue<Key>) {
    let (q, s) = (queue.clone(), services.clone());
    pods.on_event(move |e| {
        let touch = |p: &Pod| {
            for svc in s.in_namespace(meta::ns(&p.metadata)) {
                if selector(&svc).is_some_and(|x| meta::map_matches(x, p.metadata.labels.as_ref())) {
                    q.add(Key::of(&svc.metadata));
                }
            }
        };
        if let Event::Updated { old, new } = e {
            let same = fingerprint(old) == fingerprint(new);
            if same {
                return;
            }
            if old.metadata.labels != new.metadata.labels {
                touch(old);
            }
        }
        touch(e.object());
    });
}

/// What of a pod its endpoints depend on.
fn fingerprint(p: &Pod) -> impl PartialEq + '_ {
    (
        p.metadata.labels.as_ref(),
        meta::deleting(&p.metadata),
        pods::ready(p),
        pods::phase(p),
        pods::node(p),
        p.status.as_ref().and_then(|s| s.pod_ips.as_ref()),
    )
}

/// The selector of a service that has one.
fn selector(s: &Service) -> Option<&Labels> {
    s.spec
        .as_ref()
        .filter(|s| s.type_.as_deref() != Some("ExternalName"))?
        .selector
        .as_ref()
        .filter(|s| !s.is_empty())
}

fn headless(s: &Service) -> bool {
    s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn publishes_not_ready(s: &Service) -> bool {
    s.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// The number a service port leads to in this pod.
fn target_port(p: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = p.spec.as_ref()?;
            let proto = port.protocol.as_deref().unwrap_or("TCP");
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter().flatten())
                .find(|c| {
                    c.name.as_deref() == Some(name)
                        && c.protocol.as_deref().unwrap_or("TCP") == proto
                })
                .map(|c| c.container_port)
        }
    }
}

fn target_ref(p: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: p.metadata.namespace.clone(),
        name: p.metadata.name.clone(),
        uid: p.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// A pod's host name within the service's domain.
fn hostname(p: &Pod, s: &Service) -> Option<String> {
    let spec = p.spec.as_ref()?;
    let inside = spec.subdomain == s.metadata.name
        && meta::ns(&p.metadata) == meta::ns(&s.metadata);
    spec.hostname.clone().filter(|h| inside && !h.is_empty())
}

fn ips(p: &Pod) -> Vec<&str> {
    let st = p.status.as_ref();
    let many: Vec<&str> = st
        .and_then(|s| s.pod_ips.as_ref())
        .into_iter()
        .flatten()
        .map(|i| i.ip.as_str())
        .filter(|i| !i.is_empty())
        .collect();
    if many.is_empty() {
        st.and_then(|s| s.pod_ip.as_deref()).filter(|i| !i.is_empty()).into_iter().collect()
    } else {
        many
    }
}
