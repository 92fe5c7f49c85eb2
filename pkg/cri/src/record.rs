//! What is kept on disk of sandboxes and containers: one file each, in the run folder, replaced
//! as a whole. A folder without its record is a leftover and is cleaned away.

use std::fs;
use std::path::Path;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::spec::user::Identity;

/// Raised when a record's meaning changes.
const VERSION: u32 = 1;

/// `sandbox.json`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub version: u32,
    pub id: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub handler: String,
    pub hostname: String,
    pub cgroup_parent: String,
    pub pause_pid: i32,
    /// The pause process's start, in clock ticks since boot: tells it from a later process.
    pub pause_start: u64,
    pub ips: Vec<String>,
    pub stopped: bool,
    /// The request's configuration, in CRI's encoding.
    #[serde(with = "hex")]
    pub config: Vec<u8>,
}

/// `container.json`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub version: u32,
    pub id: String,
    pub sandbox: String,
    pub created_at: i64,
    /// The image's configuration digest.
    pub image_id: String,
    /// The image's name with its digest, or its id.
    pub image_ref: String,
    /// The image's name as people know it.
    pub image_name: String,
    pub identity: Identity,
    pub stop_signal: i32,
    pub log_path: Option<String>,
    /// Why it could not be started, if it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    #[serde(with = "hex")]
    pub config: Vec<u8>,
}

/// Bytes in JSON.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Write;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for b in bytes {
            let _ = write!(text, "{b:02x}"); // writing to a String cannot fail
        }
        s.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        let bad = || D::Error::custom("not hexadecimal");
        if text.len() % 2 != 0 || !text.is_ascii() {
            return Err(bad());
        }
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| bad()))
            .collect()
    }
}

/// Of both kinds of record.
pub(crate) trait Record: Serialize + for<'de> Deserialize<'de> {
    const FILE: &'static str;
    type Config: Message + Default;
    fn version(&self) -> u32;
    fn config_bytes(&self) -> &[u8];

    /// Replaces the record of a folder.
    fn save(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(Self::FILE);
        let temp = path.with_extension("new");
        let bytes = serde_json::to_vec(self).map_err(|e| Error::Record {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        fs::write(&temp, bytes)
            .and_then(|()| fs::rename(&temp, &path))
            .map_err(Error::io("write", &path))
    }

    /// Reads the record of a folder; `None` for a leftover.
    fn load(dir: &Path) -> Result<Option<(Self, Self::Config)>, Error> {
        let path = dir.join(Self::FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let bad = |reason: String| Error::Record {
            path: path.clone(),
            reason,
        };
        let record: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if record.version() > VERSION {
            return Err(bad(format!(
                "version {} is newer than this program",
                record.version()
            )));
        }
        let config = Self::Config::decode(record.config_bytes()).map_err(|e| bad(e.to_string()))?;
        Ok(Some((record, config)))
    }

    /// Takes the record away: from now on the folder is a leftover. No error if it is gone.
    fn forget(dir: &Path) -> Result<(), Error> {
        let path = dir.join(Self::FILE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(e))
            }
            _ => Ok(()),
        }
    }
}

impl Record for SandboxRecord {
    const FILE: &'static str = "sandbox.json";
    type Config = knarr_cri_api::v1::PodSandboxConfig;
    fn version(&self) -> u32 {
        self.version
    }
    fn config_bytes(&self) -> &[u8] {
        &self.config
    }
}

impl Record for ContainerRecord {
    const FILE: &'static str = "container.json";
    type Config = knarr_cri_api::v1::ContainerConfig;
    fn version(&self) -> u32 {
        self.version
    }
    fn config_bytes(&self) -> &[u8] {
        &self.config
    }
}

/// The version that is written.
pub(crate) const fn version() -> u32 {
    VERSION
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

/// A new id: 64 hexadecimal digits.
pub(crate) fn new_id() -> String {
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    format!("{}{}", a.simple(), b.simple())
}
