//! Bearer tokens: service accounts, bootstrap tokens, static ones.

use std::{collections::HashMap, sync::Arc};

use base64::Engine;
use knarr_registry::{Object, Registry};
use serde_json::Value;

use super::{UserInfo, jwt};

/// Who issues the tokens of secrets.
const SECRET_ISSUER: &str = "kubernetes/serviceaccount";

/// Who a token is of, and for whom.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The user.
    pub user: UserInfo,
    /// The audiences that both the token and the asker name.
    pub audiences: Vec<String>,
}

/// Everything that knows tokens.
pub struct Tokens {
    pub(crate) signer: jwt::Signer,
    pub(crate) issuer: String,
    pub(crate) other_issuers: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) fixed: HashMap<String, UserInfo>,
    pub(crate) registry: Arc<Registry>,
}

impl Tokens {
    fn object(&self, prefix: &str, key: &str) -> Option<Value> {
        self.registry.cache(prefix)?.get(&format!("{prefix}{key}")).map(|e| e.value())
    }

    /// Finds out whose a token is.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Authenticated, String> {
        let wanted: &[String] = if audiences.is_empty() { &self.audiences } else { audiences };
        if let Some(u) = self.fixed.get(token) {
            return Ok(Authenticated { user: u.clone(), audiences: wanted.to_vec() });
        }
        if jwt::issued_by(token, &self.issuer) || self.other_issuers.iter().any(|i| jwt::issued_by(token, i)) {
            return self.service_account(token, wanted);
        }
        if jwt::issued_by(token, SECRET_ISSUER) {
            return self.of_secret(token, wanted);
        }
        if let Some((id, secret)) = token.split_once('.')
            && id.len() == 6
            && secret.len() == 16
        {
            return self.bootstrap(id, secret, wanted);
        }
        Err("invalid bearer token".into())
    }

    fn bootstrap(&self, id: &str, secret: &str, audiences: &[String]) -> Result<Authenticated, String> {
        let bad = || "invalid bearer token".to_owned();
        let s = self
            .object("/registry/secrets/", &format!("kube-system/bootstrap-token-{id}"))
            .ok_or_else(bad)?;
        let data = |k: &str| {
            let b = base64::engine::general_purpose::STANDARD.decode(s.str_at(&["data", k])).unwrap_or_default();
            String::from_utf8(b).unwrap_or_default()
        };
        let ok = s.str_at(&["type"]) == "bootstrap.kubernetes.io/token"
            && !s.deleting()
            && data("token-id") == id
            && same(data("token-secret").as_bytes(), secret.as_bytes())
            && data("usage-bootstrap-authentication") == "true";
        let expired = match data("expiration").as_str() {
            "" => false,
            t => chrono::DateTime::parse_from_rfc3339(t).map_or(true, |t| t < chrono::Utc::now()),
        };
        if !ok || expired {
            return Err(bad());
        }
        let mut groups = vec!["system:bootstrappers".to_owned()];
        groups.extend(data("auth-extra-groups").split(',').filter(|g| g.starts_with("system:bootstrappers:")).map(str::to_owned));
        Ok(Authenticated { user: UserInfo::new(format!("system:bootstrap:{id}"), groups), audiences: audiences.to_vec() })
    }

    /// The token of a secret of the type `kubernetes.io/service-account-token`: good while the
    /// secret holds it.
    fn of_secret(&self, token: &str, wanted: &[String]) -> Result<Authenticated, String> {
        let claims = self.signer.verify(token, chrono::Utc::now().timestamp()).map_err(|e| e.to_string())?;
        let claim = |k: &str| claims[format!("kubernetes.io/serviceaccount/{k}")].as_str().unwrap_or("");
        let (ns, name, uid, secret) = (claim("namespace"), claim("service-account.name"), claim("service-account.uid"), claim("secret.name"));
        let audiences: Vec<String> = wanted.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        let held = self.object("/registry/secrets/", &format!("{ns}/{secret}"));
        let held = held.filter(|s| !s.deleting()).and_then(|s| base64::engine::general_purpose::STANDARD.decode(s.str_at(&["data", "token"])).ok());
        if audiences.is_empty() || !held.is_some_and(|t| same(&t, token.as_bytes())) {
            return Err("service account token has been invalidated".into());
        }
        let account = self.object("/registry/serviceaccounts/", &format!("{ns}/{name}"));
        if account.is_none_or(|a| a.uid() != uid) {
            return Err("service account UID does not match".into());
        }
        Ok(Authenticated { user: of_service_account(ns, name, uid), audiences })
    }

    fn service_account(&self, token: &str, wanted: &[String]) -> Result<Authenticated, String> {
        let claims = self
            .signer
            .verify(token, chrono::Utc::now().timestamp())
            .map_err(|e| e.to_string())?;
        let has: Vec<String> = match &claims["aud"] {
            Value::String(s) => vec![s.clone()],
            Value::Array(a) => a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => self.audiences.clone(),
        };
        let audiences: Vec<String> = wanted.iter().filter(|a| has.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err(format!("token audiences {has:?} is invalid for the target audiences {wanted:?}"));
        }
        let k = &claims["kubernetes.io"];
        let ns = k.str_at(&["namespace"]);
        let (name, uid) = (k.str_at(&["serviceaccount", "name"]), k.str_at(&["serviceaccount", "uid"]));
        let sa = self
            .object("/registry/serviceaccounts/", &format!("{ns}/{name}"))
            .ok_or_else(|| format!("service account {ns}/{name} has been deleted"))?;
        if sa.uid() != uid {
            return Err("service account UID does not match".into());
        }
        let mut user = of_service_account(ns, name, uid);
        let mut extra = |k: &str, v: &str| {
            if !v.is_empty() {
                user.extra.insert(format!("authentication.kubernetes.io/{k}"), vec![v.to_owned()]);
            }
        };
        if let Some(jti) = claims["jti"].as_str() {
            extra("credential-id", &format!("JTI={jti}"));
        }
        for (member, prefix, scoped) in [
            ("pod", "/registry/pods/", true),
            ("secret", "/registry/secrets/", true),
            ("node", "/registry/minions/", false),
        ] {
            let Some(r) = k.get(member) else { continue };
            let key = if scoped { format!("{ns}/{}", r.str_at(&["name"])) } else { r.str_at(&["name"]).to_owned() };
            if member != "secret" {
                extra(&format!("{member}-name"), r.str_at(&["name"]));
                extra(&format!("{member}-uid"), r.str_at(&["uid"]));
            }
            // A pod's token names its node only to tell, the pod binds it already.
            if member == "node" && k.get("pod").is_some() {
                continue;
            }
            match self.object(prefix, &key) {
                Some(o) if o.uid() == r.str_at(&["uid"]) => {}
                _ => return Err(format!("service account token has been invalidated: {member} {key} is gone")),
            }
        }
        Ok(Authenticated { user, audiences })
    }
}

/// Compares without telling by its duration where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// The user that a service account is.
#[must_use]
pub fn of_service_account(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let mut u = UserInfo::new(
        format!("system:serviceaccount:{namespace}:{name}"),
        ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
    );
    uid.clone_into(&mut u.uid);
    u
}
