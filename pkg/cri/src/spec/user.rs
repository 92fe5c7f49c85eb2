//! Who a container runs as: names and numbers against the image's own `passwd` and `group`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use knarr_cri_api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use crate::Error;

/// The identity of a container's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// `$HOME`, if the user is known.
    pub home: Option<String>,
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Reads a small file of the image; links stay inside. Missing is empty.
pub(crate) fn read_in(root: &Path, path: &str) -> String {
    let open = || -> rustix::io::Result<File> {
        let root = rustix::fs::open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let fd = rustix::fs::openat2(
            &root,
            path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        Ok(fd.into())
    };
    let mut bytes = Vec::new();
    if let Ok(file) = open()
        && file.metadata().is_ok_and(|m| m.is_file())
        && file.take(4 << 20).read_to_end(&mut bytes).is_err()
    {
        bytes.clear();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn passwd(root: &Path) -> Vec<Passwd> {
    read_in(root, "etc/passwd")
        .lines()
        .filter_map(|line| {
            let f: Vec<&str> = line.split(':').collect();
            Some(Passwd {
                name: (*f.first()?).to_owned(),
                uid: f.get(2)?.parse().ok()?,
                gid: f.get(3)?.parse().ok()?,
                home: f.get(5).copied().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

fn groups(root: &Path) -> Vec<Group> {
    read_in(root, "etc/group")
        .lines()
        .filter_map(|line| {
            let f: Vec<&str> = line.split(':').collect();
            let members = f.get(3).copied().unwrap_or_default();
            Some(Group {
                name: (*f.first()?).to_owned(),
                gid: f.get(2)?.parse().ok()?,
                members: members
                    .split(',')
                    .map(str::trim)
                    .filter(|m| !m.is_empty())
                    .map(str::to_owned)
                    .collect(),
            })
        })
        .collect()
}

fn number(value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Invalid(format!("invalid user or group id {value}")))
}

/// The identity from the request, and the image's `user[:group]` where that says nothing.
pub(crate) fn resolve(
    root: &Path,
    image_user: &str,
    context: Option<&LinuxContainerSecurityContext>,
) -> Result<Identity, Error> {
    let (mut user, mut group) = match image_user.split_once(':') {
        Some((user, group)) => (user.to_owned(), group.to_owned()),
        None => (image_user.to_owned(), String::new()),
    };
    if let Some(context) = context {
        if let Some(uid) = &context.run_as_user {
            (user, group) = (number(uid.value)?.to_string(), String::new());
        } else if !context.run_as_username.is_empty() {
            (user, group) = (context.run_as_username.clone(), String::new());
        }
        if let Some(gid) = &context.run_as_group {
            if context.run_as_user.is_none() && context.run_as_username.is_empty() && user.is_empty()
            {
                return Err(Error::Invalid(
                    "runAsGroup is specified without a runAsUser".to_owned(),
                ));
            }
            group = number(gid.value)?.to_string();
        }
    }
    let users = passwd(root);
    let known = match user.as_str() {
        "" => users.iter().find(|u| u.uid == 0),
        name => users.iter().find(|u| u.name == name).or_else(|| {
            let uid: u32 = name.parse().ok()?;
            users.iter().find(|u| u.uid == uid)
        }),
    };
    let uid = match (known, user.as_str()) {
        (Some(known), _) => known.uid,
        (None, "") => 0,
        (None, name) => name.parse().map_err(|_| {
            Error::Invalid(format!("no users found: unable to find user {name} in the image"))
        })?,
    };
    let all = groups(root);
    let gid = match group.as_str() {
        "" => known.map_or(0, |k| k.gid),
        name => match all.iter().find(|g| g.name == name) {
            Some(group) => group.gid,
            None => name.parse().map_err(|_| {
                Error::Invalid(format!("no groups found: unable to find group {name} in the image"))
            })?,
        },
    };
    let mut extra = vec![gid];
    let strict = context.is_some_and(|c| {
        c.supplemental_groups_policy == SupplementalGroupsPolicy::Strict as i32
    });
    if let Some(known) = known
        && !strict
    {
        let mine = all.iter().filter(|g| g.members.contains(&known.name));
        extra.extend(mine.map(|g| g.gid));
    }
    for gid in context.map_or(&[][..], |c| &c.supplemental_groups) {
        extra.push(number(*gid)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    extra.retain(|g| seen.insert(*g));
    Ok(Identity {
        uid,
        gid,
        groups: extra,
        home: known.map(|k| k.home.clone()).filter(|h| !h.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_cri_api::v1::Int64Value;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\nops:x:50000:web,other\n").unwrap();
        root
    }

    #[test]
    fn names_and_numbers() {
        let root = root();
        let web = resolve(root.path(), "web", None).unwrap();
        assert_eq!((web.uid, web.gid), (1000, 1001));
        assert_eq!(web.groups, [1001, 50000]);
        assert_eq!(web.home.as_deref(), Some("/srv"));
        assert_eq!(resolve(root.path(), "1000:ops", None).unwrap().gid, 50000);
        let stranger = resolve(root.path(), "77", None).unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.home), (77, 0, None));
        assert!(resolve(root.path(), "nobody-here", None).is_err());
    }

    #[test]
    fn request_wins() {
        let root = root();
        let context = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 1000 }),
            supplemental_groups: vec![7],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        };
        let got = resolve(root.path(), "root", Some(&context)).unwrap();
        assert_eq!((got.uid, got.groups), (1000, vec![1001, 7]));
    }
}
