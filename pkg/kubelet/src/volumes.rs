//! A pod's volumes: made before its containers, kept current while it lives, removed after.
//!
//! Content volumes (config map, secret, downward API, projected) are written through
//! [`atomic::write`]: a reader sees all of the old or all of the new content.
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::{downward::Addresses, sources::SourceError, spec, worker::Shared};

pub mod atomic;
mod certificate;
mod content;
mod host_path;
pub mod subpath;
mod trust;

/// Why a volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A config map or secret cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It lacks a key that is asked for.
    #[error("references non-existent {kind} key: {key}")]
    Key {
        /// `config`, `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A downward field cannot be had.
    #[error(transparent)]
    Downward(#[from] crate::downward::DownwardError),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host path is not what its type says.
    #[error("hostPath type check failed: {path} is not {want}")]
    HostPath {
        /// The path.
        path: String,
        /// What it should be, with its article.
        want: &'static str,
    },
    /// Two sources want the same path, or a path leaves the volume.
    #[error("{0}")]
    Layout(String),
    /// The API server refused.
    #[error("{what}: {source}")]
    Api {
        /// What was asked.
        what: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// A kind of volume that this kubelet has no code for.
    #[error("no volume plugin matched: {0}")]
    Unsupported(&'static str),
}

impl VolumeError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> VolumeError {
        let path = path.into();
        move |source| VolumeError::Io { path, source }
    }
}

/// One volume that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Mounted {
    /// Its folder or file on the node; empty for an image volume.
    pub path: PathBuf,
    /// Only to be read, whatever the mount says.
    pub read_only: bool,
    /// The image, for an image volume: reference and pull policy.
    pub image: Option<(String, Option<String>)>,
}

/// What was already asked for.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Tokens, when to replace them and when they end, by volume and path.
    tokens: HashMap<(String, String), (String, Timestamp, Timestamp)>,
    /// Pod certificates by volume and source.
    certificates: HashMap<(String, usize), certificate::Credential>,
}

/// A pod's volumes.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// By name.
    pub volumes: BTreeMap<String, Mounted>,
    /// When some content has to be made anew.
    pub refresh: Option<Timestamp>,
    /// Tokens for the next time.
    pub tokens: Tokens,
}

/// A volume that failed.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
pub struct Failed {
    /// Which volume.
    pub volume: String,
    /// Why.
    pub source: VolumeError,
}

/// Makes or updates all volumes of `pod`. Idempotent.
pub async fn prepare(
    sh: &Shared,
    pod: &Pod,
    addresses: &Addresses,
    tokens: Tokens,
) -> Result<Prepared, (Failed, Tokens)> {
    let mut out = Prepared {
        tokens,
        ..Prepared::default()
    };
    let dir = sh.cfg.pod_dir(spec::uid(pod));
    if let Err(source) = make_dir(&dir, 0o750) {
        let failed = Failed {
            volume: String::new(),
            source: VolumeError::Io { path: dir, source },
        };
        return Err((failed, out.tokens));
    }
    for v in spec::spec(pod).volumes.iter().flatten() {
        match one(sh, pod, v, &dir, addresses, &mut out).await {
            Ok(m) => {
                out.volumes.insert(v.name.clone(), m);
            }
            Err(source) => {
                let failed = Failed {
                    volume: v.name.clone(),
                    source,
                };
                return Err((failed, out.tokens));
            }
        }
    }
    Ok(out)
}

fn make_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

async fn one(
    sh: &Shared,
    pod: &Pod,
    v: &Volume,
    dir: &Path,
    addresses: &Addresses,
    out: &mut Prepared,
) -> Result<Mounted, VolumeError> {
    let at = |plugin: &str| dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&v.name);
    let plain = |path: PathBuf| Mounted {
        path,
        read_only: false,
        image: None,
    };
    if let Some(e) = &v.empty_dir {
        let path = at("empty-dir");
        empty_dir(&path, e.medium.as_deref(), e.size_limit.as_ref())?;
        let mode = e.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o777);
        set_mode(&path, mode).map_err(VolumeError::io(&path))?;
        if let Some(gid) = fs_group(pod) {
            own_tree(&path, gid)?;
        }
        return Ok(plain(path));
    }
    if let Some(h) = &v.host_path {
        host_path::check(&h.path, h.type_.as_deref().unwrap_or_default())?;
        return Ok(plain(PathBuf::from(&h.path)));
    }
    if let Some(i) = &v.image {
        return Ok(Mounted {
            path: PathBuf::new(),
            read_only: true,
            image: Some((i.reference.clone().unwrap_or_default(), i.pull_policy.clone())),
        });
    }
    if let Some(claim) = claim_name(pod, v) {
        let read_only = v
            .persistent_volume_claim
            .as_ref()
            .is_some_and(|c| c.read_only == Some(true));
        let path = claimed(sh, pod, &claim).await?;
        return Ok(Mounted {
            path,
            read_only,
            image: None,
        });
    }
    let (plugin, secret) = if v.config_map.is_some() {
        ("configmap", false)
    } else if v.secret.is_some() {
        ("secret", true)
    } else if v.downward_api.is_some() {
        ("downward-api", true)
    } else if v.projected.is_some() {
        ("projected", true)
    } else {
        return Err(VolumeError::Unsupported(unsupported(v)));
    };
    let path = at(plugin);
    let files = content::files(sh, pod, v, addresses, out).await?;
    if secret {
        memory_dir(&path, None)?;
    }
    make_dir(&path, 0o755).map_err(VolumeError::io(&path))?;
    set_mode(&path, 0o777).map_err(VolumeError::io(&path))?;
    atomic::write(&path, &files, fs_group(pod)).map_err(VolumeError::io(&path))?;
    Ok(Mounted {
        path,
        read_only: true,
        image: None,
    })
}

fn unsupported(v: &Volume) -> &'static str {
    if v.csi.is_some() {
        "csi"
    } else if v.nfs.is_some() {
        "nfs"
    } else if v.iscsi.is_some() {
        "iscsi"
    } else if v.git_repo.is_some() {
        "gitRepo"
    } else {
        "unknown"
    }
}

fn claim_name(pod: &Pod, v: &Volume) -> Option<String> {
    if let Some(c) = &v.persistent_volume_claim {
        return Some(c.claim_name.clone());
    }
    v.ephemeral
        .as_ref()
        .map(|_| format!("{}-{}", spec::name(pod), v.name))
}

/// The folder of a bound claim whose volume is local to the node.
async fn claimed(sh: &Shared, pod: &Pod, claim: &str) -> Result<PathBuf, VolumeError> {
    use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
    use kube::Api;
    let Some(client) = sh.client.clone() else {
        return Err(SourceError::NoServer {
            kind: "persistentvolumeclaim",
            name: claim.into(),
        }
        .into());
    };
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), spec::namespace(pod));
    let api = |what: String| {
        move |source| VolumeError::Api {
            what,
            source: Box::new(source),
        }
    };
    let pvc = claims
        .get(claim)
        .await
        .map_err(api(format!("persistentvolumeclaim \"{claim}\"")))?;
    let volume = pvc
        .spec
        .and_then(|s| s.volume_name)
        .filter(|n| !n.is_empty())
        .ok_or_else(|| {
            VolumeError::Layout(format!("persistentvolumeclaim \"{claim}\" is not bound"))
        })?;
    let pv = Api::<PersistentVolume>::all(client)
        .get(&volume)
        .await
        .map_err(api(format!("persistentvolume \"{volume}\"")))?;
    let s = pv.spec.unwrap_or_default();
    if let Some(h) = s.host_path {
        host_path::check(&h.path, h.type_.as_deref().unwrap_or_default())?;
        return Ok(h.path.into());
    }
    match s.local {
        Some(l) => {
            host_path::check(&l.path, "Directory")?;
            Ok(l.path.into())
        }
        None => Err(VolumeError::Unsupported("persistentVolume")),
    }
}

fn empty_dir(
    path: &Path,
    medium: Option<&str>,
    limit: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> Result<(), VolumeError> {
    match medium.unwrap_or_default() {
        "" => make_dir(path, 0o777).map_err(VolumeError::io(path)),
        "Memory" => memory_dir(path, limit.and_then(crate::quantity::units)),
        _ => Err(VolumeError::Unsupported("emptyDir medium")),
    }
}

/// Mounts a tmpfs there unless one is.
fn memory_dir(path: &Path, limit: Option<i64>) -> Result<(), VolumeError> {
    use nix::mount::{MsFlags, mount};
    make_dir(path, 0o777).map_err(VolumeError::io(path))?;
    if is_mount(path) {
        return Ok(());
    }
    let options = limit.filter(|l| *l > 0).map(|l| format!("size={l}"));
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        options.as_deref(),
    )
    .map_err(|e| VolumeError::io(path)(e.into()))
}

/// Whether something is mounted exactly there.
fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let dev = |p: &Path| std::fs::symlink_metadata(p).map(|m| m.dev());
    match (dev(path), path.parent().map(dev)) {
        (Ok(a), Some(Ok(b))) => a != b,
        _ => false,
    }
}

/// The group that owns the pod's volumes.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    spec::spec(pod)
        .security_context
        .as_ref()
        .and_then(|s| s.fs_group)
        .and_then(|g| u32::try_from(g).ok())
}

/// Gives a tree to a group: readable and writable by it, new files inherit it.
fn own_tree(path: &Path, gid: u32) -> Result<(), VolumeError> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let meta = std::fs::symlink_metadata(path).map_err(VolumeError::io(path))?;
    if meta.gid() != gid {
        std::os::unix::fs::lchown(path, None, Some(gid)).map_err(VolumeError::io(path))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode() & 0o7777;
    let want = mode | if meta.is_dir() { 0o2770 } else { 0o660 };
    if mode != want {
        set_mode(path, want).map_err(VolumeError::io(path))?;
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(VolumeError::io(path))? {
            let entry = entry.map_err(VolumeError::io(path))?;
            own_tree(&entry.path(), gid)?;
        }
    }
    Ok(())
}

/// Removes the folder of a pod: first what is mounted in it, then the files. Retries while busy.
pub async fn remove(dir: PathBuf) {
    for pause in [0, 20, 100, 500, 2000] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let d = dir.clone();
        let done = tokio::task::spawn_blocking(move || remove_now(&d)).await;
        match done {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(%error, path = %dir.display(), "removing a pod's folder"),
            Err(_) => return,
        }
    }
}

fn remove_now(dir: &Path) -> std::io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let prefix = format!("{}/", dir.display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut inside: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(unescape)
        .filter(|p| p.starts_with(&prefix))
        .map(PathBuf::from)
        .collect();
    inside.reverse();
    for m in inside {
        nix::mount::umount2(&m, nix::mount::MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_dir_all(dir) {
        // Somebody else was removing it, too.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Undoes the octal escapes of mountinfo.
fn unescape(s: &str) -> String {
    let mut out = Vec::with_capacity(s.len());
    let b = s.as_bytes();
    let mut i = 0;
    while i < b.len() {
        if b[i] == b'\\'
            && let Some(n) = s.get(i + 1..i + 4).and_then(|o| u8::from_str_radix(o, 8).ok())
        {
            out.push(n);
            i += 4;
            continue;
        }
        out.push(b[i]);
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// When a token that lives from `now` to `end` is to be replaced: after 80 % of its life, or a day.
pub(crate) fn rotate_at(now: Timestamp, end: Timestamp) -> Timestamp {
    let life = end.duration_since(now);
    let at = now
        .checked_add(SignedDuration::from_secs(life.as_secs() * 4 / 5))
        .unwrap_or(end);
    let day = now
        .checked_add(SignedDuration::from_hours(24))
        .unwrap_or(end);
    at.min(day)
}

/// Removes what is mounted and written for volumes, keeping the rest of the pod's folder.
pub async fn remove_volumes(dir: &Path) {
    for part in ["volume-subpaths", "volumes"] {
        remove(dir.join(part)).await;
    }
}
