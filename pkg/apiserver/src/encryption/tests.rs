use bytes::Bytes;
use knarr_storage::{Error, Swap};

use super::{encrypted, prefixes};

fn configuration(keys: &[(&str, u8)], identity: bool) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let keys: Vec<String> = keys
        .iter()
        .map(|(name, byte)| format!("{{name: {name}, secret: {}}}", STANDARD.encode([*byte; 32])))
        .collect();
    let identity = if identity { "\n  - identity: {}" } else { "" };
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps']\n  providers:\n  - aesgcm: {{keys: [{}]}}{identity}\n",
        keys.join(", ")
    )
}

const KEY: &str = "/registry/secrets/default/s";

#[tokio::test]
async fn values_are_encrypted_below_and_plain_above() {
    let inner = knarr_storage::open_memory().expect("store");
    let store = encrypted(inner.clone(), &configuration(&[("one", 1)], true)).expect("rules");
    let plain = Bytes::from_static(b"k8s\0secret");
    for (key, hidden) in [
        (KEY, true),
        ("/registry/deployments/default/d", true),
        ("/registry/configmaps/default/c", false),
    ] {
        assert!(matches!(
            store.put(key, plain.clone(), 0, 0).await,
            Ok(Swap::Done(_))
        ));
        let below = inner
            .range(key, None, 0, 0)
            .await
            .expect("read")
            .items
            .remove(0)
            .value;
        assert_eq!(
            below.starts_with(b"k8s:enc:aesgcm:v1:one:"),
            hidden,
            "{key}"
        );
        assert_eq!(
            store
                .range(key, None, 0, 0)
                .await
                .expect("read")
                .items
                .remove(0)
                .value,
            plain
        );
    }
    // A refused write shows what is there.
    assert!(
        matches!(store.put(KEY, plain.clone(), 0, 0).await, Ok(Swap::Conflict(Some(kv))) if kv.value == plain)
    );
}

#[tokio::test]
async fn keys_rotate_and_values_cannot_be_moved() {
    let inner = knarr_storage::open_memory().expect("store");
    let plain = Bytes::from_static(b"k8s\0secret");
    inner
        .put("/registry/secrets/default/old", plain.clone(), 0, 0)
        .await
        .expect("written");
    let before = encrypted(inner.clone(), &configuration(&[("one", 1)], true)).expect("rules");
    before.put(KEY, plain.clone(), 0, 0).await.expect("written");
    let after = encrypted(
        inner.clone(),
        &configuration(&[("two", 2), ("one", 1)], true),
    )
    .expect("rules");
    assert_eq!(
        after
            .range(KEY, None, 0, 0)
            .await
            .expect("read")
            .items
            .remove(0)
            .value,
        plain
    );
    assert_eq!(
        after
            .range("/registry/secrets/default/old", None, 0, 0)
            .await
            .expect("read")
            .items
            .remove(0)
            .value,
        plain
    );
    let corrupt = |r: Result<knarr_storage::Range, Error>| matches!(r, Err(Error::Corrupt { .. }));
    let only = encrypted(inner.clone(), &configuration(&[("two", 2)], false)).expect("rules");
    assert!(
        corrupt(only.range(KEY, None, 0, 0).await),
        "the key is not known any more"
    );
    assert!(
        corrupt(
            only.range("/registry/secrets/default/old", None, 0, 0)
                .await
        ),
        "plain values are not allowed"
    );
    let sealed = inner
        .range(KEY, None, 0, 0)
        .await
        .expect("read")
        .items
        .remove(0)
        .value;
    inner
        .put("/registry/secrets/default/moved", sealed, 0, 0)
        .await
        .expect("written");
    assert!(
        corrupt(
            after
                .range("/registry/secrets/default/moved", None, 0, 0)
                .await
        ),
        "a value belongs to its key"
    );
}

#[test]
fn resources_are_named_as_upstream_names_them() {
    assert_eq!(prefixes("secrets"), ["/registry/secrets/"]);
    assert_eq!(prefixes("deployments.apps"), ["/registry/deployments/"]);
    assert!(prefixes("*.").contains(&"/registry/configmaps/".to_owned()));
    assert_eq!(
        prefixes("things.example.com"),
        ["/registry/example.com/things/"]
    );
    assert_eq!(prefixes("*.*"), [""]);
    let inner = knarr_storage::open_memory().expect("store");
    for wrong in [
        "kind: Other",
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{secretbox: {keys: []}}]",
    ] {
        assert!(encrypted(inner.clone(), wrong).is_err(), "{wrong}");
    }
}
