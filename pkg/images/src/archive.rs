//! Archives that hold whole images: OCI layouts and Docker's.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::decode::{decompress, digest_of};
use crate::model::{Config, MAX_DOCUMENT, Manifest, OCI_LAYER};
use crate::rootfs::encode;
use crate::store::{Addition, Incoming, TempDir, chain_ids, check};
use crate::{Descriptor, Error, Image, Images, Reference};

const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The files of an archive, put down beside the store.
struct Extracted {
    _dir: TempDir,
    files: HashMap<String, Part>,
    links: HashMap<String, String>,
}

#[derive(Clone)]
struct Part {
    path: PathBuf,
    digest: String,
    size: u64,
}

/// An entry of `manifest.json` in Docker's archives.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Images {
    /// Imports every image of an OCI-layout or Docker archive, compressed or not. `name`
    /// overrides the names in an archive with one image. May be repeated. Blocking.
    ///
    /// # Errors
    /// When the archive is broken, holds no image for this machine, or no name is known.
    pub fn import(&self, file: &Path, name: Option<&str>) -> Result<Vec<Image>, Error> {
        let reader = File::open(file).map_err(|e| Error::io("open", file, e))?;
        self.import_reader(reader, name)
            .map_err(|e| e.step(format!("import {}", file.display())))
    }

    /// [`Images::import`] from a stream.
    ///
    /// # Errors
    /// As there.
    pub fn import_reader(
        &self,
        reader: impl Read,
        name: Option<&str>,
    ) -> Result<Vec<Image>, Error> {
        let name = name.map(Reference::parse).transpose()?;
        let _work = self.work_lock()?;
        let parts = self.extract(reader)?;
        let docker = parts.find("manifest.json").is_some();
        let images = match parts.find("index.json") {
            Some(_) => {
                let images = self.import_layout(&parts, name.as_ref());
                match images {
                    // Docker writes both, with the names only in one of them at times.
                    Err(Error::Malformed { reason, .. }) if docker && reason == NAMELESS => {
                        self.import_docker(&parts, name.as_ref())?
                    }
                    other => other?,
                }
            }
            None if docker => self.import_docker(&parts, name.as_ref())?,
            None => {
                return Err(Error::malformed(
                    "archive",
                    "neither an OCI layout (index.json) nor a Docker archive (manifest.json)",
                ));
            }
        };
        if images.is_empty() {
            return Err(Error::Platform("archive".to_owned()));
        }
        Ok(images)
    }

    fn extract(&self, reader: impl Read) -> Result<Extracted, Error> {
        let dir = TempDir(self.ingest_path());
        fs::create_dir(&dir.0).map_err(|e| Error::io("create", &dir.0, e))?;
        let bad = |e| Error::malformed("archive", e);
        let mut archive = tar::Archive::new(decompress(reader).map_err(bad)?);
        let (mut files, mut links) = (HashMap::new(), HashMap::new());
        for entry in archive.entries().map_err(bad)? {
            let mut entry = entry.map_err(bad)?;
            let path = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let link = entry.link_name_bytes().unwrap_or_default();
                let link = String::from_utf8_lossy(&link).into_owned();
                let base = match (kind.is_symlink(), path.rsplit_once('/')) {
                    (true, Some((base, _))) => format!("{base}/{link}"),
                    _ => link,
                };
                links.insert(path, normal(&base));
            } else if kind.is_file() {
                let (temp, digest, size) = self.ingest(&mut entry)?;
                let to = dir.0.join(files.len().to_string());
                fs::rename(&temp, &to).map_err(|e| Error::io("rename", &to, e))?;
                let part = Part {
                    path: to,
                    digest,
                    size,
                };
                files.insert(path, part);
            }
        }
        Ok(Extracted {
            _dir: dir,
            files,
            links,
        })
    }

    fn import_layout(
        &self,
        parts: &Extracted,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, Error> {
        let index: Manifest = parts.document("index.json")?;
        let mut out = Vec::new();
        for entry in &index.manifests {
            let names = match name {
                Some(name) => vec![name.clone()],
                None => names_of(entry)?,
            };
            let Some((top, manifest, chosen)) = self.choose(parts, entry)? else {
                continue;
            };
            let config = manifest
                .config
                .as_ref()
                .ok_or_else(|| Error::malformed(&chosen.digest, "manifest without config"))?;
            let mut layers = Vec::new();
            for layer in &manifest.layers {
                layers.push((layer.digest.clone(), parts.blob(&layer.digest)?));
            }
            let config_part = parts.blob(&config.digest)?;
            if top != chosen.digest {
                self.keep(parts.blob(&top)?)?;
            }
            self.keep(parts.blob(&chosen.digest)?)?;
            let add = self.addition(config_part, layers, chosen, names)?;
            out.push(self.commit(Addition {
                index: (top != add.manifest.digest).then(|| top.clone()),
                repo_digest: Some(top),
                ..add
            })?);
        }
        Ok(out)
    }

    /// Goes down from an entry of the layout to the manifest for this machine: the digest at the
    /// top, the manifest, its descriptor.
    #[allow(clippy::type_complexity)]
    fn choose(
        &self,
        parts: &Extracted,
        entry: &Descriptor,
    ) -> Result<Option<(String, Manifest, Descriptor)>, Error> {
        let mut at = entry.clone();
        for _ in 0..4 {
            let part = parts.blob(&at.digest)?;
            at.size = part.size;
            let manifest: Manifest = read_json(&part)?;
            if manifest.manifests.is_empty() {
                return Ok(Some((entry.digest.clone(), manifest, at)));
            }
            match manifest.select() {
                Some(next) => at = next.clone(),
                None => return Ok(None),
            }
        }
        Err(Error::malformed("archive", "indexes nested too deeply"))
    }

    fn import_docker(
        &self,
        parts: &Extracted,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, Error> {
        let images: Vec<DockerImage> = parts.document("manifest.json")?;
        let mut out = Vec::new();
        for image in images {
            let names = match name {
                Some(name) => vec![name.clone()],
                None => {
                    let tags = image.repo_tags.iter().flatten();
                    tags.map(|t| Reference::parse(t)).collect::<Result<Vec<_>, _>>()?
                }
            };
            if names.is_empty() {
                return Err(Error::malformed("archive", NAMELESS));
            }
            let config = parts.file(&image.config)?;
            let bytes = fs::read(&config.path).map_err(|e| Error::io("read", &config.path, e))?;
            let mut layers = Vec::new();
            let mut descriptors = Vec::new();
            for layer in &image.layers {
                let part = parts.file(layer)?;
                descriptors.push(Descriptor {
                    media_type: format!("{OCI_LAYER}{}", compression(&part)?),
                    digest: part.digest.clone(),
                    size: part.size,
                    platform: None,
                    annotations: Default::default(),
                });
                layers.push((part.digest.clone(), part));
            }
            let manifest = self.write_manifest(&bytes, descriptors)?;
            let add = self.addition(config, layers, manifest, names)?;
            out.push(self.commit(Addition {
                repo_digest: Some(add.manifest.digest.clone()),
                ..add
            })?);
        }
        Ok(out)
    }

    /// Takes an image's parts into the store and unpacks its layers, in order.
    fn addition(
        &self,
        config_part: Part,
        layers: Vec<(String, Part)>,
        manifest: Descriptor,
        names: Vec<Reference>,
    ) -> Result<Addition, Error> {
        let config: Config = read_json(&config_part)?;
        let config_digest = config_part.digest.clone();
        let mut size = manifest.size + config_part.size;
        self.keep(config_part)?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        let known = self.index.load()?;
        let mut lowers: Vec<PathBuf> = Vec::new();
        let mut incoming = Vec::new();
        for ((digest, part), chain) in layers.into_iter().zip(&chain) {
            size += part.size;
            self.keep(part)?;
            let fresh = match known.layers.get(chain) {
                Some(layer) => {
                    lowers.insert(0, self.root.join("s").join(&layer.dir));
                    None
                }
                None => {
                    let path = self.blob(&digest);
                    let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
                    let fresh = self.unpack_fresh(file, lowers.clone())?;
                    lowers.insert(0, fresh.dir.0.clone());
                    Some(fresh)
                }
            };
            incoming.push(Incoming {
                blob: digest,
                fresh,
            });
        }
        Ok(Addition {
            manifest,
            index: None,
            config_digest,
            config,
            size,
            layers: incoming,
            names,
            repo_digest: None,
        })
    }

    /// Puts a part into the store; it may be needed by a further image of the archive.
    fn keep(&self, part: Part) -> Result<(), Error> {
        let to = self.blob(&part.digest);
        if to.exists() {
            return Ok(());
        }
        fs::hard_link(&part.path, &to).map_err(|e| Error::io("link", &to, e))
    }

    /// Writes images as an OCI layout that Docker can load too. Blocking.
    ///
    /// # Errors
    /// When an image is not there, or the output cannot be written.
    pub fn export(&self, names: &[&str], out: impl Write) -> Result<(), Error> {
        let _work = self.work_lock()?;
        let bad = |e| Error::io("write archive for", &self.root, e);
        let mut tar = tar::Builder::new(out);
        let mut done = BTreeSet::new();
        let mut manifests = Vec::new();
        let mut docker = Vec::new();
        for name in names {
            let image = self
                .find(name)?
                .ok_or_else(|| Error::NotFound((*name).to_owned()))?;
            for digest in [&image.manifest.digest, &image.id].into_iter().chain(&image.blobs) {
                if done.insert(digest.clone()) {
                    let path = self.blob(digest);
                    let mut file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
                    let size = file.metadata().map_err(|e| Error::io("stat", &path, e))?.len();
                    append(&mut tar, &in_archive(digest), size, &mut file).map_err(bad)?;
                }
            }
            let reference = Reference::parse(name).ok().map(|r| r.to_string());
            let tags: Vec<String> = match reference.filter(|r| image.tags.contains(r)) {
                Some(one) => vec![one],
                None => image.tags.iter().cloned().collect(),
            };
            for tag in &tags {
                let mut entry = image.manifest.clone();
                entry.platform = None;
                entry.annotations.insert(NAME.to_owned(), tag.clone());
                let short = tag.rsplit_once(':').map_or("latest", |(_, t)| t);
                entry.annotations.insert(REF_NAME.to_owned(), short.to_owned());
                manifests.push(entry);
            }
            if tags.is_empty() {
                manifests.push(image.manifest.clone());
            }
            docker.push(DockerImage {
                config: in_archive(&image.id),
                repo_tags: Some(tags),
                layers: image.blobs.iter().map(|b| in_archive(b)).collect(),
            });
        }
        let index = Manifest {
            schema_version: 2,
            media_type: crate::model::OCI_INDEX.to_owned(),
            config: None,
            layers: Vec::new(),
            manifests,
        };
        for (path, bytes) in [
            ("index.json", encode(&index)?),
            ("manifest.json", encode(&docker)?),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ] {
            append(&mut tar, path, bytes.len() as u64, &mut bytes.as_slice()).map_err(bad)?;
        }
        tar.into_inner().and_then(|mut w| w.flush()).map_err(bad)
    }
}

const NAMELESS: &str = "the archive names no image; give a name";

/// The names an entry of a layout's index carries.
fn names_of(entry: &Descriptor) -> Result<Vec<Reference>, Error> {
    let text = entry.annotations.get(NAME).or_else(|| {
        // A bare tag is no name.
        entry.annotations.get(REF_NAME).filter(|n| n.contains(['/', ':']))
    });
    match text {
        Some(text) => Ok(vec![Reference::parse(text)?]),
        None => Err(Error::malformed("archive", NAMELESS)),
    }
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: &str,
    size: u64,
    from: &mut impl Read,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, path, from)
}

fn in_archive(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn compression(part: &Part) -> Result<&'static str, Error> {
    let mut magic = [0u8; 4];
    let mut file = File::open(&part.path).map_err(|e| Error::io("open", &part.path, e))?;
    let n = file.read(&mut magic).map_err(|e| Error::io("read", &part.path, e))?;
    let _ = file.seek(SeekFrom::Start(0)); // the descriptor is dropped anyway
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
        _ => "",
    })
}

fn normal(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out.join("/")
}

fn read_json<T: serde::de::DeserializeOwned>(part: &Part) -> Result<T, Error> {
    if part.size > MAX_DOCUMENT {
        return Err(Error::malformed(&part.digest, "document too large"));
    }
    let bytes = fs::read(&part.path).map_err(|e| Error::io("read", &part.path, e))?;
    check(&part.digest, &part.digest, digest_of(&bytes))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::malformed(&part.digest, e))
}

impl Extracted {
    fn find(&self, path: &str) -> Option<&Part> {
        let mut path = normal(path);
        for _ in 0..8 {
            if let Some(part) = self.files.get(&path) {
                return Some(part);
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }

    fn file(&self, path: &str) -> Result<Part, Error> {
        self.find(path)
            .cloned()
            .ok_or_else(|| Error::malformed("archive", format!("{path} is missing")))
    }

    fn blob(&self, digest: &str) -> Result<Part, Error> {
        let part = self.file(&in_archive(digest))?;
        check(digest, digest, part.digest.clone())?;
        Ok(part)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        read_json(&self.file(path)?)
    }
}
