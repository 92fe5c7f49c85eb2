//! Whether this node may take a pod at all: host ports and room.
use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::api::resource::Quantity};

use crate::{quantity, resources, spec};

/// Why a pod was refused.
#[derive(Debug, PartialEq)]
pub struct Refused {
    /// Reason for the status.
    pub reason: &'static str,
    /// Message for the status.
    pub message: String,
}

fn active(p: &Pod) -> bool {
    !matches!(
        p.status.as_ref().and_then(|s| s.phase.as_deref()),
        Some("Succeeded" | "Failed")
    )
}

/// Host ports: address, protocol, port.
fn ports(p: &Pod) -> Vec<(String, String, i32)> {
    spec::mains(p)
        .iter()
        .chain(spec::inits(p).iter().filter(|c| spec::is_sidecar(c)))
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|c| {
            let port = c.host_port.filter(|p| *p > 0)?;
            let ip = c.host_ip.clone().filter(|i| !i.is_empty());
            Some((
                ip.unwrap_or_else(|| "0.0.0.0".into()),
                c.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port,
            ))
        })
        .collect()
}

fn requests(p: &Pod, name: &str) -> i64 {
    if name == "cpu" {
        // shares are the request in 1024ths
        let r = resources::pod(p).shares;
        return if r <= 2 { 0 } else { r * 1000 / 1024 };
    }
    spec::mains(p)
        .iter()
        .filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get(name))
        .filter_map(quantity::units)
        .sum()
}

/// Sysctls of a namespace whose use harms no other pod.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// What is wrong with a sysctl that the pod asks for.
fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let s = spec::spec(pod);
    let asked = s.security_context.as_ref()?.sysctls.as_ref()?;
    asked.iter().find_map(|sysctl| {
        let name = sysctl.name.replace('/', ".");
        let why = if name.starts_with("net.") && s.host_network == Some(true) {
            "not allowed with host net enabled"
        } else if !name.starts_with("net.") && s.host_ipc == Some(true) {
            "not allowed with host ipc enabled"
        } else if SAFE_SYSCTLS.contains(&name.as_str()) {
            return None;
        } else {
            "not allowlisted"
        };
        Some(format!("forbidden sysctl: {name:?} {why}"))
    })
}

/// `None` when `pod` may run beside `others`.
pub fn check(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
) -> Option<Refused> {
    if !active(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if let Some(message) = forbidden_sysctl(pod) {
        return Some(Refused {
            reason: "SysctlForbidden",
            message,
        });
    }
    let running: Vec<&Arc<Pod>> = others.iter().filter(|p| active(p)).collect();
    let taken: Vec<_> = running.iter().flat_map(|p| ports(p)).collect();
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    let clash = ports(pod).iter().any(|(ip, proto, port)| {
        taken.iter().any(|(tip, tproto, tport)| {
            tport == port && tproto == proto && (ip == tip || any(ip) || any(tip))
        })
    });
    if clash {
        return Some(Refused {
            reason: "NodePorts",
            message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        });
    }
    if spec::is_static(pod) {
        return None;
    }
    room(pod, &running, allocatable)
}

fn room(
    pod: &Pod,
    running: &[&Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
) -> Option<Refused> {
    for (name, reason) in [("cpu", "OutOfcpu"), ("memory", "OutOfmemory"), ("pods", "OutOfpods")] {
        let Some(have) = allocatable.get(name).and_then(|q| {
            if name == "cpu" { quantity::milli_units(q) } else { quantity::units(q) }
        }) else {
            continue;
        };
        let (want, used) = if name == "pods" {
            (1, i64::try_from(running.len()).unwrap_or(i64::MAX))
        } else {
            (
                requests(pod, name),
                running.iter().map(|p| requests(p, name)).sum(),
            )
        };
        if want > 0 && used.saturating_add(want) > have {
            return Some(Refused {
                reason,
                message: format!(
                    "Node didn't have enough resource: {name}, requested: {want}, used: {used}, capacity: {have}"
                ),
            });
        }
    }
    None
}

/// Whether two versions of a pod ask for different resources.
pub fn resources_differ(a: &Pod, b: &Pod) -> bool {
    let of = |p: &Pod| -> Vec<_> {
        spec::mains(p)
            .iter()
            .chain(spec::inits(p))
            .map(|c| c.resources.clone())
            .chain([spec::spec(p).resources.clone()])
            .collect()
    };
    of(a) != of(b)
}

/// Why a changed pod does not fit: never (`Infeasible`), or not now (`Deferred`).
pub fn resize(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
) -> Option<Refused> {
    if let Some(r) = room(pod, &[], allocatable) {
        return Some(Refused {
            reason: "Infeasible",
            message: r.message,
        });
    }
    let running: Vec<&Arc<Pod>> = others.iter().filter(|p| active(p)).collect();
    room(pod, &running, allocatable).map(|r| Refused {
        reason: "Deferred",
        message: r.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ip: Option<&str>, cpu: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c",
                "resources": {"requests": {"cpu": cpu}},
                "ports": [{"containerPort": 1, "hostPort": if ip.is_some() { 80 } else { 0 }, "hostIP": ip}]}]}
        }))
        .expect("a pod")
    }

    #[test]
    fn host_ports_clash_unless_the_addresses_differ() {
        let node = BTreeMap::new();
        let there = [Arc::new(pod(Some("127.0.0.1"), "1"))];
        let reason = |p: Pod| check(&p, &there, &node).map(|r| r.reason);
        assert_eq!(reason(pod(Some("127.0.0.1"), "1")), Some("NodePorts"));
        assert_eq!(reason(pod(Some(""), "1")), Some("NodePorts"));
        assert_eq!(reason(pod(Some("10.0.0.1"), "1")), None);
        assert_eq!(reason(pod(None, "1")), None);
    }

    #[test]
    fn only_safe_sysctls_are_allowed() {
        let node = BTreeMap::new();
        let asks = |name: &str, host: bool| -> Option<String> {
            let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p"},
                "spec": {"containers": [], "hostNetwork": host, "securityContext":
                    {"sysctls": [{"name": name, "value": "1"}]}}}))
            .expect("a pod");
            check(&pod, &[], &node).map(|r| r.message)
        };
        assert_eq!(asks("net/ipv4/tcp_syncookies", false), None);
        let text = asks("net.ipv4.tcp_syncookies", true).expect("refused");
        assert_eq!(text, "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled");
        let text = asks("kernel.msgmax", false).expect("refused");
        assert_eq!(text, "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    }

    #[test]
    fn room_is_counted() {
        let node = BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]);
        let there = [Arc::new(pod(None, "1500m"))];
        assert_eq!(check(&pod(None, "500m"), &there, &node), None);
        let r = check(&pod(None, "600m"), &there, &node).expect("refused");
        assert_eq!(r.reason, "OutOfcpu");
    }
}
