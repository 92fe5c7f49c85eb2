//! Ingresses, network policies, service networks and endpoints.

use std::net::IpAddr;

use serde_json::Value;

use super::{
    Check::{Bytes, Cidr, Custom, Label, LabelValue, OneOf, OneOfAsIs, Port, PortName, Required, Segment, Selector, Subdomain, UniqueBy},
    Fixed::{Always, Unshown},
    IP, Table, blank,
};
use crate::{error::FieldError, names, object::Object};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn of(resource: &str) -> Option<&'static Table> {
    Some(match resource {
        "ingresses" => &INGRESSES,
        "ingressclasses" => &CLASSES,
        "networkpolicies" => &POLICIES,
        "servicecidrs" => &NETWORKS,
        "ipaddresses" => &ADDRESSES,
        "endpointslices" => &SLICES,
        "endpoints" => &ENDPOINTS,
        _ => return None,
    })
}

static INGRESSES: Table = Table {
    rules: &[
        ("spec.ingressClassName", &[Subdomain]),
        ("spec.defaultBackend", &[Custom(backend)]),
        ("spec.tls[].hosts[]", &[Custom(wildcard)]),
        ("?spec.tls[].secretName", &[Subdomain]),
        ("?spec.rules[].host", &[Custom(host)]),
        ("spec.rules[].http.paths", &[Required("")]),
        ("spec.rules[].http.paths[]", &[Custom(path)]),
    ],
    more: Some(|obj, out| {
        if obj.at(&["spec", "defaultBackend"]).is_none_or(blank) && obj.list_at(&["spec", "rules"]).is_empty() {
            out.push(FieldError::invalid("spec", obj.at(&["spec", "rules"]).cloned().unwrap_or_default(), "either `defaultBackend` or `rules` must be specified"));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn wildcard(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    let wrong = match text.contains('*') {
        true => names::wildcard_subdomain(text),
        false => names::subdomain(text),
    };
    out.extend(wrong.into_iter().map(|m| FieldError::invalid(at, text, m)));
}

fn host(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_str().is_some_and(|t| t.parse::<IpAddr>().is_ok()) {
        out.push(FieldError::invalid(at, v.clone(), "must be a DNS name, not an IP address"));
    }
    wildcard(v, at, out);
}

fn path(p: &Value, at: &str, out: &mut Vec<FieldError>) {
    let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
    match p.get("pathType").and_then(Value::as_str) {
        None => {
            out.push(FieldError::required(format!("{at}.pathType"), "pathType must be specified"));
            return;
        }
        Some(kind @ ("Exact" | "Prefix")) => {
            let text = p.str_at(&["path"]);
            let field = format!("{at}.path");
            if !text.starts_with('/') {
                out.push(FieldError::invalid(&field, text, "must be an absolute path"));
            }
            if !text.is_empty() && kind != "ImplementationSpecific" {
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if text.contains(bad) {
                        out.push(FieldError::invalid(&field, text, format!("must not contain '{bad}'")));
                    }
                }
                for bad in ["/..", "/."] {
                    if text.ends_with(bad) {
                        out.push(FieldError::invalid(&field, text, format!("cannot end with '{bad}'")));
                    }
                }
            }
        }
        Some("ImplementationSpecific") => {
            let text = p.str_at(&["path"]);
            if !text.is_empty() && !text.starts_with('/') {
                out.push(FieldError::invalid(format!("{at}.path"), text, "must be an absolute path"));
            }
        }
        Some(other) => out.push(FieldError::not_supported(format!("{at}.pathType"), other, &kinds)),
    }
    backend(p.get("backend").unwrap_or(&Value::Null), &format!("{at}.backend"), out);
}

fn backend(b: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (service, resource) = (b.get("service").filter(|v| !v.is_null()), b.get("resource").filter(|v| !v.is_null()));
    match (service, resource) {
        (Some(_), Some(_)) => out.push(FieldError::invalid(at, "", "cannot set both resource and service backends")),
        (None, None) => out.push(FieldError::invalid(at, "", "resource or service backend is required")),
        (None, Some(r)) => {
            let mut inner = Vec::new();
            super::check(r, &[("apiGroup", &[Subdomain]), ("kind", &[Required(""), Segment]), ("name", &[Required(""), Segment])], &mut inner);
            out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.resource.{}", e.field), ..e }));
        }
        (Some(s), None) => {
            let name = s.str_at(&["name"]);
            let field = format!("{at}.service.name");
            if name.is_empty() {
                out.push(FieldError::required(field, ""));
            } else {
                out.extend(names::label(name).into_iter().map(|m| FieldError::invalid(&field, name, m)));
            }
            let (port, number) = (s.str_at(&["port", "name"]), s.at(&["port", "number"]).and_then(Value::as_i64).unwrap_or(0));
            match (port, number) {
                ("", 0) => out.push(FieldError::required(at, "port name or number is required")),
                ("", n) => out.extend(knarr_schema::names::port_number(n).into_iter().map(|m| FieldError::invalid(format!("{at}.service.port.number"), n, m))),
                (p, 0) => out.extend(knarr_schema::names::port_name(p).into_iter().map(|m| FieldError::invalid(format!("{at}.service.port.name"), p, m))),
                _ => out.push(FieldError::invalid(at, "", "cannot set both port name & port number")),
            }
        }
    }
}

static CLASSES: Table = Table {
    rules: &[
        ("spec.controller", &[Required(""), Bytes(250), Custom(super::domain_prefixed)]),
        ("spec.parameters.apiGroup", &[Subdomain]),
        ("spec.parameters.kind", &[Required(""), Segment]),
        ("spec.parameters.name", &[Required(""), Segment]),
        ("spec.parameters.scope", &[OneOf(&["Cluster", "Namespace"])]),
        ("spec.parameters", &[Custom(scope)]),
    ],
    more: None,
    fixed: &[Always("spec.controller")],
    warn_unset: &[],
};

fn scope(p: &Value, at: &str, out: &mut Vec<FieldError>) {
    let namespace = p.get("namespace").and_then(Value::as_str);
    let field = format!("{at}.namespace");
    match (p.str_at(&["scope"]), namespace) {
        ("Namespace", None) => out.push(FieldError::required(field, "`parameters.scope` is set to 'Namespace'")),
        ("Namespace", Some(n)) => out.extend(names::label(n).into_iter().map(|m| FieldError::invalid(&field, n, m))),
        ("Cluster", Some(_)) => out.push(FieldError::forbidden(field, "`parameters.scope` is set to 'Cluster'")),
        _ => {}
    }
}

static POLICIES: Table = Table {
    rules: &[
        ("spec.podSelector", &[Selector]),
        ("spec.ingress[].ports[]", &[Custom(policy_port)]),
        ("spec.ingress[].from[]", &[Custom(peer)]),
        ("spec.egress[].ports[]", &[Custom(policy_port)]),
        ("spec.egress[].to[]", &[Custom(peer)]),
        ("spec.policyTypes[]", &[OneOfAsIs(&["Ingress", "Egress"])]),
    ],
    more: Some(|obj, out| {
        let all = obj.list_at(&["spec", "policyTypes"]);
        if all.len() > 2 {
            out.retain(|e| !e.field.starts_with("spec.policyTypes["));
            out.push(FieldError::invalid("spec.policyTypes", all.to_vec(), "may not specify more than two policyTypes"));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn policy_port(p: &Value, at: &str, out: &mut Vec<FieldError>) {
    if let Some(protocol) = p.get("protocol").and_then(Value::as_str)
        && !PROTOCOLS.contains(&protocol)
    {
        out.push(super::not_supported(&format!("{at}.protocol"), protocol, &["TCP", "UDP", "SCTP"]));
    }
    let port = p.get("port").filter(|v| !v.is_null());
    let end = p.get("endPort").and_then(Value::as_i64);
    let field = format!("{at}.endPort");
    let mut check = |c: super::Check, v: &Value| c.apply(Some(v), &format!("{at}.port"), out);
    match port {
        Some(v) if v.is_i64() || v.is_u64() => check(Port, v),
        Some(v) => check(PortName, v),
        None => true,
    };
    let Some(end) = end else { return };
    match port {
        None => out.push(FieldError::invalid(field, end, "may not be specified when `port` is not specified")),
        Some(v) => match v.as_i64() {
            None => out.push(FieldError::invalid(field, end, "may not be specified when `port` is non-numeric")),
            Some(first) => {
                if end < first {
                    out.push(FieldError::invalid(&field, end, "must be greater than or equal to `port`"));
                }
                out.extend(knarr_schema::names::port_number(end).into_iter().map(|m| FieldError::invalid(&field, end, m)));
            }
        },
    }
}

fn peer(p: &Value, at: &str, out: &mut Vec<FieldError>) {
    let given = |k: &str| p.get(k).filter(|v| !v.is_null());
    let mut peers = 0;
    for k in ["podSelector", "namespaceSelector"] {
        if let Some(s) = given(k) {
            peers += 1;
            super::selector(s, &format!("{at}.{k}"), out);
        }
    }
    match given("ipBlock") {
        Some(_) if peers > 0 => out.push(FieldError::forbidden(at, "may not specify both ipBlock and another peer")),
        Some(block) => ip_block(block, &format!("{at}.ipBlock"), out),
        None if peers == 0 => out.push(FieldError::required(at, "must specify a peer")),
        None => {}
    }
}

fn ip_block(block: &Value, at: &str, out: &mut Vec<FieldError>) {
    let whole = block.str_at(&["cidr"]);
    if whole.is_empty() {
        out.push(FieldError::required(format!("{at}.cidr"), ""));
        return;
    }
    if !super::cidr(whole) {
        out.push(FieldError::invalid(format!("{at}.cidr"), whole, super::CIDR));
        return;
    }
    for (i, e) in block.list_at(&["except"]).iter().enumerate() {
        let field = format!("{at}.except[{i}]");
        let part = e.as_str().unwrap_or("");
        if !super::cidr(part) {
            out.push(FieldError::invalid(field, part, super::CIDR));
        } else if !strictly_within(part, whole) {
            out.push(FieldError::invalid(field, part, format!("must be a strict subset of `cidr`: {whole:?}")));
        }
    }
}

/// Whether a network is a part of another one.
fn strictly_within(part: &str, whole: &str) -> bool {
    let read = |text: &str| -> Option<(bool, u128, u32)> {
        let (ip, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok()?;
        Some(match ip.parse().ok()? {
            IpAddr::V4(a) => (true, u128::from(u32::from(a)) << 96, bits),
            IpAddr::V6(a) => (false, u128::from(a), bits),
        })
    };
    let (Some(p), Some(w)) = (read(part), read(whole)) else { return false };
    let mask = if w.2 == 0 { 0 } else { u128::MAX << (128 - w.2) };
    p.0 == w.0 && p.2 > w.2 && p.1 & mask == w.1 & mask
}

static NETWORKS: Table = Table {
    rules: &[("spec.cidrs", &[Required("at least one CIDR required")]), ("spec.cidrs[]", &[Cidr])],
    more: Some(|obj, out| {
        let all = obj.list_at(&["spec", "cidrs"]);
        let v6 = |v: &Value| v.as_str().is_some_and(|t| t.contains(':'));
        if all.len() > 2 || matches!(all, [a, b] if v6(a) == v6(b)) {
            out.push(FieldError::invalid("spec.cidrs", all.to_vec(), "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"));
        }
    }),
    fixed: &[Always("spec.cidrs")],
    warn_unset: &[],
};

static ADDRESSES: Table = Table {
    rules: &[
        ("metadata.name", &[super::Check::Ip]),
        ("spec.parentRef", &[Required("")]),
        ("?spec.parentRef.group", &[Subdomain]),
        ("spec.parentRef.resource", &[Required(""), Segment]),
        ("spec.parentRef.name", &[Required(""), Segment]),
        ("?spec.parentRef.namespace", &[Segment]),
    ],
    more: None,
    fixed: &[super::Fixed::Unshown("spec.parentRef")],
    warn_unset: &[],
};

static SLICES: Table = Table {
    rules: &[
        ("addressType", &[Required(""), OneOf(&["FQDN", "IPv4", "IPv6"])]),
        ("endpoints[].addresses", &[Required("")]),
        ("endpoints[].nodeName", &[Subdomain]),
        ("endpoints[].hostname", &[Label]),
        ("endpoints[].hints.forZones", &[UniqueBy("name")]),
        ("endpoints[].hints.forZones[].name", &[LabelValue]),
        ("ports", &[UniqueBy("name")]),
        ("?ports[].name", &[Label]),
        ("ports[].protocol", &[OneOf(PROTOCOLS)]),
        ("ports[].appProtocol", &[super::Check::Qualified]),
    ],
    more: Some(|obj, out| {
        let kind = obj.str_at(&["addressType"]);
        for (i, e) in obj.list_at(&["endpoints"]).iter().enumerate() {
            for (j, a) in e.list_at(&["addresses"]).iter().filter_map(Value::as_str).enumerate() {
                let field = format!("endpoints[{i}].addresses[{j}]");
                match kind {
                    "IPv4" | "IPv6" => {
                        let Ok(ip) = a.parse::<IpAddr>() else {
                            out.push(FieldError::invalid(field, a, IP));
                            continue;
                        };
                        if ip.is_ipv4() != (kind == "IPv4") {
                            out.push(FieldError::invalid(format!("endpoints[{i}].addresses"), a, format!("must be an {kind} address")));
                        }
                        outside(&ip, a, &field, out);
                    }
                    "FQDN" => out.extend(names::subdomain(a).into_iter().map(|m| FieldError::invalid(&field, a, m))),
                    _ => {}
                }
            }
        }
    }),
    fixed: &[Unshown("addressType")],
    warn_unset: &[],
};

/// Addresses that no endpoint has.
pub(in crate::strategy) fn outside(ip: &IpAddr, text: &str, field: &str, out: &mut Vec<FieldError>) {
    let mut bad = |why: &str| out.push(FieldError::invalid(field, text, why));
    if ip.is_unspecified() {
        bad(&format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        bad("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let link_local = match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => (a.segments()[0] & 0xffc0) == 0xfe80,
    };
    if link_local {
        bad("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if ip.is_multicast() {
        bad("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

static ENDPOINTS: Table = Table {
    rules: &[
        ("subsets[]", &[Custom(subset)]),
        ("?subsets[].ports[].name", &[Label]),
        ("subsets[].ports[].port", &[Port]),
        ("subsets[].ports[].protocol", &[OneOf(PROTOCOLS)]),
        ("subsets[].ports[].appProtocol", &[super::Check::Qualified]),
    ],
    more: None,
    fixed: &[],
    warn_unset: &[],
};

fn subset(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    if s.list_at(&["addresses"]).is_empty() && s.list_at(&["notReadyAddresses"]).is_empty() {
        out.push(FieldError::required(at, "must specify `addresses` or `notReadyAddresses`"));
    }
    for list in ["addresses", "notReadyAddresses"] {
        for (i, a) in s.list_at(&[list]).iter().enumerate() {
            let at = format!("{at}.{list}[{i}]");
            let ip = a.str_at(&["ip"]);
            match ip.parse::<IpAddr>() {
                Ok(parsed) => outside(&parsed, ip, &format!("{at}.ip"), out),
                Err(_) => {
                    out.push(FieldError::invalid(format!("{at}.ip"), ip, IP));
                    out.push(FieldError::invalid(format!("{at}.ip"), ip, "must be a valid IP address"));
                }
            }
            let mut inner = Vec::new();
            super::check(a, &[("?hostname", &[Label]), ("nodeName", &[Subdomain])], &mut inner);
            out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.{}", e.field), ..e }));
        }
    }
}
