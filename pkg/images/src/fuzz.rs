//! Archives and documents come from strangers: whatever is in them, nothing outside their own
//! folder changes, and nothing but an error comes of what is broken.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::EntryType;

use crate::index::IndexFile;
use crate::model::{Config, Manifest};
use crate::unpack::{Options, settle, unpack};

/// Numbers that look random and are the same every time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Names that a good citizen would not write, and a few that one would.
const NAMES: [&str; 20] = [
    "a",
    "a/",
    "a/b",
    "a/b/c",
    "l",
    "l/x",
    "l/../x",
    "../outside/new",
    "../../outside/new",
    "/abs",
    "//",
    "..",
    ".",
    "./a",
    ".wh.a",
    "a/.wh..wh..opq",
    ".wh..",
    ".wh.",
    "../outside/keep",
    "l/keep",
];
const TARGETS: [&str; 12] = [
    "/",
    "..",
    "../outside",
    "../outside/keep",
    "../../outside",
    "/../outside/keep",
    "a",
    "l",
    "a/b",
    ".",
    "/proc/self/root",
    "a/../../outside/keep",
];
const KINDS: [EntryType; 8] = [
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Char,
    EntryType::Fifo,
    EntryType::Symlink,
    EntryType::Regular,
];

fn archive(dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + dice.below(12) {
        let (name, kind, target) = (dice.of(&NAMES), dice.of(&KINDS), dice.of(&TARGETS));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(dice.of(&[0o644, 0o4755, 0o1777, 0, 0o7777]));
        header.set_uid(dice.of(&[0, 0, 1000, u64::from(u32::MAX)]));
        header.set_gid(0);
        header.set_mtime(dice.of(&[0, 1_000_000_000, u64::MAX >> 1]));
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let link = matches!(kind, EntryType::Link | EntryType::Symlink);
        if link {
            header.as_gnu_mut().unwrap().linkname[..target.len()]
                .copy_from_slice(target.as_bytes());
        }
        let content = if kind == EntryType::Regular {
            "written"
        } else {
            ""
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn spoil(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.below(256) as u8),
            _ if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
}

/// All below a folder but one part of it: kind, mode, owner, time, content.
fn picture(top: &Path, without: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        // That the part itself comes and goes shows in its parent.
        let time = if path == top { 0 } else { meta.mtime() };
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let facts = format!(
            "{:o} {} {} {} {} {content:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            time
        );
        if meta.is_dir() {
            let all = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
            left.extend(all.filter(|p| p != without));
        }
        out.insert(path, facts);
    }
    out
}

#[test]
fn no_archive_gets_out_of_its_folder() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("layer");
    let outside = top.path().join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("keep"), "kept").unwrap();
    let below = tempfile::tempdir().unwrap();
    let lower = below.path().join("lower");
    fs::create_dir_all(lower.join("a")).unwrap();
    std::os::unix::fs::symlink("../../outside", lower.join("l")).unwrap();
    fs::create_dir(&root).unwrap();
    let before = picture(top.path(), &root);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut whole, mut refused) = (0, 0);
    for n in 0..700 {
        let mut bytes = archive(&mut dice);
        if n % 2 == 1 {
            spoil(&mut dice, &mut bytes);
        }
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        let lowers = [lower.clone()];
        let options = Options {
            lowers: if n % 3 == 0 {
                lowers.to_vec()
            } else {
                Vec::new()
            },
        };
        match unpack(bytes.as_slice(), &root, &options) {
            Ok(unpacked) => {
                whole += 1;
                let _ = settle(&root, &unpacked, &lowers); // it may refuse
            }
            Err(_) => refused += 1,
        }
        assert_eq!(picture(top.path(), &root), before, "archive {n} got out");
    }
    assert!(
        whole > 100 && refused > 50,
        "{whole} whole, {refused} refused: of no use"
    );
}

/// Puts other values in places of a document.
fn change(dice: &mut Dice, value: &mut Value) {
    match value {
        Value::Object(map) if !map.is_empty() && dice.below(4) > 0 => {
            let at = dice.below(map.len());
            if let Some(inner) = map.values_mut().nth(at) {
                change(dice, inner);
            }
        }
        Value::Array(list) if !list.is_empty() && dice.below(4) > 0 => {
            let at = dice.below(list.len());
            change(dice, &mut list[at]);
        }
        other => {
            let all = [
                json!(null),
                json!(-1),
                json!(1e300),
                json!(u64::MAX),
                json!(""),
                json!("sha256:../../x"),
                json!([]),
                json!({}),
                json!([null]),
                json!("\u{0}"),
                json!(true),
            ];
            *other = all[dice.below(all.len())].clone();
        }
    }
}

#[test]
fn any_document_is_an_error_or_an_image() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let part =
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 5});
    let manifest = json!({"schemaVersion": 2, "config": part, "layers": [part, part]});
    let entry = json!({"digest": digest, "size": 5, "platform": {"os": "linux", "architecture": crate::architecture()}});
    let index = json!({"schemaVersion": 2, "manifests": [entry, entry]});
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]},
        "config": {"Env": ["A=b"], "Entrypoint": ["/x"], "Volumes": {"/v": {}}, "User": "1:2"}});
    let mut dice = Dice(0xD1B5_4A32_D192_ED03);
    for _ in 0..6000 {
        for document in [&manifest, &index, &config] {
            let mut value = document.clone();
            for _ in 0..=dice.below(3) {
                change(&mut dice, &mut value);
            }
            let mut bytes = serde_json::to_vec(&value).unwrap();
            if dice.below(4) == 0 {
                spoil(&mut dice, &mut bytes);
            }
            if let Ok(m) = serde_json::from_slice::<Manifest>(&bytes) {
                let _ = m.select(); // no variant may fit
            }
            if let Ok(c) = serde_json::from_slice::<Config>(&bytes) {
                let again = serde_json::to_vec(&c).unwrap();
                assert_eq!(
                    serde_json::from_slice::<Config>(&again).unwrap().config,
                    c.config
                );
            }
        }
    }
}

#[test]
fn any_state_file_is_an_error_or_stays_in_the_store() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let name = "example.org/a:1";
    let image = json!({"id": digest, "manifest": {"mediaType": "", "digest": digest, "size": 5}, "index": digest,
        "tags": [name], "digests": [], "size": 15, "chain": [digest], "blobs": [digest], "added": 1, "used": 1});
    let layer = json!({"dir": "7", "diff": digest, "bytes": 5, "inodes": 1});
    let state = json!({"version": 1, "next": 8, "images": {&digest: image}, "layers": {&digest: layer}});
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(0x2545_F491_4F6C_DD1D);
    let (mut whole, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut value = state.clone();
        if dice.below(3) == 0 {
            value["layers"][&digest]["dir"] = json!(dice.of(&NAMES));
        }
        for _ in 0..dice.below(3) {
            change(&mut dice, &mut value);
        }
        let mut bytes = serde_json::to_vec(&value).unwrap();
        if dice.below(4) == 0 {
            spoil(&mut dice, &mut bytes);
        }
        fs::write(folder.path().join("images.json"), bytes).unwrap();
        // Read anew each time.
        match IndexFile::new(folder.path()).load() {
            Ok(index) => {
                whole += 1;
                for image in index.images.values() {
                    for digest in image.content() {
                        assert!(!digest.contains(['/', '\0']), "{digest:?}");
                    }
                }
                for layer in index.layers.values() {
                    let path = folder.path().join("s").join(&layer.dir);
                    let parent = path.parent().map(Path::to_path_buf);
                    assert_eq!(parent, Some(folder.path().join("s")), "{:?}", layer.dir);
                    assert_ne!(layer.dir, "..");
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(whole > 300 && refused > 300, "{whole} whole, {refused} refused: of no use");
}
