//! EndpointSlices of services with a selector.

use super::{headless, hostname, ips, publishes_not_ready, selector, target_port, target_ref};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Queue, Step};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const ME: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const MAX_PER_SLICE: usize = 100;

/// The EndpointSlice controller.
pub struct Slices {
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
}

/// What one slice is about: the address family and the ports.
pub(super) type Group = (String, Vec<EndpointPort>);

fn port_key(p: &EndpointPort) -> (String, Option<i32>, String, String) {
    (
        p.name.clone().unwrap_or_default(),
        p.port,
        p.protocol.clone().unwrap_or_default(),
        p.app_protocol.clone().unwrap_or_default(),
    )
}

pub(super) fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    let keys = |p: &[EndpointPort]| {
        let mut k: Vec<_> = p.iter().map(port_key).collect();
        k.sort();
        k
    };
    keys(a) == keys(b)
}

pub(super) fn family(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

fn endpoint_key(e: &Endpoint) -> (Vec<String>, String) {
    let uid = e.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
    (e.addresses.clone(), uid)
}

/// The endpoints a service should have, grouped by family and ports.
fn desired(s: &Service, pods: &[Arc<Pod>], nodes: &Cache<Node>) -> Vec<(Group, Vec<Endpoint>)> {
    let Some(spec) = &s.spec else { return Vec::new() };
    let families: Vec<String> =
        spec.ip_families.clone().filter(|f| !f.is_empty()).unwrap_or_else(|| vec!["IPv4".into()]);
    let mut out: Vec<(Group, Vec<Endpoint>)> = Vec::new();
    for p in pods {
        if pods::finished(p) {
            continue;
        }
        let ports: Vec<EndpointPort> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(target_port(p, port)?),
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        let terminating = meta::deleting(&p.metadata);
        let ready = pods::ready(p);
        let serving = ready || publishes_not_ready(s);
        for f in &families {
            let Some(ip) = ips(p).into_iter().find(|i| family(i) == f) else { continue };
            let node = pods::node(p);
            let zone = nodes
                .get("", node)
                .and_then(|n| meta::label(&n.metadata, "topology.kubernetes.io/zone").map(str::to_owned));
            let e = Endpoint {
                addresses: vec![ip.to_owned()],
                conditions: Some(EndpointConditions {
                    ready: Some(publishes_not_ready(s) || (serving && !terminating)),
                    serving: Some(ready),
                    terminating: Some(terminating),
                }),
                hostname: hostname(p, s),
                node_name: Some(node.to_owned()).filter(|n| !n.is_empty()),
                target_ref: Some(target_ref(p)),
                zone,
                ..Endpoint::default()
            };
            match out.iter_mut().find(|((af, ps), _)| af == f && same_ports(ps, &ports)) {
                Some((_, v)) => v.push(e),
                None => out.push(((f.clone(), ports.clone()), vec![e])),
            }
        }
    }
    // A service without endpoints still has one slice a family, so that watchers learn of it.
    for f in families {
        if !out.iter().any(|((af, _), _)| *af == f) {
            out.push(((f, Vec::new()), Vec::new()));
        }
    }
    out
}

/// What to write so that the slices hold the endpoints: endpoints stay in their slice, rooms are
/// filled, empty slices go.
pub(super) fn reconcile(
    groups: Vec<(Group, Vec<Endpoint>)>,
    existing: &[Arc<EndpointSlice>],
    fresh: impl Fn(&str) -> EndpointSlice,
    labels: &Labels,
    trigger: Option<&str>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut unused: Vec<Arc<EndpointSlice>> = existing.to_vec();
    let annotate = |m: &mut ObjectMeta| {
        if let Some(t) = trigger {
            m.annotations.get_or_insert_default().insert(TRIGGER.into(), t.to_owned());
        } else if let Some(a) = &mut m.annotations {
            a.remove(TRIGGER);
        }
    };
    for ((af, ports), endpoints) in groups {
        let empty = endpoints.is_empty();
        let mut want: BTreeMap<(Vec<String>, String), Endpoint> =
            endpoints.into_iter().map(|e| (endpoint_key(&e), e)).collect();
        let (mut mine, rest): (Vec<_>, Vec<_>) = unused.into_iter().partition(|s| {
            s.address_type == af && same_ports(s.ports.as_deref().unwrap_or(&[]), &ports)
        });
        unused = rest;
        // A placeholder, or slices of other ports, can be taken over.
        if mine.is_empty() {
            if let Some(i) = unused.iter().position(|s| s.address_type == af) {
                mine.push(unused.remove(i));
            }
        }
        let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = mine
            .into_iter()
            .map(|s| {
                let stay = s
                    .endpoints
                    .iter()
                    .flatten()
                    .filter_map(|e| want.remove(&endpoint_key(e)))
                    .collect();
                (s, stay)
            })
            .collect();
        let mut left: Vec<Endpoint> = want.into_values().collect();
        for (_, v) in &mut kept {
            while v.len() < MAX_PER_SLICE {
                match left.pop() {
                    Some(e) => v.push(e),
                    None => break,
                }
            }
        }
        let mut first = true;
        for (s, v) in kept {
            if v.is_empty() && !(empty && first) {
                actions.push(Action::delete(s.as_ref(), None, None));
                continue;
            }
            first = false;
            let mut next = s.as_ref().clone();
            next.endpoints = Some(v).filter(|v| !v.is_empty());
            next.ports = Some(ports.clone()).filter(|p| !p.is_empty());
            next.metadata.labels = Some(labels.clone());
            let same = next.endpoints.as_ref().map_or(0, Vec::len)
                == s.endpoints.as_ref().map_or(0, Vec::len)
                && next.endpoints == s.endpoints
                && same_ports(next.ports.as_deref().unwrap_or(&[]), s.ports.as_deref().unwrap_or(&[]))
                && next.metadata.labels == s.metadata.labels;
            if !same {
                annotate(&mut next.metadata);
                actions.push(Action::update(next));
            }
        }
        while !left.is_empty() || (empty && first) {
            first = false;
            let rest = left.split_off(left.len().min(MAX_PER_SLICE));
            let mut s = fresh(&af);
            s.endpoints = Some(std::mem::replace(&mut left, rest)).filter(|v| !v.is_empty());
            s.ports = Some(ports.clone()).filter(|p| !p.is_empty());
            s.metadata.labels = Some(labels.clone());
            annotate(&mut s.metadata);
            actions.push(Action::create(s));
        }
    }
    actions.extend(unused.iter().map(|s| Action::delete(s.as_ref(), None, None)));
    actions
}

pub(super) fn slice_of(
    name: &str,
    ns: &str,
    af: &str,
    owner: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: Some(ns.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: af.to_owned(),
        ..EndpointSlice::default()
    }
}

impl Slices {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { services: i.get(), pods: i.get(), nodes: i.get(), slices: i.get() }
    }

    fn own(&self, ns: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices
            .in_namespace(ns)
            .into_iter()
            .filter(|s| {
                meta::label(&s.metadata, SERVICE_NAME) == Some(service)
                    && meta::label(&s.metadata, MANAGED_BY) == Some(ME)
                    && !meta::deleting(&s.metadata)
            })
            .collect()
    }
}

impl Controller for Slices {
    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.services.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        super::watch_pods(&self.pods, &self.services, queue);
        let q = queue.clone();
        self.slices.on_event(move |e| {
            let m = &e.object().metadata;
            if let (Some(s), Some(ME)) = (meta::label(m, SERVICE_NAME), meta::label(m, MANAGED_BY)) {
                q.add(Key::new(meta::ns(m), s));
            }
        });
    }
    fn synced(&self) -> bool {
        self.services.has_synced()
            && self.pods.has_synced()
            && self.nodes.has_synced()
            && self.slices.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let mine = self.own(&key.namespace, &key.name);
        let Some(s) = self.services.by_key(key) else {
            // The slices go with their owner by the garbage collector; those of a service that
            // was deleted without it would mislead until then.
            let doomed = mine.iter().map(|s| Action::delete(s.as_ref(), None, None)).collect();
            return Plan { steps: vec![Step::All(doomed)], ..Plan::default() };
        };
        let Some(sel) = selector(&s) else { return Plan::none() };
        let pods: Vec<Arc<Pod>> = self
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|p| meta::map_matches(sel, p.metadata.labels.as_ref()))
            .collect();
        let groups = desired(&s, &pods, &self.nodes);
        let mut labels: HashMap<String, String> = s
            .metadata
            .labels
            .clone()
            .unwrap_or_default()
            .into_iter()
            .filter(|(k, _)| k != HEADLESS)
            .collect();
        labels.insert(SERVICE_NAME.into(), key.name.clone());
        labels.insert(MANAGED_BY.into(), ME.into());
        if headless(&s) {
            labels.insert(HEADLESS.into(), String::new());
        }
        let labels: Labels = labels.into_iter().collect();
        let newest = pods
            .iter()
            .filter_map(|p| pods::ready_since(p))
            .max()
            .map(|t| meta::time(t))
            .and_then(|t| serde_json::to_value(t).ok())
            .and_then(|v| v.as_str().map(str::to_owned));
        let fresh =
            |af: &str| slice_of(&key.name, &key.namespace, af, meta::owner_ref(s.as_ref()));
        let actions = reconcile(groups, &mine, fresh, &labels, newest.as_deref());
        Plan { steps: vec![Step::All(actions)], ..Plan::default() }
    }
}
