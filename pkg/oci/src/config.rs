//! `config.json`, in the shape of the OCI runtime specification 1.3 (the Linux parts).
//!
//! Reading is lenient in what the specification leaves open (unknown fields, `null` for an empty
//! list); what a value may be is decided by [`crate::plan`].

use std::collections::BTreeMap;

use knarr_cgroups::Resources;
use serde::{Deserialize, Deserializer, Serialize};

fn nullable<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Declares structures of the specification: every field may be missing or `null`.
macro_rules! spec {
    ($( $(#[$meta:meta])* $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $json:literal ),* $(,)? } )*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
            #[serde(default)]
            pub struct $name {
                $(
                    $(#[$fmeta])*
                    #[serde(rename = $json, deserialize_with = "nullable", skip_serializing_if = "is_default")]
                    pub $field: $ty,
                )*
            }
        )*
    };
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

spec! {
    /// The whole configuration.
    Spec {
        /// The specification's version.
        version: String = "ociVersion",
        /// The program.
        process: Option<Process> = "process",
        /// The root file system.
        root: Option<Root> = "root",
        /// Host name.
        hostname: String = "hostname",
        /// NIS domain name.
        domainname: String = "domainname",
        /// Mounts, in order.
        mounts: Vec<Mount> = "mounts",
        /// Hooks.
        hooks: Hooks = "hooks",
        /// Free-form notes.
        annotations: BTreeMap<String, String> = "annotations",
        /// What is particular to Linux.
        linux: Linux = "linux",
    }

    /// The program to run and its attributes.
    Process {
        /// Whether it gets a terminal.
        terminal: bool = "terminal",
        /// The terminal's first size.
        console_size: Option<ConsoleSize> = "consoleSize",
        /// Who it runs as.
        user: User = "user",
        /// Program and arguments.
        args: Vec<String> = "args",
        /// `NAME=value`.
        env: Vec<String> = "env",
        /// Working folder.
        cwd: String = "cwd",
        /// Capabilities.
        capabilities: Option<Capabilities> = "capabilities",
        /// Resource limits.
        rlimits: Vec<Rlimit> = "rlimits",
        /// No new privileges.
        no_new_privileges: bool = "noNewPrivileges",
        /// AppArmor profile.
        apparmor_profile: String = "apparmorProfile",
        /// SELinux label.
        selinux_label: String = "selinuxLabel",
        /// OOM score adjustment.
        oom_score_adj: Option<i32> = "oomScoreAdj",
        /// Scheduling.
        scheduler: Option<Scheduler> = "scheduler",
        /// I/O priority.
        io_priority: Option<IoPriority> = "ioPriority",
        /// CPU affinity of exec.
        exec_cpu_affinity: Option<CpuAffinity> = "execCPUAffinity",
    }

    /// A terminal's size in cells.
    ConsoleSize {
        /// Rows.
        height: u16 = "height",
        /// Columns.
        width: u16 = "width",
    }

    /// User, groups and file mode mask.
    User {
        /// User id.
        uid: u32 = "uid",
        /// Group id.
        gid: u32 = "gid",
        /// File mode mask.
        umask: Option<u32> = "umask",
        /// Supplementary groups.
        additional_gids: Vec<u32> = "additionalGids",
    }

    /// Capabilities by set.
    Capabilities {
        /// Bounding.
        bounding: Vec<String> = "bounding",
        /// Effective.
        effective: Vec<String> = "effective",
        /// Inheritable.
        inheritable: Vec<String> = "inheritable",
        /// Permitted.
        permitted: Vec<String> = "permitted",
        /// Ambient.
        ambient: Vec<String> = "ambient",
    }

    /// A resource limit.
    Rlimit {
        /// `RLIMIT_…`.
        kind: String = "type",
        /// Soft.
        soft: u64 = "soft",
        /// Hard.
        hard: u64 = "hard",
    }

    /// Scheduling.
    Scheduler {
        /// `SCHED_…`.
        policy: String = "policy",
        /// Niceness.
        nice: i32 = "nice",
        /// Priority.
        priority: i32 = "priority",
        /// `SCHED_FLAG_…`.
        flags: Vec<String> = "flags",
        /// Nanoseconds.
        runtime: u64 = "runtime",
        /// Nanoseconds.
        deadline: u64 = "deadline",
        /// Nanoseconds.
        period: u64 = "period",
    }

    /// I/O priority.
    IoPriority {
        /// `IOPRIO_CLASS_…`.
        class: String = "class",
        /// 0 to 7.
        priority: i32 = "priority",
    }

    /// CPUs that exec starts and ends with.
    CpuAffinity {
        /// While joining.
        initial: String = "initial",
        /// Of the program.
        r#final: String = "final",
    }

    /// The root file system.
    Root {
        /// Its folder, absolute or below the bundle.
        path: String = "path",
        /// Mounted read-only.
        readonly: bool = "readonly",
    }

    /// A mount.
    Mount {
        /// Target in the container.
        destination: String = "destination",
        /// File system type; `bind` or empty for binds.
        kind: String = "type",
        /// Source.
        source: String = "source",
        /// Options.
        options: Vec<String> = "options",
        /// User ids of an id-mapped mount.
        uid_mappings: Vec<IdMapping> = "uidMappings",
        /// Group ids of an id-mapped mount.
        gid_mappings: Vec<IdMapping> = "gidMappings",
    }

    /// A range of ids.
    IdMapping {
        /// First inside.
        container: u32 = "containerID",
        /// First outside.
        host: u32 = "hostID",
        /// How many.
        size: u32 = "size",
    }

    /// Hooks by the time they run.
    Hooks {
        /// After the namespaces, before the root is switched (deprecated).
        prestart: Vec<Hook> = "prestart",
        /// The same, by its new name.
        create_runtime: Vec<Hook> = "createRuntime",
        /// As the former, in the container's namespaces.
        create_container: Vec<Hook> = "createContainer",
        /// Right before the program.
        start_container: Vec<Hook> = "startContainer",
        /// After the program was started.
        poststart: Vec<Hook> = "poststart",
        /// After the container was deleted.
        poststop: Vec<Hook> = "poststop",
    }

    /// A program to run.
    Hook {
        /// Absolute path.
        path: String = "path",
        /// Arguments, with the zeroth.
        args: Vec<String> = "args",
        /// The whole environment.
        env: Vec<String> = "env",
        /// Seconds.
        timeout: Option<i64> = "timeout",
    }

    /// What is particular to Linux.
    Linux {
        /// User ids.
        uid_mappings: Vec<IdMapping> = "uidMappings",
        /// Group ids.
        gid_mappings: Vec<IdMapping> = "gidMappings",
        /// Kernel settings.
        sysctl: BTreeMap<String, String> = "sysctl",
        /// Limits.
        resources: Resources = "resources",
        /// The cgroup.
        cgroups_path: String = "cgroupsPath",
        /// Namespaces.
        namespaces: Vec<Namespace> = "namespaces",
        /// Device nodes.
        devices: Vec<Device> = "devices",
        /// Network devices to move in.
        net_devices: BTreeMap<String, NetDevice> = "netDevices",
        /// System call filter.
        seccomp: Option<Seccomp> = "seccomp",
        /// Propagation of the root mount.
        rootfs_propagation: String = "rootfsPropagation",
        /// Paths to hide.
        masked_paths: Vec<String> = "maskedPaths",
        /// Paths to make read-only.
        readonly_paths: Vec<String> = "readonlyPaths",
        /// SELinux label of mounts.
        mount_label: String = "mountLabel",
        /// Execution domain.
        personality: Option<Personality> = "personality",
        /// Clock offsets.
        time_offsets: BTreeMap<String, TimeOffset> = "timeOffsets",
        /// Intel RDT.
        intel_rdt: Option<IntelRdt> = "intelRdt",
        /// NUMA memory policy.
        memory_policy: Option<MemoryPolicy> = "memoryPolicy",
    }

    /// Shares of cache and memory bandwidth.
    IntelRdt {
        /// The class of service; empty: the container's own.
        clos_id: String = "closID",
        /// Lines for `schemata`.
        schemata: Vec<String> = "schemata",
        /// A line for the cache.
        l3_cache_schema: String = "l3CacheSchema",
        /// A line for the memory bandwidth.
        mem_bw_schema: String = "memBwSchema",
        /// Whether it is monitored by itself.
        enable_monitoring: bool = "enableMonitoring",
    }

    /// On which memory nodes memory is taken.
    MemoryPolicy {
        /// `MPOL_…`.
        mode: String = "mode",
        /// A list such as `0-1,3`.
        nodes: String = "nodes",
        /// `MPOL_F_…`.
        flags: Vec<String> = "flags",
    }

    /// A namespace.
    Namespace {
        /// `pid`, `network`, …
        kind: String = "type",
        /// The one to join; empty for a new one.
        path: String = "path",
    }

    /// A device node.
    Device {
        /// `c`, `b`, `u` or `p`.
        kind: String = "type",
        /// In the container.
        path: String = "path",
        /// Major number.
        major: i64 = "major",
        /// Minor number.
        minor: i64 = "minor",
        /// Permission bits.
        file_mode: Option<u32> = "fileMode",
        /// Owner.
        uid: Option<u32> = "uid",
        /// Group.
        gid: Option<u32> = "gid",
    }

    /// A network device's name in the container.
    NetDevice {
        /// Empty: the same.
        name: String = "name",
    }

    /// A clock's offset.
    TimeOffset {
        /// Seconds.
        secs: i64 = "secs",
        /// Nanoseconds.
        nanosecs: u32 = "nanosecs",
    }

    /// Execution domain.
    Personality {
        /// `LINUX` or `LINUX32`.
        domain: String = "domain",
        /// None is defined.
        flags: Vec<String> = "flags",
    }

    /// A system call filter.
    Seccomp {
        /// What happens to calls that no rule names.
        default_action: String = "defaultAction",
        /// The error number of that action.
        default_errno: Option<u32> = "defaultErrnoRet",
        /// `SCMP_ARCH_…`.
        architectures: Vec<String> = "architectures",
        /// `SECCOMP_FILTER_FLAG_…`.
        flags: Vec<String> = "flags",
        /// The socket of the notification agent.
        listener_path: String = "listenerPath",
        /// What the agent is told.
        listener_metadata: String = "listenerMetadata",
        /// Rules.
        syscalls: Vec<SeccompRule> = "syscalls",
    }

    /// A rule of a system call filter.
    SeccompRule {
        /// The calls.
        names: Vec<String> = "names",
        /// What happens.
        action: String = "action",
        /// The error number of the action.
        errno: Option<u32> = "errnoRet",
        /// Conditions on arguments.
        args: Vec<SeccompArg> = "args",
    }

    /// A condition on an argument.
    SeccompArg {
        /// Which argument, 0 to 5.
        index: u32 = "index",
        /// Compared to.
        value: u64 = "value",
        /// Second value.
        value_two: u64 = "valueTwo",
        /// `SCMP_CMP_…`.
        op: String = "op",
    }
}
