//! A pod network made by CNI plugins: the first configuration of a folder, run as a chain
//! (CNI specification 1.1: ADD, DEL, CHECK, GC, STATUS).

mod call;
mod conf;

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::network::{HostPort, Network, NetworkRequest};
use call::{Call, run};
use conf::{Chain, Verb};

/// The pod's interface.
const INTERFACE: &str = "eth0";

/// Plugins and their configuration.
#[derive(Debug, Clone)]
pub struct CniNetwork {
    /// Configurations: `*.conflist`, `*.conf`, `*.json`; the first by name counts.
    conf_dir: PathBuf,
    /// Where plugins are, in the order of search.
    bin_dirs: Vec<PathBuf>,
    /// What was done for each sandbox, so that it is undone the same way.
    cache_dir: PathBuf,
}

/// One sandbox's connection.
#[derive(Debug, Serialize, Deserialize)]
struct Attachment {
    version: u32,
    chain: Chain,
    netns: String,
    arguments: String,
    runtime: Map<String, Value>,
    result: Value,
}

impl CniNetwork {
    /// Plugins of `bin_dirs`, configured in `conf_dir`; results are kept in `cache_dir`.
    ///
    /// The configuration is read anew for each sandbox, so it may come and change later.
    pub fn new(
        conf_dir: impl Into<PathBuf>,
        bin_dirs: Vec<PathBuf>,
        cache_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            conf_dir: conf_dir.into(),
            bin_dirs,
            cache_dir: cache_dir.into(),
        }
    }

    fn record(&self, id: &str) -> PathBuf {
        self.cache_dir.join(format!("{id}.json"))
    }

    fn remember(&self, id: &str, attachment: &Attachment) -> std::io::Result<()> {
        fs::create_dir_all(&self.cache_dir)?;
        let (to, temp) = (self.record(id), self.record(id).with_extension("new"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temp)?;
        file.write_all(&serde_json::to_vec(attachment)?)?;
        file.sync_all()?;
        fs::rename(temp, to)
    }

    fn recall(&self, id: &str) -> Result<Option<Attachment>, String> {
        let record = self.record(id);
        match fs::read(&record) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| format!("{}: {e}", record.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{}: {e}", record.display())),
        }
    }

    async fn connect(&self, r: NetworkRequest<'_>) -> Result<Vec<IpAddr>, String> {
        // A repeated call undoes what an interrupted one has left.
        if self.record(r.id).exists() {
            self.disconnect(r.id).await?;
        }
        let chain = Chain::first(&self.conf_dir)?;
        let mut attachment = Attachment {
            version: 1,
            netns: r.netns.to_string_lossy().into_owned(),
            arguments: arguments(&r),
            runtime: runtime(&r),
            chain,
            result: Value::Null,
        };
        // Before anything is made, so that nothing made is forgotten.
        self.remember(r.id, &attachment)
            .map_err(|e| format!("cannot keep the CNI state: {e}"))?;
        for i in 0..attachment.chain.plugins.len() {
            let done = self.call("ADD", r.id, &attachment, i).await;
            match done {
                Ok(result) => attachment.result = result,
                Err(error) => {
                    if let Err(e) = self.disconnect(r.id).await {
                        tracing::warn!(id = r.id, error = %e, "a failed CNI ADD could not be undone");
                    }
                    return Err(error);
                }
            }
        }
        self.remember(r.id, &attachment)
            .map_err(|e| format!("cannot keep the CNI state: {e}"))?;
        let ips = addresses(&attachment.result);
        if ips.is_empty() {
            let name = &attachment.chain.name;
            self.disconnect(r.id).await?;
            return Err(format!("network {name:?} gave the pod no address"));
        }
        Ok(ips)
    }

    async fn disconnect(&self, id: &str) -> Result<(), String> {
        let record = self.record(id);
        let Some(attachment) = self.recall(id)? else {
            return Ok(());
        };
        for i in (0..attachment.chain.plugins.len()).rev() {
            self.call("DEL", id, &attachment, i).await?;
        }
        fs::remove_file(&record).map_err(|e| format!("{}: {e}", record.display()))
    }

    async fn call(
        &self,
        command: &str,
        id: &str,
        a: &Attachment,
        i: usize,
    ) -> Result<Value, String> {
        let gone = !Path::new(&a.netns).exists();
        run(&Call {
            command,
            id,
            netns: if command == "DEL" && gone {
                ""
            } else {
                &a.netns
            },
            interface: INTERFACE,
            arguments: &a.arguments,
            path: &self.bin_dirs,
            plugin: a.chain.kind(i),
            input: a.chain.input(i, &a.result, &a.runtime),
        })
        .await
        .map_err(|e| failed(a.chain.kind(i), command, &e))
    }

    async fn collect(&self, alive: &[String]) -> Result<(), String> {
        let entries = match fs::read_dir(&self.cache_dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        // One that cannot be undone keeps none of the others.
        let mut first = Ok(());
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json") else {
                continue;
            };
            if !alive.iter().any(|a| a == id) {
                first = first.and(self.disconnect(id).await);
            }
        }
        let Ok(chain) = Chain::first(&self.conf_dir) else {
            return first;
        };
        if !chain.knows(Verb::Gc) {
            return first;
        }
        let valid: Vec<Value> = alive
            .iter()
            .map(|id| json!({ "containerID": id, "ifname": INTERFACE }))
            .collect();
        for i in 0..chain.plugins.len() {
            let mut input = chain.input(i, &Value::Null, &Map::new());
            // The second is what the specification first called it.
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                input[key] = json!(valid);
            }
            first = first.and(self.of_network("GC", &chain, i, input).await);
        }
        first
    }

    async fn of_network(
        &self,
        command: &str,
        chain: &Chain,
        i: usize,
        input: Value,
    ) -> Result<(), String> {
        run(&Call::of_network(
            command,
            &self.bin_dirs,
            chain.kind(i),
            input,
        ))
        .await
        .map(drop)
        .map_err(|e| failed(chain.kind(i), command, &e))
    }

    /// Asks the plugins whether a sandbox is connected as it was; those that cannot tell are
    /// taken to agree.
    async fn verify(&self, id: &str) -> Result<(), String> {
        let Some(attachment) = self.recall(id)? else {
            return Err(format!("sandbox {id:?} is not connected"));
        };
        if !attachment.chain.knows(Verb::Check) {
            return Ok(());
        }
        for i in 0..attachment.chain.plugins.len() {
            self.call("CHECK", id, &attachment, i).await?;
        }
        Ok(())
    }

    async fn readiness(&self) -> Result<(), String> {
        let chain = Chain::first(&self.conf_dir)?;
        for i in 0..chain.plugins.len() {
            call::find(&self.bin_dirs, chain.kind(i))?;
        }
        if !chain.knows(Verb::Status) {
            return Ok(());
        }
        for i in 0..chain.plugins.len() {
            let input = chain.input(i, &Value::Null, &Map::new());
            self.of_network("STATUS", &chain, i, input).await?;
        }
        Ok(())
    }
}

impl Network for CniNetwork {
    fn add<'a>(
        &'a self,
        request: NetworkRequest<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(self.connect(request))
    }
    fn del<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.disconnect(id))
    }
    fn gc<'a>(&'a self, alive: &'a [String]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.collect(alive))
    }
    fn check<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.verify(id))
    }
    fn status(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.readiness())
    }
}

fn failed(plugin: &str, command: &str, error: &str) -> String {
    format!(
        "plugin type={plugin:?} failed ({}): {error}",
        command.to_lowercase()
    )
}

/// `CNI_ARGS`, as Kubernetes' plugins know them.
fn arguments(r: &NetworkRequest<'_>) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        r.namespace, r.name, r.id, r.uid
    )
}

/// What plugins with the capability are told, by capability.
fn runtime(r: &NetworkRequest<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    if !r.ports.is_empty() {
        out.insert("portMappings".into(), r.ports.iter().map(mapping).collect());
    }
    if r.ingress.is_some() || r.egress.is_some() {
        let mut limits = Map::new();
        for (name, rate) in [("ingress", r.ingress), ("egress", r.egress)] {
            if let Some(rate) = rate {
                limits.insert(format!("{name}Rate"), json!(rate));
                // Upstream's burst: as much as fits in 32 bits.
                limits.insert(format!("{name}Burst"), json!(i32::MAX));
            }
        }
        out.insert("bandwidth".into(), Value::Object(limits));
    }
    if let Some(dns) = r.dns {
        let dns = json!({
            "servers": dns.servers, "searches": dns.searches, "options": dns.options,
        });
        out.insert("dns".into(), dns);
    }
    if !r.cgroup_parent.is_empty() {
        out.insert("cgroupPath".into(), json!(r.cgroup_parent));
    }
    if let Some(annotations) = r.annotations.filter(|a| !a.is_empty()) {
        out.insert(
            "io.kubernetes.cri.pod-annotations".into(),
            json!(annotations),
        );
    }
    out
}

fn mapping(p: &HostPort) -> Value {
    json!({
        "hostPort": p.host_port,
        "containerPort": p.container_port,
        "protocol": p.protocol.to_ascii_lowercase(),
        "hostIP": p.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    })
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests;
