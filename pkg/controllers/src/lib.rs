//! The controllers: each is a plan over the shared caches, run by the runner.
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod certificates;
mod claim;
pub mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod gc;
pub mod namespace;
pub mod nodes;
pub mod pods;
pub mod policies;
pub mod quota;
pub mod rbac;
mod revisions;
pub mod serviceaccounts;
pub mod volumes;
pub mod workloads;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use knarr_runner::{Controller, Informers, RunOptions, run_controller};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the controllers must be told.
#[derive(Clone)]
pub struct Config {
    /// The cluster CA certificates in PEM, published as `kube-root-ca.crt`.
    pub cluster_ca_pem: String,
    /// Networks from which nodes get their pod networks, such as `10.244.0.0/16`; empty for none.
    pub cluster_cidrs: Vec<String>,
    /// Prefix length of a node's IPv4 network.
    pub node_cidr_mask_v4: u8,
    /// Prefix length of a node's IPv6 network.
    pub node_cidr_mask_v6: u8,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace: std::time::Duration,
    /// Ended pods beyond this number are removed, oldest first.
    pub terminated_pod_threshold: usize,
    /// Signs certificate requests; nothing is signed without it.
    pub certificate_signer: Option<Arc<dyn certificates::CertificateSigner>>,
    /// Approves requests of kubelets for certificates to serve with, where they name the node and
    /// the addresses that it alone has; else somebody else has to.
    pub approve_serving: bool,
    /// Signs the cluster's public description with each bootstrap token; not signed without it.
    pub bootstrap_signer: Option<bootstrap::SignWithToken>,
    /// Shared with other parts of the process; else made.
    pub informers: Option<Informers>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_ca_pem: String::new(),
            cluster_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            node_monitor_grace: std::time::Duration::from_secs(40),
            terminated_pod_threshold: 12_500,
            certificate_signer: None,
            approve_serving: false,
            bootstrap_signer: None,
            informers: None,
        }
    }
}

struct Set {
    tasks: JoinSet<()>,
    informers: Informers,
    cancel: CancellationToken,
}

impl Set {
    fn add<C: Controller>(&mut self, c: C, workers: usize) {
        let opts = RunOptions { workers };
        self.tasks.spawn(run_controller(
            Arc::new(c),
            self.informers.clone(),
            opts,
            self.cancel.clone(),
        ));
    }
}

/// Runs all controllers until `shutdown` ends; returns when all have stopped.
pub async fn run(client: kube::Client, cfg: Config, shutdown: CancellationToken) {
    let informers = cfg
        .informers
        .clone()
        .unwrap_or_else(|| Informers::with_cancel(client, shutdown.clone()));
    let i = informers.clone();
    let mut s = Set { tasks: JoinSet::new(), informers, cancel: shutdown };
    s.add(workloads::deployment::Deployments::new(&i), 4);
    s.add(workloads::replicas::Replicas::<ReplicaSet>::new(&i), 4);
    s.add(workloads::replicas::Replicas::<ReplicationController>::new(&i), 2);
    s.add(workloads::daemonset::DaemonSets::new(&i), 2);
    s.add(workloads::statefulset::StatefulSets::new(&i), 2);
    s.add(workloads::job::Jobs::new(&i), 2);
    s.add(workloads::job::TtlAfterFinished::new(&i), 1);
    s.add(workloads::cronjob::CronJobs::new(&i), 1);
    s.add(disruption::Disruption::new(&i), 1);
    s.add(rbac::Aggregation::new(&i), 1);
    s.add(policies::TypeChecking::new(&i), 1);
    s.add(quota::Quotas::new(&i), 1);
    s.add(serviceaccounts::default_account(&i), 2);
    if !cfg.cluster_ca_pem.is_empty() {
        s.add(serviceaccounts::root_ca(&i, &cfg.cluster_ca_pem), 2);
    }
    s.add(namespace::Namespaces::new(&i), 4);
    s.add(endpoints::Slices::new(&i), 4);
    s.add(endpoints::EndpointsController::new(&i), 2);
    s.add(endpoints::Mirror::new(&i), 1);
    s.add(nodes::Lifecycle::new(&i, cfg.node_monitor_grace), 2);
    s.add(nodes::Evictions::new(&i), 2);
    s.add(nodes::PodGc::new(&i, cfg.terminated_pod_threshold), 2);
    let signer = cfg.certificate_signer.clone();
    s.add(certificates::Certificates::new(&i, signer, cfg.approve_serving), 1);
    if let Some(sign) = cfg.bootstrap_signer {
        s.add(bootstrap::Signer::new(&i, sign), 1);
    }
    s.add(bootstrap::Cleaner::new(&i), 1);
    s.add(volumes::Claims::new(&i), 1);
    s.add(volumes::Volumes::new(&i), 1);
    s.add(volumes::ClaimProtection::new(&i), 1);
    s.add(volumes::VolumeProtection::new(&i), 1);
    s.add(volumes::ClassProtection::new(&i), 1);
    s.add(volumes::Ephemeral::new(&i), 1);
    if !cfg.cluster_cidrs.is_empty() {
        let (v4, v6) = (cfg.node_cidr_mask_v4, cfg.node_cidr_mask_v6);
        s.add(nodes::Ipam::new(&i, &cfg.cluster_cidrs, v4, v6), 1);
    }
    s.tasks.spawn(gc::run(i.clone(), s.cancel.clone()));
    while s.tasks.join_next().await.is_some() {}
}
