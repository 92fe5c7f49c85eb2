//! What a request asks for, read from its method, path and query.

use std::{collections::HashMap, time::Duration};

use http::Method;

/// A request's attributes, as authorization and routing need them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `get`, `list`, `watch`, `create`, …; for paths that are no resource the method in lower case.
    pub verb: String,
    /// Whether the path names a resource.
    pub resource_request: bool,
    /// API group, empty for the legacy one.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, empty if none.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource, empty if none.
    pub subresource: String,
    /// Object name, empty if none.
    pub name: String,
    /// What follows the subresource (proxies).
    pub rest: String,
    /// The whole path.
    pub path: String,
}

/// A request's query parameters; the first value of each counts.
#[derive(Clone, Debug, Default)]
pub struct Query {
    map: HashMap<String, Vec<String>>,
}

/// Decodes percent signs; `plus` turns plus signs into spaces.
#[must_use]
pub fn unescape(s: &str, plus: bool) -> String {
    let mut out = Vec::with_capacity(s.len());
    let bytes = s.as_bytes();
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        let hex = |c: Option<&u8>| c.and_then(|c| char::from(*c).to_digit(16));
        if b == b'%'
            && let (Some(h), Some(l)) = (hex(bytes.get(i + 1)), hex(bytes.get(i + 2)))
        {
            out.push(u8::try_from(h * 16 + l).unwrap_or(b'?'));
            i += 3;
            continue;
        }
        out.push(if plus && b == b'+' { b' ' } else { b });
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    /// Reads a query string.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Self {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(unescape(k, true))
                .or_default()
                .push(unescape(v, true));
        }
        Self { map }
    }
    /// A parameter's value or `""`.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        self.map
            .get(key)
            .and_then(|v| v.first())
            .map_or("", String::as_str)
    }
    /// All values of a parameter.
    #[must_use]
    pub fn all(&self, key: &str) -> &[String] {
        self.map.get(key).map_or(&[], Vec::as_slice)
    }
    /// Whether a parameter is given.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }
    /// A boolean: given and not `false` or `0`.
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key), "false" | "0")
    }
}

/// `1h30m`, `10s`, `250ms`, as Go writes durations; `0` is none.
///
/// # Errors
/// What Go says of another text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let n: f64 = rest.get(..digits).and_then(|d| d.parse().ok()).ok_or_else(bad)?;
        rest = rest.get(digits..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = rest.get(..end).unwrap_or_default();
        sum += n * match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        rest = rest.get(end..).unwrap_or_default();
    }
    if text.is_empty() { Err(bad()) } else { Duration::try_from_secs_f64(sum).map_err(|_| bad()) }
}

/// Subresources whose path goes on.
const OPEN_ENDED: [&str; 1] = ["proxy"];

impl Info {
    /// Reads a request.
    #[must_use]
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self {
            verb: method.as_str().to_lowercase(),
            path: path.to_owned(),
            ..Self::default()
        };
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let mut rest: &[&str] = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                (*version).clone_into(&mut info.version);
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                (*group).clone_into(&mut info.group);
                (*version).clone_into(&mut info.version);
                rest
            }
            _ => return info,
        };
        info.resource_request = true;
        let mut watch = false;
        if let ["watch", more @ ..] = rest
            && !more.is_empty()
        {
            watch = true;
            rest = more;
        }
        if let ["namespaces", ns, more @ ..] = rest {
            let own = matches!(more, [] | ["status" | "finalize"]);
            info.namespace = unescape(ns, false);
            if !own {
                rest = more;
            }
        }
        let mut it = rest.iter();
        info.resource = it.next().map(|s| unescape(s, false)).unwrap_or_default();
        info.name = it.next().map(|s| unescape(s, false)).unwrap_or_default();
        info.subresource = it.next().map(|s| unescape(s, false)).unwrap_or_default();
        let tail: Vec<&str> = it.copied().collect();
        info.rest = tail.join("/");
        if OPEN_ENDED.contains(&info.subresource.as_str())
            && path.ends_with('/')
            && !info.rest.is_empty()
        {
            info.rest.push('/');
        }
        if info.resource == "namespaces" && info.group.is_empty() {
            info.namespace = info.name.clone();
        }
        info.verb = match (method.as_str(), info.name.is_empty()) {
            ("POST", _) => "create",
            ("GET" | "HEAD", _) if watch => "watch",
            ("GET" | "HEAD", false) => "get",
            ("GET" | "HEAD", true) if query.flag("watch") => "watch",
            ("GET" | "HEAD", true) => "list",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => "",
        }
        .to_owned();
        // Asking for one name through a selector is asking for that object.
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
            && info.name.is_empty()
        {
            for part in query.get("fieldSelector").split(',') {
                if let Some(n) = part.strip_prefix("metadata.name=") {
                    n.trim_start_matches('=').clone_into(&mut info.name);
                }
            }
        }
        info
    }

    /// Whether the answer may take as long as it wants.
    #[must_use]
    pub fn long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "attach" | "exec" | "proxy" | "log" | "portforward"
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_attributes() {
        let read = |m: Method, p: &str, q: &str| Info::parse(&m, p, &Query::parse(Some(q)));
        let i = read(Method::GET, "/api/v1/namespaces/a/pods/b/log", "");
        assert_eq!(
            (
                i.namespace.as_str(),
                i.resource.as_str(),
                i.name.as_str(),
                i.subresource.as_str()
            ),
            ("a", "pods", "b", "log")
        );
        let i = read(Method::GET, "/apis/apps/v1/deployments", "watch=1");
        assert_eq!(
            (i.verb.as_str(), i.group.as_str(), i.namespace.as_str()),
            ("watch", "apps", "")
        );
        let i = read(Method::PUT, "/api/v1/namespaces/x/finalize", "");
        assert_eq!(
            (i.resource.as_str(), i.name.as_str(), i.subresource.as_str()),
            ("namespaces", "x", "finalize")
        );
        let i = read(Method::DELETE, "/api/v1/namespaces/x/configmaps", "");
        assert_eq!(
            (i.verb.as_str(), i.resource.as_str()),
            ("deletecollection", "configmaps")
        );
        let i = read(Method::GET, "/healthz", "");
        assert!(!i.resource_request);
    }
}
