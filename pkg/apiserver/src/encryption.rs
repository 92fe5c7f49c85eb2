//! Encryption at rest: a store over another one that holds some resources' values encrypted, in
//! kube-apiserver's envelope: `k8s:enc:aesgcm:v1:KEY:`, a nonce of 12 bytes, then AES-GCM with the
//! object's key in the store as associated data.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use knarr_registry::Object;
use knarr_schema::Catalog;
use knarr_storage::{
    Error, Event, KeyValue, Range, Revision, SharedStore, Store, Swap, Watch, WatchItem,
};
use ring::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use serde_json::Value;

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// One way to write values, and to read them.
enum Provider {
    /// As they are.
    Identity,
    /// Encrypted; a value names its key by what it begins with.
    Gcm { prefix: Vec<u8>, key: LessSafeKey },
}

/// What happens to the values of some keys.
struct Rule {
    /// What keys begin with; empty is every key.
    prefixes: Vec<String>,
    /// The first one writes.
    providers: Vec<Provider>,
}

impl Rule {
    fn is_for(&self, key: &str) -> bool {
        self.prefixes.iter().any(|p| key.starts_with(p.as_str()))
    }
}

/// The rules of an EncryptionConfiguration.
struct Rules(Vec<Rule>);

/// What keys of a resource begin with, as a configuration names it.
fn prefixes(name: &str) -> Vec<String> {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let all = Catalog::builtin().resources();
    let of = |wanted: &dyn Fn(&knarr_schema::Resource) -> bool| -> Vec<String> {
        let mut out: Vec<String> = all
            .iter()
            .filter(|r| !r.key_prefix.is_empty() && wanted(r))
            .map(|r| format!("{}{}/", knarr_registry::ROOT, r.key_prefix))
            .collect();
        out.sort();
        out.dedup();
        out
    };
    match (plural, group) {
        ("*", "*") => vec![String::new()],
        ("*", "") if name.ends_with('.') => of(&|r| r.group.is_empty()),
        ("*", g) => {
            let mut out = of(&|r| r.group == *g);
            out.push(format!("{}{g}/", knarr_registry::ROOT));
            out
        }
        (p, g) => {
            let known = of(&|r| r.plural == *p && r.group == *g);
            if known.is_empty() {
                vec![format!("{}{g}/{p}/", knarr_registry::ROOT)]
            } else {
                known
            }
        }
    }
}

fn keys(provider: &Value, at: &str) -> Result<Vec<Provider>, String> {
    let mut out = Vec::new();
    for (i, k) in provider.list_at(&["keys"]).iter().enumerate() {
        let at = format!("{at}.keys[{i}]");
        let name = k.str_at(&["name"]);
        if name.is_empty() || name.contains(':') {
            return Err(format!("{at}.name: Invalid value: {name:?}"));
        }
        let secret = STANDARD
            .decode(k.str_at(&["secret"]))
            .map_err(|_| format!("{at}.secret: it is not base64"))?;
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            n => {
                return Err(format!(
                    "{at}.secret: it has {n} bytes; 16 and 32 are offered"
                ));
            }
        };
        let key = UnboundKey::new(algorithm, &secret)
            .map_err(|_| format!("{at}.secret: it cannot be used"))?;
        out.push(Provider::Gcm {
            prefix: format!("k8s:enc:aesgcm:v1:{name}:").into_bytes(),
            key: LessSafeKey::new(key),
        });
    }
    if out.is_empty() {
        Err(format!("{at}.keys: at least one key must be there"))
    } else {
        Ok(out)
    }
}

fn parse(text: &str) -> Result<Rules, String> {
    let v = knarr_schema::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
    if v.str_at(&["kind"]) != "EncryptionConfiguration"
        || v.str_at(&["apiVersion"]) != "apiserver.config.k8s.io/v1"
    {
        return Err("it is no EncryptionConfiguration of apiserver.config.k8s.io/v1".into());
    }
    let mut rules = Vec::new();
    for (i, r) in v.list_at(&["resources"]).iter().enumerate() {
        let names: Vec<&str> = r
            .list_at(&["resources"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        if names.is_empty() {
            return Err(format!(
                "resources[{i}].resources: at least one resource must be named"
            ));
        }
        let mut providers = Vec::new();
        for (j, p) in r.list_at(&["providers"]).iter().enumerate() {
            let at = format!("resources[{i}].providers[{j}]");
            match p.as_object().map(|m| m.iter().next()) {
                Some(Some((kind, _))) if kind == "identity" => providers.push(Provider::Identity),
                Some(Some((kind, inner))) if kind == "aesgcm" => {
                    providers.extend(keys(inner, &format!("{at}.aesgcm"))?)
                }
                Some(Some((kind, _))) => {
                    return Err(format!(
                        "{at}: {kind} is not offered: aesgcm and identity are"
                    ));
                }
                _ => return Err(format!("{at}: it names no provider")),
            }
        }
        if providers.is_empty() {
            return Err(format!(
                "resources[{i}].providers: at least one provider must be there"
            ));
        }
        rules.push(Rule {
            prefixes: names.iter().flat_map(|n| prefixes(n)).collect(),
            providers,
        });
    }
    if rules.is_empty() {
        Err("resources: at least one must be there".into())
    } else {
        Ok(Rules(rules))
    }
}

impl Rules {
    fn of(&self, key: &str) -> Option<&Rule> {
        self.0.iter().find(|r| r.is_for(key))
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, Error> {
        let Some(Provider::Gcm {
            prefix,
            key: secret,
        }) = self.of(key).and_then(|r| r.providers.first())
        else {
            return Ok(value);
        };
        let failed = |_| Error::Unavailable(format!("{key} cannot be encrypted"));
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(failed)?;
        let mut sealed = value.to_vec();
        secret
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.as_bytes()),
                &mut sealed,
            )
            .map_err(failed)?;
        Ok([prefix.as_slice(), &nonce, &sealed].concat().into())
    }

    fn open(&self, key: &str, value: Bytes) -> Result<Bytes, Error> {
        let unusable = |reason: &str| Error::Corrupt {
            path: key.to_owned(),
            reason: reason.to_owned(),
        };
        let encrypted = value.starts_with(MARK);
        let Some(rule) = self.of(key) else {
            return if encrypted {
                Err(unusable(
                    "it is encrypted, and the configuration does not name its resource",
                ))
            } else {
                Ok(value)
            };
        };
        for p in &rule.providers {
            match p {
                Provider::Identity if !encrypted => return Ok(value),
                Provider::Gcm {
                    prefix,
                    key: secret,
                } if value.starts_with(prefix) => {
                    let rest = value.get(prefix.len()..).unwrap_or_default();
                    let (nonce, sealed) = rest
                        .split_at_checked(NONCE_LEN)
                        .ok_or_else(|| unusable("its encrypted value is too short"))?;
                    let nonce = Nonce::try_assume_unique_for_key(nonce)
                        .map_err(|_| unusable("its encrypted value is too short"))?;
                    let mut plain = sealed.to_vec();
                    let n = secret
                        .open_in_place(nonce, Aad::from(key.as_bytes()), &mut plain)
                        .map_err(|_| {
                            unusable("it cannot be decrypted: another key, or it was changed")
                        })?
                        .len();
                    plain.truncate(n);
                    return Ok(plain.into());
                }
                _ => {}
            }
        }
        Err(unusable(if encrypted {
            "no key of the configuration is the one it was encrypted with"
        } else {
            "it is not encrypted, and the configuration does not allow that"
        }))
    }

    fn pair(&self, kv: KeyValue) -> Result<KeyValue, Error> {
        let value = self.open(&kv.key, kv.value)?;
        Ok(KeyValue { value, ..kv })
    }

    fn event(&self, e: Event) -> Result<Event, Error> {
        let current = e.current.map(|kv| self.pair(kv)).transpose()?;
        let previous = e.previous.map(|kv| self.pair(kv)).transpose()?;
        Ok(Event {
            current,
            previous,
            ..e
        })
    }
}

/// The store.
struct Encrypted {
    inner: SharedStore,
    rules: Arc<Rules>,
}

/// A store that encrypts as an EncryptionConfiguration says.
///
/// # Errors
/// What is wrong with the configuration.
pub fn encrypted(inner: SharedStore, configuration: &str) -> Result<SharedStore, String> {
    Ok(Arc::new(Encrypted {
        inner,
        rules: Arc::new(parse(configuration)?),
    }))
}

#[async_trait::async_trait]
impl Store for Encrypted {
    async fn range(
        &self,
        start: &str,
        end: Option<&str>,
        limit: u64,
        revision: Revision,
    ) -> Result<Range, Error> {
        let r = self.inner.range(start, end, limit, revision).await?;
        let items = r
            .items
            .into_iter()
            .map(|kv| self.rules.pair(kv))
            .collect::<Result<_, _>>()?;
        Ok(Range { items, ..r })
    }
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: i64,
    ) -> Result<Swap, Error> {
        self.conflict(
            self.inner
                .put(key, self.rules.seal(key, value)?, expected, lease)
                .await?,
        )
    }
    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, Error> {
        self.conflict(self.inner.delete(key, expected).await?)
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let rules = Arc::clone(&self.rules);
        let events = self.inner.watch(prefix, from).await?;
        Ok(Box::pin(events.map(move |item| {
            match item? {
                WatchItem::Events(all) => all
                    .into_iter()
                    .map(|e| rules.event(e))
                    .collect::<Result<_, _>>()
                    .map(WatchItem::Events),
                progress @ WatchItem::Progress(_) => Ok(progress),
            }
        })))
    }
    async fn lease(&self, ttl: i64) -> Result<i64, Error> {
        self.inner.lease(ttl).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }
    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }
}

impl Encrypted {
    fn conflict(&self, swap: Swap) -> Result<Swap, Error> {
        Ok(match swap {
            Swap::Conflict(Some(kv)) => Swap::Conflict(Some(self.rules.pair(kv)?)),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests;
