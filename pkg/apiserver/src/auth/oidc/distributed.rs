//! Distributed claims (OpenID Connect Core 1.0, section 5.6.2): a token that does not hold its groups
//! says where another token with them is to be had.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use super::{JwtAuthenticator, audience, current, keys::Keys};
use crate::auth::jwt;

/// Of how many issuers of such tokens keys are kept.
const MOST: usize = 16;

/// Resolves one claim.
pub struct Resolver {
    claim: String,
    /// The authorities of issuers and endpoints.
    ca: String,
    audiences: Vec<String>,
    /// Where tokens are fetched from is asked as this issuer is.
    keys: Keys,
    issuers: Mutex<HashMap<String, Arc<Keys>>>,
}

impl Resolver {
    /// For the groups of an issuer's tokens; `None` if they come from no claim.
    ///
    /// # Errors
    /// What is wrong with the authorities.
    pub fn new(c: &JwtAuthenticator) -> Result<Option<Self>, String> {
        let claim = c.claim_mappings.groups.claim.clone();
        if claim.is_empty() {
            return Ok(None);
        }
        let keys = Keys::new(&c.issuer.url, "", &c.issuer.certificate_authority)?;
        let (ca, audiences) = (c.issuer.certificate_authority.clone(), c.issuer.audiences.clone());
        Ok(Some(Self { claim, ca, audiences, keys, issuers: Mutex::default() }))
    }

    /// Puts the claim into `claims` if it is elsewhere.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn expand(&self, claims: &mut Value) -> Result<(), String> {
        let claim = self.claim.as_str();
        if claims.get(claim).is_some() {
            return Ok(());
        }
        let Some(names) = claims.get("_claim_names") else { return Ok(()) };
        let names = names.as_object().ok_or("oidc: error parsing distributed claim names: no object")?;
        let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
        let sources = sources.as_object().ok_or("oidc: could not parse claim sources: no object")?;
        let Some(source) = names.get(claim).and_then(Value::as_str) else { return Ok(()) };
        let at = sources.get(source).ok_or_else(|| format!("id token _claim_names contained a source {source} missing in _claims_sources"))?;
        let Some(url) = at["endpoint"].as_str().filter(|u| !u.is_empty()) else { return Ok(()) };
        let token = at["access_token"].as_str().unwrap_or("");
        let value = self.resolve(url, token).await?;
        claims[claim] = value;
        Ok(())
    }

    async fn resolve(&self, url: &str, token: &str) -> Result<Value, String> {
        let claim = &self.claim;
        let jwt = self.keys.get(url, token).await.map_err(|why| format!("while getting distributed claim {claim:?}: {why}"))?;
        let jwt = String::from_utf8_lossy(&jwt).trim().to_owned();
        let issuer = jwt::issuer(&jwt).ok_or_else(|| format!("getting untrusted issuer from endpoint {url} failed for claim {claim:?}: oidc: malformed token"))?;
        let keys = self.issuer(&issuer).await.map_err(|why| format!("verifying untrusted issuer {issuer} failed: {why}"))?;
        let wrong = |why: String| format!("verify distributed claim token: {why}");
        let mut claims = keys.verify(&jwt).await.map_err(wrong)?;
        current(&claims).and_then(|()| audience(&self.audiences, &claims)).map_err(wrong)?;
        match claims.get_mut(claim) {
            Some(v) => Ok(v.take()),
            None => Err(format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}")),
        }
    }

    async fn issuer(&self, issuer: &str) -> Result<Arc<Keys>, String> {
        if let Some(k) = self.issuers.lock().unwrap_or_else(PoisonError::into_inner).get(issuer) {
            return Ok(Arc::clone(k));
        }
        let keys = Arc::new(Keys::new(issuer, "", &self.ca)?);
        keys.discover().await?;
        let mut all = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(issuer.to_owned(), Arc::clone(&keys));
        Ok(keys)
    }
}
