//! Configuration files.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A list of plugins, each with its own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chain {
    #[serde(default = "oldest")]
    pub cni_version: String,
    /// All versions that the plugins know; the newest known here is spoken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cni_versions: Vec<String>,
    pub name: String,
    #[serde(default)]
    pub disable_check: bool,
    #[serde(default, rename = "disableGC")]
    pub disable_gc: bool,
    pub plugins: Vec<Map<String, Value>>,
}

fn oldest() -> String {
    "0.2.0".to_owned()
}

/// What plugins do only in newer versions, or where they are not told to leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Check,
    Gc,
    Status,
}

/// The newest version that is spoken here.
const NEWEST: (u32, u32) = (1, 1);

fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

impl Chain {
    /// The first configuration of a folder, by file name.
    pub fn first(dir: &Path) -> Result<Self, String> {
        let none = || {
            format!(
                "no network config found in {}: cni plugin not initialized",
                dir.display()
            )
        };
        let mut files: Vec<_> = fs::read_dir(dir)
            .map_err(|_| none())?
            .flatten()
            .map(|e| e.path())
            .filter(|p| {
                p.extension()
                    .is_some_and(|x| x == "conflist" || x == "conf" || x == "json")
            })
            .collect();
        files.sort();
        let mut wrong = None;
        for file in files {
            match fs::read(&file)
                .map_err(|e| e.to_string())
                .and_then(|bytes| Self::parse(&bytes))
            {
                Ok(chain) => return Ok(chain),
                Err(e) => {
                    wrong.get_or_insert(format!("{}: {e}", file.display()));
                }
            }
        }
        Err(wrong.unwrap_or_else(none))
    }

    /// Reads a list, or a single plugin's configuration as a list of one.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if value.get("plugins").is_none() {
            let plugin = value.clone();
            value = json!({ "name": plugin["name"], "plugins": [plugin] });
            if let Some(version) = value["plugins"][0].get("cniVersion").cloned() {
                value["cniVersion"] = version;
            }
        }
        let mut chain: Self = serde_json::from_value(value).map_err(|e| e.to_string())?;
        let known = chain.cni_versions.iter().filter(|v| version(v) <= NEWEST);
        if let Some(best) = known.max_by_key(|v| version(v)).cloned() {
            chain.cni_version = best;
        }
        if version(&chain.cni_version) > NEWEST {
            return Err(format!("unsupported cniVersion {:?}", chain.cni_version));
        }
        if chain.plugins.is_empty() {
            return Err("it names no plugin".into());
        }
        for (i, plugin) in chain.plugins.iter().enumerate() {
            let kind = plugin
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if kind.is_empty() || kind.contains('/') {
                return Err(format!(
                    "plugins[{i}].type: {kind:?} is not the name of a plugin"
                ));
            }
        }
        Ok(chain)
    }

    /// The program of a plugin.
    pub fn kind(&self, i: usize) -> &str {
        self.plugins
            .get(i)
            .and_then(|p| p.get("type"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether the plugins are to be asked for it.
    pub fn knows(&self, verb: Verb) -> bool {
        let version = version(&self.cni_version);
        match verb {
            Verb::Check => version >= (0, 4) && !self.disable_check,
            Verb::Gc => version >= (1, 1) && !self.disable_gc,
            Verb::Status => version >= (1, 1),
        }
    }

    /// What a plugin reads: its own configuration, the network's name and version, the result so
    /// far, and what its capabilities ask for.
    pub fn input(&self, i: usize, previous: &Value, runtime: &Map<String, Value>) -> Value {
        let mut out = self.plugins.get(i).cloned().unwrap_or_default();
        let asked = out.remove("capabilities");
        let told: Map<String, Value> = runtime
            .iter()
            .filter(|(name, _)| asked.as_ref().is_some_and(|c| c[name.as_str()] == true))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            out.insert("runtimeConfig".into(), Value::Object(told));
        }
        out.insert("name".into(), json!(self.name));
        out.insert("cniVersion".into(), json!(self.cni_version));
        if !previous.is_null() {
            out.insert("prevResult".into(), previous.clone());
        }
        Value::Object(out)
    }
}
