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
    fn id(&self) -> &str;
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

    /// Reads the record of a folder; `None` for a leftover. One that cannot be understood is a
    /// leftover too: what it stood for cannot be served, and must not keep the rest from it.
    fn load(dir: &Path) -> Result<Option<(Self, Self::Config)>, Error> {
        let path = dir.join(Self::FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        // A newer version may have any shape beside its number.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if let Ok(Version { version }) = serde_json::from_slice(&bytes)
            && version > VERSION
        {
            return Err(Error::Newer { path, version });
        }
        match Self::parse(&bytes, dir) {
            Ok(found) => Ok(Some(found)),
            Err(reason) => {
                tracing::error!(path = %path.display(), reason, "a record is broken");
                Ok(None)
            }
        }
    }

    fn parse(bytes: &[u8], dir: &Path) -> Result<(Self, Self::Config), String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if dir.file_name().and_then(|n| n.to_str()) != Some(record.id()) {
            return Err(format!("it is of {:?}", record.id()));
        }
        let config = Self::Config::decode(record.config_bytes()).map_err(|e| e.to_string())?;
        Ok((record, config))
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
    fn id(&self) -> &str {
        &self.id
    }
    fn config_bytes(&self) -> &[u8] {
        &self.config
    }
}

impl Record for ContainerRecord {
    const FILE: &'static str = "container.json";
    type Config = knarr_cri_api::v1::ContainerConfig;
    fn id(&self) -> &str {
        &self.id
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> SandboxRecord {
        let config = knarr_cri_api::v1::PodSandboxConfig {
            hostname: "h".to_owned(),
            ..Default::default()
        };
        SandboxRecord {
            version: version(),
            id: id.to_owned(),
            created_at: 7,
            handler: String::new(),
            hostname: "h".to_owned(),
            cgroup_parent: "/c".to_owned(),
            pause_pid: 1,
            pause_start: 2,
            ips: vec!["10.0.0.1".to_owned()],
            stopped: false,
            config: config.encode_to_vec(),
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_a_leftover() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("box");
        fs::create_dir(&dir).unwrap();
        let (path, good) = (dir.join(SandboxRecord::FILE), record("box"));
        good.save(&dir).unwrap();
        let (same, config) = SandboxRecord::load(&dir).unwrap().unwrap();
        assert_eq!(
            (same.ips, config.hostname.as_str()),
            (good.ips.clone(), "h")
        );
        let sound = fs::read(&path).unwrap();
        // xorshift: the same changes every time.
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut dice = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit.max(1) as u64) as usize
        };
        let mut kept = 0;
        for _ in 0..4000 {
            let mut bytes = sound.clone();
            for _ in 0..=dice(3) {
                let at = dice(bytes.len());
                match dice(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, dice(256) as u8),
                    _ if at < bytes.len() => bytes[at] ^= 1 << dice(8),
                    _ => {}
                }
            }
            fs::write(&path, &bytes).unwrap();
            match SandboxRecord::load(&dir) {
                // Whatever changed, it is never taken for another sandbox's.
                Ok(Some((record, _))) => {
                    assert_eq!(record.id, "box");
                    kept += 1;
                }
                Ok(None) => {}
                Err(e) => assert!(matches!(e, Error::Newer { .. }), "{e}"),
            }
        }
        assert!(kept > 0 && kept < 4000, "{kept}: the changes are of no use");
        fs::write(&path, serde_json::to_vec(&record("../other")).unwrap()).unwrap();
        assert!(SandboxRecord::load(&dir).unwrap().is_none());
        fs::write(&path, b"{\"version\":2,\"other\":[]}").unwrap();
        let error = SandboxRecord::load(&dir).unwrap_err().to_string();
        assert!(
            error.ends_with("version 2 is newer than this program"),
            "{error}"
        );
    }
}
