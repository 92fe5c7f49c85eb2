//! exec.

use std::path::PathBuf;

use knarr_oci::config::{Capabilities, Process};
use knarr_oci::{ExecOptions, Stdio};
use knarr_sys::{process, signal};

use crate::args::Problem;
use crate::run::{FORWARDED, Relay, preserved, send_console, send_pidfd, supervise};
use crate::{Call, Done};

/// runc leaves with this when the process could not be run.
const FAILED: i32 = 255;

/// `exec`.
pub fn exec(call: &Call) -> Done {
    exec_inner(call).map_err(|p| Problem { code: FAILED, ..p })
}

fn exec_inner(call: &Call) -> Done {
    let p = &call.parsed;
    let (id, args) = p
        .rest
        .split_first()
        .ok_or_else(|| Problem::new("container id cannot be empty"))?;
    let process = wanted(call, id, args)?;
    let detach = p.has("detach");
    let socket = p.value("console-socket");
    if process.terminal && detach && socket.is_none() {
        return Err(Problem::new(
            "cannot allocate tty if runc will detach without setting console socket",
        ));
    }
    if socket.is_some() && !(process.terminal && detach) {
        return Err(Problem::new(
            "cannot use console socket if runc will not detach or allocate tty",
        ));
    }
    let signals = if detach {
        None
    } else {
        process::set_child_subreaper(true)?;
        Some(signal::signalfd(FORWARDED)?)
    };
    let options = ExecOptions {
        stdio: if process.terminal {
            Stdio::Terminal
        } else {
            Stdio::Inherit
        },
        pid_file: p.value("pid-file").map(PathBuf::from),
        preserve_fds: preserved(call)?.0,
        cgroup: p.value("cgroup").map(str::to_string),
        ignore_paused: p.has("ignore-paused"),
    };
    let started = call.runtime.exec(id, process, options)?;
    send_pidfd(call, &started.pidfd)?;
    let relay = match (started.console, &signals) {
        (Some(master), Some(_)) => Some(Relay::new(master)?),
        (Some(master), None) => {
            if let Some(socket) = socket {
                send_console(socket, &master)?;
            }
            None
        }
        (None, _) => None,
    };
    match signals {
        None => Ok(0),
        Some(signals) => Ok(supervise(started.pid, &signals, relay)?.shell_code()),
    }
}

/// The process: from a file, or the container's own with what the flags change.
fn wanted(call: &Call, id: &str, args: &[String]) -> Result<Process, Problem> {
    let p = &call.parsed;
    if let Some(path) = p.value("process") {
        let text = std::fs::read(path).map_err(|e| Problem::new(format!("open {path}: {e}")))?;
        return serde_json::from_slice(&text).map_err(|e| Problem::new(format!("{path}: {e}")));
    }
    if args.is_empty() {
        return Err(Problem::new("process args cannot be empty"));
    }
    let mut process = call
        .runtime
        .config(id)?
        .process
        .ok_or_else(|| Problem::new("the container has no process"))?;
    process.args = args.to_vec();
    process.terminal = p.has("tty");
    if let Some(cwd) = p.value("cwd") {
        process.cwd = cwd.into();
    }
    if let Some(label) = p.value("process-label") {
        process.selinux_label = label.into();
    }
    if let Some(profile) = p.value("apparmor") {
        process.apparmor_profile = profile.into();
    }
    process.env.extend(p.all("env").iter().cloned());
    if p.has("no-new-privs") {
        process.no_new_privileges = true;
    }
    let id_number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| Problem::new(format!("{text:?} is not a numeric id")))
    };
    if let Some(user) = p.value("user") {
        match user.split_once(':') {
            Some((uid, gid)) => {
                process.user.uid = id_number(uid)?;
                process.user.gid = id_number(gid)?;
            }
            None => process.user.uid = id_number(user)?,
        }
    }
    for gid in p.all("additional-gids") {
        process.user.additional_gids.push(id_number(gid)?);
    }
    for cap in p.all("cap") {
        let caps = process
            .capabilities
            .get_or_insert_with(Capabilities::default);
        for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted] {
            if !set.contains(cap) {
                set.push(cap.clone());
            }
        }
    }
    Ok(process)
}
