use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::*;

/// Builds archives with any names, also those a good citizen would not write.
fn archive(entries: &[(&str, EntryType, &str, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, content, mode) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let link = matches!(kind, EntryType::Link | EntryType::Symlink);
        if link {
            header.as_gnu_mut().unwrap().linkname[..content.len()]
                .copy_from_slice(content.as_bytes());
        }
        header.set_size(if link { 0 } else { content.len() as u64 });
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        if !link {
            out.extend_from_slice(content.as_bytes());
            out.resize(out.len().next_multiple_of(512), 0);
        }
    }
    out.resize(out.len() + 1024, 0);
    out
}

use EntryType::{Directory as D, Link as H, Regular as F, Symlink as S};

fn run(entries: &[(&str, EntryType, &str, u32)]) -> (tempfile::TempDir, Result<Unpacked, Error>) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("root");
    fs::create_dir(&target).unwrap();
    let out = unpack(archive(entries).as_slice(), &target, &Options::default());
    (dir, out)
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[test]
fn fields_that_were_left_out_are_zero() {
    if !root() {
        return;
    }
    let mut tar = archive(&[("f", F, "x", 0o644)]);
    // Owner and group of the first header, and its checksum again.
    tar[108..124].fill(0);
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let dir = tempfile::tempdir().unwrap();
    unpack(tar.as_slice(), dir.path(), &Options::default()).unwrap();
    let f = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((f.uid(), f.gid(), f.len()), (0, 0, 1));
}

#[test]
fn modes_links_and_times() {
    if !root() {
        return;
    }
    let (dir, out) = run(&[
        ("bin/", D, "", 0o755),
        ("bin/su", F, "x", 0o4755),
        ("bin/su2", H, "bin/su", 0),
        ("sh", S, "/bin/su", 0o777),
    ]);
    assert_eq!(out.unwrap().inodes, 4);
    let root = dir.path().join("root");
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!(su.mode() & 0o7777, 0o4755);
    assert_eq!(su.nlink(), 2);
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read_link(root.join("sh")).unwrap(), Path::new("/bin/su"));
}

#[test]
fn whiteouts() {
    if !root() {
        return;
    }
    let (dir, out) = run(&[
        ("a/.wh.gone", F, "", 0),
        ("b/.wh..wh..opq", F, "", 0),
        ("b/new", F, "1", 0o644),
        ("c/.wh.d", F, "", 0),
        ("c/d/", D, "", 0o755),
    ]);
    out.unwrap();
    let root = dir.path().join("root");
    let gone = fs::symlink_metadata(root.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0u8; 8];
    for opaque in ["b", "c/d"] {
        let n = rustix::fs::getxattr(root.join(opaque), OPAQUE_XATTR, &mut value).unwrap();
        assert_eq!(&value[..n], b"y", "{opaque}");
    }
    assert!(!root.join("b/.wh..wh..opq").exists());
}

#[test]
fn no_way_out() {
    if !root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "safe").unwrap();
    let out = outside.path().to_str().unwrap();
    let up = format!("{}{}", "../".repeat(20), out.trim_start_matches('/'));
    let link = format!("{up}/victim");
    let direct = format!("{up}/direct");
    let (dir, result) = run(&[
        (&direct, F, "bad", 0o644),
        ("abs", S, out, 0o777),
        ("abs/victim", F, "bad", 0o644),
        ("rel", S, &up, 0o777),
        ("rel/victim", F, "bad", 0o644),
        ("file", S, victim.to_str().unwrap(), 0o777),
        ("file", F, "bad", 0o644),
        ("hard", H, &link, 0o644),
    ]);
    // The hard link finds what was written inside, under the same name.
    result.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "safe");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(dir.path().join("root/file")).unwrap(), "bad");
}

#[test]
fn link_loops_end() {
    if !root() {
        return;
    }
    let (_dir, result) = run(&[
        ("a", S, "b", 0o777),
        ("b", S, "a", 0o777),
        ("a/file", F, "x", 0o644),
    ]);
    assert!(result.is_err());
}

#[test]
fn truncated_archives_fail() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = archive(&[("f", F, "hello", 0o644)]);
    bytes.truncate(514);
    assert!(unpack(bytes.as_slice(), dir.path(), &Options::default()).is_err());
}

#[test]
fn implied_folders_settle() {
    if !root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    unpack(
        archive(&[
            ("tmp/", D, "", 0o1777),
            ("usr/lib/", D, "", 0o755),
            ("usr/lib/x", F, "x", 0o600),
            ("lib", S, "usr/lib", 0o777),
        ])
        .as_slice(),
        base.path(),
        &Options::default(),
    )
    .unwrap();
    let lowers = vec![base.path().to_path_buf()];
    let (dir, out) = run(&[("tmp/f", F, "f", 0o644), ("y", H, "usr/lib/x", 0)]);
    let root = dir.path().join("root");
    assert_eq!(settle(&root, &out.unwrap(), &lowers).unwrap(), Settled::Done);
    assert_eq!(fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_to_string(root.join("y")).unwrap(), "x");

    let entries: &[_] = &[("lib/z", F, "z", 0o644)];
    let (dir, out) = run(entries);
    let root = dir.path().join("root");
    assert_eq!(settle(&root, &out.unwrap(), &lowers).unwrap(), Settled::Again);
    let again = tempfile::tempdir().unwrap();
    let options = Options { lowers: lowers.clone() };
    let out = unpack(archive(entries).as_slice(), again.path(), &options).unwrap();
    assert_eq!(settle(again.path(), &out, &lowers).unwrap(), Settled::Done);
    assert!(again.path().join("usr/lib/z").exists() && !again.path().join("lib").exists());
}
