//! Checkpoints of running containers (Kubernetes' kubelet checkpoint API).

use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{Answer, Query, Refusal, State, json};

impl State {
    /// Writes a checkpoint of a running container below the kubelet's folder and names the file.
    pub(super) async fn checkpoint(
        &self,
        ns: &str,
        pod: &str,
        container: &str,
        q: &Query,
    ) -> Result<Answer, Refusal> {
        let id = self.running(ns, pod, container).await?;
        let timeout = match q.get("timeout").filter(|t| !t.is_empty()) {
            Some(text) => text.parse::<i64>().map_err(|_| {
                Refusal::internal(format!("cannot parse value of timeout parameter: {text:?}"))
            })?,
            None => 0,
        };
        let folder = self.sh.cfg.data_dir.join("kubelet/checkpoints");
        let made = std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&folder);
        made.map_err(|e| Refusal::internal(format!("create {}: {e}", folder.display())))?;
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let path = folder.join(format!("checkpoint-{pod}_{ns}-{container}-{time}.tar"));
        let location = path.display().to_string();
        let failed = |why: &str| format!("checkpointing of {ns}/{pod}/{container} failed ({why})");
        let limit = u64::try_from(timeout)
            .ok()
            .filter(|s| *s > 0)
            .map(Duration::from_secs);
        match self
            .sh
            .cri
            .checkpoint_container(&id, &location, timeout, limit)
            .await
        {
            Ok(_) => json(&json!({ "items": [location] })),
            Err(e) if e.code() == tonic::Code::Unimplemented => {
                Err(Refusal::not_found(failed(e.message())))
            }
            Err(e) => Err(Refusal::internal(failed(e.message()))),
        }
    }
}
