//! Aggregated ClusterRoles: their rules are those of the roles they select.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Queue};
use std::sync::Arc;

/// The ClusterRole aggregation controller.
pub struct Aggregation {
    roles: Arc<Cache<ClusterRole>>,
}

impl Aggregation {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { roles: i.get() }
    }
}

/// The rules of all roles that the aggregation selects, each once, in the order of role names.
fn aggregated(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for s in selectors {
        let mut hits: Vec<&Arc<ClusterRole>> = all
            .iter()
            .filter(|r| r.metadata.name != role.metadata.name)
            .filter(|r| meta::selects(s, r.metadata.labels.as_ref()))
            .collect();
        hits.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for r in hits.into_iter().flat_map(|h| h.rules.iter().flatten()) {
            if !rules.contains(r) {
                rules.push(r.clone());
            }
        }
    }
    Some(rules)
}

impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let (q, roles) = (queue.clone(), self.roles.clone());
        self.roles.on_event(move |e| {
            q.add(Key::of(&e.object().metadata));
            for r in roles.list() {
                if r.aggregation_rule.is_some() {
                    q.add(Key::of(&r.metadata));
                }
            }
        });
    }
    fn synced(&self) -> bool {
        self.roles.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(role) = self.roles.by_key(key) else { return Plan::none() };
        let Some(rules) = aggregated(&role, &self.roles.list()) else { return Plan::none() };
        if role.rules.clone().unwrap_or_default() == rules {
            return Plan::none();
        }
        let mut next = role.as_ref().clone();
        next.rules = Some(rules);
        Plan::one(Action::update(next))
    }
}
