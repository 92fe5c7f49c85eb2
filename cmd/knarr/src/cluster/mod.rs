//! `knarr cluster`: clusters of several nodes on one machine.
//!
//! Every node is a container of our own OCI runtime, with its own network, mount, pid, uts, ipc and
//! cgroup namespaces, its own data and its own `knarr`; a bridge joins them. Nothing runs for a
//! cluster besides its nodes: these commands act on the kernel and on files.

mod machine;
mod make;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use knarr_network::{NodesConfig, NodesNetwork};
use serde::{Deserialize, Serialize};

use self::machine::Machine;
use crate::{preflight, say, tree};

/// The cgroup below which all nodes of all clusters are.
const CGROUP: &str = "/knarr-clusters";
/// How long processes have to go after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be done with clusters.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Make a cluster and wait until all of its nodes are Ready
    Create(make::Options),
    /// List clusters and their nodes
    List(Folder),
    /// Remove a cluster and all that it made
    Delete(Named),
    /// Give something to every node
    #[command(subcommand)]
    Load(Load),
    /// Print the path of the administrator's kubeconfig
    Kubeconfig(Named),
    /// Print what the nodes' programs have written
    Logs {
        #[command(flatten)]
        cluster: Named,
        /// Only this node
        #[arg(long)]
        node: Option<String>,
    },
    /// Act on one node
    #[command(subcommand)]
    Node(Node),
}

/// Where clusters are.
#[derive(Args, Clone, Debug)]
pub struct Folder {
    /// Folder of all clusters
    #[arg(long, default_value = "/var/lib/knarr-clusters", env = "KNARR_CLUSTERS_DIR")]
    clusters_dir: PathBuf,
}

/// A cluster by name.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// The cluster's name
    #[arg(default_value = "knarr")]
    name: String,
    #[command(flatten)]
    folder: Folder,
}

/// What can be given to every node.
#[derive(Subcommand, Clone, Debug)]
pub enum Load {
    /// An OCI or Docker archive of images
    Image {
        /// The archives
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The cluster's name
        #[arg(long, default_value = "knarr")]
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
}

/// A node by name.
#[derive(Args, Clone, Debug)]
pub struct OfNode {
    /// The node
    node: String,
    #[command(flatten)]
    folder: Folder,
}

/// What can be done with a node.
#[derive(Subcommand, Clone, Debug)]
pub enum Node {
    /// End it at once with all that runs on it, as a power failure would; its data stays
    Stop(OfNode),
    /// Start it again, let it go on, or connect it again
    Start(OfNode),
    /// Freeze all that runs on it
    Pause(OfNode),
    /// Cut its network off
    Cut(OfNode),
    /// Run a command on it
    Exec {
        #[command(flatten)]
        node: OfNode,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// A cluster on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    name: String,
    /// Which of this machine's networks for clusters it has.
    index: u8,
    /// How many nodes it has; the first has the control plane.
    nodes: u32,
    /// What nodes join with.
    token: String,
    /// More arguments of the control plane.
    arguments: Vec<String>,
    /// The log filter of the nodes.
    log: String,
    #[serde(skip)]
    folder: PathBuf,
}

impl Folder {
    fn open(&self, name: &str) -> Result<Cluster> {
        let folder = self.clusters_dir.join(name);
        let text = fs::read_to_string(folder.join("cluster.json"))
            .with_context(|| format!("there is no cluster {name:?}"))?;
        let mut cluster: Cluster = serde_json::from_str(&text).context("cluster.json")?;
        cluster.folder = folder;
        Ok(cluster)
    }

    fn all(&self) -> Vec<Cluster> {
        let entries = fs::read_dir(&self.clusters_dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let mut all: Vec<Cluster> = names.filter_map(|name| self.open(&name).ok()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The cluster that has the node, and the node's number.
    fn node(&self, node: &str) -> Result<(Cluster, u32)> {
        for cluster in self.all() {
            if let Some(n) = (0..cluster.nodes).find(|&n| cluster.node_name(n) == node) {
                return Ok((cluster, n));
            }
        }
        bail!("there is no node {node:?}; `knarr cluster list` shows them")
    }
}

impl Named {
    fn open(&self) -> Result<Cluster> {
        self.folder.open(&self.name)
    }
}

impl Cluster {
    fn node_name(&self, n: u32) -> String {
        format!("{}-{}", self.name, n + 1)
    }

    fn cgroup(&self) -> String {
        format!("{CGROUP}/{}", self.name)
    }

    fn network(&self) -> Result<NodesNetwork> {
        Ok(NodesNetwork::new(NodesConfig {
            bridge: format!("knarr-c{}", self.index),
            cidr: format!("10.89.{}.0/24", self.index),
            table: format!("knarr-c{}", self.index),
            ledger: self.folder.join("sysctl.json"),
        })?)
    }

    fn machine(&self, n: u32) -> Machine {
        let name = self.node_name(n);
        Machine {
            runc: self.folder.join("bin/knarr-runc"),
            state: self.folder.join("oci"),
            folder: self.folder.join("nodes").join(&name),
            cgroup: format!("{}/{name}", self.cgroup()),
            name,
        }
    }

    fn machines(&self) -> impl Iterator<Item = Machine> {
        (0..self.nodes).map(|n| self.machine(n))
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// What a node is now, in one word.
    fn condition(&self, n: u32) -> String {
        match self.machine(n).state() {
            None => "stopped".into(),
            Some((state, _)) if state != "running" => state,
            Some((state, _)) => {
                let connected = self.network().and_then(|net| Ok(net.is_connected(n)?));
                if connected.unwrap_or(false) { state } else { "cut".into() }
            }
        }
    }

    fn delete(&self) -> Result<()> {
        // Those that are paused could not die.
        tree::thaw(&self.cgroup());
        let mut first = Ok(());
        for machine in self.machines() {
            first = first.and(machine.remove());
        }
        first = first.and(tree::remove(&self.cgroup(), PATIENCE));
        first = first.and(self.network()?.remove(self.nodes).context("cannot remove the nodes' network"));
        first?;
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        let parent = self.folder.parent().unwrap_or(Path::new("/"));
        // The last cluster takes what all had in common along.
        if fs::read_dir(parent)?.next().is_none() {
            fs::remove_dir(parent)?;
            tree::remove(CGROUP, PATIENCE)?;
        }
        Ok(())
    }
}

/// Runs one command.
///
/// # Errors
/// If it cannot be done.
pub fn run(command: Command, log: &str) -> Result<()> {
    preflight::privileges()?;
    match command {
        Command::Create(options) => make::create(&options, log),
        Command::List(folder) => {
            say(&format!("{:<16} {:<20} {:<16} STATE", "CLUSTER", "NODE", "ADDRESS"));
            for cluster in folder.all() {
                let network = cluster.network()?;
                for n in 0..cluster.nodes {
                    let (name, at) = (cluster.node_name(n), network.node(n).to_string());
                    say(&format!("{:<16} {name:<20} {at:<16} {}", cluster.name, cluster.condition(n)));
                }
            }
            Ok(())
        }
        Command::Delete(named) => named.open()?.delete(),
        Command::Load(Load::Image { files, name, folder }) => load(&folder.open(&name)?, &files),
        Command::Kubeconfig(named) => {
            say(&named.open()?.kubeconfig().display().to_string());
            Ok(())
        }
        Command::Logs { cluster, node } => {
            for machine in cluster.open()?.machines() {
                if node.as_ref().is_none_or(|n| *n == machine.name) {
                    say(&format!("--- {}", machine.name));
                    say(fs::read_to_string(machine.log()).unwrap_or_default().trim_end());
                }
            }
            Ok(())
        }
        Command::Node(node) => act(node),
    }
}

fn act(node: Node) -> Result<()> {
    match node {
        Node::Stop(of) => {
            let (cluster, n) = of.folder.node(&of.node)?;
            tree::thaw(&cluster.machine(n).cgroup);
            cluster.machine(n).remove()
        }
        Node::Start(of) => {
            let (cluster, n) = of.folder.node(&of.node)?;
            match cluster.condition(n).as_str() {
                "stopped" => make::start(&cluster, n, true),
                "paused" => cluster.machine(n).freeze(false),
                "cut" => Ok(cluster.network()?.connect(n, true)?),
                _ => bail!("node {} runs", of.node),
            }
        }
        Node::Pause(of) => {
            let (cluster, n) = of.folder.node(&of.node)?;
            cluster.machine(n).freeze(true)
        }
        Node::Cut(of) => {
            let (cluster, n) = of.folder.node(&of.node)?;
            Ok(cluster.network()?.connect(n, false)?)
        }
        Node::Exec { node, command } => {
            let (cluster, n) = node.folder.node(&node.node)?;
            let status = cluster.machine(n).command(&command).stdin(Stdio::inherit()).status()?;
            std::process::exit(status.code().unwrap_or(1));
        }
    }
}

/// Imports archives on all nodes at once.
fn load(cluster: &Cluster, files: &[PathBuf]) -> Result<()> {
    let words = ["/knarr", "images", "import", "-"].map(str::to_owned);
    for path in files {
        let mut running = Vec::new();
        for machine in cluster.machines() {
            let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut command = machine.command(&words);
            command.stdin(file).stdout(Stdio::null()).stderr(Stdio::piped());
            running.push((machine.name.clone(), command.spawn()?));
        }
        for (name, child) in running {
            let output = child.wait_with_output()?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                bail!("node {name}: cannot import {}: {}", path.display(), text.trim());
            }
        }
        say(&format!("loaded {}", path.display()));
    }
    Ok(())
}
