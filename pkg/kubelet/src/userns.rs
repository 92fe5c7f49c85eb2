//! The user namespaces of pods: each pod that does not use the host's users has a range of ids of
//! its own, written into the pod's folder and free again when that folder goes.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use k8s_openapi::api::core::v1::Pod;
use knarr_cri_api::v1;
use serde::{Deserialize, Serialize};

use crate::{config::Config, cri::Cri, spec};

/// Ids of one pod. The first range is the host's own and is never given away.
pub const IDS_PER_POD: u32 = 65536;
/// How many ranges there are in all of the 32-bit numbers.
const RANGES: u32 = u32::MAX / IDS_PER_POD;
/// The file in a pod's folder, in upstream's form.
const FILE: &str = "userns";

/// One range, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// What is kept of a pod.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    uid_mappings: Vec<Range>,
    gid_mappings: Vec<Range>,
}

impl Kept {
    fn new(first: u32) -> Self {
        let all = vec![Range {
            host_id: first,
            container_id: 0,
            length: IDS_PER_POD,
        }];
        Kept {
            uid_mappings: all.clone(),
            gid_mappings: all,
        }
    }

    /// The first id on the host.
    fn first(&self) -> Result<u32, String> {
        match (self.uid_mappings.as_slice(), self.gid_mappings.as_slice()) {
            ([uids], [gids]) if uids != gids => {
                Err("GID and UID mapping should be identical".to_owned())
            }
            ([uids], [_]) if uids.container_id != 0 => Err("UID 0 must be mapped".to_owned()),
            ([uids], [_])
                if uids.length != IDS_PER_POD
                    || uids.host_id % IDS_PER_POD != 0
                    || uids.host_id == 0 =>
            {
                Err(format!("wrong range {}+{}", uids.host_id, uids.length))
            }
            ([uids], [_]) => Ok(uids.host_id),
            _ => Err("no more than one mapping allowed".to_owned()),
        }
    }
}

/// The ranges of all pods below one folder.
#[derive(Debug)]
pub struct UserNamespaces {
    pods: PathBuf,
    /// One at a time looks for a free range and takes it.
    choosing: Mutex<()>,
}

impl UserNamespaces {
    /// Those of the pods of a kubelet.
    pub fn new(cfg: &Config) -> Self {
        UserNamespaces {
            pods: cfg.pods_dir(),
            choosing: Mutex::default(),
        }
    }

    fn kept(&self, uid: &str) -> Result<Option<u32>, String> {
        let bytes = match fs::read(self.pods.join(uid).join(FILE)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("read user namespace mappings: {e}")),
        };
        let kept: Kept = serde_json::from_slice(&bytes)
            .map_err(|e| format!("invalid user namespace mappings file: {e}"))?;
        kept.first()
            .map(Some)
            .map_err(|e| format!("invalid user namespace configuration: {e}"))
    }

    /// The first id on the host of a pod's range, which it keeps.
    ///
    /// # Errors
    /// When what is kept is broken, cannot be kept, or no range is free.
    pub fn range(&self, uid: &str) -> Result<u32, String> {
        let _one = self
            .choosing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(first) = self.kept(uid)? {
            return Ok(first);
        }
        let mut used = BTreeSet::new();
        for pod in fs::read_dir(&self.pods).into_iter().flatten().flatten() {
            let name = pod.file_name().to_string_lossy().into_owned();
            // What a broken file stands for may be any range.
            used.extend(self.kept(&name).map_err(|e| format!("pod {name:?}: {e}"))?);
        }
        let free = (1..=RANGES)
            .map(|n| n * IDS_PER_POD)
            .find(|first| !used.contains(first));
        let first = free.ok_or("could not find an empty slot to allocate a user namespace")?;
        let dir = self.pods.join(uid);
        keep(&dir, &Kept::new(first))
            .map_err(|e| format!("write user namespace mappings in {}: {e}", dir.display()))?;
        Ok(first)
    }

    /// What a pod asks of the runtime.
    ///
    /// # Errors
    /// Those of [`UserNamespaces::range`].
    pub fn of(&self, pod: &Pod) -> Result<v1::UserNamespace, String> {
        if spec::host_users(pod) {
            return Ok(v1::UserNamespace {
                mode: v1::NamespaceMode::Node as i32,
                ..Default::default()
            });
        }
        let host_id = self.range(spec::uid(pod))?;
        let all = vec![v1::IdMapping {
            host_id,
            container_id: 0,
            length: IDS_PER_POD,
        }];
        Ok(v1::UserNamespace {
            mode: v1::NamespaceMode::Pod as i32,
            uids: all.clone(),
            gids: all,
        })
    }
}

/// On disk before it is used: a range that two pods have is no wall between them.
fn keep(dir: &Path, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let temp = dir.join(".userns.new");
    let mut file = File::create(&temp)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(temp, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

/// Whether the runtime can do what the pod asks for.
///
/// # Errors
/// When it cannot, in upstream's words.
pub async fn check_support(cri: &Cri, pod: &Pod, handler: &str) -> Result<(), String> {
    if spec::host_users(pod) {
        return Ok(());
    }
    let status = cri.status(v1::StatusRequest { verbose: false }).await;
    let status = status.map_err(|e| format!("container runtime is down: {}", e.message()))?;
    let able = status
        .runtime_handlers
        .iter()
        .any(|h| h.name == handler && h.features.as_ref().is_some_and(|f| f.user_namespaces));
    match (able, handler) {
        (true, _) => Ok(()),
        (false, "") => Err(
            "can't set `spec.hostUsers: false`, runtime does not support user namespaces".into(),
        ),
        (false, name) => Err(format!(
            "can't set `spec.hostUsers: false`, RuntimeClass handler \"{name}\" does not support user namespaces"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_distinct_kept_and_freed() {
        let dir = tempfile::tempdir().unwrap();
        let mut cfg = Config::new("n", [127, 0, 0, 1].into());
        cfg.data_dir = dir.path().to_path_buf();
        let all = UserNamespaces::new(&cfg);
        assert_eq!(all.range("a").unwrap(), 65536);
        assert_eq!(all.range("b").unwrap(), 131_072);
        assert_eq!(all.range("a").unwrap(), 65536, "the same again");
        // As another kubelet wrote it.
        let text = fs::read_to_string(cfg.pod_dir("a").join("userns")).unwrap();
        let range = r#"[{"hostId":65536,"containerId":0,"length":65536}]"#;
        assert_eq!(
            text,
            format!(r#"{{"uidMappings":{range},"gidMappings":{range}}}"#)
        );
        // After a restart.
        let again = UserNamespaces::new(&cfg);
        assert_eq!(again.range("c").unwrap(), 196_608);
        fs::remove_dir_all(cfg.pod_dir("a")).unwrap();
        assert_eq!(
            again.range("d").unwrap(),
            65536,
            "free again with the pod's folder"
        );
        // Behind a broken file there may be any range: none is given away.
        fs::write(
            cfg.pod_dir("b").join("userns"),
            r#"{"uidMappings":[],"gidMappings":[]}"#,
        )
        .unwrap();
        let error = again.range("b").unwrap_err();
        assert_eq!(
            error,
            "invalid user namespace configuration: no more than one mapping allowed"
        );
        assert_eq!(again.range("e").unwrap_err(), format!("pod \"b\": {error}"));
    }
}
