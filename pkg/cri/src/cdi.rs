//! Devices by name (Container Device Interface 1.1): what their vendors' files say is done to the
//! configuration of a container that asks for them.

mod edits;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use knarr_cri_api::v1::ContainerConfig;
use serde_json::Value;

use crate::Error;
use model::{Edits, Spec, is_qualified};

/// Annotations of containers that name devices, as older kubelets ask for them.
const ANNOTATION: &str = "cdi.k8s.io/";

/// The usual folders; what a later one has counts more.
pub(crate) const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The names of all devices a container asks for, each once.
fn names(config: &ContainerConfig) -> Result<Vec<String>, Error> {
    let mut out: Vec<String> = config.cdi_devices.iter().map(|d| d.name.clone()).collect();
    let annotations: BTreeMap<_, _> = config
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .collect();
    for name in annotations.values().flat_map(|v| v.split(',')) {
        if !is_qualified(name) {
            return Err(Error::Invalid(format!(
                "failed to parse CDI device annotations: invalid CDI device name {name:?}"
            )));
        }
        out.push(name.to_owned());
    }
    let mut seen = BTreeSet::new();
    out.retain(|name| seen.insert(name.clone()));
    Ok(out)
}

/// What the folders have, read anew: files may come and go at any time.
#[derive(Debug, Default)]
struct Registry {
    specs: Vec<Spec>,
    /// By qualified name: priority, place of the file, place of the device in it.
    devices: BTreeMap<String, (usize, usize, usize)>,
}

impl Registry {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut out = Self::default();
        let mut conflicts = BTreeSet::new();
        for (priority, dir) in dirs.iter().enumerate() {
            for path in files(dir) {
                let read = fs::read_to_string(&path).map_err(|e| e.to_string());
                let spec = match read.and_then(|text| Spec::parse(&text)) {
                    Ok(spec) => spec,
                    // One vendor's broken file keeps nobody from another's devices.
                    Err(error) => {
                        tracing::warn!(path = %path.display(), error, "failed to load CDI Spec");
                        continue;
                    }
                };
                for (n, device) in spec.devices.iter().enumerate() {
                    let name = format!("{}={}", spec.kind, device.name);
                    match out.devices.get(&name) {
                        Some((other, ..)) if *other == priority => {
                            tracing::warn!(path = %path.display(), name, "conflicting CDI device");
                            conflicts.insert(name);
                        }
                        _ => {
                            conflicts.remove(&name);
                            out.devices.insert(name, (priority, out.specs.len(), n));
                        }
                    }
                }
                out.specs.push(spec);
            }
        }
        // Which of several is meant nobody can tell.
        out.devices.retain(|name, _| !conflicts.contains(name));
        out
    }

    /// All edits for these devices: of each file once, before those of its first device.
    fn edits(&self, names: &[String]) -> Result<Edits, String> {
        let missing: Vec<&str> = names
            .iter()
            .filter(|n| !self.devices.contains_key(*n))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            return Err(format!("unresolvable CDI devices {}", missing.join(", ")));
        }
        let mut out = Edits::default();
        let mut used = BTreeSet::new();
        for (_, file, device) in names.iter().filter_map(|n| self.devices.get(n)) {
            let Some(spec) = self.specs.get(*file) else {
                continue;
            };
            if used.insert(*file) {
                out.append(&spec.container_edits);
            }
            if let Some(device) = spec.devices.get(*device) {
                out.append(&device.container_edits);
            }
        }
        Ok(out)
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut out: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "json" || x == "yaml"))
        .collect();
    out.sort();
    out
}

/// Gives a container the devices it asks for by name.
pub(crate) fn inject(
    dirs: &[PathBuf],
    config: &ContainerConfig,
    spec: &mut Value,
) -> Result<(), Error> {
    let names = names(config)?;
    if names.is_empty() {
        return Ok(());
    }
    let failed = |e: String| Error::Invalid(format!("CDI device injection failed: {e}"));
    let edits = Registry::read(dirs).edits(&names).map_err(failed)?;
    edits::apply(&edits, spec).map_err(|e| failed(format!("failed to inject devices: {e}")))
}

#[cfg(test)]
mod tests;
