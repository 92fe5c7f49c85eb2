//! The fields of a pod's spec, in pods and in templates.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::{
    Check::{Bytes, Custom, Ip, Label, Least, OneOf, OneOfAsIs, Port, PortName, Qualified, Required, Selector, Subdomain},
    Rule,
};
use crate::{error::FieldError, names, object::Object};

const ID: &str = "must be between 0 and 2147483647, inclusive";
const TERM: &[super::Check] = &[Custom(node_term)];
const AFFINE: &[super::Check] = &[Custom(affinity_term)];
const WEIGHT: &[super::Check] = &[Custom(weight)];
const SECCOMP: &[super::Check] = &[Required("type is required when seccompProfile is set"), OneOf(&["Localhost", "RuntimeDefault", "Unconfined"])];

static SPEC: &[Rule] = &[
    ("hostAliases[].ip", &[Ip]),
    ("hostAliases[].hostnames[]", &[Subdomain]),
    ("?priorityClassName", &[Subdomain]),
    ("readinessGates[].conditionType", &[Qualified]),
    ("dnsConfig.nameservers[]", &[Ip]),
    ("dnsConfig.searches[]", &[Custom(search)]),
    ("dnsConfig.options[]", &[Custom(dns_option)]),
    ("securityContext.runAsUser", &[Custom(id)]),
    ("securityContext.runAsGroup", &[Custom(id)]),
    ("securityContext.fsGroup", &[Custom(id)]),
    ("securityContext.supplementalGroups[]", &[Custom(id)]),
    ("securityContext.seccompProfile.type", SECCOMP),
    ("topologySpreadConstraints[].maxSkew", &[Least(1, "must be greater than zero")]),
    ("topologySpreadConstraints[].topologyKey", &[Required("can not be empty")]),
    ("topologySpreadConstraints[].whenUnsatisfiable", &[Custom(unsatisfiable)]),
    ("topologySpreadConstraints[].labelSelector", &[Selector]),
    ("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms", &[Required("must have at least one node selector term")]),
    ("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[]", TERM),
    ("affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight", WEIGHT),
    ("affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference", TERM),
    ("affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[]", AFFINE),
    ("affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight", WEIGHT),
    ("affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm", AFFINE),
    ("affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[]", AFFINE),
    ("affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight", WEIGHT),
    ("affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm", AFFINE),
    ("tolerations[]", &[Custom(toleration)]),
    ("volumes[].nfs.server", &[Required("")]),
    ("volumes[].nfs.path", &[Required(""), Custom(absolute)]),
    ("volumes[].hostPath.type", &[OneOf(&["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"])]),
    ("volumes[].csi.driver", &[Required(""), Subdomain]),
    ("volumes[].configMap.defaultMode", &[Custom(mode)]),
    ("volumes[].configMap.items[]", &[Custom(key_to_path)]),
    ("volumes[].secret.defaultMode", &[Custom(mode)]),
    ("volumes[].secret.items[]", &[Custom(key_to_path)]),
    ("volumes[].downwardAPI.defaultMode", &[Custom(mode)]),
];

static CONTAINER: &[Rule] = &[
    ("?ports[].name", &[PortName]),
    ("env[].valueFrom", &[Custom(source)]),
    ("envFrom[]", &[Custom(env_from)]),
    ("securityContext.privileged", &[Custom(privileged)]),
    ("securityContext.runAsUser", &[Custom(id)]),
    ("securityContext.runAsGroup", &[Custom(id)]),
    ("securityContext.seccompProfile.type", SECCOMP),
    ("securityContext.procMount", &[OneOfAsIs(&["Default", "Unmasked"])]),
    ("livenessProbe", &[Custom(probe)]),
    ("readinessProbe", &[Custom(probe)]),
    ("startupProbe", &[Custom(probe)]),
    ("lifecycle.postStart", &[Custom(hook)]),
    ("lifecycle.preStop", &[Custom(hook)]),
];

/// Whether containers may be privileged, in this process.
static PRIVILEGED: AtomicBool = AtomicBool::new(true);

/// Says whether containers may be privileged; they may before it is said.
pub fn allow_privileged(allowed: bool) {
    PRIVILEGED.store(allowed, Ordering::Relaxed);
}

pub(in crate::strategy) fn privileged(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v == true && !PRIVILEGED.load(Ordering::Relaxed) {
        out.push(FieldError::forbidden(at, "disallowed by cluster policy"));
    }
}

/// Everything that the tables find wrong with a spec at `path`.
pub(in crate::strategy) fn check(spec: &Value, path: &str, out: &mut Vec<FieldError>) {
    let mut inner = Vec::new();
    super::check(spec, SPEC, &mut inner);
    for list in ["containers", "initContainers"] {
        for (i, c) in spec.list_at(&[list]).iter().enumerate() {
            inner.extend(within(&format!("{list}[{i}]"), |out| super::check(c, CONTAINER, out)));
        }
    }
    out.extend(inner.into_iter().map(|e| FieldError { field: format!("{path}.{}", e.field), ..e }));
}

/// What is found below a place.
fn within(at: &str, find: impl FnOnce(&mut Vec<FieldError>)) -> Vec<FieldError> {
    let mut inner = Vec::new();
    find(&mut inner);
    let join = |field: String| if field.is_empty() { at.to_owned() } else { format!("{at}.{field}") };
    inner.into_iter().map(|e| FieldError { field: join(e.field.clone()), ..e }).collect()
}

fn id(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_i64().is_some_and(|n| !(0..=2_147_483_647).contains(&n)) {
        out.push(FieldError::invalid(at, v.clone(), ID));
    }
}

fn search(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    // A search path may end with a dot, and be one.
    let name = text.strip_suffix('.').unwrap_or(text);
    if text != "." {
        out.extend(names::subdomain(&name.replace('_', "-")).into_iter().map(|m| FieldError::invalid(at, text, m)));
    }
}

fn dns_option(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.str_at(&["name"]).is_empty() {
        out.push(FieldError::required(at, "must not be empty"));
    }
}

fn unsatisfiable(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    if !matches!(text, "DoNotSchedule" | "ScheduleAnyway") {
        out.push(FieldError::not_supported(at, text, &["DoNotSchedule", "ScheduleAnyway"]));
    }
}

fn weight(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_i64().is_some_and(|n| !(1..=100).contains(&n)) {
        out.push(FieldError::invalid(at, v.clone(), "must be in the range 1-100"));
    }
}

/// Requirements on nodes.
pub(super) fn node_term(t: &Value, at: &str, out: &mut Vec<FieldError>) {
    for (i, e) in t.list_at(&["matchExpressions"]).iter().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = e.list_at(&["values"]);
        match e.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => out.push(FieldError::required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'")),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                out.push(FieldError::forbidden(format!("{at}.values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "Gt" | "Lt" if values.len() != 1 => out.push(FieldError::required(format!("{at}.values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => out.push(FieldError::invalid(format!("{at}.operator"), other, "not a valid selector operator")),
        }
        let key = e.str_at(&["key"]);
        out.extend(names::qualified(key).into_iter().map(|m| FieldError::invalid(format!("{at}.key"), key, m)));
        for (i, v) in values.iter().filter_map(Value::as_str).enumerate() {
            out.extend(knarr_schema::names::label_value(v).into_iter().map(|m| FieldError::invalid(format!("{at}.values[{i}]"), v, m)));
        }
    }
}

fn affinity_term(t: &Value, at: &str, out: &mut Vec<FieldError>) {
    out.extend(within(at, |out| {
        super::check(t, &[
            ("labelSelector", &[Selector]),
            ("namespaceSelector", &[Selector]),
            ("namespaces[]", &[Label]),
        ], out);
        let key = t.str_at(&["topologyKey"]);
        if key.is_empty() {
            out.push(FieldError::required("topologyKey", "can not be empty"));
        }
        out.extend(names::qualified(key).into_iter().map(|m| FieldError::invalid("topologyKey", key, m)));
    }));
}

/// What the older checks of tolerations leave out.
fn toleration(t: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (key, value) = (t.str_at(&["key"]), t.str_at(&["value"]));
    if !key.is_empty() {
        out.extend(names::qualified(key).into_iter().map(|m| FieldError::invalid(format!("{at}.key"), key, m)));
    }
    match t.str_at(&["operator"]) {
        "" | "Equal" => out.extend(knarr_schema::names::label_value(value).into_iter().map(|m| FieldError::invalid(format!("{at}.operator"), value, m))),
        "Exists" if !value.is_empty() => out.push(FieldError::invalid(format!("{at}.operator"), t.clone(), "value must be empty when `operator` is 'Exists'")),
        _ => {}
    }
}

fn absolute(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if !v.as_str().is_some_and(|t| t.starts_with('/')) {
        out.push(FieldError::invalid(at, v.clone(), "must be an absolute path"));
    }
}

fn mode(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_i64().is_some_and(|n| !(0..=0o777).contains(&n)) {
        out.push(FieldError::invalid(at, v.clone(), "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn key_to_path(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.str_at(&["key"]).is_empty() {
        out.push(FieldError::required(format!("{at}.key"), ""));
    }
    let path = v.str_at(&["path"]);
    let field = format!("{at}.path");
    if path.is_empty() {
        out.push(FieldError::required(&field, ""));
    }
    if path.starts_with('/') {
        out.push(FieldError::invalid(&field, path, "must be a relative path"));
    }
    if path.split('/').any(|p| p == "..") {
        out.push(FieldError::invalid(&field, path, "must not contain '..'"));
    } else if path.starts_with("..") {
        out.push(FieldError::invalid(&field, path, "must not start with '..'"));
    }
    if let Some(m) = v.get("mode") {
        mode(m, &format!("{at}.mode"), out);
    }
}

const RESOURCES: &[&str] = &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

fn source(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<&str> = kinds.into_iter().filter(|k| v.get(*k).is_some_and(|x| !x.is_null())).collect();
    match given.as_slice() {
        [] => out.push(FieldError::invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")),
        [_] => {}
        _ => out.push(FieldError::invalid(at, "", "may not have more than one field specified at a time")),
    }
    out.extend(within(at, |out| {
        super::check(v, &[("fieldRef.fieldPath", &[Required("")])], out);
        if let Some(r) = v.get("resourceFieldRef").filter(|r| !r.is_null()) {
            resource(r, out);
        }
        for k in ["configMapKeyRef", "secretKeyRef"] {
            let Some(r) = v.get(k).filter(|r| !r.is_null()) else { continue };
            let (name, key) = (r.str_at(&["name"]), r.str_at(&["key"]));
            if name.is_empty() && r.get("optional") != Some(&Value::Bool(true)) {
                out.push(FieldError::required(format!("{k}.name"), ""));
            }
            out.extend(names::subdomain(name).into_iter().filter(|_| !name.is_empty()).map(|m| FieldError::invalid(format!("{k}.name"), name, m)));
            if key.is_empty() {
                out.push(FieldError::required(format!("{k}.key"), ""));
            } else {
                out.extend(knarr_schema::names::config_map_key(key).into_iter().map(|m| FieldError::invalid(format!("{k}.key"), key, m)));
            }
        }
    }));
}

fn resource(r: &Value, out: &mut Vec<FieldError>) {
    let name = r.str_at(&["resource"]);
    let field = "resourceFieldRef.resource";
    if name.is_empty() {
        out.push(FieldError::required(field, ""));
    } else if !RESOURCES.contains(&name) && !name.starts_with("limits.hugepages-") && !name.starts_with("requests.hugepages-") {
        out.push(FieldError::not_supported(field, name, RESOURCES));
    }
    let divisor = r.str_at(&["divisor"]);
    let fits: &[&str] = match name.split_once('.').map(|(_, n)| n) {
        Some("cpu") => &["0", "1m", "1"],
        _ => return,
    };
    if !divisor.is_empty() && !fits.contains(&divisor) {
        out.push(FieldError::invalid("resourceFieldRef.divisor", divisor, "only divisor's values 1m and 1 are supported with the cpu resource"));
    }
}

fn env_from(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|k| v.get(*k).is_some_and(|x| !x.is_null())).collect();
    match given.as_slice() {
        [] => out.push(FieldError::invalid(at.rsplit_once('[').map_or(at, |(l, _)| l), "", "must specify one of: `configMapRef` or `secretRef`")),
        [_] => {}
        _ => out.push(FieldError::invalid(at.rsplit_once('[').map_or(at, |(l, _)| l), "", "may not have more than one field specified at a time")),
    }
    for k in given {
        let name = v.str_at(&[k, "name"]);
        let field = format!("{at}.{k}.name");
        if name.is_empty() {
            out.push(FieldError::required(field, ""));
        } else {
            out.extend(names::subdomain(name).into_iter().map(|m| FieldError::invalid(&field, name, m)));
        }
    }
}

fn probe(p: &Value, at: &str, out: &mut Vec<FieldError>) {
    for f in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(n) = p.get(f).and_then(Value::as_i64)
            && n < 0
        {
            out.push(FieldError::invalid(format!("{at}.{f}"), n, "must be greater than or equal to 0"));
        }
    }
    action(p, at, out);
}

fn hook(h: &Value, at: &str, out: &mut Vec<FieldError>) {
    if !["exec", "httpGet", "tcpSocket", "sleep"].iter().any(|k| h.get(*k).is_some_and(|v| !v.is_null())) {
        out.push(FieldError::required(at, "must specify a handler type"));
    }
    action(h, at, out);
}

/// What a probe or a hook does.
fn action(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    out.extend(within(at, |out| {
        super::check(v, &[
            ("exec.command", &[Required("")]),
            ("httpGet.path", &[Required("")]),
            ("httpGet.port", &[Custom(port)]),
            ("httpGet.scheme", &[OneOf(&["HTTP", "HTTPS"])]),
            ("httpGet.httpHeaders[]", &[Custom(header)]),
            ("tcpSocket.port", &[Custom(port)]),
            ("grpc.port", &[Port]),
        ], out);
    }));
}

fn port(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let check = if v.is_number() { Port } else { PortName };
    check.apply(Some(v), at, out);
}

fn header(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let name = v.str_at(&["name"]);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        let field = at.rsplit_once('[').map_or(at, |(l, _)| l);
        out.push(FieldError::invalid(field, name, "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"));
    }
}

/// The fields of services that their own checks leave out.
pub(in crate::strategy) static SERVICE: &[Rule] = &[
    ("spec.ports[].protocol", &[OneOf(&["SCTP", "TCP", "UDP"])]),
    ("spec.ports[].appProtocol", &[Qualified]),
    ("spec.ports[].targetPort", &[Custom(port)]),
    ("spec.sessionAffinity", &[OneOf(&["ClientIP", "None"])]),
    ("spec.internalTrafficPolicy", &[OneOf(&["Cluster", "Local"])]),
    ("spec.externalIPs[]", &[Ip]),
    ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", &[Custom(affinity_timeout)]),
];

fn affinity_timeout(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_i64().is_some_and(|n| !(1..=86400).contains(&n)) {
        out.push(FieldError::invalid(at, v.clone(), "must be greater than 0 and less than 86400"));
    }
}

/// The fields of persistent volumes and claims.
pub(in crate::strategy) static VOLUME: &[Rule] = &[
    ("?spec.storageClassName", &[Subdomain]),
    ("spec.volumeMode", &[OneOf(&["Block", "Filesystem"])]),
    ("spec.persistentVolumeReclaimPolicy", &[OneOf(&["Delete", "Recycle", "Retain"])]),
    ("spec.nfs.server", &[Required("")]),
    ("spec.nfs.path", &[Required(""), Custom(absolute)]),
    ("spec.nodeAffinity.required.nodeSelectorTerms[]", TERM),
    ("spec.selector", &[Selector]),
];

/// The fields of nodes.
pub(in crate::strategy) static NODE: &[Rule] = &[("?spec.taints[].key", &[Qualified]), ("?spec.taints[].value", &[super::Check::LabelValue])];

/// The fields of jobs.
pub(in crate::strategy) static JOB: &[Rule] = &[
    ("spec.completionMode", &[OneOf(&["Indexed", "NonIndexed"])]),
    ("spec.podReplacementPolicy", &[OneOf(&["Failed", "TerminatingOrFailed"])]),
    ("spec.activeDeadlineSeconds", &[Least(0, "must be greater than or equal to 0")]),
    ("?spec.managedBy", &[Bytes(63), Qualified]),
];

/// The fields of cron jobs.
pub(in crate::strategy) static CRON_JOB: &[Rule] = &[
    ("spec.concurrencyPolicy", &[OneOf(&["Allow", "Forbid", "Replace"])]),
    ("spec.startingDeadlineSeconds", &[Least(0, "must be greater than or equal to 0")]),
    ("spec.successfulJobsHistoryLimit", &[Least(0, "must be greater than or equal to 0")]),
    ("spec.failedJobsHistoryLimit", &[Least(0, "must be greater than or equal to 0")]),
];

