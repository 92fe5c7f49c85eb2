use std::sync::Arc;

use bytes::Bytes;
use knarr_storage::{Error, SharedStore, Swap};

use super::{
    Encryption,
    ciphers::{Cbc, Gcm, Secretbox},
    config::prefixes,
    kms::Kms,
};

#[path = "../../tests/common/keys.rs"]
mod keys;

const KEY: &str = "/registry/secrets/default/s";

/// A configuration for secrets and the group apps, with these providers.
fn configuration(providers: &[String]) -> String {
    let all: String = providers.iter().map(|p| format!("  - {p}\n")).collect();
    format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps']\n  providers:\n{all}")
}

fn cipher(kind: &str, name: &str, byte: u8, length: usize) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("{kind}: {{keys: [{{name: {name}, secret: {}}}]}}", STANDARD.encode(vec![byte; length]))
}

fn identity() -> String {
    "identity: {}".into()
}

async fn over(inner: &SharedStore, providers: &[String]) -> SharedStore {
    Encryption::open(&configuration(providers), false).await.expect("rules").over(Arc::clone(inner))
}

async fn raw(store: &SharedStore, key: &str) -> Bytes {
    store.range(key, None, 0, 0).await.expect("read").items.remove(0).value
}

#[tokio::test]
async fn values_are_encrypted_below_and_plain_above() {
    let plain = Bytes::from_static(b"k8s\0secret");
    for (kind, length) in [("aesgcm", 16), ("aesgcm", 24), ("aesgcm", 32), ("aescbc", 16), ("aescbc", 24), ("aescbc", 32), ("secretbox", 32)] {
        let inner = knarr_storage::open_memory().expect("store");
        let store = over(&inner, &[cipher(kind, "one", 1, length), identity()]).await;
        for (key, hidden) in [(KEY, true), ("/registry/deployments/default/d", true), ("/registry/configmaps/default/c", false)] {
            assert!(matches!(store.put(key, plain.clone(), 0, 0).await, Ok(Swap::Done(_))));
            assert_eq!(raw(&inner, key).await.starts_with(format!("k8s:enc:{kind}:v1:one:").as_bytes()), hidden, "{key}");
            assert_eq!(raw(&store, key).await, plain);
        }
        // A refused write shows what is there.
        assert!(matches!(store.put(KEY, plain.clone(), 0, 0).await, Ok(Swap::Conflict(Some(kv))) if kv.value == plain));
    }
}

#[tokio::test]
async fn keys_rotate_and_values_cannot_be_moved() {
    let inner = knarr_storage::open_memory().expect("store");
    let plain = Bytes::from_static(b"k8s\0secret");
    let old = "/registry/secrets/default/old";
    inner.put(old, plain.clone(), 0, 0).await.expect("written");
    let before = over(&inner, &[cipher("aesgcm", "one", 1, 32), identity()]).await;
    before.put(KEY, plain.clone(), 0, 0).await.expect("written");
    assert!(!before.stale(KEY).await.expect("asked") && before.stale(old).await.expect("asked"));
    let after = over(&inner, &[cipher("aescbc", "two", 2, 32), cipher("aesgcm", "one", 1, 32), identity()]).await;
    assert_eq!((raw(&after, KEY).await, raw(&after, old).await), (plain.clone(), plain.clone()));
    assert!(after.stale(KEY).await.expect("asked"));
    let corrupt = |r: Result<knarr_storage::Range, Error>| matches!(r, Err(Error::Corrupt { .. }));
    let only = over(&inner, &[cipher("aesgcm", "two", 2, 32)]).await;
    assert!(corrupt(only.range(KEY, None, 0, 0).await), "the key is not known any more");
    assert!(corrupt(only.range(old, None, 0, 0).await), "plain values are not allowed");
    let other = over(&inner, &[cipher("aesgcm", "one", 3, 32)]).await;
    assert!(corrupt(other.range(KEY, None, 0, 0).await), "another key of the same name");
    inner.put("/registry/secrets/default/moved", raw(&inner, KEY).await, 0, 0).await.expect("written");
    assert!(corrupt(after.range("/registry/secrets/default/moved", None, 0, 0).await), "a value belongs to its key");
}

#[tokio::test]
async fn another_configuration_is_in_force_at_once_or_not_at_all() {
    let inner = knarr_storage::open_memory().expect("store");
    let e = Encryption::open(&configuration(&[identity()]), true).await.expect("rules");
    let store = e.over(Arc::clone(&inner));
    store.put(KEY, Bytes::from_static(b"k8s\0x"), 0, 0).await.expect("written");
    assert!(raw(&inner, KEY).await.starts_with(b"k8s\0"));
    assert!(e.change("kind: Nonsense").await.is_err());
    assert!(e.change(&configuration(&["kms: {apiVersion: v2, name: a, endpoint: 'tcp://x'}".into()])).await.is_err());
    e.change(&configuration(&[cipher("secretbox", "k", 1, 32), identity()])).await.expect("in force");
    assert!(store.stale(KEY).await.expect("asked"));
    store.put("/registry/secrets/default/n", Bytes::from_static(b"k8s\0y"), 0, 0).await.expect("written");
    assert!(raw(&inner, "/registry/secrets/default/n").await.starts_with(b"k8s:enc:secretbox:v1:k:"));
    assert_eq!(raw(&store, KEY).await, Bytes::from_static(b"k8s\0x"));
    // That there is no service is well.
    assert_eq!(e.health().await, Some(Ok(())));
}

#[tokio::test]
async fn a_service_keeps_the_key_of_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("kms.sock");
    let known = Arc::new(keys::Keys::default());
    *known.key.lock().expect("a lock") = "1".into();
    let serving = keys::serve(&socket, Arc::clone(&known));
    let kms = format!("kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 1s}}", socket.display());
    let inner = knarr_storage::open_memory().expect("store");
    let plain = Bytes::from_static(b"k8s\0secret");
    let e = Encryption::open(&configuration(&[kms.clone(), identity()]), false).await.expect("rules");
    let store = e.over(Arc::clone(&inner));
    store.put(KEY, plain.clone(), 0, 0).await.expect("written");
    assert!(raw(&inner, KEY).await.starts_with(b"k8s:enc:kms:v2:vault:"));
    assert_eq!((raw(&store, KEY).await, known.decrypted.load(std::sync::atomic::Ordering::Relaxed)), (plain.clone(), 0), "its own seed is known");
    // Another server must ask, once for all that has one seed.
    let second = Encryption::open(&configuration(&[kms.clone(), identity()]), false).await.expect("rules");
    let other = second.over(Arc::clone(&inner));
    for _ in 0..3 {
        assert_eq!(raw(&other, KEY).await, plain);
    }
    assert_eq!(known.decrypted.load(std::sync::atomic::Ordering::Relaxed), 1);
    // Its key changes: what was written is still read, and is to be written anew.
    let service = Kms::new("vault", &format!("unix://{}", socket.display()), std::time::Duration::from_secs(1));
    service.health().await.expect("well");
    let first = service.seal(b"x", b"about").expect("sealed");
    assert!(!service.stale(&first[service.prefix.len()..]));
    *known.key.lock().expect("a lock") = "2".into();
    let service = Kms::new("vault", &format!("unix://{}", socket.display()), std::time::Duration::from_secs(1));
    service.health().await.expect("well");
    assert!(service.stale(&first[service.prefix.len()..]));
    assert_eq!(service.open(&first[service.prefix.len()..], b"about").await, Ok(b"x".to_vec()));
    assert!(service.open(&first[service.prefix.len()..], b"another").await.is_err());
    // A service that is away: what is known can be read and written, and it shows.
    known.ill.store(true, std::sync::atomic::Ordering::Relaxed);
    let ill = Kms::new("vault", &format!("unix://{}", socket.display()), std::time::Duration::from_secs(1));
    let why = ill.health().await.expect_err("ill");
    assert!(why.contains("kmsv2 Provider vault is not healthy, error: got unexpected healthz status: ill"), "{why}");
    serving.abort();
    assert!(matches!(store.put("/registry/secrets/default/t", plain.clone(), 0, 0).await, Ok(Swap::Done(_))));
    assert_eq!(raw(&other, KEY).await, plain);
    let unknown = Kms::new("vault", &format!("unix://{}", dir.path().join("nothing").display()), std::time::Duration::from_secs(1));
    assert!(unknown.seal(b"x", b"about").is_err());
    assert!(matches!(unknown.open(&first[service.prefix.len()..], b"about").await, Err((_, true))));
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect()
}

/// Written by the ciphers of k8s.io/apiserver v0.37.2 with keys of the bytes 0, 1, 2, …
#[tokio::test]
async fn what_upstream_wrote_can_be_read() {
    let text = b"k8s\0what upstream wrote".to_vec();
    let key: Vec<u8> = (0..32).collect();
    let about = KEY.as_bytes();
    let gcm = Gcm::new(&key[..24]).expect("a key");
    assert_eq!(gcm.open(&bytes("ef6ccb643f37adf4ea4bbd47483f0d6fb4856399d7f7f7cde00678448fa47b79c7b856f405c64333cd5a494f317a8cd5feb347"), about), Ok(text.clone()));
    let cbc = Cbc::new(key.clone()).expect("a key");
    assert_eq!(cbc.open(&bytes("2a538288a43393625393a2696d69249a87d0cace3da2d23c28be1ea62e0fda426c73aad9589fdbcb050ba84161d35c49")), Ok(text.clone()));
    let boxed = Secretbox::new(&key).expect("a key");
    assert_eq!(boxed.open(&bytes("b4c4c1a479ce25bd9e53fc2a34d743207470dad36db46949294ce4c76191443d474fc97f5b564b5f5da72a7a761e76ee4e43ac4ce62c8fcc467c351c6a303b")), Ok(text.clone()));
    // More than one block of the key stream.
    let long = b"a text that is longer than one block of thirty-two bytes, and then some more of it so that there are two of sixty-four";
    let nonce: [u8; 24] = std::array::from_fn(|i| 100 + u8::try_from(i).expect("small"));
    assert_eq!(boxed.seal_with(&nonce, long), bytes("6465666768696a6b6c6d6e6f707172737475767778797a7be81bdd7765d93c2180d3badb48ff6bbb6399edac42c2ee9dd89c57b45ef7837451c45fc296863f73c76262fb64eee9eac40097736f58fdc4817e7e10746af011b6ff8e7a6bf25c2c2fc1326abf92ea0c26e56c1ea7512daad4e06d9760ac8bb33de3ad74c8df0f6af3efa953108397a3daa89b1ecfad4da8231419abcf35ed4c0102f025a259"));
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("kms.sock");
    let _serving = keys::serve(&socket, Arc::default());
    let kms = Kms::new("vault", &format!("unix://{}", socket.display()), std::time::Duration::from_secs(1));
    for stored in [
        "0a536fbafd123ada0e3ee1bcb372f57c98a814e734bc4e267c7a70eab64f31e0bf9e50a505d3d58f34f1a74e2a7fc10990c2b5e6abfa49c490e3e68af08d01b670d865827ca3488d4d6499b7e76893bcb19e0e46831201311a22313a000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f22120a0d762e6578616d706c652e636f6d1201782801",
        "0a33b34b74b1141f7eefd43872df1ed0f808b55cf76d2ec8a24b297dd9a3ac6ddecf783bbb749f681d82e79d54e681d3677e96d7ec1201311a22313a000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    ] {
        assert_eq!(kms.open(&bytes(stored), about).await, Ok(text.clone()));
    }
}

#[test]
fn resources_are_named_as_upstream_names_them() {
    assert_eq!(prefixes("secrets"), ["/registry/secrets/"]);
    assert_eq!(prefixes("deployments.apps"), ["/registry/deployments/"]);
    assert!(prefixes("*.").contains(&"/registry/configmaps/".to_owned()));
    assert_eq!(prefixes("things.example.com"), ["/registry/example.com/things/"]);
    assert_eq!(prefixes("*.*"), [""]);
}

#[tokio::test]
async fn mistakes_are_told_in_upstreams_words() {
    let wrong = |resources: &str, provider: &str| {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  providers:\n  - {provider}\n");
        async move { Encryption::open(&text, false).await.err().unwrap_or_default() }
    };
    for (resources, provider, why) in [
        ("secrets", "aescbc: {keys: [{name: a, secret: MDEyMzQ1Ng==}]}", "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 7, expected one of [16 24 32]"),
        ("secrets", "secretbox: {keys: []}", "resources[0].providers[0].secretbox.keys: Required value: at least one keys is required"),
        ("secrets, '*.'", "identity: {}", "resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"),
        ("'*'", "identity: {}", "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        ("secrets", "kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///x'}", "resources[0].providers[0].kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':'"),
        ("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'tcp://x', cachesize: 5}", "[resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://x\": unsupported scheme \"tcp\" for KMS provider, only unix is supported, resources[0].providers[0].kms.cachesize: Invalid value: 5: cachesize is not supported in v2]"),
    ] {
        assert_eq!(wrong(resources, provider).await, why);
    }
}
