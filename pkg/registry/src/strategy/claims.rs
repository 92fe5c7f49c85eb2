//! Persistent volumes and the claims on them.

use knarr_schema::quantity::Quantity;
use serde_json::{Value, json};

use super::{
    Strategy,
    at::At,
    fields::Check::{Label, OneOf, Required, Selector, Subdomain},
    diff,
    generic::Generic,
    names_of_nodes, pod,
    sources::{self, KINDS, TWO},
};
use crate::{error::FieldError, names, object::Object};

const ACCESS: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const IMMUTABLE: &str = "field is immutable";

fn access(at: &At, out: &mut Vec<FieldError>) {
    let (mut alone, mut others) = (false, false);
    for mode in at.items() {
        if !ACCESS.contains(&mode.text()) {
            at.with(mode.value).unsupported(&ACCESS, out);
        } else if mode.text() == "ReadWriteOncePod" {
            alone = true;
        } else {
            others = true;
        }
    }
    if alone && others {
        at.forbidden("may not use ReadWriteOncePod with other access modes", out);
    }
}

/// A quantity that is more than nothing.
fn positive(text: &str, at: &At, out: &mut Vec<FieldError>) {
    if Quantity::parse(text).is_ok_and(|q| q.sign() <= 0) {
        at.invalid(text, "must be greater than zero", out);
    }
}

/// A template of claims, in a pod's volume.
pub(super) fn template(t: &At, out: &mut Vec<FieldError>) {
    let meta = t.get("metadata");
    names::annotations(meta.value.get("annotations"), &meta.get("annotations").to_string(), out);
    out.extend(names::labels(meta.value.get("labels"), &meta.get("labels").to_string()));
    for (k, v) in meta.value.as_object().into_iter().flatten() {
        if !matches!(k.as_str(), "annotations" | "labels") && !v.is_null() && v != "" {
            meta.get(k).forbidden("cannot be set", out);
        }
    }
    claim(&t.get("spec"), false, out);
}

/// The spec of a claim of a template.
pub(super) fn spec(spec: &At, out: &mut Vec<FieldError>) {
    claim(spec, false, out);
}

/// The spec of a claim; `lax` where its sources' groups were wrong before.
fn claim(spec: &At, lax: bool, out: &mut Vec<FieldError>) {
    let modes = spec.get("accessModes");
    if modes.list().is_empty() {
        modes.required("at least 1 access mode is required", out);
    }
    spec.get("selector").check(&[Selector], out);
    access(&modes, out);
    let resources = spec.get("resources");
    let storage = resources.key("storage");
    match spec.get("resources.requests").value.get("storage").and_then(Value::as_str) {
        None => storage.required("", out),
        Some(text) => positive(text, &storage, out),
    }
    if !spec.get("storageClassName").text().is_empty() {
        spec.get("storageClassName").check(&[Subdomain], out);
    }
    spec.get("volumeMode").check(&[OneOf(&["Block", "Filesystem"])], out);
    let (old, new) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for source in [&old, &new] {
        if !source.there() {
            continue;
        }
        source.get("name").check(&[Required("")], out);
        source.get("kind").check(&[Required("")], out);
        let group = source.get("apiGroup");
        if group.text().is_empty() {
            if source.get("kind").text() != "PersistentVolumeClaim" {
                source.invalid(source.get("kind").text(), "must be 'PersistentVolumeClaim' when referencing the default apiGroup", out);
            }
        } else if !lax {
            group.check(&[Subdomain], out);
        }
    }
    let namespace = new.get("namespace");
    if !namespace.text().is_empty() {
        namespace.check(&[Label], out);
    }
    if old.there() && new.there() {
        let same = ["apiGroup", "kind", "name"].iter().all(|f| old.get(f).value == new.get(f).value);
        let why = match (namespace.text().is_empty(), same) {
            (false, _) => Some("may not be specified when dataSourceRef.namespace is specified"),
            (true, false) => Some("must match dataSourceRef"),
            _ => None,
        };
        if let Some(why) = why {
            spec.invalid(json!({}), why, out);
        }
    }
    if !spec.get("volumeAttributesClassName").text().is_empty() {
        spec.get("volumeAttributesClassName").check(&[Subdomain], out);
    }
}

/// What of a claim's spec was changed and may not be.
fn claim_update(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let (mut new, before) = (obj["spec"].clone(), &old["spec"]);
    let mut may = |path: &[&str]| match before.at(path) {
        Some(v) => new.set_at(path, v.clone()),
        None => {
            new.take_at(path);
        }
    };
    if before.str_at(&["volumeName"]).is_empty() {
        may(&["volumeName"]);
    }
    let class = |v: &Value| v.at(&["metadata", "annotations", CLASS]).cloned();
    let unnamed = before.at(&["storageClassName"]).is_none();
    let named = obj.at(&["spec", "storageClassName"]);
    // A class that an annotation named may be named by the field instead.
    let upgraded = unnamed && named.is_some() && class(old).as_ref() == named && class(obj).is_none_or(|c| Some(&c) == named);
    if upgraded || (unnamed && named.is_some() && class(old).is_none_or(|c| Some(&c) == named)) {
        may(&["storageClassName"]);
    }
    if !upgraded && class(obj) != class(old) {
        let at = format!("metadata.annotations.{CLASS}");
        out.push(FieldError::invalid(at, class(obj).unwrap_or_else(|| "".into()), IMMUTABLE));
    }
    if obj.str_at(&["status", "phase"]) == "Bound" {
        may(&["resources", "requests", "storage"]);
        may(&["volumeAttributesClassName"]);
    }
    if new != *before {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        out.push(FieldError::forbidden("spec", format!("{why}\n{}", diff::unified(before, &new))));
    }
    let size = |v: &Value, path: &[&str]| Quantity::parse(v.str_at(path)).unwrap_or(Quantity::ZERO);
    let request = &["spec", "resources", "requests", "storage"];
    if size(obj, request) < size(old, request) && size(obj, request) <= size(old, &["status", "capacity", "storage"]) {
        out.push(FieldError::forbidden(request.join("."), "field can not be less than status.capacity"));
    }
    immutable(obj, old, out);
    let attributes = &["spec", "volumeAttributesClassName"];
    if obj.at(attributes) != old.at(attributes) && old.at(&["status", "currentVolumeAttributesClassName"]).is_some() {
        match obj.at(attributes).and_then(Value::as_str) {
            None => out.push(FieldError::forbidden(attributes.join("."), "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")),
            Some("") => out.push(FieldError::forbidden(attributes.join("."), "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")),
            Some(_) => {}
        }
    }
}

fn immutable(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let mode = |v: &Value| v.at(&["spec", "volumeMode"]).cloned();
    if mode(obj) != mode(old) {
        out.push(FieldError::invalid("volumeMode", mode(obj).unwrap_or_default(), IMMUTABLE));
    }
}

/// The spec of a persistent volume.
fn volume(spec: &At, name: &str, out: &mut Vec<FieldError>) {
    if spec.get("accessModes").list().is_empty() {
        spec.get("accessModes").required("", out);
    }
    access(&spec.get("accessModes"), out);
    let capacity = spec.get("capacity");
    let sizes = capacity.value.as_object().map_or(0, serde_json::Map::len);
    if sizes == 0 {
        capacity.required("", out);
    }
    if sizes > 1 || capacity.value.get("storage").is_none() {
        out.push(FieldError::not_supported(capacity.to_string(), capacity.value.clone(), &["storage"]));
    }
    for (_, size) in capacity.entries() {
        if let Some(q) = Quantity::parse(size.text()).ok().filter(|q| q.value() < 0) {
            size.invalid(q.value(), "must be a valid resource quantity", out);
        }
        positive(size.text(), &size, out);
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !policy.text().is_empty() {
        policy.one_of(&["Delete", "Recycle", "Retain"], out);
    }
    let affinity = spec.get("nodeAffinity");
    if affinity.there() {
        let required = affinity.get("required");
        if required.there() {
            pod::node_selector(&required, out);
        } else {
            required.required("must specify required node constraints", out);
        }
    }
    kinds(spec, name, out);
    if sources::is_root(spec.value) && policy.text() == "Recycle" {
        policy.forbidden("may not be 'recycle' for a hostPath mount of '/'", out);
    }
    if !spec.get("storageClassName").text().is_empty() {
        spec.get("storageClassName").check(&[Subdomain], out);
    }
    spec.get("volumeMode").check(&[OneOf(&["Block", "Filesystem"])], out);
    let attributes = spec.get("volumeAttributesClassName");
    if attributes.there() {
        attributes.check(&[Required("an empty string is disallowed"), Subdomain], out);
        if !spec.get("csi").there() {
            spec.get("csi").required("has to be specified when using volumeAttributesClassName", out);
        }
    }
}

fn kinds(spec: &At, name: &str, out: &mut Vec<FieldError>) {
    let mut any = false;
    for kind in KINDS {
        if !spec.get(kind.field).there() {
            continue;
        }
        if any && kind.field != "flexVolume" {
            spec.get(if kind.field == "cephfs" { "cephFS" } else { kind.field }).forbidden(TWO, out);
            continue;
        }
        any = true;
        kind.check(spec, out);
        let at = spec.get(kind.field);
        if kind.field == "local" && !spec.get("nodeAffinity").there() {
            spec.get("nodeAffinity").required("Local volume requires node affinity", out);
        }
        if kind.field == "iscsi" && at.get("initiatorName").there() && name.len() + 1 + at.get("targetPortal").text().len() > 64 {
            at.get("targetportal").invalid(at.get("targetPortal").text(), "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.", out);
        }
        if matches!(kind.field, "cinder" | "storageos") && at.get("secretRef").there() {
            at.get("secretRef.namespace").check(&[Required("")], out);
        }
    }
    let csi = spec.get("csi");
    if csi.there() {
        if any {
            csi.forbidden(TWO, out);
        } else {
            any = true;
            sources::persistent_driver(&csi, out);
        }
    }
    if !any {
        spec.required("must specify a volume type", out);
    }
}

fn volume_update(obj: &Value, old: &Value, out: &mut Vec<FieldError>) {
    let source = |v: &Value| -> Value {
        let spec = &v["spec"];
        let mut source: serde_json::Map<String, Value> = sources::named(spec).map(|k| (k.to_owned(), spec[k].clone())).collect();
        // A secret to grow it may be given later.
        if old.at(&["spec", "csi", "controllerExpandSecretRef"]).is_none()
            && let Some(Value::Object(csi)) = source.get_mut("csi")
        {
            csi.remove("controllerExpandSecretRef");
        }
        Value::Object(source)
    };
    let (now, before) = (source(obj), source(old));
    if now != before {
        let why = "spec.persistentvolumesource is immutable after creation";
        out.push(FieldError::forbidden("spec.persistentvolumesource", format!("{why}\n{}", diff::unified(&before, &now))));
    }
    immutable(obj, old, out);
    let affinity = |v: &Value| v.at(&["spec", "nodeAffinity"]).cloned();
    if affinity(old).is_some_and(|o| !affinity(obj).is_some_and(|n| same_but_newer(&n, &o))) {
        out.push(FieldError::invalid("nodeAffinity", affinity(obj).unwrap_or_default(), format!("{IMMUTABLE}, except for updating from beta label to GA")));
    }
    let attributes = &["spec", "volumeAttributesClassName"];
    if old.at(attributes).is_some() && obj.at(attributes).is_none() {
        out.push(FieldError::forbidden(attributes.join("."), "update from non-nil value to nil is forbidden"));
    }
}

/// Labels that have a newer name.
const NEWER: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

fn same_but_newer(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(n), Value::Object(o)) => n.len() == o.len() && o.iter().all(|(k, v)| n.get(k).is_some_and(|x| same_but_newer(x, v))),
        (Value::Array(n), Value::Array(o)) => n.len() == o.len() && n.iter().zip(o).all(|(x, v)| same_but_newer(x, v)),
        (Value::String(n), Value::String(o)) => n == o || NEWER.contains(&(o.as_str(), n.as_str())),
        _ => new == old,
    }
}

/// The old field knows claims and snapshots only; others are dropped as they always were.
fn known_source(obj: &mut Value) {
    let source = |f: &str| obj.str_at(&["spec", "dataSource", f]);
    if !matches!((source("kind"), source("apiGroup")), ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")) {
        obj.take_at(&["spec", "dataSource"]);
    }
}

/// What a claim is filled from is said in an old field and in a new one.
fn sources_of(obj: &mut Value) {
    let (old, new) = (obj.at(&["spec", "dataSource"]).cloned(), obj.at(&["spec", "dataSourceRef"]).cloned());
    match (old, new) {
        (Some(old), None) => {
            obj.set_at(&["spec", "dataSourceRef"], old);
        }
        (None, Some(new)) if new.str_at(&["namespace"]).is_empty() => {
            obj.set_at(&["spec", "dataSource"], new);
        }
        _ => {}
    }
}

const ODD_ANNOTATIONS: [(&str, &str); 2] = [
    (CLASS, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];
const ODD_KINDS: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// What is odd about a claim's spec.
pub(super) fn warnings(spec: &At, out: &mut Vec<String>) {
    for side in ["resources.requests", "resources.limits"] {
        let map = spec.get(side);
        let at = map.key("storage");
        if Quantity::parse(at.text()).is_ok_and(|q| q.milli_value() % 1000 != 0) {
            out.push(format!("{at}: fractional byte value {:?} is invalid, must be an integer", at.text()));
        }
    }
}

fn odd(root: &At, claims: bool, out: &mut Vec<String>) {
    let (annotations, spec) = (root.get("metadata.annotations"), root.get("spec"));
    for (key, why) in &ODD_ANNOTATIONS[..if claims { 1 } else { 2 }] {
        if annotations.value.get(key).is_some() {
            out.push(format!("{}: {why}", annotations.key(key)));
        }
    }
    if claims {
        return warnings(&spec, out);
    }
    if spec.get("persistentVolumeReclaimPolicy").text() == "Recycle" {
        out.push(format!("{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.", spec.get("persistentVolumeReclaimPolicy")));
    }
    for term in spec.get("nodeAffinity.required.nodeSelectorTerms").items() {
        names_of_nodes::in_term(&term, false, out);
    }
    for (field, shown, why) in ODD_KINDS {
        if spec.get(field).there() {
            out.push(format!("{}: {why}", spec.get(shown)));
        }
    }
}

/// Volumes, or claims: their status begins with a phase.
pub struct Volumes {
    pub(super) claims: bool,
    pub(super) inner: Generic,
}

impl Strategy for Volumes {
    fn prepare_create(&self, obj: &mut Value) {
        obj.set_at(&["status"], json!({"phase": "Pending"}));
        if self.claims {
            known_source(obj);
            sources_of(obj);
        } else {
            obj.set_at(&["status", "lastPhaseTransitionTime"], json!(crate::object::now()));
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
        if self.claims {
            if old.at(&["spec", "dataSource"]).is_none() {
                known_source(obj);
            }
            sources_of(obj);
        }
    }
    fn returns_deleted(&self) -> bool {
        true
    }
    fn warnings(&self, obj: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        odd(&At::top(obj, ""), self.claims, &mut out);
        out
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let root = At::top(obj, "");
        if self.claims {
            claim(&root.get("spec"), false, &mut out);
        } else {
            volume(&root.get("spec"), obj.name(), &mut out);
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if self.claims {
            let lax = ["dataSource", "dataSourceRef"].iter().any(|f| old.at(&["spec", f, "apiGroup"]).is_some());
            claim(&At::top(obj, "").get("spec"), lax, &mut out);
            claim_update(obj, old, &mut out);
        } else {
            out = self.validate(obj);
            volume_update(obj, old, &mut out);
        }
        out
    }
}
