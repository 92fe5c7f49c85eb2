//! `knarr trace pod NAME`: one pod through the nine layers, with what is true of it right now.
//!
//! Facts come from where they live: the API server, the kubelet's debug view, the CRI socket,
//! `/proc` and the cgroup files. A layer that cannot be read says why and the others go on.

mod api;
mod print;
mod process;
mod runtime;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{layout::Layout, say};

/// What `knarr trace` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What to trace: `pod NAME` or `pod/NAME`
    #[arg(required = true, num_args = 1..=2, value_name = "pod NAME")]
    what: Vec<String>,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

impl Options {
    fn pod(&self) -> Result<&str> {
        match self.what.as_slice() {
            [kind, name] if is_pod(kind) => Ok(name),
            [both] => match both.split_once('/') {
                Some((kind, name)) if is_pod(kind) => Ok(name),
                _ => bail!("say `knarr trace pod {both}`"),
            },
            _ => bail!("only pods can be traced: `knarr trace pod NAME`"),
        }
    }
}

fn is_pod(kind: &str) -> bool {
    matches!(kind, "pod" | "pods" | "po")
}

/// Prints the trace.
///
/// # Errors
/// If there is no cluster or no such pod.
pub async fn run(layout: &Layout, options: &Options) -> Result<()> {
    let trace = gather(layout, &options.namespace, options.pod()?).await?;
    match options.output {
        Output::Json => say(&serde_json::to_string_pretty(&trace)?),
        Output::Text => print::text(&trace).iter().for_each(|line| say(line)),
    }
    Ok(())
}

async fn gather(layout: &Layout, namespace: &str, name: &str) -> Result<Value> {
    let api = api::Api::connect(layout).await?;
    let pod = api.pod(namespace, name).await?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let owners = api.owners(&pod).await;
    let events = api.events(namespace, &uid).await;
    let scheduling = api::scheduling(layout, &pod, &events);
    let kubelet = api.kubelet(&pod, &uid).await;
    // A static pod's own identity is in an annotation; the API server gave its mirror another.
    let runtime_uid = pod["metadata"]["annotations"]["kubernetes.io/config.hash"]
        .as_str()
        .unwrap_or(&uid)
        .to_owned();
    let runtime = match runtime::gather(&layout.cri_socket(), &runtime_uid).await {
        Ok(runtime) => runtime,
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    Ok(json!({
        "pod": api::summary(&pod),
        "owners": owners,
        "scheduling": scheduling,
        "kubelet": kubelet,
        "runtime": runtime,
    }))
}
