//! Environment variables and where their values come from.

use knarr_schema::quantity::Quantity;

use crate::{
    error::FieldError,
    names,
    strategy::{
        at::At,
        fields::Check::{Label, Required},
    },
};

/// What a variable may read of its pod, sorted.
const FIELDS: &[&str] =
    &["metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"];
/// What a file may.
pub(super) const FILE_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// What the downward API knows at all.
const KNOWN: &[&str] = &[
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName",
    "spec.schedulerName", "status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
];
const RESOURCES: &[&str] = &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn variable(at: &At, out: &mut Vec<FieldError>) {
    at.wrongs(knarr_schema::names::env_var_name(at.text()), out);
}

/// `env`.
pub(super) fn variables(all: &At, out: &mut Vec<FieldError>) {
    for e in all.items() {
        let name = e.get("name");
        if name.text().is_empty() {
            name.required("", out);
        } else {
            variable(&name, out);
        }
        let from = e.get("valueFrom");
        if from.there() {
            source(&from, !e.get("value").text().is_empty(), out);
        }
    }
}

fn source(from: &At, valued: bool, out: &mut Vec<FieldError>) {
    let mut count = 0;
    let mut given = |name: &'static str| from.value.get(name).is_some_and(|v| !v.is_null()).then(|| count += 1).is_some();
    if given("fieldRef") {
        field(&from.get("fieldRef"), FIELDS, out);
    }
    if given("resourceFieldRef") {
        resource(&from.get("resourceFieldRef"), false, out);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if given(kind) {
            let at = from.get(kind);
            at.get("name").wrongs_of(names::subdomain, out);
            at.get("key").check(&[Required("")], out);
            if !at.get("key").text().is_empty() {
                at.get("key").wrongs_of(knarr_schema::names::config_map_key, out);
            }
        }
    }
    if given("fileKeyRef") {
        let at = from.get("fileKeyRef");
        let (key, path) = (at.get("key"), at.get("path"));
        if key.text().is_empty() {
            key.required("", out);
        } else {
            variable(&key, out);
        }
        at.get("volumeName").check(&[Required(""), Label], out);
        if path.text().is_empty() {
            path.required("", out);
        } else {
            super::volumes::no_backsteps(&path, out);
        }
    }
    let why = match count {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if valued => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    from.invalid("", why, out);
}

/// A path with a key in brackets: `metadata.labels['app']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (path, key) = path.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}

/// A field of the pod.
pub(super) fn field(at: &At, fields: &[&str], out: &mut Vec<FieldError>) {
    let (version, path) = (at.get("apiVersion"), at.get("fieldPath"));
    for needed in [&version, &path] {
        if needed.text().is_empty() {
            return needed.required("", out);
        }
    }
    let unknown = |why: String, out: &mut Vec<FieldError>| path.wrong(format!("error converting fieldPath: {why}"), out);
    if version.text() != "v1" {
        return unknown(format!("unsupported pod version: {}", version.text()), out);
    }
    match subscript(path.text()) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            names::qualified(&key).into_iter().for_each(|m| at.invalid(key.as_str(), m, out));
        }
        Some(("metadata.labels", key)) => names::qualified(key).into_iter().for_each(|m| at.invalid(key, m, out)),
        Some(_) => unknown(format!("field label does not support subscript: {}", path.text()), out),
        None => {
            let text = if path.text() == "spec.host" { "spec.nodeName" } else { path.text() };
            if !KNOWN.contains(&text) {
                return unknown(format!("field label not supported: {text}"), out);
            }
            if !fields.contains(&text) {
                out.push(FieldError::not_supported(path.to_string(), text, fields));
            }
        }
    }
}

/// A container's resource; a volume's file must say whose.
pub(super) fn resource(at: &At, volume: bool, out: &mut Vec<FieldError>) {
    let (container, name) = (at.get("containerName"), at.get("resource"));
    let text = name.text();
    let pages = text.starts_with("limits.hugepages-") || text.starts_with("requests.hugepages-");
    if volume && container.text().is_empty() {
        container.required("", out);
    } else if text.is_empty() {
        name.required("", out);
    } else if !pages {
        name.one_of(RESOURCES, out);
    }
    let Ok(divisor) = Quantity::parse(at.get("divisor").text()) else { return };
    if divisor.is_zero() {
        return;
    }
    let (fits, what) = match text.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => (&["1m", "1"][..], "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if pages => (SIZES, "hugepages"),
        _ => return,
    };
    if !fits.contains(&divisor.to_string().as_str()) {
        let list = if what == "cpu" { "1m and 1".to_owned() } else { SIZES.join(", ") };
        at.get("divisor").invalid(text, format!("only divisor's values {list} are supported with the {what} resource"), out);
    }
}

/// `envFrom`.
pub(super) fn from(all: &At, out: &mut Vec<FieldError>) {
    for e in all.items() {
        if !e.get("prefix").text().is_empty() {
            variable(&e.get("prefix"), out);
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if e.get(kind).there() {
                count += 1;
                // The name may be the beginning of one.
                let at = e.get(kind);
                let name = at.get("name");
                match name.text() {
                    "" => name.required("", out),
                    text => name.wrongs(names::NameRule::Subdomain.check(text, true), out),
                }
            }
        }
        match count {
            0 => all.invalid("", "must specify one of: `configMapRef` or `secretRef`", out),
            1 => {}
            _ => all.invalid("", "may not have more than one field specified at a time", out),
        }
    }
}
