//! The distribution protocol's reading half.

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use super::{Credentials, Endpoint, tls};
use crate::Error;
use crate::model::{MANIFEST_TYPES, MAX_DOCUMENT};

/// Nothing heard for so long: the connection is given up.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// A repository at one endpoint.
pub(crate) struct Repository {
    endpoint: Endpoint,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// A manifest or index as it came.
pub(crate) struct Document {
    pub bytes: Bytes,
    pub media_type: String,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

#[derive(Deserialize)]
struct Failures {
    #[serde(default)]
    errors: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Repository {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(&endpoint.tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let authorization = match &endpoint.credentials {
            Some(c) if !c.registry_token.is_empty() => Some(bearer(&c.registry_token)?),
            _ => None,
        };
        Ok(Self {
            // Bodies come in pieces of this size at most; hyper's own is 400 KiB for each connection.
            client: Client::builder(TokioExecutor::new())
                .http1_max_buf_size(64 << 10)
                .build(https),
            endpoint,
            authorization: Mutex::new(authorization),
        })
    }

    /// A manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, object: &str) -> Result<Document, Error> {
        let url = self.url("manifests", object);
        let accept = MANIFEST_TYPES.join(", ");
        let response = self
            .get(&url, &[(header::ACCEPT, accept.as_str())], ANSWER)
            .await?;
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .map(|v| v.split(';').next().unwrap_or_default().trim().to_owned())
            .unwrap_or_default();
        let bytes = document(response, "GET", &url).await?;
        Ok(Document { bytes, media_type })
    }

    /// A small blob as a whole.
    pub(crate) async fn document(&self, digest: &str) -> Result<Document, Error> {
        let url = self.blob_url(digest);
        let response = self.get(&url, &[], ANSWER).await?;
        Ok(Document {
            bytes: document(response, "GET", &url).await?,
            media_type: String::new(),
        })
    }

    /// A blob's stream from a byte on; the flag tells whether the registry honoured it.
    pub(crate) async fn blob(
        &self,
        digest: &str,
        from: u64,
    ) -> Result<(Response<Incoming>, bool), Error> {
        let range = format!("bytes={from}-");
        let headers = [(header::RANGE, range.as_str())];
        let headers = if from > 0 { &headers[..] } else { &[] };
        let response = self.get(&self.blob_url(digest), headers, ANSWER).await?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        Ok((response, partial))
    }

    fn blob_url(&self, digest: &str) -> String {
        self.url("blobs", digest)
    }

    fn url(&self, kind: &str, object: &str) -> String {
        let Endpoint { api, repository, namespace, .. } = &self.endpoint;
        let query = namespace.as_ref().map_or(String::new(), |n| format!("?ns={n}"));
        format!("{api}/{repository}/{kind}/{object}{query}")
    }

    /// A GET that logs in when asked to, follows redirects, and takes only success.
    async fn get(
        &self,
        url: &str,
        headers: &[(header::HeaderName, &str)],
        limit: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let mut logged_in = false;
        loop {
            let authorization = self
                .authorization
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone();
            let response = self.follow(url, headers, authorization, limit).await?;
            match response.status() {
                StatusCode::UNAUTHORIZED if !logged_in => {
                    logged_in = true;
                    let header = self.log_in(&response, limit).await?;
                    *self
                        .authorization
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(header);
                }
                status if status.is_success() => return Ok(response),
                _ => return Err(failure(response, "GET", url).await),
            }
        }
    }

    async fn follow(
        &self,
        url: &str,
        headers: &[(header::HeaderName, &str)],
        mut authorization: Option<HeaderValue>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let mut url = url.to_owned();
        for _ in 0..10 {
            let mut request = Request::builder().method(Method::GET).uri(&url);
            if origin(&url) == origin(&self.endpoint.api) {
                for (name, value) in &self.endpoint.headers {
                    request = request.header(name, value);
                }
            }
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let request = request
                .body(Full::default())
                .map_err(|e| Error::malformed(&url, e))?;
            let response = self.send("GET", &url, request, limit).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|v| v.to_str().ok())
                .ok_or_else(|| Error::malformed(&url, "redirect without a location"))?;
            let next = join(&url, location);
            if origin(&next) != origin(&url) {
                authorization = None; // credentials are for the registry alone
            }
            url = next;
        }
        Err(Error::malformed(url, "too many redirects"))
    }

    async fn send(
        &self,
        method: &'static str,
        url: &str,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let agent = HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        let connect = |reason: String| Error::Connect {
            method,
            url: url.to_owned(),
            reason,
        };
        match tokio::time::timeout(limit, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(connect(reason(&e, url))),
            Err(_) => Err(connect("context deadline exceeded (no answer in time)".to_owned())),
        }
    }

    /// Answers a registry's challenge with a header for further requests.
    async fn log_in(
        &self,
        response: &Response<Incoming>,
        limit: Duration,
    ) -> Result<HeaderValue, Error> {
        let credentials = self.endpoint.credentials.as_ref();
        let denied = |text: &str| Error::Denied(text.to_owned());
        for challenge in response.headers().get_all(header::WWW_AUTHENTICATE) {
            let Ok(challenge) = challenge.to_str() else { continue };
            let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
            if scheme.eq_ignore_ascii_case("basic") {
                let c = credentials
                    .filter(|c| !c.username.is_empty())
                    .ok_or_else(|| denied("authorization failed: no basic auth credentials"))?;
                return basic(c);
            }
            if scheme.eq_ignore_ascii_case("bearer") {
                return self.token(&parameters(rest), credentials, limit).await;
            }
        }
        Err(denied("authorization failed"))
    }

    async fn token(
        &self,
        challenge: &[(String, String)],
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<HeaderValue, Error> {
        let get = |key: &str| {
            challenge
                .iter()
                .find(|(k, _)| k == key)
                .map(|(_, v)| v.clone())
        };
        let realm = get("realm").ok_or_else(|| Error::malformed("challenge", "no realm"))?;
        let service = get("service").unwrap_or_default();
        let scope = get("scope")
            .unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
        let (method, request, url) = match credentials {
            Some(c) if !c.identity_token.is_empty() => {
                let body = format!(
                    "grant_type=refresh_token&service={}&scope={}&client_id=knarr&refresh_token={}",
                    escape(&service),
                    escape(&scope),
                    escape(&c.identity_token)
                );
                let request = Request::builder()
                    .method(Method::POST)
                    .uri(&realm)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::from(body));
                ("POST", request, realm)
            }
            _ => {
                let joint = if realm.contains('?') { '&' } else { '?' };
                let url = format!(
                    "{realm}{joint}service={}&scope={}",
                    escape(&service),
                    escape(&scope)
                );
                let mut request = Request::builder().uri(&url);
                if let Some(c) = credentials.filter(|c| !c.username.is_empty()) {
                    request = request.header(header::AUTHORIZATION, basic(c)?);
                }
                ("GET", request.body(Full::default()), url)
            }
        };
        let request = request.map_err(|e| Error::malformed(&url, e))?;
        let response = self.send(method, &url, request, limit).await?;
        if !response.status().is_success() {
            return Err(failure(response, method, &url).await);
        }
        let bytes = document(response, method, &url).await?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|e| Error::malformed(&url, e))?;
        match (token.token.is_empty(), token.access_token.is_empty()) {
            (false, _) => bearer(&token.token),
            (_, false) => bearer(&token.access_token),
            _ => Err(Error::malformed(url, "answer without a token")),
        }
    }
}

/// The one thing most worth telling about a failed connection, as Go's dialer words it.
fn reason(error: &(dyn std::error::Error + 'static), url: &str) -> String {
    let authority = origin(url);
    let authority = authority.split_once("://").map_or(authority, |(_, a)| a);
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(e) = at {
        last = e.to_string();
        if last.contains("failed to lookup address") {
            let host = authority.rsplit_once(':').map_or(authority, |(h, _)| h);
            return match last.contains("Temporary failure") {
                true => format!("dial tcp: lookup {host}: Temporary failure in name resolution"),
                false => format!("dial tcp: lookup {host}: no such host"),
            };
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            let text = match io.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused",
                std::io::ErrorKind::NetworkUnreachable => "network is unreachable",
                std::io::ErrorKind::HostUnreachable => "no route to host",
                std::io::ErrorKind::TimedOut => "i/o timeout",
                _ => "",
            };
            if !text.is_empty() {
                return format!("dial tcp {authority}: connect: {text}");
            }
        }
        at = e.source();
    }
    last
}

/// The error that a refusal amounts to.
async fn failure(response: Response<Incoming>, method: &'static str, url: &str) -> Error {
    let status = response.status();
    let bytes = document(response, method, url).await.unwrap_or_default();
    let failures: Failures = serde_json::from_slice(&bytes).unwrap_or(Failures { errors: vec![] });
    let detail: Vec<String> = failures
        .errors
        .iter()
        .map(|f| format!("{}: {}", f.code.to_lowercase(), f.message))
        .collect();
    match status {
        StatusCode::NOT_FOUND => Error::NotFound(url.to_owned()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied(match detail.is_empty() {
            true => format!("authorization failed: {status}"),
            false => format!("server message: {}", detail.join(", ")),
        }),
        _ => Error::Status {
            method,
            url: url.to_owned(),
            status: status.to_string(),
            detail: detail.iter().map(|d| format!(": {d}")).collect(),
        },
    }
}

async fn document(
    response: Response<Incoming>,
    method: &'static str,
    url: &str,
) -> Result<Bytes, Error> {
    let limited = Limited::new(response.into_body(), MAX_DOCUMENT as usize);
    match tokio::time::timeout(IDLE, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) => Err(Error::Connect {
            method,
            url: url.to_owned(),
            reason: e.to_string(),
        }),
        Err(_) => Err(Error::Connect {
            method,
            url: url.to_owned(),
            reason: "context deadline exceeded while reading".to_owned(),
        }),
    }
}

fn basic(c: &Credentials) -> Result<HeaderValue, Error> {
    let text = format!("{}:{}", c.username, c.password);
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    sensitive(format!("Basic {text}"))
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    sensitive(format!("Bearer {token}"))
}

fn sensitive(text: String) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::malformed("credentials", "not fit for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `key="value",key=value` of a challenge.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        out.push((key, value.to_owned()));
        rest = next;
    }
    out
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                (b as char).to_string()
            }
            b => format!("%{b:02X}"),
        })
        .collect()
}

fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    &url[..end]
}

fn join(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    if let Some(rest) = location.strip_prefix("//") {
        let scheme = base.split_once("://").map_or("https", |(s, _)| s);
        return format!("{scheme}://{rest}");
    }
    match location.starts_with('/') {
        true => format!("{}{location}", origin(base)),
        false => {
            let folder = base.rsplit_once('/').map_or(base, |(f, _)| f);
            format!("{folder}/{location}")
        }
    }
}
