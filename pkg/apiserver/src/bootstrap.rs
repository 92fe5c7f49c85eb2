//! What must be there in every cluster, made at start where it is missing.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use knarr_registry::{
    ApiError, Object,
    rest::{self, Hooks, WriteOptions},
};
use serde_json::{Value, json};

use crate::{bridge, core::Core};

static RBAC: &str = include_str!("../../../api/rbac/bootstrap.json");
static PRIORITIES: &str = include_str!("../../../api/bootstrap/priorityclasses.json");

/// Writes without admission: the server's own.
struct Own;

#[async_trait]
impl Hooks for Own {
    async fn mutate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn allocate(&self, _: &mut Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    async fn validate(&self, _: &Value, _: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }
    fn warn(&self, text: String) {
        tracing::debug!(text, "warning about a bootstrap object");
    }
}

struct Wanted {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    object: Value,
}

fn list(v: &Value) -> Vec<Value> {
    v.as_array().cloned().unwrap_or_default()
}

fn wanted(core: &Core) -> Result<Vec<Wanted>, ApiError> {
    let read = |t: &str| serde_json::from_str::<Value>(t).map_err(ApiError::internal);
    let (rbac, priorities) = (read(RBAC)?, read(PRIORITIES)?);
    let mut out = Vec::new();
    let g = "rbac.authorization.k8s.io";
    for (member, plural) in [
        ("clusterRoles", "clusterroles"),
        ("clusterRoleBindings", "clusterrolebindings"),
    ] {
        out.extend(list(&rbac[member]).into_iter().map(|object| Wanted {
            group: g,
            version: "v1",
            plural,
            object,
        }));
    }
    for (member, plural) in [("roles", "roles"), ("roleBindings", "rolebindings")] {
        for (ns, all) in rbac[member].as_object().into_iter().flatten() {
            for mut object in list(all) {
                object.meta_mut().insert("namespace".into(), json!(ns));
                out.push(Wanted {
                    group: g,
                    version: "v1",
                    plural,
                    object,
                });
            }
        }
    }
    out.extend(list(&priorities).into_iter().map(|object| Wanted {
        group: "scheduling.k8s.io",
        version: "v1",
        plural: "priorityclasses",
        object,
    }));
    let mut data = json!({"client-ca-file": core.settings.client_ca});
    if let Some(ca) = &core.settings.requestheader_ca {
        data["requestheader-client-ca-file"] = json!(ca);
        let h = &core.settings.requestheader;
        for (key, values) in [
            ("allowed-names", &h.allowed_names),
            ("username-headers", &h.username),
            ("group-headers", &h.group),
            ("extra-headers-prefix", &h.extra_prefix),
            ("uid-headers", &h.uid),
        ] {
            data[format!("requestheader-{key}")] = json!(json!(values).to_string());
        }
    }
    out.push(Wanted { group: "", version: "v1", plural: "configmaps", object: json!({"metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}, "data": data}) });
    out.push(Wanted { group: "networking.k8s.io", version: "v1", plural: "servicecidrs", object: json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [core.settings.service_cidr.to_string()]}}) });
    let cluster_ip = core.settings.service_cidr.nth(1);
    let family = if cluster_ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    out.push(Wanted { group: "", version: "v1", plural: "services", object: json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip.to_string(), "clusterIPs": [cluster_ip.to_string()],
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": core.settings.advertise.port()}]}}) });
    Ok(out)
}

fn row(w: &Wanted) -> Result<Arc<knarr_schema::Resource>, ApiError> {
    // Also where it is not served.
    knarr_schema::Catalog::builtin()
        .lookup(w.group, w.version, w.plural)
        .cloned()
        .ok_or_else(ApiError::no_resource)
}

/// Makes an object if it is missing; `merge` changes one that is there.
async fn ensure(
    core: &Core,
    w: Wanted,
    merge: impl Fn(&mut Value, &Value) + Send,
) -> Result<(), ApiError> {
    let r = row(&w)?;
    let kind = core.kind(&r.key_prefix)?;
    let (ns, name) = (w.object.namespace().to_owned(), w.object.name().to_owned());
    let mut object = w.object;
    object["apiVersion"] = json!(r.api_version());
    object["kind"] = json!(r.kind);
    if object.get("rules").is_some_and(Value::is_null) {
        object["rules"] = json!([]);
    }
    let (mut object, _) = bridge::normalize(&r, &object, "Ignore")?;
    let status = object
        .get("status")
        .cloned()
        .filter(|s| s.as_object().is_some_and(|m| !m.is_empty()));
    if let Some(m) = object.as_object_mut() {
        m.remove("status");
    }
    let key = kind.key(&ns, &name);
    match core.registry.get(&kind.cache, &key, false).await? {
        None => {
            let r = rest::create(
                &core.registry,
                &kind,
                &ns,
                object,
                &WriteOptions::default(),
                &Own,
            )
            .await;
            match r {
                Ok(_) => {}
                Err(e) if e.reason == "AlreadyExists" => return Ok(()),
                Err(e) => return Err(e),
            }
            if let Some(s) = status {
                let o = WriteOptions {
                    subresource: "status".into(),
                    ..WriteOptions::default()
                };
                rest::update(&core.registry, &kind, &ns, &name, &o, &Own, |old| {
                    let mut v = old.unwrap_or_default();
                    v["status"] = s.clone();
                    std::future::ready(Ok(v))
                })
                .await?;
            }
        }
        Some(_) => {
            rest::update(
                &core.registry,
                &kind,
                &ns,
                &name,
                &WriteOptions::default(),
                &Own,
                |old| {
                    let mut v = old.unwrap_or_default();
                    merge(&mut v, &object);
                    std::future::ready(Ok(v))
                },
            )
            .await?;
        }
    }
    Ok(())
}

/// Adds what upstream's roles say and a stored one lacks, unless its owner forbids it.
fn reconcile(have: &mut Value, want: &Value) {
    if have.str_at(&[
        "metadata",
        "annotations",
        "rbac.authorization.kubernetes.io/autoupdate",
    ]) != "true"
    {
        return;
    }
    for m in ["rules", "subjects"] {
        let mut all = have.list_at(&[m]).to_vec();
        for r in want.list_at(&[m]) {
            if !all.contains(r) {
                all.push(r.clone());
            }
        }
        if !all.is_empty() {
            have.set_at(&[m], Value::Array(all));
        }
    }
}

/// Makes everything.
///
/// # Errors
/// If the store refuses.
pub async fn run(core: &Arc<Core>) -> Result<(), ApiError> {
    for name in ["kube-system", "default", "kube-public", "kube-node-lease"] {
        let w = Wanted {
            group: "",
            version: "v1",
            plural: "namespaces",
            object: json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}),
        };
        ensure(core, w, |_, _| ()).await?;
    }
    let all = wanted(core)?;
    let results: Vec<Result<(), ApiError>> = stream::iter(all)
        .map(|w| async move {
            let rbac = w.group == "rbac.authorization.k8s.io";
            let auth = w.plural == "configmaps";
            ensure(core, w, move |have, want| {
                if rbac {
                    reconcile(have, want);
                } else if auth {
                    have["data"] = want["data"].clone();
                }
            })
            .await
        })
        .buffer_unordered(64)
        .collect()
        .await;
    for r in results {
        r?;
    }
    crate::aggregator::builtin(core).await?;
    crate::flowcontrol::maintain::ensure(core).await?;
    endpoints(core).await?;
    core.registry.current().await?;
    Ok(())
}

/// The addresses behind the service `kubernetes`.
async fn endpoints(core: &Core) -> Result<(), ApiError> {
    let ip: IpAddr = core.settings.advertise.ip();
    let port = core.settings.advertise.port();
    if ip.is_loopback() {
        // Pods cannot reach it, and endpoints may not be loopback addresses.
        tracing::warn!("the advertised address is a loopback one: the service kubernetes has no endpoints");
        return Ok(());
    }
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let set = |have: &mut Value, want: &Value| {
        for m in ["subsets", "endpoints", "ports"] {
            if let Some(v) = want.get(m) {
                have[m] = v.clone();
            }
        }
    };
    let w = Wanted {
        group: "",
        version: "v1",
        plural: "endpoints",
        object: json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip.to_string()}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
    };
    ensure(core, w, set).await?;
    let w = Wanted {
        group: "discovery.k8s.io",
        version: "v1",
        plural: "endpointslices",
        object: json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
    };
    ensure(core, w, set).await
}
