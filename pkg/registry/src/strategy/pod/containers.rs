//! Containers: what all have in common, and what sets init and ephemeral ones apart.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    env, handlers, mounts, resources, security,
    spec::{self, Whole},
};
use crate::{
    error::FieldError,
    object::Object,
    strategy::{
        at::At,
        fields::Check::{Label, Required},
    },
};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Members that an ephemeral container may have.
const EPHEMERAL: [&str; 15] = [
    "name", "image", "command", "args", "workingDir", "envFrom", "env", "volumeMounts", "volumeDevices", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy",
    "securityContext", "stdin", "stdinOnce",
];

/// Everything wrong with the containers of a spec.
pub(super) fn check(s: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let list = s.get("containers");
    if list.list().is_empty() {
        list.required("", out);
    }
    let mut names = HashSet::new();
    let mut ports = HashSet::new();
    for c in list.items() {
        common(&c, whole, out);
        if !names.insert(c.get("name").text()) {
            c.get("name").duplicate(c.get("name").text(), out);
        }
        handlers::lifecycle(&c.get("lifecycle"), whole, out);
        handlers::probes(&c, whole, out);
        restart(&c, out);
    }
    for c in list.items() {
        host_ports(&c, &mut ports, out);
    }
    init(s, whole, &mut names, out);
    ephemeral(s, whole, out);
    if whole.around.pod {
        for list in ["containers", "initContainers"] {
            s.get(list).items().for_each(|c| image(&c, out));
        }
    }
}

fn init<'v>(s: &At<'v, '_>, whole: &Whole<'_>, names: &mut HashSet<&'v str>, out: &mut Vec<FieldError>) {
    for at in s.get("initContainers").items() {
        common(&at, whole, out);
        let always = at.get("restartPolicy").text() == "Always";
        restart(&at, out);
        let name = at.get("name").text();
        if names.contains(name) {
            at.get("name").duplicate(name, out);
        } else if !name.is_empty() {
            names.insert(name);
        }
        host_ports(&at, &mut HashSet::new(), out);
        if always {
            handlers::lifecycle(&at.get("lifecycle"), whole, out);
            handlers::probes(&at, whole, out);
            continue;
        }
        for f in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if at.get(f).there() {
                at.get(f).forbidden("may not be set for init containers without restartPolicy=Always", out);
            }
        }
        let before = whole.around.old.is_some_and(|o| {
            o.list_at(&["initContainers"]).iter().any(|c| c.str_at(&["restartPolicy"]) != "Always" && c.list_at(&["resizePolicy"]).iter().any(|p| p.str_at(&["restartPolicy"]) == "RestartContainer"))
        });
        for p in at.get("resizePolicy").items() {
            if !before && p.get("restartPolicy").text() == "RestartContainer" {
                p.get("restartPolicy").wrong("must not be set to 'RestartContainer' for non-sidecar initContainers", out);
            }
        }
    }
}

/// The ephemeral containers of a spec.
pub(super) fn ephemeral(s: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let others: HashSet<&str> = ["containers", "initContainers"].iter().flat_map(|l| s.value.list_at(&[l])).map(|c| c.str_at(&["name"])).collect();
    let mut names = others.clone();
    for c in s.get("ephemeralContainers").items() {
        common(&c, whole, out);
        image(&c, out);
        let name = c.get("name").text();
        if !names.insert(name) {
            c.get("name").duplicate(name, out);
        }
        let target = c.get("targetContainerName");
        if !target.text().is_empty() && !others.contains(target.text()) {
            target.not_found(target.text(), out);
        }
        for (field, v) in c.value.as_object().into_iter().flatten() {
            let allowed = EPHEMERAL.contains(&field.as_str()) || matches!(field.as_str(), "tty" | "targetContainerName");
            // Members that are always written are there without being set.
            let nothing = v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
            if !allowed && !nothing {
                c.get(field).forbidden("cannot be set for an Ephemeral Container", out);
            }
        }
        for m in c.get("volumeMounts").items() {
            for f in ["subPath", "subPathExpr"] {
                if !m.get(f).text().is_empty() {
                    m.get(f).forbidden("cannot be set for an Ephemeral Container", out);
                }
            }
        }
    }
}

fn image(c: &At, out: &mut Vec<FieldError>) {
    let image = c.get("image");
    if image.text().trim() != image.text() {
        image.wrong("must not have leading or trailing whitespace", out);
    }
}

fn common(c: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    c.get("name").check(&[Required(""), Label], out);
    c.get("image").check(&[Required("")], out);
    spec::policy(&c.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"], out);
    ports(&c.get("ports"), out);
    env::variables(&c.get("env"), out);
    env::from(&c.get("envFrom"), out);
    mounts::check(c, whole, out);
    mounts::devices(c, whole, out);
    pull_policy(&c.get("imagePullPolicy"), out);
    resources::of_container(&c.get("resources"), whole, out);
    resize(&c.get("resizePolicy"), whole, out);
    security::of_container(&c.get("securityContext"), whole, out);
}

pub(super) fn pull_policy(at: &At, out: &mut Vec<FieldError>) {
    match at.text() {
        "" => at.required("", out),
        _ => at.one_of(&["Always", "IfNotPresent", "Never"], out),
    }
}

fn ports(all: &At, out: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    for port in all.items() {
        let name = port.get("name");
        if !name.text().is_empty() {
            let wrong = knarr_schema::names::port_name(name.text());
            if wrong.is_empty() && !names.insert(name.text()) {
                name.duplicate(name.text(), out);
            }
            name.wrongs(wrong, out);
        }
        for (field, needed) in [("containerPort", true), ("hostPort", false)] {
            let at = port.get(field);
            match at.int().unwrap_or(0) {
                0 if needed => at.required("", out),
                0 => {}
                n => at.wrongs(knarr_schema::names::port_number(n), out),
            }
        }
        let protocol = port.get("protocol");
        match protocol.text() {
            "" => protocol.required("", out),
            _ => protocol.one_of(&PROTOCOLS, out),
        }
    }
}

/// Two containers that run together cannot have the same port of the host.
fn host_ports(c: &At, taken: &mut HashSet<String>, out: &mut Vec<FieldError>) {
    for port in c.get("ports").items() {
        let number = port.get("hostPort").int().unwrap_or(0);
        if number == 0 {
            continue;
        }
        let place = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
        if !taken.insert(place.clone()) {
            port.get("hostPort").duplicate(place, out);
        }
    }
}

/// When a container starts again by its own rules.
fn restart(c: &At, out: &mut Vec<FieldError>) {
    let (policy, rules) = (c.get("restartPolicy"), c.get("restartPolicyRules"));
    if policy.there() {
        policy.one_of(&["Always", "Never", "OnFailure"], out);
    } else if !rules.list().is_empty() {
        policy.required("must specify restartPolicy when restart rules are used", out);
    }
    rules.too_many(20, out);
    for rule in rules.items() {
        rule.get("action").one_of(&["Restart", "RestartAllContainers"], out);
        let codes = rule.get("exitCodes");
        if codes.there() {
            codes.get("operator").one_of(&["In", "NotIn"], out);
            codes.get("values").too_many(255, out);
        } else {
            codes.required("must be specified", out);
        }
    }
}

fn resize(all: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let mut seen: Vec<&Value> = Vec::new();
    for p in all.items() {
        let (name, policy) = (p.get("resourceName"), p.get("restartPolicy"));
        if seen.contains(&name.value) {
            p.duplicate(name.text(), out);
        }
        seen.push(name.value);
        for (at, known) in [(name, ["cpu", "memory"]), (policy, ["NotRequired", "RestartContainer"])] {
            match at.text() {
                "" => all.required("", out),
                text if !known.contains(&text) => all.with(at.value).unsupported(&known, out),
                _ => {}
            }
        }
        if whole.restart == "Never" && policy.text() != "NotRequired" {
            all.invalid(policy.text(), "must be 'NotRequired' when pod `restartPolicy` is 'Never'", out);
        }
    }
}
