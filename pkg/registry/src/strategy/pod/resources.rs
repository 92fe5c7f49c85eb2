//! What containers and pods ask for, and what they may have.

use std::collections::{BTreeMap, BTreeSet};

use knarr_schema::quantity::Quantity;
use serde_json::Value;

use super::spec::Whole;
use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{at::At, fields::Check::Label},
};

const PAGES: &str = "hugepages-";
/// Resources without a domain before their name.
const STANDARD: [&str; 20] = [
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods", "resourcequotas",
    "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims", "storage", "requests.storage", "services.nodeports", "services.loadbalancers",
];
/// Resources that are counted.
const COUNTED: [&str; 9] =
    ["pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers"];

fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn extended(name: &str) -> bool {
    !native(name) && !name.starts_with("requests.") && names::qualified(&format!("requests.{name}")).is_empty()
}

fn overcommit(name: &str) -> bool {
    native(name) && !name.starts_with(PAGES)
}

fn standard(name: &str) -> bool {
    STANDARD.contains(&name) || name.starts_with(PAGES) || name.starts_with("requests.hugepages-")
}

/// A name of a resource, anywhere. Whether it is one.
pub(in crate::strategy) fn name(name: &str, at: &At, out: &mut Vec<FieldError>) -> bool {
    let wrong = names::qualified(name);
    if wrong.is_empty() && (name.contains('/') || standard(name)) {
        return true;
    }
    if wrong.is_empty() {
        at.invalid(name, "must be a standard resource type or fully qualified", out);
    }
    wrong.into_iter().for_each(|m| at.invalid(name, m, out));
    false
}

/// A name of a resource of a container.
pub(in crate::strategy) fn container_name(resource: &str, at: &At, out: &mut Vec<FieldError>) {
    name(resource, at, out);
    if !resource.contains('/') {
        if !matches!(resource, "cpu" | "memory" | "ephemeral-storage") && !resource.starts_with(PAGES) {
            at.invalid(resource, "must be a standard resource for containers", out);
        }
    } else if !native(resource) && !extended(resource) {
        at.invalid(resource, "doesn't follow extended resource name standard", out);
    }
}

fn pod_name(resource: &str, at: &At, out: &mut Vec<FieldError>) {
    if name(resource, at, out) && !matches!(resource, "cpu" | "memory") && !resource.starts_with(PAGES) {
        out.push(FieldError::not_supported(at.to_string(), resource, &["cpu", "hugepages-", "memory"]));
    }
}

/// How much of a resource.
pub(in crate::strategy) fn amount(resource: &str, at: &At, out: &mut Vec<FieldError>) {
    let Ok(q) = Quantity::parse(at.text()) else { return };
    if q.sign() < 0 {
        at.wrong(super::handlers::NEGATIVE, out);
    }
    if (COUNTED.contains(&resource) || extended(resource)) && q.milli_value() % 1000 != 0 {
        at.wrong("must be an integer", out);
    }
}

/// Whether an amount is so many whole pages.
fn pages(resource: &str, q: Quantity) -> bool {
    let Some(size) = resource.strip_prefix(PAGES).and_then(|s| Quantity::parse(s).ok()) else { return false };
    size.sign() > 0 && size.is_whole() && q.value() % size.value() == 0
}

type Naming = fn(&str, &At<'_, '_>, &mut Vec<FieldError>);

/// A list of resources, as a container's limits are checked.
pub(super) fn list(limits: &At, out: &mut Vec<FieldError>) {
    one_side(limits, container_name, false, &mut |_, _, _| {}, out);
}

/// Checks one map; gives whether it has cpu or memory, and whether it has pages.
fn one_side(map: &At, naming: Naming, lax: bool, more: &mut dyn FnMut(&str, &At, &mut Vec<FieldError>), out: &mut Vec<FieldError>) -> (bool, bool) {
    let (mut basic, mut large) = (false, false);
    for (resource, at) in map.entries() {
        naming(resource, &at, out);
        amount(resource, &at, out);
        more(resource, &at, out);
        if resource.starts_with(PAGES) {
            large = true;
            if let Some(q) = Quantity::parse(at.text()).ok().filter(|q| !lax && !pages(resource, *q)) {
                at.wrong(format!("{q} is not positive integer multiple of {resource}"), out);
            }
        }
        basic |= matches!(resource, "cpu" | "memory");
    }
    (basic, large)
}

fn requirements(at: &At, naming: Naming, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let odd = |r: &Value| {
        ["limits", "requests"].iter().filter_map(|s| r.at(&[s])?.as_object()).flatten().any(|(k, v)| {
            k.starts_with(PAGES) && v.as_str().and_then(|t| Quantity::parse(t).ok()).is_some_and(|q| !pages(k, q))
        })
    };
    let lax = whole.around.old.is_some_and(|o| super::spec::LISTS.iter().flat_map(|l| o.list_at(&[l])).filter_map(|c| c.get("resources")).any(odd));
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    let a = one_side(&limits, naming, lax, &mut |_, _, _| {}, out);
    let b = one_side(
        &requests,
        naming,
        lax,
        &mut |resource, q, out| {
            let read = |t: &str| Quantity::parse(t).unwrap_or(Quantity::ZERO);
            match limits.value.get(resource).and_then(Value::as_str) {
                Some(most) if !overcommit(resource) && read(q.text()) != read(most) => {
                    requests.invalid(q.text(), format!("must be equal to {resource} limit of {most}"), out);
                }
                Some(most) if read(q.text()) > read(most) => requests.invalid(q.text(), format!("must be less than or equal to {resource} limit of {most}"), out),
                Some(_) => {}
                None if !overcommit(resource) => limits.required("Limit must be set for non overcommitable resources", out),
                None => {}
            }
        },
        out,
    );
    if !a.0 && !b.0 && (a.1 || b.1) {
        at.forbidden("HugePages require cpu or memory", out);
    }
    claims(&at.get("claims"), whole, out);
}

fn claims(all: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in all.items() {
        let (name, request) = (claim.get("name").text(), claim.get("request"));
        if name.is_empty() {
            claim.required("", out);
            continue;
        }
        if seen.contains(name) {
            claim.duplicate(name, out);
        } else {
            let mut key = name.to_owned();
            if !request.text().is_empty() {
                request.check(&[Label], out);
                key = format!("{name}/{}", request.text());
            }
            if seen.contains(&key) {
                claim.duplicate(key.as_str(), out);
            } else if request.text().is_empty() {
                seen.iter().filter(|k| k.split_once('/').is_some_and(|(n, _)| n == name)).for_each(|_| claim.duplicate(name, out));
            }
            seen.insert(key);
        }
        if !whole.claims.contains(name) {
            let mut e = FieldError::not_found(claim.to_string(), name);
            let known: Vec<&str> = whole.claims.iter().copied().collect();
            e.detail = match known.as_slice() {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                all => format!("must be one of the names in pod.spec.resourceClaims: {}", all.join(", ")),
            };
            out.push(e);
        }
    }
}

/// `resources` of a container.
pub(super) fn of_container(at: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    requirements(at, container_name, whole, out);
}

/// `resources` of the pod.
pub(super) fn of_pod(spec: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let at = spec.get("resources");
    if !at.there() {
        return;
    }
    if whole.os.str_at(&["name"]) == "windows" {
        return at.forbidden("may not be set for a windows pod", out);
    }
    if at.get("claims").there() {
        at.get("claims").forbidden("claims may not be set for Resources at pod-level", out);
    }
    requirements(&at, pod_name, whole, out);
    let read = |v: Option<&Value>| v.and_then(Value::as_str).and_then(|t| Quantity::parse(t).ok());
    for (resource, sum) in together(spec.value, "requests") {
        if let Some(own) = read(at.value.at(&["requests", &resource])).filter(|own| sum > *own) {
            let requests = at.get("requests");
            requests.key(&resource).invalid(own.to_string(), format!("must be greater than or equal to aggregate container requests of {sum}"), out);
        }
    }
    for (resource, sum) in together(spec.value, "limits").into_iter().filter(|(k, _)| k.starts_with(PAGES)) {
        if let Some(own) = read(at.value.at(&["limits", &resource])).filter(|own| sum > *own) {
            let limits = at.get("limits");
            limits.key(&resource).invalid(own.to_string(), format!("must be greater than or equal to aggregate container limits of {sum}"), out);
        }
    }
    let containers = at.get("containers");
    for (i, c) in spec.value.list_at(&["containers"]).iter().enumerate() {
        for (resource, limit) in c.at(&["resources", "limits"]).and_then(Value::as_object).into_iter().flatten() {
            let (Some(own), Some(most)) = (read(Some(limit)), read(at.value.at(&["limits", resource]))) else { continue };
            if own > most {
                out.push(FieldError::invalid(format!("{containers}[{i}][{resource}].limits"), own.to_string(), format!("must be less than or equal to pod limits of {most}")));
            }
        }
    }
}

/// What the containers of a pod need together: those that run side by side, or one that runs
/// before them if that is more.
pub(super) fn together(spec: &Value, side: &str) -> BTreeMap<String, Quantity> {
    type Sums = BTreeMap<String, Quantity>;
    let of = |c: &Value| -> Sums {
        let map = c.at(&["resources", side]).and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(v.as_str()?).ok()?))).collect()
    };
    let add = |sums: &mut Sums, more: Sums| {
        for (k, q) in more {
            let sum = sums.get(&k).map_or(q, |s| *s + q);
            sums.insert(k, sum);
        }
    };
    let mut total = Sums::new();
    spec.list_at(&["containers"]).iter().for_each(|c| add(&mut total, of(c)));
    let (mut beside, mut most) = (Sums::new(), Sums::new());
    for c in spec.list_at(&["initContainers"]) {
        let mut now = of(c);
        if c.str_at(&["restartPolicy"]) == "Always" {
            add(&mut total, now.clone());
            add(&mut beside, now);
            now = beside.clone();
        } else {
            add(&mut now, beside.clone());
        }
        for (k, q) in now {
            if most.get(&k).is_none_or(|m| q > *m) {
                most.insert(k, q);
            }
        }
    }
    for (k, q) in most {
        if total.get(&k).is_none_or(|t| q > *t) {
            total.insert(k, q);
        }
    }
    total
}
