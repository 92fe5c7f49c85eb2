//! How many watchers are told of a change: what a write is thought to cost after it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use crate::request::{Info, Query};

/// The watches that run, counted by what they watch.
#[derive(Default)]
pub struct Watchers {
    hash: RandomState,
    counts: Mutex<HashMap<u64, u32>>,
}

/// A watch that is counted until this is dropped.
pub struct Counted {
    watchers: Arc<Watchers>,
    key: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.watchers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = all.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.key);
            }
        }
    }
}

impl Watchers {
    fn key(&self, info: &Info, namespace: &str, name: &str) -> u64 {
        self.hash.hash_one((info.group.as_str(), info.resource.as_str(), namespace, name))
    }

    /// Counts a watch, unless it is one of many of which a change concerns one: kubelets' of pods.
    #[must_use]
    pub fn register(self: &Arc<Self>, info: &Info, query: &Query) -> Option<Counted> {
        let of_node = |part: &str| part.strip_prefix("spec.nodeName=").is_some_and(|n| !n.trim_start_matches('=').is_empty());
        if info.resource == "pods" && query.get("fieldSelector").split(',').any(of_node) {
            return None;
        }
        let key = self.key(info, &info.namespace, &info.name);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        Some(Counted { watchers: Arc::clone(self), key })
    }

    /// How many watches a change of this object may concern.
    #[must_use]
    pub fn interested(&self, info: &Info) -> u32 {
        let all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return 0;
        }
        let of = |namespace: &str, name: &str| all.get(&self.key(info, namespace, name)).copied().unwrap_or(0);
        let mut n = of("", "");
        if !info.namespace.is_empty() {
            n += of(&info.namespace, "");
        }
        if !info.name.is_empty() {
            n += of(&info.namespace, &info.name);
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_counted_while_they_run() {
        let w = Arc::new(Watchers::default());
        let watch = |path: &str, query: &str| {
            let q = Query::parse(Some(query));
            w.register(&Info::parse(&http::Method::GET, path, &q), &q)
        };
        let put = Info::parse(&http::Method::PUT, "/api/v1/namespaces/a/pods/x", &Query::default());
        let all = watch("/api/v1/pods", "watch=1");
        let _ns = watch("/api/v1/namespaces/a/pods", "watch=1");
        let _one = watch("/api/v1/namespaces/a/pods", "watch=1&fieldSelector=metadata.name=x");
        let _other = watch("/api/v1/namespaces/b/pods", "watch=1");
        assert!(watch("/api/v1/pods", "watch=1&fieldSelector=spec.nodeName%3Dn").is_none());
        assert_eq!(w.interested(&put), 3);
        drop(all);
        assert_eq!(w.interested(&put), 2);
    }
}
