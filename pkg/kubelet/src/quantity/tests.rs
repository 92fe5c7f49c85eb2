use super::*;

fn q(s: &str) -> Quantity {
    Quantity(s.into())
}

#[test]
fn parses_every_suffix_form() {
    for (text, want) in [
        ("0", 0),
        ("100m", 100),
        ("1", 1000),
        ("1.5", 1500),
        ("64Mi", 64 * 1024 * 1024 * 1000),
        ("1e3", 1_000_000),
        ("1k", 1_000_000),
        ("1n", 1),
        ("-2", -2000),
        (".5", 500),
    ] {
        assert_eq!(milli(&q(text)), Some(want), "{text}");
    }
    for bad in ["", "Mi", "1Q", "1.2.3", "1e99"] {
        assert_eq!(milli(&q(bad)), None, "{bad}");
    }
}

#[test]
fn divides_rounding_up() {
    assert_eq!(divide(1250, 1000), 2);
    assert_eq!(divide(1250, 1), 1250);
    assert_eq!(divide(64 << 20, 1 << 20), 64);
}

#[test]
fn compares_amounts_not_text() {
    assert!(same(&q("1000m"), &q("1")));
    assert!(!same(&q("1Ki"), &q("1k")));
}
