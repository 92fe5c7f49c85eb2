//! Links of pages that come through a proxy: they lead back through it.
//!
//! A page behind `…/services/NAME/proxy/` knows nothing of that path. Absolute links of its HTML and
//! its redirections are given the path in front, as kube-apiserver does; relative links work as they
//! are, and links to other hosts are left alone.

use std::{borrow::Cow, io::Read};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

/// Pages larger than this are passed on as they are.
pub(super) const MAX_PAGE: usize = 16 << 20;

/// Attributes that hold one link, by HTML element.
const ATTRIBUTES: [(&str, &[&str]); 22] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
];
const MEDIA: [(&str, &[&str]); 3] = [("script", &["src"]), ("source", &["src"]), ("video", &["poster", "src"])];

/// Where pages come from and where they are seen.
pub struct Proxied {
    /// The path of the proxy itself, with no slash at its end.
    pub(super) prefix: String,
    /// The host that the page is asked of.
    pub(super) inside: String,
    /// The host that the client asked.
    pub(super) outside: String,
}

impl Proxied {
    /// What tells the page's server where it is seen.
    pub(super) fn forwarded(&self, to: &mut HeaderMap, path: &str) {
        let path = path.split('?').next().unwrap_or("");
        for (name, value) in [
            ("x-forwarded-uri", format!("{}{path}", self.prefix)),
            ("x-forwarded-host", self.outside.clone()),
            ("x-forwarded-proto", "https".to_owned()),
        ] {
            if let Ok(v) = HeaderValue::from_str(&value) {
                to.insert(name, v);
            }
        }
    }

    /// A link as it must be for the client.
    fn link<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let (origin, path) = match url.split_once("://") {
            Some((_, rest)) => {
                let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some(&rest[..at]), &rest[at..])
            }
            None if url.starts_with("//") => {
                let rest = &url[2..];
                let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some(&rest[..at]), &rest[at..])
            }
            None => (None, url),
        };
        let elsewhere = origin.is_some_and(|h| h != self.inside && h != self.outside);
        if elsewhere || !path.starts_with('/') {
            return Cow::Borrowed(url);
        }
        let host = origin.map_or_else(String::new, |_| format!("https://{}", self.outside));
        let known = path.strip_prefix(self.prefix.as_str()).is_some_and(|r| r.is_empty() || r.starts_with(['/', '?', '#']));
        let prefix = if known { "" } else { self.prefix.as_str() };
        Cow::Owned(format!("{host}{prefix}{path}"))
    }

    /// Rewrites a redirection.
    pub(super) fn redirect(&self, headers: &mut HeaderMap) {
        let to = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).map(|l| self.link(l).into_owned());
        if let Some(v) = to.and_then(|t| HeaderValue::from_str(&t).ok()) {
            headers.insert(header::LOCATION, v);
        }
    }

    /// Whether an answer is a page whose links are to be rewritten.
    pub(super) fn is_page(headers: &HeaderMap) -> bool {
        let text = |h| headers.get(h).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or("");
        let media = text(header::CONTENT_TYPE).split(';').next().unwrap_or("").trim();
        media.eq_ignore_ascii_case("text/html") && matches!(text(header::CONTENT_ENCODING), "" | "identity" | "gzip")
    }

    /// Rewrites a whole page, unpacked if it was packed; `None` if it cannot be read as one.
    pub(super) fn page(&self, headers: &mut HeaderMap, body: &Bytes) -> Option<Bytes> {
        let packed = headers.get(header::CONTENT_ENCODING).is_some_and(|v| v == "gzip");
        let text = if packed {
            let mut out = Vec::new();
            let limit = u64::try_from(MAX_PAGE).unwrap_or(u64::MAX);
            flate2::read::GzDecoder::new(body.as_ref()).take(limit + 1).read_to_end(&mut out).ok()?;
            if out.len() > MAX_PAGE {
                return None;
            }
            Cow::Owned(out)
        } else {
            Cow::Borrowed(body.as_ref())
        };
        let out = self.rewrite(std::str::from_utf8(&text).ok()?);
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(out.len()));
        Some(Bytes::from(out))
    }

    fn rewrite(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + 256);
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("<!--") {
                let end = rest.find("-->").map_or(rest.len(), |e| e + 3);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let end = tag_end(rest);
            let (tag, after) = rest.split_at(end);
            self.tag(tag, &mut out);
            rest = after;
            // What a script or a style holds is no markup.
            for raw in ["script", "style"] {
                if name(tag).eq_ignore_ascii_case(raw) && !tag.ends_with("/>") {
                    let end = rest.to_ascii_lowercase().find(&format!("</{raw}")).unwrap_or(rest.len());
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
        out.push_str(rest);
        out
    }

    /// One tag, from its `<` to its `>`.
    fn tag(&self, tag: &str, out: &mut String) {
        let element = name(tag).to_ascii_lowercase();
        let Some((_, wanted)) = ATTRIBUTES.iter().chain(&MEDIA).find(|(e, _)| *e == element) else {
            out.push_str(tag);
            return;
        };
        let mut at = 1 + element.len();
        out.push_str(&tag[..at]);
        while at < tag.len() {
            let rest = &tag[at..];
            let name_len = rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(rest.len());
            if name_len == 0 {
                let len = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(&rest[..len]);
                at += len;
                continue;
            }
            let attribute = rest[..name_len].to_ascii_lowercase();
            let tail = &rest[name_len..];
            let value_at = tail.trim_start().strip_prefix('=').map(|v| tail.len() - v.trim_start().len());
            let Some(value_at) = value_at else {
                out.push_str(&rest[..name_len]);
                at += name_len;
                continue;
            };
            let value = &tail[value_at..];
            let (open, text) = match value.chars().next() {
                Some(q @ ('"' | '\'')) => (1, value[1..].split(q).next().unwrap_or("")),
                _ => (0, value.split(|c: char| c.is_ascii_whitespace() || c == '>').next().unwrap_or("")),
            };
            out.push_str(&rest[..name_len + value_at + open]);
            if wanted.contains(&attribute.as_str()) {
                out.push_str(&self.link(text));
            } else {
                out.push_str(text);
            }
            let close = usize::from(open == 1 && value.len() > 1 + text.len());
            out.push_str(&value[open + text.len()..open + text.len() + close]);
            at += name_len + value_at + open + text.len() + close;
        }
    }
}

/// The name of a tag's element.
fn name(tag: &str) -> &str {
    let text = tag.get(1..).unwrap_or("");
    &text[..text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len())]
}

/// Where the tag at the start of the text ends; quoted values may hold `>`.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return i + 1,
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied() -> Proxied {
        Proxied { prefix: "/api/v1/namespaces/a/pods/p/proxy".into(), inside: "10.0.0.2:80".into(), outside: "server:6443".into() }
    }

    #[test]
    fn absolute_links_lead_through_the_proxy() {
        let page = "<!-- <a href=\"/x\"> --><a class=\"/c\" href=\"/rewriteme\">test</a><IMG alt='>' src='/i.png?x=1'/><a href=/bare>b</a><script>'<a href=\"/no\">'</script>é";
        assert_eq!(
            proxied().rewrite(page),
            "<!-- <a href=\"/x\"> --><a class=\"/c\" href=\"/api/v1/namespaces/a/pods/p/proxy/rewriteme\">test</a><IMG alt='>' src='/api/v1/namespaces/a/pods/p/proxy/i.png?x=1'/><a href=/api/v1/namespaces/a/pods/p/proxy/bare>b</a><script>'<a href=\"/no\">'</script>é"
        );
    }

    #[test]
    fn relative_and_foreign_links_stay() {
        for page in ["<a href=\"x/y\">", "<a href=\"https://example.com/x\">", "<a href='//example.com/x'>", "<a href=", "<a href=\"", "<", "<a href=\"#top\">"] {
            assert_eq!(proxied().rewrite(page), page);
        }
    }

    #[test]
    fn links_to_the_page_s_own_host_name_the_server() {
        assert_eq!(proxied().link("http://10.0.0.2:80/x"), "https://server:6443/api/v1/namespaces/a/pods/p/proxy/x");
        assert_eq!(proxied().link("/api/v1/namespaces/a/pods/p/proxy/x"), "/api/v1/namespaces/a/pods/p/proxy/x");
    }

    #[test]
    fn packed_pages_are_unpacked() {
        use std::io::Write;
        let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(b"<a href='/x'>").expect("packed");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let page = proxied().page(&mut headers, &z.finish().expect("packed").into()).expect("a page");
        assert_eq!(page, "<a href='/api/v1/namespaces/a/pods/p/proxy/x'>");
        assert!(!headers.contains_key(header::CONTENT_ENCODING));
    }
}
