//! `knarr up`, `knarr status`.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use knarr_pki::BootstrapToken;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{self, Request},
    demo,
    layout::Layout,
    log_to,
    node::{self, Node},
    preflight, reset, say,
};

/// The last line a detached child prints; its parent then leaves.
const READY: &str = "\u{4}";

/// What `knarr up` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Go to the background when the node is ready; the log is <data-dir>/knarr.log
    #[arg(long)]
    pub detach: bool,
    /// Deploy a small web server made of knarr's own helper and show it answering
    #[arg(long)]
    pub demo: bool,
    /// Address the API server listens on
    #[arg(long, default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// This node's name [default: the host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// This node's address [default: that of the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Folder of static pod manifests, watched
    #[arg(long)]
    pub manifests: Option<PathBuf>,
    /// Remove unused images when the disk is fuller than this, in percent; 100: never
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub image_gc_high_threshold: u8,
    /// File with an AuthenticationConfiguration: issuers of tokens besides the cluster itself
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Kubeconfig of a service that reviews tokens which are not the cluster's own
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// File with an audit policy: which requests are recorded
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are appended to; `-` is standard output
    #[arg(long, requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes from which on that file is set aside and begun anew; 0: never
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// How many files that were set aside are kept; 0: all
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Kubeconfig of a service that takes audit events
    #[arg(long, requires = "audit_policy_file")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Addresses of all pods
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// Addresses of this node's pods
    #[arg(long, default_value = "10.244.0.0/24")]
    pub pod_cidr: String,
    /// Addresses of services; the first is the API server's, the tenth the cluster DNS's
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cidr: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Token that machines may join with, for ever [default: none; see `knarr token`]
    #[arg(long, env = "KNARR_TOKEN", hide_env_values = true)]
    pub token: Option<BootstrapToken>,
    /// Seconds after which a silent node counts as unreachable; nodes speak every ten
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(15..))]
    pub node_monitor_grace_seconds: u64,
    /// Keep the cluster's data in this etcd instead of the embedded store
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd_endpoints: Vec<String>,
    /// PEM file of the authority that etcd's certificate comes from
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// PEM file of the certificate to show etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Set in the child of --detach
    #[arg(long, hide = true)]
    pub detached_child: bool,
}

/// What a node is started for.
pub enum Plan {
    /// With a control plane.
    Up(Options),
    /// As a member of a cluster.
    Agent(node::AgentOptions),
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// If it cannot start; one line that names what to do.
pub fn run(layout: &Layout, options: &Options, log: &str) -> Result<()> {
    prepare(layout)?;
    preflight::free(options.listen, "--listen")?;
    preflight::free(node::kubelet_address(), "a free machine")?;
    run_plan(
        layout,
        Plan::Up(options.clone()),
        options.detach,
        options.detached_child,
        log,
    )
}

/// What must hold of the machine before a node starts.
///
/// # Errors
/// Names what does not.
pub fn prepare(layout: &Layout) -> Result<()> {
    preflight::privileges()?;
    preflight::kernel()?;
    if let Some(status) = control::ask(&layout.control_socket(), &Request::Status)? {
        bail!(
            "knarr is running already (pid {}); `knarr stop` ends it",
            status.get("pid").unwrap_or(&Value::Null)
        );
    }
    Ok(())
}

/// Runs a node, in the background if asked.
///
/// # Errors
/// If it cannot start or fails.
pub fn run_plan(layout: &Layout, plan: Plan, detach: bool, child: bool, log: &str) -> Result<()> {
    reset::claim(&layout.data_dir)?;
    reset::claim(&layout.run_dir)?;
    if detach {
        return go_aside(layout);
    }
    let file = child
        .then(|| {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(layout.log())
        })
        .transpose()
        .with_context(|| format!("cannot write {}", layout.log().display()))?;
    log_to(log, file)?;
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8);
    let runtime = crate::lasting_runtime(workers)?;
    let result = runtime.block_on(serve(layout, plan, child));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Starts this program again in a session of its own, shows its progress, and leaves when its
/// node is ready.
fn go_aside(layout: &Layout) -> Result<()> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(layout.log())
        .with_context(|| format!("cannot write {}", layout.log().display()))?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    arguments.retain(|a| a != "--detach");
    arguments.push("--detached-child".into());
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the background process")?;
    let output = child
        .stdout
        .take()
        .context("the background process has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == READY {
            return Ok(());
        }
        say(&line);
    }
    let status = child.wait()?;
    let text = fs::read_to_string(layout.log()).unwrap_or_default();
    let last = text
        .lines()
        .rfind(|l| l.starts_with("knarr: "))
        .unwrap_or("")
        .to_owned();
    bail!(
        "{}",
        if last.is_empty() {
            format!(
                "the background process ended ({status}); see {}",
                layout.log().display()
            )
        } else {
            last.trim_start_matches("knarr: ").to_owned()
        }
    )
}

struct Control {
    node: Arc<Node>,
    store: Option<String>,
    kubeconfig: Option<PathBuf>,
    data_dir: PathBuf,
    begin: Instant,
    shutdown: CancellationToken,
}

impl control::Handler for Control {
    fn handle(&self, request: Request) -> Value {
        match request {
            Request::Status => json!({
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "kubernetes": crate::KUBERNETES_VERSION,
                "node": self.node.name,
                "server": self.node.server,
                "kubeconfig": self.kubeconfig,
                "dataDir": self.data_dir,
                "store": self.store,
                "ready": self.node.is_ready(),
                "uptimeSeconds": self.begin.elapsed().as_secs(),
            }),
            Request::Stop => {
                self.shutdown.cancel();
                json!({})
            }
            Request::Decision { uid } => self.node.decision(&uid),
        }
    }
}

async fn serve(layout: &Layout, plan: Plan, child: bool) -> Result<()> {
    let begin = Instant::now();
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let step = |text: &str| say(&format!("{:>7.3}s  {text}", begin.elapsed().as_secs_f64()));

    let start = async {
        match &plan {
            Plan::Up(options) => Node::start(layout, options, &shutdown, &step).await,
            Plan::Agent(options) => Node::join(layout, options, &shutdown, &step).await,
        }
    };
    let node = Arc::new(tokio::select! {
        node = start => node?,
        _ = terminate.recv() => bail!("told to stop before it was up"),
        _ = interrupt.recv() => bail!("told to stop before it was up"),
    });
    let store = match &plan {
        Plan::Up(options) if options.etcd_endpoints.is_empty() => Some("embedded".to_owned()),
        Plan::Up(options) => Some(options.etcd_endpoints.join(",")),
        Plan::Agent(_) => None,
    };
    let handler = Arc::new(Control {
        node: node.clone(),
        kubeconfig: store.is_some().then(|| layout.kubeconfig()),
        store,
        data_dir: layout.data_dir.clone(),
        begin,
        shutdown: shutdown.clone(),
    });
    control::serve(&layout.control_socket(), handler, shutdown.clone())?;

    let ready = async {
        node.wait_ready().await?;
        step(&format!("node {} is Ready", node.name));
        if let Plan::Up(options) = &plan {
            if options.demo {
                demo::run(&node, &step).await?;
            }
            greet(layout);
        }
        if child {
            say(READY);
        }
        anyhow::Ok(())
    };
    tokio::pin!(ready);
    let mut told = false;
    let result = loop {
        tokio::select! {
            result = &mut ready, if !told => {
                told = true;
                if let Err(error) = result {
                    break Err(error);
                }
            }
            error = node.failed() => break Err(error),
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            () = shutdown.cancelled() => break Ok(()),
        }
    };
    shutdown.cancel();
    node.finish().await;
    if result.is_ok() && !child {
        say(
            "knarr has stopped; containers go on. Starting it again takes them over, `knarr \
             reset` removes everything.",
        );
    }
    result
}

fn greet(layout: &Layout) {
    say("");
    say("The cluster is up. Use it with:");
    say(&format!(
        "  export KUBECONFIG={}",
        layout.kubeconfig().display()
    ));
    say("  kubectl get nodes,pods -A");
    say("");
}

/// Prints what is running.
///
/// # Errors
/// If nothing is.
pub fn status(layout: &Layout) -> Result<()> {
    let Some(status) = control::ask(&layout.control_socket(), &Request::Status)? else {
        bail!(
            "knarr is not running (nothing listens at {})",
            layout.control_socket().display()
        );
    };
    for (label, key) in [
        ("node", "node"),
        ("ready", "ready"),
        ("server", "server"),
        ("kubernetes", "kubernetes"),
        ("kubeconfig", "kubeconfig"),
        ("data folder", "dataDir"),
        ("store", "store"),
        ("pid", "pid"),
        ("up for (s)", "uptimeSeconds"),
    ] {
        let Some(value) = status.get(key).filter(|v| !v.is_null()) else {
            continue;
        };
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        say(&format!("{label:<12} {text}"));
    }
    Ok(())
}
