//! Projected volumes: where their files come from, and what they are called.

use serde_json::Value;

use super::{
    spec::Around,
    volumes::{file, key, local, modes, user},
};
use crate::{
    error::FieldError,
    names,
    object::Object,
    strategy::{
        at::At,
        certificates,
        fields::Check::{Required, Selector},
    },
};

/// The longest life of a certificate, by a signer of Kubernetes' own and by others, seconds.
const LONGEST: (i64, i64) = (24 * 3600, 91 * 24 * 3600);
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// The paths that a volume has already.
struct Paths<'a, 'v, 'p> {
    volume: &'a At<'v, 'p>,
    seen: Vec<&'v str>,
}

impl<'v> Paths<'_, 'v, '_> {
    fn once(&mut self, path: &'v str, shown: &str, out: &mut Vec<FieldError>) {
        if self.seen.contains(&path) {
            self.volume.invalid(shown, "conflicting duplicate paths", out);
        } else {
            self.seen.push(path);
        }
    }
}

/// Everything wrong with a projected volume.
pub(super) fn check(volume: &At, around: Around<'_>, out: &mut Vec<FieldError>) {
    modes(volume, out);
    let mut paths = Paths { volume, seen: Vec::new() };
    for s in volume.get("sources").items() {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let at = s.get(kind);
            if !at.there() {
                continue;
            }
            count += 1;
            at.get("name").check(&[Required("")], out);
            for item in at.get("items").items() {
                key(&item, out);
                if !item.get("path").text().is_empty() {
                    paths.once(item.get("path").text(), at.get("name").text(), out);
                }
            }
        }
        let api = s.get("downwardAPI");
        if api.there() {
            count += 1;
            for item in api.get("items").items() {
                file(&api.with(item.value), out);
                let path = item.get("path").text();
                if !path.is_empty() {
                    paths.once(path, path, out);
                }
            }
        }
        let tokens = s.get("serviceAccountToken");
        if tokens.there() {
            count += 1;
            token(&tokens, volume, around, out);
        }
        let bundles = s.get("clusterTrustBundle");
        if bundles.there() {
            count += 1;
            bundle(&bundles, out);
            let path = bundles.get("path").text();
            paths.once(path, path, out);
        }
        let certificates = s.get("podCertificate");
        if certificates.there() {
            count += 1;
            certificate(&certificates, &mut paths, out);
        }
        if count > 1 {
            s.forbidden("may not specify more than 1 volume type per source", out);
        }
    }
}

fn token(t: &At, volume: &At, around: Around<'_>, out: &mut Vec<FieldError>) {
    let life = t.get("expirationSeconds");
    match life.int() {
        None => life.required("", out),
        Some(n) if n < 600 => life.wrong("may not specify a duration less than 10 minutes", out),
        Some(n) if n > 1 << 32 => life.wrong("may not specify a duration larger than 2^32 seconds", out),
        Some(_) => {}
    }
    let path = volume.get("path").with(t.get("path").value);
    // What is there already may stay.
    let before = |old: &Value| {
        let sources = old.list_at(&["volumes"]).iter().flat_map(|v| v.list_at(&["projected", "sources"]));
        sources.filter_map(|s| s.at(&["serviceAccountToken", "path"])).any(|p| {
            let mut wrong = Vec::new();
            local(&At::top(p, ""), &mut wrong);
            !wrong.is_empty()
        })
    };
    if path.text().is_empty() {
        path.required("", out);
    } else if !around.old.is_some_and(before) {
        local(&path, out);
    }
    user(&t.get("user"), out);
}

fn bundle(b: &At, out: &mut Vec<FieldError>) {
    let (name, signer, selector) = (b.get("name"), b.get("signerName"), b.get("labelSelector"));
    match (name.there(), signer.there()) {
        (true, true) => b.wrong("only one of name and signerName may be used", out),
        (false, false) => b.required("either name or signerName must be specified", out),
        (true, false) => {
            if name.text().is_empty() {
                name.required("must be a valid object name", out);
            }
            let rest = name.text().rsplit_once(':').map_or(name.text(), |(_, rest)| rest);
            names::subdomain(rest).into_iter().for_each(|m| name.wrong(format!("not a valid clustertrustbundlename: {m}"), out));
            if selector.there() {
                selector.wrong("labelSelector must be unset if name is specified", out);
            }
        }
        (false, true) => {
            if signer.text().is_empty() {
                signer.required("must be a valid signer name", out);
            }
            certificates::signer(signer.text(), &signer.to_string(), out);
            selector.check(&[Selector], out);
        }
    }
    b.get("path").check(&[Required("")], out);
    user(&b.get("user"), out);
    local(&b.get("path"), out);
}

fn certificate<'v>(c: &At<'v, '_>, paths: &mut Paths<'_, 'v, '_>, out: &mut Vec<FieldError>) {
    let signer = c.get("signerName");
    certificates::signer(signer.text(), &signer.to_string(), out);
    names::annotations(c.value.get("userAnnotations"), &c.get("userAnnotations").to_string(), out);
    user(&c.get("user"), out);
    c.get("keyType").one_of(&KEY_TYPES, out);
    let life = c.get("maxExpirationSeconds");
    if let Some(n) = life.int() {
        let domain = signer.text().split('/').next().unwrap_or("");
        let most = if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") { LONGEST.0 } else { LONGEST.1 };
        if n < 3600 {
            life.wrong("if provided, maxExpirationSeconds must be >= 3600", out);
        }
        if n > most {
            life.wrong(format!("if provided, maxExpirationSeconds must be <= {most}"), out);
        }
    }
    let mut any = false;
    for f in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = c.get(f);
        if !path.text().is_empty() {
            any = true;
            local(&path, out);
            paths.once(path.text(), path.text(), out);
        }
    }
    if !any {
        c.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath", out);
    }
}
