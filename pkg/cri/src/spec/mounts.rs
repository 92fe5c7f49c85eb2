//! A container's mounts: what every container has, what its pod shares, what was asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use knarr_cri_api::v1::{LinuxContainerSecurityContext, Mount, MountPropagation};
use serde_json::{Value, json};

use super::userns::mappings;
use super::{Container, Pod};
use crate::Error;

/// All mounts in order, and the root's propagation where a mount needs one.
pub(crate) fn all(
    pod: &Pod<'_>,
    c: &Container<'_>,
    context: &LinuxContainerSecurityContext,
) -> Result<(Vec<Value>, Option<&'static str>), Error> {
    let privileged = context.privileged;
    let system = if privileged { "rw" } else { "ro" };
    let asked: BTreeSet<PathBuf> = c
        .config
        .mounts
        .iter()
        .map(|m| clean(&m.container_path))
        .collect();
    let mut out = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc",
                "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", system] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", system] }),
    ];
    out.retain(|m| {
        let at = m["destination"].as_str().unwrap_or_default();
        !asked.contains(Path::new(at))
    });
    let files = if context.readonly_rootfs { "ro" } else { "rw" };
    let userns = super::userns::wanted(super::sandbox_options(pod.config))?;
    // The sandbox's own files, with the pod's ids.
    let own = |mut mount: Value| {
        if let Some(userns) = userns {
            userns.apply(&mut mount);
        }
        mount
    };
    for (at, name) in [
        ("/etc/hostname", "hostname"),
        ("/etc/hosts", "hosts"),
        ("/etc/resolv.conf", "resolv.conf"),
    ] {
        let source = pod.dir.join(name);
        if !asked.contains(Path::new(at)) && source.exists() {
            out.push(own(
                json!({ "destination": at, "type": "bind", "source": source,
                                 "options": ["rbind", "rprivate", files] }),
            ));
        }
    }
    if !asked.contains(Path::new("/dev/shm")) {
        let pods = pod.dir.join("shm");
        let bind = |source: &Path| {
            json!({ "destination": "/dev/shm", "type": "bind", "source": source,
                    "options": ["rbind", "rprivate", "rw"] })
        };
        out.push(if pods.exists() {
            own(bind(&pods))
        } else {
            bind(Path::new("/dev/shm"))
        });
    }
    let mut propagation = None;
    // A mount inside another's place must come after it.
    let mut order: Vec<usize> = (0..c.config.mounts.len()).collect();
    order.sort_by_key(|i| {
        clean(&c.config.mounts[*i].container_path)
            .components()
            .count()
    });
    for i in order {
        let mount = &c.config.mounts[i];
        let image = c.image_mounts.get(i).and_then(Option::as_deref);
        let (value, wants) = one(mount, image)?;
        match (wants, propagation) {
            ("rshared", _) => propagation = Some("shared"),
            ("rslave", None) => propagation = Some("slave"),
            _ => {}
        }
        out.push(value);
    }
    Ok((out, propagation))
}

fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn one(mount: &Mount, image: Option<&Path>) -> Result<(Value, &'static str), Error> {
    if mount.container_path.is_empty() {
        return Err(Error::Invalid(
            "a mount without a container path".to_owned(),
        ));
    }
    let source = match image {
        Some(path) => path.to_path_buf(),
        None => host_path(mount)?,
    };
    let propagation = match MountPropagation::try_from(mount.propagation) {
        Ok(MountPropagation::PropagationPrivate) => "rprivate",
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        Err(_) => return Err(Error::Invalid("unknown mount propagation".to_owned())),
    };
    if propagation != "rprivate" {
        check_propagation(&source, propagation)?;
    }
    let mut options = vec!["rbind".to_owned(), propagation.to_owned()];
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(Error::Invalid(
                "a recursive read-only mount must be read-only".to_owned(),
            ));
        }
        if propagation != "rprivate" {
            return Err(Error::Invalid(
                "a recursive read-only mount must have private propagation".to_owned(),
            ));
        }
        options.push("rro".to_owned());
    } else if mount.readonly || image.is_some() {
        options.push("ro".to_owned());
    } else {
        options.push("rw".to_owned());
    }
    for option in &mount.mount_options {
        match option.as_str() {
            "nosuid" | "nodev" | "noexec" | "noatime" | "nodiratime" | "relatime"
            | "strictatime" | "ro" | "nosymfollow" => options.push(option.clone()),
            other => return Err(Error::Unsupported(format!("mount option {other:?}"))),
        }
    }
    let mut value = json!({
        "destination": clean(&mount.container_path),
        "type": "bind",
        "source": source,
        "options": options,
    });
    // An image is mounted with its ids mapped already.
    let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped && image.is_none() {
        value["uidMappings"] = mappings(&mount.uid_mappings);
        value["gidMappings"] = mappings(&mount.gid_mappings);
    }
    Ok((value, propagation))
}

/// The source on the host, with links resolved; made as a folder if missing.
fn host_path(mount: &Mount) -> Result<PathBuf, Error> {
    let path = Path::new(&mount.host_path);
    if !path.is_absolute() {
        return Err(Error::Invalid(format!(
            "the host path {:?} of a mount must be absolute",
            mount.host_path
        )));
    }
    match std::fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(Error::io("failed to mkdir", path))?;
            Ok(path.to_path_buf())
        }
        Err(e) => Err(Error::io("failed to resolve symlink", path)(e)),
    }
}

/// A mount can only pass on what its source's own mount is shared with.
fn check_propagation(source: &Path, wanted: &str) -> Result<(), Error> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(Error::io("read", "/proc/self/mountinfo"))?;
    let mut best: Option<(usize, &str)> = None;
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some(at) = fields.nth(4) else { continue };
        let at = at.replace("\\040", " ");
        if !source.starts_with(&at) {
            continue;
        }
        let rest = line.split(" - ").next().unwrap_or_default();
        if best.is_none_or(|(len, _)| at.len() >= len) {
            best = Some((at.len(), rest));
        }
    }
    let facts = best.map_or("", |(_, line)| line);
    let shared = facts.contains(" shared:");
    let slave = facts.contains(" master:");
    let ok = if wanted == "rshared" {
        shared
    } else {
        shared || slave
    };
    if ok {
        return Ok(());
    }
    let path = source.display();
    Err(Error::Invalid(match wanted {
        "rshared" => format!("path {path:?} is mounted on a mount but it is not a shared mount"),
        _ => format!("path {path:?} is mounted on a mount but it is not a shared or slave mount"),
    }))
}
