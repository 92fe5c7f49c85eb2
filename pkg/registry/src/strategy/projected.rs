//! Projected volumes: where their files come from, and what they are called.

use serde_json::Value;

use super::certificates;
use crate::{error::FieldError, object::Object};

/// The longest life of a certificate, by a signer of Kubernetes' own and by others, seconds.
const LONGEST: (i64, i64) = (24 * 3600, 91 * 24 * 3600);
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// A path inside the volume that no other file of it has, and that the kubelet does not use itself.
fn file(text: &str, field: &str, volume: &str, seen: &mut Vec<String>, out: &mut Vec<FieldError>) {
    let mut bad = |why: &str| out.push(FieldError::invalid(field, text, why));
    if text.starts_with('/') {
        bad("must be a relative path");
    }
    if text.split('/').any(|p| p == "..") {
        bad("must not contain '..'");
    }
    if text.starts_with("..") && !text.starts_with("../") {
        bad("must not start with '..'");
    }
    once(text, volume, text, seen, out);
}

fn once(path: &str, volume: &str, shown: &str, seen: &mut Vec<String>, out: &mut Vec<FieldError>) {
    if path.is_empty() {
        return;
    }
    if seen.iter().any(|s| s == path) {
        out.push(FieldError::invalid(volume, shown, "conflicting duplicate paths"));
    } else {
        seen.push(path.to_owned());
    }
}

fn token(t: &Value, at: &str, volume: &str, out: &mut Vec<FieldError>) {
    let field = format!("{at}.expirationSeconds");
    match t.at(&["expirationSeconds"]).and_then(Value::as_i64) {
        None => {}
        Some(n) if n < 600 => out.push(FieldError::invalid(field, n, "may not specify a duration less than 10 minutes")),
        Some(n) if n > 1 << 32 => out.push(FieldError::invalid(field, n, "may not specify a duration larger than 2^32 seconds")),
        Some(_) => {}
    }
    if t.str_at(&["path"]).is_empty() {
        out.push(FieldError::required(format!("{volume}.path"), ""));
    }
}

fn bundle(b: &Value, at: &str, volume: &str, seen: &mut Vec<String>, out: &mut Vec<FieldError>) {
    let (name, signer) = (b.at(&["name"]).and_then(Value::as_str), b.at(&["signerName"]).and_then(Value::as_str));
    match (name, signer) {
        (Some(_), Some(_)) => out.push(FieldError::invalid(at, b.clone(), "only one of name and signerName may be used")),
        (None, None) => out.push(FieldError::required(at, "either name or signerName must be specified")),
        (Some(n), None) => {
            if n.is_empty() {
                out.push(FieldError::required(format!("{at}.name"), "must be a valid object name"));
            }
            if let Some(s) = b.at(&["labelSelector"]) {
                out.push(FieldError::invalid(format!("{at}.labelSelector"), s.clone(), "labelSelector must be unset if name is specified"));
            }
        }
        (None, Some(s)) => {
            if s.is_empty() {
                out.push(FieldError::required(format!("{at}.signerName"), "must be a valid signer name"));
            }
            certificates::signer(s, &format!("{at}.signerName"), out);
        }
    }
    let path = b.str_at(&["path"]);
    if path.is_empty() {
        out.push(FieldError::required(format!("{at}.path"), ""));
    }
    file(path, &format!("{at}.path"), volume, seen, out);
}

fn certificate(c: &Value, at: &str, volume: &str, seen: &mut Vec<String>, out: &mut Vec<FieldError>) {
    let signer = c.str_at(&["signerName"]);
    certificates::signer(signer, &format!("{at}.signerName"), out);
    let key = c.str_at(&["keyType"]);
    if !KEY_TYPES.contains(&key) {
        out.push(FieldError::not_supported(format!("{at}.keyType"), key, &KEY_TYPES));
    }
    if let Some(n) = c.at(&["maxExpirationSeconds"]).and_then(Value::as_i64) {
        let field = format!("{at}.maxExpirationSeconds");
        let domain = signer.split('/').next().unwrap_or("");
        let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        let most = if own { LONGEST.0 } else { LONGEST.1 };
        if n < 3600 {
            out.push(FieldError::invalid(field, n, "if provided, maxExpirationSeconds must be >= 3600"));
        } else if n > most {
            out.push(FieldError::invalid(field, n, format!("if provided, maxExpirationSeconds must be <= {most}")));
        }
    }
    let mut any = false;
    for f in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = c.str_at(&[f]);
        if !path.is_empty() {
            any = true;
            file(path, &format!("{at}.{f}"), volume, seen, out);
        }
    }
    if !any {
        out.push(FieldError::required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
}

/// Everything wrong with a projected volume at `volume`, its path in the pod.
pub(super) fn validate(projected: &Value, volume: &str, out: &mut Vec<FieldError>) {
    if let Some(n) = projected.at(&["defaultMode"]).and_then(Value::as_i64).filter(|n| !(0..=0o777).contains(n)) {
        out.push(FieldError::invalid(format!("{volume}.defaultMode"), n, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
    let mut seen = Vec::new();
    for (i, s) in projected.list_at(&["sources"]).iter().enumerate() {
        let at = |kind: &str| format!("{volume}.sources[{i}].{kind}");
        for kind in ["secret", "configMap"] {
            let Some(x) = s.at(&[kind]) else { continue };
            let name = x.str_at(&["name"]);
            if name.is_empty() {
                out.push(FieldError::required(format!("{}.name", at(kind)), ""));
            }
            for item in x.list_at(&["items"]) {
                once(item.str_at(&["path"]), volume, name, &mut seen, out);
            }
        }
        for item in s.list_at(&["downwardAPI", "items"]) {
            let path = item.str_at(&["path"]);
            once(path, volume, path, &mut seen, out);
        }
        if let Some(t) = s.at(&["serviceAccountToken"]) {
            token(t, &at("serviceAccountToken"), volume, out);
        }
        if let Some(b) = s.at(&["clusterTrustBundle"]) {
            bundle(b, &at("clusterTrustBundle"), volume, &mut seen, out);
        }
        if let Some(c) = s.at(&["podCertificate"]) {
            certificate(c, &at("podCertificate"), volume, &mut seen, out);
        }
    }
}
