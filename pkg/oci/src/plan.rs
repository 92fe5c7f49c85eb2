//! From a configuration to an ordered list of typed steps. Nothing is touched here.

mod cgroup;
mod devices;
mod mounts;
mod process;
mod sysctl;

use std::path::{Path, PathBuf};

use knarr_cgroups::Resources;
use knarr_cgroups::systemd::Unit;
use knarr_sys::process::ns;

use crate::config::{Hooks, IdMapping, Linux, Spec};
use crate::error::Error;
use crate::{rdt, seccomp};

pub use mounts::{MountPlan, MountSource, Propagation, option_names};
pub use process::ProcessPlan;

/// Everything that is to be done for a container, in order.
#[derive(Debug)]
pub struct Plan {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// The text for `uid_map` and `gid_map`, when there is a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// The cgroup's path.
    pub cgroup: String,
    /// The scope, when systemd is to make the cgroup.
    pub unit: Option<Unit>,
    /// Limits.
    pub resources: Resources,
    /// The root folder on the host, absolute.
    pub rootfs: PathBuf,
    /// Done before the root is switched, with the host's files in view.
    pub outside: Vec<Step>,
    /// Done after the root was switched.
    pub inside: Vec<Step>,
    /// The program.
    pub process: ProcessPlan,
    /// Shares of cache and memory bandwidth.
    pub(crate) rdt: Option<rdt::Class>,
    /// Network devices to move in: name on the host and in the container.
    pub net_devices: Vec<(String, String)>,
    /// Hooks.
    pub hooks: Hooks,
}

/// What the init does, one thing at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Bring `lo` up.
    Loopback,
    /// Set the host name.
    Hostname(String),
    /// Set the domain name.
    Domainname(String),
    /// Set the clocks' offsets: lines for `timens_offsets`.
    TimeOffsets(String),
    /// Make the host's mounts that the new namespace copied propagate nothing back, and mount
    /// the root folder onto itself.
    PrepareRoot(Propagation),
    /// Mount something.
    Mount(Box<MountPlan>),
    /// Make a device node.
    Device(DevicePlan),
    /// Make a symbolic link (target, path).
    Link(&'static str, &'static str),
    /// `/dev/ptmx` leads to the container's own devpts.
    Ptmx,
    /// Remount a target of an earlier mount read-only, now that it was filled.
    RemountReadonly(PathBuf),
    /// Make the root mount read-only.
    ReadonlyRoot,
    /// Set the final propagation of the root mount.
    RootPropagation(Propagation),
    /// Write a kernel setting (path below `/proc/sys`).
    Sysctl {
        /// Such as `net/ipv4/ip_forward`.
        path: String,
        /// The value.
        value: String,
    },
    /// Make a path read-only.
    ReadonlyPath(String),
    /// Hide a path.
    MaskPath(String),
}

impl Step {
    /// What an error message calls it.
    pub fn name(&self) -> String {
        match self {
            Step::Loopback => "bring up loopback".into(),
            Step::Hostname(_) => "set hostname".into(),
            Step::Domainname(_) => "set domainname".into(),
            Step::TimeOffsets(_) => "set time offsets".into(),
            Step::PrepareRoot(_) => "prepare rootfs".into(),
            Step::Mount(m) => format!(
                "error mounting {:?} to rootfs at {:?}",
                m.source_text, m.target
            ),
            Step::Device(d) => format!("create device {:?}", d.path),
            Step::Link(_, path) => format!("create link {path:?}"),
            Step::Ptmx => "create /dev/ptmx".into(),
            Step::RemountReadonly(p) => format!("remount {p:?} read-only"),
            Step::ReadonlyRoot => "remount rootfs read-only".into(),
            Step::RootPropagation(_) => "set rootfs propagation".into(),
            Step::Sysctl { path, .. } => format!("write sysctl {:?}", path.replace('/', ".")),
            Step::ReadonlyPath(p) => format!("make path {p:?} read-only"),
            Step::MaskPath(p) => format!("mask path {p:?}"),
        }
    }
}

/// Namespaces to make and to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Bits of those to make.
    pub new: u64,
    /// Those to join: bit and path.
    pub join: Vec<(u64, PathBuf)>,
}

impl Namespaces {
    /// Whether the container has one of its own, made or joined.
    pub fn has(&self, kind: u64) -> bool {
        self.new & kind != 0 || self.joins(kind)
    }
    /// Whether this kind is joined by path.
    pub fn joins(&self, kind: u64) -> bool {
        self.join.iter().any(|(k, _)| *k == kind)
    }
    /// The bits of all, made or joined.
    pub fn all(&self) -> u64 {
        self.join.iter().fold(self.new, |all, (k, _)| all | k)
    }
    /// Whether the init can only be made from inside a namespace that is joined first.
    pub fn needs_usher(&self) -> bool {
        self.joins(ns::USER)
            || self.joins(ns::PID)
            || (self.new & ns::USER != 0 && !self.join.is_empty())
    }
}

/// The lines of the two map files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// `uid_map`.
    pub uid: String,
    /// `gid_map`.
    pub gid: String,
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// In the container.
    pub path: String,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bind the host's node instead (a user namespace may not make nodes).
    pub bind: bool,
}

/// What is not in the configuration but decides the plan.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The container's name.
    pub id: &'a str,
    /// The bundle folder, absolute.
    pub bundle: &'a Path,
    /// Systemd's cgroup naming.
    pub systemd_cgroup: bool,
    /// Whether the caller gives a terminal.
    pub terminal: bool,
}

/// Checks the whole configuration and makes the plan.
///
/// # Errors
/// [`Error::Config`] naming the field.
pub fn build(spec: &Spec, opt: Options<'_>) -> Result<Plan, Error> {
    check_version(&spec.version)?;
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| Error::config("root", "must be set"))?;
    if root.path.is_empty() {
        return Err(Error::config("root.path", "must not be empty"));
    }
    let rootfs = opt.bundle.join(&root.path);
    let process = spec
        .process
        .as_ref()
        .ok_or_else(|| Error::config("process", "must be set"))?;
    if opt.terminal != process.terminal {
        return Err(Error::config(
            "process.terminal",
            if process.terminal {
                "needs a console"
            } else {
                "is false but a console was given"
            },
        ));
    }
    let namespaces = namespaces(&spec.linux)?;
    let id_maps = id_maps(&spec.linux, &namespaces)?;
    if !spec.hostname.is_empty() && !namespaces.has(ns::UTS) {
        return Err(Error::config("hostname", "needs a uts namespace"));
    }
    if !spec.domainname.is_empty() && !namespaces.has(ns::UTS) {
        return Err(Error::config("domainname", "needs a uts namespace"));
    }
    let in_userns = namespaces.has(ns::USER);
    let seccomp = match &spec.linux.seccomp {
        Some(s) => seccomp::compile(s)?,
        None => None,
    };
    let process = ProcessPlan::build(process, &spec.linux, seccomp, in_userns)?;
    let mut plan = Plan {
        cgroup: cgroup::path(&spec.linux.cgroups_path, opt)?,
        unit: cgroup::unit(&spec.linux.cgroups_path, opt)?,
        resources: devices::resources(&spec.linux),
        rootfs,
        outside: Vec::new(),
        inside: Vec::new(),
        process,
        rdt: match &spec.linux.intel_rdt {
            Some(r) => Some(rdt::Class::plan(r, opt.id, Path::new(rdt::MOUNT))?),
            None => None,
        },
        net_devices: net_devices(&spec.linux, &namespaces)?,
        hooks: spec.hooks.clone(),
        id_maps,
        namespaces,
    };
    check_hooks(&spec.hooks)?;
    steps(&mut plan, spec, root.readonly)?;
    Ok(plan)
}

fn steps(plan: &mut Plan, spec: &Spec, readonly: bool) -> Result<(), Error> {
    let linux = &spec.linux;
    if plan.namespaces.new & ns::NET != 0 {
        plan.outside.push(Step::Loopback);
    }
    if !linux.time_offsets.is_empty() {
        let mut lines = String::new();
        for (clock, o) in &linux.time_offsets {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::config(
                    format!("linux.timeOffsets[{clock:?}]"),
                    "must be monotonic or boottime",
                ));
            }
            lines.push_str(&format!("{clock} {} {}\n", o.secs, o.nanosecs));
        }
        if plan.namespaces.new & ns::TIME == 0 {
            return Err(Error::config(
                "linux.timeOffsets",
                "needs a new time namespace",
            ));
        }
        plan.outside.push(Step::TimeOffsets(lines));
    }
    let propagation = Propagation::parse(&linux.rootfs_propagation).ok_or_else(|| {
        Error::config(
            "linux.rootfsPropagation",
            format!("unknown value {:?}", linux.rootfs_propagation),
        )
    })?;
    let in_userns = plan.namespaces.has(ns::USER);
    if plan.namespaces.new & ns::MOUNT != 0 {
        plan.outside.push(Step::PrepareRoot(propagation));
        let mut own_dev = false;
        let mut filled_later = Vec::new();
        for (i, m) in spec.mounts.iter().enumerate() {
            let mut mount = MountPlan::build(m, i, &plan.namespaces)?;
            if !linux.mount_label.is_empty() && selinux_is_on() {
                mount.label(&linux.mount_label);
            }
            if mount.target == Path::new("/dev") {
                own_dev = !mount.is_bind();
                if own_dev && mount.readonly_later() {
                    filled_later.push(mount.target.clone());
                }
            }
            plan.outside.push(Step::Mount(Box::new(mount)));
        }
        // A bind-mounted /dev belongs to someone else: nothing is made in it.
        let no_dev_mount = !spec
            .mounts
            .iter()
            .any(|m| m.destination.trim_end_matches('/') == "/dev");
        if own_dev || no_dev_mount {
            devices::nodes(plan, &linux.devices, in_userns)?;
            plan.outside.push(Step::Ptmx);
            for (target, path) in [
                ("/proc/self/fd", "/dev/fd"),
                ("/proc/self/fd/0", "/dev/stdin"),
                ("/proc/self/fd/1", "/dev/stdout"),
                ("/proc/self/fd/2", "/dev/stderr"),
            ] {
                plan.outside.push(Step::Link(target, path));
            }
        }
        let late = filled_later.into_iter().map(Step::RemountReadonly);
        plan.inside.extend(late);
        if readonly {
            plan.inside.push(Step::ReadonlyRoot);
        }
        if propagation.is_set() {
            plan.inside.push(Step::RootPropagation(propagation));
        }
    } else if (!linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty())
        && !plan.namespaces.has(ns::MOUNT)
    {
        return Err(Error::config(
            "linux.maskedPaths",
            "masked and read-only paths need a mount namespace",
        ));
    }
    if !spec.hostname.is_empty() {
        plan.inside.push(Step::Hostname(spec.hostname.clone()));
    }
    if !spec.domainname.is_empty() {
        plan.inside.push(Step::Domainname(spec.domainname.clone()));
    }
    for (key, value) in &linux.sysctl {
        plan.inside
            .push(sysctl::step(key, value, &plan.namespaces)?);
    }
    for path in &linux.readonly_paths {
        check_absolute("linux.readonlyPaths", path)?;
        plan.inside.push(Step::ReadonlyPath(path.clone()));
    }
    for path in &linux.masked_paths {
        check_absolute("linux.maskedPaths", path)?;
        plan.inside.push(Step::MaskPath(path.clone()));
    }
    Ok(())
}

fn selinux_is_on() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn check_absolute(field: &str, path: &str) -> Result<(), Error> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(Error::config(field, format!("{path:?} is not absolute")))
}

fn check_version(version: &str) -> Result<(), Error> {
    if version.split('.').next() == Some("1") {
        return Ok(());
    }
    Err(Error::config(
        "ociVersion",
        format!("{version:?} is not a 1.x version"),
    ))
}

fn check_hooks(hooks: &Hooks) -> Result<(), Error> {
    for (kind, list) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        for (i, hook) in list.iter().enumerate() {
            check_absolute(&format!("hooks.{kind}[{i}].path"), &hook.path)?;
            if hook.timeout.is_some_and(|t| t <= 0) {
                return Err(Error::config(
                    format!("hooks.{kind}[{i}].timeout"),
                    "must be greater than zero",
                ));
            }
        }
    }
    Ok(())
}

fn namespaces(linux: &Linux) -> Result<Namespaces, Error> {
    let mut out = Namespaces::default();
    for (i, n) in linux.namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{i}]");
        let kind = match n.kind.as_str() {
            "pid" => ns::PID,
            "network" => ns::NET,
            "mount" => ns::MOUNT,
            "ipc" => ns::IPC,
            "uts" => ns::UTS,
            "user" => ns::USER,
            "cgroup" => ns::CGROUP,
            "time" => ns::TIME,
            other => {
                let cause = format!("unknown type {other:?}");
                return Err(Error::config(format!("{field}.type"), cause));
            }
        };
        if out.has(kind) {
            let cause = format!("{:?} is there twice", n.kind);
            return Err(Error::config(field, cause));
        }
        if n.path.is_empty() {
            out.new |= kind;
        } else {
            check_absolute(&format!("{field}.path"), &n.path)?;
            out.join.push((kind, PathBuf::from(&n.path)));
        }
    }
    Ok(out)
}

fn net_devices(linux: &Linux, own: &Namespaces) -> Result<Vec<(String, String)>, Error> {
    if !linux.net_devices.is_empty() && !own.has(ns::NET) {
        return Err(Error::config(
            "linux.netDevices",
            "needs a network namespace",
        ));
    }
    let valid = |name: &str| {
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        !matches!(name, "" | "." | "..") && name.len() < 16 && !name.contains(odd)
    };
    let mut devices: Vec<(String, String)> = Vec::new();
    for (host, device) in &linux.net_devices {
        let field = format!("linux.netDevices[{host:?}]");
        let name = match device.name.as_str() {
            "" => host,
            other => other,
        };
        if !valid(host) || !valid(name) {
            return Err(Error::config(field, "is not a name of a network device"));
        }
        if devices.iter().any(|(_, taken)| taken == name) {
            return Err(Error::config(field, format!("{name:?} is there twice")));
        }
        devices.push((host.clone(), name.to_string()));
    }
    Ok(devices)
}

fn id_maps(linux: &Linux, namespaces: &Namespaces) -> Result<Option<IdMaps>, Error> {
    if namespaces.new & ns::USER == 0 {
        let given = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        if given && !namespaces.joins(ns::USER) {
            return Err(Error::config(
                "linux.uidMappings",
                "id mappings need a user namespace",
            ));
        }
        return Ok(None);
    }
    let lines = |field: &str, maps: &[IdMapping]| -> Result<String, Error> {
        if maps.is_empty() {
            return Err(Error::config(
                field,
                "a new user namespace needs id mappings",
            ));
        }
        let mut text = String::new();
        for m in maps {
            if m.size == 0 {
                return Err(Error::config(field, "a mapping of size 0"));
            }
            text.push_str(&format!("{} {} {}\n", m.container, m.host, m.size));
        }
        Ok(text)
    };
    Ok(Some(IdMaps {
        uid: lines("linux.uidMappings", &linux.uid_mappings)?,
        gid: lines("linux.gidMappings", &linux.gid_mappings)?,
    }))
}

#[cfg(test)]
mod tests;
