//! Controllers and scheduler beside any API server, by kubeconfig: for trying them against
//! upstream's server. `cargo run -p knarr-controllers --example standalone`

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let client = kube::Client::try_default().await?;
    let cancel = CancellationToken::new();
    let informers = knarr_runner::Informers::with_cancel(client.clone(), cancel.clone());
    let controllers = knarr_controllers::Config {
        cluster_ca_pem: "test\n".into(),
        cluster_cidrs: vec!["10.244.0.0/16".into()],
        informers: Some(informers.clone()),
        ..Default::default()
    };
    let scheduler =
        knarr_scheduler::Config { informers: Some(informers.clone()), ..Default::default() };
    if std::env::var_os("FAKE_KUBELET").is_some() {
        tokio::spawn(fake_kubelet(informers.clone()));
    }
    let stop = cancel.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    tokio::join!(
        knarr_controllers::run(client.clone(), controllers, cancel.clone()),
        knarr_scheduler::run(client, scheduler, cancel),
    );
    Ok(())
}

/// Says that bound pods run, and lets deleted ones go.
async fn fake_kubelet(i: knarr_runner::Informers) {
    use k8s_openapi::api::core::v1::Pod;
    use knarr_runner::meta;
    let mut events = i.get::<Pod>().subscribe();
    let mut next_ip = 1u32;
    while let Some(e) = events.next().await {
        let p = e.object().clone();
        let bound = p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        if matches!(e, knarr_runner::Event::Deleted(_)) || !bound {
            continue;
        }
        let phase = p.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        let i = i.clone();
        if meta::deleting(&p.metadata) {
            tokio::spawn(async move { i.delete(p.as_ref(), None, Some(0)).await.map(drop) });
        } else if phase == "Pending" {
            next_ip += 1;
            let now = meta::time(meta::now());
            let ends = p.metadata.annotations.as_ref().and_then(|a| a.get("exit")).cloned();
            let (phase, ready) = match ends.as_deref() {
                None => ("Running", "True"),
                Some("0") => ("Succeeded", "False"),
                Some(_) => ("Failed", "False"),
            };
            let ip = format!("10.244.{}.{}", next_ip / 250, next_ip % 250);
            let patch = kube::api::Patch::Strategic(serde_json::json!({"status": {
                "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
                "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": now}]}}));
            tokio::spawn(async move {
                let m = &p.metadata;
                i.patch::<Pod, _>(meta::ns(m), meta::name(m), "status", &patch).await.map(drop)
            });
        }
    }
}
