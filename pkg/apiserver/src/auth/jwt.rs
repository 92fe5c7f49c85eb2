//! Service-account tokens: JSON Web Tokens signed with RS256, ES256 or ES384.

use base64::Engine;
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair},
};
use serde_json::{Value, json};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::oidc::verified;

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

/// A private key.
enum Private {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// The key that signs, and those that verify.
pub struct Signer {
    private: Private,
    /// Public keys as members of a JSON Web Key Set; the first is the signing key's.
    keys: Vec<Value>,
}

/// The label and bytes of each PEM block.
fn blocks(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) {
            open = Some((label.to_owned(), String::new()));
        } else if line.starts_with("-----END ") {
            if let Some((label, body)) = open.take()
                && let Ok(der) = base64::engine::general_purpose::STANDARD.decode(body)
            {
                out.push((label, der));
            }
        } else if let Some((_, body)) = &mut open {
            body.push_str(line);
        }
    }
    out
}

/// One DER element: its tag, its content and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(b, _)| b.len() <= 4)?;
        length = bytes.iter().fold(0, |n, b| (n << 8) | usize::from(*b));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// Writes one DER element.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let n = content.len();
    let mut out = vec![tag];
    if n < 0x80 {
        out.push(u8::try_from(n).unwrap_or(0));
    } else {
        let bytes: Vec<u8> = n.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
        out.extend(bytes);
    }
    out.extend_from_slice(content);
    out
}

/// `id-ecPublicKey` with a named curve, and `rsaEncryption`, as algorithm identifiers (RFC 5480, RFC 8017).
const P256: &[u8] = &[0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// A SubjectPublicKeyInfo of an algorithm and a key.
fn info(algorithm: &[u8], public: &[u8]) -> Vec<u8> {
    let bits = tagged(0x03, &[&[0], public].concat());
    tagged(0x30, &[algorithm, &bits].concat())
}

/// A public key (SubjectPublicKeyInfo) as a JSON Web Key; its id is the digest of the whole.
fn web_key(spki: &[u8]) -> Option<Value> {
    use sha2::Digest;
    let kid = B64.encode(sha2::Sha256::digest(spki));
    let (_, parsed) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let public = parsed.subject_public_key.data.as_ref();
    let size = if spki.windows(P256.len()).any(|w| w == P256) {
        Some(("P-256", "ES256", 32))
    } else if spki.windows(P384.len()).any(|w| w == P384) {
        Some(("P-384", "ES384", 48))
    } else {
        None
    };
    if let Some((curve, alg, n)) = size {
        let (x, y) = public.strip_prefix(&[4])?.split_at_checked(n).filter(|(_, y)| y.len() == n)?;
        return Some(json!({"use": "sig", "kty": "EC", "kid": kid, "crv": curve, "alg": alg, "x": B64.encode(x), "y": B64.encode(y)}));
    }
    let (_, content, _) = element(public)?;
    let (_, n, rest) = element(content)?;
    let (_, e, _) = element(rest)?;
    let number = |b: &[u8]| B64.encode(b.iter().copied().skip_while(|b| *b == 0).collect::<Vec<_>>());
    Some(json!({"use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256", "n": number(n), "e": number(e)}))
}

impl Private {
    fn read(label: &str, der: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let curves = [&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &signature::ECDSA_P384_SHA384_FIXED_SIGNING];
        match label {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).map(Self::Rsa).map_err(|e| e.to_string()),
            // SEC 1: ring reads PKCS#8 only, so the key is wrapped (RFC 5915, RFC 5208).
            "EC PRIVATE KEY" => {
                let mut why = String::new();
                for (curve, algorithm) in curves.into_iter().zip([P256, P384]) {
                    let bare = sec1(der).ok_or("not an EC private key")?;
                    let wrapped = tagged(0x30, &[&[2, 1, 0][..], algorithm, &tagged(0x04, &bare)].concat());
                    match EcdsaKeyPair::from_pkcs8(curve, &wrapped, &random) {
                        Ok(k) => return Ok(Self::Ecdsa(k)),
                        Err(e) => why = e.to_string(),
                    }
                }
                Err(why)
            }
            "PRIVATE KEY" => {
                for curve in curves {
                    if let Ok(k) = EcdsaKeyPair::from_pkcs8(curve, der, &random) {
                        return Ok(Self::Ecdsa(k));
                    }
                }
                RsaKeyPair::from_pkcs8(der).map(Self::Rsa).map_err(|e| e.to_string())
            }
            other => Err(format!("a {other} signs nothing")),
        }
    }

    fn spki(&self) -> Vec<u8> {
        match self {
            Self::Rsa(k) => info(RSA, k.public_key().as_ref()),
            Self::Ecdsa(k) => {
                let public = k.public_key().as_ref();
                info(if public.len() == 65 { P256 } else { P384 }, public)
            }
        }
    }
}

/// An EC private key without the name of its curve, which the wrapping tells.
fn sec1(der: &[u8]) -> Option<Vec<u8>> {
    let (_, mut rest, _) = element(der)?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (tag, content, after) = element(rest)?;
        if tag != 0xa0 {
            out.extend(tagged(tag, content));
        }
        rest = after;
    }
    Some(tagged(0x30, &out))
}

impl Signer {
    /// Reads the signing key in PEM, PKCS#8, PKCS#1 or SEC 1: RSA, ECDSA P-256 or P-384.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn new(key: &str) -> Result<Self, Error> {
        let all = blocks(key);
        let (label, der) = all.iter().find(|(l, _)| l.ends_with("PRIVATE KEY")).ok_or_else(|| Error::Key("it is not PEM of a private key".into()))?;
        let private = Private::read(label, der).map_err(Error::Key)?;
        let own = web_key(&private.spki()).ok_or_else(|| Error::Key("its public key cannot be read".into()))?;
        Ok(Self { private, keys: vec![own] })
    }

    /// Adds the keys of a PEM file, private or public, to those that verify.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn trust(&mut self, pem: &str) -> Result<(), Error> {
        let mut some = false;
        for (label, der) in blocks(pem) {
            let spki = match label.as_str() {
                "PUBLIC KEY" => der,
                "RSA PUBLIC KEY" => info(RSA, &der),
                "CERTIFICATE" => {
                    let (_, c) = x509_parser::parse_x509_certificate(&der).map_err(|e| Error::Key(e.to_string()))?;
                    c.public_key().raw.to_vec()
                }
                l if l.ends_with("PRIVATE KEY") => Private::read(l, &der).map_err(Error::Key)?.spki(),
                _ => continue,
            };
            let key = web_key(&spki).ok_or_else(|| Error::Key(format!("a {label} cannot be read")))?;
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
            some = true;
        }
        if some { Ok(()) } else { Err(Error::Key("data does not contain any valid RSA or ECDSA public keys".into())) }
    }

    /// The public keys as `/openid/v1/jwks` shows them.
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys})
    }

    /// The algorithms of the keys.
    #[must_use]
    pub fn algorithms(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.keys.iter().filter_map(|k| k["alg"].as_str()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Signs claims.
    ///
    /// # Errors
    /// [`Error::Key`] if there is no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let own = self.keys.first().unwrap_or(&Value::Null);
        let head = json!({"alg": own["alg"], "kid": own["kid"]});
        let mut text = format!("{}.{}", B64.encode(head.to_string()), B64.encode(claims.to_string()));
        let random = SystemRandom::new();
        let failed = |e: ring::error::Unspecified| Error::Key(e.to_string());
        let sig = match &self.private {
            Private::Ecdsa(k) => k.sign(&random, text.as_bytes()).map_err(failed)?.as_ref().to_vec(),
            Private::Rsa(k) => {
                let mut sig = vec![0; k.public().modulus_len()];
                k.sign(&signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut sig).map_err(failed)?;
                sig
            }
        };
        text.push('.');
        text.push_str(&B64.encode(sig));
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
        let head = part(head).ok_or(Error::Invalid)?;
        let (alg, kid) = (head["alg"].as_str().unwrap_or(""), head["kid"].as_str().unwrap_or(""));
        let sig = B64.decode(sig).map_err(|_| Error::Invalid)?;
        // A token without a key's name may be by any of that algorithm.
        let mut mine = self.keys.iter().filter(|k| k["alg"] == alg && (kid.is_empty() || k["kid"] == kid));
        if !mine.any(|k| verified(k, alg, signed.as_bytes(), &sig)) {
            return Err(Error::Invalid);
        }
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

/// Who made a token, as it says itself, unverified.
#[must_use]
pub fn issuer(token: &str) -> Option<String> {
    let claims = B64.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

/// Whether a token says (unverified) that `issuer` made it.
#[must_use]
pub fn issued_by(token: &str, issuer: &str) -> bool {
    self::issuer(token).is_some_and(|i| i == issuer)
}

#[cfg(test)]
mod tests;
