//! Removing what nothing points to.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::Images;
use crate::Error;
use crate::index::{FileLock, Index};

/// How long an interrupted download waits to be resumed.
const KEEP_PARTS: Duration = Duration::from_secs(24 * 3600);
/// How long a blob without an image waits for a pull to be tried again.
const KEEP_BLOBS: Duration = Duration::from_secs(3600);

impl Images {
    /// Removes unreferenced layers, blobs and leftovers; does nothing while any process has an
    /// image on its way in (whoever comes next sweeps). Blobs in `gone` go at once, others when old.
    pub(crate) fn sweep(&self, gone: &[String]) -> Result<(), Error> {
        let lock = self.root.join("work.lock");
        let Some(_work) = FileLock::take(&lock, FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(());
        };
        let in_use = self.chains_in_use()?;
        let index = self.index.load()?;
        let needed = needed_chains(&index, &in_use);
        if index.layers.keys().any(|chain| !needed.contains(chain)) {
            self.index.update(|index| {
                let needed = needed_chains(index, &in_use);
                index.layers.retain(|chain, _| needed.contains(chain));
                Ok(())
            })?;
        }
        let index = self.index.load()?;
        let dirs: BTreeSet<&str> = index.layers.values().map(|l| l.dir.as_str()).collect();
        clear(&self.root.join("s"), |name, _| !dirs.contains(name))?;
        let mut blobs = BTreeSet::new();
        for image in index.images.values() {
            blobs.extend(image.blobs.iter().cloned());
            blobs.insert(image.id.clone());
            blobs.insert(image.manifest.digest.clone());
            blobs.extend(image.index.clone());
        }
        clear(&self.root.join("blobs/sha256"), |name, meta| {
            let digest = format!("sha256:{name}");
            // What a failed pull has left is wanted by its next try.
            !blobs.contains(&digest) && (gone.contains(&digest) || old(meta, KEEP_BLOBS))
        })?;
        clear(&self.root.join("ingest"), |name, meta| {
            !name.ends_with(".part") || old(meta, KEEP_PARTS)
        })
    }

    /// Chain ids that containers stand on, also of images that are gone.
    fn chains_in_use(&self) -> Result<BTreeSet<String>, Error> {
        let dir = self.root.join("rw");
        let mut out = BTreeSet::new();
        for entry in fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
            let entry = entry.map_err(|e| Error::io("read", &dir, e))?;
            if let Ok(text) = fs::read_to_string(entry.path().join("chain")) {
                out.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(out)
    }
}

fn needed_chains(index: &Index, in_use: &BTreeSet<String>) -> BTreeSet<String> {
    let mut needed = in_use.clone();
    for image in index.images.values() {
        needed.extend(image.chain.iter().cloned());
    }
    needed
}

fn old(meta: &fs::Metadata, age: Duration) -> bool {
    meta.modified()
        .ok()
        .and_then(|t| t.elapsed().ok())
        .is_some_and(|e| e > age)
}

fn clear(dir: &Path, unwanted: impl Fn(&str, &fs::Metadata) -> bool) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))? {
        let entry = entry.map_err(|e| Error::io("read", dir, e))?;
        let Ok(meta) = entry.metadata() else { continue };
        let name = entry.file_name();
        if !unwanted(&name.to_string_lossy(), &meta) {
            continue;
        }
        let path = entry.path();
        let gone = match meta.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        if let Err(e) = gone {
            tracing::warn!(path = %path.display(), error = %e, "could not remove a leftover");
        }
    }
    Ok(())
}
