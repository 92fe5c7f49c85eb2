//! Services that a kubeconfig names: who reviews tokens, who takes audit events.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use knarr_registry::Object;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::trust;

/// A service, by the current context of a kubeconfig.
#[derive(Clone)]
pub struct RemoteService {
    url: String,
    host: String,
    port: u16,
    path: String,
    name: String,
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<String>,
}

impl std::fmt::Debug for RemoteService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteService").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The entry of a list of named things.
fn named<'v>(file: &'v Value, list: &str, member: &str, name: &str) -> Option<&'v Value> {
    file.list_at(&[list]).iter().find(|e| e.str_at(&["name"]) == name).and_then(|e| e.at(&[member]))
}

/// A PEM: given in base64, or in a file of its own.
fn pem(v: &Value, key: &str, dir: &Path) -> Result<Vec<u8>, String> {
    let data = v.str_at(&[&format!("{key}-data")]);
    if !data.is_empty() {
        return STANDARD.decode(data).map_err(|e| format!("{key}-data: {e}"));
    }
    match v.str_at(&[key]) {
        "" => Ok(Vec::new()),
        path => std::fs::read(dir.join(path)).map_err(|e| format!("{path}: {e}")),
    }
}

impl RemoteService {
    /// Reads a kubeconfig; its files are looked for beside it.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        let file = knarr_schema::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
        let context = named(&file, "contexts", "context", file.str_at(&["current-context"])).ok_or("the current context is not in the kubeconfig")?;
        let cluster = named(&file, "clusters", "cluster", context.str_at(&["cluster"])).ok_or("the context's cluster is not in the kubeconfig")?;
        let none = Value::Null;
        let user = named(&file, "users", "user", context.str_at(&["user"])).unwrap_or(&none);
        let url = cluster.str_at(&["server"]).to_owned();
        let uri: http::Uri = url.parse().map_err(|e| format!("server {url:?}: {e}"))?;
        let secure = uri.scheme_str() != Some("http");
        let host = uri.host().ok_or_else(|| format!("server {url:?} has no host"))?.trim_matches(['[', ']']).to_owned();
        let name = match cluster.str_at(&["tls-server-name"]) {
            "" => host.clone(),
            n => n.to_owned(),
        };
        let tls = if secure { Some(Arc::new(tls(cluster, user, dir)?)) } else { None };
        let mut token = user.str_at(&["token"]).to_owned();
        if token.is_empty() && !user.str_at(&["tokenFile"]).is_empty() {
            let path = dir.join(user.str_at(&["tokenFile"]));
            token = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?.trim().to_owned();
        }
        let authorization = match (token.as_str(), user.str_at(&["username"])) {
            ("", "") => None,
            ("", name) => Some(format!("Basic {}", STANDARD.encode(format!("{name}:{}", user.str_at(&["password"]))))),
            (t, _) => Some(format!("Bearer {t}")),
        };
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self { port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }), url, host, path, name, tls, authorization })
    }

    /// Posts JSON and reads the answer's.
    ///
    /// # Errors
    /// Why there is no answer, in Go's words.
    pub async fn post(&self, body: &Value, timeout: Duration) -> Result<Value, String> {
        let go = |why: &str| format!("Post {:?}: {why}", self.url);
        match tokio::time::timeout(timeout, self.send(body)).await {
            Ok(Ok((code, bytes))) if (200..300).contains(&code) => {
                if bytes.is_empty() {
                    return Ok(Value::Null);
                }
                serde_json::from_slice(&bytes).map_err(|e| go(&e.to_string()))
            }
            Ok(Ok((code, bytes))) => Err(format!("an error on the server ({:?}) has prevented the request from succeeding: {code}", String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).trim())),
            Ok(Err(why)) => Err(go(&why)),
            Err(_) => Err(go("context deadline exceeded")),
        }
    }

    async fn send(&self, body: &Value) -> Result<(u16, Bytes), String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::ConnectionRefused { "connection refused".to_owned() } else { e.to_string() };
            format!("dial tcp {}:{}: connect: {why}", self.host, self.port)
        })?;
        let _ = tcp.set_nodelay(true);
        let authority = if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) };
        let mut request = Request::post(&self.path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver");
        if let Some(a) = &self.authorization {
            request = request.header(header::AUTHORIZATION, a);
        }
        let request = request.body(Full::new(Bytes::from(body.to_string()))).map_err(|e| e.to_string())?;
        let Some(tls) = &self.tls else { return super::exchange(TokioIo::new(tcp), request).await };
        let name = ServerName::try_from(self.name.clone()).map_err(|e| e.to_string())?;
        let io = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.map_err(|e| format!("tls: failed to verify certificate: {e}"))?;
        super::exchange(TokioIo::new(io), request).await
    }
}

fn tls(cluster: &Value, user: &Value, dir: &Path) -> Result<ClientConfig, String> {
    let builder = if cluster["insecure-skip-tls-verify"] == true { trust::anybody()? } else { trust::by(&pem(cluster, "certificate-authority", dir)?)? };
    let (certificate, key) = (pem(user, "client-certificate", dir)?, pem(user, "client-key", dir)?);
    if certificate.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| e.to_string())?;
    builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())
}
