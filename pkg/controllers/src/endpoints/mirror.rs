//! Endpoints that people write themselves, mirrored to slices.

use super::slices::{MANAGED_BY, SERVICE_NAME, family, reconcile, slice_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Queue, Step};
use std::sync::Arc;

const ME: &str = "endpointslicemirroring-controller.k8s.io";

/// The mirroring controller.
pub struct Mirror {
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
    slices: Arc<Cache<EndpointSlice>>,
}

impl Mirror {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { services: i.get(), endpoints: i.get(), slices: i.get() }
    }
}

fn wanted(e: &Endpoints, s: &Service) -> bool {
    let m = &e.metadata;
    let own_selector =
        s.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    !own_selector
        && !meta::deleting(m)
        && meta::label(m, "endpointslice.kubernetes.io/skip-mirror") != Some("true")
        && meta::label(m, "endpoints.kubernetes.io/managed-by").is_none()
        && meta::annotation(m, "control-plane.alpha.kubernetes.io/leader").is_none()
}

fn groups(e: &Endpoints) -> Vec<(super::slices::Group, Vec<Endpoint>)> {
    let mut out: Vec<(super::slices::Group, Vec<Endpoint>)> = Vec::new();
    for sub in e.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = sub
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: p.protocol.clone(),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let all = sub
            .addresses
            .iter()
            .flatten()
            .map(|a| (a, true))
            .chain(sub.not_ready_addresses.iter().flatten().map(|a| (a, false)))
            .take(1000);
        for (a, ready) in all {
            let x = Endpoint {
                addresses: vec![a.ip.clone()],
                conditions: Some(EndpointConditions {
                    ready: Some(ready),
                    serving: None,
                    terminating: None,
                }),
                hostname: a.hostname.clone(),
                node_name: a.node_name.clone(),
                target_ref: a.target_ref.clone(),
                ..Endpoint::default()
            };
            let af = family(&a.ip).to_owned();
            let at = out.iter().position(|((f, p), _)| {
                *f == af && super::slices::same_ports(p, &ports)
            });
            match at {
                Some(i) => out[i].1.push(x),
                None => out.push(((af, ports.clone()), vec![x])),
            }
        }
    }
    out
}

impl Controller for Mirror {
    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.services.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let q = queue.clone();
        self.endpoints.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let q = queue.clone();
        self.slices.on_event(move |e| {
            let m = &e.object().metadata;
            if let (Some(s), Some(ME)) = (meta::label(m, SERVICE_NAME), meta::label(m, MANAGED_BY)) {
                q.add(Key::new(meta::ns(m), s));
            }
        });
    }
    fn synced(&self) -> bool {
        self.services.has_synced() && self.endpoints.has_synced() && self.slices.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let mine: Vec<Arc<EndpointSlice>> = self
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|s| {
                meta::label(&s.metadata, SERVICE_NAME) == Some(&key.name)
                    && meta::label(&s.metadata, MANAGED_BY) == Some(ME)
            })
            .collect();
        let pair = self.endpoints.by_key(key).zip(self.services.by_key(key));
        let Some((e, _)) = pair.filter(|(e, s)| wanted(e, s)) else {
            let doomed = mine.iter().map(|s| Action::delete(s.as_ref(), None, None)).collect();
            return Plan { steps: vec![Step::All(doomed)], ..Plan::default() };
        };
        let mut labels: Labels = e.metadata.labels.clone().unwrap_or_default();
        labels.insert(SERVICE_NAME.into(), key.name.clone());
        labels.insert(MANAGED_BY.into(), ME.into());
        let fresh =
            |af: &str| slice_of(&key.name, &key.namespace, af, meta::owner_ref(e.as_ref()));
        let actions = reconcile(groups(&e), &mine, fresh, &labels, None);
        Plan { steps: vec![Step::All(actions)], ..Plan::default() }
    }
}
