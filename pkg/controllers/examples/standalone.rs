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
        knarr_scheduler::Config { informers: Some(informers), ..Default::default() };
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
