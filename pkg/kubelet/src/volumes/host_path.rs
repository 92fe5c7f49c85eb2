//! `hostPath` types.
use std::{fs, os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt}, path::Path};

use super::VolumeError;

/// Checks that `path` is what `kind` says, making it where the type says so.
pub(super) fn check(path: &str, kind: &str) -> Result<(), VolumeError> {
    let p = Path::new(path);
    let wrong = |want| {
        Err(VolumeError::HostPath {
            path: path.to_owned(),
            want,
        })
    };
    let meta = fs::metadata(p).ok();
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" | "Directory" => match meta {
            Some(m) if m.is_dir() => Ok(()),
            None if kind == "DirectoryOrCreate" => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(p)
                .map_err(VolumeError::io(p)),
            _ => wrong("a directory"),
        },
        "FileOrCreate" | "File" => match meta {
            Some(m) if m.is_file() => Ok(()),
            None if kind == "FileOrCreate" => fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(p)
                .map(drop)
                .map_err(VolumeError::io(p)),
            _ => wrong("a file"),
        },
        "Socket" if meta.as_ref().is_some_and(|m| m.file_type().is_socket()) => Ok(()),
        "Socket" => wrong("a socket file"),
        "CharDevice" if meta.as_ref().is_some_and(|m| m.file_type().is_char_device()) => Ok(()),
        "CharDevice" => wrong("a character device"),
        "BlockDevice" if meta.as_ref().is_some_and(|m| m.file_type().is_block_device()) => Ok(()),
        "BlockDevice" => wrong("a block device"),
        _ => Err(VolumeError::Layout(format!("invalid hostPath type \"{kind}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let p = |n: &str| dir.path().join(n).to_string_lossy().into_owned();
        assert!(check(&p("d"), "Directory").is_err());
        check(&p("d/e"), "DirectoryOrCreate").expect("made");
        check(&p("d/e"), "Directory").expect("there");
        check(&p("f"), "FileOrCreate").expect("made");
        check(&p("f"), "File").expect("there");
        let e = check(&p("f"), "Directory").expect_err("a file");
        assert!(e.to_string().starts_with("hostPath type check failed: "));
        check("/dev/null", "CharDevice").expect("a device");
        check(&p("none"), "").expect("unchecked");
    }
}
