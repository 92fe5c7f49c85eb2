//! Events for users: deduplicated, aggregated and rate limited like upstream's recorder, and
//! written by one background task so that no controller waits for them.

use crate::Kind;
use crate::meta;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams, Request};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// For information.
    Normal,
    /// Something a user should see.
    Warning,
}

/// An event about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSpec {
    /// The component that speaks, such as `deployment-controller`.
    pub component: String,
    /// The node it runs on, or empty.
    pub host: String,
    /// What it is about.
    pub regarding: ObjectReference,
    /// Severity.
    pub kind: EventType,
    /// CamelCase reason.
    pub reason: String,
    /// Text.
    pub message: String,
    /// For the scheduler: what was done (`Binding`, `Scheduling`); else empty.
    pub action: String,
}

/// Takes events without waiting; drops them when a thousand are pending. Clones share it.
#[derive(Clone)]
pub struct Recorder {
    tx: mpsc::Sender<EventSpec>,
}

/// A reference to an object, for events.
pub fn reference<K: Kind>(o: &K) -> ObjectReference {
    let m = o.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: m.name.clone(),
        namespace: m.namespace.clone(),
        uid: m.uid.clone(),
        resource_version: m.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// Starts the writer.
    pub fn start(client: Client, cancel: CancellationToken) -> Self {
        let (tx, rx) = mpsc::channel(1000);
        tokio::spawn(write_all(client, rx, cancel));
        Self { tx }
    }

    /// Records an event as given.
    pub fn record(&self, e: EventSpec) {
        if self.tx.try_send(e).is_err() {
            crate::metrics::counter("knarr_events_dropped_total", "recorder").inc();
        }
    }

    /// Records an event about an object.
    pub fn event<K: Kind>(
        &self,
        component: &str,
        about: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(EventSpec {
            component: component.to_owned(),
            host: String::new(),
            regarding: reference(about),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            action: String::new(),
        });
    }
}

type Same = (String, String, String, String, String);

#[derive(Default)]
struct Correlator {
    /// Component, object uid, type, reason, message -> the event written and its count.
    written: HashMap<Same, (String, i32)>,
    /// Component, object, type, reason -> distinct messages and when the window began.
    similar: HashMap<(String, String, String, String), (HashSet<String>, Instant)>,
    /// Component, object -> tokens and when they were counted.
    tokens: HashMap<(String, String), (f64, Instant)>,
}

const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: u64 = 600;
const REMEMBER: usize = 4096;

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

async fn write_all(client: Client, mut rx: mpsc::Receiver<EventSpec>, cancel: CancellationToken) {
    let mut c = Correlator::default();
    loop {
        let spec = tokio::select! {
            () = cancel.cancelled() => return,
            e = rx.recv() => match e { Some(e) => e, None => return },
        };
        if let Err(e) = write_one(&client, &mut c, spec).await {
            tracing::debug!(error = %e, "an event was not written");
        }
    }
}

async fn write_one(client: &Client, c: &mut Correlator, spec: EventSpec) -> Result<(), kube::Error> {
    if c.written.len() > REMEMBER {
        *c = Correlator::default();
    }
    let now = Instant::now();
    let object = format!(
        "{}/{}/{}",
        spec.regarding.namespace.as_deref().unwrap_or(""),
        spec.regarding.kind.as_deref().unwrap_or(""),
        spec.regarding.uid.as_deref().or(spec.regarding.name.as_deref()).unwrap_or("")
    );
    let kind = match spec.kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    let (tokens, at) = c
        .tokens
        .entry((spec.component.clone(), object.clone()))
        .or_insert((BURST, now));
    *tokens = (*tokens + now.duration_since(*at).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
    *at = now;
    if *tokens < 1.0 {
        return Ok(());
    }
    *tokens -= 1.0;
    let group = (spec.component.clone(), object.clone(), kind.to_owned(), spec.reason.clone());
    let (messages, began) = c.similar.entry(group).or_insert_with(|| (HashSet::new(), now));
    if now.duration_since(*began).as_secs() > SIMILAR_WINDOW {
        messages.clear();
        *began = now;
    }
    messages.insert(spec.message.clone());
    let combined = messages.len() >= SIMILAR_MAX;
    let message = if combined {
        format!("(combined from similar events): {}", spec.message)
    } else {
        spec.message.clone()
    };
    let same_key = if combined { "(combined)".to_owned() } else { message.clone() };
    let key = (spec.component.clone(), object, kind.to_owned(), spec.reason.clone(), same_key);
    let ns = spec.regarding.namespace.clone().filter(|n| !n.is_empty()).unwrap_or("default".into());
    let path = format!("/api/v1/namespaces/{ns}/events");
    let t = meta::now();
    if let Some((name, count)) = c.written.get_mut(&key) {
        let patch = Patch::Strategic(serde_json::json!({
            "count": *count + 1, "lastTimestamp": meta::time(t), "message": message,
        }));
        let req = Request::new(path.clone())
            .patch(name, &PatchParams::default(), &patch)
            .map_err(kube::Error::BuildRequest)?;
        match client.request_text(req).await {
            Ok(_) => {
                *count += 1;
                return Ok(());
            }
            Err(e) if crate::is_not_found(&e) => {}
            Err(e) => return Err(e),
        }
    }
    let seq = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let nanos = u64::try_from(t.as_nanosecond()).unwrap_or(0).wrapping_add(seq);
    let name = format!("{}.{nanos:x}", spec.regarding.name.as_deref().unwrap_or("unknown"));
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(ns),
            ..ObjectMeta::default()
        },
        involved_object: spec.regarding,
        type_: Some(kind.to_owned()),
        reason: Some(spec.reason),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(meta::time(t)),
        last_timestamp: Some(meta::time(t)),
        source: Some(EventSource {
            component: Some(spec.component.clone()),
            host: Some(spec.host).filter(|h| !h.is_empty()),
        }),
        reporting_component: Some(spec.component),
        action: Some(spec.action).filter(|a| !a.is_empty()),
        ..Event::default()
    };
    let data = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
    let req = Request::new(path)
        .create(&PostParams::default(), data)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(req).await?;
    c.written.insert(key, (name, 1));
    Ok(())
}
