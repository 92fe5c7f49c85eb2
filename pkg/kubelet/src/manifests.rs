//! Static pods: manifests in a folder, watched by inotify.
use std::{collections::BTreeMap, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, Toleration};
use nix::sys::inotify::AddWatchFlags;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{config::Error, inotify::Watch, spec};

/// The pods of the folder by uid. Files that are no pods are skipped with a warning.
pub fn read(dir: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut out = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return out;
    };
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with('.') || name.ends_with('~') || !path.is_file() {
            continue;
        }
        let text = match std::fs::read_to_string(&path) {
            Ok(t) if t.trim().is_empty() => continue,
            Ok(t) => t,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "reading a manifest");
                continue;
            }
        };
        match pods(&text, &path, node) {
            Ok(pods) => {
                for p in pods {
                    out.insert(spec::uid(&p).to_owned(), Arc::new(p));
                }
            }
            Err(error) => {
                tracing::warn!(error, path = %path.display(), "a manifest is no pod");
            }
        }
    }
    out
}

/// The pods of one file.
fn pods(text: &str, path: &Path, node: &str) -> Result<Vec<Pod>, String> {
    let mut out = Vec::new();
    for doc in serde_yaml_ng::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(doc).map_err(|e| e.to_string())?;
        match value.get("kind").and_then(|k| k.as_str()) {
            None if value.is_null() => continue,
            Some("PodList") => {
                for item in value.get("items").and_then(|i| i.as_array()).into_iter().flatten() {
                    out.push(one(item.clone(), path, node)?);
                }
            }
            Some("Pod") => out.push(one(value, path, node)?),
            other => return Err(format!("kind is {}", other.unwrap_or("missing"))),
        }
    }
    Ok(out)
}

fn one(value: serde_json::Value, path: &Path, node: &str) -> Result<Pod, String> {
    let text = value.to_string();
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let name = pod
        .metadata
        .name
        .clone()
        .filter(|n| !n.is_empty())
        .ok_or("metadata.name is required")?;
    if spec::mains(&pod).is_empty() {
        return Err("spec.containers is required".into());
    }
    let uid = pod.metadata.uid.clone().filter(|u| !u.is_empty()).unwrap_or_else(|| {
        let mut h = Sha256::new();
        h.update(node.as_bytes());
        h.update(path.as_os_str().as_encoded_bytes());
        h.update(text.as_bytes());
        h.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    });
    let m = &mut pod.metadata;
    m.name = Some(format!("{name}-{}", node.to_lowercase()));
    m.namespace.get_or_insert_with(|| "default".into());
    let notes = m.annotations.get_or_insert_default();
    notes.insert(spec::CONFIG_SOURCE.into(), "file".into());
    notes.insert(spec::CONFIG_HASH.into(), uid.clone());
    notes.insert(
        "kubernetes.io/config.seen".into(),
        jiff::Timestamp::now().to_string(),
    );
    m.uid = Some(uid);
    if let Some(s) = &mut pod.spec {
        s.node_name = Some(node.into());
        defaults(s);
    }
    Ok(pod)
}

/// Defaults that the API server would have set.
fn defaults(s: &mut k8s_openapi::api::core::v1::PodSpec) {
    s.restart_policy.get_or_insert_with(|| "Always".into());
    s.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    s.termination_grace_period_seconds.get_or_insert(30);
    s.enable_service_links.get_or_insert(true);
    s.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    s.security_context.get_or_insert_default();
    s.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    let all = s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten());
    for c in all {
        c.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
        c.termination_message_policy.get_or_insert_with(|| "File".into());
        for p in c.ports.iter_mut().flatten() {
            p.protocol.get_or_insert_with(|| "TCP".into());
            if s.host_network == Some(true) {
                p.host_port.get_or_insert(p.container_port);
            }
        }
    }
}

/// Sends the pods of the folder now and whenever a file changes.
///
/// # Errors
/// When the folder cannot be made or watched.
pub async fn follow(
    dir: &Path,
    node: &str,
    tx: mpsc::UnboundedSender<BTreeMap<String, Arc<Pod>>>,
) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let watch = Watch::new().map_err(Error::io(dir))?;
    watch
        .add(
            dir,
            AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_DELETE,
        )
        .map_err(Error::io(dir))?;
    let mut last = None;
    loop {
        let pods = read(dir, node);
        let uids: Vec<String> = pods.keys().cloned().collect();
        if last.as_ref() != Some(&uids) {
            last = Some(uids);
            if tx.send(pods).is_err() {
                return Ok(());
            }
        }
        watch.next().await.map_err(Error::io(dir))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: i}]\n";

    #[test]
    fn a_manifest_becomes_a_named_pod() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("web.yaml"), POD).expect("written");
        std::fs::write(dir.path().join(".hidden.yaml"), POD).expect("written");
        std::fs::write(dir.path().join("bad.yaml"), "kind: [").expect("written");
        let pods = read(dir.path(), "Node1");
        assert_eq!(pods.len(), 1);
        let (uid, pod) = pods.first_key_value().expect("a pod");
        assert_eq!(spec::name(pod), "web-node1");
        assert_eq!(uid.len(), 32);
        assert!(spec::is_static(pod));
        std::fs::write(dir.path().join("web.yaml"), POD.replace("image: i", "image: j")).expect("written");
        assert_ne!(read(dir.path(), "Node1").keys().next(), Some(uid));
    }

    #[tokio::test]
    async fn changes_are_seen_as_they_happen() {
        let dir = tempfile::tempdir().expect("a folder");
        let (tx, mut rx) = mpsc::unbounded_channel();
        let path = dir.path().to_path_buf();
        tokio::spawn(async move { follow(&path, "n", tx).await });
        assert!(rx.recv().await.expect("at once").is_empty());
        std::fs::write(dir.path().join("web.yaml"), POD).expect("written");
        assert_eq!(rx.recv().await.expect("the pod").len(), 1);
        std::fs::remove_file(dir.path().join("web.yaml")).expect("removed");
        assert!(rx.recv().await.expect("none").is_empty());
    }
}
