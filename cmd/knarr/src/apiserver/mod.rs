//! `knarr apiserver`: the API server alone, with kube-apiserver's flags.

mod audit;
mod flags;
mod setup;
pub mod stand_in;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::{layout::Layout, log_to, say};

pub use flags::Options;

/// How often configurations are looked at that nobody has told to have changed.
const LOOK: Duration = Duration::from_secs(60);

/// Serves until it is told to stop.
///
/// # Errors
/// If it cannot start; one line that names the flag.
pub fn run(layout: &Layout, options: &Options, log: &str) -> Result<()> {
    let level = match options.v {
        None => log,
        Some(0) => "warn",
        Some(1..=3) => "info",
        Some(_) => "debug",
    };
    log_to(level, None)?;
    for name in &options.idle.0 {
        tracing::info!("--{name} changes nothing");
    }
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 8);
    let runtime = crate::lasting_runtime(workers)?;
    let result = runtime.block_on(serve(layout, options));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn serve(layout: &Layout, options: &Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let config = setup::config(layout, options).await?;
    let start = knarr_apiserver::ApiServer::start(config);
    let api = tokio::select! {
        api = start => api.context("the API server cannot start")?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    if let Some(path) = &options.authentication_config {
        api.follow_authentication(path.clone(), LOOK);
    }
    if let Some(path) = &options.authorization_config {
        api.follow_authorization(path.clone(), LOOK);
    }
    say(&format!(
        "the API server serves at https://{}",
        api.address()
    ));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    api.shutdown().await;
    Ok(())
}
