//! Lists: which version, which page, which objects.

use std::sync::Arc;

use base64::Engine;
use serde_json::{Value, json};

use crate::{
    cache::{Entry, Snapshot},
    error::ApiError,
    registry::Registry,
    rest::Kind,
    selector::Filter,
};

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Namespace; empty is all.
    pub namespace: String,
    /// Selectors.
    pub filter: Filter,
    /// Page size; `0` is no limit.
    pub limit: usize,
    /// Token of the page before.
    pub token: String,
    /// `resourceVersion`.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: String,
}

/// One page.
pub struct Page {
    /// The objects, in key order.
    pub items: Vec<Arc<Entry>>,
    /// The version of the list.
    pub revision: u64,
    /// Token of the next page; empty on the last.
    pub token: String,
    /// How many objects follow, where it is known.
    pub remaining: Option<usize>,
}

/// Reads a `resourceVersion` parameter.
///
/// # Errors
/// 400 (or 422) if it is no number.
pub fn parse_version(text: &str) -> Result<u64, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

fn token(revision: i64, start: &str) -> String {
    BASE64.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

/// A byte as Go quotes a character.
fn rune(b: u8) -> String {
    match b {
        0x20..0x7f => format!("'{}'", char::from(b)),
        _ => format!("'\\u{b:04x}'"),
    }
}

fn read_token(text: &str) -> Result<(i64, String), ApiError> {
    let bad = |why: &str| {
        ApiError::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = BASE64
        .decode(text.trim_end_matches('='))
        .map_err(|e| bad(&e.to_string()))?;
    let v: Value = serde_json::from_slice(&bytes).map_err(|e| match bytes.first() {
        Some(b) if e.column() == 1 => bad(&format!(
            "invalid character {} looking for beginning of value",
            rune(*b)
        )),
        _ => bad(&e.to_string()),
    })?;
    if v["v"] != "meta.k8s.io/v1" {
        return Err(bad("server does not recognize this encoded version"));
    }
    let rv = v["rv"].as_i64().unwrap_or(0);
    let start = v["start"].as_str().unwrap_or("").to_owned();
    if rv == 0 {
        return Err(bad(
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ));
    }
    if start.is_empty() || start.split('/').any(|s| s == "..") {
        return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
    }
    Ok((rv, start))
}

async fn at(registry: &Registry, kind: &Kind, revision: u64) -> Result<Snapshot, ApiError> {
    // What memory still has of a time that is forgotten is not given out either.
    if revision < registry.compacted() {
        return Err(ApiError::expired(
            "The resourceVersion for the provided list is too old.",
        ));
    }
    if let Some(s) = kind.cache.snapshot_at(revision) {
        return Ok(s);
    }
    let prefix = &kind.cache.prefix;
    let range = registry
        .store()
        .range(
            prefix,
            Some(&knarr_storage::prefix_end(prefix)),
            0,
            revision,
        )
        .await?;
    let items = range
        .items
        .iter()
        .filter_map(|kv| kind.cache.decode(kv))
        .collect();
    let s = Snapshot::of(items);
    kind.cache.keep_page(revision, &s);
    Ok(s)
}

/// What memory has, which holds all changes up to a revision, and maybe later ones: the revision of
/// the answer is that of the last.
fn newest(kind: &Kind, at_least: u64) -> (Snapshot, u64) {
    let (snapshot, changed) = kind.cache.snapshot_and_revision();
    (snapshot, at_least.max(changed))
}

/// Lists objects.
///
/// # Errors
/// The answer for the client.
pub async fn list(registry: &Registry, kind: &Kind, o: &ListOptions) -> Result<Page, ApiError> {
    let scope = kind.scope(&o.namespace);
    // What memory has is given whole.
    let limit = if o.resource_version == "0" && o.token.is_empty() {
        0
    } else {
        o.limit
    };
    let mut start = scope.clone();
    let (snapshot, revision) = if o.token.is_empty() {
        match (o.resource_version.as_str(), o.version_match.as_str()) {
            ("", _) => {
                let r = registry.current().await?;
                newest(kind, r)
            }
            ("0", "" | "NotOlderThan") => {
                let r = registry.applied();
                newest(kind, r)
            }
            (rv, "Exact") => {
                let rv = parse_version(rv)?;
                registry.at_least(rv).await?;
                (at(registry, kind, rv).await?, rv)
            }
            (rv, "") if limit > 0 => {
                let rv = parse_version(rv)?;
                registry.at_least(rv).await?;
                (at(registry, kind, rv).await?, rv)
            }
            (rv, _) => {
                let rv = parse_version(rv)?;
                let r = registry.at_least(rv).await?;
                newest(kind, r)
            }
        }
    } else {
        if !o.resource_version.is_empty() && o.resource_version != "0" {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (rv, from) = read_token(&o.token)?;
        start = format!("{scope}{from}");
        if rv < 0 {
            let r = registry.current().await?;
            newest(kind, r)
        } else {
            let rv = u64::try_from(rv).unwrap_or(0);
            match at(registry, kind, rv).await {
                Ok(s) => (s, rv),
                Err(e) if e.code == 410 => {
                    let mut e = ApiError::expired(
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                    );
                    e.code = 410;
                    e.continue_token = Some(token(-1, &from));
                    return Err(e);
                }
                Err(e) => return Err(e),
            }
        }
    };
    let mut items = Vec::new();
    let mut next = String::new();
    let mut rest = 0usize;
    if let (Some(name), true) = (o.filter.fields.pinned("metadata.name"), o.token.is_empty())
        && (!kind.namespaced || !o.namespace.is_empty())
    {
        let key = kind.key(&o.namespace, name);
        items.extend(snapshot.get(&key).filter(|e| o.filter.passes(e)));
        return Ok(Page {
            items,
            revision,
            token: next,
            remaining: None,
        });
    }
    for e in snapshot
        .range(&start)
        .take_while(|e| e.key.starts_with(&scope))
    {
        if limit > 0 && items.len() >= limit {
            if next.is_empty() {
                let last = items.last().map_or("", |e: &Arc<Entry>| &*e.key);
                next = format!("{}\0", last.strip_prefix(&scope).unwrap_or(last));
            }
            if !o.filter.is_empty() {
                // Another match may follow; whether there is one the next page tells.
                break;
            }
            rest += 1;
            continue;
        }
        if o.filter.passes(e) {
            items.push(Arc::clone(e));
        }
    }
    let token = if next.is_empty() {
        String::new()
    } else {
        kind.cache.keep_page(revision, &snapshot);
        token(i64::try_from(revision).unwrap_or(i64::MAX), &next)
    };
    let remaining = (!token.is_empty() && o.filter.is_empty()).then_some(rest);
    Ok(Page {
        items,
        revision,
        token,
        remaining,
    })
}
