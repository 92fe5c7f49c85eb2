//! The graph of owners: pure bookkeeping.

use crate::discovery::Resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Where an object is.
#[derive(Clone, Debug)]
pub struct Ident {
    pub resource: Arc<Resource>,
    pub namespace: String,
    pub name: String,
}

/// An object, or an owner that was only named.
#[derive(Clone, Debug)]
pub struct Node {
    pub ident: Ident,
    pub owners: Vec<OwnerReference>,
    pub dependents: HashSet<String>,
    pub deleting: bool,
    /// Being deleted after its dependents.
    pub foreground: bool,
    pub is_virtual: bool,
}

/// All objects by UID.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }
    pub fn dependents(&self, uid: &str) -> Vec<String> {
        self.nodes.get(uid).map(|n| n.dependents.iter().cloned().collect()).unwrap_or_default()
    }

    /// Whether a dependent of this object itself waits for its own dependents: a circle of owners.
    pub fn circular(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|n| {
            n.dependents.iter().any(|d| self.nodes.get(d).is_some_and(|x| x.foreground))
        })
    }

    /// Inserts or replaces a node. Tells whether it should be looked at (an owner is missing,
    /// waiting or changed), and which virtual owners were made.
    pub fn put(
        &mut self,
        uid: &str,
        mut n: Node,
        guess: impl Fn(&OwnerReference) -> Ident,
    ) -> (bool, Vec<String>) {
        let old = self.nodes.remove(uid);
        let mut check = false;
        if let Some(o) = &old {
            n.dependents = o.dependents.clone();
            for r in &o.owners {
                if !n.owners.iter().any(|x| x.uid == r.uid) {
                    if let Some(owner) = self.nodes.get_mut(&r.uid) {
                        owner.dependents.remove(uid);
                        // An owner waiting for its dependents may now go.
                        check |= owner.foreground;
                    }
                }
            }
        }
        let mut virtuals = Vec::new();
        for r in &n.owners {
            match self.nodes.get_mut(&r.uid) {
                Some(owner) => {
                    owner.dependents.insert(uid.to_owned());
                    check |= owner.foreground;
                }
                None => {
                    virtuals.push(r.uid.clone());
                    self.nodes.insert(
                        r.uid.clone(),
                        Node {
                            ident: guess(r),
                            owners: Vec::new(),
                            dependents: HashSet::from([uid.to_owned()]),
                            deleting: false,
                            foreground: false,
                            is_virtual: true,
                        },
                    );
                }
            }
        }
        // Owners that wait in the foreground look again when a dependent lets go of them.
        if let Some(o) = old {
            for r in o.owners {
                let waits = self.nodes.get(&r.uid).is_some_and(|x| x.foreground);
                if waits && !n.owners.iter().any(|x| x.uid == r.uid) {
                    virtuals.push(r.uid);
                }
            }
        }
        self.nodes.insert(uid.to_owned(), n);
        (check, virtuals)
    }

    /// Removes a node; gives its dependents, and its owners that wait for it.
    pub fn remove(&mut self, uid: &str) -> (Vec<String>, Vec<String>) {
        let Some(n) = self.nodes.remove(uid) else { return (Vec::new(), Vec::new()) };
        let mut waiting = Vec::new();
        for r in &n.owners {
            let Some(owner) = self.nodes.get_mut(&r.uid) else { continue };
            owner.dependents.remove(uid);
            if owner.foreground {
                waiting.push(r.uid.clone());
            }
            if owner.is_virtual && owner.dependents.is_empty() {
                self.nodes.remove(&r.uid);
            }
        }
        (n.dependents.into_iter().collect(), waiting)
    }

    /// The real nodes of a resource that a listing did not name.
    pub fn of_resource(&self, r: &Resource, named: &HashSet<String>) -> Vec<String> {
        self.nodes
            .iter()
            .filter(|(u, n)| {
                !n.is_virtual && *n.ident.resource == *r && !named.contains(u.as_str())
            })
            .map(|(u, _)| u.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(owners: &[&str], foreground: bool) -> Node {
        let resource = Resource {
            group: String::new(),
            version: "v1".into(),
            plural: "pods".into(),
            kind: "Pod".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        Node {
            ident: Ident { resource: Arc::new(resource), namespace: "a".into(), name: "x".into() },
            owners: owners
                .iter()
                .map(|u| OwnerReference { uid: (*u).into(), ..OwnerReference::default() })
                .collect(),
            dependents: HashSet::new(),
            deleting: foreground,
            foreground,
            is_virtual: false,
        }
    }

    #[test]
    fn a_circle_of_owners_is_seen_where_it_closes() {
        let mut g = Graph::default();
        let guess = |_: &OwnerReference| node(&[], false).ident;
        g.put("a", node(&["c"], true), guess);
        g.put("b", node(&["a"], true), guess);
        g.put("c", node(&["b"], false), guess);
        assert!(g.circular("c"), "its dependent a already waits");
        assert!(!g.circular("b"), "c does not wait yet");
    }
}
