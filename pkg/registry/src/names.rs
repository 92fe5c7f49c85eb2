//! Rules for names, labels and annotations, with the sentences Kubernetes uses.

use serde_json::Value;

use crate::{error::FieldError, object::Object};

/// Which names a kind allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain: dots allowed, up to 253.
    #[default]
    Subdomain,
    /// The same, whose length is said in bytes.
    LongName,
    /// A DNS label: no dots, up to 63.
    Label,
    /// A DNS label that begins with a letter.
    Label1035,
    /// Anything that fits in one path segment.
    PathSegment,
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn edges(s: &str) -> bool {
    let ok = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    ok(s.bytes().next()) && ok(s.bytes().last())
}

fn is_label(s: &str) -> bool {
    edges(s) && s.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// What is wrong with a DNS label (RFC 1123).
#[must_use]
pub fn label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 63 {
        out.push("must be no more than 63 characters".into());
    }
    if !is_label(s) {
        out.push(if s.split('.').all(is_label) { "must not contain dots".into() } else { LABEL.into() });
    }
    out
}

/// What is wrong with a DNS subdomain whose first label is `*`.
#[must_use]
pub fn wildcard_subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 253 {
        out.push("must be no more than 253 characters".into());
    }
    if !s.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        out.push(WILDCARD.into());
    }
    out
}

/// What is wrong with a DNS subdomain (RFC 1123).
#[must_use]
pub fn subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 253 {
        out.push("must be no more than 253 characters".into());
    }
    if !s.split('.').all(is_label) {
        out.push(SUBDOMAIN.into());
    }
    out
}

/// The same, where a label may have underscores.
#[must_use]
pub fn subdomain_with_underscores(s: &str) -> Vec<String> {
    let label = |l: &str| {
        let rest = l.strip_prefix('_').unwrap_or(l);
        edges(rest) && rest.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_')
    };
    let mut out = Vec::new();
    if s.len() > 253 {
        out.push("must be no more than 253 characters".into());
    }
    if !s.split('.').all(label) {
        let form = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        let words = SUBDOMAIN.split_once("used for validation is").map_or("", |(w, _)| w);
        let words = words.replace("characters, '-'", "characters, '_', '-'");
        out.push(format!("{words}used for validation is '{form}(\\.{form})*')"));
    }
    out
}

impl NameRule {
    /// What is wrong with a name; with `prefix`, only as the beginning of a generated one.
    #[must_use]
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        // A prefix may end with a dash because letters follow.
        let probe = if prefix && name.ends_with('-') {
            format!("{}a", &name[..name.len() - 1])
        } else {
            name.to_owned()
        };
        match self {
            Self::Subdomain => subdomain(&probe),
            Self::LongName => subdomain(&probe).into_iter().map(|m| m.replace("no more than 253 characters", "no more than 253 bytes")).collect(),
            Self::Label => label(&probe),
            Self::Label1035 => {
                let mut out = Vec::new();
                if probe.len() > 63 {
                    out.push("must be no more than 63 bytes".into());
                }
                if !is_label(&probe) || !probe.starts_with(|c: char| c.is_ascii_lowercase()) {
                    out.push(LABEL1035.into());
                }
                out
            }
            Self::PathSegment => {
                let mut out = Vec::new();
                if matches!(name, "." | "..") && !prefix {
                    out.push(format!("may not be '{name}'"));
                }
                for bad in ["/", "%"] {
                    if name.contains(bad) {
                        out.push(format!("may not contain '{bad}'"));
                    }
                }
                out
            }
        }
    }
}

/// What is wrong with a label key, annotation key or similar.
#[must_use]
pub fn qualified(key: &str) -> Vec<String> {
    knarr_schema::names::qualified_name(key)
}

/// Checks a map of labels.
#[must_use]
pub fn labels(map: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut out = Vec::new();
    for (k, v) in map.and_then(Value::as_object).into_iter().flatten() {
        for m in qualified(k) {
            out.push(FieldError::invalid(path, k.as_str(), m));
        }
        let v = v.as_str().unwrap_or("");
        if v.len() > 63 {
            out.push(FieldError::invalid(path, v, "must be no more than 63 bytes"));
        }
        let ok = |c: Option<u8>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        let all = v.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        if !all || !ok(v.bytes().next()) || !ok(v.bytes().last()) {
            out.push(FieldError::invalid(path, v, LABEL_VALUE));
        }
    }
    out
}

/// Checks a map of annotations.
pub fn annotations(map: Option<&Value>, path: &str, out: &mut Vec<FieldError>) {
    let mut total = 0;
    for (k, v) in map.and_then(Value::as_object).into_iter().flatten() {
        for m in qualified(&k.to_lowercase()) {
            out.push(FieldError::invalid(path, k.as_str(), m));
        }
        total += k.len() + v.as_str().map_or(0, str::len);
    }
    if total > 256 * 1024 {
        out.push(FieldError::too_long(path, 256 * 1024));
    }
}

/// Checks an object's metadata.
#[must_use]
pub fn metadata(obj: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let mut out = Vec::new();
    let generate = obj.str_at(&["metadata", "generateName"]);
    if !generate.is_empty() {
        for m in rule.check(generate, true) {
            out.push(FieldError::invalid("metadata.generateName", generate, m));
        }
    }
    let name = obj.name();
    if name.is_empty() {
        out.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        for m in rule.check(name, false) {
            out.push(FieldError::invalid("metadata.name", name, m));
        }
    }
    let ns = obj.namespace();
    if namespaced {
        if ns.is_empty() {
            out.push(FieldError::required("metadata.namespace", ""));
        } else {
            for m in label(ns) {
                out.push(FieldError::invalid("metadata.namespace", ns, m));
            }
        }
    } else if !ns.is_empty() {
        out.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    out.extend(labels(obj.at(&["metadata", "labels"]), "metadata.labels"));
    annotations(obj.at(&["metadata", "annotations"]), "metadata.annotations", &mut out);
    for (i, r) in obj.list_at(&["metadata", "ownerReferences"]).iter().enumerate() {
        let p = format!("metadata.ownerReferences[{i}]");
        for f in ["apiVersion", "kind", "name", "uid"] {
            if r.str_at(&[f]).is_empty() {
                let detail = if f == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                out.push(FieldError::invalid(format!("{p}.{f}"), "", detail));
            }
        }
    }
    let controllers: Vec<&Value> = obj
        .list_at(&["metadata", "ownerReferences"])
        .iter()
        .filter(|r| r.get("controller") == Some(&Value::Bool(true)))
        .collect();
    if let [a, b, ..] = controllers.as_slice() {
        out.push(FieldError::invalid(
            "metadata.ownerReferences",
            Value::Array(obj.list_at(&["metadata", "ownerReferences"]).to_vec()),
            format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                a.str_at(&["name"]), b.str_at(&["name"])
            ),
        ));
    }
    for f in obj.finalizers() {
        for m in qualified(&f) {
            out.push(FieldError::invalid("metadata.finalizers", f.as_str(), m));
        }
    }
    out
}

/// Checks what an update may not change in metadata.
#[must_use]
pub fn metadata_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    for f in ["name", "namespace", "uid", "creationTimestamp"] {
        let (n, o) = (new.at(&["metadata", f]), old.at(&["metadata", f]));
        if n != o {
            out.push(FieldError::invalid(
                format!("metadata.{f}"),
                n.cloned().unwrap_or_default(),
                "field is immutable",
            ));
        }
    }
    if old.deleting() {
        let before = old.finalizers();
        let added: Vec<String> =
            new.finalizers().into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            out.push(FieldError::forbidden(
                "metadata.finalizers",
                format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}").replace("\", \"", "\",\""),
            ));
        }
    }
    out
}
