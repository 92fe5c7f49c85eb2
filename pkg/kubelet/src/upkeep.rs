//! Slow housekeeping: log rotation and image garbage collection.
use std::{sync::Arc, time::Duration};

use knarr_cri_api::v1;
use tokio::sync::watch;

use crate::{events::Kind, logs::rotate, manager::Table, spec, worker::Shared};

/// How often sizes are looked at while any pod runs.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks after logs while there are pods; sleeps wholly without.
pub async fn run(sh: Arc<Shared>, mut table: watch::Receiver<Table>) {
    loop {
        if table.borrow_and_update().is_empty() {
            if table.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(PERIOD).await;
        let pods: Vec<_> = table.borrow().values().map(|e| e.pod.clone()).collect();
        for pod in pods {
            let dir = sh
                .cfg
                .log_dir(spec::namespace(&pod), spec::name(&pod), spec::uid(&pod));
            rotate_pod(&sh, &pod, &dir).await;
        }
    }
}

async fn rotate_pod(sh: &Shared, pod: &k8s_openapi::api::core::v1::Pod, dir: &std::path::Path) {
    let names = spec::mains(pod)
        .iter()
        .chain(spec::inits(pod))
        .map(|c| c.name.as_str())
        .chain(spec::ephemerals(pod).iter().map(|c| c.name.as_str()));
    for name in names {
        let Ok(entries) = std::fs::read_dir(dir.join(name)) else {
            continue;
        };
        for e in entries.flatten() {
            let path = e.path();
            let current = path.extension().is_some_and(|x| x == "log");
            let large = e.metadata().is_ok_and(|m| m.len() > sh.cfg.log_max_size);
            if !current || !large {
                continue;
            }
            let Some(id) = running_id(sh, pod, name).await else {
                continue;
            };
            let done =
                rotate::check(&sh.cri, &id, &path, sh.cfg.log_max_size, sh.cfg.log_max_files).await;
            if let Err(error) = done {
                tracing::warn!(%error, path = %path.display(), "rotating a log");
            }
        }
    }
}

async fn running_id(
    sh: &Shared,
    pod: &k8s_openapi::api::core::v1::Pod,
    name: &str,
) -> Option<String> {
    let rt = sh.cri.observe(spec::uid(pod)).await.ok()?;
    rt.latest(name)
        .filter(|c| c.state == crate::model::CtrState::Running)
        .map(|c| c.id.clone())
}

/// How often the disk is looked at.
const DISK_PERIOD: Duration = Duration::from_secs(300);
/// By how many percent the disk is then less full.
const DISK_MARGIN: u64 = 5;

/// Removes images that no container uses when the disk is nearly full.
pub async fn images(sh: Arc<Shared>) {
    let high = u64::from(sh.cfg.image_gc_high_percent);
    if high >= 100 {
        return;
    }
    loop {
        tokio::time::sleep(DISK_PERIOD).await;
        let Some((used, total)) = disk(&sh) else {
            continue;
        };
        if used * 100 < total * high {
            continue;
        }
        let mut goal = used - total * high.saturating_sub(DISK_MARGIN) / 100;
        let wanted = goal;
        for (id, size) in unused_images(&sh).await {
            let req = v1::RemoveImageRequest {
                image: Some(v1::ImageSpec {
                    image: id,
                    ..Default::default()
                }),
            };
            if sh.cri.remove_image(req).await.is_ok() {
                sh.images_changed.notify_one();
                goal = goal.saturating_sub(size);
            }
            if goal == 0 {
                break;
            }
        }
        if goal > 0 {
            let text = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {} bytes eligible to free.",
                wanted - goal
            );
            sh.recorder.node(Kind::Warning, "FreeDiskSpaceFailed", text);
        }
    }
}

/// Used and all bytes of the disk with the images.
fn disk(sh: &Shared) -> Option<(u64, u64)> {
    let s = nix::sys::statvfs::statvfs(&sh.cfg.data_dir).ok()?;
    let all = s.blocks() * s.fragment_size();
    Some((all - s.blocks_available() * s.fragment_size(), all))
}

/// Images without a container and without a pin, largest first: identifier and size.
async fn unused_images(sh: &Shared) -> Vec<(String, u64)> {
    let (Ok(images), Ok(containers)) = tokio::join!(
        sh.cri.list_images(v1::ListImagesRequest { filter: None }),
        sh.cri.list_containers(v1::ListContainersRequest { filter: None }),
    ) else {
        return Vec::new();
    };
    let used = |i: &v1::Image| {
        containers.containers.iter().any(|c| {
            let named = c.image.as_ref().map(|s| s.image.as_str()).unwrap_or_default();
            [c.image_ref.as_str(), c.image_id.as_str(), named].iter().any(|r| {
                *r == i.id || i.repo_tags.iter().chain(&i.repo_digests).any(|n| n == r)
            })
        })
    };
    let mut out: Vec<_> = images
        .images
        .iter()
        .filter(|i| !i.pinned && !used(i))
        .map(|i| (i.id.clone(), i.size))
        .collect();
    out.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    out
}
