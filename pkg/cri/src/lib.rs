//! The CRI runtime and image services.
//!
//! # State
//! Below the run folder, one folder per sandbox (`sandboxes/<id>`) and container
//! (`containers/<id>`), each with one record. The record is written when the object is complete
//! and removed first when it goes: a folder without a record is a leftover of interrupted work,
//! and [`Cri::open`] cleans it. What changes by itself (who runs, who has ended and how) is not
//! recorded: it is read from pidfds, shims and exit records.
//!
//! # Cancellation
//! Work that changes something runs in a task of its own. A caller that leaves does not stop it;
//! one that comes again joins it or finds it done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use knarr_cri_api::v1::image_service_server::ImageServiceServer;
use knarr_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use knarr_images::Images;
use tokio::sync::broadcast;

mod cdi;
mod checkpoint;
mod cni;
mod container;
mod error;
mod events;
mod exec;
mod features;
mod flight;
mod network;
mod process;
mod record;
mod recover;
mod runtime;
mod sandbox;
mod serve;
mod service;
mod spec;
mod stats;
mod status;
mod streams;

pub use cni::CniNetwork;
pub use error::Error;
pub use network::{BridgeNetwork, HostPort, Network, NetworkRequest, NoNetwork};

use container::Container;
use flight::Flights;
use runtime::Runtime;
use sandbox::Sandbox;

/// How the services are set up.
#[derive(Clone)]
pub struct Config {
    /// Durable state: images below `images/`, `registries.yaml`.
    pub data_dir: PathBuf,
    /// State of this boot: `cri/`, `oci/`.
    pub run_dir: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
    /// The OCI runtime's program, for pause processes (`knarr-runc`, or runc).
    pub runc: PathBuf,
    /// The pause program.
    pub pause: PathBuf,
    /// The cgroup of containers whose request names no parent.
    pub cgroup_root: String,
    /// The OCI runtimes that RuntimeClasses may name. An empty name replaces the built-in one.
    pub handlers: BTreeMap<String, PathBuf>,
    /// Where vendors describe devices (CDI); what a later folder has counts more.
    pub cdi_dirs: Vec<PathBuf>,
    /// The pod network.
    pub network: Arc<dyn Network>,
}

impl Config {
    /// The usual settings; programs are looked for in `<run>/bin`.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
        network: Arc<dyn Network>,
    ) -> Self {
        let run_dir = run_dir.into();
        let bin = run_dir.join("bin");
        Self {
            data_dir: data_dir.into(),
            shim: bin.join("knarr-shim"),
            runc: bin.join("knarr-runc"),
            pause: bin.join("knarr-pause"),
            run_dir,
            cgroup_root: "/knarr".to_owned(),
            handlers: BTreeMap::new(),
            cdi_dirs: cdi::DIRS.map(PathBuf::from).to_vec(),
            network,
        }
    }
}

/// The runtime and image services of one node.
pub struct Cri {
    config: Config,
    images: Arc<Images>,
    runtime: Runtime,
    sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    containers: RwLock<BTreeMap<String, Arc<Container>>>,
    events: broadcast::Sender<knarr_cri_api::v1::ContainerEventResponse>,
    flights: Flights,
    features: features::Features,
    streaming: std::sync::OnceLock<knarr_streaming::Server>,
}

impl std::fmt::Debug for Cri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cri")
            .field("run_dir", &self.config.run_dir)
            .finish_non_exhaustive()
    }
}

impl Cri {
    /// Opens the services: finds running sandboxes and containers again, cleans what interrupted
    /// work has left.
    ///
    /// # Errors
    /// When a folder cannot be made, or state on disk is newer than this program.
    pub async fn open(config: Config) -> Result<Arc<Self>, Error> {
        let images_dir = config.data_dir.join("images");
        let registries = config.data_dir.join("registries.yaml");
        let images = flight::blocking(move || Ok(Images::open(images_dir, registries)?)).await?;
        let runtime = Runtime {
            program: config.runc.clone(),
            root: config.run_dir.join("oci"),
        };
        let cri = Arc::new(Self {
            config,
            images,
            runtime,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::channel(1024).0,
            flights: Flights::default(),
            features: features::Features::default(),
            streaming: std::sync::OnceLock::new(),
        });
        cri.serve_streams().await?;
        cri.prepare()?;
        cri.recover().await?;
        Ok(cri)
    }

    /// The image store.
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// The runtime service, to be added to a server.
    pub fn runtime_service(self: &Arc<Self>) -> RuntimeServiceServer<service::Runtime> {
        RuntimeServiceServer::new(service::Runtime(self.clone()))
            .max_decoding_message_size(16 << 20)
            .max_encoding_message_size(64 << 20)
    }

    /// The image service, to be added to a server.
    pub fn image_service(self: &Arc<Self>) -> ImageServiceServer<service::Image> {
        ImageServiceServer::new(service::Image(self.clone())).max_encoding_message_size(64 << 20)
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.config.run_dir.join("cri/sandboxes").join(id)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.config.run_dir.join("cri/containers").join(id)
    }

    /// A sandbox by id, or unambiguous start of one.
    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let all = self
            .sandboxes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        lookup(&all, id).ok_or_else(|| Error::NotFound {
            kind: "sandbox",
            id: id.to_owned(),
        })
    }

    /// A container by id, or unambiguous start of one.
    fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let all = self
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        lookup(&all, id).ok_or_else(|| Error::NotFound {
            kind: "container",
            id: id.to_owned(),
        })
    }

    fn all_sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let all = self
            .sandboxes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }

    fn all_containers(&self) -> Vec<Arc<Container>> {
        let all = self
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let all = self
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.values()
            .filter(|c| c.record().sandbox == sandbox)
            .cloned()
            .collect()
    }

    /// The OCI runtime of a handler; `None` is the built-in one.
    fn handler(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        match self.config.handlers.get(name) {
            Some(path) => Ok(Some(path.clone())),
            None if name.is_empty() => Ok(None),
            None => Err(Error::Invalid(format!(
                "no runtime for \"{name}\" is configured"
            ))),
        }
    }
}

fn lookup<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = all.get(id) {
        return Some(found.clone());
    }
    if id.len() < 4 {
        return None;
    }
    let mut fitting = all
        .range(id.to_owned()..)
        .take_while(|(key, _)| key.starts_with(id));
    match (fitting.next(), fitting.next()) {
        (Some((_, one)), None) => Some(one.clone()),
        _ => None,
    }
}
