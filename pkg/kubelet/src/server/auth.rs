//! Who may call.
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};

use super::Refusal;

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Uid.
    pub uid: String,
    /// Other facts.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// How long an answer of the API server is believed.
const BELIEVED: Duration = Duration::from_secs(30);
/// Remembered answers.
const REMEMBERED: usize = 1000;

type Cache<K, V> = Mutex<HashMap<K, (Instant, V)>>;

/// Decides by asking the API server, remembering the answers for a while.
pub struct Auth {
    client: Option<Client>,
    node: String,
    tokens: Cache<[u8; 32], Option<Identity>>,
    allowed: Cache<(Identity, &'static str, &'static str), bool>,
}

fn cached<K: std::hash::Hash + Eq, V: Clone>(cache: &Cache<K, V>, key: &K) -> Option<V> {
    let c = cache.lock().unwrap_or_else(PoisonError::into_inner);
    c.get(key)
        .filter(|(at, _)| at.elapsed() < BELIEVED)
        .map(|(_, v)| v.clone())
}

fn remember<K: std::hash::Hash + Eq, V>(cache: &Cache<K, V>, key: K, value: V) {
    let mut c = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if c.len() >= REMEMBERED {
        c.clear();
    }
    c.insert(key, (Instant::now(), value));
}

/// The subresources of the node of which one must be allowed for a path, as upstream's kubelet asks.
fn subresources(path: &str) -> &'static [&'static str] {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

impl Auth {
    /// Without a client, only certificates count, and each may do all.
    pub fn new(client: Option<Client>, node: &str) -> Self {
        Auth {
            client,
            node: node.to_owned(),
            tokens: Mutex::default(),
            allowed: Mutex::default(),
        }
    }

    /// Lets the request pass, or says why not.
    pub(super) async fn check<B>(
        &self,
        req: &Request<B>,
        certificate: Option<Identity>,
    ) -> Result<(), Refusal> {
        let unknown = || Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".into());
        let who = match certificate {
            Some(i) => i,
            None => {
                let token = req
                    .headers()
                    .get(http::header::AUTHORIZATION)
                    .and_then(|h| h.to_str().ok())
                    .and_then(|h| h.strip_prefix("Bearer "))
                    .ok_or_else(unknown)?;
                self.token(token.trim()).await?.ok_or_else(unknown)?
            }
        };
        if who.groups.iter().any(|g| g == "system:masters") {
            return Ok(());
        }
        let Some(client) = self.client.clone() else {
            return Ok(());
        };
        let verb = match req.method().as_str() {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "get",
        };
        let wanted = subresources(req.uri().path());
        for &subresource in wanted {
            let key = (who.clone(), verb, subresource);
            let ok = match cached(&self.allowed, &key) {
                Some(ok) => ok,
                None => {
                    let ok = self.ask(client.clone(), &who, verb, subresource).await?;
                    remember(&self.allowed, key, ok);
                    ok
                }
            };
            if ok {
                return Ok(());
            }
        }
        Err(Refusal(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
                who.user,
                wanted.join(" ")
            ),
        ))
    }

    async fn token(&self, token: &str) -> Result<Option<Identity>, Refusal> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(found) = cached(&self.tokens, &key) {
            return Ok(found);
        }
        let Some(client) = self.client.clone() else {
            return Ok(None);
        };
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(client)
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| Refusal::internal(e.to_string()))?;
        let status = answer.status.unwrap_or_default();
        let found = (status.authenticated == Some(true)).then(|| {
            let u = status.user.unwrap_or_default();
            Identity {
                user: u.username.unwrap_or_default(),
                groups: u.groups.unwrap_or_default(),
                uid: u.uid.unwrap_or_default(),
                extra: u.extra.unwrap_or_default(),
            }
        });
        remember(&self.tokens, key, found.clone());
        Ok(found)
    }

    async fn ask(
        &self,
        client: Client,
        who: &Identity,
        verb: &str,
        subresource: &str,
    ) -> Result<bool, Refusal> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(who.user.clone()),
                groups: Some(who.groups.clone()),
                uid: Some(who.uid.clone()),
                extra: Some(who.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(client)
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| Refusal::internal(e.to_string()))?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }
}
