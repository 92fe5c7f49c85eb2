//! A large image in a registry on this machine.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

const ADDRESS: &str = "127.0.0.1:5057";
const LAYERS: u64 = 10;
/// Bytes of one file; a layer has five of them.
const FILE: usize = 10 << 20;

/// A running registry with the image; gone when dropped.
pub(super) struct Registry {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
        let at = folder.path();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}/registry}}}}\nhttp: {{addr: {ADDRESS}}}\n",
            at.display()
        );
        fs::write(at.join("config.yml"), config)?;
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(at.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry { process: registry.spawn()?, _folder: folder };
        let begin = Instant::now();
        while std::net::TcpStream::connect(ADDRESS).is_err() {
            ensure!(begin.elapsed() < Duration::from_secs(10), "the registry does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        let layout = registry._folder.path().join("layout");
        write_layout(&layout)?;
        let mut push = Command::new("skopeo");
        push.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        push.arg(format!("oci:{}:v1", layout.display())).arg(format!("docker://{}", registry.reference()));
        knarr_e2e::run(&mut push)?;
        fs::remove_dir_all(&layout)?;
        Ok(registry)
    }

    pub(super) fn reference(&self) -> String {
        format!("{ADDRESS}/bench:v1")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn blob(layout: &Path, kind: &str, bytes: &[u8]) -> Result<serde_json::Value> {
    let hash = digest(bytes);
    fs::write(layout.join("blobs/sha256").join(&hash), bytes)?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": bytes.len()}))
}

/// An OCI layout: half of every file is noise, half is the same line again and again, as programs
/// and texts are in between.
fn write_layout(layout: &Path) -> Result<()> {
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
    let (mut layers, mut plain) = (Vec::new(), Vec::new());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for layer in 0..LAYERS {
        let mut tar = tar::Builder::new(Vec::new());
        for file in 0..5 {
            let mut content = Vec::with_capacity(FILE);
            while content.len() < FILE / 2 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                content.extend_from_slice(&seed.to_le_bytes());
            }
            while content.len() < FILE {
                content.extend_from_slice(b"the quick brown fox jumps over the lazy dog\n");
            }
            content.truncate(FILE);
            let mut header = tar::Header::new_gnu();
            header.set_size(FILE as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            tar.append_data(&mut header, format!("data/{layer}-{file}"), content.as_slice())?;
        }
        let bytes = tar.into_inner()?;
        plain.push(format!("sha256:{}", digest(&bytes)));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes)?;
        layers.push(blob(layout, "application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish()?)?);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": plain}});
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers});
    let mut manifest = blob(layout, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
    Ok(())
}
