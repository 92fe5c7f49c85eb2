//! Sandboxes: a pause process that holds a pod's namespaces, its network, its shared files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use knarr_cri_api::v1::{ContainerEventType, DnsConfig, NamespaceMode, PodSandboxConfig, Protocol};
use prost::Message;
use rustix::mount::MountFlags;

use crate::flight::{blocking, detached};
use crate::network::{HostPort, NetworkRequest};
use crate::process::{Process, start_time};
use crate::record::{Record, SandboxRecord, new_id, now, version};
use crate::{Cri, Error, spec};

/// A sandbox that is complete.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub id: String,
    pub dir: PathBuf,
    pub config: PodSandboxConfig,
    record: Mutex<SandboxRecord>,
    /// One change at a time.
    pub op: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn new(dir: PathBuf, record: SandboxRecord, config: PodSandboxConfig) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            config,
            record: Mutex::new(record),
            op: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_stopped(&self) -> SandboxRecord {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.stopped = true;
        record.clone()
    }

    /// Whether the pause process runs.
    pub(crate) fn ready(&self) -> bool {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        !record.stopped && start_time(record.pause_pid) == Some(record.pause_start)
    }

    fn pause(&self) -> Option<Process> {
        let record = self.record();
        Process::find(record.pause_pid, record.pause_start)
    }
}

impl Cri {
    /// Folders, and the root of pause processes.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        for dir in [
            "cri/sandboxes",
            "cri/containers",
            "cri/pause/proc",
            "cri/pause/dev",
            "oci",
        ] {
            let dir = self.config.run_dir.join(dir);
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        let to = self.config.run_dir.join("cri/pause/pause");
        let temp = to.with_extension("new");
        // Beside and renamed: the one in place may be running.
        let same = match (fs::read(&to), fs::read(&self.config.pause)) {
            (Ok(a), Ok(b)) => a == b,
            (_, Err(e)) => return Err(Error::io("read", &self.config.pause)(e)),
            _ => false,
        };
        if !same {
            use std::os::unix::fs::PermissionsExt;
            fs::copy(&self.config.pause, &temp)
                .and_then(|_| fs::set_permissions(&temp, fs::Permissions::from_mode(0o755)))
                .and_then(|()| fs::rename(&temp, &to))
                .map_err(Error::io("write", &to))?;
        }
        Ok(())
    }

    /// Makes a sandbox; gives its id. The same request joins the one in flight, and finds the
    /// one that runs.
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: PodSandboxConfig,
        handler: String,
    ) -> Result<String, Error> {
        let meta = config
            .metadata
            .clone()
            .ok_or_else(|| Error::Invalid("sandbox config must include metadata".to_owned()))?;
        let same = |s: &Arc<Sandbox>| s.config.metadata.as_ref() == Some(&meta) && s.ready();
        if let Some(found) = self.all_sandboxes().iter().find(|s| same(s)) {
            return Ok(found.id.clone());
        }
        let key = format!(
            "run {}/{}/{}/{}",
            meta.namespace, meta.name, meta.uid, meta.attempt
        );
        let cri = self.clone();
        let work = async move {
            let id = new_id();
            match cri.build_sandbox(&id, config, handler).await {
                Ok(()) => Ok(id),
                Err(e) => {
                    cri.clean_sandbox(&id, true).await;
                    Err(e)
                }
            }
        };
        self.flights.join(key, work).await
    }

    async fn build_sandbox(
        self: &Arc<Self>,
        id: &str,
        config: PodSandboxConfig,
        handler: String,
    ) -> Result<(), Error> {
        self.handler(&handler)?;
        let dir = self.sandbox_dir(id);
        let host_network = spec::host_network(&config);
        let hostname = match (config.hostname.as_str(), host_network) {
            ("", true) => fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "localhost".to_owned(), |t| t.trim().to_owned()),
            ("", false) => config
                .metadata
                .as_ref()
                .map(|m| m.name.clone())
                .unwrap_or_default(),
            (given, _) => given.to_owned(),
        };
        let cgroup_parent = match config.linux.as_ref().map(|l| l.cgroup_parent.as_str()) {
            None | Some("") => self.config.cgroup_root.clone(),
            Some(given) => given.trim_end_matches('/').to_owned(),
        };
        let rootfs = self.config.run_dir.join("cri/pause");
        let pause = spec::pause(id, &config, &hostname, &rootfs, &cgroup_parent)?;
        let own_ipc =
            spec::sandbox_options(&config).is_none_or(|o| o.ipc != NamespaceMode::Node as i32);
        write_files(&dir, &hostname, config.dns_config.as_ref(), own_ipc, &pause)?;
        let pause_pid = self.runtime.create(id, &dir).await?;
        let start = self.runtime.start(id);
        let ips = if host_network {
            start.await?;
            Vec::new()
        } else {
            let (ips, ()) = futures::try_join!(self.connect(id, &config, pause_pid), start)?;
            ips
        };
        let pause_start = start_time(pause_pid).ok_or_else(|| Error::Runtime {
            what: "the sandbox's pause process",
            message: "ended at once".to_owned(),
        })?;
        let record = SandboxRecord {
            version: version(),
            id: id.to_owned(),
            created_at: now(),
            handler,
            hostname,
            cgroup_parent,
            pause_pid,
            pause_start,
            ips,
            stopped: false,
            config: config.encode_to_vec(),
        };
        record.save(&dir)?;
        let sandbox = Arc::new(Sandbox::new(dir, record, config));
        self.sandboxes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.to_owned(), sandbox.clone());
        self.watch_pause(&sandbox);
        self.emit(ContainerEventType::ContainerCreatedEvent, id, id);
        self.emit(ContainerEventType::ContainerStartedEvent, id, id);
        Ok(())
    }

    /// Connects a sandbox to the pod network.
    async fn connect(
        &self,
        id: &str,
        config: &PodSandboxConfig,
        pause_pid: i32,
    ) -> Result<Vec<String>, Error> {
        let meta = config.metadata.clone().unwrap_or_default();
        let netns = PathBuf::from(format!("/proc/{pause_pid}/ns/net"));
        let limit = |key: &str| config.annotations.get(key).and_then(|v| parse_bits(v));
        let request = NetworkRequest {
            id,
            netns: &netns,
            namespace: &meta.namespace,
            name: &meta.name,
            uid: &meta.uid,
            ports: host_ports(config)?,
            ingress: limit("kubernetes.io/ingress-bandwidth"),
            egress: limit("kubernetes.io/egress-bandwidth"),
            dns: config.dns_config.as_ref(),
            cgroup_parent: config.linux.as_ref().map_or("", |l| &l.cgroup_parent),
            annotations: Some(&config.annotations),
        };
        let ips = self
            .config
            .network
            .add(request)
            .await
            .map_err(|message| Error::Network {
                id: id.to_owned(),
                message,
            })?;
        Ok(ips.iter().map(ToString::to_string).collect())
    }

    /// Whether a sandbox that runs is connected as it was made.
    pub(crate) async fn check_network(&self, sandbox: &Sandbox) -> Result<(), String> {
        if !sandbox.ready() || spec::host_network(&sandbox.config) {
            return Ok(());
        }
        self.config.network.check(&sandbox.id).await
    }

    /// Tells of the pause process's end.
    pub(crate) fn watch_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let Some(process) = sandbox.pause() else {
            return;
        };
        let (cri, id) = (Arc::downgrade(self), sandbox.id.clone());
        tokio::spawn(async move {
            process.ended().await;
            if let Some(cri) = cri.upgrade() {
                cri.emit(ContainerEventType::ContainerStoppedEvent, &id, &id);
            }
        });
    }

    /// Stops all containers of a sandbox, takes its network and pause process away. No error if
    /// it is gone.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        let cri = self.clone();
        detached(async move {
            let _op = sandbox.op.lock().await;
            let containers = cri.containers_of(&sandbox.id);
            let kills = containers.iter().map(|c| cri.kill_and_wait(c));
            futures::future::try_join_all(kills).await?;
            if sandbox.record().stopped {
                return Ok(());
            }
            // While its namespace is still there, so that both ends go together.
            if !spec::host_network(&sandbox.config) {
                let gone = cri.config.network.del(&sandbox.id).await;
                gone.map_err(|message| Error::Network {
                    id: sandbox.id.clone(),
                    message,
                })?;
            }
            if let Some(process) = sandbox.pause() {
                process.kill();
                process.ended().await;
            }
            cri.runtime.delete(&sandbox.id).await?;
            let shm = sandbox.dir.join("shm");
            blocking(move || Ok(knarr_images::unmount(&shm)?)).await?;
            sandbox.set_stopped().save(&sandbox.dir)
        })
        .await
    }

    /// Removes a sandbox with its containers. No error if it is gone.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        self.stop_sandbox(&sandbox.id).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        let cri = self.clone();
        detached(async move {
            let _op = sandbox.op.lock().await;
            SandboxRecord::forget(&sandbox.dir)?;
            let known = cri
                .sandboxes
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&sandbox.id);
            if known.is_some() {
                cri.emit_for(
                    ContainerEventType::ContainerDeletedEvent,
                    &sandbox.id,
                    &sandbox,
                );
            }
            cri.clean_sandbox(&sandbox.id, false).await;
            Ok(())
        })
        .await
    }

    /// Takes away whatever there is of a sandbox without a record. With `connected` also its
    /// process and network.
    pub(crate) async fn clean_sandbox(&self, id: &str, connected: bool) {
        let warn = |what: &str, e: &dyn std::fmt::Display| {
            tracing::warn!(sandbox = id, error = %e, "cleaning up: {what}");
        };
        if connected {
            if let Err(e) = self.config.network.del(id).await {
                warn("network", &e);
            }
            if let Err(e) = self.runtime.delete(id).await {
                warn("runtime", &e);
            }
        }
        let dir = self.sandbox_dir(id);
        let done = blocking(move || {
            knarr_images::unmount(&dir.join("shm"))?;
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("remove", &dir)(e))
                }
                _ => Ok(()),
            }
        })
        .await;
        if let Err(e) = done {
            warn("folder", &e);
        }
    }
}

/// What a sandbox's folder holds before its process starts.
fn write_files(
    dir: &Path,
    hostname: &str,
    dns: Option<&DnsConfig>,
    own_ipc: bool,
    pause: &serde_json::Value,
) -> Result<(), Error> {
    fs::create_dir(dir).map_err(Error::io("create", dir))?;
    let write = |name: &str, text: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))
    };
    write("hostname", format!("{hostname}\n").as_bytes())?;
    write("hosts", &fs::read("/etc/hosts").unwrap_or_default())?;
    write("resolv.conf", &resolv_conf(dns))?;
    write("config.json", pause.to_string().as_bytes())?;
    if own_ipc {
        let shm = dir.join("shm");
        fs::create_dir(&shm).map_err(Error::io("create", &shm))?;
        rustix::mount::mount(
            "shm",
            &shm,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            c"mode=1777,size=65536k",
        )
        .map_err(Error::errno("mount", &shm))?;
    }
    Ok(())
}

/// The resolver's file: as asked for, else the host's.
fn resolv_conf(dns: Option<&DnsConfig>) -> Vec<u8> {
    let Some(dns) = dns else {
        return fs::read("/etc/resolv.conf").unwrap_or_default();
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text.into_bytes()
}

fn host_ports(config: &PodSandboxConfig) -> Result<Vec<HostPort>, Error> {
    let port = |n: i32| {
        u16::try_from(n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::Invalid(format!("invalid port {n} in a port mapping")))
    };
    config
        .port_mappings
        .iter()
        .filter(|m| m.host_port != 0)
        .map(|m| {
            Ok(HostPort {
                protocol: match Protocol::try_from(m.protocol) {
                    Ok(Protocol::Tcp) => "TCP",
                    Ok(Protocol::Udp) => "UDP",
                    Ok(Protocol::Sctp) => "SCTP",
                    Err(_) => return Err(Error::Invalid("unknown protocol".to_owned())),
                },
                host_port: port(m.host_port)?,
                container_port: port(m.container_port)?,
                host_ip: match m.host_ip.as_str() {
                    "" => None,
                    text => Some(text.parse().map_err(|_| {
                        Error::Invalid(format!("invalid host IP {text:?} in a port mapping"))
                    })?),
                },
            })
        })
        .collect()
}

/// A Kubernetes quantity of bits per second.
fn parse_bits(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let factor: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_file() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["a.local".to_owned(), "b".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        assert_eq!(
            resolv_conf(Some(&dns)),
            b"search a.local b\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn bandwidth() {
        assert_eq!(parse_bits("10M"), Some(10_000_000));
        assert_eq!(parse_bits("1Ki"), Some(1024));
        assert_eq!(parse_bits("x"), None);
    }
}
