//! Pulling: resolve a name, fetch what is missing, unpack while it downloads, record.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::decode::{Follow, Growth, digest_of, digest_text};
use crate::model::{Config, Manifest};
use crate::reference::parse_digest;
use crate::registry::client::{Document, IDLE, Repository};
use crate::registry::{Credentials, Registries};
use crate::store::{Addition, Fresh, Incoming, chain_ids, check};
use crate::unpack::Writeback;
use crate::{Descriptor, Error, Image, Images, Reference};

/// A pull that several callers may wait for.
pub(crate) type Flight = Shared<BoxFuture<'static, Result<Image, Arc<Error>>>>;

const PARALLEL: usize = 3;
const TRIES: u32 = 5;

impl Images {
    /// Pulls an image. Callers who ask for the same at the same time share one pull, which goes
    /// on when a caller leaves.
    ///
    /// # Errors
    /// Worded as containerd does; see [`Error::is_not_found`].
    pub async fn pull(
        self: &Arc<Self>,
        name: &str,
        credentials: Option<Credentials>,
    ) -> Result<Image, Error> {
        let reference = Reference::parse(name)?;
        let key = format!("{reference} {credentials:?}");
        let flight = {
            let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            match pulls.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (images, id) = (self.clone(), key.clone());
                    let task = tokio::spawn(async move {
                        let text = reference.to_string();
                        let out = images.pull_now(reference, credentials).await.map_err(|e| {
                            Arc::new(e.step(format!("failed to pull and unpack image {text:?}")))
                        });
                        images
                            .pulls
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&id);
                        out
                    });
                    let flight: Flight = async move {
                        task.await
                            .unwrap_or_else(|e| Err(Arc::new(Error::malformed("pull", e))))
                    }
                    .boxed()
                    .shared();
                    pulls.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await.map_err(Error::Shared)
    }

    async fn pull_now(
        self: &Arc<Self>,
        reference: Reference,
        credentials: Option<Credentials>,
    ) -> Result<Image, Error> {
        let images = self.clone();
        let _work = blocking(move || images.work_lock()).await?;
        let registries = Registries::read(&self.registries)?;
        let sources = registries.endpoints(&reference, credentials.as_ref())?;
        let (mut sources, top) = resolve(sources, &reference)
            .await
            .map_err(|e| e.step(format!("failed to resolve reference \"{reference}\"")))?;
        let top_digest = digest_of(&top.bytes);
        let (chosen, manifest, bytes) = choose(&sources, &reference, top).await?;
        self.write_blob(&bytes)?;
        let config_at = manifest
            .config
            .clone()
            .ok_or_else(|| Error::malformed(&chosen.digest, "manifest without config"))?;
        let config_bytes = match self.read_document(&config_at.digest) {
            Ok(bytes) => bytes,
            Err(_) => {
                let bytes = first(&mut sources, Ask::Blob(&config_at.digest))
                    .await?
                    .bytes
                    .to_vec();
                check(&config_at.digest, &config_at.digest, digest_of(&bytes))?;
                self.write_blob(&bytes)?;
                bytes
            }
        };
        let config: Config = serde_json::from_slice(&config_bytes)
            .map_err(|e| Error::malformed(&config_at.digest, e))?;
        if !config.os.is_empty() && config.os != "linux" {
            return Err(Error::Platform(reference.to_string()));
        }
        let chain = chain_ids(&config.rootfs.diff_ids);
        if chain.len() != manifest.layers.len() {
            return Err(Error::malformed(
                &config_at.digest,
                "configuration and manifest differ in their number of layers",
            ));
        }
        let mut work = Vec::new();
        for (layer, chain) in manifest.layers.iter().zip(&chain) {
            parse_digest(&layer.digest)
                .ok_or_else(|| Error::malformed(&layer.digest, "unsupported digest"))?;
            work.push(self.incoming(&sources, layer, chain).boxed());
        }
        let layers: Vec<Incoming> = futures::stream::iter(work)
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let size = chosen.size
            + config_bytes.len() as u64
            + manifest.layers.iter().map(|l| l.size).sum::<u64>();
        let add = Addition {
            index: (top_digest != chosen.digest).then(|| top_digest.clone()),
            manifest: chosen,
            config_digest: config_at.digest,
            config,
            size,
            layers,
            names: vec![reference],
            repo_digest: Some(top_digest),
        };
        let images = self.clone();
        blocking(move || images.commit(add)).await
    }

    /// A layer that is there, or is fetched.
    async fn incoming(
        self: &Arc<Self>,
        sources: &[Repository],
        layer: &Descriptor,
        chain: &str,
    ) -> Result<Incoming, Error> {
        let fresh = match self.has_layer(chain)? {
            true => None,
            false => Some(self.fetch_layer(sources, layer).await?),
        };
        Ok(Incoming {
            blob: layer.digest.clone(),
            fresh,
        })
    }

    /// Fetches a layer, unpacking it while it comes.
    async fn fetch_layer(
        self: &Arc<Self>,
        sources: &[Repository],
        layer: &Descriptor,
    ) -> Result<Fresh, Error> {
        // Two images may share a layer: the second finds the blob.
        let lock = {
            let mut locks = self.blob_locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(layer.digest.clone()).or_default().clone()
        };
        let _one = lock.lock().await;
        let path = self.blob(&layer.digest);
        if let Ok(file) = File::open(&path) {
            let images = self.clone();
            return blocking(move || images.unpack_fresh(file, Vec::new())).await;
        }
        let part = self.part(&layer.digest)?;
        let growth = Arc::new(Growth::default());
        let follow = Follow {
            file: File::open(&part.path).map_err(|e| Error::io("open", &part.path, e))?,
            at: 0,
            growth: growth.clone(),
        };
        let images = self.clone();
        let unpacking =
            tokio::task::spawn_blocking(move || images.unpack_fresh(follow, Vec::new()));
        let guard = EndGuard(growth.clone());
        let done = self.download(sources, layer, part, &growth).await;
        if done.is_ok() {
            growth.ended(true);
        }
        drop(guard);
        let fresh = unpacking.await.map_err(|e| Error::malformed(&layer.digest, e))?;
        done?;
        fresh
    }

    /// The file a blob is downloaded to, with what an earlier try has left in it.
    fn part(&self, digest: &str) -> Result<Part, Error> {
        let hex = digest.trim_start_matches("sha256:");
        let mut path = self.root.join("ingest").join(format!("{hex}.part"));
        let open = |path: &PathBuf| {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
                .map_err(|e| Error::io("open", path, e))
        };
        let mut file = open(&path)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            path = self.ingest_path(); // another process fetches the same
            file = open(&path)?;
        }
        Ok(Part { path, file })
    }

    async fn download(
        &self,
        sources: &[Repository],
        layer: &Descriptor,
        mut part: Part,
        growth: &Arc<Growth>,
    ) -> Result<(), Error> {
        // What is there counts, once it is hashed again.
        let (file, mut hasher, mut have) = blocking(move || {
            let mut hasher = Sha256::new();
            let mut buffer = vec![0u8; 128 << 10];
            let mut have = 0u64;
            loop {
                let n = part
                    .file
                    .read(&mut buffer)
                    .map_err(|e| Error::io("read", &part.path, e))?;
                if n == 0 {
                    return Ok((part, hasher, have));
                }
                hasher.update(&buffer[..n]);
                have += n as u64;
            }
        })
        .await?;
        part = file;
        growth.grown(have);
        let mut tries = 0;
        while have < layer.size || have == 0 {
            let source = &sources[tries as usize % sources.len()];
            match fetch(source, layer, &mut part, &mut hasher, &mut have, growth).await {
                Ok(()) => break,
                Err(e) if tries + 1 < TRIES.max(sources.len() as u32) && worth_retrying(&e) => {
                    tracing::info!(digest = %layer.digest, have, error = %e, "download interrupted, going on");
                    tokio::time::sleep(Duration::from_millis(200 << tries.min(5))).await;
                    tries += 1;
                }
                Err(e) => return Err(e),
            }
        }
        if let Err(e) = check(&layer.digest, &layer.digest, digest_text(hasher)) {
            let _ = std::fs::remove_file(&part.path); // what is in it is no good
            return Err(e);
        }
        self.adopt_blob(&part.path, &layer.digest)
    }
}

struct Part {
    path: PathBuf,
    file: File,
}

/// Wakes the unpacker also when the download is dropped.
struct EndGuard(Arc<Growth>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.ended(false);
    }
}

async fn fetch(
    source: &Repository,
    layer: &Descriptor,
    part: &mut Part,
    hasher: &mut Sha256,
    have: &mut u64,
    growth: &Growth,
) -> Result<(), Error> {
    let (response, partial) = source.blob(&layer.digest, *have).await?;
    let broken = |reason: String| Error::Connect {
        method: "GET",
        url: layer.digest.clone(),
        reason,
    };
    let mut skip = if partial { 0 } else { *have };
    part.file
        .seek(SeekFrom::Start(*have))
        .map_err(|e| Error::io("seek", &part.path, e))?;
    let mut body = response.into_body();
    let mut ahead = Writeback::default();
    loop {
        let frame = tokio::time::timeout(IDLE, body.frame())
            .await
            .map_err(|_| broken("nothing received for too long".to_owned()))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| broken(e.to_string()))?;
        let Ok(mut data) = frame.into_data() else { continue };
        let passed = skip.min(data.len() as u64);
        skip -= passed;
        let data = data.split_off(passed as usize);
        if *have + data.len() as u64 > layer.size && layer.size > 0 {
            return Err(Error::malformed(&layer.digest, "longer than its manifest says"));
        }
        // Into the page cache; blocks only when the machine is out of memory for it.
        part.file
            .write_all(&data)
            .map_err(|e| Error::io("write", &part.path, e))?;
        hasher.update(&data);
        *have += data.len() as u64;
        growth.grown(*have);
        ahead.at(&part.file, *have);
    }
    ahead.end(&part.file, *have);
    if *have < layer.size {
        return Err(broken("unexpected EOF".to_owned()));
    }
    Ok(())
}

fn worth_retrying(error: &Error) -> bool {
    match error.root() {
        Error::Connect { .. } => true,
        Error::Status { status, .. } => status.starts_with('5') || status.starts_with("429"),
        _ => false,
    }
}

/// Asks one source after the other; the one that answered comes first afterwards.
async fn resolve(
    endpoints: Vec<crate::registry::Endpoint>,
    reference: &Reference,
) -> Result<(Vec<Repository>, Document), Error> {
    // A tag is asked for where tags may be; what it means can then be had from all.
    let (mut sources, mut others) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        let asked = endpoint.resolves || reference.digest().is_some();
        let list = if asked { &mut sources } else { &mut others };
        list.push(Repository::new(endpoint)?);
    }
    let document = first(&mut sources, Ask::Manifest(reference.object()))
        .await
        .map_err(|e| match e {
            Error::NotFound(_) => Error::NotFound(reference.to_string()),
            other => other,
        })?;
    if let Some(digest) = reference.digest() {
        check(&reference.to_string(), digest, digest_of(&document.bytes))?;
    }
    sources.append(&mut others);
    Ok((sources, document))
}

/// What to ask a source for.
#[derive(Clone, Copy)]
enum Ask<'a> {
    Manifest(&'a str),
    Blob(&'a str),
}

/// The first success. Of failures, a registry's own answer says more than an unreachable one.
async fn first(sources: &mut [Repository], ask: Ask<'_>) -> Result<Document, Error> {
    let mut failed: Option<Error> = None;
    for n in 0..sources.len() {
        let answer = match ask {
            Ask::Manifest(object) => sources[n].manifest(object).await,
            Ask::Blob(digest) => sources[n].document(digest).await,
        };
        match answer {
            Ok(out) => {
                sources[..=n].rotate_right(1);
                return Ok(out);
            }
            Err(e) => {
                let weak = matches!(failed, None | Some(Error::Connect { .. }));
                if weak || !matches!(e, Error::Connect { .. }) {
                    failed = Some(e);
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::NotFound("no registry to ask".to_owned())))
}

/// Goes from what the registry gave to the manifest for this machine.
async fn choose(
    sources: &[Repository],
    reference: &Reference,
    top: Document,
) -> Result<(Descriptor, Manifest, Vec<u8>), Error> {
    let mut document = top;
    for _ in 0..4 {
        let digest = digest_of(&document.bytes);
        if document.media_type.contains("manifest.v1") && !document.media_type.contains("oci") {
            return Err(Error::malformed(
                reference.to_string(),
                "Docker schema 1 manifests are not supported; push the image again with a newer tool",
            ));
        }
        let manifest: Manifest = serde_json::from_slice(&document.bytes)
            .map_err(|e| Error::malformed(&digest, e))?;
        if manifest.manifests.is_empty() {
            let media_type = match manifest.media_type.is_empty() {
                true => document.media_type,
                false => manifest.media_type.clone(),
            };
            let descriptor = Descriptor {
                media_type,
                digest,
                size: document.bytes.len() as u64,
                platform: None,
                annotations: Default::default(),
            };
            return Ok((descriptor, manifest, document.bytes.to_vec()));
        }
        let next = manifest
            .select()
            .ok_or_else(|| Error::Platform(reference.to_string()))?;
        document = sources[0].manifest(&next.digest).await?;
        check(&next.digest, &next.digest, digest_of(&document.bytes))?;
    }
    Err(Error::malformed(reference.to_string(), "indexes nested too deeply"))
}

/// Runs blocking work aside.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::malformed("blocking task", e)))
}
