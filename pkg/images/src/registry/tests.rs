use super::*;

fn endpoints(yaml: &str, name: &str) -> Vec<(String, String)> {
    let registries: Registries = serde_yaml_ng::from_str(yaml).unwrap();
    registries
        .endpoints(&Reference::parse(name).unwrap(), None)
        .unwrap()
        .into_iter()
        .map(|e| (e.api, e.repository))
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
            pair("http://127.0.0.1:5000/v2", "m/busybox"),
            pair("https://registry-1.docker.io/v2", "library/busybox"),
        ]
    );
    assert_eq!(endpoints(yaml, "r.io/a"), [pair("https://r.io/v2", "a")]);
}

#[test]
fn loopback_is_plain_unless_configured() {
    assert_eq!(
        endpoints("{}", "localhost:5000/a"),
        [pair("http://localhost:5000/v2", "a")]
    );
    assert_eq!(
        endpoints("{}", "[::1]:5000/a"),
        [pair("http://[::1]:5000/v2", "a")]
    );
    let yaml = "configs: {'localhost:5000': {tls: {insecureSkipVerify: true}}}";
    assert_eq!(
        endpoints(yaml, "localhost:5000/a"),
        [pair("https://localhost:5000/v2", "a")]
    );
}

#[test]
fn unknown_keys_are_errors() {
    assert!(serde_yaml_ng::from_str::<Registries>("mirors: {}").is_err());
}

#[test]
fn hosts_files_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("certs.d/r.io_5000_");
    std::fs::create_dir_all(&folder).unwrap();
    let ask = || {
        let registries = Registries::read(&dir.path().join("registries.yaml")).unwrap();
        registries.endpoints(
            &Reference::parse("r.io:5000/a/b:v1").unwrap(),
            Some(&Credentials::from_encoded("dTpw").unwrap()),
        )
    };
    // Docker's way: what to trust and what to show.
    for name in ["ca.crt", "me.cert", "me.key"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let docker = ask().unwrap();
    assert_eq!(docker.len(), 1);
    assert_eq!(docker[0].api, "https://r.io:5000/v2");
    assert_eq!(docker[0].tls.more_cas, [folder.join("ca.crt")]);
    assert_eq!(docker[0].tls.key_file, Some(folder.join("me.key")));

    let write = |text: &str| std::fs::write(folder.join("hosts.toml"), text).unwrap();
    write(
        r#"
server = "https://r.io:5000"
[host."http://z.example/cache"]
  capabilities = ["pull", "resolve"]
  [host."http://z.example/cache".header]
    x-key = ["one", "two"]
[host."https://push.example"]
  capabilities = ["push"]
[host."https://a.example/raw/"]
  capabilities = ["pull"]
  override_path = true
  ca = "a.pem"
  client = [["c.pem", "c.key"]]
"#,
    );
    let all = ask().unwrap();
    let apis: Vec<_> = all.iter().map(|e| (e.api.as_str(), e.resolves)).collect();
    assert_eq!(
        apis,
        [
            ("http://z.example/cache/v2", true),
            ("https://a.example/raw", false),
            ("https://r.io:5000/v2", true)
        ]
    );
    assert_eq!(all[0].headers.get_all("x-key").iter().count(), 2);
    assert_eq!(
        (all[0].namespace.as_deref(), all[2].namespace.as_deref()),
        (Some("r.io:5000"), None)
    );
    assert_eq!(all[1].tls.ca_file, Some(folder.join("a.pem")));
    assert_eq!(all[1].tls.cert_file, Some(folder.join("c.pem")));
    // The pod's secret is for the registry it names.
    assert_eq!(
        all.iter()
            .map(|e| e.credentials.is_some())
            .collect::<Vec<_>>(),
        [false, false, true]
    );
    assert_eq!(all[0].repository, "a/b");

    for (text, why) in [
        ("server = 3", "server must be a string"),
        ("[host.\"ftp://x\"]", "only http and https are known"),
        (
            "[host.\"https://x\"]\ncapabilities = [\"all\"]",
            "capabilities must be a list",
        ),
        ("server = \"", "hosts.toml"),
    ] {
        write(text);
        let error = ask().unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains("hosts.toml"),
            "{error}"
        );
    }
}

#[test]
fn docker_file_gives_what_registries_yaml_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = dir.path().join("registries.yaml");
    std::fs::write(
        &yaml,
        "configs: {own.io: {auth: {username: from, password: yaml}}}",
    )
    .unwrap();
    // hub:secret, a:b
    let json = r#"{"credsStore": "desktop", "auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
        "own.io": {"auth": "YTpi"},
        "other.io/team": {"auth": "YTpi"},
        "other.io": {"username": "u", "password": "p"},
        "tokens.io": {"identitytoken": "t"}}}"#;
    std::fs::write(dir.path().join("config.json"), json).unwrap();
    let registries = Registries::read(&yaml).unwrap();
    let of = |name: &str| {
        let all = registries
            .endpoints(&Reference::parse(name).unwrap(), None)
            .unwrap();
        let found = all.last().unwrap().credentials.clone();
        found.map(|c| format!("{}:{}{}", c.username, c.password, c.identity_token))
    };
    assert_eq!(of("busybox").as_deref(), Some("hub:secret"));
    assert_eq!(of("own.io/a").as_deref(), Some("from:yaml"));
    assert_eq!(
        of("other.io/team/a").as_deref(),
        Some("a:b"),
        "the longest that fits"
    );
    assert_eq!(of("other.io/teams").as_deref(), Some("u:p"));
    assert_eq!(of("tokens.io/a").as_deref(), Some(":t"));
    assert_eq!(of("nobody.io/a"), None);
    // A broken file is an error that does not repeat what is in it.
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"auths": {"x": "secret"}}"#,
    )
    .unwrap();
    let error = Registries::read(&yaml).unwrap_err().to_string();
    assert!(
        error.contains("config.json") && !error.contains("secret"),
        "{error}"
    );
}
