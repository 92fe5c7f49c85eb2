//! Encryption by a key management service (KMS v2): the service keeps the key of keys, and this
//! server encrypts every object by a key of its own that it derives from a seed.
//!
//! # Flow
//! The service's status names the key it would encrypt with now. When that is another one than the
//! seed was encrypted with, a new seed is made and encrypted by the service. Every write derives a
//! key of 32 random bytes from the seed (HKDF-SHA256) and encrypts by it (AES-GCM); what is stored
//! is that, with the encrypted seed. Seeds that were decrypted once are remembered.
//!
//! # Guarantees
//! Reads go on while the service is away, as long as their seeds are known; writes for three
//! minutes after its last good status.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use knarr_kms_api::{
    stored::{EncryptedDekSourceType, EncryptedObject},
    v2::{DecryptRequest, EncryptRequest, StatusRequest, StatusResponse, key_management_service_client::KeyManagementServiceClient},
};
use prost::Message;
use ring::hkdf;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};
use tonic::transport::{Channel, Endpoint, Uri};

use super::ciphers::{self, Gcm, random};

/// How long a seed may be written with after the last good status.
const WRITES_FOR: Duration = Duration::from_secs(180);
/// How often the status is asked for: while it is good, and while it is not.
const EVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// How long an answer about its health stands: a good one, and a bad one.
const STANDS: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(3));
/// The most bytes of an encrypted seed, and of a key's name.
const MOST: usize = 1024;
/// The most bytes of all annotations.
const MOST_ANNOTATIONS: usize = 32 * 1024;
/// Seeds that are remembered.
const SEEDS: usize = 4096;
/// Random bytes that a key is derived by; they begin what is encrypted.
const INFO: usize = 32;

/// A key of keys: each object's is derived from it, or is it (as servers before v1.29 wrote).
enum Seed {
    Derives(hkdf::Prk),
    Is(Gcm),
}

struct Length;
impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

fn derived(seed: &hkdf::Prk, info: &[u8]) -> Option<Gcm> {
    let mut key = [0; 32];
    seed.expand(&[info], Length).ok()?.fill(&mut key).ok()?;
    Gcm::new(&key)
}

impl Seed {
    fn new(plain: &[u8], kind: EncryptedDekSourceType) -> Option<Self> {
        match kind {
            EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed => (plain.len() >= 32).then(|| Self::Derives(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, plain))),
            EncryptedDekSourceType::AesGcmKey => Gcm::new(plain).map(Self::Is),
        }
    }
    fn open(&self, data: &[u8], about: &[u8]) -> Result<Vec<u8>, ciphers::Error> {
        match self {
            Self::Is(gcm) => gcm.open(data, about),
            Self::Derives(prk) => {
                let (info, sealed) = data.split_first_chunk::<INFO>().ok_or(ciphers::Error::Short)?;
                derived(prk, info).ok_or(ciphers::Error::Open)?.open(sealed, about)
            }
        }
    }
}

/// What is written with now.
struct State {
    seed: hkdf::Prk,
    key_id: String,
    encrypted_seed: Vec<u8>,
    annotations: HashMap<String, Vec<u8>>,
    until: Instant,
}

/// What was last heard of the service's health.
struct Last {
    at: Option<Instant>,
    result: Result<(), String>,
}

/// A key management service.
pub struct Kms {
    name: String,
    /// What values written by it begin with.
    pub prefix: Vec<u8>,
    timeout: Duration,
    client: KeyManagementServiceClient<Channel>,
    state: RwLock<Option<Arc<State>>>,
    seeds: Mutex<HashMap<u64, Arc<Seed>>>,
    last: tokio::sync::Mutex<Last>,
}

/// A channel to a socket, `unix:///path` or `unix:///@name`; it connects when it is first used.
fn channel(endpoint: &str) -> Channel {
    let path = endpoint.trim_start_matches("unix:").trim_start_matches("//").to_owned();
    // The address is only a name.
    Endpoint::from_static("http://kms.socket").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let stream = match path.trim_start_matches('/').strip_prefix('@') {
                Some(name) => {
                    use std::os::{linux::net::SocketAddrExt, unix::net};
                    let s = net::UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?;
                    s.set_nonblocking(true)?;
                    UnixStream::from_std(s)?
                }
                None => UnixStream::connect(&path).await?,
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    }))
}

/// What makes an encrypted seed another one than others.
fn place(o: &EncryptedObject) -> u64 {
    let mut h = DefaultHasher::new();
    let annotations: BTreeMap<_, _> = o.annotations.iter().collect();
    (o.encrypted_dek_source_type, &o.encrypted_dek_source, &o.key_id, annotations).hash(&mut h);
    h.finish()
}

/// Whether an object, or a seed that is to be one, keeps to what is agreed.
fn check(key_id: &str, source: &[u8], annotations: &HashMap<String, Vec<u8>>) -> Result<(), String> {
    check_key_id(key_id)?;
    if source.is_empty() {
        return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".into());
    }
    if source.len() > MOST {
        return Err(format!("failed to validate encrypted DEK source: encrypted DEK source is {} bytes, which exceeds the max size of {MOST}", source.len()));
    }
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MOST_ANNOTATIONS {
        return Err(format!("failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {MOST_ANNOTATIONS}"));
    }
    match annotations.keys().find(|k| !k.contains('.') || !knarr_registry::names::subdomain(k).is_empty()) {
        Some(k) => Err(format!("failed to validate annotations: {k:?} is no fully qualified domain name")),
        None => Ok(()),
    }
}

fn check_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".into()),
        n if n > MOST => Err(format!("keyID is {n} bytes, which exceeds the max size of {MOST}")),
        _ => Ok(()),
    }
}

impl Kms {
    /// The service at an endpoint; nothing is asked yet.
    #[must_use]
    pub fn new(name: &str, endpoint: &str, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            prefix: format!("k8s:enc:kms:v2:{name}:").into_bytes(),
            timeout,
            client: KeyManagementServiceClient::new(channel(endpoint)),
            state: RwLock::new(None),
            seeds: Mutex::default(),
            last: tokio::sync::Mutex::new(Last { at: None, result: Err("it was not asked yet".into()) }),
        })
    }

    /// How long it is waited for.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn state(&self) -> Option<Arc<State>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn call<T, F>(&self, what: &str, call: F) -> Result<T, String>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(format!("{what}: {}: {}", status.code(), status.message())),
            Err(_) => Err(format!("{what}: it did not answer within {:?}", self.timeout)),
        }
    }

    /// Whether it is well; asks it unless the last answer still stands. Takes a new seed when it
    /// has another key.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn health(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        let stands = if last.result.is_ok() { STANDS.0 } else { STANDS.1 };
        if last.at.is_some_and(|at| at.elapsed() < stands) {
            return last.result.clone();
        }
        let result = self.ask().await;
        (last.at, last.result) = (Some(Instant::now()), result.clone());
        result
    }

    async fn ask(&self) -> Result<(), String> {
        let status: StatusResponse = self.call("failed to perform status section of the healthz check", self.client.clone().status(StatusRequest {})).await?;
        let mut wrong = Vec::new();
        if status.healthz != "ok" {
            wrong.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            wrong.push(format!("expected KMSv2 API version v2, got {}", status.version));
        }
        match check_key_id(&status.key_id) {
            Ok(()) => wrong.extend(self.rotate(&status.key_id).await.err()),
            Err(why) => wrong.push(format!("got invalid KMSv2 KeyID: {why}")),
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("kmsv2 Provider {} is not healthy, error: {}", self.name, wrong.join(", "))) }
    }

    /// Goes on with the seed that is there if it is of this key, else makes another one.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Counted from before the call, so that it is never longer.
        let until = Instant::now() + WRITES_FOR;
        if let Some(s) = self.state().filter(|s| s.key_id == key_id) {
            let State { seed, key_id, encrypted_seed, annotations, .. } = &*s;
            self.set(State { seed: seed.clone(), key_id: key_id.clone(), encrypted_seed: encrypted_seed.clone(), annotations: annotations.clone(), until });
            return Ok(());
        }
        let plain: [u8; 32] = random().map_err(|e| e.to_string())?;
        let request = EncryptRequest { plaintext: plain.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let sealed = self.call("failed to encrypt DEK, error", self.client.clone().encrypt(request)).await?;
        check(&sealed.key_id, &sealed.ciphertext, &sealed.annotations)?;
        if sealed.key_id != key_id {
            return Err("failed to rotate DEK: the status names another key than the one that was encrypted with".into());
        }
        let seed = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &plain);
        let shown = EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: sealed.key_id.clone(),
            encrypted_dek_source: sealed.ciphertext.clone(),
            annotations: sealed.annotations.clone(),
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed.into(),
        };
        self.remember(place(&shown), Arc::new(Seed::Derives(seed.clone())));
        self.set(State { seed, key_id: sealed.key_id, encrypted_seed: sealed.ciphertext, annotations: sealed.annotations, until });
        tracing::info!(name = self.name, "the key management service has a key that objects are written with from now on");
        Ok(())
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(state));
    }

    fn remember(&self, at: u64, seed: Arc<Seed>) {
        let mut all = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SEEDS {
            all.clear();
        }
        all.insert(at, seed);
    }

    /// Asks for its status from time to time, as long as anybody uses it.
    pub fn follow(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(kms) = weak.upgrade() else { return };
                let result = kms.health().await;
                if let Err(error) = &result {
                    tracing::error!(error, name = kms.name, "the key management service is not well");
                }
                drop(kms);
                sleep(if result.is_ok() { EVERY.0 } else { EVERY.1 }).await;
            }
        });
    }

    /// Encrypts what is stored at `about`.
    ///
    /// # Errors
    /// If the service has not been well for too long.
    pub fn seal(&self, plain: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let state = self.state().ok_or_else(|| format!("the key management service {} has not been well yet", self.name))?;
        if Instant::now() > state.until {
            return Err(format!("the key management service {} has not been well for too long", self.name));
        }
        let info: [u8; INFO] = random().map_err(|e| e.to_string())?;
        let key = derived(&state.seed, &info).ok_or("a key cannot be derived")?;
        let sealed = key.seal(plain, about).map_err(|e| e.to_string())?;
        let object = EncryptedObject {
            encrypted_data: [info.as_slice(), &sealed].concat(),
            key_id: state.key_id.clone(),
            encrypted_dek_source: state.encrypted_seed.clone(),
            annotations: state.annotations.clone(),
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed.into(),
        };
        let mut out = self.prefix.clone();
        object.encode(&mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }

    fn decode(value: &[u8]) -> Result<(EncryptedObject, EncryptedDekSourceType), String> {
        let object = EncryptedObject::decode(value).map_err(|e| e.to_string())?;
        let kind = EncryptedDekSourceType::try_from(object.encrypted_dek_source_type).map_err(|_| format!("unknown encryptedDEKSourceType: {}", object.encrypted_dek_source_type))?;
        if object.encrypted_data.is_empty() {
            return Err("encrypted data is empty".into());
        }
        check(&object.key_id, &object.encrypted_dek_source, &object.annotations)?;
        Ok((object, kind))
    }

    /// Decrypts what is stored at `about`; `value` is what follows the prefix.
    ///
    /// # Errors
    /// Why it cannot be read; `true` with it if the service may answer another time.
    pub async fn open(&self, value: &[u8], about: &[u8]) -> Result<Vec<u8>, (String, bool)> {
        let (object, kind) = Self::decode(value).map_err(|e| (e, false))?;
        let at = place(&object);
        let known = self.seeds.lock().unwrap_or_else(PoisonError::into_inner).get(&at).cloned();
        let seed = match known {
            Some(s) => s,
            None => {
                let request = DecryptRequest {
                    ciphertext: object.encrypted_dek_source,
                    uid: uuid::Uuid::new_v4().to_string(),
                    key_id: object.key_id,
                    annotations: object.annotations,
                };
                let plain = self.call("failed to decrypt DEK, error", self.client.clone().decrypt(request)).await.map_err(|e| (e, true))?;
                let seed = Seed::new(&plain.plaintext, kind).ok_or_else(|| ("its key has no length that one can have".to_owned(), false))?;
                let seed = Arc::new(seed);
                self.remember(at, Arc::clone(&seed));
                seed
            }
        };
        seed.open(&object.encrypted_data, about).map_err(|e| (e.to_string(), false))
    }

    /// Whether a value was written with another key than one that is written now.
    #[must_use]
    pub fn stale(&self, value: &[u8]) -> bool {
        let Ok((object, kind)) = Self::decode(value) else { return true };
        kind != EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed || self.state().is_none_or(|s| s.key_id != object.key_id)
    }
}
