//! An API server that only stores: objects by path, lists, watches, merges.
#![allow(clippy::unwrap_used)]
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Out = Response<BoxBody<Bytes, std::io::Error>>;

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
}

#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<(String, &'static str, Value)>,
}

fn answer(code: u16, v: &Value) -> Out {
    let body = Full::new(Bytes::from(v.to_string())).map_err(|e| match e {}).boxed();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn refuse(code: u16, reason: &str) -> Out {
    answer(code, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "code": code, "message": reason}))
}

/// RFC 7386, but lists of conditions merge by type and `$patch` markers go.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(p) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (k, v) in p {
        if v.is_null() {
            into.as_object_mut().unwrap().remove(k);
        } else if k == "conditions" && into.get(k).is_some() {
            let list = into[k].as_array_mut().unwrap();
            for c in v.as_array().unwrap() {
                match list.iter_mut().find(|o| o["type"] == c["type"]) {
                    Some(o) => merge(o, c),
                    None => {
                        let mut new = Value::Null;
                        merge(&mut new, c);
                        list.push(new);
                    }
                }
            }
        } else if let Value::Array(a) = v {
            into[k] = a.iter().filter(|e| e.get("$patch").is_none()).cloned().collect();
        } else {
            merge(into.as_object_mut().unwrap().entry(k).or_insert(Value::Null), v);
        }
    }
}

impl Api {
    pub fn new() -> Self {
        Api { state: Arc::default(), changes: broadcast::channel(10_000).0 }
    }

    pub fn client(&self) -> kube::Client {
        let me = self.clone();
        let service = tower::service_fn(move |r: Request<Body>| {
            let me = me.clone();
            async move { Ok::<_, std::io::Error>(me.handle(r).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn put(&self, path: &str, mut v: Value) -> Value {
        let mut s = self.state.lock().unwrap();
        s.version += 1;
        let new = !s.objects.contains_key(path);
        v["metadata"]["resourceVersion"] = s.version.to_string().into();
        if v["metadata"]["uid"].is_null() {
            v["metadata"]["uid"] = format!("uid-{}", s.version).into();
        }
        if v["metadata"]["name"].is_null() {
            v["metadata"]["name"] = path.rsplit('/').next().unwrap().into();
        }
        let parts: Vec<&str> = path.split('/').collect();
        if let Some(i) = parts.iter().position(|p| *p == "namespaces") {
            v["metadata"]["namespace"] = parts[i + 1].into();
        }
        s.objects.insert(path.into(), v.clone());
        let _ = self.changes.send((path.into(), if new { "ADDED" } else { "MODIFIED" }, v.clone()));
        v
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub fn remove(&self, path: &str) {
        let mut s = self.state.lock().unwrap();
        if let Some(v) = s.objects.remove(path) {
            let _ = self.changes.send((path.into(), "DELETED", v));
        }
    }

    pub fn patch(&self, path: &str, patch: &Value) {
        let mut v = self.get(path).unwrap();
        merge(&mut v, patch);
        self.put(path, v);
    }

    /// All objects whose path contains the text.
    pub fn all(&self, part: &str) -> Vec<Value> {
        let s = self.state.lock().unwrap();
        s.objects.iter().filter(|(p, _)| p.contains(part)).map(|(_, v)| v.clone()).collect()
    }

    /// Waits until the object fits.
    pub async fn wait(&self, path: &str, what: &str, ok: impl Fn(&Value) -> bool) -> Value {
        let mut rx = self.changes.subscribe();
        let work = async {
            loop {
                if let Some(v) = self.get(path).filter(|v| ok(v)) {
                    return v;
                }
                let _ = rx.recv().await;
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(20), work).await {
            Ok(v) => v,
            Err(_) => panic!("{what}: {:#}", self.get(path).unwrap_or_default()),
        }
    }

    /// Waits until the object is gone.
    pub async fn wait_gone(&self, path: &str) {
        let mut rx = self.changes.subscribe();
        let work = async {
            while self.get(path).is_some() {
                let _ = rx.recv().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), work).await.expect("gone in time");
    }

    async fn handle(&self, r: Request<Body>) -> Out {
        let (parts, body) = r.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().replace("%3D", "=").replace("%3d", "=");
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let object = path.trim_end_matches("/status").to_owned();
        match parts.method {
            Method::GET => match self.get(&object) {
                Some(v) => answer(200, &v),
                None if is_object(&path) => refuse(404, "NotFound"),
                None => self.list(&path, &query),
            },
            Method::POST if path.ends_with("/token") => answer(201, &json!({
                "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                "spec": {"audiences": []},
                "status": {"token": "a-token", "expirationTimestamp": "2999-01-01T00:00:00Z"}})),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&path).is_some() {
                    return refuse(409, "AlreadyExists");
                }
                answer(201, &self.put(&path, body))
            }
            Method::PATCH => {
                let Some(mut v) = self.get(&object) else { return refuse(404, "NotFound") };
                merge(&mut v, &body);
                answer(200, &self.put(&object, v))
            }
            Method::DELETE => {
                let Some(v) = self.get(&object) else { return refuse(404, "NotFound") };
                if v["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
                    self.remove(&object);
                }
                answer(200, &v)
            }
            _ => refuse(405, "MethodNotAllowed"),
        }
    }

    fn list(&self, path: &str, query: &str) -> Out {
        let plural = path.rsplit('/').next().unwrap().to_owned();
        let ns = path.split("/namespaces/").nth(1).and_then(|p| p.split('/').next()).map(str::to_owned);
        let field = query.split('&').find_map(|p| p.strip_prefix("fieldSelector=")).map(str::to_owned);
        let fits = move |p: &str, v: &Value| {
            p.split('/').rev().nth(1) == Some(plural.as_str())
                && ns.as_deref().is_none_or(|n| v["metadata"]["namespace"] == n)
                && field.as_deref().is_none_or(|f| {
                    let (k, want) = f.split_once('=').unwrap();
                    let got = k.split('.').fold(v, |v, k| &v[k]);
                    got == want
                })
        };
        if !query.contains("watch=true") {
            let s = self.state.lock().unwrap();
            let items: Vec<Value> = s.objects.iter().filter(|(p, v)| fits(p, v)).map(|(_, v)| v.clone()).collect();
            return answer(200, &json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": s.version.to_string()}, "items": items}));
        }
        let from: u64 = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok()).unwrap_or(0);
        let (missed, rx) = {
            let s = self.state.lock().unwrap();
            let missed: Vec<_> = s.objects.iter()
                .filter(|(_, v)| v["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > from)
                .map(|(p, v)| (p.clone(), "MODIFIED", v.clone())).collect();
            (missed, self.changes.subscribe())
        };
        let live = tokio_stream::wrappers::BroadcastStream::new(rx).filter_map(|e| async { e.ok() });
        let events = futures::stream::iter(missed).chain(live).filter_map(move |(p, t, v)| {
            let out = fits(&p, &v).then(|| {
                let line = format!("{}\n", json!({"type": t, "object": v}));
                Ok(Frame::data(Bytes::from(line)))
            });
            async move { out }
        });
        Response::builder().status(StatusCode::OK).body(boxed(events)).unwrap()
    }
}

/// Whether a path names one object.
fn is_object(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let base = if parts[0] == "api" { 2 } else { 3 };
    let rest = &parts[base..];
    match rest.first() {
        Some(&"namespaces") if rest.len() > 2 => rest.len() == 4,
        _ => rest.len() == 2,
    }
}

/// Passes a stream through a channel, for bodies must be `Sync`.
fn boxed(
    events: impl futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static,
) -> BoxBody<Bytes, std::io::Error> {
    let (tx, rx) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move {
        let mut events = Box::pin(events);
        loop {
            tokio::select! {
                e = events.next() => match e {
                    Some(e) => if tx.send(e).await.is_err() { return },
                    None => return,
                },
                () = tx.closed() => return,
            }
        }
    });
    BodyExt::boxed(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(rx)))
}
