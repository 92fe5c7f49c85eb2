use super::*;

#[test]
fn names_are_normalised() {
    let hex = "a".repeat(64);
    for (given, want) in [
        ("busybox", "docker.io/library/busybox:latest".to_owned()),
        ("foo:non-existent", "docker.io/library/foo:non-existent".to_owned()),
        ("a/b", "docker.io/a/b:latest".to_owned()),
        ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
        ("localhost/b", "localhost/b:latest".to_owned()),
        ("localhost:5000/b:1", "localhost:5000/b:1".to_owned()),
        ("[::1]:5000/b", "[::1]:5000/b:latest".to_owned()),
        ("r.io/a/b__c--d:v1.0", "r.io/a/b__c--d:v1.0".to_owned()),
        (&format!("b@sha256:{hex}"), format!("docker.io/library/b@sha256:{hex}")),
        (&format!("b:1@sha256:{hex}"), format!("docker.io/library/b:1@sha256:{hex}")),
    ] {
        assert_eq!(Reference::parse(given).unwrap().to_string(), want, "{given}");
    }
}

#[test]
fn broken_names_are_refused() {
    for bad in [
        "", ":", "a:", "A", "a/B", "a//b", "/a", "a@sha256:12", "a b", "a:b c", "..", "../a",
        "r.io/../a", "r.io:x/a", "a___b", "a..b", "-a.io/b",
    ] {
        assert!(Reference::parse(bad).is_err(), "{bad:?}");
    }
}
