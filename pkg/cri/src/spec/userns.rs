//! The user namespace of a pod, and id-mapped mounts.

use std::fs::File;
use std::os::fd::AsFd;

use knarr_cri_api::v1::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};
use knarr_images::Remap;
use serde_json::{Value, json};

use crate::Error;

/// One range of ids for users and one for groups: what a pod's user namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Userns {
    pub uids: IdMapping,
    pub gids: IdMapping,
}

fn range(what: &str, maps: &[IdMapping]) -> Result<Option<IdMapping>, Error> {
    match maps {
        [] => Ok(None),
        [one] if one.length < 1 => Err(Error::Invalid(format!(
            "user namespace configuration: {what} mapping: invalid mapping length: {}",
            one.length
        ))),
        [one] => Ok(Some(*one)),
        more => Err(Error::Invalid(format!(
            "user namespace configuration: {what} mapping: only one mapping line supported, got {} mapping lines",
            more.len()
        ))),
    }
}

/// The user namespace that is asked for; `None` is the node's.
pub(crate) fn wanted(options: Option<&NamespaceOption>) -> Result<Option<Userns>, Error> {
    let Some(asked) = options.and_then(|o| o.userns_options.as_ref()) else {
        return Ok(None);
    };
    let (uids, gids) = (range("UID", &asked.uids)?, range("GID", &asked.gids)?);
    let bad = |text: String| {
        Err(Error::Invalid(format!(
            "user namespace configuration: {text}"
        )))
    };
    match (NamespaceMode::try_from(asked.mode), uids, gids) {
        (Ok(NamespaceMode::Node), None, None) => Ok(None),
        (Ok(NamespaceMode::Node), _, _) => bad(format!(
            "can't use user namespace mode \"NODE\" with mappings. Got {} UID mappings and {} GID mappings",
            asked.uids.len(),
            asked.gids.len()
        )),
        (Ok(NamespaceMode::Pod), Some(uids), Some(gids)) => Ok(Some(Userns { uids, gids })),
        (Ok(NamespaceMode::Pod), _, _) => {
            bad("can't use user namespace mode \"POD\" without UID and GID mappings".to_owned())
        }
        (Ok(other), _, _) => bad(format!(
            "unsupported user namespace mode: {:?}",
            other.as_str_name()
        )),
        (Err(_), _, _) => bad(format!(
            "unsupported user namespace mode: \"{}\"",
            asked.mode
        )),
    }
}

/// A container is in its sandbox's user namespace, and must say so.
pub(crate) fn check_same(
    sandbox: Option<&NamespaceOption>,
    container: Option<&NamespaceOption>,
) -> Result<(), Error> {
    if wanted(sandbox)? == wanted(container)? {
        return Ok(());
    }
    let shown = |o: Option<&NamespaceOption>| show(o.and_then(|o| o.userns_options.as_ref()));
    Err(Error::Invalid(format!(
        "user namespace config for sandbox is different from container. \
         Sandbox userns config: {} - Container userns config: {}",
        shown(sandbox),
        shown(container)
    )))
}

fn show(userns: Option<&UserNamespace>) -> String {
    let ids = |maps: &[IdMapping]| {
        let one = |m: &IdMapping| format!("{}:{}:{}", m.container_id, m.host_id, m.length);
        maps.iter().map(one).collect::<Vec<_>>().join(",")
    };
    userns.map_or_else(
        || "none".to_owned(),
        |u| {
            let mode = NamespaceMode::try_from(u.mode).map_or("unknown", |m| m.as_str_name());
            format!("{mode} uids {} gids {}", ids(&u.uids), ids(&u.gids))
        },
    )
}

/// Mappings in the runtime's words.
pub(crate) fn mappings(maps: &[IdMapping]) -> Value {
    maps.iter()
        .map(|m| json!({ "containerID": m.container_id, "hostID": m.host_id, "size": m.length }))
        .collect()
}

impl Userns {
    /// Puts the mappings into `linux`, or into a mount.
    pub(crate) fn apply(&self, value: &mut Value) {
        value["uidMappings"] = mappings(&[self.uids]);
        value["gidMappings"] = mappings(&[self.gids]);
    }

    /// How a root for the namespace of a sandbox's pause process is mounted. It must map 0.
    pub(crate) fn remap<'a>(&self, namespace: &'a File) -> Result<Remap<'a>, Error> {
        if self.uids.container_id != 0 || self.gids.container_id != 0 {
            return Err(Error::Invalid(
                "user namespace configuration: UID 0 and GID 0 must be mapped".to_owned(),
            ));
        }
        Ok(Remap {
            userns: namespace.as_fd(),
            first: (self.uids.host_id, self.gids.host_id),
            size: self.uids.length.min(self.gids.length),
        })
    }
}

/// Whether this kernel and its settings allow pods with user namespaces: the file systems of
/// volumes, tmpfs the last of them, take mapped ids since 6.3.
pub(crate) fn supported() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let most: u64 = read("/proc/sys/user/max_user_namespaces")
        .trim()
        .parse()
        .unwrap_or(0);
    version >= (6, 3) && most > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: NamespaceMode, uids: &[(u32, u32, u32)]) -> NamespaceOption {
        let maps: Vec<IdMapping> = uids
            .iter()
            .map(|(container_id, host_id, length)| IdMapping {
                container_id: *container_id,
                host_id: *host_id,
                length: *length,
            })
            .collect();
        NamespaceOption {
            userns_options: Some(UserNamespace {
                mode: mode.into(),
                uids: maps.clone(),
                gids: maps,
            }),
            ..NamespaceOption::default()
        }
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let pod = options(NamespaceMode::Pod, &[(0, 65536, 65536)]);
        let got = wanted(Some(&pod)).unwrap().unwrap();
        assert_eq!((got.uids.host_id, got.gids.length), (65536, 65536));
        assert_eq!(wanted(None).unwrap(), None);
        assert_eq!(
            wanted(Some(&options(NamespaceMode::Node, &[]))).unwrap(),
            None
        );
        for (mode, maps, why) in [
            (
                NamespaceMode::Node,
                &[(0, 1, 1)][..],
                "mode \"NODE\" with mappings. Got 1 UID mappings",
            ),
            (NamespaceMode::Pod, &[], "without UID and GID mappings"),
            (
                NamespaceMode::Pod,
                &[(0, 1, 1), (1, 5, 1)],
                "UID mapping: only one mapping line supported, got 2",
            ),
            (
                NamespaceMode::Pod,
                &[(0, 1, 0)],
                "invalid mapping length: 0",
            ),
            (
                NamespaceMode::Container,
                &[(0, 1, 1)],
                "unsupported user namespace mode: \"CONTAINER\"",
            ),
        ] {
            let error = wanted(Some(&options(mode, maps))).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let other = options(NamespaceMode::Pod, &[(0, 131_072, 65536)]);
        let error = check_same(Some(&pod), Some(&other))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("for sandbox is different from container"),
            "{error}"
        );
        check_same(Some(&pod), Some(&pod)).unwrap();
    }
}
