//! Content that changes in one step.
//!
//! The files live in a folder with a timestamp in its name; `..data` is a link to it; the names
//! that a reader opens are links through `..data`. A new version is a new folder and one rename.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

/// One file of the content.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, root when `None`.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` hold exactly `files`; true when anything changed.
///
/// With a group, files are given to it and readable by it.
///
/// # Errors
/// What the file system says; the old content then stays.
pub fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    let files: Files = files
        .iter()
        .map(|(p, f)| {
            let mut f = f.clone();
            if group.is_some() {
                f.mode |= 0o440;
            }
            (p.clone(), f)
        })
        .collect();
    let current = fs::read_link(dir.join(DATA)).ok().map(|l| dir.join(l));
    if let Some(current) = &current
        && same(current, &files, group)
    {
        return Ok(false);
    }
    let stamp = format!(
        "..{}.{}",
        jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"),
        jiff::Timestamp::now().subsec_nanosecond()
    );
    let fresh = dir.join(&stamp);
    fs::DirBuilder::new().mode(0o755).create(&fresh)?;
    let made = fill(&fresh, &files, group).and_then(|()| {
        let link = dir.join(DATA_NEW);
        let _ = fs::remove_file(&link);
        symlink(&stamp, &link)?;
        fs::rename(&link, dir.join(DATA))
    });
    if let Err(e) = made {
        let _ = fs::remove_dir_all(&fresh);
        return Err(e);
    }
    let tops: BTreeSet<&str> = files
        .keys()
        .filter_map(|p| p.split('/').next())
        .collect();
    for top in &tops {
        let link = dir.join(top);
        match fs::symlink_metadata(&link) {
            Ok(m) if m.is_symlink() => {}
            Ok(_) => {}
            Err(_) => symlink(format!("{DATA}/{top}"), &link)?,
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == DATA || name == stamp || tops.contains(name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            let _ = fs::remove_dir_all(entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(true)
}

fn fill(root: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    use std::io::Write;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    if let Some(g) = group {
        std::os::unix::fs::chown(root, None, Some(g))?;
    }
    for (path, f) in files {
        let at = root.join(path);
        if let Some(parent) = at.parent() {
            let mut made = root.to_path_buf();
            for part in parent.strip_prefix(root).unwrap_or(Path::new("")) {
                made.push(part);
                match fs::DirBuilder::new().mode(0o755).create(&made) {
                    Ok(()) => {
                        fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
                        if let Some(g) = group {
                            std::os::unix::fs::chown(&made, None, Some(g))?;
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&at)?;
        file.write_all(&f.data)?;
        if f.owner.is_some() || group.is_some() {
            std::os::unix::fs::fchown(&file, f.owner, group)?;
        }
        file.set_permissions(fs::Permissions::from_mode(f.mode))?;
    }
    Ok(())
}

/// Whether the folder holds exactly these files.
fn same(root: &Path, files: &Files, group: Option<u32>) -> bool {
    let mut count = 0;
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            return false;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => stack.push(entry.path()),
                Ok(_) => count += 1,
                Err(_) => return false,
            }
        }
    }
    count == files.len()
        && files.iter().all(|(path, f)| {
            let at = root.join(path);
            fs::metadata(&at).is_ok_and(|m| {
                m.permissions().mode() & 0o7777 == f.mode
                    && f.owner.is_none_or(|o| m.uid() == o)
                    && group.is_none_or(|g| m.gid() == g)
            }) && fs::read(&at).is_ok_and(|d| d == f.data)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(data: &str) -> File {
        File { data: data.into(), mode: 0o644, owner: None }
    }

    #[test]
    fn swaps_the_whole_content_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let one = Files::from([("a".into(), file("1")), ("sub/b".into(), file("2"))]);
        assert!(write(dir.path(), &one, None).expect("first"));
        assert!(!write(dir.path(), &one, None).expect("the same again"));
        assert_eq!(fs::read(dir.path().join("sub/b")).expect("b"), b"2");
        assert_eq!(
            fs::read_link(dir.path().join("a")).expect("a link"),
            Path::new("..data/a")
        );
        let old = fs::read_link(dir.path().join(DATA)).expect("data");
        let mut ro = file("3");
        ro.mode = 0o400;
        assert!(write(dir.path(), &Files::from([("a".into(), ro)]), None).expect("second"));
        assert!(!dir.path().join("sub").exists());
        assert!(!dir.path().join(old).exists());
        let m = fs::metadata(dir.path().join("a")).expect("a");
        assert_eq!(m.permissions().mode() & 0o777, 0o400);
        assert!(write(dir.path(), &Files::new(), None).expect("empty"));
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_group_can_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut f = file("x");
        f.mode = 0o400;
        let gid = nix::unistd::getgid().as_raw();
        write(dir.path(), &Files::from([("a".into(), f)]), Some(gid)).expect("written");
        let m = fs::metadata(dir.path().join("a")).expect("a");
        assert_eq!(m.permissions().mode() & 0o777, 0o440);
    }
}
