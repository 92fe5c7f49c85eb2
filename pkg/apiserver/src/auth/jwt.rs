//! Service-account tokens: JSON Web Tokens signed with ES256.

use base64::Engine;
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

const B64: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Why a token is not accepted.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The key cannot be used.
    #[error("the service-account key is unusable: {0}")]
    Key(String),
    /// Not a token of ours, or a forged one.
    #[error("invalid bearer token")]
    Invalid,
    /// Not valid any more, or not yet.
    #[error("service account token has expired")]
    Expired,
}

/// The key pair that signs and verifies.
pub struct Signer {
    pair: EcdsaKeyPair,
    public: Vec<u8>,
    id: String,
}

/// The bytes of the first PEM block.
fn pem(text: &str) -> Option<Vec<u8>> {
    let body: String = text
        .lines()
        .skip_while(|l| !l.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|l| !l.starts_with("-----END"))
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body.trim()).ok()
}

impl Signer {
    /// Reads a PKCS#8 ECDSA P-256 key in PEM.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn new(key: &str) -> Result<Self, Error> {
        let der = pem(key).ok_or_else(|| Error::Key("it is not PEM".into()))?;
        let pair = EcdsaKeyPair::from_pkcs8(
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &der,
            &SystemRandom::new(),
        )
        .map_err(|e| Error::Key(e.to_string()))?;
        let public = pair.public_key().as_ref().to_vec();
        use sha2::Digest;
        let id = B64.encode(sha2::Sha256::digest(&public));
        Ok(Self { pair, public, id })
    }

    /// The public keys as `/openid/v1/jwks` shows them.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let x = self.public.get(1..33).unwrap_or_default();
        let y = self.public.get(33..65).unwrap_or_default();
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": B64.encode(x), "y": B64.encode(y)}]})
    }

    /// Signs claims.
    ///
    /// # Errors
    /// [`Error::Key`] if there is no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let head = json!({"alg": "ES256", "kid": self.id});
        let mut text = format!("{}.{}", B64.encode(head.to_string()), B64.encode(claims.to_string()));
        let sig = self
            .pair
            .sign(&SystemRandom::new(), text.as_bytes())
            .map_err(|e| Error::Key(e.to_string()))?;
        text.push('.');
        text.push_str(&B64.encode(sig.as_ref()));
        Ok(text)
    }

    /// Checks the signature and times of a token; returns its claims.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Expired`].
    pub fn verify(&self, token: &str, now: i64) -> Result<Value, Error> {
        let (signed, sig) = token.rsplit_once('.').ok_or(Error::Invalid)?;
        let (head, claims) = signed.split_once('.').ok_or(Error::Invalid)?;
        let part = |p: &str| -> Option<Value> { serde_json::from_slice(&B64.decode(p).ok()?).ok() };
        if part(head).ok_or(Error::Invalid)?["alg"] != "ES256" {
            return Err(Error::Invalid);
        }
        let sig = B64.decode(sig).map_err(|_| Error::Invalid)?;
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(signed.as_bytes(), &sig)
            .map_err(|_| Error::Invalid)?;
        let claims = part(claims).ok_or(Error::Invalid)?;
        if claims["exp"].as_i64().is_some_and(|e| now >= e) {
            return Err(Error::Expired);
        }
        if claims["nbf"].as_i64().is_some_and(|n| now + 10 < n) {
            return Err(Error::Invalid);
        }
        Ok(claims)
    }
}

/// Whether a token says (unverified) that `issuer` made it.
#[must_use]
pub fn issued_by(token: &str, issuer: &str) -> bool {
    token
        .split('.')
        .nth(1)
        .and_then(|p| B64.decode(p).ok())
        .and_then(|b| serde_json::from_slice::<Value>(&b).ok())
        .is_some_and(|v| v["iss"] == issuer)
}
