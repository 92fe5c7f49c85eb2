//! What a pod's spec must and may be.

use std::collections::HashSet;

use serde_json::Value;

use super::projected;
use crate::{error::FieldError, names, object::Object};

fn one_of(
    v: &Value,
    path: &str,
    member: &str,
    all: &[&str],
    required: bool,
    out: &mut Vec<FieldError>,
) {
    let s = v.str_at(&[member]);
    let p = format!("{path}.{member}");
    if s.is_empty() {
        if required {
            out.push(FieldError::required(p, ""));
        }
    } else if !all.contains(&s) {
        out.push(super::fields::not_supported(&p, s, all));
    }
}

/// Checks a pod spec; in a template the defaults may be absent.
pub(super) fn spec(s: &Value, path: &str, template: bool) -> Vec<FieldError> {
    let mut out = Vec::new();
    let volumes = volumes(s, path, &mut out);
    let mut seen = HashSet::new();
    if s.list_at(&["containers"]).is_empty() {
        out.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in s.list_at(&[list]).iter().enumerate() {
            container(
                c,
                &format!("{path}.{list}[{i}]"),
                list,
                &volumes,
                &mut seen,
                &mut out,
            );
        }
    }
    one_of(
        s,
        path,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        !template,
        &mut out,
    );
    one_of(
        s,
        path,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        !template,
        &mut out,
    );
    one_of(
        s,
        path,
        "preemptionPolicy",
        &["Never", "PreemptLowerPriority"],
        false,
        &mut out,
    );
    for (f, min) in [
        ("terminationGracePeriodSeconds", 0),
        ("activeDeadlineSeconds", 1),
    ] {
        if let Some(n) = s.at(&[f]).and_then(Value::as_i64)
            && n < min
            && f == "activeDeadlineSeconds"
        {
            out.push(FieldError::invalid(
                format!("{path}.{f}"),
                n,
                "must be between 1 and 2147483647, inclusive",
            ));
        }
    }
    if s.str_at(&["dnsPolicy"]) == "None" && s.list_at(&["dnsConfig", "nameservers"]).is_empty() {
        out.push(FieldError::required(
            format!("{path}.dnsConfig"),
            "must provide `dnsConfig` when `dnsPolicy` is None",
        ));
    }
    for f in ["hostname", "subdomain"] {
        let v = s.str_at(&[f]);
        if !v.is_empty() {
            for m in names::label(v) {
                out.push(FieldError::invalid(format!("{path}.{f}"), v, m));
            }
        }
    }
    for f in ["nodeName", "serviceAccountName"] {
        let v = s.str_at(&[f]);
        if !v.is_empty() {
            for m in names::subdomain(v) {
                out.push(FieldError::invalid(format!("{path}.{f}"), v, m));
            }
        }
    }
    out.extend(names::labels(
        s.get("nodeSelector"),
        &format!("{path}.nodeSelector"),
    ));
    for (i, t) in s.list_at(&["tolerations"]).iter().enumerate() {
        let p = format!("{path}.tolerations[{i}]");
        one_of(t, &p, "operator", &["Equal", "Exists"], false, &mut out);
        one_of(
            t,
            &p,
            "effect",
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            false,
            &mut out,
        );
        if t.str_at(&["key"]).is_empty() && t.str_at(&["operator"]) != "Exists" {
            out.push(FieldError::invalid(format!("{p}.operator"), t.str_at(&["operator"]), "operator must be Exists when `key` is empty, which means \"match all values and all keys\""));
        }
        if t.at(&["tolerationSeconds"]).is_some() && t.str_at(&["effect"]) != "NoExecute" {
            out.push(FieldError::invalid(
                format!("{p}.effect"),
                t.str_at(&["effect"]),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
    }
    for (i, c) in s
        .list_at(&["securityContext", "sysctls"])
        .iter()
        .enumerate()
    {
        let name = c.str_at(&["name"]);
        let ok = !name.is_empty()
            && name.len() <= 253
            && name.split(['.', '/']).all(|p| {
                let edge =
                    |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                edge(p.bytes().next())
                    && edge(p.bytes().last())
                    && p.bytes().all(|b| {
                        b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
                    })
            });
        let p = format!("{path}.securityContext.sysctls[{i}].name");
        if name.is_empty() {
            out.push(FieldError::required(p, ""));
        } else if !ok {
            out.push(FieldError::invalid(p, name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"));
        }
    }
    super::fields::pod::check(s, path, &mut out);
    users(s, path, &mut out);
    out
}

/// Where the pod's users are not the host's, it shares nothing else with the host; where they
/// are, its containers see no more of procfs than is good for the host.
fn users(s: &Value, path: &str, out: &mut Vec<FieldError>) {
    let on = |f: &str| s.at(&[f]).and_then(Value::as_bool);
    let own_users = on("hostUsers") == Some(false);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, c) in s.list_at(&[list]).iter().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            if own_users && !c.list_at(&["volumeDevices"]).is_empty() {
                out.push(FieldError::forbidden(
                    format!("{at}.volumeDevices"),
                    "when `hostUsers` is false",
                ));
            }
            let mount = c.str_at(&["securityContext", "procMount"]);
            if !own_users && mount == "Unmasked" {
                out.push(FieldError::invalid(
                    format!("{at}.securityContext.procMount"),
                    mount,
                    "`hostUsers` must be false to use `Unmasked`",
                ));
            }
        }
    }
    for (field, name) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if own_users && on(field) == Some(true) {
            out.push(FieldError::forbidden(
                format!("{path}.{name}"),
                "when `hostUsers` is false",
            ));
        }
    }
}

fn volumes(s: &Value, path: &str, out: &mut Vec<FieldError>) -> HashSet<String> {
    let mut seen = HashSet::new();
    for (i, v) in s.list_at(&["volumes"]).iter().enumerate() {
        let p = format!("{path}.volumes[{i}]");
        let name = v.str_at(&["name"]);
        if name.is_empty() {
            out.push(FieldError::required(format!("{p}.name"), ""));
        } else {
            for m in names::label(name) {
                out.push(FieldError::invalid(format!("{p}.name"), name, m));
            }
            if !seen.insert(name.to_owned()) {
                out.push(FieldError::duplicate(format!("{p}.name"), name));
            }
        }
        let sources: Vec<&String> = v
            .as_object()
            .map(|m| {
                m.iter()
                    .filter(|(k, v)| *k != "name" && !v.is_null())
                    .map(|(k, _)| k)
                    .collect()
            })
            .unwrap_or_default();
        match sources.as_slice() {
            [] => out.push(FieldError::required(&p, "must specify a volume type")),
            [_] => {}
            [_, more @ ..] => {
                for k in more {
                    out.push(FieldError::forbidden(
                        format!("{p}.{k}"),
                        "may not specify more than 1 volume type",
                    ));
                }
            }
        }
        if let Some(x) = v.at(&["projected"]) {
            projected::validate(x, &format!("{p}.projected"), out);
        }
        for (src, field) in [
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
            ("hostPath", "path"),
        ] {
            if let Some(x) = v.get(src)
                && x.str_at(&[field]).is_empty()
            {
                out.push(FieldError::required(format!("{p}.{src}.{field}"), ""));
            }
        }
    }
    seen
}

fn container(
    c: &Value,
    p: &str,
    list: &str,
    volumes: &HashSet<String>,
    seen: &mut HashSet<String>,
    out: &mut Vec<FieldError>,
) {
    let name = c.str_at(&["name"]);
    if name.is_empty() {
        out.push(FieldError::required(format!("{p}.name"), ""));
    } else {
        for m in names::label(name) {
            out.push(FieldError::invalid(format!("{p}.name"), name, m));
        }
        if !seen.insert(name.to_owned()) {
            out.push(FieldError::duplicate(format!("{p}.name"), name));
        }
    }
    let image = c.str_at(&["image"]);
    if image.is_empty() {
        out.push(FieldError::required(format!("{p}.image"), ""));
    } else if image.trim() != image {
        out.push(FieldError::invalid(
            format!("{p}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(
        c,
        p,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        false,
        out,
    );
    one_of(
        c,
        p,
        "terminationMessagePolicy",
        &["File", "FallbackToLogsOnError"],
        false,
        out,
    );
    let mut ports = HashSet::new();
    for (i, port) in c.list_at(&["ports"]).iter().enumerate() {
        let pp = format!("{p}.ports[{i}]");
        match port.at(&["containerPort"]).and_then(Value::as_i64) {
            None | Some(0) => out.push(FieldError::required(format!("{pp}.containerPort"), "")),
            Some(n) if !(1..=65535).contains(&n) => {
                out.push(FieldError::invalid(
                    format!("{pp}.containerPort"),
                    n,
                    "must be between 1 and 65535, inclusive",
                ));
            }
            _ => {}
        }
        if let Some(n) = port.at(&["hostPort"]).and_then(Value::as_i64)
            && n != 0
            && !(1..=65535).contains(&n)
        {
            out.push(FieldError::invalid(
                format!("{pp}.hostPort"),
                n,
                "must be between 1 and 65535, inclusive",
            ));
        }
        one_of(port, &pp, "protocol", &["SCTP", "TCP", "UDP"], false, out);
        let n = port.str_at(&["name"]);
        if !n.is_empty() && !ports.insert(n.to_owned()) {
            out.push(FieldError::duplicate(format!("{pp}.name"), n));
        }
    }
    for (i, e) in c.list_at(&["env"]).iter().enumerate() {
        if e.str_at(&["name"]).is_empty() {
            out.push(FieldError::required(format!("{p}.env[{i}].name"), ""));
        }
        if e.at(&["valueFrom"]).is_some() && !e.str_at(&["value"]).is_empty() {
            out.push(FieldError::invalid(
                format!("{p}.env[{i}].valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut paths = HashSet::new();
    for (i, m) in c.list_at(&["volumeMounts"]).iter().enumerate() {
        let mp = format!("{p}.volumeMounts[{i}]");
        let n = m.str_at(&["name"]);
        if n.is_empty() {
            out.push(FieldError::required(format!("{mp}.name"), ""));
        } else if !volumes.contains(n) {
            out.push(FieldError::not_found(format!("{mp}.name"), n));
        }
        let at = m.str_at(&["mountPath"]);
        if at.is_empty() {
            out.push(FieldError::required(format!("{mp}.mountPath"), ""));
        } else if !paths.insert(at.to_owned()) {
            out.push(FieldError::invalid(
                format!("{mp}.mountPath"),
                at,
                "must be unique",
            ));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(v) = c.at(&[probe]) else { continue };
        let pp = format!("{p}.{probe}");
        if list == "initContainers" && c.str_at(&["restartPolicy"]) != "Always" {
            out.push(FieldError::forbidden(
                pp,
                "may not be set for init containers without restartPolicy=Always",
            ));
            continue;
        }
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"]
            .iter()
            .filter(|h| v.at(&[h]).is_some())
            .count();
        if handlers == 0 {
            out.push(FieldError::required(pp, "must specify a handler type"));
        } else if handlers > 1 {
            out.push(FieldError::forbidden(
                pp,
                "may not specify more than 1 handler type",
            ));
        } else if probe != "readinessProbe"
            && v.at(&["successThreshold"])
                .and_then(Value::as_i64)
                .is_some_and(|n| n != 1)
        {
            out.push(FieldError::invalid(
                format!("{pp}.successThreshold"),
                v["successThreshold"].clone(),
                "must be 1",
            ));
        }
    }
}

/// What an update of a pod may not change.
pub(super) fn update(obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let (n, o) = (
        obj.get("spec").unwrap_or(&Value::Null),
        old.get("spec").unwrap_or(&Value::Null),
    );
    for list in ["containers", "initContainers"] {
        let (a, b) = (n.list_at(&[list]), o.list_at(&[list]));
        if a.len() != b.len() {
            out.push(FieldError::forbidden(
                format!("spec.{list}"),
                "pod updates may not add or remove containers",
            ));
            return out;
        }
        for (i, c) in a.iter().enumerate() {
            if c.str_at(&["image"]).is_empty() {
                out.push(FieldError::required(format!("spec.{list}[{i}].image"), ""));
            }
        }
    }
    let (new_t, old_t) = (n.list_at(&["tolerations"]), o.list_at(&["tolerations"]));
    if !old_t.iter().all(|t| {
        new_t.iter().any(|x| {
            let strip = |v: &Value| {
                let mut m = v.as_object().cloned().unwrap_or_default();
                m.remove("tolerationSeconds");
                m
            };
            strip(x) == strip(t)
        })
    }) {
        out.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    let gated = !o.list_at(&["schedulingGates"]).is_empty();
    for g in n.list_at(&["schedulingGates"]) {
        if !o.list_at(&["schedulingGates"]).contains(g) {
            out.push(FieldError::forbidden(
                "spec.schedulingGates",
                format!(
                    "only deletion is allowed, but found new scheduling gate '{}'",
                    g.str_at(&["name"])
                ),
            ));
        }
    }
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(m) = v.as_object_mut() {
            for f in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
                m.remove(f);
            }
            if m.get("terminationGracePeriodSeconds")
                .and_then(Value::as_i64)
                == Some(1)
            {
                m.remove("terminationGracePeriodSeconds");
            }
            if gated {
                m.remove("nodeSelector");
                m.remove("affinity");
            }
        }
        for list in ["containers", "initContainers"] {
            for c in v
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(m) = c.as_object_mut() {
                    m.remove("image");
                }
            }
        }
        v
    };
    let (mut a, mut b) = (strip(n), strip(o));
    if n.at(&["terminationGracePeriodSeconds"])
        .and_then(Value::as_i64)
        == Some(1)
        && o.at(&["terminationGracePeriodSeconds"])
            .and_then(Value::as_i64)
            .is_some_and(|g| g < 0)
    {
        for v in [&mut a, &mut b] {
            v.take_at(&["terminationGracePeriodSeconds"]);
        }
    }
    if n.at(&["terminationGracePeriodSeconds"]) == o.at(&["terminationGracePeriodSeconds"]) {
        for v in [&mut a, &mut b] {
            v.take_at(&["terminationGracePeriodSeconds"]);
        }
    }
    if a != b {
        out.push(FieldError::forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"));
    }
    out
}

/// What a change of the ephemeral containers may not do.
pub(super) fn ephemeral(obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let p = &["spec", "ephemeralContainers"];
    let new = obj.list_at(p);
    for (i, c) in new.iter().enumerate() {
        let at = format!("spec.ephemeralContainers[{i}].securityContext.privileged");
        super::fields::pod::privileged(&c["securityContext"]["privileged"], &at, &mut out);
    }
    for o in old.list_at(p) {
        match new
            .iter()
            .find(|c| c.str_at(&["name"]) == o.str_at(&["name"]))
        {
            None => out.push(FieldError::forbidden(
                "spec.ephemeralContainers",
                format!(
                    "existing ephemeral containers {:?} may not be removed\n",
                    o.str_at(&["name"])
                ),
            )),
            Some(c) if c != o => out.push(FieldError::forbidden(
                "spec.ephemeralContainers",
                format!(
                    "existing ephemeral containers {:?} may not be changed\n",
                    o.str_at(&["name"])
                ),
            )),
            Some(_) => {}
        }
    }
    let volumes = obj
        .list_at(&["spec", "volumes"])
        .iter()
        .map(|v| v.str_at(&["name"]).to_owned())
        .collect();
    let mut seen: HashSet<String> = ["containers", "initContainers"]
        .iter()
        .flat_map(|l| obj.list_at(&["spec", l]))
        .map(|c| c.str_at(&["name"]).to_owned())
        .collect();
    for (i, c) in new.iter().enumerate() {
        container(
            c,
            &format!("spec.ephemeralContainers[{i}]"),
            "ephemeralContainers",
            &volumes,
            &mut seen,
            &mut out,
        );
    }
    out
}
