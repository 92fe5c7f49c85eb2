//! ResourceQuotas: what a namespace uses.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota,
    ResourceQuotaStatus, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use knarr_runner::meta::{self, Key};
use knarr_runner::quantity::{format_like, parse_milli};
use knarr_runner::{Action, Cache, Controller, Event, Informers, Kind, Plan, Queue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// When caches have surely seen what admission has let in.
const SETTLED: Duration = Duration::from_secs(10);

type Watch = dyn Fn(&Quotas, &Queue<Key>) + Send + Sync;

/// A kind of which only the number counts.
struct Counted {
    /// `count/…`.
    name: &'static str,
    number: Box<dyn Fn(&str) -> usize + Send + Sync>,
    synced: Box<dyn Fn() -> bool + Send + Sync>,
    watch: Box<Watch>,
}

impl Counted {
    fn of<K: Kind>(i: &Informers, name: &'static str) -> Self {
        let cache: Arc<Cache<K>> = i.get();
        let (seen, watched) = (cache.clone(), cache.clone());
        Self {
            name,
            number: Box::new(move |ns| cache.in_namespace(ns).len()),
            synced: Box::new(move || seen.has_synced()),
            watch: Box::new(move |quotas, queue| quotas.watch_kind(&watched, queue, |_, _| false)),
        }
    }
}

/// The resource quota controller. It counts the kinds below; other `count/…` keys are left as
/// admission wrote them.
pub struct Quotas {
    quotas: Arc<Cache<ResourceQuota>>,
    pods: Arc<Cache<Pod>>,
    services: Arc<Cache<Service>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    secrets: Arc<Cache<Secret>>,
    maps: Arc<Cache<ConfigMap>>,
    rcs: Arc<Cache<ReplicationController>>,
    others: Vec<Counted>,
}

impl Quotas {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self {
            quotas: i.get(),
            pods: i.get(),
            services: i.get(),
            claims: i.get(),
            secrets: i.get(),
            maps: i.get(),
            rcs: i.get(),
            others: vec![
                Counted::of::<ReplicaSet>(i, "count/replicasets.apps"),
                Counted::of::<Deployment>(i, "count/deployments.apps"),
                Counted::of::<StatefulSet>(i, "count/statefulsets.apps"),
                Counted::of::<DaemonSet>(i, "count/daemonsets.apps"),
                Counted::of::<Job>(i, "count/jobs.batch"),
                Counted::of::<CronJob>(i, "count/cronjobs.batch"),
            ],
        }
    }

    /// Counts again what a kind uses when one of it goes, or changes in what counts. What is new has
    /// been counted by admission before it was stored, so counting at once could only be wrong:
    /// the quota would be seen with it, and the objects still without it.
    fn watch_kind<K: Kind>(
        &self,
        cache: &Cache<K>,
        queue: &Queue<Key>,
        changed: impl Fn(&K, &K) -> bool + Send + 'static,
    ) {
        let (q, quotas) = (queue.clone(), self.quotas.clone());
        cache.on_event(move |e| {
            let late = match e {
                Event::Added(_) => true,
                Event::Updated { old, new } if !changed(old, new) => return,
                Event::Updated { .. } | Event::Deleted(_) => false,
            };
            for x in quotas.in_namespace(meta::ns(e.object().meta())) {
                let key = Key::of(&x.metadata);
                if late { q.add_after(key, SETTLED) } else { q.add(key) }
            }
        });
    }

    fn used(&self, ns: &str, quota: &ResourceQuota, name: &str) -> Option<i128> {
        let count = |n: usize| Some(i128::try_from(n).unwrap_or(0) * 1000);
        let pods = || {
            self.pods
                .in_namespace(ns)
                .into_iter()
                .filter(|p| !pods::finished(p) && in_scope(quota, p))
                .collect::<Vec<_>>()
        };
        let services = |f: &dyn Fn(&str) -> bool| {
            self.services
                .in_namespace(ns)
                .iter()
                .filter(|s| {
                    f(s.spec.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP"))
                })
                .count()
        };
        match name {
            "pods" | "count/pods" => count(pods().len()),
            "services" | "count/services" => count(services(&|_| true)),
            "services.loadbalancers" => count(services(&|t| t == "LoadBalancer")),
            "services.nodeports" => count(
                self.services
                    .in_namespace(ns)
                    .iter()
                    .flat_map(|s| s.spec.iter().flat_map(|s| s.ports.iter().flatten()))
                    .filter(|p| p.node_port.is_some_and(|n| n > 0))
                    .count(),
            ),
            "secrets" | "count/secrets" => count(self.secrets.in_namespace(ns).len()),
            "configmaps" | "count/configmaps" => count(self.maps.in_namespace(ns).len()),
            "replicationcontrollers" | "count/replicationcontrollers" => {
                count(self.rcs.in_namespace(ns).len())
            }
            "resourcequotas" | "count/resourcequotas" => {
                count(self.quotas.in_namespace(ns).len())
            }
            "persistentvolumeclaims" | "count/persistentvolumeclaims" => {
                count(self.claims.in_namespace(ns).len())
            }
            "requests.storage" => Some(storage(&self.claims.in_namespace(ns), None)),
            name if name.contains(".storageclass.storage.k8s.io/") => {
                let (class, what) = name.split_once(".storageclass.storage.k8s.io/")?;
                let claims = self.claims.in_namespace(ns);
                match what {
                    "requests.storage" => Some(storage(&claims, Some(class))),
                    "persistentvolumeclaims" => {
                        count(claims.iter().filter(|c| class_of(c) == class).count())
                    }
                    _ => None,
                }
            }
            name if name.starts_with("count/") => {
                let known = self.others.iter().find(|o| o.name == name)?;
                count((known.number)(ns))
            }
            other => {
                let (limits, resource) = match other.split_once('.') {
                    Some(("limits", r)) => (true, r),
                    Some(("requests", r)) => (false, r),
                    _ if matches!(other, "cpu" | "memory" | "ephemeral-storage") => (false, other),
                    _ => return None,
                };
                Some(pods().iter().map(|p| pod_sum(p, limits, resource)).sum())
            }
        }
    }
}

/// What a pod asks for, or may use, of one resource, in thousandths.
fn pod_sum(p: &Pod, limits: bool, resource: &str) -> i128 {
    let Some(spec) = &p.spec else { return 0 };
    let of = |c: &k8s_openapi::api::core::v1::Container| {
        let r = c.resources.as_ref();
        let list = if limits {
            r.and_then(|r| r.limits.as_ref())
        } else {
            r.and_then(|r| r.requests.as_ref())
        };
        list.and_then(|l| l.get(resource)).and_then(|q| parse_milli(&q.0)).unwrap_or(0)
    };
    let mut sum: i128 = spec.containers.iter().map(&of).sum();
    let (mut sidecars, mut init) = (0, 0);
    for c in spec.init_containers.iter().flatten() {
        if c.restart_policy.as_deref() == Some("Always") {
            sum += of(c);
            sidecars += of(c);
            init = init.max(sidecars);
        } else {
            init = init.max(of(c) + sidecars);
        }
    }
    let overhead = spec
        .overhead
        .as_ref()
        .and_then(|o| o.get(resource))
        .and_then(|q| parse_milli(&q.0))
        .unwrap_or(0);
    sum.max(init) + overhead
}

fn in_scope(q: &ResourceQuota, p: &Pod) -> bool {
    let spec = p.spec.as_ref();
    let best_effort = p.status.as_ref().and_then(|s| s.qos_class.as_deref()) == Some("BestEffort");
    let terminating =
        spec.and_then(|s| s.active_deadline_seconds).is_some_and(|d| d >= 0);
    let class = spec.and_then(|s| s.priority_class_name.as_deref()).unwrap_or("");
    let scope = |name: &str, op: &str, values: &[String]| match name {
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "PriorityClass" => match op {
            "In" => values.iter().any(|v| v == class),
            "NotIn" => !values.iter().any(|v| v == class),
            "DoesNotExist" => class.is_empty(),
            _ => !class.is_empty(),
        },
        _ => true,
    };
    let Some(s) = &q.spec else { return true };
    s.scopes.iter().flatten().all(|n| scope(n, "Exists", &[]))
        && s.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten()).all(|m| {
            scope(&m.scope_name, &m.operator, m.values.as_deref().unwrap_or(&[]))
        })
}

/// The class a claim asks for.
fn class_of(c: &PersistentVolumeClaim) -> &str {
    let old = "volume.beta.kubernetes.io/storage-class";
    let annotation = c.metadata.annotations.as_ref().and_then(|a| a.get(old));
    let class = c.spec.as_ref().and_then(|s| s.storage_class_name.as_ref());
    annotation.or(class).map_or("", String::as_str)
}

/// What claims ask for, those of one class or all.
fn storage(claims: &[Arc<PersistentVolumeClaim>], class: Option<&str>) -> i128 {
    let wanted = claims.iter().filter(|c| class.is_none_or(|n| class_of(c) == n));
    wanted
        .filter_map(|c| {
            let r = c.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
            parse_milli(&r.get("storage")?.0)
        })
        .sum()
}

impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let (q, quotas) = (queue.clone(), self.quotas.clone());
        self.quotas.on_event(move |e| match e {
            Event::Added(x) => q.add(Key::of(&x.metadata)),
            // What admission writes into the status is right until something goes.
            Event::Updated { old, new } => {
                let hard = |x: &ResourceQuota| x.spec.as_ref().and_then(|s| s.hard.clone());
                let told = new.status.as_ref().and_then(|s| s.hard.clone());
                if hard(old) != hard(new) || told != hard(new) {
                    q.add(Key::of(&new.metadata));
                }
            }
            Event::Deleted(x) => {
                for other in quotas.in_namespace(meta::ns(&x.metadata)) {
                    q.add(Key::of(&other.metadata));
                }
            }
        });
        self.watch_kind(&self.pods, queue, |old, new| {
            let gone = |p: &Pod| pods::finished(p) || p.metadata.deletion_timestamp.is_some();
            let asks = |p: &Pod| {
                let all = p.spec.iter().flat_map(|s| s.containers.iter());
                all.map(|c| c.resources.clone()).collect::<Vec<_>>()
            };
            gone(old) != gone(new) || pods::finished(old) != pods::finished(new) || asks(old) != asks(new)
        });
        self.watch_kind(&self.services, queue, |old, new| {
            let counted = |s: &Service| s.spec.as_ref().map(|s| (s.type_.clone(), s.ports.clone()));
            counted(old) != counted(new)
        });
        self.watch_kind(&self.claims, queue, |old, new| {
            let asks = |c: &PersistentVolumeClaim| c.spec.as_ref().map(|s| s.resources.clone());
            asks(old) != asks(new)
        });
        self.watch_kind(&self.secrets, queue, |_, _| false);
        self.watch_kind(&self.maps, queue, |_, _| false);
        self.watch_kind(&self.rcs, queue, |_, _| false);
        for o in &self.others {
            (o.watch)(self, queue);
        }
    }
    fn synced(&self) -> bool {
        self.quotas.has_synced()
            && self.pods.has_synced()
            && self.services.has_synced()
            && self.claims.has_synced()
            && self.secrets.has_synced()
            && self.maps.has_synced()
            && self.rcs.has_synced()
            && self.others.iter().all(|o| (o.synced)())
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(q) = self.quotas.by_key(key) else { return Plan::none() };
        let hard = q.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let old = q.status.clone().unwrap_or_default();
        let before = old.used.clone().unwrap_or_default();
        let used: BTreeMap<String, Quantity> = hard
            .iter()
            .map(|(k, h)| {
                let v = self.used(&key.namespace, &q, k);
                let kept = before.get(k).cloned().unwrap_or_else(|| Quantity("0".into()));
                (k.clone(), v.map_or(kept, |v| Quantity(format_like(v, &h.0))))
            })
            .collect();
        let number = |m: &BTreeMap<String, Quantity>| {
            m.iter().map(|(k, v)| (k.clone(), parse_milli(&v.0))).collect::<Vec<_>>()
        };
        if old.hard.as_ref() == Some(&hard) && number(&before) == number(&used) {
            return Plan::none();
        }
        let mut next = q.as_ref().clone();
        next.status = Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) });
        Plan::one(Action::update_status(next))
    }
}
