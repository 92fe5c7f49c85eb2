//! The trace of recent decisions, for `knarr trace`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// How one node fared for one pod.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct NodeVerdict {
    /// The node.
    pub node: String,
    /// The plugin that refused it, or empty.
    pub rejected_by: String,
    /// Why.
    pub reasons: Vec<String>,
    /// Weighted scores by plugin.
    pub scores: Vec<(String, i64)>,
    /// Their sum.
    pub total: i64,
}

/// One scheduling decision.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Decision {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// The chosen node, or empty.
    pub node: String,
    /// The message of a failure, or empty.
    pub message: String,
    /// Which attempt this was.
    pub attempts: u32,
    /// Time spent deciding, in microseconds.
    pub micros: u64,
    /// Per node, at most [`Decisions::NODES`].
    pub nodes: Vec<NodeVerdict>,
}

#[derive(Default)]
struct Inner {
    by_uid: HashMap<String, Arc<Decision>>,
    order: VecDeque<String>,
}

/// The last decisions about the most recent pods; bounded. Clones share it.
#[derive(Clone, Default)]
pub struct Decisions(Arc<Mutex<Inner>>);

impl Decisions {
    /// How many pods are remembered.
    pub const PODS: usize = 512;
    /// How many nodes of one decision are remembered.
    pub const NODES: usize = 32;

    /// Remembers a decision in place of the pod's last one.
    pub fn put(&self, d: Decision) {
        let mut i = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = d.uid.clone();
        if i.by_uid.insert(uid.clone(), Arc::new(d)).is_none() {
            i.order.push_back(uid);
        }
        while i.order.len() > Self::PODS {
            if let Some(old) = i.order.pop_front() {
                i.by_uid.remove(&old);
            }
        }
    }

    /// The last decision about the pod with this UID.
    pub fn get(&self, uid: &str) -> Option<Arc<Decision>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_uid.get(uid).cloned()
    }

    /// The last decision about a pod of this name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Decision>> {
        let i = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        i.order
            .iter()
            .rev()
            .filter_map(|u| i.by_uid.get(u))
            .find(|d| d.namespace == namespace && d.name == name)
            .cloned()
    }
}
