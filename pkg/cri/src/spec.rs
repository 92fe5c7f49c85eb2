//! The runtime configuration (`config.json`) of pause processes and containers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use knarr_cri_api::v1::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig,
    SecurityProfile, security_profile::ProfileType,
};
use knarr_images::ImageConfig;
use serde_json::{Value, json};

use crate::Error;

pub(crate) mod caps;
pub(crate) mod devices;
pub(crate) mod mounts;
pub(crate) mod resources;
pub(crate) mod seccomp;
pub(crate) mod user;
pub(crate) mod userns;

use user::Identity;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container takes from its sandbox.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub config: &'a PodSandboxConfig,
    pub id: &'a str,
    pub pause_pid: i32,
    /// The sandbox's own folder: `hostname`, `resolv.conf`, `hosts`, `shm`.
    pub dir: &'a Path,
    pub hostname: &'a str,
    pub cgroup_parent: &'a str,
}

/// What is known before a container's configuration is made.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub id: &'a str,
    pub config: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    /// The mounted root.
    pub rootfs: &'a Path,
    pub identity: &'a Identity,
    /// The init of the container whose PID namespace is joined.
    pub target_pid: Option<i32>,
    /// Image volumes, mounted: by index of the request's mounts.
    pub image_mounts: &'a [Option<PathBuf>],
}

/// How a pod shares namespaces; absent options are CRI's defaults.
pub(crate) fn namespace_mode(value: Option<i32>) -> Result<NamespaceMode, Error> {
    NamespaceMode::try_from(value.unwrap_or(0))
        .map_err(|_| Error::Invalid("unknown namespace mode".to_owned()))
}

/// Whether the sandbox is on the host's network.
pub(crate) fn host_network(config: &PodSandboxConfig) -> bool {
    sandbox_options(config).is_some_and(|o| o.network == NamespaceMode::Node as i32)
}

pub(crate) fn sandbox_options(
    config: &PodSandboxConfig,
) -> Option<&knarr_cri_api::v1::NamespaceOption> {
    config
        .linux
        .as_ref()?
        .security_context
        .as_ref()?
        .namespace_options
        .as_ref()
}

fn cgroup_namespace() -> Option<Value> {
    resources::unified_cgroups().then(|| json!({ "type": "cgroup" }))
}

/// The configuration of a sandbox's pause process.
pub(crate) fn pause(
    id: &str,
    config: &PodSandboxConfig,
    hostname: &str,
    rootfs: &Path,
    cgroup_parent: &str,
) -> Result<Value, Error> {
    let options = sandbox_options(config);
    let userns = userns::wanted(options)?;
    let mode =
        |pick: fn(&knarr_cri_api::v1::NamespaceOption) -> i32| namespace_mode(options.map(pick));
    let mut namespaces = vec![json!({ "type": "mount" })];
    if mode(|o| o.pid)? != NamespaceMode::Node {
        namespaces.push(json!({ "type": "pid" }));
    }
    if mode(|o| o.ipc)? != NamespaceMode::Node {
        namespaces.push(json!({ "type": "ipc" }));
    }
    let own_network = mode(|o| o.network)? != NamespaceMode::Node;
    if userns.is_some() {
        if !own_network {
            return Err(Error::Unsupported(
                "a user namespace of pods on the node's network".to_owned(),
            ));
        }
        namespaces.push(json!({ "type": "user" }));
    }
    if own_network {
        namespaces.push(json!({ "type": "network" }));
        namespaces.push(json!({ "type": "uts" }));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let uid = context.run_as_user.as_ref().map_or(65535, |v| v.value);
    let gid = context.run_as_group.as_ref().map_or(65535, |v| v.value);
    let mut sysctls = linux.sysctls;
    if own_network {
        // As container engines do: any port may be bound, any group may ping.
        let mut usual = |key: &str, value: &str| {
            sysctls
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        };
        usual("net.ipv4.ip_unprivileged_port_start", "0");
        // All groups that there are.
        let last = userns.map_or(i32::MAX as u32, |u| u.gids.length - 1);
        usual("net.ipv4.ping_group_range", &format!("0 {last}"));
    }
    let mut out = json!({
        "ociVersion": "1.2.0",
        "process": {
            "args": ["/pause"],
            "env": [PATH],
            "cwd": "/",
            "user": { "uid": uid, "gid": gid, "additionalGids": context.supplemental_groups },
            "noNewPrivileges": true,
            "oomScoreAdj": resources::oom_score_adj(-998),
            "capabilities": caps::Caps::default().json(),
        },
        "root": { "path": rootfs, "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=64k"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": format!("{cgroup_parent}/{id}"),
            "resources": { "cpu": { "shares": 2 }, "devices": [{ "allow": false, "access": "rwm" }] },
            "sysctl": sysctls,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if own_network {
        out["hostname"] = json!(hostname);
    }
    if let Some(userns) = userns {
        userns.apply(&mut out["linux"]);
    }
    let profile = context.seccomp.as_ref();
    if let Some(profile) = seccomp_of(profile, &[], context.privileged)? {
        out["linux"]["seccomp"] = profile;
    }
    Ok(out)
}

/// The configuration of a container.
pub(crate) fn container(pod: &Pod<'_>, c: &Container<'_>) -> Result<Value, Error> {
    let linux = c.config.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let limits = linux.resources.unwrap_or_default();
    if apparmor_wanted(&context) && !Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        return Err(Error::Invalid(
            "apparmor is not supported on this host, but the profile is specified".to_owned(),
        ));
    }
    let privileged = context.privileged;
    let userns = userns::wanted(sandbox_options(pod.config))?;
    userns::check_same(
        sandbox_options(pod.config),
        context.namespace_options.as_ref(),
    )?;
    let caps = caps::resolve(context.capabilities.as_ref(), privileged)?;
    let (mounts, propagation) = mounts::all(pod, c, &context)?;
    let (devices, rules) = devices::all(&c.config.devices, privileged)?;
    let mut resources = resources::json(&limits);
    resources["devices"] = rules;
    let process = json!({
        "terminal": c.config.tty,
        "args": args(c.config, c.image)?,
        "env": env(pod, c),
        "cwd": cwd(c.config, c.image),
        "user": { "uid": c.identity.uid, "gid": c.identity.gid, "umask": 18,
                  "additionalGids": c.identity.groups },
        "noNewPrivileges": context.no_new_privs,
        "oomScoreAdj": resources::oom_score_adj(limits.oom_score_adj),
        "capabilities": caps.json(),
    });
    let mut out = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": { "path": c.rootfs, "readonly": context.readonly_rootfs },
        "mounts": mounts,
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": pod.id,
        },
        "linux": {
            "namespaces": namespaces(pod, c, &context)?,
            "cgroupsPath": format!("{}/{}", pod.cgroup_parent, c.id),
            "resources": resources,
            "devices": devices,
        },
    });
    if let Some(propagation) = propagation {
        out["linux"]["rootfsPropagation"] = json!(propagation);
    }
    if let Some(userns) = userns {
        userns.apply(&mut out["linux"]);
    }
    if !privileged {
        out["linux"]["maskedPaths"] = json!(context.masked_paths);
        out["linux"]["readonlyPaths"] = json!(context.readonly_paths);
    }
    let profile = context.seccomp.as_ref();
    if let Some(profile) = seccomp_of(profile, &caps.bounding, privileged)? {
        out["linux"]["seccomp"] = profile;
    }
    Ok(out)
}

/// The program with its arguments: the request's, or the image's.
fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        command.clone_from(&image.entrypoint);
    }
    command.extend(args);
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid("no command specified".to_owned()));
    }
    Ok(command)
}

fn cwd<'a>(config: &'a ContainerConfig, image: &'a ImageConfig) -> &'a str {
    [config.working_dir.as_str(), image.working_dir.as_str()]
        .into_iter()
        .find(|d| !d.is_empty())
        .unwrap_or("/")
}

fn env(pod: &Pod<'_>, c: &Container<'_>) -> Vec<String> {
    let mut out: Vec<String> = vec![PATH.to_owned()];
    let mut set = |entry: String| {
        let key = entry
            .split_once('=')
            .map_or(entry.as_str(), |(k, _)| k)
            .to_owned();
        let same = |e: &String| e.split_once('=').is_some_and(|(k, _)| k == key);
        match out.iter().position(same) {
            Some(at) => out[at] = entry,
            None => out.push(entry),
        }
    };
    if c.config.tty {
        set("TERM=xterm".to_owned());
    }
    set(format!("HOSTNAME={}", pod.hostname));
    for entry in &c.image.env {
        set(entry.clone());
    }
    for pair in &c.config.envs {
        set(format!(
            "{}={}",
            pair.key,
            String::from_utf8_lossy(&pair.value)
        ));
    }
    let home = c.identity.home.as_deref().unwrap_or("/");
    if !out.iter().any(|e| e.starts_with("HOME=")) {
        out.push(format!("HOME={home}"));
    }
    out
}

fn namespaces(
    pod: &Pod<'_>,
    c: &Container<'_>,
    context: &LinuxContainerSecurityContext,
) -> Result<Vec<Value>, Error> {
    let options = context.namespace_options.as_ref();
    let of_pause = |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{}/ns/{file}", pod.pause_pid) });
    let mut out = vec![json!({ "type": "mount" })];
    if userns::wanted(sandbox_options(pod.config))?.is_some() {
        out.push(of_pause("user", "user"));
    }
    if !host_network(pod.config) {
        out.push(of_pause("network", "net"));
        out.push(of_pause("uts", "uts"));
    }
    if sandbox_options(pod.config).is_none_or(|o| o.ipc != NamespaceMode::Node as i32) {
        out.push(of_pause("ipc", "ipc"));
    }
    match namespace_mode(options.map(|o| o.pid))? {
        NamespaceMode::Pod => out.push(of_pause("pid", "pid")),
        NamespaceMode::Container => out.push(json!({ "type": "pid" })),
        NamespaceMode::Node => {}
        NamespaceMode::Target => {
            let pid = c.target_pid.ok_or_else(|| {
                Error::Invalid("the target container of the PID namespace does not run".to_owned())
            })?;
            out.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
        }
    }
    if !context.privileged {
        out.extend(cgroup_namespace());
    }
    Ok(out)
}

fn apparmor_wanted(context: &LinuxContainerSecurityContext) -> bool {
    context
        .apparmor
        .as_ref()
        .is_some_and(|p| p.profile_type == ProfileType::Localhost as i32)
}

/// The filter to install, if any.
fn seccomp_of(
    profile: Option<&SecurityProfile>,
    capabilities: &[String],
    privileged: bool,
) -> Result<Option<Value>, Error> {
    let Some(profile) = profile.filter(|_| !privileged) else {
        return Ok(None);
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Some(seccomp::runtime_default(capabilities))),
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::Localhost) => {
            let path = profile.localhost_ref.trim_start_matches("localhost/");
            let text = std::fs::read(path).map_err(|e| {
                Error::Invalid(format!("cannot load seccomp profile \"{path}\": {e}"))
            })?;
            let value = serde_json::from_slice(&text).map_err(|e| {
                Error::Invalid(format!("decoding seccomp profile \"{path}\" failed: {e}"))
            })?;
            Ok(Some(docker_profile(value)))
        }
        Err(_) => Err(Error::Invalid("unknown seccomp profile type".to_owned())),
    }
}

/// Profiles are written in Docker's dialect: `name` beside `names`, `archMap`. What it says of
/// rules that depend on capabilities or architecture is left to the runtime's default.
fn docker_profile(mut value: Value) -> Value {
    if let Some(map) = value.get("archMap").and_then(Value::as_array).cloned()
        && value.get("architectures").is_none()
    {
        let mut all = BTreeSet::new();
        for entry in &map {
            let one = entry.get("architecture").and_then(Value::as_str);
            let more = entry.get("subArchitectures").and_then(Value::as_array);
            all.extend(one.map(str::to_owned));
            all.extend(
                more.into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned),
            );
        }
        let own = match std::env::consts::ARCH {
            "x86_64" => "SCMP_ARCH_X86",
            "aarch64" => "SCMP_ARCH_A",
            other => other,
        };
        all.retain(|a| a.starts_with(own) || a == "SCMP_ARCH_X32");
        value["architectures"] = json!(all);
    }
    if let Some(rules) = value.get_mut("syscalls").and_then(Value::as_array_mut) {
        for rule in rules {
            if let Some(name) = rule.get("name").cloned()
                && rule.get("names").is_none()
            {
                rule["names"] = json!([name]);
            }
            if let Some(rule) = rule.as_object_mut() {
                for key in ["name", "includes", "excludes", "comment"] {
                    rule.remove(key);
                }
                if rule.get("args").is_some_and(Value::is_null) {
                    rule.remove("args");
                }
            }
        }
    }
    if let Some(value) = value.as_object_mut() {
        value.remove("archMap");
    }
    value
}
