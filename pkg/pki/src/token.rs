//! Bootstrap tokens, `id.secret`: what a machine joins a cluster with, and what proves to it that
//! it speaks to the right cluster.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};

/// The characters of a token.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// The public half: 6 lower-case letters or digits.
    pub id: String,
    /// The secret half: 16 of them.
    pub secret: String,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootstrapToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl std::str::FromStr for BootstrapToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |part: &str, length| part.len() == length && part.bytes().all(|b| LETTERS.contains(&b));
        match text.split_once('.') {
            Some((id, secret)) if good(id, 6) && good(secret, 16) => {
                Ok(BootstrapToken { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err("a token is 6 and 16 lower-case letters or digits with a dot between".into()),
        }
    }
}

impl BootstrapToken {
    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let random = SystemRandom::new();
        let mut text = String::new();
        while text.len() < 22 {
            let mut byte = [0];
            random.fill(&mut byte).map_err(|_| "the system gives no random numbers")?;
            // 252 is the greatest multiple of 36 in a byte: each letter is as likely as another.
            if byte[0] < 252 {
                text.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
            }
        }
        let secret = text.split_off(6);
        Ok(BootstrapToken { id: text, secret })
    }

    /// Both halves.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    fn mac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.reveal().as_bytes())
    }

    /// A JSON web signature of `content` without the content: `header..signature`, the key being
    /// the token.
    #[must_use]
    pub fn sign(&self, content: &str) -> String {
        let header = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, self.id);
        let header = URL_SAFE_NO_PAD.encode(header);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        let signature = hmac::sign(&self.mac(), signed.as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether `signature` is one that somebody who knows the token made of `content`.
    #[must_use]
    pub fn verifies(&self, content: &str, signature: &str) -> bool {
        let mut parts = signature.split('.');
        let (Some(header), Some(""), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let decoded = URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
        let claims: serde_json::Value = serde_json::from_slice(&decoded).unwrap_or_default();
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        claims["alg"] == "HS256"
            && claims["kid"] == self.id.as_str()
            && hmac::verify(&self.mac(), signed.as_bytes(), &signature).is_ok()
    }
}

/// The hash by which an authority is pinned, `sha256:<hex>`: of the public key of its (first)
/// certificate; `None` if `pem` is no certificate.
#[must_use]
pub fn ca_hash(pem: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let x509 = pem.parse_x509().ok()?;
    let digest = digest::digest(&digest::SHA256, x509.public_key().raw);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Some(format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_a_form() {
        let token = BootstrapToken::generate().unwrap();
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        for bad in ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef.x"] {
            assert!(bad.parse::<BootstrapToken>().is_err(), "{bad}");
        }
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn only_the_signed_content_is_verified() {
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().unwrap();
        let other: BootstrapToken = "abcdef.0123456789abcdee".parse().unwrap();
        let signature = token.sign("content");
        assert!(token.verifies("content", &signature));
        assert!(!token.verifies("contents", &signature));
        assert!(!other.verifies("content", &signature));
        assert!(!token.verifies("content", "..") && !token.verifies("content", ""));
    }
}
