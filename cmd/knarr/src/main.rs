//! Kubernetes as one small program.
//!
//! `knarr up` starts a one-node cluster: API server, scheduler, controllers, kubelet and CRI
//! runtime in this process, containers in processes of their own.

mod apiserver;
mod client;
mod cluster;
mod control;
mod demo;
mod helpers;
mod images;
mod layout;
mod node;
mod preflight;
mod quiet;
mod reset;
mod token;
mod trace;
mod tree;
mod up;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::layout::Layout;

/// More than a third of a write went into the C library's allocator (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The cgroup below which every cgroup of ours is, in each hierarchy.
pub const CGROUP_ROOT: &str = "/knarr";
/// The Kubernetes version this program speaks.
pub const KUBERNETES_VERSION: &str = "v1.37.2";

/// Kubernetes as one small program
#[derive(Parser)]
#[command(name = "knarr", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    layout: Layout,
    /// What to log: error, warn, info, debug, or a filter such as `warn,knarr_kubelet=debug`
    #[arg(long, default_value = "warn", env = "KNARR_LOG", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a one-node cluster and stay in the foreground
    Up(Box<up::Options>),
    /// Join this machine to a cluster as one more node and stay in the foreground
    Agent(Box<node::AgentOptions>),
    /// Make, list and remove the tokens that machines join with
    #[command(subcommand)]
    Token(token::Command),
    /// Clusters of several nodes on this machine, each node a container
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Say what is running
    Status,
    /// End a running knarr; its containers go on and the next `up` takes them over
    Stop,
    /// End everything and remove all that knarr made, the data folder too
    Reset,
    /// Run the API server alone, with kube-apiserver's flags
    Apiserver(Box<apiserver::Options>),
    /// Stand in for etcd where a tool starts etcd whatever is to use it
    #[command(hide = true)]
    Etcd(apiserver::stand_in::Options),
    /// Run the kubelet alone on a folder of static pods, with no API server
    Kubelet(Box<node::KubeletOptions>),
    /// Run the container runtime alone: CRI v1 on a unix socket, for any kubelet
    Cri(Box<node::CriOptions>),
    /// Show a pod through the nine layers, from the API object down to the process
    Trace(trace::Options),
    /// List, import, export and remove images
    #[command(subcommand)]
    Images(images::Command),
    /// Print the path of the administrator's kubeconfig
    Kubeconfig,
}

/// The words of the command line; as a link that is named like one of upstream's programs this
/// is that program.
fn command_line() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let name = words.first().and_then(|w| Path::new(w).file_name()).and_then(OsStr::to_str);
    let command = match name {
        Some("kube-apiserver") => "apiserver",
        Some("etcd") => "etcd",
        _ => return words,
    };
    words.insert(1, command.into());
    words
}

fn main() -> ExitCode {
    knarr_sys::memory::give_back_at_once();
    let cli = Cli::parse_from(command_line());
    let result = run(cli);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarr: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let layout = cli.layout;
    match cli.command {
        Command::Up(options) => up::run(&layout, &options, &cli.log),
        Command::Apiserver(options) => apiserver::run(&layout, &options, &cli.log),
        Command::Etcd(options) => apiserver::stand_in::run(&layout, &options),
        Command::Agent(options) => node::run_agent(&layout, &options, &cli.log),
        Command::Cluster(command) => cluster::run(command, &cli.log),
        Command::Token(command) => runtime(1)?.block_on(token::run(&layout, command)),
        Command::Kubelet(options) => node::run_kubelet(&layout, &options, &cli.log),
        Command::Cri(options) => node::run_cri(&layout, &options, &cli.log),
        Command::Status => up::status(&layout),
        Command::Stop => {
            if !reset::stop(&layout)? {
                say("knarr is not running");
            }
            Ok(())
        }
        Command::Reset => reset::run(&layout),
        Command::Trace(options) => runtime(1)?.block_on(trace::run(&layout, &options)),
        Command::Images(command) => runtime(2)?.block_on(images::run(&layout, command)),
        Command::Kubeconfig => {
            let path: PathBuf = layout.kubeconfig();
            if !path.exists() {
                anyhow::bail!(
                    "there is no cluster in {}: start one with `knarr up`",
                    layout.data_dir.display()
                );
            }
            say(&path.display().to_string());
            Ok(())
        }
    }
}

/// An async runtime with `workers` threads, for a process that stays; it gives memory back when work
/// is over.
fn lasting_runtime(workers: usize) -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("knarr")
        // Of memory it costs only what is used.
        .thread_stack_size(knarr_apiserver::STACK_BYTES)
        // Each thread for blocking work has a part of the heap; the work at rest needs none of them.
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .on_thread_unpark(quiet::woken)
        .enable_all()
        .build()?;
    runtime.spawn(quiet::give_back());
    Ok(runtime)
}

/// An async runtime with `workers` threads.
fn runtime(workers: usize) -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("knarr")
        .enable_all()
        .build()?)
}

/// Sends the log to standard error, or to a file.
fn log_to(filter: &str, file: Option<std::fs::File>) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|e| anyhow::anyhow!("--log {filter:?}: {e}"))?;
    // A log on a full disk is lost; complaining about it on standard error, which may be the same
    // disk, would panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false);
    match file {
        Some(file) => builder.with_writer(std::sync::Mutex::new(file)).init(),
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// Prints a line for the user.
fn say(line: &str) {
    use std::io::Write;
    // A closed terminal is no reason to end a cluster.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
