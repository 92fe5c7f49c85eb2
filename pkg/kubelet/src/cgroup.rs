//! The cgroup of a whole pod.
use k8s_openapi::api::core::v1::Pod;
use knarr_cgroups::{Cgroup, Cpu, Memory, Resources};

use crate::resources;

/// The pod's limits as cgroup settings.
fn settings(pod: &Pod) -> Resources {
    let r = resources::pod(pod);
    Resources {
        cpu: Some(Cpu {
            shares: u64::try_from(r.shares).ok(),
            quota: Some(r.quota.unwrap_or(-1)),
            period: u64::try_from(resources::CPU_PERIOD).ok(),
            ..Cpu::default()
        }),
        memory: r.memory.map(|limit| Memory {
            limit: Some(limit),
            ..Memory::default()
        }),
        ..Resources::default()
    }
}

/// Makes the pod's cgroup, or updates it.
///
/// # Errors
/// When the kernel refuses the folder; a limit that it refuses is only logged.
pub fn make(root: &str, pod: &Pod) -> Result<(), knarr_cgroups::Error> {
    let group = Cgroup::open(&resources::cgroup_path(root, pod))?;
    group.make()?;
    if let Err(error) = group.update(&settings(pod)) {
        tracing::warn!(%error, "limits of a pod's cgroup");
    }
    Ok(())
}

/// Removes the pod's cgroup, if it is there and empty.
pub fn remove(root: &str, pod: &Pod) {
    let path = resources::cgroup_path(root, pod);
    match Cgroup::open(&path) {
        Ok(g) if g.exists() => {
            if let Err(error) = g.remove() {
                tracing::debug!(%error, path, "removing a pod's cgroup");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, path, "opening a pod's cgroup"),
    }
}

/// Takes the pod's limits away for a moment, so that a container's may change in any direction.
pub fn widen(root: &str, pod: &Pod) {
    let mut open = settings(pod);
    if let Some(cpu) = &mut open.cpu {
        cpu.quota = Some(-1);
    }
    open.memory = Some(Memory {
        limit: Some(-1),
        ..Memory::default()
    });
    write(root, pod, &open);
}

/// Gives the pod's cgroup the limits of its specification.
pub fn settle(root: &str, pod: &Pod) {
    write(root, pod, &settings(pod));
}

fn write(root: &str, pod: &Pod, settings: &Resources) {
    let path = resources::cgroup_path(root, pod);
    let done = Cgroup::open(&path).and_then(|g| if g.exists() { g.update(settings) } else { Ok(()) });
    if let Err(error) = done {
        tracing::warn!(%error, path, "limits of a pod's cgroup");
    }
}
