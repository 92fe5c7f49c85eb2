//! An EncryptionConfiguration, and what is wrong with it.

use std::{collections::HashSet, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_registry::{FieldError, Object};
use knarr_schema::Catalog;
use serde_json::Value;

use super::{
    Provider, Rule,
    ciphers::{Cbc, Gcm, Secretbox},
    kms::Kms,
};
use crate::request::duration;

/// What keys of a resource begin with, as a configuration names it.
pub(super) fn prefixes(name: &str) -> Vec<String> {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let all = Catalog::builtin().resources();
    let of = |wanted: &dyn Fn(&knarr_schema::Resource) -> bool| -> Vec<String> {
        let stored = all.iter().filter(|r| !r.key_prefix.is_empty() && wanted(r));
        let mut out: Vec<String> = stored.map(|r| format!("{}{}/", knarr_registry::ROOT, r.key_prefix)).collect();
        out.sort();
        out.dedup();
        out
    };
    match (plural, group) {
        ("*", "*") => vec![String::new()],
        ("*", "") if name.ends_with('.') => of(&|r| r.group.is_empty()),
        ("*", g) => {
            let mut out = of(&|r| r.group == *g);
            out.push(format!("{}{g}/", knarr_registry::ROOT));
            out
        }
        (p, g) => {
            let known = of(&|r| r.plural == *p && r.group == *g);
            if known.is_empty() { vec![format!("{}{g}/{p}/", knarr_registry::ROOT)] } else { known }
        }
    }
}

/// What is wrong with the names of resources of one rule.
fn resources(names: &[&str], at: &str, out: &mut Vec<FieldError>) {
    let parts: Vec<(&str, &str)> = names.iter().map(|n| n.split_once('.').unwrap_or((n, ""))).collect();
    let pairs = || parts.iter().enumerate().flat_map(|(i, a)| parts.iter().skip(i + 1).map(move |b| (a, b)));
    let shown = || Value::from(names);
    if pairs().any(|(a, b)| a == b) {
        out.push(FieldError::invalid(at, shown(), "the same resource cannot be specified multiple times"));
    }
    let all = |p: &(&str, &str)| *p == ("*", "*");
    if pairs().any(|(a, b)| a != b && (all(a) || all(b) || (a.1 == b.1 && (a.0 == "*" || b.0 == "*")))) {
        out.push(FieldError::invalid(at, shown(), "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"));
    }
    for (i, (name, (plural, group))) in names.iter().zip(&parts).enumerate() {
        let why = if name.to_lowercase() != **name {
            "resource name should not contain capital letters"
        } else if *name == "*" {
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
        } else if matches!(*name, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
            "resources which do not have REST API/s cannot be encrypted"
        } else if *group == "events.k8s.io" {
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
        } else if *group == "extensions" {
            "'extensions' group has been removed and cannot be used for encryption"
        } else if *group == "*" && *plural != "*" {
            "encrypting the same resource across groups is not supported"
        } else {
            continue;
        };
        out.push(FieldError::invalid(format!("{at}[{i}]"), *name, why));
    }
}

/// The keys of a provider: names and secrets of these lengths.
fn keys(provider: &Value, at: &str, lengths: &[usize], out: &mut Vec<FieldError>) -> Vec<(String, Vec<u8>)> {
    let at = format!("{at}.keys");
    let all = provider.list_at(&["keys"]);
    if all.is_empty() {
        out.push(FieldError::required(&at, "at least one keys is required"));
    }
    let mut found = Vec::new();
    for (i, k) in all.iter().enumerate() {
        let (name, secret) = (k.str_at(&["name"]), k.str_at(&["secret"]));
        if name.is_empty() {
            out.push(FieldError::required(format!("{at}[{i}].name"), "name is a mandatory field for a key"));
        }
        let at = format!("{at}[{i}].secret");
        if secret.is_empty() {
            out.push(FieldError::required(&at, "secret is a mandatory field for a key"));
            continue;
        }
        match STANDARD.decode(secret) {
            Err(_) => out.push(FieldError::invalid(&at, "REDACTED", "secrets must be base64 encoded")),
            Ok(s) if !lengths.contains(&s.len()) => {
                let expected: Vec<String> = lengths.iter().map(ToString::to_string).collect();
                out.push(FieldError::invalid(&at, "REDACTED", format!("secret is not of the expected length, got {}, expected one of [{}]", s.len(), expected.join(" "))));
            }
            Ok(s) => found.push((name.to_owned(), s)),
        }
    }
    found
}

/// Settings of a key management service.
fn service(v: &Value, at: &str, names: &mut HashSet<String>, out: &mut Vec<FieldError>) -> Option<Provider> {
    let before = out.len();
    let (name, endpoint) = (v.str_at(&["name"]), v.str_at(&["endpoint"]));
    let version = if v.str_at(&["apiVersion"]).is_empty() { "v1" } else { v.str_at(&["apiVersion"]) };
    let named = format!("{at}.name");
    if name.is_empty() {
        out.push(FieldError::required(&named, "name is a mandatory field for a provider"));
    }
    if version != "v1" && name.contains(':') {
        out.push(FieldError::invalid(&named, name, format!("invalid KMS provider name {name}, must not contain ':'")));
    }
    if !names.insert(name.to_owned()) {
        out.push(FieldError::invalid(&named, name, format!("duplicate KMS provider name {name}, names must be unique")));
    }
    let timeout = match v.str_at(&["timeout"]) {
        "" => Some(Duration::from_secs(3)),
        t => duration(t).ok().filter(|d| !d.is_zero()),
    };
    if timeout.is_none() {
        out.push(FieldError::invalid(format!("{at}.timeout"), v.str_at(&["timeout"]), "timeout should be a positive value"));
    }
    let at_endpoint = format!("{at}.endpoint");
    if endpoint.is_empty() {
        out.push(FieldError::invalid(at_endpoint, "", "endpoint is a mandatory field for a kms"));
    } else if !endpoint.starts_with("unix:") {
        let scheme = endpoint.split_once(':').map_or("", |(s, _)| s);
        out.push(FieldError::invalid(at_endpoint, endpoint, format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported")));
    }
    match version {
        "v2" => {
            if v.get("cachesize").is_some_and(|c| !c.is_null()) {
                out.push(FieldError::invalid(format!("{at}.cachesize"), v["cachesize"].clone(), "cachesize is not supported in v2"));
            }
        }
        "v1" => out.push(FieldError::invalid(format!("{at}.apiVersion"), version, "KMSv1 is deprecated and not offered. Use KMSv2 instead")),
        _ => out.push(FieldError::invalid(format!("{at}.apiVersion"), version, "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported")),
    }
    (out.len() == before).then(|| Provider::Kms(Kms::new(name, endpoint, timeout.unwrap_or_default())))
}

fn provider(v: &Value, at: &str, names: &mut HashSet<String>, errors: &mut Vec<FieldError>, out: &mut Vec<Provider>) {
    const KNOWN: [&str; 5] = ["kms", "aesgcm", "aescbc", "secretbox", "identity"];
    let found: Vec<&str> = KNOWN.into_iter().filter(|k| v.get(*k).is_some_and(|x| !x.is_null())).collect();
    let kind = match found.as_slice() {
        [one] => *one,
        [] => {
            errors.push(FieldError::invalid(at, "REDACTED", "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"));
            return;
        }
        _ => {
            errors.push(FieldError::invalid(at, "REDACTED", "more than one provider specified in a single element, should split into different list elements"));
            return;
        }
    };
    let inner = &v[kind];
    let path = format!("{at}.{kind}");
    let mark = |name: &str| format!("k8s:enc:{kind}:v1:{name}:").into_bytes();
    const AES: &[usize] = &[16, 24, 32];
    match kind {
        "kms" => out.extend(service(inner, &path, names, errors)),
        "aesgcm" => {
            let all = keys(inner, &path, AES, errors);
            out.extend(all.into_iter().filter_map(|(n, s)| Some(Provider::Gcm { prefix: mark(&n), key: Gcm::new(&s)? })));
        }
        "aescbc" => {
            let all = keys(inner, &path, AES, errors);
            out.extend(all.into_iter().filter_map(|(n, s)| Some(Provider::Cbc { prefix: mark(&n), key: Cbc::new(s)? })));
        }
        "secretbox" => {
            let all = keys(inner, &path, &[32], errors);
            out.extend(all.into_iter().filter_map(|(n, s)| Some(Provider::Secretbox { prefix: mark(&n), key: Secretbox::new(&s)? })));
        }
        _ => out.push(Provider::Identity),
    }
}

/// Reads a configuration.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let v = knarr_schema::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
    if v.str_at(&["kind"]) != "EncryptionConfiguration" || v.str_at(&["apiVersion"]) != "apiserver.config.k8s.io/v1" {
        return Err("it is no EncryptionConfiguration of apiserver.config.k8s.io/v1".into());
    }
    let (mut errors, mut rules, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    let all = v.list_at(&["resources"]);
    if all.is_empty() {
        errors.push(FieldError::required("resources", "at least one resources is required"));
    }
    for (i, r) in all.iter().enumerate() {
        let at = format!("resources[{i}]");
        let resource_names: Vec<&str> = r.list_at(&["resources"]).iter().filter_map(Value::as_str).collect();
        let field = format!("{at}.resources");
        if resource_names.is_empty() {
            errors.push(FieldError::required(&field, format!("at least one {field} is required")));
        }
        resources(&resource_names, &field, &mut errors);
        let (mut providers, field) = (Vec::new(), format!("{at}.providers"));
        if r.list_at(&["providers"]).is_empty() {
            errors.push(FieldError::required(&field, format!("at least one {field} is required")));
        }
        for (j, p) in r.list_at(&["providers"]).iter().enumerate() {
            provider(p, &format!("{field}[{j}]"), &mut names, &mut errors, &mut providers);
        }
        rules.push(Rule { prefixes: resource_names.iter().flat_map(|n| prefixes(n)).collect(), providers });
    }
    match errors.as_slice() {
        [] => Ok(rules),
        [one] => Err(one.to_string()),
        many => Err(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
    }
}
