//! Running hooks.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::config::Hook;
use crate::error::Error;

/// The state a hook reads from its standard input.
#[derive(Debug, Clone, Serialize)]
pub struct HookState {
    /// The specification's version.
    #[serde(rename = "ociVersion")]
    pub version: String,
    /// The container's name.
    pub id: String,
    /// The status.
    pub status: &'static str,
    /// The init's pid as the hook sees it.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// The bundle folder.
    pub bundle: PathBuf,
    /// The annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// Runs hooks one after the other; the first that fails ends it.
///
/// # Errors
/// [`Error::Hook`].
pub fn run_all(kind: &'static str, hooks: &[Hook], state: &HookState) -> Result<(), Error> {
    hooks.iter().try_for_each(|h| run(kind, h, state))
}

fn run(kind: &'static str, hook: &Hook, state: &HookState) -> Result<(), Error> {
    let failed = |cause: String| Error::Hook {
        kind,
        path: hook.path.clone().into(),
        cause,
    };
    let mut command = Command::new(&hook.path);
    let mut args = hook.args.iter();
    if let Some(zeroth) = args.next() {
        command.arg0(zeroth);
    }
    command.args(args).env_clear();
    for (name, value) in hook.env.iter().filter_map(|e| e.split_once('=')) {
        command.env(name, value);
    }
    let mut child = command
        .current_dir(if Path::new(&state.bundle).is_dir() {
            state.bundle.as_path()
        } else {
            Path::new("/")
        })
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let text = serde_json::to_vec(state).map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read it.
        let _ = stdin.write_all(&text);
    }
    if let Some(seconds) = hook.timeout {
        let pid = i32::try_from(child.id()).map_err(|e| failed(e.to_string()))?;
        let limit = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
        let ended = knarr_sys::process::pidfd_open(pid)
            .and_then(|fd| knarr_sys::fs::poll_readable(fd.as_fd(), limit))
            .map_err(|e| failed(e.to_string()))?;
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("no end after {seconds}s")));
        }
    }
    let output = child
        .wait_with_output()
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', "; ");
    Err(failed(format!("{}, stderr: {said}", output.status)))
}
