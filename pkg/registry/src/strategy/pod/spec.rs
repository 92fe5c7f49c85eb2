//! What a pod's spec must and may be, in pods and in templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{affinity, containers, resources, security, volumes};
use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{
        at::{At, range},
        fields::Check::{Label, Qualified, Subdomain},
    },
};

/// Where a spec stands.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// Whether it is a pod's own, not a template's.
    pub pod: bool,
    /// The metadata of the pod; null in a template.
    pub meta: &'a Value,
    /// The spec as it was.
    pub old: Option<&'a Value>,
}

/// What the parts of a spec need to know of its whole.
pub(super) struct Whole<'a> {
    pub around: Around<'a>,
    /// The names of its volumes that are in order, with what they are.
    pub volumes: Vec<(&'a str, &'a Value)>,
    /// The names of its resource claims.
    pub claims: BTreeSet<&'a str>,
    /// Seconds to end.
    pub grace: Option<i64>,
    pub os: &'a Value,
    /// Whether its users are the host's.
    pub host_users: bool,
    pub restart: &'a str,
    /// Whether an upgrade of privileges that contradicts itself may stay.
    pub sys_admin: bool,
}

/// The lists of containers in the order in which warnings and late checks visit them.
pub(super) const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Calls `visit` with every container.
pub(super) fn each(spec: &At, visit: &mut dyn FnMut(&At)) {
    for list in LISTS {
        for c in spec.get(list).items() {
            visit(&c);
        }
    }
}

/// Everything wrong with a spec.
pub(super) fn check(spec: &At, around: Around<'_>, out: &mut Vec<FieldError>) {
    if !spec.get("terminationGracePeriodSeconds").there() {
        spec.get("terminationGracePeriodSeconds").required("", out);
    }
    let whole = Whole {
        around,
        volumes: volumes::check(&spec.get("volumes"), around, out),
        claims: spec.value.list_at(&["resourceClaims"]).iter().map(|c| c.str_at(&["name"])).filter(|n| !n.is_empty()).collect(),
        grace: spec.get("terminationGracePeriodSeconds").int(),
        os: spec.value.get("os").unwrap_or(&Value::Null),
        host_users: !spec.get("hostUsers").no(),
        restart: spec.value.str_at(&["restartPolicy"]),
        sys_admin: around.old.is_some_and(security::contradicts),
    };
    claims(&spec.get("resourceClaims"), around, out);
    containers::check(spec, &whole, out);
    resources::of_pod(spec, &whole, out);
    if spec.get("hostNetwork").yes() {
        host_ports(spec, around.pod, out);
    }
    policy(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"], out);
    policy(&spec.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], out);
    out.extend(names::labels(spec.value.get("nodeSelector"), &spec.get("nodeSelector").to_string()));
    security::of_pod(spec, around, out);
    let shared = spec.get("shareProcessNamespace");
    if shared.yes() && spec.get("hostPID").yes() {
        shared.wrong("ShareProcessNamespace and HostPID cannot both be enabled", out);
    }
    affinity::check(&spec.get("affinity"), out);
    dns(spec, out);
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        kind.wrongs(names::qualified(kind.text()), out);
    }
    gates(&spec.get("schedulingGates"), out);
    affinity::spread(&spec.get("topologySpreadConstraints"), out);
    security::host_process(spec, out);
    host_users(spec, around, out);
    host_name(spec, out);
    let account = spec.get("serviceAccountName");
    if !account.text().is_empty() {
        account.check(&[Subdomain], out);
    }
    let before = spec.get("serviceAccount").text();
    if before != account.text() {
        spec.get("deprecatedServiceAccount").invalid(before, format!("must be the same as serviceAccountName: {:?}", account.text()), out);
    }
    if !spec.get("nodeName").text().is_empty() {
        spec.get("nodeName").check(&[Subdomain], out);
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n)) {
        deadline.wrong(range(1, i32::MAX.into()), out);
    }
    for f in ["hostname", "subdomain"] {
        if !spec.get(f).text().is_empty() {
            spec.get(f).check(&[Label], out);
        }
    }
    tolerations(&spec.get("tolerations"), out);
    for alias in spec.get("hostAliases").items() {
        super::address(&alias.get("ip"), out);
        for name in alias.get("hostnames").items() {
            name.check(&[Subdomain], out);
        }
    }
    if !spec.get("priorityClassName").text().is_empty() {
        spec.get("priorityClassName").check(&[Subdomain], out);
    }
    spec.get("runtimeClassName").check(&[Subdomain], out);
    let preemption = spec.get("preemptionPolicy");
    if preemption.there() {
        policy(&preemption, &["PreemptLowerPriority", "Never"], out);
    }
    if spec.get("overhead").there() {
        resources::list(&spec.get("overhead").get("limits").with(spec.get("overhead").value), out);
    }
    security::os(spec, out);
    group(&spec.get("schedulingGroup"), out);
    files(spec, out);
}

/// One of these, and not nothing.
pub(in crate::strategy) fn policy(at: &At, all: &[&str], out: &mut Vec<FieldError>) {
    match at.text() {
        "" => at.required("", out),
        text if !all.contains(&text) => at.unsupported_as_is(all, out),
        _ => {}
    }
}

fn claims(all: &At, around: Around<'_>, out: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for claim in all.items() {
        if around.meta.at(&["annotations", "kubernetes.io/config.mirror"]).is_some() {
            out.push(FieldError::forbidden("", "static pods do not support resource claims"));
            continue;
        }
        let name = claim.get("name");
        if name.text().is_empty() {
            name.required("", out);
        } else if !seen.insert(name.text()) {
            name.duplicate(name.text(), out);
        } else {
            name.check(&[Label], out);
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        if own.there() && template.there() {
            claim.wrong("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified", out);
        }
        if !own.there() && !template.there() {
            claim.wrong("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`", out);
        }
        own.check(&[Subdomain], out);
        template.check(&[Subdomain], out);
    }
}

/// On the host's network a port of a container is the host's.
fn host_ports(spec: &At, pod: bool, out: &mut Vec<FieldError>) {
    for c in spec.get("containers").items() {
        for port in c.get("ports").items() {
            let (host, own) = (port.get("hostPort"), port.get("containerPort").int().unwrap_or(0));
            let number = host.int().unwrap_or(0);
            if (pod || number != 0) && number != own {
                host.invalid(number, "must match `containerPort` when `hostNetwork` is true", out);
            }
        }
    }
}

fn dns(spec: &At, out: &mut Vec<FieldError>) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").text() == "None" {
        if !config.there() {
            return config.required("must provide `dnsConfig` when `dnsPolicy` is None", out);
        }
        if servers.list().is_empty() {
            return servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None", out);
        }
    }
    if servers.list().len() > 3 {
        servers.wrong("must not have more than 3 nameservers", out);
    }
    for server in servers.items() {
        super::address(&server, out);
    }
    let searches = config.get("searches");
    if searches.list().len() > 32 {
        searches.wrong("must not have more than 32 search paths", out);
    }
    let together: usize = searches.items().map(|s| s.text().len() + 1).sum();
    if together > 2049 {
        searches.wrong("must not have more than 2048 characters (including spaces) in the search list", out);
    }
    for search in searches.items() {
        if search.text() != "." {
            let name = search.text().strip_suffix('.').unwrap_or(search.text());
            names::subdomain_with_underscores(name).into_iter().for_each(|m| search.invalid(name, m, out));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").text().is_empty() {
            option.required("must not be empty", out);
        }
    }
}

fn gates(all: &At, out: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for gate in all.items() {
        let name = gate.get("name").text();
        names::qualified(name).into_iter().for_each(|m| gate.invalid(name, m, out));
        if !seen.insert(name) {
            gate.duplicate(name, out);
        }
    }
}

/// Where the pod's users are not the host's, it shares nothing else with the host.
fn host_users(spec: &At, around: Around<'_>, out: &mut Vec<FieldError>) {
    if !spec.get("hostUsers").no() {
        return;
    }
    const WHY: &str = "when `hostUsers` is false";
    if spec.get("hostNetwork").yes() {
        spec.get("hostNetwork").forbidden(WHY, out);
    }
    for (field, shown) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(field).yes() {
            spec.get(shown).forbidden(WHY, out);
        }
    }
    let devices = |s: &Value| LISTS.iter().flat_map(|l| s.list_at(&[l])).any(|c| !c.list_at(&["volumeDevices"]).is_empty());
    let before = around.old.is_some_and(|o| o.at(&["hostUsers"]) == Some(&Value::Bool(false)) && devices(o));
    if !before {
        each(spec, &mut |c| {
            if !c.get("volumeDevices").list().is_empty() {
                c.get("volumeDevices").forbidden(WHY, out);
            }
        });
    }
}

fn host_name(spec: &At, out: &mut Vec<FieldError>) {
    let name = spec.get("hostnameOverride");
    if !name.there() {
        return;
    }
    for (field, why) in [("setHostnameAsFQDN", "may not be specified when setHostnameAsFQDN is true"), ("hostNetwork", "may not be specified when hostNetwork is true")] {
        if spec.get(field).yes() {
            name.forbidden(why, out);
        }
    }
    if name.text().len() > 64 {
        out.push(FieldError::too_long(name.to_string(), 64));
    }
    name.check(&[Subdomain], out);
}

/// Tolerations, wherever they stand.
pub(in crate::strategy) fn tolerations(all: &At, out: &mut Vec<FieldError>) {
    for t in all.items() {
        let (key, operator, value, effect) = (t.get("key"), t.get("operator"), t.get("value").text(), t.get("effect"));
        if !key.text().is_empty() {
            key.check(&[Qualified], out);
        } else if operator.text() != "Exists" {
            operator.invalid(operator.text(), "operator must be Exists when `key` is empty, which means \"match all values and all keys\"", out);
        }
        if t.get("tolerationSeconds").there() && effect.text() != "NoExecute" {
            effect.invalid(effect.text(), "effect must be 'NoExecute' when `tolerationSeconds` is set", out);
        }
        match operator.text() {
            "" | "Equal" => {
                let wrong = knarr_schema::names::label_value(value);
                if !wrong.is_empty() {
                    operator.invalid(value, wrong.join(";"), out);
                }
            }
            "Exists" if !value.is_empty() => operator.invalid(value, "value must be empty when `operator` is 'Exists'", out),
            "Exists" => {}
            // Comparing numbers is behind a gate that is closed.
            "Lt" | "Gt" => operator.unsupported_as_is(&["Equal", "Exists", "Lt", "Gt"], out),
            _ => operator.unsupported_as_is(&["Equal", "Exists"], out),
        }
        if !effect.text().is_empty() && !EFFECTS.contains(&effect.text()) {
            effect.unsupported_as_is(&EFFECTS, out);
        }
    }
}

/// What a taint does.
pub(in crate::strategy) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn group(g: &At, out: &mut Vec<FieldError>) {
    let name = g.get("podGroupName");
    if g.there() && !name.there() {
        name.wrong("must specify one of: `podGroupName`", out);
    }
    name.check(&[Subdomain], out);
}

/// Variables read from files need a volume that holds nothing else.
fn files(spec: &At, out: &mut Vec<FieldError>) {
    let volumes = spec.value.list_at(&["volumes"]);
    each(spec, &mut |c| {
        for e in c.get("env").items() {
            let file = e.get("valueFrom.fileKeyRef");
            if !file.there() {
                continue;
            }
            let name = file.get("volumeName");
            match volumes.iter().rev().find(|v| v.str_at(&["name"]) == name.text()) {
                None => name.not_found(name.text(), out),
                Some(v) if v.at(&["emptyDir"]).is_none() => name.invalid(name.text(), "referenced volume must be of type emptyDir", out),
                Some(_) => {}
            }
        }
    });
}
