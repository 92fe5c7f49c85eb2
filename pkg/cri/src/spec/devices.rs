//! A container's devices: those asked for, or for privileged ones all of the host's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use knarr_cri_api::v1::Device;
use serde_json::{Value, json};

use crate::Error;

/// `linux.devices` and `linux.resources.devices`.
pub(crate) fn all(asked: &[Device], privileged: bool) -> Result<(Vec<Value>, Value), Error> {
    let mut devices = Vec::new();
    if privileged {
        walk(Path::new("/dev"), Path::new("/dev"), &mut devices, 0);
        return Ok((devices, json!([{ "allow": true, "access": "rwm" }])));
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for device in asked {
        let host = Path::new(&device.host_path);
        let host = fs::canonicalize(host).map_err(Error::io("device", host))?;
        let inside = Path::new(&device.container_path);
        let access = match device.permissions.as_str() {
            "" => "rwm",
            given if given.chars().all(|c| "rwm".contains(c)) => given,
            given => return Err(Error::Invalid(format!("device permissions {given:?}"))),
        };
        let from = devices.len();
        if host.is_dir() {
            walk(&host, inside, &mut devices, 0);
        } else {
            devices.push(one(&host, inside).ok_or_else(|| {
                Error::Invalid(format!("{} is not a device node", host.display()))
            })?);
        }
        for device in &devices[from..] {
            rules.push(json!({ "allow": true, "type": device["type"], "major": device["major"],
                               "minor": device["minor"], "access": access }));
        }
    }
    Ok((devices, Value::Array(rules)))
}

fn one(host: &Path, inside: &Path) -> Option<Value> {
    let meta = fs::symlink_metadata(host).ok()?;
    let kind = if meta.file_type().is_char_device() {
        "c"
    } else if meta.file_type().is_block_device() {
        "b"
    } else {
        return None;
    };
    let dev = meta.rdev();
    Some(json!({
        "path": inside, "type": kind,
        "major": rustix::fs::major(dev), "minor": rustix::fs::minor(dev),
        "fileMode": meta.mode() & 0o7777, "uid": meta.uid(), "gid": meta.gid(),
    }))
}

fn walk(host: &Path, inside: &Path, out: &mut Vec<Value>, depth: u32) {
    let Ok(entries) = fs::read_dir(host) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        // Own file systems of every container.
        if depth == 0
            && host == Path::new("/dev")
            && matches!(name.to_str(), Some("pts" | "shm" | "fd" | "mqueue" | "console" | "ptmx" | ".lxc" | ".lxd-mounts" | "core"))
        {
            continue;
        }
        let (host, inside) = (entry.path(), inside.join(&name));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 8 => walk(&host, &inside, out, depth + 1),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                out.extend(one(&host, &inside));
            }
            _ => {}
        }
    }
}
