use std::sync::Arc;

use bytes::Bytes;
use knarr_storage::{Event, KeyValue};
use serde_json::{Value, json};

use super::{Cache, Codec, Encoded};
use crate::selector::{Filter, Selector};

struct Json;
impl Codec for Json {
    fn decode(&self, stored: &[u8]) -> Result<Value, String> {
        serde_json::from_slice(stored).map_err(|e| e.to_string())
    }
    fn encode(&self, obj: &mut Value) -> Result<Encoded, String> {
        let bytes = serde_json::to_vec(obj).map(Bytes::from).map_err(|e| e.to_string())?;
        Ok(Encoded { bytes, exact: true })
    }
    fn fields(&self, _: &Value) -> Vec<(String, String)> {
        Vec::new()
    }
}

fn kv(name: &str, app: &str, rev: u64) -> KeyValue {
    let v = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name,"namespace":"a","labels":{"app":app}}});
    KeyValue {
        key: format!("/registry/pods/a/{name}"),
        value: Bytes::from(v.to_string()),
        create_revision: rev,
        mod_revision: rev,
        lease: 0,
    }
}

fn put(c: &Cache, name: &str, app: &str, rev: u64) {
    let kv = kv(name, app, rev);
    c.apply(&Event { key: kv.key.clone(), current: Some(kv), previous: None, revision: rev });
}

#[test]
fn snapshots_stay_as_they_were_while_writes_go_on() {
    let c = Arc::new(Cache::new("/registry/pods/", Arc::new(Json)));
    for i in 0..2000u64 {
        put(&c, &format!("p{:04}", (i * 7919) % 2000), "web", i + 1);
    }
    let before = c.snapshot();
    put(&c, "p0000", "db", 3000);
    c.apply(&Event { key: "/registry/pods/a/p0001".into(), current: None, previous: None, revision: 3001 });
    assert_eq!(before.len(), 2000);
    assert_eq!(c.snapshot().len(), 1999);
    assert_eq!(before.get("/registry/pods/a/p0000").and_then(|e| e.label("app").map(String::from)).as_deref(), Some("web"));
    let keys: Vec<_> = c.snapshot().prefixed("/registry/pods/a/").map(|e| e.key.clone()).collect();
    assert!(keys.windows(2).all(|w| w[0] < w[1]), "keys are in order");
}

#[tokio::test]
async fn a_watch_from_a_version_sees_each_later_change_once_and_an_old_one_is_refused() {
    let c = Arc::new(Cache::new("/registry/pods/", Arc::new(Json)));
    c.load(&[kv("old", "web", 5)], 10);
    assert!(c.watch(9).is_err());
    put(&c, "a", "web", 11);
    put(&c, "b", "web", 12);
    let mut w = c.watch(11).expect("known");
    let got = w.next().await.expect("events");
    assert_eq!(got.iter().map(|e| e.revision).collect::<Vec<_>>(), [12]);
    c.apply(&Event { key: "/registry/pods/a/a".into(), current: None, previous: None, revision: 13 });
    let got = w.next().await.expect("events");
    assert!(got[0].deleted);
    assert_eq!(got[0].entry.value()["metadata"]["resourceVersion"], "13");
}

#[test]
fn selectors_read_all_forms() {
    let c = Arc::new(Cache::new("/registry/pods/", Arc::new(Json)));
    put(&c, "a", "web", 11);
    let e = c.get("/registry/pods/a/a").expect("there");
    for (s, want) in [
        ("app=web", true), ("app==web", true), ("app!=web", false), ("app in (db, web)", true),
        ("app notin (web)", false), ("app", true), ("!app", false), ("!x,app", true), ("x=1", false),
    ] {
        let f = Filter { labels: Selector::labels(s).expect(s), fields: Selector::default() };
        assert_eq!(f.passes(&e), want, "{s}");
    }
    assert!(Selector::labels("a b c").is_err());
    let f = Filter { labels: Selector::default(), fields: Selector::fields("metadata.name=a,status.phase!=Running").expect("ok") };
    assert!(f.passes(&e));
}
