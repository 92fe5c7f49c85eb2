//! Edits, done to an OCI configuration.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::model::{DeviceNode, Edits, Hook};

/// Changes the list at a place below an object; what is missing on the way is made.
fn change(value: &mut Value, path: &[&str], change: impl FnOnce(&mut Vec<Value>)) {
    let mut at = value;
    for key in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[*key];
    }
    let mut list = match at.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    change(&mut list);
    *at = Value::Array(list);
}

pub(super) fn apply(edits: &Edits, spec: &mut Value) -> Result<(), String> {
    change(spec, &["process", "env"], |env| {
        for entry in &edits.env {
            let key = entry.split('=').next();
            let same = |e: &Value| e.as_str().is_some_and(|e| e.split('=').next() == key);
            match env.iter_mut().find(|e| same(e)) {
                Some(old) => *old = json!(entry),
                None => env.push(json!(entry)),
            }
        }
    });
    for node in &edits.device_nodes {
        device(node, spec)?;
    }
    for d in &edits.net_devices {
        if !spec["linux"]["netDevices"].is_object() {
            spec["linux"]["netDevices"] = json!({});
        }
        spec["linux"]["netDevices"][&d.host_interface_name] = json!({ "name": d.name });
    }
    change(spec, &["mounts"], |mounts| {
        for m in &edits.mounts {
            mounts.retain(|old| old["destination"] != m.container_path.as_str());
            let mut mount = json!({
                "destination": m.container_path, "source": m.host_path, "options": m.options,
            });
            if !m.r#type.is_empty() {
                mount["type"] = json!(m.r#type);
            }
            mounts.push(mount);
        }
        // What lies inside another's place comes after it.
        if !edits.mounts.is_empty() {
            mounts.sort_by_key(|m| {
                Path::new(m["destination"].as_str().unwrap_or_default())
                    .components()
                    .count()
            });
        }
    });
    for h in &edits.hooks {
        change(spec, &["hooks", &h.hook_name], |hooks| hooks.push(hook(h)));
    }
    if let Some(rdt) = &edits.intel_rdt {
        let mut out = Map::new();
        for (key, text) in [
            ("closID", &rdt.clos_id),
            ("l3CacheSchema", &rdt.l3_cache_schema),
            ("memBwSchema", &rdt.mem_bw_schema),
        ] {
            if !text.is_empty() {
                out.insert(key.to_owned(), json!(text));
            }
        }
        if !rdt.schemata.is_empty() {
            out.insert("schemata".to_owned(), json!(rdt.schemata));
        }
        if rdt.enable_monitoring {
            out.insert("enableMonitoring".to_owned(), json!(true));
        }
        spec["linux"]["intelRdt"] = Value::Object(out);
    }
    change(spec, &["process", "user", "additionalGids"], |groups| {
        for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
            if !groups.contains(&json!(gid)) {
                groups.push(json!(gid));
            }
        }
    });
    Ok(())
}

fn hook(h: &Hook) -> Value {
    let mut out = json!({ "path": h.path, "args": h.args, "env": h.env });
    if let Some(seconds) = h.timeout {
        out["timeout"] = json!(seconds);
    }
    out
}

fn device(node: &DeviceNode, spec: &mut Value) -> Result<(), String> {
    let mut node = node.clone();
    complete(&mut node)?;
    let mut out = json!({ "path": node.path, "type": node.r#type });
    if node.r#type != "p" {
        out["major"] = json!(node.major);
        out["minor"] = json!(node.minor);
    }
    if let Some(mode) = node.file_mode {
        out["fileMode"] = json!(mode);
    }
    for (key, given) in [("uid", node.uid), ("gid", node.gid)] {
        let own = spec["process"]["user"][key].as_u64().filter(|id| *id > 0);
        if let Some(id) = given.map(u64::from).or(own) {
            out[key] = json!(id);
        }
    }
    change(spec, &["linux", "devices"], |devices| {
        devices.retain(|d| d["path"] != node.path.as_str());
        devices.push(out);
    });
    if node.r#type == "b" || node.r#type == "c" {
        let access = if node.permissions.is_empty() {
            "rwm"
        } else {
            &node.permissions
        };
        let rule = json!({
            "allow": true, "type": node.r#type, "major": node.major, "minor": node.minor,
            "access": access,
        });
        change(spec, &["linux", "resources", "devices"], |rules| {
            rules.push(rule)
        });
    }
    Ok(())
}

/// Fills in what is as on the host. A node that says enough need not exist there.
fn complete(node: &mut DeviceNode) -> Result<(), String> {
    let enough = !node.r#type.is_empty() && (node.major != 0 || node.r#type == "p");
    if node.host_path.is_empty() {
        node.host_path.clone_from(&node.path);
    }
    let host = match on_host(&node.host_path) {
        Ok(host) => host,
        Err(_) if enough => return Ok(()),
        Err(e) => {
            return Err(format!(
                "failed to stat CDI host device {:?}: {e}",
                node.host_path
            ));
        }
    };
    node.file_mode.get_or_insert(host.mode);
    if enough {
        return Ok(());
    }
    if node.r#type.is_empty() {
        host.kind.clone_into(&mut node.r#type);
    }
    if node.r#type != host.kind {
        return Err(format!(
            "CDI device ({:?}, {:?}), host type mismatch ({}, {})",
            node.path, node.host_path, node.r#type, host.kind
        ));
    }
    if node.r#type != "p" && node.major == 0 {
        (node.major, node.minor) = host.number;
    }
    Ok(())
}

struct HostNode {
    kind: &'static str,
    number: (i64, i64),
    mode: u32,
}

fn on_host(path: &str) -> Result<HostNode, String> {
    let meta = fs::symlink_metadata(path).map_err(|e| e.to_string())?;
    let kind = match meta.file_type() {
        t if t.is_block_device() => "b",
        t if t.is_char_device() => "c",
        t if t.is_fifo() => "p",
        _ => return Err("not a device node".to_owned()),
    };
    let (major, minor) = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    Ok(HostNode {
        kind,
        number: (major.into(), minor.into()),
        mode: meta.mode() & 0o7777,
    })
}
