//! Image archives for the tests, made of what is on this machine.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The reference of the busybox image.
pub const BUSYBOX: &str = "localhost/busybox:test";

/// Writes a Docker archive with the static busybox of this machine, all applets linked.
///
/// # Errors
/// If there is no busybox, or the file cannot be written.
pub fn busybox(archive: &Path) -> Result<()> {
    let path = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .context("busybox-static is not installed: run hack/setup")?;
    let applets = crate::run(std::process::Command::new(path).arg("--list"))?;
    let mut layer = tar::Builder::new(Vec::new());
    for (dir, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)] {
        entry(&mut layer, dir, tar::EntryType::Directory, mode, None, &[])?;
    }
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    entry(&mut layer, "bin/busybox", tar::EntryType::Regular, 0o755, None, &content)?;
    for applet in applets.lines().filter(|a| *a != "busybox") {
        let name = format!("bin/{applet}");
        entry(&mut layer, &name, tar::EntryType::Symlink, 0o777, Some("busybox"), &[])?;
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    entry(&mut layer, "etc/passwd", tar::EntryType::Regular, 0o644, None, passwd)?;
    entry(&mut layer, "etc/group", tar::EntryType::Regular, 0o644, None, b"root:x:0:\n")?;
    let layer = layer.into_inner()?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    docker_archive(archive, BUSYBOX, &config.to_string(), &layer)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn docker_archive(archive: &Path, name: &str, config: &str, layer: &[u8]) -> Result<()> {
    let config_name = format!("{}.json", digest(config.as_bytes()).trim_start_matches("sha256:"));
    let manifest =
        json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer/layer.tar"]}]);
    let mut out = tar::Builder::new(File::create(archive)?);
    let file = tar::EntryType::Regular;
    entry(&mut out, &config_name, file, 0o644, None, config.as_bytes())?;
    entry(&mut out, "layer/layer.tar", file, 0o644, None, layer)?;
    entry(&mut out, "manifest.json", file, 0o644, None, manifest.to_string().as_bytes())?;
    out.into_inner()?.flush()?;
    Ok(())
}

fn entry<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    link: Option<&str>,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    match link {
        Some(target) => tar.append_link(&mut header, name, target)?,
        None => tar.append_data(&mut header, name, content)?,
    }
    Ok(())
}
