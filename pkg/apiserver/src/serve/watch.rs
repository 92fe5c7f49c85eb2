//! Watch: initial state, every change once, bookmarks, an honest end.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use knarr_registry::{ApiError, Change, Entry, FieldError, Watcher, list::parse_version};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    partial,
    read::{Selection, selection},
};
use crate::{
    bridge,
    core::Ctx,
    flowcontrol::CountedWatch,
    respond::{BodyError, Encoding, Reply, View},
};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

struct Watching {
    ctx: Arc<Ctx>,
    watcher: Watcher,
    selection: Selection,
    scope: String,
    bookmarks: bool,
    deadline: Instant,
    next_bookmark: Instant,
    queue: VecDeque<Bytes>,
    first_table: bool,
    same: bool,
    done: bool,
    /// Writes are thought to cost more while it runs.
    _counted: Option<CountedWatch>,
}

pub(super) async fn watch(ctx: &Arc<Ctx>) -> Result<Reply, ApiError> {
    let kind = ctx.kind()?.clone();
    let q = &ctx.query;
    let selection = selection(ctx)?;
    let bookmarks = q.flag("allowWatchBookmarks");
    let initial = q
        .has("sendInitialEvents")
        .then(|| q.flag("sendInitialEvents"));
    let version_match = q.get("resourceVersionMatch");
    let forbidden = |f: &str, why: &str| {
        Err(ApiError::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            &[FieldError::forbidden(f, why)],
        ))
    };
    match initial {
        Some(_) if version_match != "NotOlderThan" => {
            return forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        None if !version_match.is_empty() => {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        _ => {}
    }
    let seconds: u64 = q.get("timeoutSeconds").parse().unwrap_or(0);
    let time = if seconds > 0 {
        Duration::from_secs(seconds)
    } else {
        // Not all at once.
        let least = ctx.core.settings.min_request_timeout;
        least + least.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0)
    };
    let rv = q.get("resourceVersion");
    let namespace = ctx.info.namespace_of(kind.namespaced);
    let scope = kind.scope(&namespace);
    let interest = selection.filter.interest(&namespace);
    let now = Instant::now();
    let (mut state, mut failed) = (None, None);
    let asked = parse_version(rv)?;
    let send_state = initial.unwrap_or(rv.is_empty() || rv == "0");
    let mut head = VecDeque::new();
    let same = bridge::same_version(&ctx.resource);
    let mut revision = 0;
    let watcher = if send_state || (rv.is_empty() && initial == Some(false)) || rv == "0" {
        if rv.is_empty() {
            ctx.core.registry.current().await?;
        } else if rv != "0" {
            ctx.core.registry.at_least(asked).await?;
        }
        // The applied version is read before the snapshot, so it never promises too much.
        revision = ctx.core.registry.applied();
        let (snapshot, w) = kind.cache.snapshot_and_watch(interest);
        if send_state {
            state = Some(snapshot);
        }
        Some(w)
    } else {
        // Else an event at or before the version asked for could still come.
        ctx.core.registry.at_least(asked).await?;
        match kind.cache.watch(asked, interest) {
            Ok(w) => Some(w),
            Err(lag) => {
                failed = Some(ApiError::expired(format!(
                    "too old resource version: {asked} ({})",
                    lag.oldest
                )));
                None
            }
        }
    };
    let counted = ctx.core.limiter.watches(&ctx.info, q);
    let mut w = match watcher {
        Some(watcher) => Watching {
            ctx: Arc::clone(ctx),
            watcher,
            selection,
            scope,
            bookmarks,
            same,
            deadline: now + time,
            next_bookmark: now + BOOKMARK_EVERY,
            queue: VecDeque::new(),
            first_table: true,
            done: false,
            _counted: counted,
        },
        None => {
            let e = failed.unwrap_or_else(ApiError::no_resource);
            head.push_back(frame_bytes("ERROR", e.status().to_string().as_bytes()));
            let body = StreamBody::new(stream::iter(
                head.into_iter().map(|b| Ok::<_, BodyError>(Frame::data(b))),
            ));
            return Ok(reply(body.boxed_unsync(), false));
        }
    };
    if let Some(s) = state {
        let scope = w.scope.clone();
        for e in s.prefixed(&scope) {
            if w.passes(e).await {
                let b = w.event("ADDED", e).await;
                w.queue.push_back(b);
            }
        }
        if initial == Some(true) && bookmarks {
            let b = w.bookmark(revision, true);
            w.queue.push_back(b);
        }
    }
    let proto = w.protobuf();
    let body = StreamBody::new(stream::unfold(w, |mut w| async move {
        w.next()
            .await
            .map(|b| (Ok::<_, BodyError>(Frame::data(b)), w))
    }));
    Ok(reply(body.boxed_unsync(), proto))
}

fn reply(body: crate::respond::Body, proto: bool) -> Reply {
    let mut r = Response::new(body);
    let t = if proto {
        "application/vnd.kubernetes.protobuf;stream=watch"
    } else {
        "application/json"
    };
    r.headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(t));
    r.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    r
}

fn frame_bytes(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    Bytes::from(out)
}

impl Watching {
    fn protobuf(&self) -> bool {
        self.ctx.format.encoding == Encoding::Protobuf
            && self.ctx.format.view == View::Full
            && bridge::can_protobuf(&self.ctx.resource)
    }

    fn plain(&self) -> bool {
        self.same && self.ctx.format.view == View::Full && !self.protobuf()
    }

    async fn event(&mut self, kind: &'static str, e: &Entry) -> Bytes {
        if self.plain() {
            return frame_bytes(kind, e.json());
        }
        self.converted(kind, e.value()).await
    }

    async fn converted(&mut self, kind: &'static str, v: Value) -> Bytes {
        match super::convert::outward_one(&self.ctx.core, v, &self.ctx.resource).await {
            Ok(v) => self.value_event(kind, &v),
            Err(e) => {
                self.done = true;
                frame_bytes("ERROR", e.status().to_string().as_bytes())
            }
        }
    }

    fn value_event(&mut self, kind: &'static str, v: &Value) -> Bytes {
        if self.protobuf() {
            return bridge::protobuf_frame(kind, v).unwrap_or_default();
        }
        match self.ctx.format.view {
            View::Table if kind != "BOOKMARK" => {
                let first = std::mem::replace(&mut self.first_table, false);
                let meta = json!({"resourceVersion": v["metadata"]["resourceVersion"]});
                let t = bridge::table(
                    &self.ctx.resource,
                    &[v],
                    self.ctx.query.get("includeObject"),
                    meta,
                    first,
                )
                .unwrap_or_default();
                frame_bytes(kind, t.to_string().as_bytes())
            }
            View::Partial => frame_bytes(kind, partial(v).to_string().as_bytes()),
            _ => frame_bytes(kind, v.to_string().as_bytes()),
        }
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let r = &self.ctx.resource;
        let mut v = json!({"kind": r.kind, "apiVersion": r.api_version(), "metadata": meta});
        if let Some(m) = v["metadata"].as_object_mut() {
            m.remove("creationTimestamp");
        }
        self.value_event("BOOKMARK", &v)
    }

    /// Whether an object is one that this watcher asked for.
    async fn passes(&self, e: &Entry) -> bool {
        let early = self.selection.filter.is_empty() || self.selection.filter.passes(e);
        if !early || self.selection.own.is_empty() {
            return early;
        }
        let r = &self.ctx.resource;
        match super::convert::outward_one(&self.ctx.core, e.value(), r).await {
            Ok(v) => self.selection.shows(r, &v),
            // It is shown, and with it what went wrong.
            Err(_) => true,
        }
    }

    /// What a change means to this watcher, `None` if nothing.
    async fn translate(&mut self, c: &Change) -> Option<Bytes> {
        if !c.entry.key.starts_with(&self.scope) {
            return None;
        }
        let was = match &c.previous {
            Some(p) => self.passes(p).await,
            None => false,
        };
        let is = !c.deleted && self.passes(&c.entry).await;
        let kind = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        if kind == "DELETED" && !c.deleted {
            // It left the selection: shown as it was, with the version of the change.
            let mut v = c.previous.as_ref()?.value();
            v["metadata"]["resourceVersion"] = json!(c.revision.to_string());
            return Some(self.converted(kind, v).await);
        }
        let natural = if c.deleted {
            "DELETED"
        } else if c.previous.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        if natural == kind && self.plain() {
            return Some(
                c.frame
                    .get_or_init(|| frame_bytes(kind, c.entry.json()))
                    .clone(),
            );
        }
        Some(self.event(kind, &c.entry).await)
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(b) = self.queue.pop_front() {
                // Many small frames at once cost less than one by one.
                if self.queue.is_empty() || b.len() > 16 * 1024 {
                    return Some(b);
                }
                let mut out = Vec::with_capacity(64 * 1024);
                out.extend_from_slice(&b);
                while out.len() < 64 * 1024 {
                    let Some(b) = self.queue.pop_front() else {
                        break;
                    };
                    out.extend_from_slice(&b);
                }
                return Some(Bytes::from(out));
            }
            if self.done {
                return None;
            }
            let wake = if self.bookmarks {
                self.deadline.min(self.next_bookmark)
            } else {
                self.deadline
            };
            tokio::select! {
                biased;
                changes = self.watcher.next() => match changes {
                    Ok(all) => {
                        for c in all {
                            if let Some(b) = self.translate(&c).await {
                                self.queue.push_back(b);
                            }
                        }
                    }
                    Err(lag) => {
                        let e = ApiError::expired(format!("too old resource version: watcher fell behind ({})", lag.oldest));
                        let status = e.status();
                        let frame = match self.protobuf() {
                            true => bridge::protobuf_frame("ERROR", &status).unwrap_or_default(),
                            false => frame_bytes("ERROR", status.to_string().as_bytes()),
                        };
                        self.queue.push_back(frame);
                        self.done = true;
                    }
                },
                () = self.ctx.core.stop.cancelled() => self.done = true,
                () = tokio::time::sleep_until(wake) => {
                    let now = Instant::now();
                    if now >= self.deadline {
                        self.done = true;
                    }
                    if self.bookmarks {
                        // Read first: every change up to it is in the ring already.
                        let applied = self.ctx.core.registry.applied();
                        for c in self.watcher.ready().unwrap_or_default() {
                            if let Some(b) = self.translate(&c).await {
                                self.queue.push_back(b);
                            }
                        }
                        let b = self.bookmark(applied, false);
                        self.queue.push_back(b);
                        self.next_bookmark = now + BOOKMARK_EVERY;
                    }
                }
            }
        }
    }
}
