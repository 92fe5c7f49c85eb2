use super::*;
use k8s_openapi::api::core::v1::Pod;

fn pod(name: &str, uid: &str, rv: u64, node: Option<&str>) -> Pod {
    let mut p = Pod::default();
    p.metadata.namespace = Some("d".into());
    p.metadata.name = Some(name.into());
    p.metadata.uid = Some(uid.into());
    p.metadata.resource_version = Some(rv.to_string());
    p.spec.get_or_insert_default().node_name = node.map(str::to_owned);
    p
}

fn synced(pods: Vec<Pod>, rv: u64) -> Cache<Pod> {
    let c = Cache::new();
    c.delta(Delta::Restart);
    for p in pods {
        c.delta(Delta::Init(p));
    }
    c.delta(Delta::InitDone(rv));
    c
}

#[test]
fn own_writes_are_read_at_once_and_old_news_is_ignored() {
    let c = synced(vec![], 10);
    c.observe(pod("a", "1", 12, None));
    assert!(c.get("d", "a").is_some());
    // The watch brings the bound pod, then our older view of it comes late.
    c.delta(Delta::Applied(pod("a", "1", 14, Some("n"))));
    c.observe(pod("a", "1", 12, None));
    assert_eq!(c.on_node("n").len(), 1);
}

#[test]
fn an_answer_that_the_watch_has_overtaken_does_not_raise_the_dead() {
    let c = synced(vec![], 10);
    c.delta(Delta::Applied(pod("a", "1", 12, None)));
    c.delta(Delta::Deleted(pod("a", "1", 13, None)));
    c.observe(pod("a", "1", 12, None));
    assert!(c.is_empty());
}

#[test]
fn an_acknowledged_deletion_holds_until_the_watch_tells_it() {
    let c = synced(vec![pod("a", "1", 5, None)], 10);
    c.observe_deleted("d", "a", "1");
    c.delta(Delta::Applied(pod("a", "1", 11, None)));
    assert!(c.is_empty(), "the watch is behind");
    c.observe(pod("a", "2", 13, None));
    c.delta(Delta::Deleted(pod("a", "1", 12, None)));
    assert_eq!(c.get("d", "a").and_then(|p| p.metadata.uid.clone()).as_deref(), Some("2"));
}

#[test]
fn a_new_listing_drops_what_it_does_not_name_and_keeps_newer_writes() {
    let c = synced(vec![pod("a", "1", 5, Some("n")), pod("b", "2", 6, None)], 10);
    c.observe(pod("c", "3", 30, None));
    c.delta(Delta::Restart);
    c.delta(Delta::Init(pod("b", "2", 6, None)));
    c.delta(Delta::InitDone(20));
    assert!(c.get("d", "a").is_none() && c.on_node("n").is_empty());
    assert!(c.get("d", "b").is_some() && c.get("d", "c").is_some());
}

#[test]
fn subscribers_see_what_is_there_and_then_every_change() {
    let c = synced(vec![pod("a", "1", 5, None)], 10);
    let mut s = c.subscribe();
    c.delta(Delta::Applied(pod("a", "1", 11, None)));
    c.delta(Delta::Deleted(pod("a", "1", 12, None)));
    assert!(matches!(s.try_next(), Some(Event::Added(_))));
    assert!(matches!(s.try_next(), Some(Event::Updated { .. })));
    assert!(matches!(s.try_next(), Some(Event::Deleted(_))));
    assert!(s.try_next().is_none());
}
