//! Requests and limits as cgroup numbers.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use knarr_cri_api::v1::LinuxContainerResources;

use crate::{
    quantity,
    spec::{self, Qos},
};

/// CPU period in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

fn get(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Quantity> {
    list?.get(name).cloned()
}

/// `cpu.shares` for thousandths of a core.
pub fn shares(milli: i64) -> i64 {
    if milli <= 0 {
        return MIN_SHARES;
    }
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota per [`CPU_PERIOD`] for thousandths of a core; 0 is none.
pub fn quota(milli: i64) -> i64 {
    if milli <= 0 {
        return 0;
    }
    (milli.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA)
}

/// A container's resources for CRI.
pub fn container(pod: &Pod, c: &Container, node_memory: i64) -> LinuxContainerResources {
    let r = c.resources.as_ref();
    let limits = r.and_then(|r| r.limits.as_ref());
    let requests = r.and_then(|r| r.requests.as_ref());
    let cpu_limit = get(limits, "cpu").and_then(|q| quantity::milli_units(&q)).unwrap_or(0);
    let cpu_request = get(requests, "cpu")
        .and_then(|q| quantity::milli_units(&q))
        .unwrap_or(cpu_limit);
    let pod_limit = |name| {
        spec::spec(pod)
            .resources
            .as_ref()
            .and_then(|r| get(r.limits.as_ref(), name))
    };
    let memory = get(limits, "memory")
        .or_else(|| pod_limit("memory"))
        .and_then(|q| quantity::units(&q))
        .unwrap_or(0);
    LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: memory,
        oom_score_adj: oom_score(pod, c, node_memory),
        ..Default::default()
    }
}

/// How soon the kernel kills the container when the node is out of memory.
pub fn oom_score(pod: &Pod, c: &Container, node_memory: i64) -> i64 {
    if spec::spec(pod).priority.unwrap_or(0) >= 2_000_000_000 {
        return -997;
    }
    match spec::qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = c
                .resources
                .as_ref()
                .and_then(|r| get(r.requests.as_ref(), "memory"))
                .and_then(|q| quantity::units(&q))
                .unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(node_memory.max(1));
            i64::try_from(1000 - share).unwrap_or(3).clamp(3, 999)
        }
    }
}

/// The sum for a whole pod: shares, quota and memory of its cgroup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PodLimits {
    /// `cpu.shares`.
    pub shares: i64,
    /// Quota per [`CPU_PERIOD`], when every container has a CPU limit.
    pub quota: Option<i64>,
    /// Memory in bytes, when every container has a memory limit.
    pub memory: Option<i64>,
}

/// The pod's cgroup numbers: the larger of all containers together and each init container.
pub fn pod(p: &Pod) -> PodLimits {
    let part = |r: Option<&ResourceRequirements>, list: &str, name: &str| -> Option<i64> {
        let r = r?;
        let list = if list == "limits" { &r.limits } else { &r.requests };
        let q = get(list.as_ref(), name)?;
        if name == "cpu" {
            quantity::milli_units(&q)
        } else {
            quantity::units(&q)
        }
    };
    let total = |list: &str, name: &str| -> Option<i64> {
        if let Some(v) = part(spec::spec(p).resources.as_ref(), list, name) {
            return Some(v);
        }
        let need = |c: &Container| -> Option<i64> {
            part(c.resources.as_ref(), list, name).or(if list == "requests" {
                Some(part(c.resources.as_ref(), "limits", name).unwrap_or(0))
            } else {
                None
            })
        };
        let mut sum: i64 = 0;
        let mut peak: i64 = 0;
        for c in spec::inits(p) {
            let n = need(c)?;
            if spec::is_sidecar(c) {
                sum = sum.saturating_add(n);
                peak = peak.max(sum);
            } else {
                peak = peak.max(sum.saturating_add(n));
            }
        }
        for c in spec::mains(p) {
            sum = sum.saturating_add(need(c)?);
        }
        let overhead = spec::spec(p)
            .overhead
            .as_ref()
            .and_then(|o| o.get(name))
            .and_then(|q| {
                if name == "cpu" {
                    quantity::milli_units(q)
                } else {
                    quantity::units(q)
                }
            })
            .unwrap_or(0);
        Some(sum.max(peak).saturating_add(overhead))
    };
    PodLimits {
        shares: shares(total("requests", "cpu").unwrap_or(0)),
        quota: total("limits", "cpu").filter(|m| *m > 0).map(quota),
        memory: total("limits", "memory").filter(|m| *m > 0),
    }
}

/// The pod's cgroup path below `root`.
pub fn cgroup_path(root: &str, p: &Pod) -> String {
    let root = root.trim_end_matches('/');
    let uid = spec::uid(p);
    match spec::qos(p) {
        Qos::Guaranteed => format!("{root}/pod{uid}"),
        Qos::Burstable => format!("{root}/burstable/pod{uid}"),
        Qos::BestEffort => format!("{root}/besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_of(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": containers}
        }))
        .expect("a pod")
    }

    #[test]
    fn numbers_of_a_burstable_container() {
        let p = pod_of(serde_json::json!([{"name": "c", "resources":
            {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "500m"}}}]));
        let r = container(&p, &spec::mains(&p)[0], 4 << 30);
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes), (256, 50_000, 0));
        assert_eq!(r.oom_score_adj, 750);
        assert_eq!(cgroup_path("/k/", &p), "/k/burstable/podu");
        assert_eq!(super::pod(&p), PodLimits { shares: 256, quota: Some(50_000), memory: None });
    }

    #[test]
    fn best_effort_has_the_least_of_all() {
        let p = pod_of(serde_json::json!([{"name": "c"}]));
        let r = container(&p, &spec::mains(&p)[0], 4 << 30);
        assert_eq!((r.cpu_shares, r.cpu_quota, r.oom_score_adj), (2, 0, 1000));
        assert_eq!(cgroup_path("/k", &p), "/k/besteffort/podu");
    }
}
