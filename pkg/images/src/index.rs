//! The one state file, `images.json`: which images and layers there are. Changed only under a
//! file lock that every process takes, written beside and renamed, so that a reader sees one
//! state or the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::model::Descriptor;
use crate::reference::parse_digest;

const VERSION: u32 = 1;

/// What the store holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    pub version: u32,
    /// The number of the next snapshot.
    pub next: u64,
    /// By configuration digest.
    pub images: BTreeMap<String, Image>,
    /// By chain id.
    pub layers: BTreeMap<String, Layer>,
}

impl Index {
    /// A name that leads out of the store's folders.
    fn misnamed(&self) -> Option<&str> {
        let digests = self.images.values().flat_map(|image| {
            let index = image.index.iter();
            let own = [&image.id, &image.manifest.digest];
            own.into_iter().chain(&image.blobs).chain(index)
        });
        let mut digests = digests.chain(self.images.keys());
        let dirs = self.layers.values().map(|l| &l.dir);
        let plain = |dir: &str| !dir.is_empty() && !dir.starts_with('.') && !dir.contains(['/', '\0']);
        digests
            .find(|digest| parse_digest(digest).is_none())
            .or_else(|| dirs.into_iter().find(|dir| !plain(dir)))
            .map(String::as_str)
    }
}

/// One image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration.
    pub id: String,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The index it was chosen from, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// Normalised names with tags.
    pub tags: BTreeSet<String>,
    /// Normalised names with digests.
    pub digests: BTreeSet<String>,
    /// Bytes of manifest, configuration and layers as they travel.
    pub size: u64,
    /// Chain ids, bottom first.
    pub chain: Vec<String>,
    /// Digests of the layers as they travel, bottom first.
    pub blobs: Vec<String>,
    /// Never collected.
    #[serde(default)]
    pub pinned: bool,
    /// Seconds since 1970 when it was added.
    pub added: u64,
    /// Seconds since 1970 of its last use, to the minute.
    pub used: u64,
}

impl Image {
    /// The digests of all that it is made of.
    pub(crate) fn content(&self) -> Vec<String> {
        let mut out = self.blobs.clone();
        out.push(self.id.clone());
        out.push(self.manifest.digest.clone());
        out.extend(self.index.clone());
        out
    }
}

/// One unpacked layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The folder's name below `s/`.
    pub dir: String,
    pub diff: String,
    pub bytes: u64,
    pub inodes: u64,
}

/// The state file with its cached content.
#[derive(Debug)]
pub(crate) struct IndexFile {
    path: PathBuf,
    lock: PathBuf,
    cache: Mutex<Option<(Stamp, Arc<Index>)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

/// A held file lock; leaves with the value.
#[derive(Debug)]
pub(crate) struct FileLock(#[allow(dead_code)] File);

impl FileLock {
    /// Takes the lock; `None` if it is held elsewhere and `operation` does not wait.
    pub(crate) fn take(path: &Path, operation: FlockOperation) -> Result<Option<Self>, Error> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|e| Error::io("open", path, e))?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(Self(file))),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(Error::io("lock", path, e)),
            }
        }
    }
}

impl IndexFile {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            path: root.join("images.json"),
            lock: root.join("lock"),
            cache: Mutex::new(None),
        }
    }

    /// The state as it is on disk now. Costs one `stat` when nothing has changed.
    pub(crate) fn load(&self) -> Result<Arc<Index>, Error> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = match fs::metadata(&self.path) {
            Ok(m) => Stamp {
                inode: m.ino(),
                size: m.len(),
                mtime: (m.mtime(), m.mtime_nsec()),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Arc::new(Index {
                    version: VERSION,
                    ..Index::default()
                }));
            }
            Err(e) => return Err(Error::io("stat", &self.path, e)),
        };
        if let Some((known, index)) = &*cache
            && *known == stamp
        {
            return Ok(index.clone());
        }
        let bytes = fs::read(&self.path).map_err(|e| Error::io("read", &self.path, e))?;
        let bad = |e: serde_json::Error| Error::malformed(self.path.display().to_string(), e);
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(&bytes).map_err(bad)?;
        if version > VERSION {
            return Err(Error::Newer {
                path: self.path.clone(),
                version,
                known: VERSION,
            });
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(bad)?;
        if let Some(name) = index.misnamed() {
            return Err(Error::malformed(
                self.path.display().to_string(),
                format!("{name:?} is no name of what is in the store"),
            ));
        }
        let index = Arc::new(index);
        *cache = Some((stamp, index.clone()));
        Ok(index)
    }

    /// Changes the state under the lock; what `change` returns is passed on. The file is only
    /// written if the change succeeds.
    pub(crate) fn update<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _lock = FileLock::take(&self.lock, FlockOperation::LockExclusive)?;
        let mut index = (*self.load()?).clone();
        let out = change(&mut index)?;
        let bytes = serde_json::to_vec(&index)
            .map_err(|e| Error::malformed(self.path.display().to_string(), e))?;
        write_durably(&self.path, &bytes)?;
        Ok(out)
    }
}

/// Writes beside, syncs, renames and syncs the folder.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temp = path.with_extension("new");
    let mut file = File::create(&temp).map_err(|e| Error::io("create", &temp, e))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_data())
        .map_err(|e| Error::io("write", &temp, e))?;
    fs::rename(&temp, path).map_err(|e| Error::io("rename", path, e))?;
    if let Some(parent) = path.parent() {
        File::open(parent)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::io("sync", parent, e))?;
    }
    Ok(())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
