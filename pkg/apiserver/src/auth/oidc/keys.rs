//! The keys of an issuer: its discovery document, its key set, signatures.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use knarr_registry::Object;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::trust;

/// The most a document of an issuer may be.
const LIMIT: usize = 1024 * 1024;
/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// An issuer is not asked for its keys more often.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads a JSON document over HTTPS.
async fn fetch(url: &str, tls: &Arc<ClientConfig>) -> Result<Value, String> {
    let bytes = get(url, tls, "").await?;
    serde_json::from_slice(&bytes).map_err(|e| format!("Get {url:?}: {e}"))
}

/// Reads a document over HTTPS, with a token if there is one.
async fn get(url: &str, tls: &Arc<ClientConfig>, token: &str) -> Result<Bytes, String> {
    let uri: http::Uri = url.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let host = uri.host().ok_or("no host in the URL")?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let work = async {
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|e| e.to_string())?;
        let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let io = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.map_err(|e| e.to_string())?;
        let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
        let conn = tokio::spawn(conn);
        let mut request = Request::get(uri.path_and_query().map_or("/", |p| p.as_str()))
            .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
            .header(header::ACCEPT, "application/json");
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), LIMIT).collect().await.map_err(|e| e.to_string())?.to_bytes();
        conn.abort();
        if code != http::StatusCode::OK {
            return Err(format!("{code}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])));
        }
        Ok(body)
    };
    let answer = tokio::time::timeout(PATIENCE, work).await;
    answer.map_err(|_| "context deadline exceeded".to_owned()).and_then(|r| r).map_err(|why: String| format!("Get {url:?}: {why}"))
}

/// An issuer's keys.
pub struct Keys {
    issuer: String,
    discovery: String,
    tls: Arc<ClientConfig>,
    known: Mutex<Known>,
    asking: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Known {
    url: Option<String>,
    keys: Arc<Vec<Value>>,
}

impl Keys {
    /// Of an issuer with the authorities of its certificate.
    ///
    /// # Errors
    /// What is wrong with the PEM.
    pub fn new(issuer: &str, discovery: &str, ca: &str) -> Result<Self, String> {
        if !ca.is_empty() && !ca.contains("BEGIN CERTIFICATE") {
            return Err("data does not contain any valid RSA or ECDSA certificates".into());
        }
        let tls = trust::by(ca.as_bytes())?.with_no_client_auth();
        let own = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        Ok(Self {
            issuer: issuer.to_owned(),
            discovery: if discovery.is_empty() { own } else { discovery.to_owned() },
            tls: Arc::new(tls),
            known: Mutex::default(),
            asking: tokio::sync::Mutex::new(None),
        })
    }

    /// Finds out where the keys are.
    ///
    /// # Errors
    /// Why that is not known.
    pub async fn discover(&self) -> Result<(), String> {
        let v = fetch(&self.discovery, &self.tls).await?;
        let issuer = v.str_at(&["issuer"]);
        if issuer != self.issuer {
            return Err(format!("oidc: issuer did not match the issuer returned by provider, expected {:?} got {issuer:?}", self.issuer));
        }
        let url = v.str_at(&["jwks_uri"]);
        if url.is_empty() {
            return Err("provider did not return JWKS URL".into());
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).url = Some(url.to_owned());
        Ok(())
    }

    /// Reads another document as the issuer's own are read, with a token if there is one.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn get(&self, url: &str, token: &str) -> Result<Bytes, String> {
        get(url, &self.tls, token).await
    }

    fn keys(&self) -> Arc<Vec<Value>> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner).keys)
    }

    /// Reads the keys again, unless somebody has just done so.
    async fn refresh(&self) -> Result<(), String> {
        let url = self.known.lock().unwrap_or_else(PoisonError::into_inner).url.clone().ok_or("oidc: authenticator not initialized")?;
        let began = Instant::now();
        let mut last = self.asking.lock().await;
        if last.is_some_and(|l| l > began || l.elapsed() < PAUSE) {
            return Ok(());
        }
        let v = fetch(&url, &self.tls).await?;
        *last = Some(Instant::now());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).keys = Arc::new(v.list_at(&["keys"]).to_vec());
        Ok(())
    }

    /// Checks a token's signature; its claims.
    ///
    /// # Errors
    /// Why it is not the issuer's.
    pub async fn verify(&self, token: &str) -> Result<Value, String> {
        let malformed = |why: &str| format!("oidc: malformed jwt: {why}");
        let (signed, sig) = token.rsplit_once('.').ok_or_else(|| malformed("not three parts"))?;
        let (head, claims) = signed.split_once('.').ok_or_else(|| malformed("not three parts"))?;
        let part = |p: &str| B64.decode(p).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok()).ok_or_else(|| malformed("not base64 of JSON"));
        let (head, claims) = (part(head)?, part(claims)?);
        let sig = B64.decode(sig).map_err(|e| malformed(&e.to_string()))?;
        let (alg, kid) = (head.str_at(&["alg"]), head.str_at(&["kid"]));
        let by_any = |keys: &[Value]| {
            let mine = keys.iter().filter(|k| kid.is_empty() || k.str_at(&["kid"]) == kid);
            mine.filter(|k| matches!(k.str_at(&["use"]), "" | "sig")).any(|k| verified(k, alg, signed.as_bytes(), &sig))
        };
        if by_any(&self.keys()) {
            return Ok(claims);
        }
        self.refresh().await?;
        if by_any(&self.keys()) { Ok(claims) } else { Err("failed to verify signature: failed to verify id token signature".into()) }
    }
}

/// Whether a key of a set has made a signature.
pub(in crate::auth) fn verified(key: &Value, alg: &str, text: &[u8], sig: &[u8]) -> bool {
    let part = |f: &str| B64.decode(key.str_at(&[f]).trim_end_matches('=')).unwrap_or_default();
    let rsa: Option<&'static RsaParameters> = match alg {
        "RS256" => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => Some(&signature::RSA_PSS_2048_8192_SHA256),
        "PS384" => Some(&signature::RSA_PSS_2048_8192_SHA384),
        "PS512" => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    };
    if let Some(p) = rsa {
        return key.str_at(&["kty"]) == "RSA" && RsaPublicKeyComponents { n: part("n"), e: part("e") }.verify(p, text, sig).is_ok();
    }
    if alg == "ES512" {
        return key.str_at(&["kty"]) == "EC" && key.str_at(&["crv"]) == "P-521" && verified_p521(&part("x"), &part("y"), text, sig);
    }
    let (curve, ec): (&str, &'static dyn VerificationAlgorithm) = match alg {
        "ES256" => ("P-256", &signature::ECDSA_P256_SHA256_FIXED),
        "ES384" => ("P-384", &signature::ECDSA_P384_SHA384_FIXED),
        _ => return false,
    };
    if key.str_at(&["kty"]) != "EC" || key.str_at(&["crv"]) != curve {
        return false;
    }
    let point = [vec![4], part("x"), part("y")].concat();
    UnparsedPublicKey::new(ec, point).verify(text, sig).is_ok()
}

/// Whether a key of the curve P-521, given by its point, has made a signature.
fn verified_p521(x: &[u8], y: &[u8], text: &[u8], sig: &[u8]) -> bool {
    use p521::ecdsa::{Signature, VerifyingKey, signature::Verifier};
    let point = [&[4], x, y].concat();
    match (VerifyingKey::from_sec1_bytes(&point), Signature::from_slice(sig)) {
        (Ok(key), Ok(sig)) => key.verify(text, &sig).is_ok(),
        _ => false,
    }
}
