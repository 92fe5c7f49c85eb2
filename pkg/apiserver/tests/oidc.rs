//! Tokens of other issuers, as structured authentication configuration says.

mod common;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_apiserver::AuthenticationConfiguration;
use knarr_pki::{Leaf, Pki};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

/// A made-up issuer: its keys behind HTTPS, and what it signs.
struct Issuer {
    url: String,
    ca: String,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
    p521: p521::ecdsa::SigningKey,
    /// The token with groups that it gives to who comes with another token.
    groups: Arc<std::sync::Mutex<String>>,
}

/// Made for these tests alone.
const RSA: &str = include_str!("data/issuer.pem");

async fn issuer() -> Issuer {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::open(dir.path()).expect("pki");
    let ca = pki.authority("issuer-ca", "issuer-ca").expect("ca");
    let leaf = knarr_pki::issue(&ca, &Leaf { file: "issuer".into(), common_name: "issuer".into(), dns_names: vec!["localhost".into()], server: true, ..Leaf::default() }).expect("leaf");
    let random = SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).expect("key");
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(RSA.as_bytes()).expect("pem") else { panic!("PKCS#8") };
    let rsa = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("key");
    let point = ec.public_key().as_ref().to_vec();
    let p521 = p521::ecdsa::SigningKey::from_slice(&[&[0; 2][..], &[7; 64]].concat()).expect("key");
    let wide = p521.verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let public: ring::rsa::PublicKeyComponents<Vec<u8>> = rsa.public().into();
    let keys = json!({"keys": [
        {"kty": "EC", "use": "sig", "crv": "P-256", "kid": "e", "alg": "ES256", "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65])},
        {"kty": "EC", "use": "sig", "crv": "P-521", "kid": "p", "alg": "ES512", "x": B64.encode(&wide[1..67]), "y": B64.encode(&wide[67..133])},
        {"kty": "RSA", "use": "sig", "kid": "r", "alg": "RS256", "n": B64.encode(&public.n), "e": B64.encode(&public.e)}]});
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>().expect("pem");
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("pem");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("localhost:0").await.expect("port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("address").port());
    let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
    let groups: Arc<std::sync::Mutex<String>> = Arc::default();
    let kept = Arc::clone(&groups);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, discovery, keys, groups) = (acceptor.clone(), discovery.clone(), keys.clone(), Arc::clone(&groups));
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = hyper::service::service_fn(move |r: Request<hyper::body::Incoming>| {
                    let body = match r.uri().path() {
                        "/.well-known/openid-configuration" => discovery.to_string(),
                        "/keys" => keys.to_string(),
                        "/groups" if r.headers().get("authorization").is_some_and(|a| a == "Bearer open") => groups.lock().expect("groups").clone(),
                        _ => String::new(),
                    };
                    async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(body)))) }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    Issuer { url, ca: ca.certificate().to_owned(), ec, rsa, p521, groups: kept }
}

impl Issuer {
    /// A token of this issuer for an hour, with more claims or others.
    fn token(&self, alg: &str, more: Value) -> String {
        let mut claims = json!({"iss": self.url, "aud": "cluster", "exp": chrono::Utc::now().timestamp() + 3600});
        for (k, v) in more.as_object().expect("claims") {
            claims[k] = v.clone();
        }
        let kid = match alg {
            "RS256" => "r",
            "ES512" => "p",
            _ => "e",
        };
        let head = json!({"alg": alg, "kid": kid});
        let text = format!("{}.{}", B64.encode(head.to_string()), B64.encode(claims.to_string()));
        let random = SystemRandom::new();
        let sig = if alg == "RS256" {
            let mut sig = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut sig).expect("signed");
            sig
        } else if alg == "ES512" {
            use p521::ecdsa::signature::Signer;
            let sig: p521::ecdsa::Signature = self.p521.sign(text.as_bytes());
            sig.to_bytes().to_vec()
        } else {
            self.ec.sign(&random, text.as_bytes()).expect("signed").as_ref().to_vec()
        };
        format!("{text}.{}", B64.encode(sig))
    }
}

async fn bearer(h: &common::Harness, token: &str) -> Client {
    let mut file = Kubeconfig::from_yaml(&h.kubeconfig).expect("kubeconfig");
    for named in &mut file.auth_infos {
        named.auth_info = Some(serde_json::from_value(if token.is_empty() { json!({}) } else { json!({"token": token}) }).expect("shape"));
    }
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    Client::try_from(config).expect("client")
}

async fn send(c: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let r = Request::builder().method(method).uri(path).header("content-type", "application/json").body(kube::client::Body::from(body.to_string().into_bytes())).expect("request");
    let answer = c.send(r).await.expect("an answer");
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

/// The user the server sees, or the code of its refusal.
async fn whoami(h: &common::Harness, token: &str) -> Result<Value, u16> {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let (code, v) = send(&bearer(h, token).await, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &body).await;
    if code == 201 { Ok(v["status"]["userInfo"].clone()) } else { Err(code) }
}

/// Why a review refuses a token.
async fn why(h: &common::Harness, token: &str) -> String {
    let c = h.server.client(knarr_apiserver::UserInfo::admin());
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let (code, v) = send(&c, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", &body).await;
    assert_eq!(code, 201, "{v}");
    v["status"]["error"].as_str().unwrap_or("").to_owned()
}

fn parsed(v: &Value) -> AuthenticationConfiguration {
    AuthenticationConfiguration::parse(&v.to_string()).expect("a configuration")
}

/// Waits until the server knows the issuer's keys.
async fn ready(h: &common::Harness, token: &str) {
    for _ in 0..200 {
        if !why(h, token).await.contains("not initialized") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the issuer's keys are not found");
}

#[tokio::test]
async fn claims_make_users() {
    let i = issuer().await;
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "issuer": {"url": i.url, "audiences": ["cluster", "other"], "audienceMatchPolicy": "MatchAny", "certificateAuthority": i.ca},
        "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"}],
        "claimMappings": {"username": {"claim": "email", "prefix": "oidc:"}, "groups": {"claim": "roles", "prefix": "oidc:"}, "uid": {"claim": "sub"}}}]});
    let h = common::start_with(|c| c.authentication = Some(parsed(&config))).await;
    let good = json!({"email": "jane@example.com", "email_verified": true, "roles": ["dev", "ops"], "sub": "42", "hd": "example.com", "jti": "7"});
    let with = |more: Value| {
        let mut v = good.clone();
        for (k, x) in more.as_object().expect("claims") {
            v[k] = x.clone();
        }
        v
    };
    ready(&h, &i.token("ES256", good.clone())).await;
    let user = json!({"username": "oidc:jane@example.com", "uid": "42", "groups": ["oidc:dev", "oidc:ops", "system:authenticated"], "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7"]}});
    for alg in ["ES256", "RS256", "ES512"] {
        assert_eq!(whoami(&h, &i.token(alg, good.clone())).await, Ok(user.clone()), "{alg}");
    }
    assert_eq!(whoami(&h, &i.token("ES256", with(json!({"roles": "one", "aud": ["x", "other"]})))).await.map(|u| u["groups"].clone()), Ok(json!(["oidc:one", "system:authenticated"])));
    let mut forged = i.token("ES256", good.clone());
    let at = forged.len() - 5;
    forged.replace_range(at..at + 1, if &forged[at..=at] == "A" { "B" } else { "A" });
    let mixed = i.token("ES256", good.clone()).replace(&B64.encode(r#"{"alg":"ES256","kid":"e"}"#), &B64.encode(r#"{"alg":"none","kid":"e"}"#));
    for (token, message) in [
        (i.token("ES256", with(json!({"exp": 1_000_000_000}))), "oidc: verify token: oidc: token is expired (Token Expiry: 2001-09-09 01:46:40 +0000 UTC)"),
        (i.token("ES256", with(json!({"aud": "else"}))), r#"oidc: verify token: oidc: expected audience in ["cluster" "other"] got ["else"]"#),
        (i.token("ES256", with(json!({"email_verified": false}))), "oidc: email not verified"),
        (i.token("ES256", with(json!({"hd": "example.org"}))), "oidc: required claim hd value does not match. Got = example.org, want = example.com"),
        (i.token("ES256", with(json!({"email": null}))), r#"oidc: parse username claims "email": it is no string"#),
        (forged, "oidc: verify token: failed to verify signature: failed to verify id token signature"),
        (mixed, "oidc: verify token: failed to verify signature: failed to verify id token signature"),
    ] {
        assert_eq!(whoami(&h, &token).await, Err(401), "{message}");
        assert_eq!(why(&h, &token).await, format!("[invalid bearer token, {message}]"));
    }
}

#[tokio::test]
async fn groups_may_be_elsewhere() {
    let i = issuer().await;
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "issuer": {"url": i.url, "audiences": ["cluster"], "certificateAuthority": i.ca},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "roles", "prefix": "far:"}}}]});
    let h = common::start_with(|c| c.authentication = Some(parsed(&config))).await;
    let token = |with: &str| {
        let more = json!({"sub": "jane", "_claim_names": {"roles": "src"}, "_claim_sources": {"src": {"endpoint": format!("{}/groups", i.url), "access_token": with}}});
        i.token("ES256", more)
    };
    ready(&h, &token("open")).await;
    let give = |claims: Value| *i.groups.lock().expect("groups") = i.token("ES512", claims);
    give(json!({"roles": ["dev", "ops"]}));
    assert_eq!(whoami(&h, &token("open")).await.map(|u| u["groups"].clone()), Ok(json!(["far:dev", "far:ops", "system:authenticated"])));
    // What is in the token itself goes before.
    let own = i.token("ES256", json!({"sub": "jane", "roles": "own", "_claim_names": {"roles": "none"}}));
    assert_eq!(whoami(&h, &own).await.map(|u| u["groups"].clone()), Ok(json!(["far:own", "system:authenticated"])));
    let refused = async |token: &str, part: &str| {
        let why = why(&h, token).await;
        assert!(why.contains("oidc: could not expand distributed claims: ") && why.contains(part), "{part} not in {why}");
    };
    refused(&token("shut"), "failed for claim \"roles\"").await;
    give(json!({"roles": ["dev"], "aud": "else"}));
    refused(&token("open"), "verify distributed claim token: oidc: expected audience in [\"cluster\"] got [\"else\"]").await;
    give(json!({"other": 1}));
    refused(&token("open"), "did not contain claim: roles").await;
    let lost = i.token("ES256", json!({"sub": "jane", "_claim_names": {"roles": "src"}, "_claim_sources": {}}));
    refused(&lost, "id token _claim_names contained a source src missing in _claims_sources").await;
}

#[tokio::test]
async fn expressions_make_users() {
    let i = issuer().await;
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration", "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}, "jwt": [{
        "issuer": {"url": "https://issuer.example.com", "discoveryURL": format!("{}/.well-known/openid-configuration", i.url), "audiences": ["cluster"], "certificateAuthority": i.ca},
        "claimMappings": {"username": {"expression": "'x'"}}}, {
        "issuer": {"url": i.url, "audiences": ["cluster"], "certificateAuthority": i.ca},
        "claimValidationRules": [{"expression": "claims.exp - claims.nbf <= 86400", "message": "tokens live for a day at most"}],
        "claimMappings": {"username": {"expression": "claims.user.name + ':x'"}, "groups": {"expression": "claims.?roles.orValue('').split(',')"},
            "uid": {"expression": "string(claims.number)"}, "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}, {"key": "example.com/none", "valueExpression": "''"}]},
        "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "system: is reserved"}]}]});
    let h = common::start_with(|c| c.authentication = Some(parsed(&config))).await;
    let now = chrono::Utc::now().timestamp();
    let claims = |name: &str, from: i64| json!({"user": {"name": name}, "roles": "a,b", "number": 7, "team": ["red", ""], "nbf": from});
    ready(&h, &i.token("ES256", claims("joe", now))).await;
    let user = json!({"username": "joe:x", "uid": "7", "groups": ["a", "b", "system:authenticated"], "extra": {"example.com/team": ["red"]}});
    assert_eq!(whoami(&h, &i.token("ES256", claims("joe", now))).await, Ok(user));
    let long = i.token("ES256", claims("joe", now - 100_000));
    assert_eq!(why(&h, &long).await, "[invalid bearer token, oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.nbf <= 86400' failed: tokens live for a day at most]");
    let system = i.token("ES256", claims("system:node:a", now));
    assert_eq!(why(&h, &system).await, "[invalid bearer token, oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('system:')' failed: system: is reserved]");
    // A configuration put in force later: what the one before said is over.
    let later = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}, "jwt": []});
    h.server.set_authentication(&parsed(&later)).expect("it is right");
    assert_eq!(whoami(&h, &i.token("ES256", claims("joe", now))).await, Err(401));
    let broken = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{"issuer": {"url": "", "audiences": ["a"]}, "claimMappings": {"username": {"expression": "'x'"}}}]});
    assert!(h.server.set_authentication(&parsed(&broken)).is_err());
    // Only the named path is open to everybody.
    let nobody = bearer(&h, "").await;
    assert_eq!(send(&nobody, "GET", "/livez", &Value::Null).await.0, 200);
    assert_eq!(send(&nobody, "GET", "/readyz", &Value::Null).await.0, 401);
}

#[tokio::test]
async fn configurations_are_checked() {
    let base = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": []});
    let refused = async |jwt: Value| {
        let mut v = base.clone();
        v["jwt"] = jwt;
        common::try_start(|c| c.authentication = Some(parsed(&v))).await.err().expect("it must not start")
    };
    let text = refused(json!([
        {"issuer": {"url": "http://a?b=c", "audiences": ["x", "y"]}, "claimMappings": {"username": {"claim": "sub"}}},
        {"issuer": {"url": "https://b", "audiences": []}, "claimMappings": {"username": {"expression": "claims.email"}, "extra": [{"key": "k8s.io/x", "valueExpression": "1 +"}]},
            "userValidationRules": [{"expression": "user.username"}]},
    ]))
    .await;
    for part in [
        r#"jwt[0].issuer.url: Invalid value: "http://a?b=c": URL scheme must be https"#,
        r#"jwt[0].issuer.url: Invalid value: "http://a?b=c": URL must not contain a query"#,
        r#"jwt[0].issuer.audienceMatchPolicy: Invalid value: "": audienceMatchPolicy must be MatchAny for multiple audiences"#,
        "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
        "jwt[1].issuer.audiences: Required value: at least one jwt[1].issuer.audiences is required",
        r#"jwt[1].claimMappings.extra[0].key: Invalid value: "k8s.io/x": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"#,
        r#"jwt[1].claimMappings.extra[0].valueExpression: Invalid value: "1 +": compilation failed: "#,
        r#"jwt[1].userValidationRules[0].expression: Invalid value: "user.username": must evaluate to bool"#,
        r#"jwt[1].claimMappings.username.expression: Invalid value: "claims.email": claims.email_verified must be used in"#,
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
    assert!(AuthenticationConfiguration::parse("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwts: []\n").expect_err("an unknown field").contains("jwts"));
}

#[tokio::test]
async fn a_changed_file_is_read_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("authentication.yaml");
    let text = |enabled: bool| format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {{enabled: {enabled}}}\n");
    std::fs::write(&path, text(true)).expect("written");
    let first = AuthenticationConfiguration::parse(&text(true)).expect("a configuration");
    let h = common::start_with(|c| c.authentication = Some(first)).await;
    // So long that only what the folder tells counts.
    h.server.follow_authentication(path.clone(), std::time::Duration::from_secs(3600));
    let nobody = bearer(&h, "").await;
    let until = async |code: u16| {
        for _ in 0..200 {
            if send(&nobody, "GET", "/livez", &Value::Null).await.0 == code {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("never {code}");
    };
    until(200).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    std::fs::write(&path, text(false)).expect("written");
    until(401).await;
    // A broken file changes nothing; a right one does again.
    std::fs::write(&path, "kind: Nothing\n").expect("written");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(send(&nobody, "GET", "/livez", &Value::Null).await.0, 401);
    std::fs::write(&path, text(true)).expect("written");
    until(200).await;
    // Another file in its place, as editors and mounted volumes do it.
    let next = dir.path().join("next");
    std::fs::write(&next, text(false)).expect("written");
    std::fs::rename(&next, &path).expect("renamed");
    until(401).await;
}
