//! What a service must and may be.

use std::{collections::HashSet, net::IpAddr};

use serde_json::Value;

use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{
        at::At,
        fields::{
            self,
            Check::{Label, Qualified, Subdomain},
        },
        pod,
    },
};

const BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const MODE: &str = "service.kubernetes.io/topology-mode";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn headless(service: &Value) -> bool {
    matches!(service.list_at(&["spec", "clusterIPs"]), [one] if one == "None")
}

/// Whether others than the cluster reach it.
pub(super) fn outside(service: &Value) -> bool {
    let kind = service.str_at(&["spec", "type"]);
    matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && !service.list_at(&["spec", "externalIPs"]).is_empty())
}

pub(super) fn health(service: &Value) -> bool {
    service.str_at(&["spec", "type"]) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// Everything wrong with a service.
pub(super) fn service(root: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let annotations = root.get("metadata.annotations");
    let mode = annotations.key(MODE);
    let hints = annotations.key(HINTS);
    if mode.there() && hints.there() && mode.text() != hints.text() {
        mode.wrong(format!("must match annotations[{HINTS}] when both are specified"), out);
    }
    let spec = root.get("spec");
    let kind = spec.get("type");
    let ports = spec.get("ports");
    let headless = headless(root.value);
    if ports.list().is_empty() && !headless && kind.text() != "ExternalName" {
        ports.required("", out);
    }
    match kind.text() {
        "LoadBalancer" | "NodePort" if headless => {
            let all = spec.get("clusterIPs");
            all.item(0).wrong(format!("may not be set to 'None' for {} services", kind.text()), out);
        }
        "ExternalName" => named(&spec, out),
        _ => {}
    }
    let mut seen = HashSet::new();
    for p in ports.items() {
        port(&p, ports.list().len() > 1, &mut seen, out);
    }
    out.extend(names::labels(spec.value.get("selector"), &spec.get("selector").to_string()));
    affinity(&spec, out);
    if kind.text() != "ExternalName" {
        addresses(&spec, old, headless, out);
    }
    let before = old.map(|o| o.list_at(&["spec", "externalIPs"])).unwrap_or_default();
    for ip in spec.get("externalIPs").items() {
        let wrong = if before.contains(ip.value) { Vec::new() } else { fields::address(ip.text()) };
        match ip.text().parse::<IpAddr>() {
            Ok(parsed) if wrong.is_empty() => fields::outside(&parsed, ip.text(), &ip.to_string(), out),
            _ => ip.wrongs(wrong, out),
        }
    }
    match kind.text() {
        "" => kind.required("", out),
        _ => kind.one_of(&TYPES, out),
    }
    if kind.text() == "ClusterIP" {
        for p in ports.items() {
            if p.get("nodePort").int().unwrap_or(0) != 0 {
                p.get("nodePort").forbidden("may not be used when `type` is 'ClusterIP'", out);
            }
        }
    }
    twice(&ports, out);
    ranges(root, &spec, old, out);
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.there() && kind.text() != "LoadBalancer" {
        allocate.forbidden(BALANCED, out);
    }
    class(&spec, out);
    traffic(root, &spec, out);
}

fn named(spec: &At, out: &mut Vec<FieldError>) {
    const WHY: &str = "may not be set for ExternalName services";
    for f in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let at = spec.get(f);
        if at.there() && !at.value.as_array().is_some_and(Vec::is_empty) {
            at.forbidden(WHY, out);
        }
    }
    let name = spec.get("externalName");
    match name.text().strip_suffix('.').unwrap_or(name.text()) {
        "" => name.required("", out),
        text => name.with(&Value::from(text)).check(&[Subdomain], out),
    }
}

fn port<'v>(p: &At<'v, '_>, named: bool, seen: &mut HashSet<&'v str>, out: &mut Vec<FieldError>) {
    let name = p.get("name");
    if !name.text().is_empty() {
        name.check(&[Label], out);
        if !seen.insert(name.text()) {
            name.duplicate(name.text(), out);
        }
    } else if named {
        name.required("", out);
    }
    let number = p.get("port").int().unwrap_or(0);
    knarr_schema::names::port_number(number).into_iter().for_each(|m| p.get("port").invalid(number, m, out));
    let protocol = p.get("protocol");
    match protocol.text() {
        "" => protocol.required("", out),
        _ => protocol.one_of(&["SCTP", "TCP", "UDP"], out),
    }
    pod::port(&p.get("targetPort"), out);
    p.get("appProtocol").check(&[Qualified], out);
}

fn affinity(spec: &At, out: &mut Vec<FieldError>) {
    let (kind, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    const WHEN: &str = "when session affinity type is ClientIP";
    match kind.text() {
        "" => kind.required("", out),
        "ClientIP" => {
            let client = config.get("clientIP");
            let timeout = client.get("timeoutSeconds");
            for needed in [&config, &client, &timeout] {
                if !needed.there() {
                    return needed.required(WHEN, out);
                }
            }
            if timeout.int().is_some_and(|n| !(1..=86400).contains(&n)) {
                timeout.wrong("must be greater than 0 and less than 86400", out);
            }
        }
        "None" if config.there() => config.forbidden("must not be set when session affinity is None", out),
        _ => kind.one_of(&["ClientIP", "None"], out),
    }
}

/// The addresses and their families.
fn addresses(spec: &At, old: Option<&Value>, headless: bool, out: &mut Vec<FieldError>) {
    let (one, all) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    match (one.text(), all.list()) {
        ("", []) => {}
        ("", _) => all.wrong("must be empty when `clusterIP` is not specified", out),
        (_, []) => all.required("", out),
        (ip, [first, ..]) if first != ip => all.wrong("first value must match `clusterIP`", out),
        _ => {}
    }
    let families = spec.get("ipFamilies");
    let mut seen = HashSet::new();
    for f in families.items() {
        f.one_of(&["IPv4", "IPv6"], out);
        if !seen.insert(f.text()) {
            f.duplicate(f.text(), out);
        }
    }
    let policy = spec.get("ipFamilyPolicy");
    if policy.there() {
        policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], out);
    }
    let before = old.map(|o| o.list_at(&["spec", "clusterIPs"])).unwrap_or_default();
    let mut bad = false;
    for (i, ip) in all.items().enumerate() {
        if i == 0 && ip.text() == "None" {
            if all.list().len() > 1 {
                bad = true;
                all.wrong("'None' must be the first and only value", out);
            }
            continue;
        }
        let wrong = if before.contains(ip.value) { Vec::new() } else { fields::address(ip.text()) };
        bad |= !wrong.is_empty();
        ip.wrongs(wrong, out);
    }
    if all.list().len() > 2 {
        all.wrong("may only hold up to 2 values", out);
    }
    if bad {
        return;
    }
    let six = |t: &str| t.contains(':');
    if all.list().len() > 1 && all.items().map(|i| six(i.text())).collect::<HashSet<_>>().len() != 2 {
        all.wrong("may specify no more than one IP for each IP family", out);
    }
    if headless {
        return;
    }
    for (i, (ip, family)) in all.items().zip(families.items()).enumerate() {
        if matches!((family.text(), six(ip.text())), ("IPv4", true) | ("IPv6", false)) {
            ip.wrong(format!("expected an {} value as indicated by `ipFamilies[{i}]`", family.text()), out);
        }
    }
}

fn twice(ports: &At, out: &mut Vec<FieldError>) {
    let (mut nodes, mut seen) = (HashSet::new(), HashSet::new());
    let key = |p: &At, f: &str| (p.get("protocol").text().to_owned(), p.get(f).int().unwrap_or(0));
    for p in ports.items() {
        let node = key(&p, "nodePort");
        if node.1 != 0 && !nodes.insert(node.clone()) {
            p.get("nodePort").duplicate(node.1, out);
        }
    }
    for p in ports.items() {
        let own = key(&p, "port");
        if !seen.insert(own.clone()) {
            p.duplicate(serde_json::json!({"protocol": own.0, "port": own.1}), out);
        }
    }
}

/// Who may reach a balancer.
fn ranges(root: &At, spec: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let balanced = spec.get("type").text() == "LoadBalancer";
    let all = spec.get("loadBalancerSourceRanges");
    let annotations = root.get("metadata.annotations");
    let annotation = annotations.key(RANGES);
    if !all.list().is_empty() {
        let shown = spec.get("LoadBalancerSourceRanges").with(all.value);
        if !balanced {
            shown.forbidden(BALANCED, out);
        }
        let before: Vec<&str> = old.map(|o| o.list_at(&["spec", "loadBalancerSourceRanges"])).unwrap_or_default().iter().filter_map(|v| v.as_str().map(str::trim)).collect();
        for range in shown.items() {
            let text = range.text().trim();
            if !before.contains(&text) {
                fields::network(text).into_iter().for_each(|m| range.invalid(text, m, out));
            }
        }
    } else if annotation.there() {
        if !balanced {
            annotation.forbidden(BALANCED, out);
        }
        let before = old.and_then(|o| o.at(&["metadata", "annotations", RANGES]));
        if before != Some(annotation.value) && !annotation.text().trim().is_empty() {
            for text in annotation.text().trim().split(',').map(str::trim) {
                fields::network(text).into_iter().for_each(|m| annotation.invalid(text, m, out));
            }
        }
    }
}

fn class(spec: &At, out: &mut Vec<FieldError>) {
    let class = spec.get("loadBalancerClass");
    if spec.get("type").text() == "LoadBalancer" {
        class.check(&[Qualified], out);
    } else if class.there() {
        class.forbidden(BALANCED, out);
    }
}

fn traffic(root: &At, spec: &At, out: &mut Vec<FieldError>) {
    let (external, internal) = (spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy"));
    match (outside(root.value), external.text()) {
        (false, "") => {}
        (false, _) => external.wrong("may only be set for externally-accessible services", out),
        (true, "") => external.required("", out),
        (true, _) => external.one_of(&["Cluster", "Local"], out),
    }
    let port = spec.get("healthCheckNodePort");
    let number = port.int().unwrap_or(0);
    if number != 0 {
        if health(root.value) {
            port.wrongs(knarr_schema::names::port_number(number), out);
        } else {
            port.wrong("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'", out);
        }
    }
    if internal.there() {
        internal.one_of(&["Cluster", "Local"], out);
    } else if matches!(spec.get("type").text(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        internal.required("", out);
    }
    let distribution = spec.get("trafficDistribution");
    if distribution.there() {
        distribution.one_of(&["PreferClose", "PreferSameNode", "PreferSameZone"], out);
    }
}

/// What may not change.
pub(super) fn update(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let named = |v: &Value| v.str_at(&["spec", "type"]) == "ExternalName";
    let root = At::top(obj, "");
    let spec = root.get("spec");
    if !named(obj) && !named(old) {
        let (is, was) = (headless(obj), headless(old));
        if !(is && was) {
            once(&spec, old, "clusterIPs", "clusterIP", out);
        }
        if !is && !was {
            once(&spec, old, "ipFamilies", "ipFamily", out);
        }
    }
    let class = spec.get("loadBalancerClass");
    let balanced = |v: &Value| v.str_at(&["spec", "type"]) == "LoadBalancer";
    if balanced(obj) && balanced(old) && old.at(&["spec", "loadBalancerClass"]).unwrap_or(&Value::Null) != class.value {
        class.wrong("may not change once set", out);
    }
    const PORT: &[&str] = &["spec", "healthCheckNodePort"];
    if health(obj) && health(old) && obj.at(PORT).is_some() && obj.at(PORT) != old.at(PORT) {
        out.push(FieldError::forbidden(PORT.join("."), "field is immutable"));
    }
}

/// What is given once: the first stays, the second may come and go.
fn once(spec: &At, old: &Value, field: &str, one: &str, out: &mut Vec<FieldError>) {
    let all = spec.get(field);
    let (new, before) = (all.list(), old.list_at(&["spec", field]));
    let value = || all.value.clone();
    let place = |i: usize| format!("{all}[{i}]");
    let shown = if field == "ipFamilies" && new.len() != before.len() { spec.get("clusterIPs").value.clone() } else { value() };
    if new.len() == before.len() {
        for (i, (n, o)) in new.iter().zip(before).enumerate() {
            if n != o {
                out.push(FieldError::invalid(place(if field == "ipFamilies" { 0 } else { i }), value(), "may not change once set"));
            }
        }
        return;
    }
    if before.len() > new.len() && spec.get("clusterIPs").list().is_empty() {
        out.push(FieldError::invalid(place(0), value(), format!("primary {one} can not be unset")));
    }
    if let (Some(n), Some(o)) = (new.first(), before.first())
        && n != o
    {
        out.push(FieldError::invalid(place(0), shown, "may not change once set"));
    }
    let policy = spec.get("ipFamilyPolicy");
    if before.len() > new.len() && new.len() == 1 && policy.text() != "SingleStack" {
        policy.wrong(format!("must be set to 'SingleStack' when releasing the secondary {one}"), out);
    }
}

/// What is odd about a service.
pub(super) fn warnings(root: &At, out: &mut Vec<String>) {
    let spec = root.get("spec");
    if root.value.at(&["metadata", "annotations", HINTS]).is_some() {
        out.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let (kind, ip) = (spec.get("type").text(), spec.get("clusterIP").text());
    let external = !spec.get("externalIPs").list().is_empty();
    let balancer = spec.get("loadBalancerIP");
    if !ip.is_empty() && ip != "None" {
        spec.get("clusterIPs").items().for_each(|i| pod::odd_address(&i, out));
    }
    let headless = kind == "ClusterIP" && ip == "None";
    if headless {
        let ignored = [("loadBalancerIP", !balancer.text().is_empty()), ("externalIPs", external), ("SessionAffinity", spec.get("sessionAffinity").text() != "None")];
        out.extend(ignored.iter().filter(|(_, set)| *set).map(|(f, _)| format!("spec.{f} is ignored for headless services")));
    }
    spec.get("externalIPs").items().for_each(|i| pod::odd_address(&i, out));
    if external && !headless && kind != "ExternalName" {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !balancer.text().is_empty() {
        pod::odd_address(&balancer, out);
    }
    if kind == "ExternalName" && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.get("externalName").text().is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").text() == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
}
