//! What an OCI runtime can do, as it says itself (`features`, OCI runtime specification).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use knarr_cri_api::v1::RuntimeHandlerFeatures;
use serde::Deserialize;
use tokio::sync::Mutex;

/// A program that does not answer by then is as one that says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What runtimes have said.
#[derive(Debug, Default)]
pub(crate) struct Features(Mutex<BTreeMap<PathBuf, RuntimeHandlerFeatures>>);

/// The parts of the document that CRI tells of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    mount_options: Vec<String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Idmap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Idmap {
    enabled: Option<bool>,
}

impl Features {
    /// What the runtime of this path says; nothing of one that does not know the question, which is
    /// asked again the next time.
    pub(crate) async fn of(&self, program: &Path) -> RuntimeHandlerFeatures {
        let mut known = self.0.lock().await;
        if let Some(found) = known.get(program) {
            return *found;
        }
        let asked = tokio::process::Command::new(program)
            .arg("features")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let said = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(output)) if output.status.success() => output.stdout,
            _ => return RuntimeHandlerFeatures::default(),
        };
        match parse(&said) {
            Ok(features) => {
                known.insert(program.to_owned(), features);
                features
            }
            Err(e) => {
                tracing::debug!(program = %program.display(), error = %e, "features are not understood");
                RuntimeHandlerFeatures::default()
            }
        }
    }
}

fn parse(said: &[u8]) -> Result<RuntimeHandlerFeatures, serde_json::Error> {
    let document: Document = serde_json::from_slice(said)?;
    Ok(RuntimeHandlerFeatures {
        recursive_read_only_mounts: document.mount_options.iter().any(|o| o == "rro"),
        // A pod's volumes and images are mapped where they are mounted.
        user_namespaces: document.linux.mount_extensions.idmap.enabled == Some(true)
            && crate::spec::userns::supported(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_there() {
        let nothing = RuntimeHandlerFeatures::default();
        assert_eq!(parse(b"{}").unwrap(), nothing);
        let read_only = parse(br#"{"mountOptions": ["ro", "rro"], "linux": {"mountExtensions": {}}}"#).unwrap();
        assert!(read_only.recursive_read_only_mounts && !read_only.user_namespaces);
        let mapped = br#"{"linux": {"namespaces": ["user"], "mountExtensions": {"idmap": {"enabled": true}}}}"#;
        assert_eq!(parse(mapped).unwrap().user_namespaces, crate::spec::userns::supported());
        assert!(parse(b"runc: no such command").is_err());
    }
}
