use super::*;

fn endpoints(yaml: &str, name: &str) -> Vec<(String, String)> {
    let registries: Registries = serde_yaml_ng::from_str(yaml).unwrap();
    registries
        .endpoints(&Reference::parse(name).unwrap(), None)
        .into_iter()
        .map(|e| (e.base, e.repository))
        .collect()
}

fn pair(base: &str, repository: &str) -> (String, String) {
    (base.to_owned(), repository.to_owned())
}

#[test]
fn mirrors_come_before_the_registry() {
    let yaml = "mirrors:\n  docker.io:\n    endpoint: ['http://127.0.0.1:5000/v2']\n    rewrite: {library/: m/}\n";
    assert_eq!(
        endpoints(yaml, "busybox"),
        [
            pair("http://127.0.0.1:5000", "m/busybox"),
            pair("https://registry-1.docker.io", "library/busybox"),
        ]
    );
    assert_eq!(endpoints(yaml, "r.io/a"), [pair("https://r.io", "a")]);
}

#[test]
fn loopback_is_plain_unless_configured() {
    assert_eq!(endpoints("{}", "localhost:5000/a"), [pair("http://localhost:5000", "a")]);
    assert_eq!(endpoints("{}", "[::1]:5000/a"), [pair("http://[::1]:5000", "a")]);
    let yaml = "configs: {'localhost:5000': {tls: {insecureSkipVerify: true}}}";
    assert_eq!(endpoints(yaml, "localhost:5000/a"), [pair("https://localhost:5000", "a")]);
}

#[test]
fn unknown_keys_are_errors() {
    assert!(serde_yaml_ng::from_str::<Registries>("mirors: {}").is_err());
}
