//! What the kubelet is told when it starts, and how it can fail.
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// PEM files for the kubelet's HTTPS server.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Serving certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authority whose client certificates are let in.
    pub client_ca: PathBuf,
}

/// The kubelet's configuration. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node, also its `kubernetes.io/hostname`.
    pub node_name: String,
    /// Address reported as InternalIP and as `status.hostIP` of pods.
    pub node_ip: IpAddr,
    /// Root of the state: `kubelet/pods/<uid>/…` and `logs/pods/…` are made below it.
    pub data_dir: PathBuf,
    /// Parent of all pod cgroups, in every hierarchy.
    pub cgroup_root: String,
    /// Addresses of the cluster's DNS service; empty: pods get the node's resolver.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// Folder of static pod manifests.
    pub manifests: Option<PathBuf>,
    /// Where the HTTPS server listens; `None` means no server.
    pub listen: Option<SocketAddr>,
    /// Certificates of that server; without them it does not start.
    pub tls: Option<Tls>,
    /// Greatest number of pods.
    pub max_pods: u32,
    /// Address range of this node's pods, handed to the runtime when the node object has none.
    pub pod_cidr: Option<String>,
    /// Version reported in nodeInfo.
    pub version: String,
    /// Labels put on the node when it is registered.
    pub node_labels: Vec<(String, String)>,
    /// Taints put on the node when it is first registered, `key=value:Effect`.
    pub register_taints: Vec<String>,
    /// The node's resolver configuration.
    pub resolv_conf: PathBuf,
    /// How often the Lease is renewed.
    pub lease_period: Duration,
    /// How often an unchanged node status is written again.
    pub status_period: Duration,
    /// A container's log is rotated when it is greater than this, in bytes.
    pub log_max_size: u64,
    /// How many log files a container keeps, the current one included.
    pub log_max_files: u32,
    /// Unused images are removed when the disk is fuller than this, in percent, until it is five
    /// percent less full; 100: never.
    pub image_gc_high_percent: u8,
    /// Scheme of container identifiers in pod status, before `://`.
    pub runtime_name: Option<String>,
}

impl Config {
    /// A configuration with defaults for everything that can have one.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr) -> Self {
        Config {
            node_name: node_name.into(),
            node_ip,
            data_dir: PathBuf::from("/var/lib/knarr"),
            cgroup_root: "/knarr/kubepods".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            manifests: None,
            listen: Some(SocketAddr::from(([0, 0, 0, 0], 10250))),
            tls: None,
            max_pods: 110,
            pod_cidr: None,
            version: "v1.37.2".into(),
            node_labels: Vec::new(),
            register_taints: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            lease_period: Duration::from_secs(10),
            status_period: Duration::from_secs(300),
            log_max_size: 10 << 20,
            log_max_files: 5,
            image_gc_high_percent: 85,
            runtime_name: None,
        }
    }

    /// Folder of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// Folder of all pods.
    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("kubelet/pods")
    }

    /// Log folder of one pod, as CRI wants it.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.data_dir
            .join("logs/pods")
            .join(format!("{namespace}_{name}_{uid}"))
    }
}

/// Why the kubelet stopped, or could not do something for all pods.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address of the server is taken or not ours.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificates are no good.
    #[error("{path}: {reason}")]
    Tls {
        /// The PEM file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The runtime refused a call.
    #[error("container runtime: {call}: {source}")]
    Cri {
        /// Which call.
        call: &'static str,
        /// Its answer.
        source: Box<tonic::Status>,
    },
    /// The API server refused a call.
    #[error("API server: {what}: {source}")]
    Api {
        /// What was asked.
        what: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
