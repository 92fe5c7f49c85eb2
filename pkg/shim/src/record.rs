//! The exit record: the one thing that must survive everything.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

const FILE: &str = "exit.json";

/// How and when a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The container.
    pub id: String,
    /// The exit code; 128 + the signal's number when a signal killed it; 255 when it ended
    /// while no shim was there to see it (then `lost` is set).
    pub exit_code: i32,
    /// The signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// When the program was started, in nanoseconds since 1970; 0 when it never was.
    pub started_at: i64,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at: i64,
    /// The true exit status is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// Reads a container's exit record. None as long as there is none.
pub fn read_exit(dir: &Path) -> Result<Option<ExitRecord>, Error> {
    read_json(&dir.join(FILE), "exit record")
}

/// Writes the record so that it is there wholly or not at all, also after a power cut.
pub(crate) fn write_exit(dir: &Path, record: &ExitRecord) -> Result<(), Error> {
    write_json(&dir.join(FILE), record, true)
}

/// Reads a JSON file. None when there is no such file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Json { what, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Replaces a JSON file in one step; `durable` waits until it is on the disk.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, durable: bool) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Json {
        what: "encode",
        source,
    })?;
    let temporary = path.with_extension("json.tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable && let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(Error::io("write", path))
}
