//! Settings of the kernel that we change for the whole host, and what they were before.

use crate::Error;
use crate::lease::io;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) struct Ledger {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Ledger {
    pub fn open(path: PathBuf) -> Self {
        let before = std::fs::read(&path)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        Self { path, before }
    }

    /// Sets a host-wide value; the first change is recorded before it is made.
    pub fn set(&mut self, file: &Path, value: &str) -> Result<(), Error> {
        let now = std::fs::read_to_string(file).map_err(io("read", file))?;
        let now = now.trim();
        if now == value {
            return Ok(());
        }
        self.note(file)?;
        std::fs::write(file, value).map_err(io("write", file))
    }

    /// Records a host-wide value that is about to change along with another.
    pub fn note(&mut self, file: &Path) -> Result<(), Error> {
        if self.before.contains_key(file) {
            return Ok(());
        }
        let now = std::fs::read_to_string(file).map_err(io("read", file))?;
        self.before.insert(file.to_owned(), now.trim().to_owned());
        let bytes = serde_json::to_vec_pretty(&self.before)
            .map_err(|e| io("encode ledger", &self.path)(std::io::Error::other(e)))?;
        let tmp = self.path.with_extension("tmp");
        std::fs::write(&tmp, bytes).map_err(io("write", &tmp))?;
        std::fs::rename(&tmp, &self.path).map_err(io("write", &self.path))
    }

    /// Puts every value back: `ip_forward`, which moves others, before those below `conf`.
    pub fn restore(&self) -> Result<(), Error> {
        for (file, value) in self.before.iter().rev() {
            match std::fs::write(file, value) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("write", file)(e));
                }
                _ => {}
            }
        }
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(io("remove", &self.path)(e))
            }
            _ => Ok(()),
        }
    }
}
