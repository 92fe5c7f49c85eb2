//! containerd's `hosts.toml`: a folder for each registry that says which hosts to ask.
//!
//! In `certs.d/REGISTRY/` (`certs.d/_default/` for all others), `host:port` also written
//! `host_port_`:
//!
//! ```toml
//! server = "https://registry.example"      # asked last; the registry itself if left out
//! [host."https://mirror.example/prefix"]   # asked in this order
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.pem"                      # or a list; relative to this folder
//!   client = [["client.pem", "client.key"]]
//!   skip_verify = false
//!   override_path = false                  # the path is used as it is, without /v2
//!   [host."https://mirror.example/prefix".header]
//!     x-key = "value"
//! ```
//!
//! A folder without that file holds what Docker's does: `*.crt` to trust, `*.cert` and `*.key` to
//! show.

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};

use super::Tls;
use crate::Error;

/// One host that may be asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    /// Up to and with `/v2`, or the path as it was given.
    pub api: String,
    /// `host[:port]`, as credentials name it.
    pub name: String,
    /// Tags may be asked for, not digests alone.
    pub resolves: bool,
    pub tls: Tls,
    pub headers: HeaderMap,
}

/// What the folder of a registry says; `None` if there is none.
pub(super) fn read(certs: &Path, registry: &str, scheme: &str, host: &str) -> Result<Option<Vec<Host>>, Error> {
    let spelled = match registry.rsplit_once(':') {
        Some((name, port)) => format!("{name}_{port}_"),
        None => registry.to_owned(),
    };
    let folders = [spelled.as_str(), registry, "_default"].map(|name| certs.join(name));
    let Some(folder) = folders.into_iter().find(|f| f.is_dir()) else { return Ok(None) };
    let own = format!("{scheme}://{host}");
    let path = folder.join("hosts.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let host = Host { tls: docker(&folder)?, ..parse_host(&own, &Table::new(), &folder)? };
            return Ok(Some(vec![host]));
        }
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    parse(&text, &own, &folder).map(Some).map_err(|e| Error::malformed(path.display().to_string(), e))
}

fn parse(text: &str, own: &str, folder: &Path) -> Result<Vec<Host>, Error> {
    let bad = |what: &str| Error::malformed("hosts.toml", what);
    let table: Table = text.parse().map_err(|e| Error::malformed("hosts.toml", e))?;
    let mut hosts = Vec::new();
    match table.get("host") {
        None => {}
        Some(Value::Table(all)) => {
            for (name, settings) in all {
                let settings = settings.as_table().ok_or_else(|| bad("a host must be a table"))?;
                if can(settings, "pull")? {
                    hosts.push(parse_host(name, settings, folder)?);
                }
            }
        }
        Some(_) => return Err(bad("host must be a table")),
    }
    let server = match table.get("server") {
        None => own,
        Some(v) => v.as_str().ok_or_else(|| bad("server must be a string"))?,
    };
    if can(&table, "pull")? {
        hosts.push(parse_host(server, &table, folder)?);
    }
    Ok(hosts)
}

fn can(settings: &Table, what: &str) -> Result<bool, Error> {
    let Some(list) = settings.get("capabilities") else { return Ok(true) };
    let bad = || Error::malformed("hosts.toml", "capabilities must be a list of pull, resolve, push");
    let list = list.as_array().ok_or_else(bad)?;
    for one in list {
        if !matches!(one.as_str(), Some("pull" | "resolve" | "push" | "referrers")) {
            return Err(bad());
        }
    }
    Ok(list.iter().any(|c| c.as_str() == Some(what)))
}

fn parse_host(name: &str, settings: &Table, folder: &Path) -> Result<Host, Error> {
    let bad = |what: &str| Error::malformed("hosts.toml", format!("{name}: {what}"));
    let url = if name.contains("://") { name.to_owned() } else { format!("https://{name}") };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("no host"))?;
    if !matches!(scheme, "http" | "https") {
        return Err(bad("only http and https are known"));
    }
    let rest = rest.trim_end_matches('/');
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() {
        return Err(bad("no host"));
    }
    let flag = |key: &str| match settings.get(key) {
        None => Ok(false),
        Some(v) => v.as_bool().ok_or_else(|| bad(&format!("{key} must be true or false"))),
    };
    let api = if flag("override_path")? || rest.ends_with("/v2") { rest.to_owned() } else { format!("{rest}/v2") };
    let file = |v: &Value| v.as_str().map(|f| folder.join(f)).ok_or_else(|| bad("a file name must be a string"));
    let mut tls = Tls { insecure_skip_verify: flag("skip_verify")?, ..Tls::default() };
    match settings.get("ca") {
        None => {}
        Some(Value::Array(all)) => tls.more_cas = all.iter().map(file).collect::<Result<_, _>>()?,
        Some(one) => tls.ca_file = Some(file(one)?),
    }
    let pair = match settings.get("client") {
        Some(Value::Array(all)) => all.first(),
        other => other,
    };
    match pair {
        None => {}
        Some(Value::Array(two)) if two.len() == 2 => {
            (tls.cert_file, tls.key_file) = (Some(file(&two[0])?), Some(file(&two[1])?));
        }
        Some(one) => {
            let both = file(one)?;
            (tls.cert_file, tls.key_file) = (Some(both.clone()), Some(both));
        }
    }
    let mut headers = HeaderMap::new();
    for (key, value) in settings.get("header").and_then(Value::as_table).into_iter().flatten() {
        let values = match value {
            Value::Array(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let key = HeaderName::try_from(key.as_str()).map_err(|_| bad("a header's name is not valid"))?;
            let value = value.as_str().and_then(|v| HeaderValue::from_str(v).ok());
            headers.append(key, value.ok_or_else(|| bad("a header's value is not valid"))?);
        }
    }
    Ok(Host { api: format!("{scheme}://{api}"), name: host.to_owned(), resolves: can(settings, "resolve")?, tls, headers })
}

/// The certificates of a folder as Docker has it.
fn docker(folder: &Path) -> Result<Tls, Error> {
    let mut tls = Tls::default();
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.more_cas.push(file),
            Some("cert") if tls.cert_file.is_none() => {
                tls.key_file = Some(file.with_extension("key"));
                tls.cert_file = Some(file);
            }
            _ => {}
        }
    }
    Ok(tls)
}
