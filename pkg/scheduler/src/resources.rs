//! What pods ask for and nodes have.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use knarr_runner::quantity;
use std::collections::BTreeMap;

/// CPU in thousandths, the rest in whole units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Extended resources and huge pages.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From a list of quantities.
    pub fn from_list(l: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut r = Self::default();
        for (k, q) in l.into_iter().flatten() {
            match k.as_str() {
                "cpu" => r.cpu = quantity::milli(&q.0),
                "memory" => r.memory = quantity::value(&q.0),
                "ephemeral-storage" => r.ephemeral = quantity::value(&q.0),
                "pods" => {}
                _ => {
                    r.scalar.insert(k.clone(), quantity::value(&q.0));
                }
            }
        }
        r
    }
    /// Adds.
    pub fn add(&mut self, o: &Self) {
        self.cpu += o.cpu;
        self.memory += o.memory;
        self.ephemeral += o.ephemeral;
        for (k, v) in &o.scalar {
            *self.scalar.entry(k.clone()).or_default() += v;
        }
    }
    /// Takes away.
    pub fn sub(&mut self, o: &Self) {
        self.cpu -= o.cpu;
        self.memory -= o.memory;
        self.ephemeral -= o.ephemeral;
        for (k, v) in &o.scalar {
            *self.scalar.entry(k.clone()).or_default() -= v;
        }
    }
    /// The greater of each.
    pub fn max(&mut self, o: &Self) {
        self.cpu = self.cpu.max(o.cpu);
        self.memory = self.memory.max(o.memory);
        self.ephemeral = self.ephemeral.max(o.ephemeral);
        for (k, v) in &o.scalar {
            let e = self.scalar.entry(k.clone()).or_default();
            *e = (*e).max(*v);
        }
    }
}

const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

fn of_container(p: &Pod, c: &Container, default: bool) -> Resources {
    let mut r = Resources::from_list(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    // A container being resized counts with what it has and what it wants.
    let status = p
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .and_then(|cs| cs.iter().find(|s| s.name == c.name));
    if let Some(a) = status.and_then(|s| s.allocated_resources.as_ref()) {
        r.max(&Resources::from_list(Some(a)));
    }
    if default {
        if r.cpu == 0 {
            r.cpu = DEFAULT_CPU;
        }
        if r.memory == 0 {
            r.memory = DEFAULT_MEMORY;
        }
    }
    r
}

/// What a pod asks for: its containers and sidecars together, or its largest init container
/// beside the sidecars started before it, whichever is more; plus overhead. With `default`,
/// containers that ask for nothing count as small ones.
pub fn of_pod(p: &Pod, default: bool) -> Resources {
    let Some(spec) = &p.spec else { return Resources::default() };
    let mut sum = Resources::default();
    for c in &spec.containers {
        sum.add(&of_container(p, c, default));
    }
    let mut sidecars = Resources::default();
    let mut init = Resources::default();
    for c in spec.init_containers.iter().flatten() {
        let mut r = of_container(p, c, default);
        if c.restart_policy.as_deref() == Some("Always") {
            sum.add(&r);
            sidecars.add(&r);
            init.max(&sidecars);
        } else {
            r.add(&sidecars);
            init.max(&r);
        }
    }
    sum.max(&init);
    if let Some(q) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let level = Resources::from_list(Some(q));
        if q.contains_key("cpu") {
            sum.cpu = level.cpu;
        }
        if q.contains_key("memory") {
            sum.memory = level.memory;
        }
        for (k, v) in level.scalar {
            sum.scalar.insert(k, v);
        }
    }
    sum.add(&Resources::from_list(spec.overhead.as_ref()));
    sum
}
