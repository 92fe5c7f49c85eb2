//! Audit: what was asked and answered, as events of `audit.k8s.io/v1`, one a line.

mod log;
mod policy;
mod sinks;

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use knarr_registry::Object;
use serde_json::{Map, Value, json};

pub use log::LogFile;
pub use policy::{AuditPolicy, Level};
pub use sinks::{AuditBatch, AuditDelivery, AuditMode, Sinks};

use crate::{
    auth::UserInfo,
    core::Core,
    request::Info,
    respond::{Body, BodyError, Reply, full},
    serve,
    webhook::RemoteService,
};

/// Answers above this many bytes are not taken apart.
const OBJECT_LIMIT: u64 = 10 * 1024 * 1024;

/// How audit is set up.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// What is recorded.
    pub policy: AuditPolicy,
    /// The file events go to, and how.
    pub log: Option<(LogFile, AuditDelivery)>,
    /// The service events go to, and how.
    pub webhook: Option<(RemoteService, AuditDelivery)>,
}

/// The policy, and where events go.
pub struct Audit {
    policy: AuditPolicy,
    sinks: Arc<Sinks>,
}

/// The arrival of a request could not be stored, and had to be.
#[derive(Clone, Copy, Debug)]
pub struct Unrecorded;

/// The record of one request, from its arrival to its answer.
pub struct Record {
    level: Level,
    omit: Vec<String>,
    bare: bool,
    sinks: Arc<Sinks>,
    event: Mutex<Map<String, Value>>,
}

impl Audit {
    /// Opens the log.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(c: AuditConfig) -> std::io::Result<Self> {
        Ok(Self {
            policy: c.policy,
            sinks: Arc::new(Sinks::open(c.log, c.webhook)?),
        })
    }

    /// Delivers what is still waiting.
    pub async fn close(&self) {
        self.sinks.close().await;
    }

    /// Begins the record of a request; `None` if there is to be none.
    ///
    /// # Errors
    /// It could not be stored, and had to be.
    pub async fn begin(
        &self,
        id: &str,
        i: &Info,
        user: &UserInfo,
        headers: &HeaderMap,
        uri: &str,
        peer: Option<IpAddr>,
    ) -> Result<Option<Arc<Record>>, Unrecorded> {
        let v = self.policy.verdict(user, i);
        if v.level == Level::None {
            return Ok(None);
        }
        let mut e = Map::new();
        let mut set = |k: &str, v: Value| e.insert(k.to_owned(), v);
        set("kind", json!("Event"));
        set("apiVersion", json!("audit.k8s.io/v1"));
        set("level", json!(v.level.name()));
        set("auditID", json!(id));
        set("stage", json!("RequestReceived"));
        set("requestURI", json!(uri));
        set("verb", json!(i.verb));
        set(
            "user",
            if user.name.is_empty() {
                json!({})
            } else {
                user.value()
            },
        );
        let text = |k: &str| headers.get(k).and_then(|v| v.to_str().ok()).unwrap_or("");
        let mut sources: Vec<String> = text("x-forwarded-for")
            .split(',')
            .map(str::trim)
            .filter(|s| s.parse::<IpAddr>().is_ok())
            .map(str::to_owned)
            .collect();
        let real = text("x-real-ip").trim();
        if real.parse::<IpAddr>().is_ok() && !sources.iter().any(|s| s == real) {
            sources.push(real.to_owned());
        }
        let own = peer.unwrap_or(IpAddr::from([127, 0, 0, 1])).to_string();
        if sources.last() != Some(&own) {
            sources.push(own);
        }
        set("sourceIPs", json!(sources));
        let agent: String = text(header::USER_AGENT.as_str())
            .chars()
            .take(1024)
            .collect();
        if !agent.is_empty() {
            set("userAgent", json!(agent));
        }
        if i.resource_request {
            let mut r = json!({});
            for (k, v) in [
                ("resource", &i.resource),
                ("namespace", &i.namespace),
                ("name", &i.name),
                ("apiGroup", &i.group),
                ("apiVersion", &i.version),
                ("subresource", &i.subresource),
            ] {
                if !v.is_empty() {
                    r[k] = json!(v);
                }
            }
            set("objectRef", r);
        }
        let now = knarr_registry::object::now_micro();
        set("requestReceivedTimestamp", json!(now));
        set("stageTimestamp", json!(now));
        let r = Arc::new(Record {
            level: v.level,
            omit: v.omit,
            bare: v.omit_managed_fields,
            sinks: Arc::clone(&self.sinks),
            event: Mutex::new(e),
        });
        if r.emit("RequestReceived").await { Ok(Some(r)) } else { Err(Unrecorded) }
    }
}

fn strip(v: &mut Value) {
    if let Some(m) = v.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("managedFields");
    }
    for item in v
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        strip(item);
    }
}

/// A body as JSON, whatever its encoding.
fn object(media: &str, body: &[u8]) -> Option<Value> {
    match media.split(';').next().unwrap_or("").trim() {
        "application/vnd.kubernetes.protobuf" => knarr_schema::proto::decode_object(body).ok(),
        "application/yaml" | "application/apply-patch+yaml" => knarr_schema::yaml::parse(body).ok(),
        _ => knarr_schema::json::value(body).ok(),
    }
}

impl Record {
    fn with<T>(&self, f: impl FnOnce(&mut Map<String, Value>) -> T) -> T {
        f(&mut self.event.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the record, as it is, to where events go; false if it had to be taken and was not.
    async fn emit(&self, stage: &str) -> bool {
        if self.omit.iter().any(|s| s == stage) {
            return true;
        }
        let line = self.with(|e| {
            e.insert("stage".into(), json!(stage));
            if stage != "RequestReceived" {
                e.insert(
                    "stageTimestamp".into(),
                    json!(knarr_registry::object::now_micro()),
                );
            }
            serde_json::to_vec(e)
        });
        match line {
            Ok(event) => self.sinks.take(event).await,
            Err(_) => true,
        }
    }

    /// Adds a note; the first of a key stays.
    pub fn annotate(&self, key: &str, value: &str) {
        self.with(|e| {
            let all = e.entry("annotations").or_insert_with(|| json!({}));
            if all.get(key).is_none() {
                all[key] = json!(value);
            }
        });
    }

    /// As whom the request was made in the end.
    pub fn impersonated(&self, user: &UserInfo, constraint: &str) {
        self.with(|e| e.insert("impersonatedUser".into(), user.value()));
        if !constraint.is_empty() {
            self.with(|e| e.insert("authenticationMetadata".into(), json!({"impersonationConstraint": constraint})));
        }
    }

    fn shown(&self, mut v: Value) -> Value {
        if self.bare {
            strip(&mut v);
        }
        v
    }

    /// Takes what was sent into the record; the request with its body as it was.
    ///
    /// # Errors
    /// The body cannot be read.
    pub async fn sent(
        &self,
        request: Request<Body>,
    ) -> Result<Request<Body>, knarr_registry::ApiError> {
        if self.level < Level::Request
            || !matches!(
                request.method().as_str(),
                "POST" | "PUT" | "PATCH" | "DELETE"
            )
        {
            return Ok(request);
        }
        let (parts, body) = request.into_parts();
        let bytes = serve::read_body(body).await?;
        let media = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("application/json")
            .to_lowercase();
        if !bytes.is_empty()
            && let Some(v) = object(&media, &bytes)
        {
            self.with(|e| {
                if let Some(r) = e
                    .get_mut("objectRef")
                    .and_then(Value::as_object_mut)
                    .filter(|_| v.is_object())
                {
                    for k in ["name", "namespace", "uid", "resourceVersion"] {
                        let have = v.str_at(&["metadata", k]);
                        if !have.is_empty() && !r.contains_key(k) {
                            r.insert(k.to_owned(), json!(have));
                        }
                    }
                }
            });
            let v = self.shown(v);
            self.with(|e| e.insert("requestObject".into(), v));
        }
        Ok(Request::from_parts(parts, full(bytes)))
    }

    fn status(&self, code: u16, answer: Option<&Value>) {
        let mut s = json!({"metadata": {}});
        if let Some(v) = answer.filter(|v| v["kind"] == "Status" && v["apiVersion"] == "v1") {
            for k in ["status", "message", "reason", "details"] {
                if let Some(x) = v.get(k).filter(|x| !x.is_null()) {
                    s[k] = x.clone();
                }
            }
        }
        s["code"] = json!(code);
        self.with(|e| e.insert("responseStatus".into(), s));
    }

    /// Takes the answer into the record and closes it; at once, or when a long answer ends.
    pub async fn answered(self: Arc<Self>, reply: Reply, long: bool) -> Reply {
        let code = reply.status().as_u16();
        if long {
            self.status(code, None);
            self.emit("ResponseStarted").await;
            return reply.map(|body| {
                Tail {
                    body,
                    record: Some(self),
                }
                .boxed_unsync()
            });
        }
        let wanted = self.level == Level::RequestResponse || code >= 400;
        let size = reply.body().size_hint().upper();
        if !wanted
            || size.is_none_or(|n| n > OBJECT_LIMIT)
            || reply.headers().contains_key(header::CONTENT_ENCODING)
        {
            self.status(code, None);
            self.emit("ResponseComplete").await;
            return reply;
        }
        let (parts, body) = reply.into_parts();
        let bytes = match body.collect().await {
            Ok(b) => b.to_bytes(),
            Err(_) => Bytes::new(),
        };
        let media = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
            .to_lowercase();
        let v = if media.starts_with("application/") {
            object(&media, &bytes)
        } else {
            None
        };
        self.status(code, v.as_ref());
        if let Some(v) = v.filter(|v| self.level == Level::RequestResponse && v.is_object()) {
            let v = self.shown(v);
            self.with(|e| e.insert("responseObject".into(), v));
        }
        self.emit("ResponseComplete").await;
        Reply::from_parts(parts, full(bytes))
    }
}

/// A long answer; when it has ended, or nobody reads it any more, the record is closed.
struct Tail {
    body: Body,
    record: Option<Arc<Record>>,
}

impl http_body::Body for Tail {
    type Data = Bytes;
    type Error = BodyError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(r) = self.record.take() {
            tokio::spawn(async move { r.emit("ResponseComplete").await });
        }
    }
}

/// The record of a request that nobody was found to be behind.
pub async fn unauthenticated(
    core: &Core,
    id: &str,
    i: &Info,
    headers: &HeaderMap,
    uri: &str,
    peer: Option<IpAddr>,
) {
    let Some(a) = &core.audit else { return };
    let nobody = UserInfo::default();
    if let Ok(Some(r)) = a.begin(id, i, &nobody, headers, uri, peer).await {
        r.status(401, Some(&json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "Authentication failed, attempted: ", "reason": "Unauthorized"})));
        r.emit("ResponseStarted").await;
    }
}
