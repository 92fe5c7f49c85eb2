//! What every namespace gets: the default service account and the cluster CA's certificates.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Informers, Kind, Plan, Queue};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Keeps one object in every namespace.
pub struct PerNamespace<K> {
    name: &'static str,
    namespaces: Arc<Cache<Namespace>>,
    objects: Arc<Cache<K>>,
    want: K,
    same: fn(&K, &K) -> bool,
}

/// The default service account.
pub fn default_account(i: &Informers) -> PerNamespace<ServiceAccount> {
    let mut want = ServiceAccount::default();
    want.metadata.name = Some("default".into());
    PerNamespace {
        name: "serviceaccount-controller",
        namespaces: i.get(),
        objects: i.get(),
        want,
        same: |_, _| true,
    }
}

/// The cluster CA's certificates.
pub fn root_ca(i: &Informers, pem: &str) -> PerNamespace<ConfigMap> {
    let want = ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA.into()),
            annotations: Some(BTreeMap::from([(
                "kubernetes.io/description".to_owned(),
                DESCRIPTION.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("ca.crt".to_owned(), pem.to_owned())])),
        ..ConfigMap::default()
    };
    PerNamespace {
        name: "root-ca-certificate-publisher",
        namespaces: i.get(),
        objects: i.get(),
        want,
        same: |a, b| {
            let key = "kubernetes.io/description";
            a.data == b.data
                && meta::annotation(&a.metadata, key) == meta::annotation(&b.metadata, key)
        },
    }
}

impl<K: Kind> Controller for PerNamespace<K> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.namespaces.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let (q, want) = (queue.clone(), self.want.meta().name.clone());
        self.objects.on_event(move |e| {
            let m = e.object().meta();
            if m.name == want {
                q.add(Key::new("", meta::ns(m)));
            }
        });
    }
    fn synced(&self) -> bool {
        self.namespaces.has_synced() && self.objects.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(ns) = self.namespaces.by_key(key) else { return Plan::none() };
        let terminating =
            ns.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating");
        if meta::deleting(&ns.metadata) || terminating {
            return Plan::none();
        }
        match self.objects.get(&key.name, meta::name(self.want.meta())) {
            None => {
                let mut o = self.want.clone();
                o.meta_mut().namespace = Some(key.name.clone());
                Plan::one(Action::call("create", move |i| async move {
                    match i.create(&o).await {
                        Err(e)
                            if knarr_runner::is_already_exists(&e)
                                || knarr_runner::is_not_found(&e)
                                || knarr_runner::is_status(&e, 403) =>
                        {
                            Ok(())
                        }
                        other => other.map(drop),
                    }
                }))
            }
            Some(have) if !(self.same)(&have, &self.want) => {
                let mut o = self.want.clone();
                let m = o.meta_mut();
                m.namespace = Some(key.name.clone());
                m.resource_version = have.meta().resource_version.clone();
                Plan::one(Action::update(o))
            }
            Some(_) => Plan::none(),
        }
    }
}
