//! A CDI specification file: its shape and what it must be (CDI 1.1).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Names of hooks, as in the OCI runtime specification.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// The versions there are, oldest first.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// `null` is as good as nothing.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A mode, which in YAML may be written in octal with nothing but a zero before it.
fn mode<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }
    match Option::<Written>::deserialize(d)? {
        None => Ok(None),
        Some(Written::Number(n)) => Ok(Some(n)),
        Some(Written::Text(text)) => {
            let octal = text.strip_prefix('0').map(|t| u32::from_str_radix(t, 8));
            octal
                .and_then(Result::ok)
                .map(Some)
                .ok_or_else(|| D::Error::custom(format!("invalid file mode {text:?}")))
        }
    }
}

macro_rules! shapes {
    ($( $(#[$meta:meta])* $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub(super) struct $name { $(
            $(#[$fmeta])*
            #[serde(default, deserialize_with = "nullable")]
            pub $field: $ty,
        )* }
    )* };
}

shapes! {
    /// A network interface of the host that moves into the container.
    NetDevice { host_interface_name: String, name: String }
    /// Something mounted.
    Mount { host_path: String, container_path: String, options: Vec<String>, r#type: String }
    /// A program that runs at some time of the container's life.
    Hook { hook_name: String, path: String, args: Vec<String>, env: Vec<String>, timeout: Option<i64> }
    /// Shares of cache and memory bandwidth.
    IntelRdt {
        #[serde(rename = "closID")]
        clos_id: String,
        l3_cache_schema: String,
        mem_bw_schema: String,
        schemata: Vec<String>,
        enable_monitoring: bool,
    }
    /// What is changed in a container's configuration.
    Edits {
        env: Vec<String>,
        device_nodes: Vec<DeviceNode>,
        net_devices: Vec<NetDevice>,
        hooks: Vec<Hook>,
        mounts: Vec<Mount>,
        intel_rdt: Option<IntelRdt>,
        additional_gids: Vec<u32>,
    }
    /// A device by name.
    Device { name: String, annotations: BTreeMap<String, String>, container_edits: Edits }
    /// A file.
    Spec {
        cdi_version: String,
        kind: String,
        annotations: BTreeMap<String, String>,
        devices: Vec<Device>,
        container_edits: Edits,
    }
}

/// A device node; what is not given is as on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeviceNode {
    pub path: String,
    pub host_path: String,
    pub r#type: String,
    pub major: i64,
    pub minor: i64,
    #[serde(deserialize_with = "mode")]
    pub file_mode: Option<u32>,
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Spec {
    /// Reads a file's text, YAML or JSON, and checks it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = serde_yaml_ng::from_str(text)
            .map_err(|e| format!("failed to unmarshal CDI Spec: {e}"))?;
        spec.check().map_err(|e| format!("invalid CDI Spec: {e}"))?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let version = self
            .cdi_version
            .strip_prefix('v')
            .unwrap_or(&self.cdi_version);
        let place = |v: &str| VERSIONS.iter().position(|known| *known == v);
        let Some(own) = place(version) else {
            return Err(format!("invalid version {:?}", self.cdi_version));
        };
        let least = self.least_version();
        if place(least).is_some_and(|least| least > own) {
            return Err(format!("the spec version must be at least v{least}"));
        }
        let (vendor, class) = self.kind.split_once('/').unwrap_or_default();
        check_name(vendor).map_err(|e| format!("invalid vendor. {e}"))?;
        check_name(class).map_err(|e| format!("invalid class. {e}"))?;
        self.container_edits.check()?;
        let mut names = BTreeSet::new();
        for device in &self.devices {
            device
                .check()
                .map_err(|e| format!("failed add device {:?}: {e}", device.name))?;
            if !names.insert(&device.name) {
                return Err(format!("invalid spec, multiple device {:?}", device.name));
            }
        }
        if names.is_empty() {
            Err("invalid spec, no devices".to_owned())
        } else {
            Ok(())
        }
    }

    /// The oldest version that has all that the file uses.
    fn least_version(&self) -> &'static str {
        let edits = || {
            self.devices
                .iter()
                .map(|d| &d.container_edits)
                .chain([&self.container_edits])
        };
        let uses = |what: fn(&Edits) -> bool| edits().any(what);
        let rdt = |e: &Edits| {
            e.intel_rdt
                .as_ref()
                .is_some_and(|r| !r.schemata.is_empty() || r.enable_monitoring)
        };
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        if edits().any(rdt) || uses(|e| !e.net_devices.is_empty()) {
            "1.1.0"
        } else if uses(|e| e.intel_rdt.is_some() || !e.additional_gids.is_empty()) {
            "0.7.0"
        } else if class.contains('.')
            || !self.annotations.is_empty()
            || self.devices.iter().any(|d| !d.annotations.is_empty())
        {
            "0.6.0"
        } else if uses(|e| e.device_nodes.iter().any(|d| !d.host_path.is_empty()))
            || self
                .devices
                .iter()
                .any(|d| d.name.starts_with(|c: char| c.is_ascii_digit()))
        {
            "0.5.0"
        } else if uses(|e| e.mounts.iter().any(|m| !m.r#type.is_empty())) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }
}

impl Device {
    fn check(&self) -> Result<(), String> {
        check_device_name(&self.name)?;
        if self.container_edits == Edits::default() {
            return Err("invalid device, empty device edits".to_owned());
        }
        self.container_edits
            .check()
            .map_err(|e| format!("invalid device {:?}: {e}", self.name))
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        check_env(&self.env).map_err(|e| format!("invalid container edits: {e}"))?;
        for d in &self.device_nodes {
            if d.path.is_empty() {
                return Err("invalid (empty) device path".to_owned());
            }
            if !["", "b", "c", "u", "p"].contains(&d.r#type.as_str()) {
                return Err(format!("device {:?}: invalid type {:?}", d.path, d.r#type));
            }
            if !d.permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(format!(
                    "device {:?}: invalid permissions {:?}",
                    d.path, d.permissions
                ));
            }
        }
        for h in &self.hooks {
            if !HOOKS.contains(&h.hook_name.as_str()) {
                return Err(format!("invalid hook name {:?}", h.hook_name));
            }
            if h.path.is_empty() {
                return Err(format!("invalid hook {:?} with empty path", h.hook_name));
            }
            check_env(&h.env).map_err(|e| format!("invalid hook {:?}: {e}", h.hook_name))?;
        }
        for m in &self.mounts {
            if m.host_path.is_empty() {
                return Err("invalid mount, empty host path".to_owned());
            }
            if m.container_path.is_empty() {
                return Err("invalid mount, empty container path".to_owned());
            }
        }
        if let Some(rdt) = &self.intel_rdt {
            let id = rdt.clos_id.as_str();
            if id != "/"
                && (id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n']))
            {
                return Err("invalid ClosID".to_owned());
            }
        }
        let (mut hosts, mut names) = (BTreeSet::new(), BTreeSet::new());
        for d in &self.net_devices {
            let bad = |what: &str| Err(format!("invalid linux net device, {what}"));
            if d.host_interface_name.is_empty() {
                return bad("empty HostInterfaceName");
            }
            if d.name.is_empty() {
                return bad("empty Name");
            }
            if !hosts.insert(&d.host_interface_name) {
                return bad(&format!(
                    "duplicate HostInterfaceName {:?}",
                    d.host_interface_name
                ));
            }
            if !names.insert(&d.name) {
                return bad(&format!("duplicate Name {:?}", d.name));
            }
        }
        Ok(())
    }

    /// Adds other edits behind these.
    pub(super) fn append(&mut self, other: &Self) {
        let o = other.clone();
        self.env.extend(o.env);
        self.device_nodes.extend(o.device_nodes);
        self.net_devices.extend(o.net_devices);
        self.hooks.extend(o.hooks);
        self.mounts.extend(o.mounts);
        self.intel_rdt = o.intel_rdt.or(self.intel_rdt.take());
        self.additional_gids.extend(o.additional_gids);
    }
}

fn check_env(env: &[String]) -> Result<(), String> {
    match env.iter().find(|e| e.find('=').is_none_or(|at| at == 0)) {
        Some(bad) => Err(format!("invalid environment variable {bad:?}")),
        None => Ok(()),
    }
}

/// A vendor's or class's name.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("empty name".to_owned());
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("{name:?}, should start with letter"));
    }
    if let Some(c) = name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"_-.".contains(*c))
    {
        return Err(format!("invalid character '{c}' in name {name:?}"));
    }
    match name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => Err(format!("{name:?}, should end with a letter or digit")),
    }
}

fn check_device_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("invalid (empty) device name".to_owned());
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!(
            "invalid class {name:?}, should start with a letter or digit"
        ));
    }
    if let Some(c) = name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"_-.:".contains(*c))
    {
        return Err(format!("invalid character '{c}' in device name {name:?}"));
    }
    match name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => Err(format!(
            "invalid name {name:?}, should end with a letter or digit"
        )),
    }
}

/// Whether a name is a device's with its vendor and class.
pub(super) fn is_qualified(name: &str) -> bool {
    name.split_once('=').is_some_and(|(kind, device)| {
        kind.split_once('/').is_some_and(|(vendor, class)| {
            check_name(vendor).is_ok()
                && check_name(class).is_ok()
                && check_device_name(device).is_ok()
        })
    })
}
