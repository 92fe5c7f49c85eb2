//! Bootstrap tokens: the cluster's public description is signed with each of them, so that who
//! joins knows it for the right one; expired ones are removed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Queue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
const TOKENS: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const SIGNATURE: &str = "jws-kubeconfig-";

/// Signs a text with a token's id and secret.
pub type SignWithToken = fn(content: &str, id: &str, secret: &str) -> String;

fn field(s: &Secret, name: &str) -> String {
    let data = s.data.as_ref().and_then(|d| d.get(name));
    data.map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default()
}

fn is_token(s: &Secret) -> bool {
    s.type_.as_deref() == Some(TOKEN_TYPE) && meta::ns(&s.metadata) == TOKENS
}

/// In how many seconds a token ends; `None` if never. One whose end cannot be read has ended.
fn left(s: &Secret, now: Timestamp) -> Option<f64> {
    match field(s, "expiration").as_str() {
        "" => None,
        text => Some(text.parse().map_or(0.0, |t| meta::seconds_between(now, t))),
    }
}

/// Keeps the signatures in `kube-public/cluster-info`.
pub struct Signer {
    secrets: Arc<Cache<Secret>>,
    maps: Arc<Cache<ConfigMap>>,
    sign: SignWithToken,
}

impl Signer {
    /// A controller over these informers.
    pub fn new(i: &Informers, sign: SignWithToken) -> Self {
        Self { secrets: i.get(), maps: i.get(), sign }
    }
}

/// The signatures that a text should have.
fn signatures(
    secrets: &[Arc<Secret>],
    content: &str,
    now: Timestamp,
    sign: SignWithToken,
) -> BTreeMap<String, String> {
    let usable = |s: &&Arc<Secret>| {
        is_token(s)
            && !meta::deleting(&s.metadata)
            && field(s, "usage-bootstrap-signing") == "true"
            && left(s, now).is_none_or(|l| l > 0.0)
    };
    let signed = |s: &Arc<Secret>| {
        let (id, secret) = (field(s, "token-id"), field(s, "token-secret"));
        let signature = sign(content, &id, &secret);
        (format!("{SIGNATURE}{id}"), signature)
    };
    secrets.iter().filter(usable).map(signed).collect()
}

impl Controller for Signer {
    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.secrets.on_event(move |e| {
            if is_token(e.object()) {
                q.add(Key::new(PUBLIC, CLUSTER_INFO));
            }
        });
        let q = queue.clone();
        self.maps.on_event(move |e| {
            let key = Key::of(&e.object().metadata);
            if key == Key::new(PUBLIC, CLUSTER_INFO) {
                q.add(key);
            }
        });
    }
    fn synced(&self) -> bool {
        self.secrets.has_synced() && self.maps.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(map) = self.maps.by_key(key) else { return Plan::none() };
        let have = map.data.clone().unwrap_or_default();
        let Some(content) = have.get("kubeconfig") else { return Plan::none() };
        let tokens = self.secrets.in_namespace(TOKENS);
        let mut want = signatures(&tokens, content, now, self.sign);
        want.extend(have.iter().filter(|(k, _)| !k.starts_with(SIGNATURE)).map(|(k, v)| (k.clone(), v.clone())));
        if want == have {
            return Plan::none();
        }
        let mut next = map.as_ref().clone();
        next.data = Some(want);
        Plan::one(Action::update(next))
    }
}

/// Removes tokens whose time is over.
pub struct Cleaner {
    secrets: Arc<Cache<Secret>>,
}

impl Cleaner {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { secrets: i.get() }
    }
}

impl Controller for Cleaner {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.secrets.on_event(move |e| {
            if is_token(e.object()) {
                q.add(Key::of(&e.object().metadata));
            }
        });
    }
    fn synced(&self) -> bool {
        self.secrets.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(s) = self.secrets.by_key(key).filter(|s| is_token(s)) else { return Plan::none() };
        match left(&s, now) {
            None => Plan::none(),
            Some(seconds) if seconds <= 0.0 => Plan::one(Action::delete(s.as_ref(), None, None)),
            Some(seconds) => {
                let mut plan = Plan::none();
                plan.after(Duration::from_secs_f64(seconds + 0.1));
                plan
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn token(id: &str, more: &[(&str, &str)]) -> Arc<Secret> {
        let data = [("token-id", id), ("token-secret", "s")].into_iter().chain(more.iter().copied());
        let data = data.map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec()))).collect();
        let metadata = ObjectMeta { namespace: Some(TOKENS.into()), ..ObjectMeta::default() };
        Arc::new(Secret { metadata, data: Some(data), type_: Some(TOKEN_TYPE.into()), ..Secret::default() })
    }

    #[test]
    fn tokens_for_signing_that_have_time_left_sign() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("a time");
        let signing = ("usage-bootstrap-signing", "true");
        let tokens = [
            token("good00", &[signing, ("expiration", "2026-01-03T00:00:00Z")]),
            token("always", &[signing]),
            token("past00", &[signing, ("expiration", "2026-01-01T00:00:00Z")]),
            token("broken", &[signing, ("expiration", "soon")]),
            token("silent", &[]),
        ];
        let made = signatures(&tokens, "text", now, |text, id, secret| format!("{text} {id} {secret}"));
        let wanted = [("jws-kubeconfig-always", "text always s"), ("jws-kubeconfig-good00", "text good00 s")];
        assert_eq!(made, wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(left(&tokens[0], now), Some(86_400.0));
    }
}
