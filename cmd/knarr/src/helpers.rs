//! The static helpers inside this program, and their copies in the run folder.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const RUNC: &[u8] = include_bytes!(env!("KNARR_RUNC"));
const SHIM: &[u8] = include_bytes!(env!("KNARR_SHIM"));
/// The pause program; also the one file of the demo image.
pub const PAUSE: &[u8] = include_bytes!(env!("KNARR_PAUSE"));

/// Where the helpers are.
#[derive(Clone, Debug)]
pub struct Helpers {
    /// `knarr-runc`.
    pub runc: PathBuf,
    /// `knarr-shim`.
    pub shim: PathBuf,
    /// `knarr-pause`.
    pub pause: PathBuf,
}

/// Writes the helpers into `dir` unless they are there already.
///
/// # Errors
/// If the folder or a file cannot be written.
pub fn install(dir: &Path) -> Result<Helpers> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let put = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|old| old == content) {
            return Ok(path);
        }
        // A shim of an older version may be running: the name moves to a new file.
        let temporary = dir.join(format!(".{name}.new"));
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o755)
            .open(&temporary)
            .with_context(|| format!("cannot write {}", temporary.display()))?;
        file.write_all(content)
            .with_context(|| format!("cannot write {}", temporary.display()))?;
        drop(file);
        fs::rename(&temporary, &path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    Ok(Helpers {
        runc: put("knarr-runc", RUNC)?,
        shim: put("knarr-shim", SHIM)?,
        pause: put("knarr-pause", PAUSE)?,
    })
}
