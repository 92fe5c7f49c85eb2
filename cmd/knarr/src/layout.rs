//! Where everything of one node lives.

use std::path::PathBuf;

use clap::Args;

/// The two folders of a node.
#[derive(Args, Clone, Debug)]
pub struct Layout {
    /// Folder for what must survive a reboot: store, keys, images, volumes, logs
    #[arg(long, default_value = "/var/lib/knarr", env = "KNARR_DATA_DIR", global = true)]
    pub data_dir: PathBuf,
    /// Folder for what must not survive a reboot: sockets, container state
    #[arg(long, default_value = "/run/knarr", env = "KNARR_RUN_DIR", global = true)]
    pub run_dir: PathBuf,
}

impl Layout {
    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.data_dir.join("store")
    }
    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.data_dir.join("pki")
    }
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }
    /// The log of a detached knarr.
    pub fn log(&self) -> PathBuf {
        self.data_dir.join("knarr.log")
    }
    /// The helper programs.
    pub fn bin(&self) -> PathBuf {
        self.run_dir.join("bin")
    }
    /// The CRI socket.
    pub fn cri_socket(&self) -> PathBuf {
        self.run_dir.join("cri.sock")
    }
    /// The socket by which `status`, `stop` and `trace` reach a running knarr.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }
}
