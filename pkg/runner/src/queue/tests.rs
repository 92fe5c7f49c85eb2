use super::*;

#[tokio::test(start_paused = true)]
async fn a_key_is_done_once_and_again_when_added_meanwhile() {
    let q = Queue::new("test");
    q.add("a");
    q.add("a");
    let k = q.get().await;
    assert!(q.is_empty());
    q.add("a");
    assert!(q.is_empty(), "not while it is worked on");
    q.done(&k);
    assert_eq!(q.get().await, "a");
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_and_longer() {
    let q = Queue::new("test");
    for want in [5u64, 10, 20, 40] {
        let t = Instant::now();
        q.add_rate_limited("a");
        let k = q.get().await;
        q.done(&k);
        let took = t.elapsed().as_millis();
        assert!((u128::from(want)..=u128::from(want) + 2).contains(&took), "{took}");
    }
    q.forget(&"a");
    assert_eq!(q.failures(&"a"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_moment_wins() {
    let q = Queue::new("test");
    q.add_after("a", Duration::from_secs(10));
    q.add_after("a", Duration::from_secs(1));
    q.add_after("a", Duration::from_secs(20));
    let t = Instant::now();
    let k = q.get().await;
    q.done(&k);
    assert_eq!(t.elapsed().as_secs(), 1);
}
