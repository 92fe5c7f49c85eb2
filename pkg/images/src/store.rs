//! The store: blobs by digest, layers by chain id, images by name.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::decode::{Hashing, decompress, digest_of, digest_text};
use crate::index::{FileLock, Image, Index, IndexFile, Layer, now};
use crate::model::{Config, MAX_DOCUMENT};
use crate::reference::parse_digest;
use crate::unpack::{Options, Settled, Unpacked, settle, unpack};
use crate::{Error, Reference};

mod sweep;

/// The image store of one data folder. Several processes may have it open at once.
#[derive(Debug)]
pub struct Images {
    pub(crate) root: PathBuf,
    pub(crate) registries: PathBuf,
    pub(crate) index: IndexFile,
    pub(crate) pulls: Mutex<HashMap<String, crate::pull::Flight>>,
    pub(crate) blob_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A layer that was unpacked beside the store.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub dir: TempDir,
    pub diff: String,
    pub what: Unpacked,
}

/// One layer of an image on its way into the store.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The digest as it travels.
    pub blob: String,
    /// Unpacked now, if it was not there before.
    pub fresh: Option<Fresh>,
}

/// A folder that is removed with the value, unless it was moved away.
#[derive(Debug)]
pub(crate) struct TempDir(pub PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), error = %e, "left a temporary folder behind");
        }
    }
}

/// An image whose parts are all there, to be recorded.
#[derive(Debug)]
pub(crate) struct Addition {
    pub manifest: crate::Descriptor,
    pub index: Option<String>,
    pub config_digest: String,
    pub config: Config,
    pub size: u64,
    pub layers: Vec<Incoming>,
    pub names: Vec<Reference>,
    /// The digest the names are known by in their registry.
    pub repo_digest: Option<String>,
}

impl Images {
    /// Opens or makes the store at `<data>/images`, and removes what interrupted work has left
    /// there. `registries` is the file with mirrors and credentials, read at every pull.
    ///
    /// # Errors
    /// When the folder cannot be written, or was written by a newer program.
    pub fn open(
        root: impl Into<PathBuf>,
        registries: impl Into<PathBuf>,
    ) -> Result<Arc<Self>, Error> {
        let root = root.into();
        for dir in ["blobs/sha256", "s", "rw", "ingest"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        }
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))
            .map_err(|e| Error::io("protect", &root, e))?;
        let images = Self {
            index: IndexFile::new(&root),
            root,
            registries: registries.into(),
            pulls: Mutex::default(),
            blob_locks: Mutex::default(),
        };
        images.index.load()?;
        images.sweep(&[])?;
        Ok(Arc::new(images))
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All images, by id.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.index.load()?.images.values().cloned().collect())
    }

    /// The image with that name, id, or unambiguous start of an id.
    ///
    /// # Errors
    /// When the state cannot be read. A name that cannot be parsed finds nothing.
    pub fn find(&self, text: &str) -> Result<Option<Image>, Error> {
        Ok(find(&*self.index.load()?, text).cloned())
    }

    /// An image's configuration document.
    ///
    /// # Errors
    /// When it is missing or broken.
    pub fn config(&self, image: &Image) -> Result<Config, Error> {
        let bytes = self.read_document(&image.id)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::malformed(&image.id, e))
    }

    /// Forgets an image with all its names; content goes when nothing needs it. No error if it is
    /// not there.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn remove(&self, text: &str) -> Result<(), Error> {
        let Some(image) = self.find(text)? else {
            return Ok(());
        };
        self.index.update(|index| {
            index.images.remove(&image.id);
            Ok(())
        })?;
        self.sweep(&image.content())
    }

    /// Takes away one name; the image goes with its last one.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn untag(&self, name: &str) -> Result<(), Error> {
        let Ok(reference) = Reference::parse(name) else {
            return self.remove(name);
        };
        let name = reference.to_string();
        let gone = self.index.update(|index| {
            for image in index.images.values_mut() {
                image.tags.remove(&name);
                image.digests.remove(&name);
            }
            let mut gone = Vec::new();
            index.images.retain(|_, image| {
                let keep = !(image.tags.is_empty() && image.digests.is_empty());
                if !keep {
                    gone.extend(image.content());
                }
                keep
            });
            Ok(gone)
        })?;
        self.sweep(&gone)
    }

    /// Gives an image a further name.
    ///
    /// # Errors
    /// When there is no such image, or the name is broken.
    pub fn tag(&self, image: &str, name: &str) -> Result<(), Error> {
        let name = Reference::parse(name)?.to_string();
        self.index.update(|index| {
            let id = find(index, image)
                .map(|i| i.id.clone())
                .ok_or_else(|| Error::NotFound(image.to_owned()))?;
            move_tag(index, &id, &name);
            Ok(())
        })
    }

    /// Keeps an image from being collected by the kubelet.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn pin(&self, image: &str, pinned: bool) -> Result<(), Error> {
        self.index.update(|index| {
            let id = find(index, image)
                .map(|i| i.id.clone())
                .ok_or_else(|| Error::NotFound(image.to_owned()))?;
            if let Some(image) = index.images.get_mut(&id) {
                image.pinned = pinned;
            }
            Ok(())
        })
    }

    /// Notes that an image was used, at most once a minute.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn touch(&self, id: &str) -> Result<(), Error> {
        let now = now();
        match self.index.load()?.images.get(id) {
            Some(image) if image.used + 60 < now => self.index.update(|index| {
                if let Some(image) = index.images.get_mut(id) {
                    image.used = now;
                }
                Ok(())
            }),
            _ => Ok(()),
        }
    }

    /// Bytes and inodes of blobs and unpacked layers (without container's own).
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn usage(&self) -> Result<(u64, u64), Error> {
        let index = self.index.load()?;
        let (mut bytes, mut inodes) = index
            .layers
            .values()
            .fold((0, 0), |(b, i), l| (b + l.bytes, i + l.inodes));
        let blobs = self.root.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).map_err(|e| Error::io("read", &blobs, e))? {
            let entry = entry.map_err(|e| Error::io("read", &blobs, e))?;
            bytes += entry.metadata().map_or(0, |m| m.len());
            inodes += 1;
        }
        Ok((bytes, inodes))
    }

    /// The folders of an image's unpacked layers, topmost first.
    ///
    /// # Errors
    /// When a layer is missing.
    pub fn layer_dirs(&self, image: &Image) -> Result<Vec<PathBuf>, Error> {
        let index = self.index.load()?;
        image
            .chain
            .iter()
            .rev()
            .map(|chain| {
                let layer = index
                    .layers
                    .get(chain)
                    .ok_or_else(|| Error::NotFound(format!("layer {chain}")))?;
                Ok(self.root.join("s").join(&layer.dir))
            })
            .collect()
    }

    // ---- blobs

    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        self.root.join("blobs/sha256").join(hex)
    }

    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.blob(digest).exists()
    }

    /// A manifest, index or configuration of the store, with its digest checked.
    pub(crate) fn read_document(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|f| f.take(MAX_DOCUMENT).read_to_end(&mut bytes))
            .map_err(|e| Error::io("read", &path, e))?;
        check(digest, digest, digest_of(&bytes))?;
        Ok(bytes)
    }

    /// Stores bytes; gives their digest.
    pub(crate) fn write_blob(&self, bytes: &[u8]) -> Result<String, Error> {
        let digest = digest_of(bytes);
        if !self.has_blob(&digest) {
            let temp = self.ingest_path();
            File::create(&temp)
                .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_data()))
                .map_err(|e| Error::io("write", &temp, e))?;
            self.adopt_blob(&temp, &digest)?;
        }
        Ok(digest)
    }

    /// Streams a blob into the ingest folder; gives its path and digest.
    pub(crate) fn ingest(&self, mut from: impl Read) -> Result<(PathBuf, String, u64), Error> {
        let temp = self.ingest_path();
        let mut copy = || -> std::io::Result<(String, u64)> {
            let mut file = File::create(&temp)?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0u8; 128 << 10];
            let mut size = 0;
            loop {
                let n = from.read(&mut buffer)?;
                if n == 0 {
                    return Ok((digest_text(hasher), size));
                }
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n])?;
                size += n as u64;
            }
        };
        match copy() {
            Ok((digest, size)) => Ok((temp, digest, size)),
            Err(e) => {
                let _ = fs::remove_file(&temp); // the copy's error is the one that matters
                Err(Error::io("write", &temp, e))
            }
        }
    }

    /// Moves a verified file into the store.
    pub(crate) fn adopt_blob(&self, temp: &Path, digest: &str) -> Result<(), Error> {
        let path = self.blob(digest);
        fs::rename(temp, &path).map_err(|e| Error::io("rename", &path, e))
    }

    pub(crate) fn ingest_path(&self) -> PathBuf {
        self.root.join("ingest").join(unique())
    }

    /// Held while blobs or layers are on their way in: keeps every process from sweeping.
    pub(crate) fn work_lock(&self) -> Result<FileLock, Error> {
        let path = self.root.join("work.lock");
        FileLock::take(&path, FlockOperation::LockShared)?
            .ok_or_else(|| Error::io("lock", &path, rustix::io::Errno::WOULDBLOCK))
    }

    // ---- layers

    /// Whether the layer with that chain id is unpacked.
    pub(crate) fn has_layer(&self, chain: &str) -> Result<bool, Error> {
        Ok(self.index.load()?.layers.contains_key(chain))
    }

    /// Unpacks a layer (compressed or not) beside the store. Blocking.
    pub(crate) fn unpack_fresh(
        &self,
        reader: impl Read,
        lowers: Vec<PathBuf>,
    ) -> Result<Fresh, Error> {
        let dir = TempDir(self.ingest_path());
        fs::create_dir(&dir.0).map_err(|e| Error::io("create", &dir.0, e))?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755))
            .map_err(|e| Error::io("protect", &dir.0, e))?;
        let plain = decompress(reader).map_err(|e| Error::io("read layer for", &dir.0, e))?;
        let mut hashing = Hashing::new(plain);
        let what = unpack(&mut hashing, &dir.0, &Options { lowers })?;
        let diff = hashing
            .finish()
            .map_err(|e| Error::io("read layer for", &dir.0, e))?;
        Ok(Fresh { dir, diff, what })
    }

    /// Settles new layers upon the ones below, moves them in, and records the image. Blocking;
    /// needs [`Images::work_lock`].
    pub(crate) fn commit(&self, mut add: Addition) -> Result<Image, Error> {
        let chain = chain_ids(&add.config.rootfs.diff_ids);
        if chain.len() != add.layers.len() {
            return Err(Error::malformed(
                &add.config_digest,
                "configuration and manifest differ in their number of layers",
            ));
        }
        let index = self.index.load()?;
        let mut lowers: Vec<PathBuf> = Vec::new();
        let diffs = &add.config.rootfs.diff_ids;
        for ((incoming, chain), diff) in add.layers.iter_mut().zip(&chain).zip(diffs) {
            let path = match &mut incoming.fresh {
                Some(fresh) => {
                    check(&incoming.blob, diff, fresh.diff.clone())?;
                    if settle(&fresh.dir.0, &fresh.what, &lowers)? == Settled::Again {
                        let path = self.blob(&incoming.blob);
                        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
                        *fresh = self.unpack_fresh(file, lowers.clone())?;
                        settle(&fresh.dir.0, &fresh.what, &lowers)?;
                    }
                    fresh.dir.0.clone()
                }
                None => {
                    let layer = index
                        .layers
                        .get(chain)
                        .ok_or_else(|| Error::NotFound(format!("layer {chain}")))?;
                    self.root.join("s").join(&layer.dir)
                }
            };
            lowers.insert(0, path);
        }
        // One sync for all that was unpacked, before anything points to it.
        let root = File::open(&self.root).map_err(|e| Error::io("open", &self.root, e))?;
        rustix::fs::syncfs(&root).map_err(|e| Error::io("sync", &self.root, e))?;
        self.index.update(|index| {
            for (incoming, chain) in add.layers.iter().zip(&chain) {
                let Some(fresh) = &incoming.fresh else { continue };
                if index.layers.contains_key(chain) {
                    continue; // someone else was faster
                }
                let dir = loop {
                    index.next += 1;
                    let dir = short_name(index.next);
                    if !self.root.join("s").join(&dir).exists() {
                        break dir;
                    }
                };
                let path = self.root.join("s").join(&dir);
                fs::rename(&fresh.dir.0, &path).map_err(|e| Error::io("rename", &path, e))?;
                index.layers.insert(
                    chain.clone(),
                    Layer {
                        dir,
                        diff: fresh.diff.clone(),
                        bytes: fresh.what.bytes,
                        inodes: fresh.what.inodes,
                    },
                );
            }
            Ok(record(index, &add, &chain))
        })
    }
}

/// Puts an image into the index, or its new names to the one that is there.
fn record(index: &mut Index, add: &Addition, chain: &[String]) -> Image {
    let id = add.config_digest.clone();
    let time = now();
    let image = index.images.entry(id.clone()).or_insert_with(|| Image {
        id: id.clone(),
        manifest: add.manifest.clone(),
        index: add.index.clone(),
        tags: BTreeSet::new(),
        digests: BTreeSet::new(),
        size: add.size,
        chain: chain.to_vec(),
        blobs: add.layers.iter().map(|l| l.blob.clone()).collect(),
        pinned: false,
        added: time,
        used: time,
    });
    image.used = time;
    // A later manifest for the same configuration (recompressed layers) takes over.
    image.manifest = add.manifest.clone();
    image.index = add.index.clone();
    image.blobs = add.layers.iter().map(|l| l.blob.clone()).collect();
    image.size = add.size;
    for name in &add.names {
        if let Some(digest) = &add.repo_digest {
            image.digests.insert(format!("{}@{digest}", name.name()));
        }
    }
    for name in &add.names {
        if let (Some(tag), None) = (name.tag(), name.digest()) {
            move_tag(index, &id, &format!("{}:{tag}", name.name()));
        }
    }
    index.images[&id].clone()
}

fn move_tag(index: &mut Index, id: &str, tag: &str) {
    for (other, image) in &mut index.images {
        if other == id {
            image.tags.insert(tag.to_owned());
        } else {
            image.tags.remove(tag);
        }
    }
}

fn find<'a>(index: &'a Index, text: &str) -> Option<&'a Image> {
    if let Some(image) = index.images.get(text) {
        return Some(image);
    }
    let bare = text.strip_prefix("sha256:").unwrap_or(text);
    if let Some(image) = index.images.get(&format!("sha256:{bare}")) {
        return Some(image);
    }
    if let Ok(reference) = Reference::parse(text) {
        let found = match reference.digest() {
            Some(digest) => {
                let name = format!("{}@{digest}", reference.name());
                index.images.values().find(|i| i.digests.contains(&name))
            }
            None => {
                let name = reference.to_string();
                index.images.values().find(|i| i.tags.contains(&name))
            }
        };
        if found.is_some() {
            return found;
        }
    }
    if bare.len() >= 4 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
        let start = format!("sha256:{bare}");
        let mut fitting = index.images.values().filter(|i| i.id.starts_with(&start));
        return match (fitting.next(), fitting.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        };
    }
    None
}

/// Fails if content is not what it should be.
pub(crate) fn check(what: &str, expected: &str, actual: String) -> Result<(), Error> {
    if parse_digest(expected).is_some() && expected == actual {
        return Ok(());
    }
    Err(Error::Digest {
        what: what.to_owned(),
        expected: expected.to_owned(),
        actual,
    })
}

/// The chain id of every layer, bottom first (OCI image specification, "Layer ChainID").
pub(crate) fn chain_ids(diffs: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(diffs.len());
    for diff in diffs {
        let next = match out.last() {
            None => diff.clone(),
            Some(below) => digest_of(format!("{below} {diff}").as_bytes()),
        };
        out.push(next);
    }
    out
}

/// Base 36, so that many lower layers fit where lengths are limited.
fn short_name(mut n: u64) -> String {
    let mut out = Vec::new();
    loop {
        out.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize]);
        n /= 36;
        if n == 0 {
            break;
        }
    }
    out.reverse();
    String::from_utf8_lossy(&out).into_owned()
}

/// A name nobody else uses: process, time, counter.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{time:x}-{n}", std::process::id())
}
