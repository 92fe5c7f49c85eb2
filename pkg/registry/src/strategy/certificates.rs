//! CertificateSigningRequests: what is asked stays as it was asked; approving and signing are
//! apart.

use serde_json::{Value, json};

use super::{
    Strategy,
    generic::{Generic, keep},
};
use crate::{
    error::FieldError,
    names::{self, NameRule},
    object::{self, Object},
};

/// The strategy of CertificateSigningRequests.
pub(super) struct Requests {
    pub(super) inner: Generic,
}

const USAGES: [&str; 23] = [
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection",
    "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
];

const CONDITIONS: &[&str] = &["status", "conditions"];

fn of_type<'v>(v: &'v Value, kind: &str) -> Vec<&'v Value> {
    v.list_at(CONDITIONS).iter().filter(|c| c.str_at(&["type"]) == kind).collect()
}

/// Fills in the times of conditions; one that is still the same has been so since then.
fn timestamps(obj: &mut Value, old: &Value) {
    let now = object::now();
    let mut all = obj.list_at(CONDITIONS).to_vec();
    for c in &mut all {
        if c.str_at(&["lastUpdateTime"]).is_empty() {
            c["lastUpdateTime"] = json!(now);
        }
        if c.str_at(&["lastTransitionTime"]).is_empty() {
            let before = old.list_at(CONDITIONS).iter().find(|o| o["type"] == c["type"] && o["status"] == c["status"]);
            let since = before.map(|o| o.str_at(&["lastTransitionTime"])).filter(|t| !t.is_empty());
            c["lastTransitionTime"] = json!(since.unwrap_or(&now));
        }
    }
    if !all.is_empty() {
        obj.set_at(CONDITIONS, Value::Array(all));
    }
}

/// `domain/name`, the domain a fully qualified one.
pub(super) fn signer(name: &str, field: &str, out: &mut Vec<FieldError>) {
    if name.is_empty() {
        out.push(FieldError::required(field, ""));
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts.as_slice() else {
        out.push(FieldError::invalid(field, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"));
        return;
    };
    if domain.len() > 253 {
        out.push(FieldError::too_long(field, 253));
    }
    // The first label that is wrong speaks for all.
    let mut labels = |text: &str, check: fn(&str) -> Vec<String>| {
        if let Some((label, wrong)) = text.split('.').map(|l| (l, check(l))).find(|(_, w)| !w.is_empty()) {
            out.extend(wrong.into_iter().map(|why| FieldError::invalid(field, text, format!("validating label {label:?}: {why}"))));
        }
    };
    labels(domain, names::label);
    labels(path, names::subdomain);
    if domain.split('.').count() < 2 {
        out.push(FieldError::invalid(field, *domain, "should be a domain with at least two segments separated by dots"));
    }
    if path.len() > 317 {
        out.push(FieldError::too_long(field, 317));
    }
}

fn conditions(obj: &Value, out: &mut Vec<FieldError>) {
    let path = "status.conditions";
    let mut seen: Vec<&str> = Vec::new();
    for (i, c) in obj.list_at(CONDITIONS).iter().enumerate() {
        let (kind, status) = (c.str_at(&["type"]), c.str_at(&["status"]));
        if kind.is_empty() {
            out.push(FieldError::required(format!("{path}[{i}].type"), ""));
        }
        let allowed: &[&str] = if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["True", "False", "Unknown"] };
        if status.is_empty() {
            out.push(FieldError::required(format!("{path}[{i}].status"), ""));
        } else if !allowed.contains(&status) {
            out.push(FieldError::not_supported(format!("{path}[{i}].status"), status, allowed));
        }
        let other = if kind == "Approved" { "Denied" } else { "Approved" };
        if matches!(kind, "Approved" | "Denied") && seen.contains(&other) {
            out.push(FieldError::invalid(path, kind, "Approved and Denied conditions are mutually exclusive"));
        }
        if seen.contains(&kind) {
            out.push(FieldError::duplicate(format!("{path}[{i}].type"), kind));
        }
        seen.push(kind);
    }
}

impl Strategy for Requests {
    fn names(&self) -> NameRule {
        self.inner.names()
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        keep(obj, old, "spec");
        keep(obj, old, "status");
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        keep(obj, old, "spec");
        if sub == "approval" {
            timestamps(obj, old);
            let new = obj.at(CONDITIONS).cloned();
            keep(obj, old, "status");
            match new {
                Some(c) => obj.set_at(CONDITIONS, c),
                None => {
                    obj.take_at(CONDITIONS);
                }
            }
            return;
        }
        // Decisions are not the signer's to touch.
        let mut all = obj.list_at(CONDITIONS).to_vec();
        for kind in ["Approved", "Denied"] {
            let before = of_type(old, kind);
            if before.len() == of_type(obj, kind).len() {
                let mine = all.iter_mut().filter(|c| c.str_at(&["type"]) == kind);
                mine.zip(before).for_each(|(c, o)| *c = o.clone());
            }
        }
        if !all.is_empty() {
            obj.set_at(CONDITIONS, Value::Array(all));
        }
        timestamps(obj, old);
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let usages = obj.list_at(&["spec", "usages"]);
        if usages.is_empty() {
            out.push(FieldError::required("spec.usages", ""));
        }
        for (i, u) in usages.iter().enumerate() {
            let u = u.as_str().unwrap_or("");
            if !USAGES.contains(&u) {
                out.push(FieldError::not_supported(format!("spec.usages[{i}]"), u, &USAGES));
            }
            if usages.iter().take(i).any(|o| o == u) {
                out.push(FieldError::duplicate(format!("spec.usages[{i}]"), u));
            }
        }
        match obj.str_at(&["spec", "signerName"]) {
            s @ "kubernetes.io/legacy-unknown" => out.push(FieldError::invalid("spec.signerName", s, "the legacy signerName is not allowed via this API version")),
            s => signer(s, "spec.signerName", &mut out),
        }
        if let Some(n) = obj.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64).filter(|n| *n < 600) {
            out.push(FieldError::invalid("spec.expirationSeconds", n, "may not specify a duration less than 600 seconds (10 minutes)"));
        }
        out
    }
    fn validate_update(&self, _obj: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }
    fn validate_subresource(&self, sub: &str, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        conditions(obj, &mut out);
        for kind in ["Approved", "Denied", "Failed"] {
            if of_type(obj, kind).len() < of_type(old, kind).len() {
                out.push(FieldError::forbidden("status.conditions", format!("updates may not remove a condition of type {kind:?}")));
            }
            if sub != "approval" && kind != "Failed" && of_type(obj, kind).len() > of_type(old, kind).len() {
                out.push(FieldError::forbidden("status.conditions", format!("updates may not add a condition of type {kind:?}")));
            }
        }
        let (new, before) = (obj.str_at(&["status", "certificate"]), old.str_at(&["status", "certificate"]));
        if sub == "status" && new != before && !before.is_empty() {
            out.push(FieldError::forbidden("status.certificate", "updates may not modify existing certificate content"));
        }
        out
    }
}
