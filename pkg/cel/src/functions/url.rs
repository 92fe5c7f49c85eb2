//! URLs, as Go's `url.ParseRequestURI` reads them.

use std::{collections::BTreeMap, rc::Rc};

use super::{no_overload, owned, text};
use crate::{
    error::EvalError,
    eval::Outcome,
    value::{Key, Opaque, Text, Value},
};

/// A URL.
#[derive(Clone, Debug)]
pub struct Url {
    /// As it was written.
    pub text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub(crate) fn parse(s: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("parse {s:?}: {why}");
    if s.is_empty() {
        return Err(bad("empty url"));
    }
    if s.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err(bad("net/url: invalid control character in URL"));
    }
    let scheme_end = s.find(':').filter(|i| {
        let t = &s[..*i];
        t.starts_with(|c: char| c.is_ascii_alphabetic()) && t.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let (scheme, rest) = match scheme_end {
        Some(i) => (s[..i].to_lowercase(), &s[i + 1..]),
        None if s.starts_with(':') => return Err(bad("missing protocol scheme")),
        None => (String::new(), s),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.starts_with('/') && scheme.is_empty() {
        return Err(bad("invalid URI for request"));
    }
    if !rest.starts_with('/') {
        // Opaque: `mailto:x` is no request URI.
        return Err(bad("invalid URI for request"));
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(r) if !scheme.is_empty() || !rest.starts_with("///") => match r.find('/') {
            Some(i) => (&r[..i], &r[i..]),
            None => (r, ""),
        },
        _ => ("", rest),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
    if host.contains(' ') {
        return Err(bad(&format!("invalid character {:?} in host name", " ")));
    }
    let port = if let Some(end) = host.find(']') { &host[end + 1..] } else { host.find(':').map_or("", |i| &host[i..]) };
    if !port.is_empty() && !(port.starts_with(':') && port[1..].bytes().all(|b| b.is_ascii_digit())) {
        return Err(bad(&format!("invalid port {port:?} after host")));
    }
    if host.starts_with('[') && !host.contains(']') {
        return Err(bad("missing ']' in host"));
    }
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let two = [bytes.next(), bytes.next()];
            if !two.iter().all(|b| b.is_some_and(|b| b.is_ascii_hexdigit())) {
                return Err(bad(&format!("invalid URL escape {:?}", "%")));
            }
        }
    }
    Ok(Url { text: s.to_owned(), scheme, host: host.to_owned(), path: path.to_owned(), query: query.to_owned() })
}

/// The path, escaped where it has to be.
fn escaped(path: &str) -> String {
    path.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!*'()[]".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }
        })
        .collect()
}

fn unescaped(s: &str) -> String {
    let mut out = Vec::new();
    let mut i = 0;
    let b = s.as_bytes();
    while i < b.len() {
        let hex = |c: u8| char::from(c).to_digit(16);
        match b[i] {
            b'+' => out.push(b' '),
            b'%' if i + 2 < b.len() + 0 && let (Some(h), Some(l)) = (hex(b[i + 1]), b.get(i + 2).and_then(|c| hex(*c))) => {
                out.push((h * 16 + l) as u8);
                i += 2;
            }
            c => out.push(c),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let [v] = args else { return no_overload() };
    match name {
        "url" => return parse(text(v)?).map(|u| Value::opaque(Opaque::Url(u))).map_err(|e| EvalError::new(format!("URL parse error during conversion from string: {e}"))),
        "isURL" => return Ok(Value::Bool(parse(text(v)?).is_ok())),
        _ => {}
    }
    let Value::Opaque(o) = v else { return no_overload() };
    let Opaque::Url(u) = o.as_ref() else { return no_overload() };
    let (hostname, port) = if u.host.starts_with('[') {
        let (h, rest) = u.host[1..].split_once(']').unwrap_or((&u.host, ""));
        (h, rest.trim_start_matches(':'))
    } else {
        u.host.split_once(':').unwrap_or((&u.host, ""))
    };
    Ok(match name {
        "getScheme" => owned(&u.scheme),
        "getHost" => owned(&u.host),
        "getHostname" => owned(hostname),
        "getPort" => owned(port),
        "getEscapedPath" => owned(&escaped(&u.path)),
        "getQuery" => {
            let mut all: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
            for part in u.query.split('&').filter(|p| !p.is_empty()) {
                let (k, v) = part.split_once('=').unwrap_or((part, ""));
                all.entry(unescaped(k)).or_default().push(owned(&unescaped(v)));
            }
            Value::Map(Rc::new(all.into_iter().map(|(k, v)| (Key::String(Text::Owned(k.as_str().into())), Value::list(v))).collect()))
        }
        _ => return no_overload(),
    })
}
