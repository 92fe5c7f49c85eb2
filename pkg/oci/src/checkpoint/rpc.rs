//! What is said to `criu swrk` and what it says: the part of CRIU's RPC protocol that is used.
//!
//! The field numbers are those of `rpc.proto` in the CRIU sources (version 4; older versions skip
//! fields they do not know).

use prost::Message;

/// A page server that takes the memory in place of the image folder.
#[derive(Clone, PartialEq, Message)]
pub struct PageServer {
    /// The host name or address.
    #[prost(string, optional, tag = "1")]
    pub address: Option<String>,
    /// The TCP port.
    #[prost(int32, optional, tag = "2")]
    pub port: Option<i32>,
}

/// A mount whose source lies outside the container: on dump mountpoint and name, on restore name
/// and source.
#[derive(Clone, PartialEq, Message)]
pub struct ExtMount {
    /// The mountpoint (dump) or the name (restore).
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// The name (dump) or the source on the host (restore).
    #[prost(string, required, tag = "2")]
    pub val: String,
}

/// A namespace to join on restore.
#[derive(Clone, PartialEq, Message)]
pub struct JoinNamespace {
    /// Its kind, such as `uts`.
    #[prost(string, required, tag = "1")]
    pub ns: String,
    /// Its path.
    #[prost(string, required, tag = "2")]
    pub ns_file: String,
}

/// A descriptor of CRIU's own that stands for an external one.
#[derive(Clone, PartialEq, Message)]
pub struct InheritFd {
    /// The name of what it stands for, such as `pipe:[1234]`.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its number.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// Where the root of the container's cgroups lies.
#[derive(Clone, PartialEq, Message)]
pub struct CgroupRoot {
    /// The controllers, as `/proc/<pid>/cgroup` names them.
    #[prost(string, optional, tag = "1")]
    pub ctrl: Option<String>,
    /// The path.
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// The options of a dump or a restore.
#[derive(Clone, PartialEq, Message)]
pub struct Opts {
    /// The image folder: a descriptor of ours.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// The root of the tree of processes.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// Do not end what was dumped.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Unix sockets may lead outside.
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    /// Connections are dumped, too.
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// Devices are opened by any path that leads to them.
    #[prost(bool, optional, tag = "6")]
    pub evasive_devices: Option<bool>,
    /// The session and terminal may lead outside.
    #[prost(bool, optional, tag = "7")]
    pub shell_job: Option<bool>,
    /// Locks of files are dumped.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// How much CRIU logs, 0 to 4.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// The log's name in the work folder.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// The page server.
    #[prost(message, optional, tag = "11")]
    pub ps: Option<PageServer>,
    /// Tell us each step.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// The root folder.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// The image folder of the dump before, relative to this one's.
    #[prost(string, optional, tag = "14")]
    pub parent_img: Option<String>,
    /// Mark what memory is written from now on.
    #[prost(bool, optional, tag = "15")]
    pub track_mem: Option<bool>,
    /// Drop from the parent image what this one holds.
    #[prost(bool, optional, tag = "16")]
    pub auto_dedup: Option<bool>,
    /// The work folder: a descriptor of ours.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Unlinked files are linked back.
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    /// External mounts.
    #[prost(message, repeated, tag = "23")]
    pub ext_mnt: Vec<ExtMount>,
    /// Cgroups are managed (for CRIU without modes).
    #[prost(bool, optional, tag = "24")]
    pub manage_cgroups: Option<bool>,
    /// Roots of cgroups.
    #[prost(message, repeated, tag = "25")]
    pub cg_root: Vec<CgroupRoot>,
    /// The restored process is a child of ours, not of CRIU.
    #[prost(bool, optional, tag = "26")]
    pub rst_sibling: Option<bool>,
    /// Descriptors that stand for external ones.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// How cgroups are managed: a [`CgroupMode`].
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// External resources, such as `net[4026531833]:extRootNetNS`.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// Namespaces (`CLONE_NEW*` bits) that are made but not filled.
    #[prost(uint32, optional, tag = "38")]
    pub empty_ns: Option<u32>,
    /// Namespaces to join.
    #[prost(message, repeated, tag = "39")]
    pub join_ns: Vec<JoinNamespace>,
    /// The cgroup that freezes all processes.
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    /// Connections being made are left out.
    #[prost(bool, optional, tag = "46")]
    pub tcp_skip_in_flight: Option<bool>,
    /// Memory is served after the restore, when it is touched.
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    /// Where a zero byte tells that lazy pages are ready.
    #[prost(int32, optional, tag = "49")]
    pub status_fd: Option<i32>,
    /// Terminals whose master is outside are made anew, the master given to us.
    #[prost(bool, optional, tag = "50")]
    pub orphan_pts_master: Option<bool>,
    /// A file of more options.
    #[prost(string, optional, tag = "51")]
    pub config_file: Option<String>,
    /// The label of processes, `TYPE:NAME`.
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    /// The label of mounts.
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
}

/// What CRIU does with cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CgroupMode {
    /// Nothing.
    Ignore = 0,
    /// Those that are missing are made, with their properties.
    Soft = 3,
    /// Also those that exist get their properties.
    Full = 4,
    /// None may exist.
    Strict = 5,
    /// CRIU's own choice.
    Default = 6,
}

/// What a request or an answer is about.
pub mod kind {
    /// Write a container's state.
    pub const DUMP: i32 = 1;
    /// Make it again.
    pub const RESTORE: i32 = 2;
    /// Write memory only; the container goes on.
    pub const PRE_DUMP: i32 = 4;
    /// A step was reached.
    pub const NOTIFY: i32 = 6;
    /// What this kernel can do.
    pub const FEATURE_CHECK: i32 = 9;
    /// Which CRIU it is.
    pub const VERSION: i32 = 10;
}

/// Features to ask for, and what there is.
#[derive(Clone, PartialEq, Message)]
pub struct Features {
    /// Memory that is written can be told from what is not.
    #[prost(bool, optional, tag = "1")]
    pub mem_track: Option<bool>,
    /// Memory can come later.
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
}

/// A request.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// What is asked, of [`kind`].
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    /// Options of a dump or a restore.
    #[prost(message, optional, tag = "2")]
    pub opts: Option<Opts>,
    /// Whether what a notification asked for went well.
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
    /// Features to look for.
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
}

/// What was restored.
#[derive(Clone, PartialEq, Message)]
pub struct Restored {
    /// The root process.
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

/// A step that was reached.
#[derive(Clone, PartialEq, Message)]
pub struct Notify {
    /// Its name, such as `post-dump`.
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    /// The root process, once there is one.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

/// CRIU's version.
#[derive(Clone, PartialEq, Message)]
pub struct Version {
    /// 3 of 3.17.1.
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    /// 17 of 3.17.1.
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    /// Set for a build between two versions.
    #[prost(string, optional, tag = "3")]
    pub gitid: Option<String>,
    /// 1 of 3.17.1.
    #[prost(int32, optional, tag = "4")]
    pub sublevel: Option<i32>,
}

/// An answer.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// What it answers, of [`kind`].
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    /// Whether it went well.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// The answer to a restore.
    #[prost(message, optional, tag = "4")]
    pub restore: Option<Restored>,
    /// A step that was reached.
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    /// The operating system's error number.
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    /// The answer to a check of features.
    #[prost(message, optional, tag = "8")]
    pub features: Option<Features>,
    /// CRIU's own words on a failure.
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
    /// The answer to a question for the version.
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
}
