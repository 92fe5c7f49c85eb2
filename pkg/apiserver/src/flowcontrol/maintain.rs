//! The objects of priority and fairness: the bootstrap ones are kept as they should be, all are
//! put in force as they change, and every schema says whether its level is there.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use knarr_registry::{ApiError, Object, cache::Cache, object};
use knarr_schema::Catalog;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    config::{EXEMPT, Reference},
    FlowControl,
};
use crate::{
    auth::UserInfo,
    bridge,
    core::Core,
    pipeline::{self, Identity},
    respond,
};

static BOOTSTRAP: &str = include_str!("../../../../api/bootstrap/flowcontrol.json");
const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Who writes the bootstrap objects.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
/// Who writes the schemas' conditions.
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Says whether the server keeps an object's spec.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// How often seats are divided anew.
const REBALANCE: Duration = Duration::from_secs(10);
/// How soon after the last time the bootstrap objects are looked at again, if something changed.
const KEEP: Duration = Duration::from_secs(60);
/// How soon after a failure something is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often one schema's condition is written in a minute at most: servers may disagree.
const WRITES: usize = 6;

fn bootstrap() -> Value {
    serde_json::from_str(BOOTSTRAP).unwrap_or_default()
}

/// The schemas and levels that are always there.
#[must_use]
pub fn mandatory() -> (Vec<Value>, Vec<Value>) {
    let all = bootstrap();
    let of = |kind: &str| all.list_at(&[kind, "mandatory"]).to_vec();
    (of("flowSchemas"), of("priorityLevels"))
}

/// Whether text means true or false, as Go reads it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn auto_update(v: &Value) -> Option<bool> {
    boolean(v.str_at(&["metadata", "annotations", AUTO_UPDATE]))
}

/// What a bootstrap object must become; `None` if it is as it should be. `want` is defaulted.
fn revised(have: &Value, want: &Value, mandatory: bool) -> Option<Value> {
    // What its owner has not said and not changed is the server's to keep.
    let keep = mandatory || auto_update(have).unwrap_or_else(|| have.generation() == 1);
    let mut spec = want["spec"].clone();
    if have.name() == EXEMPT && have.at(&["spec", "exempt"]).is_some() && spec.get("exempt").is_some() {
        // These two are the owner's.
        for m in ["nominalConcurrencyShares", "lendablePercent"] {
            if let Some(v) = have.at(&["spec", "exempt", m]) {
                spec["exempt"][m] = v.clone();
            }
        }
    }
    let other = keep && have["spec"] != spec;
    if !other && auto_update(have) == Some(keep) {
        return None;
    }
    let mut out = have.clone();
    if other {
        out["spec"] = want["spec"].clone();
    }
    out.set_at(&["metadata", "annotations", AUTO_UPDATE], json!(keep.to_string()));
    Some(out)
}

/// A request of the server's own.
async fn send(core: &Arc<Core>, method: Method, path: String, media: &'static str, body: Value) -> Result<(), ApiError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media)
        .header(header::USER_AGENT, "kube-apiserver")
        .body(respond::full(body.to_string()))
        .map_err(ApiError::internal)?;
    let reply = pipeline::handle(Arc::clone(core), request, Identity::Fixed(Arc::new(UserInfo::admin()))).await;
    let code = reply.status().as_u16();
    if code < 300 {
        return Ok(());
    }
    let body = reply.into_body().collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    Err(ApiError::new(code, "InternalError", status.str_at(&["message"]).to_owned()))
}

fn cache(core: &Core, plural: &str) -> Result<Arc<Cache>, ApiError> {
    Ok(core.kind(plural)?.cache)
}

fn objects(cache: &Cache) -> Vec<Value> {
    cache.snapshot().range("").map(|e| e.value()).collect()
}

/// Makes the bootstrap objects that are missing, mends those that are not as they should be, and
/// removes those that once were bootstrap objects.
///
/// # Errors
/// If the store refuses; conflicts with other servers are none.
pub async fn ensure(core: &Arc<Core>) -> Result<(), ApiError> {
    let all = bootstrap();
    let mut work: Vec<(Method, String, Value)> = Vec::new();
    for (member, plural) in [("priorityLevels", LEVELS), ("flowSchemas", SCHEMAS)] {
        let row = Catalog::builtin().lookup(GROUP, "v1", plural).cloned().ok_or_else(ApiError::no_resource)?;
        let cache = cache(core, plural)?;
        let have = objects(&cache);
        let base = format!("/apis/{GROUP}/v1/{plural}");
        let mut wanted = Vec::new();
        for kind in ["suggested", "mandatory"] {
            for object in all.list_at(&[member, kind]) {
                let mut object = object.clone();
                object["apiVersion"] = json!(row.api_version());
                object["kind"] = json!(row.kind);
                object.take_at(&["status"]);
                let (want, _) = bridge::normalize(&row, &object, "Ignore")?;
                wanted.push(want.name().to_owned());
                match have.iter().find(|h| h.name() == want.name()) {
                    None => work.push((Method::POST, format!("{base}?fieldManager={PRODUCER}"), object)),
                    Some(h) => {
                        if let Some(v) = revised(h, &want, kind == "mandatory") {
                            work.push((Method::PUT, format!("{base}/{}?fieldManager={PRODUCER}", want.name()), v));
                        }
                    }
                }
            }
        }
        for h in have.iter().filter(|h| auto_update(h) == Some(true) && !wanted.iter().any(|w| w == h.name())) {
            work.push((Method::DELETE, format!("{base}/{}", h.name()), json!({})));
        }
    }
    let done = stream::iter(work).map(|(method, path, body)| async move { send(core, method, path, "application/json", body).await });
    let results: Vec<_> = done.buffer_unordered(64).collect().await;
    results.into_iter().filter(|r| !matches!(r, Err(e) if matches!(e.code, 404 | 409))).collect()
}

/// The condition that says whether a schema's level is there.
fn condition(r: &Reference) -> Value {
    let (status, reason, but) = if r.found { ("False", "Found", "and it exists") } else { ("True", "NotFound", "but there is no such object") };
    json!({"type": "Dangling", "status": status, "reason": reason,
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {:?} {but}", r.level)})
}

/// Whether a schema says what it should.
fn says(schema: &Value, want: &Value) -> bool {
    let conditions = schema.list_at(&["status", "conditions"]);
    conditions.iter().filter(|c| c["type"] == want["type"]).any(|c| ["status", "reason", "message"].iter().all(|m| c[*m] == want[*m]))
}

/// What was written of late: when, and which schema's condition.
#[derive(Default)]
struct Written(VecDeque<(Instant, String)>);

impl Written {
    fn too_often(&mut self, now: Instant, name: &str) -> bool {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > Duration::from_secs(60)) {
            self.0.pop_front();
        }
        self.0.iter().filter(|(_, n)| n == name).count() >= WRITES
    }
}

/// Puts all objects in force and writes conditions; answers when to try again what was not done.
async fn digest(core: &Arc<Core>, control: &FlowControl, written: &mut Written) -> Result<Option<Instant>, ApiError> {
    let (levels, schemas) = (objects(&*cache(core, LEVELS)?), objects(&*cache(core, SCHEMAS)?));
    let mut again = None;
    for r in control.configure(&levels, &schemas) {
        let mut want = condition(&r);
        if schemas.iter().any(|s| s.name() == r.schema && says(s, &want)) {
            continue;
        }
        let now = Instant::now();
        if written.too_often(now, &r.schema) {
            again = Some(now + Duration::from_secs(30 + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) % 45));
            continue;
        }
        written.0.push_back((now, r.schema.clone()));
        want["lastTransitionTime"] = json!(object::now());
        let body = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": r.schema}, "status": {"conditions": [want]}});
        let path = format!("/apis/{GROUP}/v1/{SCHEMAS}/{}/status?fieldManager={CONSUMER}&force=true", r.schema);
        match send(core, Method::PATCH, path, "application/apply-patch+yaml", body).await {
            Err(e) if e.code != 404 => {
                tracing::warn!(error = %e, schema = r.schema, "the schema's condition is not written");
                again = Some(now + AGAIN);
            }
            _ => {}
        }
    }
    Ok(again)
}

/// Puts the objects in force that are there when the server starts.
///
/// # Errors
/// If the objects are not known.
pub fn begin(core: &Core) -> Result<(), ApiError> {
    if let Some(control) = core.limiter.fair() {
        control.configure(&objects(&*cache(core, LEVELS)?), &objects(&*cache(core, SCHEMAS)?));
    }
    Ok(())
}

/// Follows the objects until the server stops.
pub async fn follow(core: Arc<Core>) {
    let (Ok(levels), Ok(schemas)) = (cache(&core, LEVELS), cache(&core, SCHEMAS)) else { return };
    let control = core.limiter.fair().cloned();
    let mut written = Written::default();
    // Both were done when the server started.
    let (mut kept, mut keep, mut rebalance) = (Instant::now(), None::<Instant>, Instant::now() + REBALANCE);
    loop {
        let (_, mut levels_change) = levels.snapshot_and_watch(None);
        let (_, mut schemas_change) = schemas.snapshot_and_watch(None);
        let mut again = None;
        if let Some(control) = &control {
            match digest(&core, control, &mut written).await {
                Ok(at) => again = at,
                Err(error) => tracing::warn!(%error, "priority levels and flow schemas are not put in force"),
            }
        }
        loop {
            let far = Instant::now() + Duration::from_secs(86400);
            let divides = if control.is_some() { rebalance } else { far };
            tokio::select! {
                _ = levels_change.next() => {}
                _ = schemas_change.next() => {}
                () = sleep_until(again.unwrap_or(far)) => {}
                () = sleep_until(divides) => {
                    rebalance = Instant::now() + REBALANCE;
                    if control.as_ref().is_some_and(|c| c.rebalance()) {
                        break;
                    }
                    continue;
                }
                () = sleep_until(keep.unwrap_or(far)) => {
                    (kept, keep) = (Instant::now(), None);
                    if let Err(error) = ensure(&core).await {
                        tracing::warn!(%error, "bootstrap objects of priority and fairness are not as they should be");
                        keep = Some(Instant::now() + AGAIN);
                    }
                    continue;
                }
                () = core.stop.cancelled() => return,
            }
            keep = keep.or(Some(kept + KEEP));
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &str, annotation: Option<&str>, generation: i64) -> Value {
        let mut v = json!({"metadata": {"name": "x", "generation": generation}, "spec": {"a": spec}});
        if let Some(a) = annotation {
            v["metadata"]["annotations"] = json!({AUTO_UPDATE: a});
        }
        v
    }

    #[test]
    fn the_annotation_says_whose_a_bootstrap_object_is() {
        let want = object("new", Some("true"), 1);
        let after = |have: Value, mandatory: bool| revised(&have, &want, mandatory).map(|v| (v["spec"]["a"].clone(), auto_update(&v)));
        let mended = Some((json!("new"), Some(true)));
        assert_eq!(after(object("new", Some("true"), 3), false), None);
        assert_eq!(after(object("old", Some("true"), 3), false), mended);
        assert_eq!(after(object("mine", Some("false"), 3), false), None);
        // Not said: whoever changed it owns it.
        assert_eq!(after(object("old", None, 1), false), mended);
        assert_eq!(after(object("mine", None, 2), false), Some((json!("mine"), Some(false))));
        // The mandatory ones are always the server's.
        assert_eq!(after(object("mine", Some("false"), 3), true), mended);
    }

    #[test]
    fn a_schema_is_not_written_without_end() {
        let (mut w, now) = (Written::default(), Instant::now());
        for _ in 0..WRITES {
            assert!(!w.too_often(now, "a"));
            w.0.push_back((now, "a".into()));
        }
        assert!(w.too_often(now, "a") && !w.too_often(now, "b"));
        assert!(!w.too_often(now + Duration::from_secs(61), "a"));
    }
}
