//! The volumes of a pod.

use std::collections::HashSet;

use knarr_schema::quantity::Quantity;
use serde_json::Value;

use super::{containers, env, projected, spec::Around};
use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{
        at::At,
        claims,
        fields::Check::{Label, Required},
        sources::{self, KINDS, TWO},
    },
};

pub(super) const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// In which order the kinds are looked at; those of [`KINDS`] as they are there.
const ORDER: [&str; 30] = [
    "emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi", "glusterfs", "flocker", "persistentVolumeClaim", "rbd", "cinder", "cephfs",
    "quobyte", "downwardAPI", "fc", "flexVolume", "configMap", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk", "storageos", "projected", "scaleIO",
    "csi", "ephemeral", "image",
];

/// Everything wrong with the volumes; those in order are given back.
pub(super) fn check<'v>(all: &At<'v, '_>, around: Around<'_>, out: &mut Vec<FieldError>) -> Vec<(&'v str, &'v Value)> {
    let mut good: Vec<(&str, &Value)> = Vec::new();
    let pod = around.meta.str_at(&["name"]);
    let made: HashSet<String> =
        all.list().iter().filter(|v| !pod.is_empty() && v.at(&["ephemeral"]).is_some()).map(|v| format!("{pod}-{}", v.str_at(&["name"]))).collect();
    for v in all.items() {
        let before = out.len();
        source(&v, pod, around, out);
        let name = v.get("name");
        name.check(&[Required(""), Label], out);
        if good.iter().any(|(n, _)| *n == name.text()) {
            name.duplicate(name.text(), out);
        }
        if out.len() == before {
            good.push((name.text(), v.value));
        }
        let claim = v.get("persistentVolumeClaim.claimName");
        if made.contains(claim.text()) {
            claim.wrong("must not reference a PVC that gets created for an ephemeral volume", out);
        }
    }
    good
}

fn source(v: &At, pod: &str, around: Around<'_>, out: &mut Vec<FieldError>) {
    let mut any = false;
    for field in ORDER {
        let at = v.get(field);
        if !at.there() {
            continue;
        }
        if any {
            // As the server it is measured by spells them.
            let shown = match field {
                "downwardAPI" => "downwarAPI",
                "cephfs" => "cephFS",
                other => other,
            };
            v.get(shown).forbidden(TWO, out);
            continue;
        }
        any = true;
        match field {
            "emptyDir" => empty(&at, out),
            "secret" | "configMap" => keys(&at, if field == "secret" { "secretName" } else { "name" }, out),
            "downwardAPI" => {
                modes(&at, out);
                for item in at.get("items").items() {
                    file(&at.with(item.value), out);
                }
            }
            "projected" => projected::check(&at, around, out),
            "csi" => {
                sources::driver(&at.get("driver"), out);
                let secret = at.get("nodePublishSecretRef");
                match secret.get("name").text() {
                    _ if !secret.there() => {}
                    "" => secret.get("name").required("", out),
                    name => at.get("name").with(secret.get("name").value).wrongs(names::subdomain(name), out),
                }
            }
            "ephemeral" => ephemeral(v, &at, pod, out),
            "image" => {
                let empty = |s: &Value| s.list_at(&["volumes"]).iter().any(|v| v.at(&["image"]).is_some_and(|i| i.str_at(&["reference"]).is_empty()));
                if at.get("reference").text().is_empty() && !around.old.is_some_and(empty) {
                    at.get("reference").required("", out);
                }
                containers::pull_policy(&at.get("pullPolicy"), out);
            }
            _ => {
                if let Some(kind) = KINDS.iter().find(|k| k.field == field) {
                    kind.check(v, out);
                }
            }
        }
        if field == "iscsi" && at.get("initiatorName").there() && v.get("name").text().len() + 1 + at.get("targetPortal").text().len() > 64 {
            v.get("name").wrong("Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.", out);
        }
    }
    if !any {
        v.required("must specify a volume type", out);
    }
}

fn empty(at: &At, out: &mut Vec<FieldError>) {
    if Quantity::parse(at.get("sizeLimit").text()).is_ok_and(|q| q.sign() < 0) {
        at.get("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity", out);
    }
    let mode = at.get("mode");
    if mode.int().is_some_and(|n| !(0..=0o1777).contains(&n)) {
        mode.wrong("must be a number between 0 and 01777 (octal), both inclusive", out);
    }
}

fn ephemeral(v: &At, at: &At, pod: &str, out: &mut Vec<FieldError>) {
    let template = at.get("volumeClaimTemplate");
    if template.there() {
        claims::template(&template, out);
    } else {
        template.required("", out);
    }
    let name = v.get("name");
    if !pod.is_empty() && !name.text().is_empty() {
        let claim = format!("{pod}-{}", name.text());
        names::subdomain(&claim).into_iter().for_each(|m| name.wrong(format!("PVC name {claim:?}: {m}"), out));
    }
}

/// The permissions and the owner of a volume's files.
pub(super) fn modes(at: &At, out: &mut Vec<FieldError>) {
    mode(&at.get("defaultMode"), out);
    user(&at.get("defaultUser"), out);
}

fn mode(at: &At, out: &mut Vec<FieldError>) {
    if at.int().is_some_and(|n| !(0..=0o777).contains(&n)) {
        at.wrong(MODE, out);
    }
}

pub(super) fn user(at: &At, out: &mut Vec<FieldError>) {
    super::security::id(at, out);
}

fn keys(at: &At, name: &str, out: &mut Vec<FieldError>) {
    at.get(name).check(&[Required("")], out);
    modes(at, out);
    for item in at.get("items").items() {
        key(&item, out);
    }
}

/// A key and the path of its file.
pub(super) fn key(item: &At, out: &mut Vec<FieldError>) {
    item.get("key").check(&[Required("")], out);
    item.get("path").check(&[Required("")], out);
    local(&item.get("path"), out);
    mode(&item.get("mode"), out);
    user(&item.get("user"), out);
}

/// A file of the downward API.
pub(super) fn file(at: &At, out: &mut Vec<FieldError>) {
    at.get("path").check(&[Required("")], out);
    local(&at.get("path"), out);
    let (field, resource) = (at.get("fieldRef"), at.get("resourceFieldRef"));
    if field.there() {
        env::field(&field, env::FILE_FIELDS, out);
        if resource.there() {
            at.invalid("resource", "fieldRef and resourceFieldRef can not be specified simultaneously", out);
        }
    } else if resource.there() {
        env::resource(&resource, true, out);
    } else {
        at.required("one of fieldRef and resourceFieldRef is required", out);
    }
    mode(&at.get("mode"), out);
    user(&at.get("user"), out);
}

/// A path that leads nowhere up.
pub(in crate::strategy) fn no_backsteps(at: &At, out: &mut Vec<FieldError>) {
    if at.text().split('/').any(|p| p == "..") {
        at.wrong("must not contain '..'", out);
    }
}

/// A relative path that leads nowhere up.
pub(in crate::strategy) fn descending(at: &At, out: &mut Vec<FieldError>) {
    if at.text().starts_with('/') {
        at.wrong("must be a relative path", out);
    }
    no_backsteps(at, out);
}

/// The same, and not one that the kubelet uses itself.
pub(super) fn local(at: &At, out: &mut Vec<FieldError>) {
    descending(at, out);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        at.wrong("must not start with '..'", out);
    }
}
