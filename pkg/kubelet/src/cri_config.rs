//! A pod's specification in the words of CRI.
use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext, VolumeMount,
};
use knarr_cri_api::v1;

use crate::{
    downward::Addresses,
    env::{self, EnvError},
    expand::expand,
    model::label,
    net, resources, spec,
    volumes::{Mounted, subpath},
    worker::Shared,
};

/// Why a container's configuration cannot be made: CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Its environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A volume mount.
    #[error("{0}")]
    Mount(String),
    /// The pod's user namespace.
    #[error("{0}")]
    Users(String),
    /// It must not run as root and would.
    #[error("{0}")]
    NonRoot(String),
    /// A file on the node could not be made.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Labels of everything that belongs to the pod.
fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([
        (label::POD_NAME.into(), spec::name(pod).into()),
        (label::POD_NAMESPACE.into(), spec::namespace(pod).into()),
        (label::POD_UID.into(), spec::uid(pod).into()),
    ])
}

fn namespaces(sh: &Shared, pod: &Pod) -> Result<v1::NamespaceOption, String> {
    use v1::NamespaceMode::{Container, Node, Pod as PodMode};
    let s = spec::spec(pod);
    let on = |b: Option<bool>| b.unwrap_or(false);
    Ok(v1::NamespaceOption {
        network: if on(s.host_network) { Node } else { PodMode } as i32,
        pid: if on(s.host_pid) {
            Node
        } else if on(s.share_process_namespace) {
            PodMode
        } else {
            Container
        } as i32,
        ipc: if on(s.host_ipc) { Node } else { PodMode } as i32,
        target_id: String::new(),
        userns_options: Some(sh.userns.of(pod)?),
    })
}

fn seccomp(profile: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (t, path) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => (
            ProfileType::Localhost,
            format!(
                "/var/lib/kubelet/seccomp/{}",
                profile
                    .and_then(|p| p.localhost_profile.as_deref())
                    .unwrap_or_default()
            ),
        ),
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile {
        profile_type: t as i32,
        localhost_ref: path,
    }
}

fn selinux(o: Option<&SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    o.map(|o| v1::SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn groups(sc: Option<&PodSecurityContext>) -> Vec<i64> {
    let mut out: Vec<i64> = sc
        .and_then(|s| s.supplemental_groups.clone())
        .unwrap_or_default();
    if let Some(g) = sc.and_then(|s| s.fs_group)
        && !out.contains(&g)
    {
        out.push(g);
    }
    out
}

fn groups_policy(sc: Option<&PodSecurityContext>) -> i32 {
    match sc.and_then(|s| s.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn int(v: i64) -> v1::Int64Value {
    v1::Int64Value { value: v }
}

/// The sandbox of `pod`, made for the `attempt`th time.
///
/// # Errors
/// When it has no user namespace and needs one.
pub fn sandbox(sh: &Shared, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
    let cfg = &sh.cfg;
    let s = spec::spec(pod);
    let sc = s.security_context.as_ref();
    let privileged = spec::mains(pod).iter().chain(spec::inits(pod)).any(|c| {
        c.security_context
            .as_ref()
            .is_some_and(|c| c.privileged == Some(true))
    });
    let ports = spec::mains(pod)
        .iter()
        .chain(spec::inits(pod).iter().filter(|c| spec::is_sidecar(c)))
        .flat_map(|c| c.ports.iter().flatten())
        .map(|p| v1::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect();
    let mut labels = pod_labels(pod);
    labels.extend(pod.metadata.labels.clone().unwrap_or_default());
    let limits = resources::pod(pod);
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: spec::name(pod).into(),
            uid: spec::uid(pod).into(),
            namespace: spec::namespace(pod).into(),
            attempt,
        }),
        hostname: net::sandbox_hostname(pod, &cfg.cluster_domain, &sh.hostname),
        log_directory: cfg
            .log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod))
            .to_string_lossy()
            .into_owned(),
        dns_config: Some(net::dns(
            pod,
            &cfg.cluster_dns,
            &cfg.cluster_domain,
            &sh.node_dns,
        )),
        port_mappings: ports,
        labels,
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: resources::cgroup_path(&cfg.cgroup_root, pod),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(sh, pod)?),
                selinux_options: selinux(sc.and_then(|s| s.se_linux_options.as_ref())),
                run_as_user: sc.and_then(|s| s.run_as_user).map(int),
                run_as_group: sc
                    .filter(|s| s.run_as_user.is_some())
                    .and_then(|s| s.run_as_group)
                    .map(int),
                readonly_rootfs: false,
                supplemental_groups: groups(sc),
                supplemental_groups_policy: groups_policy(sc),
                privileged,
                seccomp: Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
                    localhost_ref: String::new(),
                }),
                ..Default::default()
            }),
            sysctls: sc
                .and_then(|s| s.sysctls.as_ref())
                .into_iter()
                .flatten()
                .map(|s| (s.name.replace('/', "."), s.value.clone()))
                .collect(),
            overhead: None,
            resources: Some(v1::LinuxContainerResources {
                cpu_period: resources::CPU_PERIOD,
                cpu_shares: limits.shares,
                cpu_quota: limits.quota.unwrap_or(0),
                memory_limit_in_bytes: limits.memory.unwrap_or(0),
                ..Default::default()
            }),
        }),
        windows: None,
    })
}

/// What is known when a container is made.
pub struct ContainerInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How many instances came before.
    pub attempt: u32,
    /// The image as the runtime names it, and its default user.
    pub image: &'a v1::Image,
    /// The volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// Addresses of pod and node.
    pub addresses: &'a Addresses,
    /// Instance whose processes are to be seen, for an ephemeral container.
    pub target: Option<String>,
}

/// The container's configuration; makes its files on the node.
pub async fn container(
    sh: &Shared,
    input: ContainerInput<'_>,
) -> Result<v1::ContainerConfig, ConfigError> {
    let ContainerInput {
        pod,
        container: c,
        attempt,
        image,
        ..
    } = input;
    let envs = env::environment(sh, pod, c, input.addresses).await?;
    let lookup = |n: &str| envs.iter().find(|(k, _)| k == n).map(|(_, v)| v.as_str());
    let words = |w: &Option<Vec<String>>| -> Vec<String> {
        w.iter().flatten().map(|s| expand(s, lookup)).collect()
    };
    let security = security(sh, &input)?;
    let mut mounts = Vec::new();
    for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
        mounts.push(mount(sh, &input, i, m, &lookup)?);
    }
    let path = c
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".into());
    if !path.is_empty() {
        mounts.push(message_file(sh, pod, c, attempt, &path)?);
    }
    if !mounts.iter().any(|m| m.container_path == "/etc/hosts")
        && let Some(m) = hosts_file(sh, pod, input.addresses)?
    {
        mounts.push(m);
    }
    // What is the host's root's is the pod's root's.
    let users = security
        .namespace_options
        .as_ref()
        .and_then(|o| o.userns_options.as_ref());
    for m in &mut mounts {
        m.uid_mappings = users.map(|u| u.uids.clone()).unwrap_or_default();
        m.gid_mappings = users.map(|u| u.gids.clone()).unwrap_or_default();
    }
    let mut labels = pod_labels(pod);
    labels.insert(label::CONTAINER.into(), c.name.clone());
    let policy = c
        .termination_message_policy
        .clone()
        .unwrap_or_else(|| "File".into());
    let annotations = HashMap::from([
        (label::HASH.to_owned(), spec::container_hash(c)),
        (label::RESTARTS.to_owned(), attempt.to_string()),
        (label::MESSAGE_PATH.to_owned(), path),
        (label::MESSAGE_POLICY.to_owned(), policy),
        (label::GRACE.to_owned(), spec::grace_period(pod).to_string()),
    ]);
    let signal = c
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.as_deref())
        .and_then(|s| v1::Signal::from_str_name(&s.replace('+', "PLUS").replace('-', "MINUS")))
        .unwrap_or(v1::Signal::RuntimeDefault);
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: c.name.clone(),
            attempt,
        }),
        image: Some(v1::ImageSpec {
            image: image.id.clone(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: words(&c.command),
        args: words(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: envs
            .iter()
            .map(|(k, v)| v1::KeyValue {
                key: k.clone(),
                value: v.clone().into_bytes().into(),
            })
            .collect(),
        mounts,
        labels,
        annotations,
        log_path: format!("{}/{attempt}.log", c.name),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container(pod, c, sh.node_memory)),
            security_context: Some(security),
        }),
        stop_signal: signal as i32,
        ..Default::default()
    })
}

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn security(
    sh: &Shared,
    input: &ContainerInput<'_>,
) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let (pod, c) = (input.pod, input.container);
    let empty = SecurityContext::default();
    let own = c.security_context.as_ref().unwrap_or(&empty);
    let common = spec::spec(pod).security_context.as_ref();
    let privileged = own.privileged.unwrap_or(false);
    let user = own.run_as_user.or(common.and_then(|s| s.run_as_user));
    let group = own.run_as_group.or(common.and_then(|s| s.run_as_group));
    let image_uid = input.image.uid.as_ref().map(|u| u.value);
    let image_name = input.image.username.as_str();
    let non_root = own
        .run_as_non_root
        .or(common.and_then(|s| s.run_as_non_root))
        .unwrap_or(false);
    if non_root {
        let about = format!(
            "(pod: \"{}\", container: {})",
            spec::format_pod(pod),
            c.name
        );
        let refused = match (user, image_uid, image_name) {
            (Some(0), ..) => Some(format!(
                "container's runAsUser breaks non-root policy {about}"
            )),
            (Some(_), ..) => None,
            (None, Some(0), _) => Some(format!(
                "container has runAsNonRoot and image will run as root {about}"
            )),
            (None, None, "") => Some(format!(
                "container has runAsNonRoot and image will run as root {about}"
            )),
            (None, None, name) => Some(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {about}"
            )),
            (None, Some(_), _) => None,
        };
        if let Some(text) = refused {
            return Err(ConfigError::NonRoot(text));
        }
    }
    let mut ns = namespaces(sh, pod).map_err(ConfigError::Users)?;
    if let Some(target) = &input.target {
        ns.pid = v1::NamespaceMode::Target as i32;
        ns.target_id = target.clone();
    }
    let profile = own
        .seccomp_profile
        .as_ref()
        .or(common.and_then(|s| s.seccomp_profile.as_ref()));
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let owned = |l: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            l.iter().map(|s| (*s).to_owned()).collect()
        }
    };
    let run_as_user = user.or(image_uid);
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|k| v1::Capability {
            add_capabilities: k.add.clone().unwrap_or_default(),
            drop_capabilities: k.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(ns),
        selinux_options: selinux(
            own.se_linux_options
                .as_ref()
                .or(common.and_then(|s| s.se_linux_options.as_ref())),
        ),
        run_as_user: run_as_user.map(int),
        run_as_group: group.map(int),
        run_as_username: if run_as_user.is_none() {
            image_name.to_owned()
        } else {
            String::new()
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(common),
        supplemental_groups_policy: groups_policy(common),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: owned(MASKED),
        readonly_paths: owned(READ_ONLY),
        seccomp: Some(if privileged {
            seccomp(None)
        } else {
            seccomp(profile)
        }),
        ..Default::default()
    })
}

fn mount<'v>(
    sh: &Shared,
    input: &ContainerInput<'_>,
    index: usize,
    m: &VolumeMount,
    lookup: &impl Fn(&str) -> Option<&'v str>,
) -> Result<v1::Mount, ConfigError> {
    let volume = input
        .volumes
        .get(&m.name)
        .ok_or_else(|| ConfigError::Mount(format!("volume mount \"{}\" has no volume", m.name)))?;
    let mut container_path = m.mount_path.clone();
    if !container_path.starts_with('/') {
        container_path.insert(0, '/');
    }
    let sub = match (&m.sub_path, &m.sub_path_expr) {
        (_, Some(e)) if !e.is_empty() => {
            let text = expand(e, lookup);
            if text.contains("$(") {
                return Err(ConfigError::Mount(format!(
                    "failed to expand subPathExpr \"{e}\": missing value for variable"
                )));
            }
            Some(text)
        }
        (Some(s), _) if !s.is_empty() => Some(s.clone()),
        _ => None,
    };
    let read_only = m.read_only.unwrap_or(false) || volume.read_only;
    let mut out = v1::Mount {
        container_path,
        readonly: read_only,
        propagation: match m.mount_propagation.as_deref() {
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
            _ => v1::MountPropagation::PropagationPrivate,
        } as i32,
        recursive_read_only: read_only && m.recursive_read_only.as_deref() == Some("Enabled"),
        mount_options: m.bind_mount_options.clone().unwrap_or_default(),
        ..Default::default()
    };
    if let Some((reference, _)) = &volume.image {
        out.readonly = true;
        out.image = Some(v1::ImageSpec {
            image: reference.clone(),
            user_specified_image: reference.clone(),
            ..Default::default()
        });
        out.image_sub_path = sub.unwrap_or_default();
        return Ok(out);
    }
    out.host_path = match sub {
        None => volume.path.to_string_lossy().into_owned(),
        Some(sub) => {
            let rel = Path::new(&sub);
            let outside = rel.is_absolute();
            if outside {
                return Err(ConfigError::Mount(format!(
                    "error SubPath `{sub}` must not be an absolute path"
                )));
            }
            if rel.components().any(|c| c == Component::ParentDir) {
                return Err(ConfigError::Mount(format!(
                    "unable to provision SubPath `{sub}`: must not contain '..'"
                )));
            }
            let target = sh
                .cfg
                .pod_dir(spec::uid(input.pod))
                .join("volume-subpaths")
                .join(&m.name)
                .join(&input.container.name)
                .join(index.to_string());
            subpath::bind(&volume.path, rel, &target)
                .map_err(|e| {
                    ConfigError::Mount(format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                        m.name, input.container.name
                    ))
                })?
                .to_string_lossy()
                .into_owned()
        }
    };
    // a hostPath without a type need not exist yet
    if !Path::new(&out.host_path).exists() {
        std::fs::create_dir_all(&out.host_path).map_err(|source| ConfigError::Io {
            path: PathBuf::from(&out.host_path),
            source,
        })?;
    }
    Ok(out)
}

/// The file that a container writes its last words to.
fn message_file(
    sh: &Shared,
    pod: &Pod,
    c: &Container,
    attempt: u32,
    at: &str,
) -> Result<v1::Mount, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let dir = sh
        .cfg
        .pod_dir(spec::uid(pod))
        .join("containers")
        .join(&c.name);
    let path = dir.join(format!("{attempt:08x}"));
    let io = |source| ConfigError::Io {
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(&dir).map_err(io)?;
    std::fs::write(&path, b"").map_err(io)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(io)?;
    Ok(v1::Mount {
        container_path: at.to_owned(),
        host_path: path.to_string_lossy().into_owned(),
        ..Default::default()
    })
}

/// The `/etc/hosts` that all containers of the pod share.
fn hosts_file(
    sh: &Shared,
    pod: &Pod,
    addresses: &Addresses,
) -> Result<Option<v1::Mount>, ConfigError> {
    if addresses.pod.is_empty() {
        return Ok(None);
    }
    let path = sh.cfg.pod_dir(spec::uid(pod)).join("etc-hosts");
    let text = if spec::host_network(pod) {
        let node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        net::node_hosts(pod, &node)
    } else {
        net::hosts(pod, &addresses.pod, &sh.cfg.cluster_domain)
    };
    if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
        std::fs::write(&path, text).map_err(|source| ConfigError::Io {
            path: path.clone(),
            source,
        })?;
    }
    Ok(Some(v1::Mount {
        container_path: "/etc/hosts".into(),
        host_path: path.to_string_lossy().into_owned(),
        ..Default::default()
    }))
}
