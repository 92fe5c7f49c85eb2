//! Leader election by a Lease, compatible with upstream's.

use crate::meta;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which lease, and how patient.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// This process, unique.
    pub identity: String,
    /// How long a silent leader is believed.
    pub lease_duration: Duration,
    /// When a leader that cannot renew gives up.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
}

impl LeaderConfig {
    /// Upstream's durations (15 s, 10 s, 2 s) on a lease in kube-system.
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

struct Elector {
    api: Api<Lease>,
    cfg: LeaderConfig,
    /// The record last seen of another holder and when it last changed.
    observed: Option<(String, Option<MicroTime>, Instant)>,
}

impl Elector {
    async fn try_hold(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(meta::now());
        let seconds = i32::try_from(self.cfg.lease_duration.as_secs()).unwrap_or(15);
        let mine = |old: Option<&LeaseSpec>| {
            let same = old.and_then(|o| o.holder_identity.as_deref()) == Some(&self.cfg.identity);
            let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
            LeaseSpec {
                holder_identity: Some(self.cfg.identity.clone()),
                lease_duration_seconds: Some(seconds),
                acquire_time: if same {
                    old.and_then(|o| o.acquire_time.clone())
                } else {
                    Some(now.clone())
                },
                renew_time: Some(now.clone()),
                lease_transitions: Some(if same || old.is_none() {
                    transitions
                } else {
                    transitions + 1
                }),
                ..LeaseSpec::default()
            }
        };
        let Some(mut lease) = self.api.get_opt(&self.cfg.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.cfg.name.clone()),
                    namespace: Some(self.cfg.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(mine(None)),
            };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(e) if crate::is_status(&e, 409) => Ok(false),
                Err(e) => Err(e),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.cfg.identity {
            let fresh = match &self.observed {
                Some((h, renewed, at)) if *h == holder && *renewed == spec.renew_time => {
                    at.elapsed() < self.cfg.lease_duration
                }
                _ => {
                    self.observed = Some((holder, spec.renew_time.clone(), Instant::now()));
                    true
                }
            };
            if fresh {
                return Ok(false);
            }
        }
        lease.spec = Some(mine(Some(&spec)));
        match self.api.replace(&self.cfg.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(e) if crate::is_status(&e, 409) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Waits to become leader, runs `work` with a token that ends when leadership is lost, and gives
/// the lease back at the end. Returns when `cancel` ends or leadership was lost.
pub async fn lead<F, Fut>(client: Client, cfg: LeaderConfig, cancel: CancellationToken, work: F)
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let api = Api::namespaced(client, &cfg.namespace);
    let mut e = Elector { api, cfg: cfg.clone(), observed: None };
    loop {
        match e.try_hold().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(err) => tracing::debug!(error = %err, lease = %cfg.name, "cannot reach the lease"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(cfg.retry_period) => {}
        }
    }
    tracing::info!(lease = %cfg.name, identity = %cfg.identity, "leading");
    let token = cancel.child_token();
    let renew = async {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(cfg.retry_period).await;
            match e.try_hold().await {
                Ok(true) => last = Instant::now(),
                _ if last.elapsed() > cfg.renew_deadline => {
                    tracing::warn!(lease = %cfg.name, "leadership lost");
                    return;
                }
                _ => {}
            }
        }
    };
    let job = work(token.clone());
    tokio::pin!(job);
    let finished = tokio::select! {
        () = &mut job => true,
        () = renew => false,
    };
    if !finished {
        token.cancel();
        job.await;
        return;
    }
    let release = serde_json::json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}});
    let pp = kube::api::PatchParams::default();
    let _ = e.api.patch(&cfg.name, &pp, &kube::api::Patch::Merge(release)).await;
}
