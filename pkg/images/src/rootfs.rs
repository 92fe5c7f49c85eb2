//! Images made here, of files in memory or of one plain archive.

use std::io::Read;

use crate::decode::digest_of;
use crate::model::{Config, ImageConfig, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, RootFs};
use crate::store::{Addition, Incoming, chain_ids};
use crate::{Descriptor, Error, Image, Images, Reference, architecture};

/// One file of an image made in memory.
#[derive(Debug, Clone)]
pub struct RootFile {
    /// Its path; with a slash at the end it is a folder.
    pub path: String,
    /// Permission bits, with setuid and the like.
    pub mode: u32,
    /// What it holds; nothing for a folder.
    pub content: Vec<u8>,
}

impl Images {
    /// Makes an image of one layer from files in memory. The same input makes the same image,
    /// so it may be repeated. Blocking.
    ///
    /// # Errors
    /// When the name is broken or the store cannot be written.
    pub fn import_rootfs(
        &self,
        name: &str,
        config: ImageConfig,
        files: &[RootFile],
    ) -> Result<Image, Error> {
        let bad = |e| Error::malformed("root file system", e);
        let mut builder = tar::Builder::new(Vec::new());
        for file in files {
            let mut header = tar::Header::new_ustar();
            let folder = file.path.ends_with('/');
            header.set_entry_type(match folder {
                true => tar::EntryType::Directory,
                false => tar::EntryType::Regular,
            });
            header.set_mode(file.mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(if folder { 0 } else { file.content.len() as u64 });
            let path = file.path.trim_start_matches('/');
            let content = if folder { &[][..] } else { &file.content };
            builder.append_data(&mut header, path, content).map_err(bad)?;
        }
        let tar = builder.into_inner().map_err(bad)?;
        self.import_layer(name, config, tar.as_slice())
    }

    /// Makes an image of one layer from a root file system's archive, compressed or not.
    /// Blocking.
    ///
    /// # Errors
    /// When the name or the archive is broken, or the store cannot be written.
    pub fn import_layer(
        &self,
        name: &str,
        config: ImageConfig,
        tar: impl Read,
    ) -> Result<Image, Error> {
        let name = Reference::parse(name)?;
        let _work = self.work_lock()?;
        let (path, blob, size) = self.ingest(tar)?;
        self.adopt_blob(&path, &blob)?;
        let path = self.blob(&blob);
        let file = std::fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let mut fresh = Some(self.unpack_fresh(file, Vec::new())?);
        let diffs: Vec<String> = fresh.iter().map(|f| f.diff.clone()).collect();
        if self.has_layer(&chain_ids(&diffs)[0])? {
            fresh = None;
        }
        let config = Config {
            created: None,
            architecture: architecture().to_owned(),
            os: "linux".to_owned(),
            config,
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: diffs,
            },
        };
        let layer = Descriptor {
            media_type: OCI_LAYER.to_owned(),
            digest: blob,
            size,
            platform: None,
            annotations: Default::default(),
        };
        let config_bytes = encode(&config)?;
        self.write_blob(&config_bytes)?;
        let manifest = self.write_manifest(&config_bytes, vec![layer.clone()])?;
        self.commit(Addition {
            repo_digest: Some(manifest.digest.clone()),
            size: manifest.size + config_bytes.len() as u64 + size,
            manifest,
            index: None,
            config_digest: digest_of(&config_bytes),
            config,
            layers: vec![Incoming {
                blob: layer.digest,
                fresh,
            }],
            names: vec![name],
        })
    }

    /// Writes a manifest for a configuration and layers that are in the store.
    pub(crate) fn write_manifest(
        &self,
        config: &[u8],
        layers: Vec<Descriptor>,
    ) -> Result<Descriptor, Error> {
        let bytes = encode(&Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: Some(Descriptor {
                media_type: OCI_CONFIG.to_owned(),
                digest: digest_of(config),
                size: config.len() as u64,
                platform: None,
                annotations: Default::default(),
            }),
            layers,
            manifests: Vec::new(),
        })?;
        Ok(Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: self.write_blob(&bytes)?,
            size: bytes.len() as u64,
            platform: None,
            annotations: Default::default(),
        })
    }
}

pub(crate) fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::malformed("document", e))
}
