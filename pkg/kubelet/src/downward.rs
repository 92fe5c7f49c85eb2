//! The downward API: fields of the pod and resources of its containers as text.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ObjectFieldSelector, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{quantity, spec};

/// A field or resource that cannot be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DownwardError {
    /// No such field path.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// No such resource.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
}

/// Addresses that are not in the pod object yet.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Pod addresses, primary first.
    pub pod: Vec<String>,
    /// Node addresses.
    pub host: Vec<String>,
}

/// The text of a `fieldRef`.
pub fn field(
    pod: &Pod,
    at: &ObjectFieldSelector,
    addresses: &Addresses,
) -> Result<String, DownwardError> {
    let path = at.field_path.as_str();
    let m = &pod.metadata;
    if let Some((map, key)) = path
        .strip_suffix("']")
        .and_then(|p| p.split_once("['"))
    {
        let map = match map {
            "metadata.labels" => &m.labels,
            "metadata.annotations" => &m.annotations,
            _ => return Err(DownwardError::Field(path.into())),
        };
        return Ok(map.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => spec::name(pod).into(),
        "metadata.namespace" => spec::namespace(pod).into(),
        "metadata.uid" => spec::uid(pod).into(),
        "metadata.labels" => map_text(m.labels.as_ref()),
        "metadata.annotations" => map_text(m.annotations.as_ref()),
        "spec.nodeName" => spec::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec::spec(pod)
            .service_account_name
            .clone()
            .unwrap_or_default(),
        "status.hostIP" => addresses.host.first().cloned().unwrap_or_default(),
        "status.hostIPs" => addresses.host.join(","),
        "status.podIP" => addresses.pod.first().cloned().unwrap_or_default(),
        "status.podIPs" => addresses.pod.join(","),
        _ => return Err(DownwardError::Field(path.into())),
    })
}

/// `key="value"` lines, sorted.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", quote(v)))
        .collect();
    lines.join("\n")
}

/// A string in double quotes with Go's escapes.
fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The text of a `resourceFieldRef`; without a limit, what the node has to give.
pub fn resource(
    pod: &Pod,
    own: &str,
    at: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, DownwardError> {
    let name = at
        .container_name
        .as_deref()
        .filter(|n| !n.is_empty())
        .unwrap_or(own);
    let (_, c) =
        spec::find(pod, name).ok_or_else(|| DownwardError::Container(name.to_owned()))?;
    let (list, res) = at
        .resource
        .split_once('.')
        .ok_or_else(|| DownwardError::Resource(at.resource.clone()))?;
    let known = matches!(res, "cpu" | "memory" | "ephemeral-storage") || res.starts_with("hugepages-");
    if !known {
        return Err(DownwardError::Resource(at.resource.clone()));
    }
    let r = c.resources.as_ref();
    let limit = || r.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(res));
    let pod_limit = || {
        spec::spec(pod)
            .resources
            .as_ref()
            .and_then(|r| r.limits.as_ref())
            .and_then(|l| l.get(res))
    };
    let value = match list {
        "limits" => limit()
            .filter(|q| quantity::milli(q).is_some_and(|m| m > 0))
            .or_else(pod_limit)
            .or_else(|| allocatable.get(res)),
        "requests" => r
            .and_then(|r| r.requests.as_ref())
            .and_then(|l| l.get(res))
            .or_else(limit),
        _ => return Err(DownwardError::Resource(at.resource.clone())),
    };
    let value = value.and_then(quantity::milli).unwrap_or(0);
    let divisor = at
        .divisor
        .as_ref()
        .and_then(quantity::milli)
        .filter(|d| *d > 0)
        .unwrap_or(1000);
    Ok(quantity::divide(value, divisor).to_string())
}

#[cfg(test)]
mod tests;
