//! Slow housekeeping: log rotation and image garbage collection.
use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{logs::rotate, manager::Table, spec, worker::Shared};

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
