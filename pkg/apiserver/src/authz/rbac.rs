//! Role-based access control over the server's own caches.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use knarr_registry::{Object, Registry};
use knarr_schema::selector::LabelSelector;
use serde_json::{Value, json};

use super::Attributes;
use crate::auth::UserInfo;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs or `*`.
    pub verbs: Vec<String>,
    /// Groups or `*`.
    pub groups: Vec<String>,
    /// Resources, `resource/sub`, `*/sub` or `*`.
    pub resources: Vec<String>,
    /// Names; empty is all.
    pub names: Vec<String>,
    /// Paths, with `*` at the end.
    pub urls: Vec<String>,
}

fn has(list: &[String], v: &str) -> bool {
    list.iter().any(|x| x == "*" || x == v)
}

impl Rule {
    /// Reads a rule of a role object.
    #[must_use]
    pub fn read(v: &Value) -> Self {
        let list = |m: &str| v.list_at(&[m]).iter().filter_map(|x| x.as_str().map(str::to_owned)).collect();
        Self { verbs: list("verbs"), groups: list("apiGroups"), resources: list("resources"), names: list("resourceNames"), urls: list("nonResourceURLs") }
    }
    /// As in a role object.
    #[must_use]
    pub fn value(&self) -> Value {
        let mut v = json!({"verbs": self.verbs});
        for (k, l) in [("apiGroups", &self.groups), ("resources", &self.resources), ("resourceNames", &self.names), ("nonResourceURLs", &self.urls)] {
            if !l.is_empty() {
                v[k] = json!(l);
            }
        }
        v
    }
    /// Whether the rule allows the attributes.
    #[must_use]
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if !a.resource_request {
            return self.urls.iter().any(|u| {
                u == "*" || *u == a.path || u.strip_suffix('*').is_some_and(|p| a.path.starts_with(p))
            });
        }
        let full = a.full_resource();
        has(&self.groups, &a.group)
            && self.resources.iter().any(|r| {
                r == "*" || *r == full || (!a.subresource.is_empty() && r.strip_prefix("*/") == Some(&a.subresource))
            })
            && (self.names.is_empty() || self.names.contains(&a.name))
    }
    /// Whether this rule covers all of another one.
    fn covers(&self, o: &Rule) -> bool {
        let sub = |mine: &[String], theirs: &[String]| theirs.iter().all(|t| has(mine, t));
        if !o.urls.is_empty() {
            return sub(&self.verbs, &o.verbs)
                && o.urls.iter().all(|u| {
                    self.urls.iter().any(|m| m == "*" || m == u || m.strip_suffix('*').is_some_and(|p| u.starts_with(p)))
                });
        }
        sub(&self.verbs, &o.verbs)
            && sub(&self.groups, &o.groups)
            && o.resources.iter().all(|t| {
                has(&self.resources, t) || t.split_once('/').is_some_and(|(_, s)| self.resources.iter().any(|r| r.strip_prefix("*/") == Some(s)))
            })
            && (self.names.is_empty() || (!o.names.is_empty() && o.names.iter().all(|n| self.names.contains(n))))
    }
    /// The rule as single-resource, single-verb rules.
    fn split(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        let names: Vec<Vec<String>> = if self.names.is_empty() { vec![vec![]] } else { self.names.iter().map(|n| vec![n.clone()]).collect() };
        for v in &self.verbs {
            for g in &self.groups {
                for r in &self.resources {
                    for n in &names {
                        out.push(Rule { verbs: vec![v.clone()], groups: vec![g.clone()], resources: vec![r.clone()], names: n.clone(), urls: vec![] });
                    }
                }
            }
            for u in &self.urls {
                out.push(Rule { verbs: vec![v.clone()], urls: vec![u.clone()], ..Rule::default() });
            }
        }
        out
    }
}

struct Binding {
    name: String,
    /// Empty for cluster-wide ones.
    namespace: String,
    subjects: Vec<(String, String, String)>,
    role: (String, String),
}

#[derive(Default)]
struct Index {
    stamp: [u64; 4],
    roles: HashMap<(String, String), Arc<Vec<Rule>>>,
    bindings: Vec<Binding>,
}

const PREFIXES: [&str; 4] = [
    "/registry/clusterroles/",
    "/registry/roles/",
    "/registry/clusterrolebindings/",
    "/registry/rolebindings/",
];

/// The RBAC authorizer.
pub struct Rbac {
    registry: Arc<Registry>,
    index: RwLock<Arc<Index>>,
}

fn subject_matches(s: &(String, String, String), namespace: &str, user: &UserInfo) -> bool {
    match s.0.as_str() {
        "User" => s.1 == user.name,
        "Group" => user.is_in(&s.1),
        "ServiceAccount" => {
            let ns = if s.2.is_empty() { namespace } else { &s.2 };
            user.name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':')) == Some((ns, s.1.as_str()))
        }
        _ => false,
    }
}

impl Rbac {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, index: RwLock::new(Arc::new(Index::default())) }
    }

    fn stamp(&self) -> [u64; 4] {
        PREFIXES.map(|p| self.registry.cache(p).map_or(0, |c| c.sequence() + 1))
    }

    fn index(&self) -> Arc<Index> {
        let stamp = self.stamp();
        if let Ok(i) = self.index.read()
            && i.stamp == stamp
        {
            return Arc::clone(&i);
        }
        let fresh = Arc::new(self.build(stamp));
        if let Ok(mut i) = self.index.write() {
            *i = Arc::clone(&fresh);
        }
        fresh
    }

    fn build(&self, stamp: [u64; 4]) -> Index {
        let mut x = Index { stamp, ..Index::default() };
        let mut aggregated: Vec<(String, Vec<LabelSelector>)> = Vec::new();
        let mut labelled: Vec<(String, Value)> = Vec::new();
        for (i, p) in PREFIXES.iter().enumerate() {
            let Some(c) = self.registry.cache(p) else { continue };
            let snapshot = c.snapshot();
            for e in snapshot.range("") {
                let v = e.value();
                if i < 2 {
                    let rules: Vec<Rule> = v.list_at(&["rules"]).iter().map(Rule::read).collect();
                    let selectors = v.list_at(&["aggregationRule", "clusterRoleSelectors"]);
                    if i == 0 && !selectors.is_empty() {
                        let selectors: Vec<_> = selectors.iter().filter_map(|s| LabelSelector::from_value(s).ok()).collect();
                        aggregated.push((e.name.to_string(), selectors));
                    }
                    if i == 0 {
                        labelled.push((e.name.to_string(), v));
                    }
                    x.roles.insert((e.namespace.to_string(), e.name.to_string()), Arc::new(rules));
                } else {
                    x.bindings.push(Binding {
                        name: e.name.to_string(),
                        namespace: e.namespace.to_string(),
                        subjects: v
                            .list_at(&["subjects"])
                            .iter()
                            .map(|s| (s.str_at(&["kind"]).into(), s.str_at(&["name"]).into(), s.str_at(&["namespace"]).into()))
                            .collect(),
                        role: (v.str_at(&["roleRef", "kind"]).into(), v.str_at(&["roleRef", "name"]).into()),
                    });
                }
            }
        }
        // Roles gather the rules of others, which may themselves gather: until nothing changes.
        loop {
            let mut changed = false;
            for (name, selectors) in &aggregated {
                let mut all: Vec<Rule> = Vec::new();
                for (other, v) in labelled.iter().filter(|(o, _)| o != name) {
                    if selectors.iter().any(|s| s.matches_object(v))
                        && let Some(rules) = x.roles.get(&(String::new(), other.clone()))
                    {
                        all.extend(rules.iter().filter(|r| !all.contains(r)).cloned().collect::<Vec<_>>());
                    }
                }
                let key = (String::new(), name.clone());
                if x.roles.get(&key).is_none_or(|have| **have != all) {
                    x.roles.insert(key, Arc::new(all));
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        x
    }

    fn role(x: &Index, b: &Binding) -> Option<Arc<Vec<Rule>>> {
        let ns = if b.role.0 == "ClusterRole" { String::new() } else { b.namespace.clone() };
        x.roles.get(&(ns, b.role.1.clone())).cloned()
    }

    /// Whether a role allows it.
    #[must_use]
    pub fn allows(&self, user: &UserInfo, a: &Attributes) -> (bool, String) {
        let x = self.index();
        let mut missing = Vec::new();
        for b in &x.bindings {
            if !b.namespace.is_empty() && (!a.resource_request || b.namespace != a.namespace) {
                continue;
            }
            if !b.subjects.iter().any(|s| subject_matches(s, &b.namespace, user)) {
                continue;
            }
            match Self::role(&x, b) {
                Some(rules) if rules.iter().any(|r| r.allows(a)) => {
                    let kind = if b.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
                    let at = if b.namespace.is_empty() { format!("{:?}", b.name) } else { format!("\"{}/{}\"", b.name, b.namespace) };
                    return (true, format!("RBAC: allowed by {kind} {at} of {} {:?} to {}", b.role.0, b.role.1, subject_text(b, user)));
                }
                Some(_) => {}
                None => missing.push(format!("{}.rbac.authorization.k8s.io {:?} not found", if b.role.0 == "ClusterRole" { "clusterrole" } else { "role" }, b.role.1)),
            }
        }
        let reason = match missing.len() {
            0 => String::new(),
            1 => format!("RBAC: {}", missing.swap_remove(0)),
            _ => format!("RBAC: [{}]", missing.join(", ")),
        };
        (false, reason)
    }

    /// Every rule a user has in a namespace.
    #[must_use]
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let x = self.index();
        x.bindings
            .iter()
            .filter(|b| b.namespace.is_empty() || b.namespace == namespace)
            .filter(|b| b.subjects.iter().any(|s| subject_matches(s, &b.namespace, user)))
            .filter_map(|b| Self::role(&x, b).map(|r| (b, r)))
            .flat_map(|(b, r)| {
                let cluster = b.namespace.is_empty();
                r.iter().filter(|r| cluster || r.urls.is_empty()).cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// The rules of a role that a binding in `namespace` refers to; `None` if it is absent.
    #[must_use]
    pub fn rules_of(&self, kind: &str, name: &str, namespace: &str) -> Option<Arc<Vec<Rule>>> {
        let ns = if kind == "ClusterRole" { String::new() } else { namespace.to_owned() };
        self.index().roles.get(&(ns, name.to_owned())).cloned()
    }

    /// Which of `wanted` the user does not have: giving them away would be an escalation.
    #[must_use]
    pub fn uncovered(&self, user: &UserInfo, namespace: &str, wanted: &[Rule]) -> Vec<Rule> {
        let own = self.rules(user, namespace);
        wanted
            .iter()
            .flat_map(Rule::split)
            .filter(|w| !own.iter().any(|o| o.covers(w)))
            .collect()
    }
}

fn subject_text(b: &Binding, user: &UserInfo) -> String {
    b.subjects
        .iter()
        .find(|s| subject_matches(s, &b.namespace, user))
        .map(|s| if s.0 == "ServiceAccount" { format!("ServiceAccount \"{}/{}\"", s.1, s.2) } else { format!("{} {:?}", s.0, s.1) })
        .unwrap_or_default()
}
