//! Storage classes, drivers, attachments.

use serde_json::Value;

use super::{
    Check::{Bytes, Custom, Least, OneOf, Quantity, QualifiedLower, Required, Selector, Short, Subdomain, UniqueBy},
    Fixed::{Also, Always, Each, Forbidden, Named, Unshown},
    Table,
};
use crate::{error::FieldError, names, object::Object};

pub(super) fn of(resource: &str) -> Option<&'static Table> {
    Some(match resource {
        "storageclasses" => &CLASSES,
        "volumeattachments" => &ATTACHMENTS,
        "csidrivers" => &DRIVERS,
        "csinodes" => &NODES,
        "csistoragecapacities" => &CAPACITIES,
        "volumeattributesclasses" => &ATTRIBUTES,
        _ => return None,
    })
}

static CLASSES: Table = Table {
    rules: &[
        ("provisioner", &[Required(""), QualifiedLower]),
        ("?reclaimPolicy", &[OneOf(&["Delete", "Retain"])]),
        ("volumeBindingMode", &[Required(""), OneOf(&["Immediate", "WaitForFirstConsumer"])]),
        ("allowedTopologies[].matchLabelExpressions", &[UniqueBy("key")]),
        ("allowedTopologies[].matchLabelExpressions[].values", &[Required(""), super::Check::Unique]),
        ("allowedTopologies[].matchLabelExpressions[].key", &[super::Check::Qualified]),
    ],
    more: Some(|obj, out| {
        parameters(obj, "", out);
        let all = obj.list_at(&["allowedTopologies"]);
        for (i, t) in all.iter().enumerate() {
            if all.get(..i).is_some_and(|before| before.contains(t)) {
                out.push(FieldError::duplicate(format!("allowedTopologies[{i}].matchLabelExpressions"), ""));
            }
        }
    }),
    fixed: &[Unshown("parameters"), Unshown("provisioner"), Unshown("reclaimPolicy"), Unshown("volumeBindingMode")],
    warn_unset: &[],
};

/// Parameters of a class: not too many, none without a name.
fn parameters(obj: &Value, need: &str, out: &mut Vec<FieldError>) {
    let all = obj.get("parameters").and_then(Value::as_object);
    if !need.is_empty() && all.is_none_or(serde_json::Map::is_empty) {
        out.push(FieldError::required("parameters", need));
        return;
    }
    let mut size = 0;
    for (k, v) in all.into_iter().flatten() {
        if k.is_empty() {
            out.push(FieldError::invalid("parameters", k.as_str(), "field can not be empty."));
        }
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if all.is_some_and(|m| m.len() > 512) {
        out.push(FieldError { kind: crate::error::FieldErrorKind::TooLong, field: "parameters".into(), value: None, detail: "may not be more than 512 bytes".into() });
    }
    if size > 256 * 1024 {
        out.push(FieldError::too_long("parameters", 256 * 1024));
    }
}

static ATTACHMENTS: Table = Table {
    rules: &[
        ("spec.attacher", &[Required(""), Custom(attacher)]),
        ("spec.nodeName", &[Subdomain]),
        ("spec.source", &[Custom(source)]),
    ],
    more: None,
    fixed: &[Unshown("spec")],
    warn_unset: &[],
};

fn attacher(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    if text.len() > 63 {
        out.push(FieldError { kind: crate::error::FieldErrorKind::TooLong, field: at.into(), value: None, detail: "may not be more than 63 characters".into() });
    }
    if !names::subdomain(&text.to_lowercase()).is_empty() && text.len() <= 253 {
        out.push(FieldError::invalid(at, text, "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*')"));
    }
}

fn source(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (inline, name) = (s.get("inlineVolumeSpec").filter(|v| !v.is_null()), s.get("persistentVolumeName").and_then(Value::as_str));
    match (inline, name) {
        (None, None) | (Some(_), Some(_)) => out.push(FieldError::required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
        (None, Some(n)) => {
            let field = format!("{at}.persistentVolumeName");
            if n.is_empty() {
                out.push(FieldError::required(&field, "must specify non empty persistentVolumeName"));
            }
            out.extend(names::subdomain(n).into_iter().map(|m| FieldError::invalid(&field, n, m)));
        }
        (Some(_), None) => {}
    }
}

static DRIVERS: Table = Table {
    rules: &[
        ("metadata.name", &[Bytes(63)]),
        ("spec.fsGroupPolicy", &[OneOf(&["File", "None", "ReadWriteOnceWithFSType"])]),
        ("spec.tokenRequests", &[UniqueBy("audience")]),
        ("spec.tokenRequests[].expirationSeconds", &[Least(600, "may not specify a duration less than 10 minutes"), super::Check::Most(1 << 32, "may not specify a duration larger than 2^32 seconds")]),
    ],
    more: Some(|obj, out| {
        for m in obj.list_at(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
            if !matches!(m, "Persistent" | "Ephemeral") {
                out.push(super::not_supported("spec.volumeLifecycleModes", m, &["Persistent", "Ephemeral"]));
            }
        }
    }),
    fixed: &[Also("spec.volumeLifecycleModes", true), Named("spec.attachRequired", "spec.attachedRequired")],
    warn_unset: &[("spec.serviceAccountTokenInSecrets", "spec.tokenRequests", "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes")],
};

static NODES: Table = Table {
    rules: &[
        ("spec.drivers", &[UniqueBy("name")]),
        ("spec.drivers[].name", &[Required(""), Bytes(63), Custom(lower_subdomain)]),
        ("spec.drivers[].nodeID", &[Required(""), Short(256, "must be 256 characters or less")]),
        ("spec.drivers[].allocatable.count", &[Least(0, "must be greater than or equal to 0")]),
        ("spec.drivers[]", &[Custom(topology_keys)]),
    ],
    more: None,
    fixed: &[Each("spec.drivers", "name", "allocatable")],
    warn_unset: &[],
};

fn lower_subdomain(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    out.extend(names::subdomain(&text.to_lowercase()).into_iter().map(|m| FieldError::invalid(at, text, m)));
}

fn topology_keys(d: &Value, at: &str, out: &mut Vec<FieldError>) {
    let keys: Vec<&str> = d.list_at(&["topologyKeys"]).iter().filter_map(Value::as_str).collect();
    for (i, k) in keys.iter().enumerate() {
        if k.is_empty() {
            out.push(FieldError::required(at, ""));
        }
        if keys.get(..i).is_some_and(|b| b.contains(k)) {
            out.push(FieldError::duplicate(at, *k));
        }
        out.extend(names::qualified(k).into_iter().map(|m| FieldError::invalid(at, *k, m)));
    }
}

static CAPACITIES: Table = Table {
    rules: &[
        ("storageClassName", &[Subdomain]),
        ("nodeTopology", &[Selector]),
        ("capacity", &[Quantity]),
        ("maximumVolumeSize", &[Quantity]),
    ],
    more: None,
    fixed: &[Always("nodeTopology"), Always("storageClassName")],
    warn_unset: &[],
};

static ATTRIBUTES: Table = Table {
    rules: &[("driverName", &[Required(""), QualifiedLower])],
    more: Some(|obj, out| parameters(obj, "must contain at least one key/value pair", out)),
    fixed: &[Forbidden("driverName", "updates to driverName are forbidden."), Forbidden("parameters", "updates to parameters are forbidden.")],
    warn_unset: &[],
};
