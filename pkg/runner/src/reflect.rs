//! List and watch: a gapless stream of changes of one collection.

use crate::meta;
use bytes::BytesMut;
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use serde::de::DeserializeOwned;
use serde::Deserialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Anything with object metadata.
pub trait HasMeta {
    /// The metadata.
    fn m(&self) -> &ObjectMeta;
    /// The metadata, to be changed.
    fn m_mut(&mut self) -> &mut ObjectMeta;
}

impl<K: k8s_openapi::Metadata<Ty = ObjectMeta>> HasMeta for K {
    fn m(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn m_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Source {
    /// The collection's path, such as `/api/v1/pods`.
    pub path: String,
    /// Further query parameters, encoded (`fieldSelector=…`), or empty.
    pub query: String,
    /// Ask for metadata only.
    pub metadata_only: bool,
}

/// One step of the stream. After `Restart` come `Init` objects and one `InitDone`; what is not
/// named between them exists no more. Then changes, in order.
#[derive(Debug)]
pub enum Delta<T> {
    /// A new listing begins.
    Restart,
    /// An object of the listing.
    Init(T),
    /// The listing is complete as of this resource version.
    InitDone(u64),
    /// Created or changed.
    Applied(T),
    /// Deleted; the last state.
    Deleted(T),
    /// Everything up to this resource version has been told.
    Bookmark(u64),
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: String,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct MetaOnly {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    // Null where there is nothing.
    items: Option<Vec<T>>,
}

enum End {
    /// The server closed a healthy watch: resume.
    Closed,
    /// The version is gone, or the server said the watch cannot go on: list again.
    Relist,
    /// The server does not do streaming lists.
    NoStreaming,
    /// The path is not served (yet).
    NotServed,
    Failed(String),
}

const JSON_META_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const JSON_META: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

fn request(src: &Source, query: &str, list: bool) -> Result<http::Request<Vec<u8>>, http::Error> {
    let extra = if src.query.is_empty() { String::new() } else { format!("&{}", src.query) };
    let accept = match (src.metadata_only, list) {
        (false, _) => "application/json",
        (true, true) => JSON_META_LIST,
        (true, false) => JSON_META,
    };
    http::Request::get(format!("{}?{query}{extra}", src.path))
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())
}

/// Follows a collection until cancelled, telling `sink` every change. Reconnects with backoff;
/// never polls.
pub async fn reflect<T, F>(client: Client, src: Source, mut sink: F, cancel: CancellationToken)
where
    T: DeserializeOwned + HasMeta + Send,
    F: FnMut(Delta<T>) + Send,
{
    let mut at: Option<u64> = None;
    let mut streaming = true;
    let mut backoff = Duration::from_millis(50);
    loop {
        let turn = async {
            if at.is_none() && !streaming {
                match list_all(&client, &src, &mut sink).await {
                    Ok(rv) => at = Some(rv),
                    Err(e) => return e,
                }
            }
            watch(&client, &src, &mut at, &mut sink).await
        };
        let end = tokio::select! {
            () = cancel.cancelled() => return,
            end = turn => end,
        };
        match end {
            End::Closed => {
                backoff = Duration::from_millis(50);
                // A server that is going away closes at once: do not spin.
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            End::Relist => at = None,
            End::NoStreaming => {
                streaming = false;
                continue;
            }
            End::NotServed => {
                tracing::debug!(path = %src.path, "not served");
                backoff = backoff.max(Duration::from_millis(500));
            }
            End::Failed(e) => tracing::debug!(path = %src.path, error = %e, "watch failed"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(Duration::from_secs(5));
    }
}

async fn list_all<T, F>(client: &Client, src: &Source, sink: &mut F) -> Result<u64, End>
where
    T: DeserializeOwned,
    F: FnMut(Delta<T>),
{
    let mut token: Option<String> = None;
    sink(Delta::Restart);
    loop {
        let query = match &token {
            None => "limit=500".to_owned(),
            Some(t) => format!("limit=500&continue={}", encode(t)),
        };
        let req = request(src, &query, true).map_err(|e| End::Failed(e.to_string()))?;
        let list: List<T> = client.request(req).await.map_err(|e| match &e {
            kube::Error::Api(s) if s.code == 410 => End::Relist,
            kube::Error::Api(s) if s.code == 404 => End::NotServed,
            _ => End::Failed(e.to_string()),
        })?;
        for o in list.items.into_iter().flatten() {
            sink(Delta::Init(o));
        }
        token = list.metadata.continue_.filter(|c| !c.is_empty());
        if token.is_none() {
            let rv = list.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0);
            sink(Delta::InitDone(rv));
            return Ok(rv);
        }
    }
}

fn encode(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

async fn watch<T, F>(client: &Client, src: &Source, at: &mut Option<u64>, sink: &mut F) -> End
where
    T: DeserializeOwned + HasMeta,
    F: FnMut(Delta<T>),
{
    // Spread the server's restarts of watches without a random source.
    let timeout = 300 + (src.path.len() as u64 * 37) % 240;
    let mut initial = at.is_none();
    let query = match at {
        Some(rv) => format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout}&resourceVersion={rv}"
        ),
        None => format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        ),
    };
    let req = match request(src, &query, false) {
        Ok(r) => r.map(kube::client::Body::from),
        Err(e) => return End::Failed(e.to_string()),
    };
    let resp = match client.send(req).await {
        Ok(r) => r,
        Err(e) => return End::Failed(e.to_string()),
    };
    let status = resp.status();
    if !status.is_success() {
        return match status.as_u16() {
            410 => End::Relist,
            400 | 422 if initial => End::NoStreaming,
            404 | 403 | 401 | 405 => End::NotServed,
            c => End::Failed(format!("HTTP status {c}")),
        };
    }
    if initial {
        sink(Delta::Restart);
    }
    let mut body = resp.into_body();
    let mut buf = BytesMut::new();
    let mut scanned = 0;
    loop {
        let frame = if initial {
            // A server that ignores sendInitialEvents would leave us waiting for ever.
            match tokio::time::timeout(Duration::from_secs(5), body.frame()).await {
                Ok(f) => f,
                Err(_) => return End::NoStreaming,
            }
        } else {
            body.frame().await
        };
        let data = match frame {
            None if initial => return End::Failed("closed before the listing was complete".into()),
            None => return End::Closed,
            Some(Err(e)) => return if initial { End::Failed(e.to_string()) } else { End::Closed },
            Some(Ok(f)) => match f.into_data() {
                Ok(d) => d,
                Err(_) => continue,
            },
        };
        buf.extend_from_slice(&data);
        while let Some(i) = buf[scanned..].iter().position(|b| *b == b'\n') {
            let line = buf.split_to(scanned + i + 1);
            scanned = 0;
            if line.len() <= 1 {
                continue;
            }
            if let Some(end) = one_line(&line, src, at, &mut initial, sink) {
                return end;
            }
        }
        scanned = buf.len();
    }
}

fn one_line<T, F>(
    line: &[u8],
    src: &Source,
    at: &mut Option<u64>,
    initial: &mut bool,
    sink: &mut F,
) -> Option<End>
where
    T: DeserializeOwned + HasMeta,
    F: FnMut(Delta<T>),
{
    let parsed: Line<'_> = match serde_json::from_slice(line) {
        Ok(l) => l,
        Err(e) => return Some(End::Failed(format!("malformed watch event: {e}"))),
    };
    match parsed.r#type.as_str() {
        "BOOKMARK" => {
            let m: MetaOnly = match serde_json::from_str(parsed.object.get()) {
                Ok(m) => m,
                Err(e) => return Some(End::Failed(format!("malformed bookmark: {e}"))),
            };
            let rv = meta::rv(&m.metadata);
            *at = Some(rv);
            let ends = meta::annotation(&m.metadata, "k8s.io/initial-events-end") == Some("true");
            if *initial && ends {
                *initial = false;
                sink(Delta::InitDone(rv));
            } else if !*initial {
                sink(Delta::Bookmark(rv));
            }
            None
        }
        "ERROR" => {
            tracing::debug!(path = %src.path, status = parsed.object.get(), "watch ended by the server");
            // A server whose store cannot tell when a listing is complete says so here.
            Some(if *initial { End::NoStreaming } else { End::Relist })
        }
        kind => {
            let obj: T = match serde_json::from_str(parsed.object.get()) {
                Ok(o) => o,
                Err(e) => {
                    tracing::warn!(path = %src.path, error = %e, "an object cannot be read");
                    return None;
                }
            };
            if *initial {
                sink(Delta::Init(obj));
                return None;
            }
            *at = Some(meta::rv(obj.m()));
            sink(if kind == "DELETED" { Delta::Deleted(obj) } else { Delta::Applied(obj) });
            None
        }
    }
}
