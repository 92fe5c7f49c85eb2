use std::sync::Arc;

use bytes::Bytes;
use knarr_storage::{Event, KeyValue};
use serde_json::{Value, json};

use super::{Cache, Codec, Encoded, Interest};
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
    assert!(c.watch(9, None).is_err());
    put(&c, "a", "web", 11);
    put(&c, "b", "web", 12);
    let mut w = c.watch(11, None).expect("known");
    let got = w.next().await.expect("events");
    assert_eq!(got.iter().map(|e| e.revision).collect::<Vec<_>>(), [12]);
    c.apply(&Event { key: "/registry/pods/a/a".into(), current: None, previous: None, revision: 13 });
    let got = w.next().await.expect("events");
    assert!(got[0].deleted);
    assert_eq!(got[0].entry.value()["metadata"]["resourceVersion"], "13");
}

fn of_name(name: &str) -> Option<Interest> {
    Some(Interest { field: "metadata.name".into(), value: name.into() })
}

#[tokio::test]
async fn a_watcher_of_one_object_is_woken_for_it_alone_and_outlives_what_the_others_do() {
    let c = Arc::new(Cache::new("/registry/pods/", Arc::new(Json)));
    c.load(&[], 10);
    put(&c, "mine", "web", 11);
    put(&c, "other", "web", 12);
    let mut w = c.watch(10, of_name("mine")).expect("known");
    let names = |all: &[Arc<crate::Change>]| all.iter().map(|e| (e.entry.name.to_string(), e.revision)).collect::<Vec<_>>();
    assert_eq!(names(&w.next().await.expect("events")), [("mine".to_owned(), 11)], "what was there before");
    // More changes of others than are remembered.
    for i in 0..9000u64 {
        put(&c, &format!("p{}", i % 7), "web", 13 + i);
    }
    assert!(w.ready().expect("nothing of its own was forgotten").is_empty());
    let mut waiting = Box::pin(w.next());
    assert!(futures::poll!(&mut waiting).is_pending());
    put(&c, "other", "web", 9100);
    assert!(futures::poll!(&mut waiting).is_pending());
    put(&c, "mine", "web", 9101);
    c.apply(&Event { key: "/registry/pods/a/mine".into(), current: None, previous: None, revision: 9102 });
    assert_eq!(names(&waiting.await.expect("events")), [("mine".to_owned(), 9101), ("mine".to_owned(), 9102)]);
    // What it asked for is forgotten before it is read.
    put(&c, "mine", "web", 9103);
    for i in 0..9000u64 {
        put(&c, &format!("p{}", i % 7), "web", 9200 + i);
    }
    put(&c, "mine", "web", 19000);
    assert!(w.next().await.is_err());
}

#[tokio::test]
async fn everything_read_anew_ends_watchers_that_had_read_all() {
    let c = Arc::new(Cache::new("/registry/pods/", Arc::new(Json)));
    c.load(&[], 10);
    let (_, mut all) = c.snapshot_and_watch(None);
    let (_, mut one) = c.snapshot_and_watch(of_name("mine"));
    c.load(&[kv("mine", "web", 20)], 30);
    assert!(all.next().await.is_err());
    assert!(one.next().await.is_err());
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
