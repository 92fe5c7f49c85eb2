//! Cluster addresses and node ports of services. What is taken is read from the stored services
//! each time, under a lock that is held until the service is stored: nothing to repair after a crash.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use knarr_registry::{ApiError, FieldError, Object};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use crate::core::Core;

/// A network in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// First address.
    pub base: IpAddr,
    /// Length of the prefix.
    pub bits: u8,
}

impl Cidr {
    /// Reads `10.96.0.0/16`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (a, b) = text.split_once('/')?;
        let (base, bits): (IpAddr, u8) = (a.parse().ok()?, b.parse().ok()?);
        let max = if base.is_ipv4() { 32 } else { 128 };
        (bits <= max).then_some(Self { base, bits })
    }
    /// How many addresses there are, at most 2^20.
    #[must_use]
    pub fn size(&self) -> u128 {
        let total: u8 = if self.base.is_ipv4() { 32 } else { 128 };
        1u128 << (total - self.bits).min(20)
    }
    /// The `n`th address.
    #[must_use]
    pub fn nth(&self, n: u128) -> IpAddr {
        match self.base {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a).wrapping_add(u32::try_from(n).unwrap_or(0))).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a).wrapping_add(n)).into()),
        }
    }
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.bits);
                u64::from(u32::from(a)) >> shift == u64::from(u32::from(b)) >> shift
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.bits);
                shift == 128 || u128::from(a) >> shift == u128::from(b) >> shift
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// Gives a service the addresses and ports it lacks, and checks those it asks for.
///
/// # Errors
/// 422 if an address or port is taken or out of range; 500 if none is left.
pub async fn services(core: &Arc<Core>, obj: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<OwnedMutexGuard<()>, ApiError> {
    let guard = Arc::clone(&core.allocating_lock()).lock_owned().await;
    let _ = dry_run;
    core.registry.current().await?;
    let kind = core.kind("services/specs")?;
    let own = kind.key(obj.namespace(), obj.name());
    let mut ips: HashSet<String> = HashSet::new();
    let mut ports: HashSet<(i64, String)> = HashSet::new();
    let mut health: HashSet<i64> = HashSet::new();
    let snapshot = kind.cache.snapshot();
    for e in snapshot.range("").filter(|e| *e.key != *own) {
        let v = e.value();
        for ip in v.list_at(&["spec", "clusterIPs"]).iter().chain(v.at(&["spec", "clusterIP"])) {
            ips.insert(ip.as_str().unwrap_or("").to_owned());
        }
        for p in v.list_at(&["spec", "ports"]) {
            if let Some(n) = p.at(&["nodePort"]).and_then(Value::as_i64) {
                ports.insert((n, p.str_at(&["protocol"]).to_owned()));
            }
        }
        if let Some(n) = v.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_i64) {
            health.insert(n);
        }
    }
    let name = obj.name().to_owned();
    let invalid = |e: FieldError| ApiError::invalid("", "Service", &name, &[e]);
    let kind = obj.str_at(&["spec", "type"]).to_owned();
    if kind == "ExternalName" {
        return Ok(guard);
    }
    let cidr = core.settings.service_cidr;
    let family = if cidr.base.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut ip = obj.str_at(&["spec", "clusterIP"]).to_owned();
    if ip.is_empty() {
        ip = obj.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("").to_owned();
    }
    let policy = obj.str_at(&["spec", "ipFamilyPolicy"]);
    if policy == "RequireDualStack" {
        return Err(invalid(FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", "this cluster is not configured for dual-stack services")));
    }
    for (i, f) in obj.list_at(&["spec", "ipFamilies"]).iter().enumerate() {
        let f = f.as_str().unwrap_or("");
        if ip != "None" && f != family {
            return Err(invalid(FieldError::invalid(format!("spec.ipFamilies[{i}]"), f, "not configured on this cluster")));
        }
    }
    if obj.at(&["spec", "ipFamilyPolicy"]).is_none() {
        obj.set_at(&["spec", "ipFamilyPolicy"], json!("SingleStack"));
    }
    if obj.list_at(&["spec", "ipFamilies"]).is_empty() {
        obj.set_at(&["spec", "ipFamilies"], json!([family]));
    }
    if ip.is_empty() {
        // Random order in the upper part, so that the low addresses stay free for who asks by name.
        let size = cidr.size();
        let low = (size / 16).clamp(16, 256).min(size / 2);
        let seed = u128::from_be_bytes(*uuid::Uuid::new_v4().as_bytes());
        let span = size.saturating_sub(low + 1).max(1);
        let free = (0..span)
            .map(|i| cidr.nth(low + (seed + i) % span))
            .chain((2..low).map(|i| cidr.nth(i)))
            .find(|a| !ips.contains(&a.to_string()));
        ip = free.ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?.to_string();
    } else if ip != "None" {
        let same = old.is_some_and(|o| o.str_at(&["spec", "clusterIP"]) == ip);
        if !same {
            let addr: IpAddr = ip.parse().map_err(|_| invalid(FieldError::invalid("spec.clusterIPs[0]", ip.as_str(), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")))?;
            if !cidr.contains(addr) {
                return Err(invalid(FieldError::invalid("spec.clusterIPs", json!([ip]), format!("failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"))));
            }
            if ips.contains(&ip) {
                return Err(invalid(FieldError::invalid("spec.clusterIPs", json!([ip]), format!("failed to allocate IP {ip}: provided IP is already allocated"))));
            }
        }
    }
    obj.set_at(&["spec", "clusterIPs"], json!([ip]));
    obj.set_at(&["spec", "clusterIP"], json!(ip));
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && obj.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)));
    let (lo, hi) = core.settings.node_ports;
    let before: Vec<Value> = old.map(|o| o.list_at(&["spec", "ports"]).to_vec()).unwrap_or_default();
    let mut list = obj.list_at(&["spec", "ports"]).to_vec();
    for (i, p) in list.iter_mut().enumerate() {
        let proto = p.str_at(&["protocol"]).to_owned();
        let n = p.at(&["nodePort"]).and_then(Value::as_i64).unwrap_or(0);
        if n != 0 {
            let kept = before.iter().any(|b| b.at(&["nodePort"]).and_then(Value::as_i64) == Some(n));
            if !kept && !(lo..=hi).contains(&n) {
                return Err(invalid(FieldError::invalid(format!("spec.ports[{i}].nodePort"), n, format!("provided port is not in the valid range. The range of valid ports is {lo}-{hi}"))));
            }
            if !ports.insert((n, proto)) {
                return Err(invalid(FieldError::invalid(format!("spec.ports[{i}].nodePort"), n, "provided port is already allocated")));
            }
        } else if wants_ports {
            let span = hi - lo + 1;
            let seed = i64::from(u32::from_be_bytes(uuid::Uuid::new_v4().as_bytes()[..4].try_into().unwrap_or([0; 4])));
            // A port of another protocol may be shared, but never by chance.
            let free = (0..span).map(|k| lo + (seed + k) % span).find(|n| {
                !health.contains(n) && !["TCP", "UDP", "SCTP"].iter().any(|q| ports.contains(&(*n, (*q).to_owned())))
            });
            let n = free.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
            ports.insert((n, proto));
            p["nodePort"] = json!(n);
        }
    }
    if !list.is_empty() {
        obj.set_at(&["spec", "ports"], Value::Array(list));
    }
    if kind == "LoadBalancer" && obj.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
        && obj.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_i64).unwrap_or(0) == 0
    {
        let used = |n: &i64| health.contains(n) || ports.iter().any(|(p, _)| p == n);
        if let Some(n) = (lo..=hi).rev().find(|n| !used(n)) {
            obj.set_at(&["spec", "healthCheckNodePort"], json!(n));
        }
    }
    Ok(guard)
}
