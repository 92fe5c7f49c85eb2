//! Where containers see their volumes.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    spec::Whole,
    volumes::{descending, no_backsteps},
};
use crate::{error::FieldError, object::Object, strategy::at::At};

const OPTIONS: [&str; 3] = ["nodev", "noexec", "nosuid"];

/// The name and place of each item of a container's list.
fn taken<'v>(c: &At<'v, '_>, list: &str, path: &str) -> Vec<(&'v str, &'v str)> {
    c.get(list).list().iter().map(|m| (m.str_at(&["name"]), m.str_at(&[path]))).collect()
}

/// `volumeMounts`.
pub(super) fn check(c: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let all = c.get("volumeMounts");
    let devices = taken(c, "volumeDevices", "devicePath");
    let mut places = HashSet::new();
    for m in all.items() {
        let (name, place) = (m.get("name"), m.get("mountPath"));
        let volume = whole.volumes.iter().find(|(n, _)| *n == name.text());
        if name.text().is_empty() {
            name.required("", out);
        }
        if volume.is_none() {
            name.not_found(name.text(), out);
        }
        if place.text().is_empty() {
            place.required("", out);
        }
        if !places.insert(place.text()) {
            place.invalid(place.text(), "must be unique", out);
        }
        if devices.iter().any(|(n, _)| *n == name.text()) {
            name.wrong("must not already exist in volumeDevices", out);
        }
        if devices.iter().any(|(_, p)| *p == place.text()) {
            place.wrong("must not already exist as a path in volumeDevices", out);
        }
        // What is below the volume is named with the list, not with its item.
        let sub = m.get("subPath");
        if !sub.text().is_empty() {
            descending(&all.get("subPath").with(sub.value), out);
        }
        let expression = m.get("subPathExpr");
        if !expression.text().is_empty() {
            if !sub.text().is_empty() {
                expression.wrong("subPathExpr and subPath are mutually exclusive", out);
            }
            descending(&all.get("subPathExpr").with(expression.value), out);
        }
        let spread = m.get("mountPropagation");
        if spread.there() {
            let at = all.get("mountPropagation").with(spread.value);
            at.one_of(&["Bidirectional", "HostToContainer", "None"], out);
            if spread.text() == "Bidirectional" && !c.get("securityContext.privileged").yes() {
                at.forbidden("Bidirectional mount propagation is available only to privileged containers", out);
            }
        }
        recursive(&m, &all, out);
        let options = m.get("bindMountOptions");
        let mut seen = HashSet::new();
        for o in options.items() {
            o.one_of(&OPTIONS, out);
            if !seen.insert(o.text()) {
                o.duplicate(o.text(), out);
            }
        }
        if !options.list().is_empty() && volume.is_some_and(|(_, v)| v.at(&["image"]).is_some()) {
            options.wrong("bindMountOptions may not be used with image volumes", out);
        }
    }
}

fn recursive(m: &At, all: &At, out: &mut Vec<FieldError>) {
    let value = m.get("recursiveReadOnly");
    let at = all.get("recursiveReadOnly").with(value.value);
    match value.text() {
        _ if !value.there() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !m.get("readOnly").yes() {
                at.forbidden("may only be specified when readOnly is true", out);
            }
            if m.get("mountPropagation").there() && m.get("mountPropagation").text() != "None" {
                at.forbidden("may only be specified when mountPropagation is None or not specified", out);
            }
        }
        _ => at.unsupported(&["Disabled", "Enabled", "IfPossible"], out),
    }
}

/// `volumeDevices`.
pub(super) fn devices(c: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let mounts = taken(c, "volumeMounts", "mountPath");
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for d in c.get("volumeDevices").items() {
        let (name, place) = (d.get("name"), d.get("devicePath"));
        let volume = whole.volumes.iter().find(|(n, _)| *n == name.text()).map(|(_, v)| *v);
        if name.text().is_empty() {
            name.required("", out);
        }
        if names.contains(name.text()) {
            name.wrong("must be unique", out);
        }
        let claimed = |v: &Value| v.at(&["persistentVolumeClaim"]).or(v.at(&["ephemeral"])).is_some();
        match volume {
            Some(v) if !claimed(v) => name.wrong("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode", out),
            Some(_) => {}
            None => name.not_found(name.text(), out),
        }
        if place.text().is_empty() {
            place.required("", out);
        }
        if places.contains(place.text()) {
            place.wrong("must be unique", out);
        }
        let mut back = Vec::new();
        no_backsteps(&place, &mut back);
        if back.is_empty() {
            places.insert(place.text());
        } else {
            place.wrong("can not contain backsteps ('..')", out);
        }
        if mounts.iter().any(|(n, _)| *n == name.text()) {
            name.wrong("must not already exist in volumeMounts", out);
        }
        if mounts.iter().any(|(_, p)| *p == place.text()) {
            place.wrong("must not already exist as a path in volumeMounts", out);
        }
        if !name.text().is_empty() {
            names.insert(name.text());
        }
    }
}
