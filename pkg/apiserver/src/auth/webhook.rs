//! Tokens that another service reviews.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use knarr_registry::Object;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Authenticated, UserInfo};
use crate::webhook::RemoteService;

/// How long an answer is kept.
const TTL: Duration = Duration::from_secs(120);
/// How long the service may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most answers that are kept.
const MOST: usize = 4096;

type Answer = Option<Authenticated>;

/// A service that reviews tokens.
pub struct TokenWebhook {
    service: RemoteService,
    known: Mutex<HashMap<[u8; 32], (Instant, Answer)>>,
}

fn texts(v: &[Value]) -> Vec<String> {
    v.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

impl TokenWebhook {
    /// By that service.
    #[must_use]
    pub fn new(service: RemoteService) -> Self {
        Self { service, known: Mutex::default() }
    }

    /// Whose a token is, for some of `wanted`; `None` if the service does not know it. `own` are
    /// the audiences of this server.
    ///
    /// # Errors
    /// The service cannot be asked, or says why not.
    pub async fn authenticate(&self, token: &str, wanted: &[String], own: &[String]) -> Result<Answer, String> {
        let mut hash = Sha256::new();
        hash.update(token);
        for a in wanted {
            hash.update([0]);
            hash.update(a);
        }
        let key: [u8; 32] = hash.finalize().into();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get(&key) {
                Some((at, answer)) if at.elapsed() < TTL => return Ok(answer.clone()),
                Some(_) => {
                    known.remove(&key);
                }
                None => {}
            }
        }
        let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": token, "audiences": wanted}, "status": {"user": {}}});
        let review = self.service.post(&question, PATIENCE).await?;
        let status = &review["status"];
        if status["authenticated"] != true {
            let why = status.str_at(&["error"]);
            if !why.is_empty() {
                return Err(why.to_owned());
            }
        }
        let answer = answer(status, wanted, own);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (at, _)| at.elapsed() < TTL);
        }
        if known.len() < MOST {
            known.insert(key, (Instant::now(), answer.clone()));
        }
        Ok(answer)
    }
}

fn answer(status: &Value, wanted: &[String], own: &[String]) -> Answer {
    if status["authenticated"] != true {
        return None;
    }
    let got = match status.list_at(&["audiences"]) {
        [] => own.to_vec(),
        l => texts(l),
    };
    let audiences: Vec<String> = wanted.iter().filter(|a| got.contains(a)).cloned().collect();
    if audiences.is_empty() {
        return None;
    }
    let u = &status["user"];
    let mut user = UserInfo::new(u.str_at(&["username"]), texts(u.list_at(&["groups"])));
    u.str_at(&["uid"]).clone_into(&mut user.uid);
    for (k, v) in u.at(&["extra"]).and_then(Value::as_object).into_iter().flatten() {
        user.extra.insert(k.clone(), texts(v.as_array().map_or(&[], Vec::as_slice)));
    }
    Some(Authenticated { user, audiences })
}
