//! The older Endpoints objects.

use super::{headless, hostname, ips, publishes_not_ready, selector, target_port, target_ref};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Queue};
use std::sync::Arc;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ME: &str = "endpoint-controller";
const OVER: &str = "endpoints.kubernetes.io/over-capacity";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MAX: usize = 1000;

/// The Endpoints controller.
pub struct EndpointsController {
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    endpoints: Arc<Cache<Endpoints>>,
}

fn subsets(s: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let Some(spec) = &s.spec else { return (Vec::new(), false) };
    let six = spec.ip_families.as_ref().and_then(|f| f.first()).is_some_and(|f| f == "IPv6");
    let mut out: Vec<EndpointSubset> = Vec::new();
    let mut total = 0;
    let mut over = false;
    for p in pods {
        let leaving = meta::deleting(&p.metadata) && !publishes_not_ready(s);
        if pods::finished(p) || leaving {
            continue;
        }
        let Some(ip) = ips(p).into_iter().find(|i| i.contains(':') == six) else { continue };
        let ports: Vec<EndpointPort> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|x| {
                Some(EndpointPort {
                    name: x.name.clone(),
                    port: target_port(p, x)?,
                    protocol: Some(x.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: x.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !spec.ports.as_ref().is_none_or(Vec::is_empty) {
            continue;
        }
        if total >= MAX {
            over = true;
            break;
        }
        total += 1;
        let a = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(p, s),
            node_name: Some(pods::node(p).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(target_ref(p)),
        };
        let ports = Some(ports).filter(|p| !p.is_empty());
        let at = out.iter().position(|x| x.ports == ports).unwrap_or_else(|| {
            out.push(EndpointSubset { ports, ..EndpointSubset::default() });
            out.len() - 1
        });
        let list = if pods::ready(p) || publishes_not_ready(s) {
            &mut out[at].addresses
        } else {
            &mut out[at].not_ready_addresses
        };
        list.get_or_insert_default().push(a);
    }
    for x in &mut out {
        for l in [&mut x.addresses, &mut x.not_ready_addresses].into_iter().flatten() {
            l.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
        if let Some(p) = &mut x.ports {
            p.sort_by(|a, b| (&a.name, a.port).cmp(&(&b.name, b.port)));
        }
    }
    (out, over)
}

impl EndpointsController {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { services: i.get(), pods: i.get(), endpoints: i.get() }
    }
}

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.services.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        super::watch_pods(&self.pods, &self.services, queue);
        let q = queue.clone();
        self.endpoints.on_event(move |e| q.add(Key::of(&e.object().metadata)));
    }
    fn synced(&self) -> bool {
        self.services.has_synced() && self.pods.has_synced() && self.endpoints.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let have = self.endpoints.by_key(key);
        let Some(s) = self.services.by_key(key) else {
            // Endpoints without a service may be someone's own; ours are marked.
            return have
                .filter(|e| meta::label(&e.metadata, MANAGED_BY).is_some())
                .map(|e| Plan::one(Action::delete(e.as_ref(), None, None)))
                .unwrap_or_default();
        };
        let Some(sel) = selector(&s) else { return Plan::none() };
        let mut pods: Vec<Arc<Pod>> = self
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|p| meta::map_matches(sel, p.metadata.labels.as_ref()))
            .collect();
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let (subsets, over) = subsets(&s, &pods);
        let mut labels = s.metadata.labels.clone().unwrap_or_default();
        labels.remove(HEADLESS);
        if headless(&s) {
            labels.insert(HEADLESS.into(), String::new());
        }
        labels.insert(MANAGED_BY.into(), ME.into());
        let mut next = have.as_ref().map(|e| e.as_ref().clone()).unwrap_or_else(|| Endpoints {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                ..ObjectMeta::default()
            },
            subsets: None,
        });
        next.subsets = Some(subsets).filter(|s| !s.is_empty());
        next.metadata.labels = Some(labels);
        let a = next.metadata.annotations.get_or_insert_default();
        if over {
            a.insert(OVER.into(), "truncated".into());
        } else {
            a.remove(OVER);
        }
        if a.is_empty() {
            next.metadata.annotations = None;
        }
        match have {
            None => Plan::one(Action::create(next)),
            Some(h)
                if h.subsets.clone().unwrap_or_default() == next.subsets.clone().unwrap_or_default()
                    && h.metadata.labels == next.metadata.labels
                    && h.metadata.annotations.clone().unwrap_or_default()
                        == next.metadata.annotations.clone().unwrap_or_default() =>
            {
                Plan::none()
            }
            Some(_) => Plan::one(Action::update(next)),
        }
    }
}
