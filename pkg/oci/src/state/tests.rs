use super::{check_id, proc_stat, rfc3339};

#[test]
fn dates() {
    assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
    assert_eq!(rfc3339(1_798_761_599, 0), "2026-12-31T23:59:59.000000000Z");
}

#[test]
fn names() {
    for good in ["a", "A-b_c.d+1", "0"] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
        assert!(check_id(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_living_process_is_seen() {
    let me = proc_stat(std::process::id() as i32).unwrap();
    assert!(!me.zombie);
    assert!(me.start_ticks > 0);
}
