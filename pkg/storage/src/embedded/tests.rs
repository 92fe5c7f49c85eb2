//! The engine's promises: compare-and-swap, gapless watches, and nothing acknowledged is lost
//! whatever a crash leaves of the files.

use std::{fs, path::Path, time::Duration};

use futures::StreamExt;

use super::*;
use crate::{KeyValue, prefix_end};

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &Engine, key: &str, text: &str) -> Revision {
    let expected = get(store, key).await.map_or(0, |pair| pair.mod_revision);
    match store.put(key, value(text), expected, 0).await.unwrap() {
        Swap::Done(revision) => revision,
        Swap::Conflict(now) => panic!("conflict with {now:?}"),
    }
}

async fn get(store: &Engine, key: &str) -> Option<KeyValue> {
    store.range(key, None, 0, 0).await.unwrap().items.pop()
}

async fn next(watch: &mut Watch) -> Result<WatchItem, Error> {
    tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap()
}

async fn event_keys(watch: &mut Watch, count: usize) -> Vec<(String, bool)> {
    let mut keys = Vec::new();
    while keys.len() < count {
        if let WatchItem::Events(events) = next(watch).await.unwrap() {
            keys.extend(events.into_iter().map(|e| (e.key, e.current.is_some())));
        }
    }
    keys
}

#[tokio::test]
async fn swaps_only_on_the_expected_revision() {
    let store = Engine::memory().unwrap();
    let first = put(&store, "/a", "1").await;
    assert!(matches!(
        store.put("/a", value("2"), 0, 0).await.unwrap(),
        Swap::Conflict(Some(pair)) if pair.mod_revision == first && pair.value == "1"
    ));
    let Swap::Done(second) = store.put("/a", value("2"), first, 0).await.unwrap() else {
        panic!("the expected revision was right");
    };
    assert!(second > first);
    let pair = get(&store, "/a").await.unwrap();
    assert_eq!((pair.create_revision, pair.mod_revision), (first, second));
    assert!(matches!(store.delete("/a", first).await.unwrap(), Swap::Conflict(Some(_))));
    assert!(matches!(store.delete("/b", 0).await.unwrap(), Swap::Conflict(None)));
    assert!(matches!(store.delete("/a", second).await.unwrap(), Swap::Done(_)));
    assert!(get(&store, "/a").await.is_none());
    assert_eq!(get_at(&store, "/a", first).await.unwrap().value, "1");
}

async fn get_at(store: &Engine, key: &str, revision: Revision) -> Option<KeyValue> {
    store.range(key, None, 0, revision).await.unwrap().items.pop()
}

#[tokio::test]
async fn one_of_many_concurrent_writers_wins() {
    let store = Arc::new(Engine::memory().unwrap());
    let tasks = (0..50).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.put("/a", value(&i.to_string()), 0, 0).await.unwrap() })
    });
    let mut won = 0;
    for task in tasks.collect::<Vec<_>>() {
        won += u32::from(matches!(task.await.unwrap(), Swap::Done(_)));
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn ranges_page_at_one_revision() {
    let store = Engine::memory().unwrap();
    for key in ["/p/a", "/p/b", "/p/c", "/q/a"] {
        put(&store, key, key).await;
    }
    let end = prefix_end("/p/");
    let page = store.range("/p/", Some(&end), 2, 0).await.unwrap();
    assert_eq!((page.items.len(), page.more, page.count), (2, true, 3));
    put(&store, "/p/d", "later").await;
    let rest = store.range("/p/b\0", Some(&end), 0, page.revision).await.unwrap();
    assert_eq!(rest.items.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["/p/c"]);
    assert!(matches!(
        store.range("/p/", Some(&end), 0, 1000).await,
        Err(Error::Future { requested: 1000, .. })
    ));
}

#[tokio::test]
async fn a_watch_gets_every_event_from_its_revision() {
    let store = Engine::memory().unwrap();
    let first = put(&store, "/p/a", "1").await;
    put(&store, "/q/x", "other").await;
    let mut from_past = store.watch("/p/", first).await.unwrap();
    let mut from_now = store.watch("/p/", 0).await.unwrap();
    let second = put(&store, "/p/a", "2").await;
    store.delete("/p/a", second).await.unwrap();
    let a = |alive| ("/p/a".to_owned(), alive);
    assert_eq!(event_keys(&mut from_past, 3).await, [a(true), a(true), a(false)]);
    assert_eq!(event_keys(&mut from_now, 2).await, [a(true), a(false)]);
}

#[tokio::test]
async fn events_carry_the_pair_before() {
    let store = Engine::memory().unwrap();
    let mut watch = store.watch("/", 0).await.unwrap();
    let first = put(&store, "/a", "1").await;
    store.delete("/a", first).await.unwrap();
    put(&store, "/a", "2").await;
    let mut previous = Vec::new();
    while previous.len() < 3 {
        let WatchItem::Events(events) = next(&mut watch).await.unwrap() else { continue };
        previous.extend(events.into_iter().map(|e| e.previous.map(|p| p.value)));
    }
    assert_eq!(previous, [None, Some(value("1")), None]);
}

#[tokio::test]
async fn progress_is_told_on_request() {
    let store = Engine::memory().unwrap();
    let mut watch = store.watch("/quiet/", 0).await.unwrap();
    let now = put(&store, "/loud/a", "1").await;
    store.request_progress().await.unwrap();
    assert!(matches!(next(&mut watch).await.unwrap(), WatchItem::Progress(r) if r == now));
}

#[tokio::test]
async fn compaction_forgets_history_but_no_pair() {
    let store = Engine::memory().unwrap();
    let first = put(&store, "/a", "1").await;
    let mut slow = store.watch("/", first).await.unwrap();
    let gone = put(&store, "/gone", "x").await;
    store.delete("/gone", gone).await.unwrap();
    let now = put(&store, "/a", "2").await;
    store.compact(now).await.unwrap();
    assert!(matches!(next(&mut slow).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.range("/a", None, 0, first).await, Err(Error::Compacted { .. })));
    assert!(store.watch("/", first).await.is_err());
    assert_eq!(get(&store, "/a").await.unwrap().value, "2");
    assert!(get(&store, "/gone").await.is_none());
    put(&store, "/gone", "again").await;
    assert_eq!(get(&store, "/gone").await.unwrap().value, "again");
}

#[tokio::test]
async fn a_lease_ends_with_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path()).unwrap();
    let lease = store.lease(1).await.unwrap();
    store.put("/event", value("x"), 0, lease).await.unwrap();
    put(&store, "/stays", "x").await;
    drop(store);
    let store = Engine::open(dir.path()).unwrap();
    let mut watch = store.watch("/event", 0).await.unwrap();
    assert_eq!(event_keys(&mut watch, 1).await, [("/event".to_owned(), false)]);
    assert!(get(&store, "/stays").await.is_some());
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Engine::open(dir.path()).unwrap();
    let error = Engine::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("another process uses this data folder"), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Engine::open(dir.path()).unwrap());
    fs::write(dir.path().join("VERSION"), "knarr-store 2\n").unwrap();
    assert!(matches!(Engine::open(dir.path()), Err(Error::Corrupt { .. })));
}

fn the_log(dir: &Path) -> std::path::PathBuf {
    let revision = *revisions(dir, "log-").unwrap().last().unwrap();
    log_path(dir, revision)
}

/// Cuts the log at every byte, as a crash in the middle of a write would: what was acknowledged
/// before the cut is there, and the store goes on writing.
#[tokio::test]
async fn every_torn_tail_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path()).unwrap();
    let mut ends = Vec::new();
    for i in 0..4 {
        put(&store, &format!("/k/{i}"), "some value").await;
        ends.push(log::read(&the_log(dir.path())).unwrap().1);
    }
    drop(store);
    let log = fs::read(the_log(dir.path())).unwrap();
    for cut in 0..=usize::try_from(ends[3]).unwrap() {
        for tail in [&[][..], &[0; 64][..], &[0xff; 64][..]] {
            let crashed = tempfile::tempdir().unwrap();
            fs::write(crashed.path().join("VERSION"), VERSION).unwrap();
            let mut image = log[..cut].to_vec();
            image.extend_from_slice(tail);
            fs::write(log_path(crashed.path(), 0), &image).unwrap();
            let store = Engine::open(crashed.path()).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut as u64).count();
            let found = store.range("/k/", Some("/k0"), 0, 0).await.unwrap().items.len();
            assert_eq!(found, whole, "cut at {cut}");
            if cut % 16 == 0 {
                put(&store, "/after", "x").await;
                drop(store);
                let store = Engine::open(crashed.path()).unwrap();
                assert!(get(&store, "/after").await.is_some(), "cut at {cut}");
            }
        }
    }
}

#[tokio::test]
async fn damage_before_the_end_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path()).unwrap();
    for i in 0..3 {
        put(&store, &format!("/k/{i}"), "some value").await;
    }
    drop(store);
    let path = the_log(dir.path());
    let good = fs::read(&path).unwrap();
    let first = 12 + u32::from_le_bytes(good[4..8].try_into().unwrap()) as usize;
    for at in 0..first {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&path, &bad).unwrap();
        assert!(matches!(Engine::open(dir.path()), Err(Error::Corrupt { .. })), "byte {at}");
    }
}

#[tokio::test]
async fn a_long_log_becomes_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path()).unwrap();
    let large = Bytes::from(vec![7_u8; 1 << 20]);
    let mut revision = 0;
    for i in 0..80 {
        let key = format!("/big/{}", i % 4);
        let expected = get(&store, &key).await.map_or(0, |p| p.mod_revision);
        let swap = store.put(&key, large.clone(), expected, 0).await.unwrap();
        let Swap::Done(done) = swap else { panic!("conflict") };
        revision = done;
        // The registry compacts; so memory and snapshots stay near what is live.
        store.compact(revision.saturating_sub(4)).await.unwrap();
    }
    drop(store);
    let on_disk: u64 =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk < 80 << 20, "{on_disk} bytes for 4 MiB of live data");
    let store = Engine::open(dir.path()).unwrap();
    assert_eq!(store.revision().await.unwrap(), revision);
    assert_eq!(store.range("/big/", Some("/big0"), 0, 0).await.unwrap().items.len(), 4);
}
