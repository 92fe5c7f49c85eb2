//! What a volume is, in pods and in persistent volumes: one table of kinds, in the order in which
//! they are looked at.

use serde_json::Value;

use super::{
    at::{At, range},
    fields::Check::{self, Bytes, Custom, Label, OneOf, Required},
};
use crate::{
    error::FieldError,
    names,
    object::Object,
};

/// A field of a kind of volume, and what it must be.
type Rule = (&'static str, &'static [Check]);

/// A kind: its field, the name that errors give what is in it, its rules, and what no rule says.
pub(super) struct Kind {
    pub field: &'static str,
    shown: &'static str,
    rules: &'static [Rule],
    more: Option<fn(&At, &mut Vec<FieldError>)>,
}

const NEEDED: &[Check] = &[Required("")];
pub(super) const TWO: &str = "may not specify more than 1 volume type";

const fn kind(field: &'static str, rules: &'static [Rule]) -> Kind {
    Kind { field, shown: field, rules, more: None }
}
const fn special(field: &'static str, rules: &'static [Rule], more: fn(&At, &mut Vec<FieldError>)) -> Kind {
    Kind { field, shown: field, rules, more: Some(more) }
}

/// The kinds whose checks are the same everywhere.
pub(super) static KINDS: &[Kind] = &[
    special("hostPath", &[], host_path),
    special("gitRepo", &[("repository", NEEDED)], |v, out| super::pod::descending(&v.get("directory"), out)),
    Kind { field: "gcePersistentDisk", shown: "persistentDisk", rules: &[("pdName", NEEDED), ("partition", &[Custom(partition)])], more: None },
    kind("awsElasticBlockStore", &[("volumeID", NEEDED), ("partition", &[Custom(partition)])]),
    special("nfs", &[("server", NEEDED), ("path", NEEDED)], |v, out| {
        if !v.get("path").text().starts_with('/') {
            v.get("path").invalid(v.get("path").text(), "must be an absolute path", out);
        }
    }),
    special("iscsi", &[("targetPortal", NEEDED)], iscsi),
    special("glusterfs", &[("endpoints", NEEDED), ("path", NEEDED)], |v, out| {
        let ns = v.get("endpointsNamespace");
        match ns.text() {
            _ if !ns.there() => {}
            "" => ns.wrong("if the endpointnamespace is set, it must be a valid namespace name", out),
            _ => ns.check(&[Label], out),
        }
    }),
    special("flocker", &[], flocker),
    kind("persistentVolumeClaim", &[("claimName", NEEDED)]),
    kind("rbd", &[("monitors", NEEDED), ("image", NEEDED)]),
    kind("cinder", &[("volumeID", NEEDED), ("secretRef.name", NEEDED)]),
    kind("cephfs", &[("monitors", NEEDED)]),
    special("quobyte", &[], quobyte),
    special("fc", &[], fibre),
    special("flexVolume", &[("driver", NEEDED)], |v, out| {
        for (k, _) in v.get("options").entries() {
            let namespace = format!(".{}", k.split_once('/').map_or(k, |(n, _)| n).to_lowercase());
            if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
                v.get("options").key(k).invalid(k, "kubernetes.io and k8s.io namespaces are reserved", out);
            }
        }
    }),
    special("azureFile", &[("secretName", NEEDED), ("shareName", NEEDED)], |v, out| {
        if v.get("secretNamespace").there() {
            v.get("secretNamespace").check(NEEDED, out);
        }
    }),
    kind("vsphereVolume", &[("volumePath", NEEDED)]),
    kind("photonPersistentDisk", &[("pdID", NEEDED)]),
    kind("portworxVolume", &[("volumeID", NEEDED)]),
    special("azureDisk", &[("diskName", NEEDED), ("diskURI", NEEDED), ("cachingMode", &[OneOf(&["None", "ReadOnly", "ReadWrite"])]), ("kind", &[OneOf(&["Dedicated", "Managed", "Shared"])])], azure),
    kind("scaleIO", &[("gateway", NEEDED), ("system", NEEDED), ("volumeName", NEEDED)]),
    special("local", &[("path", NEEDED)], |v, out| super::pod::no_backsteps(&v.get("path"), out)),
    special("storageos", &[("volumeName", &[Required(""), Label]), ("secretRef.name", NEEDED)], |v, out| {
        if !v.get("volumeNamespace").text().is_empty() {
            v.get("volumeNamespace").check(&[Label], out);
        }
    }),
];

impl Kind {
    /// Everything wrong with what is in the field of `volume`.
    pub fn check(&self, volume: &At, out: &mut Vec<FieldError>) {
        let inside = volume.get(self.field);
        let shown = volume.get(self.shown).with(inside.value);
        for (path, checks) in self.rules {
            let above = path.rsplit_once('.').map_or(shown, |(up, _)| shown.get(up).with(shown.get(up).value)).there();
            if above {
                shown.get(path).check(checks, out);
            }
        }
        if let Some(more) = self.more {
            more(&shown, out);
        }
    }
}

fn partition(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_i64().is_some_and(|n| !(0..=255).contains(&n)) {
        out.push(FieldError::invalid(at, v.clone(), range(1, 255)));
    }
}

fn host_path(v: &At, out: &mut Vec<FieldError>) {
    let path = v.get("path");
    if path.text().is_empty() {
        return path.required("", out);
    }
    super::pod::no_backsteps(&path, out);
    if v.get("type").there() {
        v.get("type").one_of(&["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"], out);
    }
}

/// An initiator's or target's qualified name.
fn qualified(text: &str) -> bool {
    let hex = |t: &str, lengths: &[usize]| lengths.contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(rest) = text.strip_prefix("iqn.") {
        let mut parts = rest.splitn(3, ['-', '.']);
        let (year, month, domain) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let digits = |t: &str, n: usize| t.len() == n && t.bytes().all(|b| b.is_ascii_digit());
        return digits(year, 4) && digits(month, 2) && !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
    }
    match (text.strip_prefix("eui."), text.strip_prefix("naa.")) {
        (Some(rest), _) => hex(rest, &[16]),
        (_, Some(rest)) => hex(rest, &[16, 32]),
        _ => false,
    }
}

fn iscsi(v: &At, out: &mut Vec<FieldError>) {
    let check = |at: &At, out: &mut Vec<FieldError>| {
        if !["iqn", "eui", "naa"].iter().any(|p| at.text().starts_with(p)) {
            at.wrong("must be valid format starting with iqn, eui, or naa", out);
        } else if !qualified(at.text()) {
            at.wrong("must be valid format", out);
        }
    };
    let target = v.get("iqn");
    if target.text().is_empty() {
        target.required("", out);
    } else {
        check(&target, out);
    }
    let lun = v.get("lun");
    if lun.int().is_some_and(|n| !(0..=255).contains(&n)) {
        lun.wrong(range(0, 255), out);
    }
    if (v.get("chapAuthDiscovery").yes() || v.get("chapAuthSession").yes()) && !v.get("secretRef").there() {
        v.get("secretRef").required("", out);
    }
    let initiator = v.get("initiatorName");
    if initiator.there() {
        check(&v.get("initiatorname").with(initiator.value), out);
    }
}

fn flocker(v: &At, out: &mut Vec<FieldError>) {
    let (name, id) = (v.get("datasetName"), v.get("datasetUUID"));
    match (name.text().is_empty(), id.text().is_empty()) {
        (true, true) => v.required("one of datasetName and datasetUUID is required", out),
        (false, false) => v.invalid("resource", "datasetName and datasetUUID can not be specified simultaneously", out),
        _ => {}
    }
    if name.text().contains('/') {
        name.wrong("must not contain '/'", out);
    }
}

fn quobyte(v: &At, out: &mut Vec<FieldError>) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = v.get("registry");
    if registry.text().is_empty() {
        registry.required(PAIRS, out);
    } else if v.get("tenant").text().len() >= 65 {
        v.get("tenant").required("must be a UUID and may not exceed a length of 64 characters", out);
    } else {
        let pair = |p: &str| p.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
        registry.text().split(',').filter(|p| !pair(p)).for_each(|_| registry.wrong(PAIRS, out));
    }
    v.get("volume").check(NEEDED, out);
}

fn fibre(v: &At, out: &mut Vec<FieldError>) {
    let (targets, lun) = (v.get("targetWWNs"), v.get("lun"));
    let (some, ids) = (!targets.list().is_empty(), !v.get("wwids").list().is_empty());
    if !some && !ids {
        targets.required("must specify either targetWWNs or wwids, but not both", out);
    }
    if some && ids {
        targets.wrong("targetWWNs and wwids can not be specified simultaneously", out);
    }
    if some {
        match lun.int() {
            None => lun.required("lun is required if targetWWNs is specified", out),
            Some(n) if !(0..=255).contains(&n) => lun.wrong(range(0, 255), out),
            Some(_) => {}
        }
    }
}

fn azure(v: &At, out: &mut Vec<FieldError>) {
    let (kind, uri) = (v.get("kind"), v.get("diskURI"));
    let (begins, form) = match kind.text() {
        _ if !kind.there() => return,
        "Managed" => ("/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"),
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !uri.text().starts_with(begins) {
        uri.unsupported(&[form], out);
    }
}

/// The name of a CSI driver.
pub(super) fn driver(at: &At, out: &mut Vec<FieldError>) {
    at.check(&[Required(""), Bytes(63)], out);
    if !at.text().is_empty() {
        at.wrongs(names::subdomain(&at.text().to_lowercase()), out);
    }
}

/// The CSI source of a persistent volume.
pub(super) fn persistent_driver(v: &At, out: &mut Vec<FieldError>) {
    driver(&v.get("driver"), out);
    v.get("volumeHandle").check(NEEDED, out);
    for f in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        let secret = v.get(f);
        if secret.there() {
            secret.get("name").check(&[Required(""), Check::Subdomain], out);
            secret.get("namespace").check(&[Required(""), Label], out);
        }
    }
}

/// Which members of a persistent volume's spec are kinds.
pub(super) fn is_kind(name: &str) -> bool {
    name == "csi" || KINDS.iter().any(|k| k.field == name)
}

/// The member of a volume that says what it is.
pub(super) fn named(spec: &Value) -> impl Iterator<Item = &str> {
    spec.as_object().into_iter().flatten().filter(|(k, v)| !v.is_null() && is_kind(k)).map(|(k, _)| k.as_str())
}

/// Whether a volume is a path of the host that is the host's root.
pub(super) fn is_root(spec: &Value) -> bool {
    let path = spec.str_at(&["hostPath", "path"]);
    !path.is_empty() && path.bytes().all(|b| b == b'/' || b == b'.') && path.starts_with('/')
}
