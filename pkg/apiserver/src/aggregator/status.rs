//! Whether an aggregated server can be used: the condition `Available` of its APIService.

use knarr_registry::{
    ApiError, Object,
    object::now,
    rest::{self, WriteOptions},
};
use serde_json::{Value, json};

use super::{KIND, Remote};
use crate::{auth::UserInfo, core::Core, custom::Status};

/// What a check has found.
pub struct Found {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Found {
    fn failed(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }
    /// Whether requests may be passed on.
    pub fn passed(&self) -> bool {
        self.status == "True"
    }
}

/// The service's port, its endpoints, and an answer from one of them.
pub async fn check(core: &Core, r: &Remote) -> Found {
    let (ns, name, port) = r.backend.service();
    let Some(service) = core.peek("services/specs", ns, name) else {
        return Found::failed("ServiceNotFound", format!("service/{name} in {ns:?} is not present"));
    };
    if matches!(service.str_at(&["spec", "type"]), "ClusterIP" | "") {
        let ports = service.list_at(&["spec", "ports"]);
        let Some(p) = ports.iter().find(|p| p.at(&["port"]).and_then(Value::as_u64) == Some(port)) else {
            return Found::failed("ServicePortError", format!("service/{name} in {ns:?} is not listening on port {port}"));
        };
        let port_name = p.str_at(&["name"]);
        let slices: Vec<Value> = match core.kind("endpointslices") {
            Ok(k) => {
                let of = |e: &&std::sync::Arc<knarr_registry::Entry>| e.label("kubernetes.io/service-name") == Some(name);
                k.cache.snapshot().prefixed(&k.scope(ns)).filter(of).map(|e| e.value()).collect()
            }
            Err(_) => Vec::new(),
        };
        if slices.is_empty() {
            return Found::failed("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {ns:?}"));
        }
        let usable = |s: &Value| {
            s.list_at(&["endpoints"]).iter().any(|e| e.at(&["conditions", "ready"]) != Some(&Value::Bool(false)))
                && s.list_at(&["ports"]).iter().any(|p| p.str_at(&["name"]) == port_name && p.at(&["port"]).is_some())
        };
        if !slices.iter().any(usable) {
            return Found::failed("MissingEndpoints", format!("endpointslices for service/{name} in {ns:?} have no addresses with port name {port_name:?}"));
        }
    }
    let path = if r.group.is_empty() { format!("/api/{}", r.version) } else { format!("/apis/{}/{}", r.group, r.version) };
    let user = UserInfo { name: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..UserInfo::default() };
    let mut last = String::new();
    // An endpoint that is about to go must not decide for all.
    for attempt in 0..3 {
        if attempt > 0 {
            r.backend.hang_up();
        }
        let url = match r.backend.address(core) {
            Ok((host, port)) if host.contains(':') => format!("https://[{host}]:{port}{path}"),
            Ok((host, port)) => format!("https://{host}:{port}{path}"),
            Err(why) => {
                last = why;
                continue;
            }
        };
        match r.backend.get(core, &path, "application/json", None, &user).await {
            Ok((code, ..)) if (200..300).contains(&code) => {
                return Found { status: "True", reason: "Passed", message: "all checks passed".into() };
            }
            Ok((code, ..)) => last = format!("failing or missing response from {url}: bad status from {url}: {code}"),
            Err(why) => last = format!("failing or missing response from {url}: Get {url:?}: {why}"),
        }
    }
    Found::failed("FailedDiscoveryCheck", last)
}

fn same(c: &Value, found: &Found) -> bool {
    c["status"] == found.status && c["reason"] == found.reason && c["message"] == found.message.as_str()
}

/// Writes what was found, if it is news.
///
/// # Errors
/// If the APIService is gone or cannot be written.
pub async fn write(core: &Core, r: &Remote, found: &Found) -> Result<(), ApiError> {
    let kind = core.kind(KIND)?;
    let of_type = |v: &Value| v.list_at(&["status", "conditions"]).iter().position(|c| c["type"] == "Available");
    if let Some(e) = kind.cache.get(&kind.key("", &r.name)) {
        let v = e.value();
        if v["spec"] != r.spec {
            return Ok(());
        }
        if of_type(&v).is_some_and(|i| same(&v["status"]["conditions"][i], found)) {
            return Ok(());
        }
    }
    let o = WriteOptions { subresource: "status".into(), ..WriteOptions::default() };
    let hooks = Status(core.table().catalog.lookup("apiregistration.k8s.io", "v1", "apiservices").cloned());
    rest::update(&core.registry, &kind, "", &r.name, &o, &hooks, |old| {
        let mut v = old.unwrap_or_default();
        let mut all = v.list_at(&["status", "conditions"]).to_vec();
        let at = of_type(&v);
        let since = at.map(|i| &all[i]).filter(|c| c["status"] == found.status).map_or_else(|| json!(now()), |c| c["lastTransitionTime"].clone());
        let c = json!({"type": "Available", "status": found.status, "lastTransitionTime": since, "reason": found.reason, "message": found.message});
        match at {
            Some(i) => all[i] = c,
            None => all.push(c),
        }
        v.set_at(&["status", "conditions"], json!(all));
        std::future::ready(Ok(v))
    })
    .await
    .map(|_| ())
}
