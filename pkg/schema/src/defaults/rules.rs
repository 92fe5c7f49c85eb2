//! Defaults that depend on other fields.

use serde_json::{Map, Value, json};

use crate::{time, types::Type};

type Object = Map<String, Value>;

fn text<'o>(object: &'o Object, key: &str) -> &'o str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn set(object: &mut Object, key: &str, value: impl FnOnce() -> Value) {
    if object.get(key).is_none_or(Value::is_null) {
        object.insert(key.into(), value());
    }
}

fn child<'o>(object: &'o mut Object, key: &str) -> Option<&'o mut Object> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

fn items<'o>(object: &'o mut Object, key: &str) -> impl Iterator<Item = &'o mut Object> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The structs that [`of_struct`] knows.
pub(crate) const RULED: [&str; 17] = [
    "io.k8s.api.core.v1.NodeSpec",
    "io.k8s.api.core.v1.Volume",
    "io.k8s.api.core.v1.LimitRangeItem",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.api.core.v1.Container",
    "io.k8s.api.core.v1.EphemeralContainer",
    "io.k8s.api.core.v1.ImageVolumeSource",
    "io.k8s.api.core.v1.PodSpec",
    "io.k8s.api.core.v1.PodStatus",
    "io.k8s.api.core.v1.NodeStatus",
    "io.k8s.api.apps.v1.DeploymentStrategy",
    "io.k8s.api.apps.v1.DaemonSetUpdateStrategy",
    "io.k8s.api.apps.v1.StatefulSetUpdateStrategy",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior",
    "io.k8s.api.networking.v1.NetworkPolicySpec",
    "io.k8s.api.resource.v1.ExactDeviceRequest",
    "io.k8s.api.resource.v1.DeviceTaint",
];

/// Rules of a kind that run before the structs' own.
pub(super) fn of_root(ty: &'static Type, object: &mut Object) {
    match ty.name {
        "io.k8s.api.core.v1.Pod" => pod(object),
        "io.k8s.api.core.v1.Namespace" => namespace(object),
        "io.k8s.api.core.v1.Secret" => secret(object),
        "io.k8s.api.core.v1.Service" => service(object),
        "io.k8s.api.core.v1.ReplicationController" => replication_controller(object),
        "io.k8s.api.core.v1.PersistentVolume" => {
            if let Some(spec) = child(object, "spec") {
                set(spec, "persistentVolumeReclaimPolicy", || "Retain".into());
                set(spec, "volumeMode", || "Filesystem".into());
            }
        }
        "io.k8s.api.batch.v1.Job" => job(object),
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" => crd(object),
        _ => {}
    }
}

/// Rules of a kind that need the structs' own defaults.
pub(super) fn of_root_late(ty: &'static Type, object: &mut Object) {
    if ty.name == "io.k8s.api.core.v1.Service" {
        let balanced = object.get("spec").and_then(|s| s.get("type")).is_some_and(|t| t == "LoadBalancer");
        if let Some(balancer) = child(object, "status").and_then(|s| child(s, "loadBalancer")).filter(|_| balanced) {
            for ingress in items(balancer, "ingress") {
                if !text(ingress, "ip").is_empty() {
                    set(ingress, "ipMode", || "VIP".into());
                }
            }
        }
    }
}

/// Rules of a struct wherever it stands.
pub(super) fn of_struct(ty: &'static Type, object: &mut Object) {
    let Some(name) = ty.name.strip_prefix("io.k8s.api.") else { return };
    match name {
        "core.v1.Container" | "core.v1.EphemeralContainer" => {
            let policy = pull_policy(text(object, "image"));
            set(object, "imagePullPolicy", || policy.into());
        }
        "core.v1.ImageVolumeSource" => {
            let policy = pull_policy(text(object, "reference"));
            set(object, "pullPolicy", || policy.into());
        }
        // A volume of no kind is an empty folder.
        "core.v1.Volume" if object.iter().all(|(key, value)| key == "name" || value.is_null()) => {
            object.insert("emptyDir".into(), json!({}));
        }
        "core.v1.PodSpec" => {
            if text(object, "serviceAccountName").is_empty() {
                match object.get("serviceAccount").cloned() {
                    Some(name) => object.insert("serviceAccountName".into(), name),
                    None => None,
                };
            } else if let Some(name) = object.get("serviceAccountName").cloned() {
                object.insert("serviceAccount".into(), name);
            }
        }
        "core.v1.LimitRangeItem" if text(object, "type") == "Container" => limits(object),
        "rbac.v1.Subject" if text(object, "apiGroup").is_empty() && matches!(text(object, "kind"), "User" | "Group") => {
            object.insert("apiGroup".into(), "rbac.authorization.k8s.io".into());
        }
        "core.v1.PodStatus" => pod_status(object),
        "core.v1.NodeSpec" => {
            // The older field is the one that counts.
            let one = text(object, "podCIDR").to_owned();
            match object.get("podCIDRs").and_then(|l| l.get(0)).and_then(Value::as_str).map(str::to_owned) {
                Some(first) if one.is_empty() => {
                    object.insert("podCIDR".into(), first.into());
                }
                first if !one.is_empty() && first.as_ref() != Some(&one) => {
                    object.insert("podCIDRs".into(), json!([one]));
                }
                _ => {}
            }
        }
        "core.v1.NodeStatus" => {
            if let Some(capacity) = object.get("capacity").cloned() {
                set(object, "allocatable", || capacity);
            }
        }
        "apps.v1.DeploymentStrategy" => rolling(object, &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]),
        "apps.v1.DaemonSetUpdateStrategy" => rolling(object, &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]),
        // An explicit type without parameters stays without.
        "apps.v1.StatefulSetUpdateStrategy" if text(object, "type").is_empty() || object.contains_key("rollingUpdate") => rolling(object, &[("partition", json!(0)), ("maxUnavailable", json!(1))]),
        "autoscaling.v2.HorizontalPodAutoscalerBehavior" => behavior(object),
        "networking.v1.NetworkPolicySpec" => {
            let egress = object.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
            if object.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
                object.insert("policyTypes".into(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
            }
        }
        "resource.v1.ExactDeviceRequest" | "resource.v1.DeviceSubRequest" => {
            if matches!(text(object, "allocationMode"), "" | "ExactCount") {
                set(object, "count", || 1.into());
            }
        }
        "resource.v1.DeviceTaint" => set(object, "timeAdded", || time::format(time::now()).into()),
        _ => {}
    }
}

/// A container's limits: what is not given follows from what is.
fn limits(item: &mut Object) {
    let get = |item: &Object, key: &str| item.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    let (most, least) = (get(item, "max"), get(item, "min"));
    let (mut limit, mut request) = (get(item, "default"), get(item, "defaultRequest"));
    for (k, v) in most {
        limit.entry(k).or_insert(v);
    }
    for (k, v) in limit.iter().chain(&least) {
        request.entry(k.clone()).or_insert_with(|| v.clone());
    }
    for (key, map) in [("default", limit), ("defaultRequest", request)] {
        if !map.is_empty() {
            item.insert(key.into(), Value::Object(map));
        }
    }
}

fn rolling(strategy: &mut Object, defaults: &[(&str, Value)]) {
    if !matches!(text(strategy, "type"), "" | "RollingUpdate") {
        return;
    }
    set(strategy, "rollingUpdate", || json!({}));
    if let Some(rolling) = child(strategy, "rollingUpdate") {
        for (key, value) in defaults {
            set(rolling, key, || value.clone());
        }
    }
}

fn behavior(behavior: &mut Object) {
    set(behavior, "scaleUp", || json!({}));
    set(behavior, "scaleDown", || json!({}));
    if let Some(up) = child(behavior, "scaleUp") {
        set(up, "stabilizationWindowSeconds", || 0.into());
        set(up, "selectPolicy", || "Max".into());
        set(up, "policies", || json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]));
    }
    if let Some(down) = child(behavior, "scaleDown") {
        set(down, "selectPolicy", || "Max".into());
        set(down, "policies", || json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    }
}

/// `Always` for an image without a tag or with the tag `latest`.
pub(crate) fn pull_policy(image: &str) -> &'static str {
    if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of an image reference, `latest` when it names neither tag nor digest; `None` for a
/// text that is no reference.
fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let start = name.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match name[start..].find(':') {
        Some(i) => (&name[..start + i], Some(&name[start + i + 1..])),
        None => (name, None),
    };
    let host_ok = |b: u8| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b);
    if path.len() > 255 {
        return None;
    }
    let mut segments = path.split('/').peekable();
    let mut first = true;
    while let Some(segment) = segments.next() {
        let host = first && segments.peek().is_some();
        let ok = if host { segment.bytes().all(host_ok) } else { path_part(segment) };
        if segment.is_empty() || !ok {
            return None;
        }
        first = false;
    }
    let tag_ok = |t: &str| !t.is_empty() && t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) && !t.starts_with(['.', '-']);
    match (tag, digest) {
        (Some(tag), _) if !tag_ok(tag) => None,
        (_, Some(digest)) if !digest.contains(':') => None,
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => Some(""),
        (None, None) => Some("latest"),
    }
}

fn path_part(segment: &str) -> bool {
    let b = segment.as_bytes();
    !b.is_empty()
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(c))
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
}

fn pod(pod: &mut Object) {
    let Some(spec) = child(pod, "spec") else { return };
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            if let Some(resources) = child(container, "resources")
                && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
            {
                set(resources, "requests", || json!({}));
                if let Some(requests) = child(resources, "requests") {
                    for (key, value) in limits {
                        requests.entry(key).or_insert(value);
                    }
                }
            }
            if host_network {
                for port in items(container, "ports") {
                    if let Some(number) = port.get("containerPort").filter(|n| n.as_i64() != Some(0)).cloned() {
                        set(port, "hostPort", || number);
                    }
                }
            }
        }
    }
    set(spec, "enableServiceLinks", || true.into());
}

fn pod_status(status: &mut Object) {
    let ip = text(status, "podIP").to_owned();
    let first = status.get("podIPs").and_then(|l| l.get(0)).map(|i| i.get("ip").and_then(Value::as_str).unwrap_or_default().to_owned());
    match first {
        Some(first) if ip.is_empty() => {
            if !first.is_empty() {
                status.insert("podIP".into(), first.into());
            }
        }
        Some(first) if first == ip => {}
        None if ip.is_empty() => {}
        _ => {
            status.insert("podIPs".into(), json!([{"ip": ip}]));
        }
    }
}

/// `stringData` is write-only: it becomes `data`.
fn secret(secret: &mut Object) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(Value::Object(given)) = secret.remove("stringData") else { return };
    set(secret, "data", || json!({}));
    if let Some(data) = child(secret, "data") {
        for (key, value) in given {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
        }
    }
}

fn namespace(namespace: &mut Object) {
    let Some(meta) = child(namespace, "metadata") else { return };
    let name = text(meta, "name").to_owned();
    if name.is_empty() {
        return;
    }
    set(meta, "labels", || json!({}));
    if let Some(labels) = child(meta, "labels") {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn service(service: &mut Object) {
    let Some(spec) = child(service, "spec") else { return };
    match text(spec, "sessionAffinity") {
        "" | "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let timeout = spec.get("sessionAffinityConfig").and_then(|c| c.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none() {
                spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": 10800}}));
            }
        }
        _ => {}
    }
    let kind = match text(spec, "type") {
        "" => "ClusterIP".to_owned(),
        kind => kind.to_owned(),
    };
    for port in items(spec, "ports") {
        if port.get("targetPort").is_none_or(|t| *t == json!(0) || *t == json!("")) {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".into(), number);
        }
    }
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if kind == "NodePort" || kind == "LoadBalancer" || (kind == "ClusterIP" && external_ips) {
        set(spec, "externalTrafficPolicy", || "Cluster".into());
    }
    if matches!(&*kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        set(spec, "internalTrafficPolicy", || "Cluster".into());
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", || true.into());
    }
}

fn template_labels(object: &Object) -> Option<Value> {
    object.get("spec")?.pointer("/template/metadata/labels").cloned()
}

fn copy_labels(object: &mut Object, labels: &Value) {
    if let Some(meta) = child(object, "metadata") {
        set(meta, "labels", || labels.clone());
    }
}

fn replication_controller(controller: &mut Object) {
    if let Some(labels) = template_labels(controller) {
        copy_labels(controller, &labels);
        if let Some(spec) = child(controller, "spec") {
            set(spec, "selector", || labels);
        }
    }
}

fn job(job: &mut Object) {
    if let Some(labels) = template_labels(job) {
        copy_labels(job, &labels);
    }
    let Some(spec) = child(job, "spec") else { return };
    if !spec.contains_key("parallelism") {
        set(spec, "completions", || 1.into());
    }
    set(spec, "parallelism", || 1.into());
    let per_index = spec.contains_key("backoffLimitPerIndex");
    set(spec, "backoffLimit", || if per_index { i32::MAX.into() } else { 6.into() });
    set(spec, "completionMode", || "NonIndexed".into());
    set(spec, "suspend", || false.into());
    set(spec, "manualSelector", || false.into());
    let failure_policy = spec.contains_key("podFailurePolicy");
    set(spec, "podReplacementPolicy", || if failure_policy { "Failed".into() } else { "TerminatingOrFailed".into() });
}

fn crd(crd: &mut Object) {
    let Some(spec) = child(crd, "spec") else { return };
    if let Some(names) = child(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            if text(names, "singular").is_empty() {
                names.insert("singular".into(), kind.to_lowercase().into());
            }
            if text(names, "listKind").is_empty() {
                names.insert("listKind".into(), format!("{kind}List").into());
            }
        }
    }
    let stored = items(spec, "versions").find(|v| v.get("storage") == Some(&Value::Bool(true))).map(|v| text(v, "name").to_owned());
    if let (Some(stored), Some(status)) = (stored, child(crd, "status"))
        && status.get("storedVersions").and_then(Value::as_array).is_none_or(Vec::is_empty)
    {
        status.insert("storedVersions".into(), json!([stored]));
    }
}
