//! Tokens of other issuers: OpenID Connect, as structured authentication configuration says.

mod config;
mod distributed;
mod keys;

pub(super) use keys::verified;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use knarr_cel::{Bindings, Program, Value as Cel, cost};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use config::{Anonymous, AuthenticationConfiguration, JwtAuthenticator};

use super::{UserInfo, jwt};

/// All issuers.
#[derive(Default)]
pub struct Issuers {
    all: Vec<Arc<Authenticator>>,
}

/// What a configuration says.
pub struct Authentication {
    /// Other issuers of tokens.
    pub issuers: Issuers,
    /// Who may come without credentials.
    pub anonymous: Anonymous,
}

impl Authentication {
    /// From a configuration; `own` is the issuer of service-account tokens, `anonymous` what holds
    /// if the configuration says nothing of it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(c: &AuthenticationConfiguration, own: &str, anonymous: bool) -> Result<Self, String> {
        let anonymous = c.anonymous.clone().unwrap_or(Anonymous { enabled: anonymous, conditions: Vec::new() });
        Ok(Self { issuers: Issuers::new(c, own)?, anonymous })
    }
}

/// One issuer's tokens.
struct Authenticator {
    config: JwtAuthenticator,
    programs: config::Programs,
    keys: keys::Keys,
    distributed: Option<distributed::Resolver>,
}

impl Issuers {
    /// From a configuration; `own` is the issuer of service-account tokens.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(c: &AuthenticationConfiguration, own: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for ((n, j), programs) in c.jwt.iter().enumerate().zip(c.compile(own)?) {
            let keys = keys::Keys::new(&j.issuer.url, &j.issuer.discovery_url, &j.issuer.certificate_authority);
            let keys = keys.map_err(|why| format!("jwt[{n}].issuer.certificateAuthority: Invalid value: \"<omitted>\": {why}"))?;
            let distributed = distributed::Resolver::new(j)?;
            all.push(Arc::new(Authenticator { config: j.clone(), programs, keys, distributed }));
        }
        Ok(Self { all })
    }

    /// Finds out where each issuer's keys are, again and again until it is known.
    pub fn start(&self, stop: &CancellationToken) {
        for a in &self.all {
            // Another configuration may take this one's place.
            let (a, stop) = (Arc::downgrade(a), stop.clone());
            tokio::spawn(async move {
                let mut pause = Duration::from_millis(250);
                while let Some(a) = a.upgrade() {
                    let Err(why) = a.keys.discover().await else { return };
                    tracing::warn!(issuer = a.config.issuer.url, why, "oidc authenticator: initializing plugin");
                    drop(a);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
                        () = stop.cancelled() => return,
                    }
                }
            });
        }
    }

    /// Whose a token is; `None` if it is of no issuer that is known.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(&self, token: &str) -> Result<Option<UserInfo>, String> {
        let Some(a) = self.all.iter().find(|a| jwt::issued_by(token, &a.config.issuer.url)) else { return Ok(None) };
        let mut claims = a.keys.verify(token).await.map_err(|why| if why.starts_with("oidc: authenticator") { why } else { format!("oidc: verify token: {why}") })?;
        audience(&a.config.issuer.audiences, &claims).and_then(|()| current(&claims)).map_err(|why| format!("oidc: verify token: {why}"))?;
        if let Some(d) = &a.distributed {
            d.expand(&mut claims).await.map_err(|why| format!("oidc: could not expand distributed claims: {why}"))?;
        }
        a.user(&claims).map(Some)
    }
}

/// The texts of a claim that is a text or a list of them.
fn texts(v: &Value) -> Option<Vec<String>> {
    match v {
        Value::String(s) => Some(vec![s.clone()]),
        Value::Array(l) => l.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn run(p: &Program, name: &'static str, v: &Value) -> Result<Value, String> {
    let variables = Bindings(vec![(name, Cel::any(v))]);
    let (result, _) = p.eval(&variables, None, cost::PER_CALL_LIMIT);
    result.and_then(|v| v.to_json()).map_err(|e| e.to_string())
}

/// What an expression for texts has given; nothing for what is empty.
fn many(p: &Program, claims: &Value) -> Result<Vec<String>, String> {
    let v = run(p, "claims", claims)?;
    if v.is_null() {
        return Ok(Vec::new());
    }
    let all = texts(&v).ok_or("expression must return a string or a list of strings")?;
    Ok(all.into_iter().filter(|s| !s.is_empty()).collect())
}

/// The rules that do not hold.
fn check(rules: &[(String, String, Program)], name: &'static str, v: &Value) -> Result<(), String> {
    for (expression, message, p) in rules {
        match run(p, name, v)? {
            Value::Bool(true) => {}
            Value::Bool(false) => {
                let message = if message.is_empty() { "validation expression evaluated to false" } else { message };
                return Err(format!("validation expression '{expression}' failed: {message}"));
            }
            _ => return Err("validation expression must return a boolean".into()),
        }
    }
    Ok(())
}

/// Whether a token is meant for one of these.
fn audience(wanted: &[String], claims: &Value) -> Result<(), String> {
    let got = texts(&claims["aud"]).unwrap_or_default();
    if got.iter().any(|a| wanted.contains(a)) {
        return Ok(());
    }
    let mut sorted = wanted.to_vec();
    sorted.sort();
    let show = |l: &[String]| format!("[{}]", l.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" "));
    Err(format!("oidc: expected audience in {} got {}", show(&sorted), show(&got)))
}

/// Whether a token is meant for now.
fn current(claims: &Value) -> Result<(), String> {
    let now = chrono::Utc::now().timestamp();
    let seconds = |f: &str| claims[f].as_i64().or_else(|| claims[f].as_f64().map(|n| n as i64));
    let expiry = seconds("exp").unwrap_or(0);
    if now > expiry {
        return Err(format!("oidc: token is expired (Token Expiry: {})", chrono::DateTime::from_timestamp(expiry, 0).unwrap_or_default().format("%Y-%m-%d %H:%M:%S +0000 UTC")));
    }
    // Clocks differ by minutes at most.
    if let Some(from) = seconds("nbf").filter(|n| now + 300 < *n) {
        return Err(format!("oidc: current time {now} before the nbf (not before) time: {from}"));
    }
    Ok(())
}

impl Authenticator {
    fn username(&self, claims: &Value) -> Result<String, String> {
        if let Some(p) = &self.programs.username {
            let fail = |why: &str| format!("oidc: error evaluating username claim expression: {why}");
            let v = run(p, "claims", claims).map_err(|e| fail(&e))?;
            let name = v.as_str().ok_or_else(|| fail("username claim expression must return a string"))?;
            return if name.is_empty() { Err("oidc: empty username via CEL expression is not allowed".into()) } else { Ok(name.to_owned()) };
        }
        let m = &self.config.claim_mappings.username;
        let wrong = |why: &str| format!("oidc: parse username claims {:?}: {why}", m.claim);
        let name = match claims.get(&m.claim) {
            None => return Err(wrong("claim not present")),
            Some(v) => v.as_str().ok_or_else(|| wrong("it is no string"))?,
        };
        if m.claim == "email" {
            match claims.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => return Err("oidc: email not verified".into()),
                Some(_) => return Err("oidc: parse 'email_verified' claim: it is no boolean".into()),
            }
        }
        Ok(format!("{}{name}", m.prefix.as_deref().unwrap_or("")))
    }

    fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let m = &self.config.claim_mappings;
        let name = self.username(claims)?;
        let mut groups = match &self.programs.groups {
            Some(p) => many(p, claims).map_err(|e| format!("oidc: error evaluating group claim expression: {e}"))?,
            None => {
                let found = match claims.get(&m.groups.claim).filter(|_| !m.groups.claim.is_empty()) {
                    Some(v) => texts(v).ok_or_else(|| format!("oidc: parse groups claim {:?}: it is neither a string nor a list of them", m.groups.claim))?,
                    None => Vec::new(),
                };
                let prefix = m.groups.prefix.as_deref().unwrap_or("");
                found.into_iter().map(|g| format!("{prefix}{g}")).collect()
            }
        };
        let uid = match &self.programs.uid {
            Some(p) => {
                let fail = |why: &str| format!("oidc: error evaluating uid claim expression: {why}");
                let v = run(p, "claims", claims).map_err(|e| fail(&e))?;
                v.as_str().ok_or_else(|| fail("uid claim expression must return a string"))?.to_owned()
            }
            None if m.uid.claim.is_empty() => String::new(),
            None => match claims.get(&m.uid.claim).and_then(Value::as_str) {
                Some(s) => s.to_owned(),
                None => return Err(format!("oidc: parse uid claim {:?}: claim not present", m.uid.claim)),
            },
        };
        let mut extra = BTreeMap::new();
        if let Some(id) = claims["jti"].as_str().filter(|s| !s.is_empty()) {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, p) in &self.programs.extra {
            let all = many(p, claims).map_err(|e| format!("oidc: error evaluating extra claim expression: {e}"))?;
            if !all.is_empty() {
                extra.insert(key.clone(), all);
            }
        }
        for r in self.config.claim_validation_rules.iter().filter(|r| !r.claim.is_empty()) {
            let Some(v) = claims.get(&r.claim) else { return Err(format!("oidc: required claim {} not present in ID token", r.claim)) };
            let got = v.as_str().ok_or_else(|| format!("oidc: parse claim {}: it is no string", r.claim))?;
            if got != r.required_value {
                return Err(format!("oidc: required claim {} value does not match. Got = {got}, want = {}", r.claim, r.required_value));
            }
        }
        check(&self.programs.claims, "claims", claims).map_err(|e| format!("oidc: error evaluating claim validation expression: {e}"))?;
        if !self.programs.user.is_empty() {
            let shown = json!({"username": name, "uid": uid, "groups": groups, "extra": extra});
            check(&self.programs.user, "user", &shown).map_err(|e| format!("oidc: error evaluating user info validation rule: {e}"))?;
        }
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".into());
        }
        Ok(UserInfo { name, uid, groups, extra })
    }
}

/// Whether a path may be asked for without credentials.
#[must_use]
pub fn anonymous(a: &Anonymous, path: &str) -> bool {
    a.enabled && (a.conditions.is_empty() || a.conditions.iter().any(|c| c.path == path))
}

