//! The table's content, and the transactions that change it.

use crate::model::Net;
use crate::plan::{MARK, Map, Place, Plan, UdpFront};
use knarr_network::Protocol;
use knarr_network::nft::{
    Batch, ChainType, Expr, Hook, IpFamily, R0, Rule, SetSpec, Verdict, Write,
};
use std::collections::{BTreeMap, BTreeSet};

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// What the kernel has, by service. Several services may claim one element (a pod's own pair, an
/// external address); the first in order has it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    name: String,
    cluster: Vec<Net>,
    plans: BTreeMap<String, Plan>,
    claims: BTreeMap<Place, BTreeMap<String, Option<Verdict>>>,
}

/// Frontends of UDP whose backends changed.
pub(crate) type StaleUdp = Vec<UdpFront>;

impl Table {
    pub fn new(name: &str, cluster: Vec<Net>) -> Self {
        Self { name: name.to_owned(), cluster, ..Self::default() }
    }

    /// The transaction that makes the whole table anew.
    pub fn rebuild(&self) -> Batch {
        let mut b = self.skeleton();
        let plans = || self.plans.values();
        for s in plans().flat_map(|p| p.sets.values()) {
            b.add_set(s);
        }
        for c in plans().flat_map(|p| p.chains.keys()) {
            b.add_chain(c);
        }
        for (c, rules) in plans().flat_map(|p| &p.chains) {
            for r in rules {
                b.add_rule(c, r);
            }
        }
        let now = |c: &BTreeMap<String, Option<Verdict>>| c.values().next().cloned();
        let all = self.claims.iter().filter_map(|(p, c)| Some((p, now(c)?)));
        push_elements(&mut b, true, all);
        b
    }

    /// What does not depend on services.
    fn skeleton(&self) -> Batch {
        let mut b = Batch::new(&self.name);
        b.reset_table();
        for f in FAMILIES {
            for m in Map::ALL {
                b.add_set(&m.spec(f));
            }
        }
        b.add_chain("reject");
        let tcp = Rule::any().protocol(Protocol::Tcp).with(Expr::Reject { reset: true });
        b.add_rule("reject", &tcp);
        b.add_rule("reject", &Rule::any().with(Expr::Reject { reset: false }));

        b.add_chain("services");
        for f in FAMILIES {
            // From elsewhere to a service address: the answer must come back through us.
            let mut outsider =
                Rule::family(f).load_daddr(f, R0).in_set(&Map::ClusterIps.name(f), false);
            let nets: Vec<_> = self.cluster.iter().filter(|n| IpFamily::of(n.0) == f).collect();
            for (net, prefix) in &nets {
                outsider = outsider.saddr_in(*net, *prefix, false);
            }
            if !nets.is_empty() {
                b.add_rule("services", &outsider.set_mark(MARK, true));
            }
            let to_service = Rule::family(f).load_service(f).vmap(&Map::Services.name(f));
            b.add_rule("services", &to_service);
        }
        for f in FAMILIES {
            let ports = Rule::family(f).to_local().load_proto_port(R0);
            b.add_rule("services", &ports.vmap(&Map::NodePorts.name(f)));
        }
        for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
            b.add_base_chain(name, ChainType::Nat, hook, -100);
            b.add_rule(name, &Rule::any().jump("services"));
        }

        b.add_base_chain("postrouting", ChainType::Nat, Hook::Postrouting, 100);
        let marked = Rule::any().marked(MARK).set_mark(MARK, false);
        b.add_rule("postrouting", &marked.with(Expr::Masquerade));
        for f in FAMILIES {
            let own = Rule::family(f).load_saddr(f, R0).load_daddr(f, R0 + f.regs());
            let own = own.in_set(&Map::Hairpin.name(f), false);
            b.add_rule("postrouting", &own.with(Expr::Masquerade));
        }

        // Behind the rewriting: what still has a service's address has nowhere to go.
        b.add_chain("dead");
        for f in FAMILIES {
            let dead = Rule::family(f).load_service(f).vmap(&Map::Dead.name(f));
            b.add_rule("dead", &dead);
            let ports = Rule::family(f).to_local().load_proto_port(R0);
            b.add_rule("dead", &ports.vmap(&Map::DeadNodePorts.name(f)));
            let unknown = Rule::family(f).load_daddr(f, R0);
            let unknown = unknown.in_set(&Map::ClusterIps.name(f), false);
            b.add_rule("dead", &unknown.goto("reject"));
        }
        for (name, hook, priority) in [
            ("filter-input", Hook::Input, -110),
            ("filter-forward", Hook::Forward, -110),
            ("filter-output", Hook::Output, -90),
        ] {
            b.add_base_chain(name, ChainType::Filter, hook, priority);
            if hook == Hook::Forward {
                // A pod's answer that cannot be rewritten back would make its client hang up.
                for (net, prefix) in &self.cluster {
                    let f = IpFamily::of(*net);
                    let lost = Rule::family(f).ct_invalid().saddr_in(*net, *prefix, true);
                    b.add_rule(name, &lost.verdict(Verdict::Drop));
                }
            }
            b.add_rule(name, &Rule::any().ct_new().jump("dead"));
        }
        b
    }

    /// Takes new plans (none: the service is gone) and gives the transaction that makes the
    /// difference, with the UDP frontends whose flows may be stale.
    pub fn update(&mut self, changes: Vec<(String, Option<Plan>)>) -> (Batch, StaleUdp) {
        let mut b = Batch::new(&self.name);
        let mut stale = Vec::new();
        let mut touched: BTreeMap<Place, Option<Option<Verdict>>> = BTreeMap::new();
        let mut gone_chains: Vec<String> = Vec::new();
        let mut gone_sets: Vec<String> = Vec::new();
        let mut new_sets: Vec<SetSpec> = Vec::new();
        let mut new_chains: Vec<String> = Vec::new();
        let mut rules: Vec<(bool, String, Vec<Rule>)> = Vec::new();
        for (service, plan) in changes {
            let old = self.plans.remove(&service).unwrap_or_default();
            let new = plan.unwrap_or_default();
            for (s, spec) in &new.sets {
                if !old.sets.contains_key(s) {
                    new_sets.push(spec.clone());
                }
            }
            for (c, r) in &new.chains {
                let before = old.chains.get(c);
                if before.is_none() {
                    new_chains.push(c.clone());
                }
                if before != Some(r) {
                    rules.push((before.is_some(), c.clone(), r.clone()));
                }
            }
            gone_chains.extend(old.chains.keys().filter(|c| !new.chains.contains_key(*c)).cloned());
            gone_sets.extend(old.sets.keys().filter(|s| !new.sets.contains_key(*s)).cloned());
            let places: BTreeSet<&Place> = old.elements.keys().chain(new.elements.keys()).collect();
            for place in places {
                if old.elements.get(place) == new.elements.get(place) {
                    continue;
                }
                let claims = self.claims.entry(place.clone()).or_default();
                touched.entry(place.clone()).or_insert_with(|| claims.values().next().cloned());
                match new.elements.get(place) {
                    Some(v) => claims.insert(service.clone(), v.clone()),
                    None => claims.remove(&service),
                };
            }
            stale.extend(stale_udp(&old, &new));
            if new != Plan::default() {
                self.plans.insert(service, new);
            }
        }
        for s in &new_sets {
            b.add_set(s);
        }
        for c in &new_chains {
            b.add_chain(c);
        }
        for (existed, c, list) in &rules {
            if *existed {
                b.flush_chain(c);
            }
            for r in list {
                b.add_rule(c, r);
            }
        }
        let now = |p: &Place| self.claims.get(p).and_then(|c| c.values().next().cloned());
        let changed: Vec<_> =
            touched.into_iter().map(|(p, before)| (now(&p), p, before)).collect();
        let changed: Vec<_> = changed.into_iter().filter(|(n, _, before)| n != before).collect();
        let gone = changed.iter().filter_map(|(_, p, before)| Some((p, before.clone()?)));
        push_elements(&mut b, false, gone);
        let come = changed.iter().filter_map(|(n, p, _)| Some((p, n.clone()?)));
        push_elements(&mut b, true, come);
        for (_, p, _) in &changed {
            if self.claims.get(p).is_some_and(BTreeMap::is_empty) {
                self.claims.remove(p);
            }
        }
        // A chain may lead to another that goes too: empty all, then delete.
        for c in &gone_chains {
            b.flush_chain(c);
        }
        for c in &gone_chains {
            b.delete_chain(c);
        }
        for s in &gone_sets {
            b.delete_set(s);
        }
        (b, stale)
    }

    /// How many services there are rules for.
    pub fn len(&self) -> usize {
        self.plans.len()
    }
}

/// The frontends of a change whose flows may go astray: a backend left, the first one came, or
/// the frontend itself is gone (its flows must not keep on).
fn stale_udp(old: &Plan, new: &Plan) -> StaleUdp {
    let mut out = Vec::new();
    for f in &new.udp {
        let same = |o: &&UdpFront| o.addresses == f.addresses && o.port == f.port;
        let before = old.udp.iter().find(same).map(|o| &o.backends);
        let left = before.is_some_and(|b| !b.is_subset(&f.backends));
        let first = before.is_none_or(BTreeSet::is_empty) && !f.backends.is_empty();
        if left || first {
            out.push(f.clone());
        }
    }
    for o in &old.udp {
        if !new.udp.iter().any(|f| o.addresses == f.addresses && o.port == f.port) {
            out.push(UdpFront { backends: BTreeSet::new(), ..o.clone() });
        }
    }
    out
}

/// Adds or deletes elements, those of one map together.
fn push_elements<'a>(
    b: &mut Batch,
    add: bool,
    elements: impl Iterator<Item = (&'a Place, Option<Verdict>)>,
) {
    type List<'a> = Vec<(&'a [u8], Option<Write>)>;
    let mut by_map: BTreeMap<(Map, IpFamily), List<'a>> = BTreeMap::new();
    for ((map, f, key), v) in elements {
        by_map.entry((*map, *f)).or_default().push((key, v.map(Write::Verdict)));
    }
    for ((map, f), list) in by_map {
        let name = map.name(f);
        if !add {
            b.delete_keys(&name, list.iter().map(|(k, _)| *k));
        } else if map.spec(f).data.is_some() {
            let entries = list.iter().filter_map(|(k, w)| Some((*k, w.as_ref()?)));
            b.add_entries(&name, entries);
        } else {
            b.add_keys(&name, list.iter().map(|(k, _)| *k));
        }
    }
}

#[cfg(test)]
mod tests;
