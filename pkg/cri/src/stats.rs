//! What containers and pods use.

use knarr_cri_api::v1;
use knarr_shim::Stats;
use v1::UInt64Value;

use crate::container::{Container, Phase};
use crate::record::now;
use crate::sandbox::Sandbox;
use crate::{Cri, Error};

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

impl Cri {
    /// The statistics of a container. One that has ended has only its writable layer.
    pub(crate) async fn container_stats(&self, c: &Container) -> Result<v1::ContainerStats, Error> {
        Ok(self.stats_with(c, read(c).await?.as_ref()).await)
    }

    async fn stats_with(&self, c: &Container, stats: Option<&Stats>) -> v1::ContainerStats {
        let config = c.config();
        let (images, id) = (self.images.clone(), c.id.clone());
        let usage = tokio::task::spawn_blocking(move || images.snapshot_usage(&id))
            .await
            .unwrap_or_default();
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: c.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: stats.map(cpu),
            memory: stats.map(memory),
            writable_layer: Some(v1::FilesystemUsage {
                timestamp: now(),
                fs_id: Some(v1::FilesystemIdentifier {
                    mountpoint: self.images.root().display().to_string(),
                }),
                used_bytes: value(usage.bytes),
                inodes_used: value(usage.inodes),
            }),
            swap: stats.map(|s| v1::SwapUsage {
                timestamp: s.timestamp,
                swap_available_bytes: None,
                swap_usage_bytes: value(s.swap_usage),
            }),
            io: None,
        }
    }

    /// The statistics of a sandbox and its running containers.
    pub(crate) async fn sandbox_stats(&self, s: &Sandbox) -> Result<v1::PodSandboxStats, Error> {
        let mut sum = Stats {
            timestamp: now(),
            ..Stats::default()
        };
        let mut containers = Vec::new();
        for c in self.containers_of(&s.id) {
            let Some(stats) = read(&c).await? else { continue };
            sum.cpu_usage += stats.cpu_usage;
            sum.memory_usage += stats.memory_usage;
            sum.memory_working_set += stats.memory_working_set;
            sum.memory_rss += stats.memory_rss;
            sum.page_faults += stats.page_faults;
            sum.major_page_faults += stats.major_page_faults;
            sum.pids += stats.pids;
            containers.push(self.stats_with(&c, Some(&stats)).await);
        }
        Ok(v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: s.id.clone(),
                metadata: s.config.metadata.clone(),
                labels: s.config.labels.clone(),
                annotations: s.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: Some(cpu(&sum)),
                memory: Some(memory(&sum)),
                network: s.ready().then(|| network(s.record().pause_pid)),
                process: Some(v1::ProcessUsage {
                    timestamp: sum.timestamp,
                    process_count: value(sum.pids),
                }),
                containers,
                io: None,
            }),
            windows: None,
        })
    }
}

async fn read(c: &Container) -> Result<Option<Stats>, Error> {
    if !matches!(c.phase(), Phase::Running { .. }) {
        return Ok(None);
    }
    match c.running().await {
        Ok(shim) => match shim.stats().await {
            Ok(stats) => Ok(Some(stats)),
            Err(knarr_shim::Error::Gone { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        },
        Err(Error::State(_) | Error::Shim(knarr_shim::Error::Gone { .. })) => Ok(None),
        Err(e) => Err(e),
    }
}

fn cpu(s: &Stats) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: s.timestamp,
        usage_core_nano_seconds: value(s.cpu_usage),
        usage_nano_cores: None,
        psi: None,
    }
}

fn memory(s: &Stats) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: s.timestamp,
        working_set_bytes: value(s.memory_working_set),
        available_bytes: (s.memory_limit > 0)
            .then(|| s.memory_limit.saturating_sub(s.memory_working_set))
            .and_then(value),
        usage_bytes: value(s.memory_usage),
        rss_bytes: value(s.memory_rss),
        page_faults: value(s.page_faults),
        major_page_faults: value(s.major_page_faults),
        psi: None,
    }
}

/// The interfaces of a process's network namespace, but the loopback.
fn network(pid: i32) -> v1::NetworkUsage {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut interfaces: Vec<v1::NetworkInterfaceUsage> = text
        .lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let n: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
            (name.trim() != "lo").then_some(())?;
            Some(v1::NetworkInterfaceUsage {
                name: name.trim().to_owned(),
                rx_bytes: value(*n.first()?),
                rx_errors: value(*n.get(2)?),
                tx_bytes: value(*n.get(8)?),
                tx_errors: value(*n.get(10)?),
            })
        })
        .collect();
    let first = interfaces.iter().position(|i| i.name == "eth0").unwrap_or(0);
    let default_interface = (first < interfaces.len()).then(|| interfaces.remove(first));
    v1::NetworkUsage {
        timestamp: now(),
        default_interface,
        interfaces,
    }
}
