//! A container's environment.
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use crate::{
    downward::{self, Addresses},
    expand::expand,
    sources::{ServiceFacts, Services, SourceError},
    spec,
    worker::Shared,
};

/// Why an environment cannot be made; all are CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A config map or secret cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// The key.
        key: String,
        /// `ConfigMap`, `Secret`.
        kind: &'static str,
        /// Namespace.
        namespace: String,
        /// Object.
        name: String,
    },
    /// A field or resource cannot be had.
    #[error(transparent)]
    Downward(#[from] downward::DownwardError),
}

/// Variables in order, names unique.
pub type Env = Vec<(String, String)>;

/// Makes the environment of `c`.
pub async fn environment(
    sh: &Shared,
    pod: &Pod,
    c: &Container,
    addresses: &Addresses,
) -> Result<Env, EnvError> {
    let services = if spec::is_static(pod) {
        Default::default()
    } else {
        sh.sources.services().await
    };
    let links = spec::spec(pod).enable_service_links.unwrap_or(true);
    let service_env = service_env(&services, spec::namespace(pod), links);
    let mut bulk: BTreeMap<String, String> = BTreeMap::new();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match optional(
                sh.sources
                    .config_map(spec::uid(pod), spec::namespace(pod), &r.name)
                    .await,
                r.optional,
            )? {
                Some(cm) => bulk.extend(
                    cm.data
                        .iter()
                        .flatten()
                        .filter(|(k, _)| !k.contains('='))
                        .map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                ),
                None => continue,
            }
        }
        if let Some(r) = &from.secret_ref {
            match optional(
                sh.sources
                    .secret(spec::uid(pod), spec::namespace(pod), &r.name)
                    .await,
                r.optional,
            )? {
                Some(s) => bulk.extend(s.data.iter().flatten().filter(|(k, _)| !k.contains('=')).map(
                    |(k, v)| {
                        (
                            format!("{prefix}{k}"),
                            String::from_utf8_lossy(&v.0).into_owned(),
                        )
                    },
                )),
                None => continue,
            }
        }
    }
    let mut out: Env = Vec::new();
    let mut known: HashMap<String, String> = bulk.clone().into_iter().collect();
    for var in c.env.iter().flatten() {
        let value = match &var.value_from {
            None => expand(var.value.as_deref().unwrap_or_default(), |n| {
                known
                    .get(n)
                    .or_else(|| service_env.get(n))
                    .map(String::as_str)
            }),
            Some(_) => match value_from(sh, pod, c, var, addresses).await? {
                Some(v) => v,
                None => continue,
            },
        };
        known.insert(var.name.clone(), value.clone());
        bulk.remove(&var.name);
        out.retain(|(n, _)| n != &var.name);
        out.push((var.name.clone(), value));
    }
    let rest: Vec<(String, String)> = service_env
        .into_iter()
        .filter(|(k, _)| !known.contains_key(k))
        .collect();
    out.extend(bulk);
    out.extend(rest);
    Ok(out)
}

fn optional<T>(
    got: Result<T, SourceError>,
    optional: Option<bool>,
) -> Result<Option<T>, SourceError> {
    match got {
        Ok(v) => Ok(Some(v)),
        Err(SourceError::NotFound { .. }) if optional == Some(true) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The value of a `valueFrom`; `None` when it is optional and missing.
async fn value_from(
    sh: &Shared,
    pod: &Pod,
    c: &Container,
    var: &EnvVar,
    addresses: &Addresses,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &var.value_from else {
        return Ok(None);
    };
    let (uid, ns) = (spec::uid(pod), spec::namespace(pod));
    if let Some(f) = &from.field_ref {
        return Ok(Some(downward::field(pod, f, addresses)?));
    }
    if let Some(r) = &from.resource_field_ref {
        return Ok(Some(downward::resource(pod, &c.name, r, &sh.allocatable())?));
    }
    if let Some(r) = &from.config_map_key_ref {
        let Some(cm) = optional(sh.sources.config_map(uid, ns, &r.name).await, r.optional)? else {
            return Ok(None);
        };
        return match cm.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(v) => Ok(Some(v.clone())),
            None if r.optional == Some(true) => Ok(None),
            None => Err(EnvError::Key {
                key: r.key.clone(),
                kind: "ConfigMap",
                namespace: ns.into(),
                name: r.name.clone(),
            }),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let Some(s) = optional(sh.sources.secret(uid, ns, &r.name).await, r.optional)? else {
            return Ok(None);
        };
        return match s.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(v) => Ok(Some(String::from_utf8_lossy(&v.0).into_owned())),
            None if r.optional == Some(true) => Ok(None),
            None => Err(EnvError::Key {
                key: r.key.clone(),
                kind: "Secret",
                namespace: ns.into(),
                name: r.name.clone(),
            }),
        };
    }
    Ok(None)
}

/// `NAME_SERVICE_HOST` and its kin for the services a pod is told of.
pub fn service_env(all: &Services, namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let master = ("default".to_owned(), "kubernetes".to_owned());
    if let Some(s) = all.get(&master) {
        one_service(&mut env, "kubernetes", s);
    }
    if links {
        for ((ns, name), s) in all {
            if ns == namespace {
                one_service(&mut env, name, s);
            }
        }
    }
    env
}

fn one_service(env: &mut BTreeMap<String, String>, name: &str, s: &ServiceFacts) {
    let up = |s: &str| s.to_uppercase().replace('-', "_");
    let prefix = up(name);
    let Some(first) = s.ports.first() else {
        return;
    };
    env.insert(format!("{prefix}_SERVICE_HOST"), s.ip.clone());
    env.insert(format!("{prefix}_SERVICE_PORT"), first.1.to_string());
    for (pname, port, _) in s.ports.iter().filter(|p| !p.0.is_empty()) {
        env.insert(format!("{prefix}_SERVICE_PORT_{}", up(pname)), port.to_string());
    }
    let host = if s.ip.contains(':') {
        format!("[{}]", s.ip)
    } else {
        s.ip.clone()
    };
    for (i, (_, port, protocol)) in s.ports.iter().enumerate() {
        let proto = protocol.to_lowercase();
        let url = format!("{proto}://{host}:{port}");
        if i == 0 {
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        let p = format!("{prefix}_PORT_{port}_{}", proto.to_uppercase());
        env.insert(p.clone(), url);
        env.insert(format!("{p}_PROTO"), proto);
        env.insert(format!("{p}_PORT"), port.to_string());
        env.insert(format!("{p}_ADDR"), s.ip.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_become_variables() {
        let mut all = Services::new();
        let facts = ServiceFacts {
            ip: "10.0.0.9".into(),
            ports: vec![("http-x".into(), 80, "TCP".into())],
        };
        all.insert(("ns".into(), "my-svc".into()), facts.clone());
        all.insert(("other".into(), "hidden".into()), facts.clone());
        all.insert(("default".into(), "kubernetes".into()), facts);
        let env = service_env(&all, "ns", true);
        assert_eq!(env["MY_SVC_SERVICE_HOST"], "10.0.0.9");
        assert_eq!(env["MY_SVC_SERVICE_PORT_HTTP_X"], "80");
        assert_eq!(env["MY_SVC_PORT_80_TCP"], "tcp://10.0.0.9:80");
        assert_eq!(env["KUBERNETES_SERVICE_PORT"], "80");
        assert!(!env.contains_key("HIDDEN_SERVICE_HOST"));
        assert!(!service_env(&all, "ns", false).contains_key("MY_SVC_SERVICE_HOST"));
    }
}
