//! A key management service for tests: it keeps nothing secret. What it encrypts begins with its
//! key's name, and its key's name is what the test says.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use knarr_kms_api::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
};
use tonic::{Request, Response, Status};

/// What the service says and has been asked.
#[derive(Default)]
pub struct Keys {
    /// The name of its key.
    pub key: Mutex<String>,
    /// Whether it is well.
    pub ill: std::sync::atomic::AtomicBool,
    /// How often it decrypted.
    pub decrypted: AtomicU32,
}

struct Service(Arc<Keys>);

impl Keys {
    fn key(&self) -> String {
        self.key.lock().map(|k| k.clone()).unwrap_or_default()
    }
}

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let healthz = if self.0.ill.load(Ordering::Relaxed) { "ill" } else { "ok" };
        Ok(Response::new(StatusResponse { version: "v2".into(), healthz: healthz.into(), key_id: self.0.key() }))
    }
    async fn encrypt(&self, r: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let key_id = self.0.key();
        let ciphertext = [key_id.as_bytes(), b":", &r.into_inner().plaintext].concat();
        let annotations = [("v.example.com".to_owned(), b"x".to_vec())].into();
        Ok(Response::new(EncryptResponse { ciphertext, key_id, annotations }))
    }
    async fn decrypt(&self, r: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.0.decrypted.fetch_add(1, Ordering::Relaxed);
        let r = r.into_inner();
        match r.ciphertext.strip_prefix(format!("{}:", r.key_id).as_bytes()) {
            Some(plain) => Ok(Response::new(DecryptResponse { plaintext: plain.to_vec() })),
            None => Err(Status::invalid_argument("it was not encrypted by that key")),
        }
    }
}

/// Serves at a socket until the task ends.
pub fn serve(socket: &Path, keys: Arc<Keys>) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
    let incoming = futures::stream::unfold(listener, |l| async move { Some((l.accept().await.map(|(s, _)| s), l)) });
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(KeyManagementServiceServer::new(Service(keys)));
        server.serve_with_incoming(incoming).await.expect("it serves");
    })
}
